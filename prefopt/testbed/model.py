"""Builds a tiny tokenizer and an untrained Llama for the synthetic task, from a seed."""

import random
from functools import cache

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .annotators import demonstrate
from .prompts import sample_prompts

PAD, EOS, USER, ASSISTANT = "<pad>", "<eos>", "<user>", "<assistant>"
VOCABULARY = 1000
CORPUS = 4000  # prompts with a demonstration each, on which the merges are learnt
MAX_LENGTH = 256
# A turn is its marker and its text; EOS ends the assistant's. No system role: the task has none.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<user>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<assistant>' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('the testbed knows the roles user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def build_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the task's text; Han characters, digits and wide punctuation stand alone."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(seed)),
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        padding_side="left",
    )


@cache
def _trained(seed: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    alone = pre_tokenizers.Split(Regex(r"\p{Han}|[0-9]|[！？。，：]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([alone, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, EOS, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    return tokenizer.to_str()


def _corpus(seed: int) -> list[str]:
    rng = random.Random(f"corpus {seed}")
    prompts = sample_prompts(CORPUS, seed)
    return [text for p in prompts for text in (*(content for _, content in p.turns), demonstrate(p, rng))]


def build_policy(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """An untrained Llama of about half a million parameters, for this tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.05,  # of .03, .05 and .08 the one with the lowest held-out SFT loss
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
