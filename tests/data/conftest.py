"""Tiny tokenizers, trained on a few lines, with and without a chat template; and rows written to files."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "\n\nHuman: What is the capital of France?\n\nAssistant: The capital of France is Paris.",
    "\n\nHuman: How do I bake bread?\n\nAssistant: Mix flour, water, salt and yeast, then wait.",
    "中国的首都是哪里？ 北京是中国的首都。 谢谢你的帮助！",
    "system user assistant [INST] [/INST]",
]
SPECIALS = ["<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>"]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
# Writes a thought before the last answer only, as Qwen3's template does.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if loop.last and m['role'] == 'assistant' %}{{ '(thought)' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(
    template: str | None = None, *, add_bos: bool = False, eos: str = "<eos>"
) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(LINES, trainer)
    if add_bos:
        core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    extra = [token for token in ("<|im_start|>", "<|im_end|>") if token != eos]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token=eos,
        additional_special_tokens=extra,
        chat_template=template,
    )


@pytest.fixture(scope="session")
def plain() -> PreTrainedTokenizerFast:
    """No chat template, no BOS."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def plain_bos() -> PreTrainedTokenizerFast:
    """No chat template; the tokenizer begins texts with BOS."""
    return make_tokenizer(add_bos=True)


@pytest.fixture(scope="session")
def chatml() -> PreTrainedTokenizerFast:
    """A ChatML template whose end of turn is the EOS."""
    return make_tokenizer(CHATML, eos="<|im_end|>")


@pytest.fixture(scope="session")
def llama2() -> PreTrainedTokenizerFast:
    """Llama 2's template, which writes its own BOS and a space around answers."""
    return make_tokenizer(LLAMA2, add_bos=True)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a file by its suffix: .jsonl, .jsonl.gz or .json."""

    def writing(rows: Iterable[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
        return path

    return writing
