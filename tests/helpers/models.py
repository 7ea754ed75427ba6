"""Tiny random models for tests: one of each family that `forward` is tested on, a Llama, and policies that end."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from prefopt.testbed.model import build_policy

VOCAB = 61
SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8}
ENDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
COMMON = {**SIZES, **HEADS, **ENDS, "initializer_range": 0.3}
TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", COMMON),
    "llama tied": ("Llama", COMMON | {"tie_word_embeddings": True}),
    "mistral": ("Mistral", COMMON | {"sliding_window": 4}),
    "qwen2": ("Qwen2", COMMON),
    "qwen3": ("Qwen3", COMMON | {"tie_word_embeddings": True}),
    "gemma2": ("Gemma2", COMMON | TWO_KINDS | {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3Text", COMMON | TWO_KINDS | {"query_pre_attn_scalar": 8}),
    "phi": ("Phi", COMMON),
    "gpt2": ("GPT2", {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **ENDS}),
    "gpt_neox": ("GPTNeoX", COMMON),
    "opt": ("OPT", COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("Bloom", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4, **ENDS}),
    "cohere": ("Cohere", COMMON | {"logit_scale": 0.25}),
    "granite": ("Granite", COMMON | {"logits_scaling": 4.0}),
}
CAUSAL = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}


def tiny(family: str, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any) -> Any:
    """A causal language model whose distributions are far from uniform."""
    name, settings = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(hf, f"{name}Config")(**settings | changes)
    model = getattr(hf, CAUSAL.get(name, f"{name}ForCausalLM"))(config)
    for parameter in model.parameters():  # norms and biases too, so that an affine part that is skipped would show
        nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else parameter.data.add_(
            torch.randn_like(parameter) * 0.3
        )
    return model.to(dtype).eval()


def tiny_llama(
    vocab: int = 1000, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> LlamaForCausalLM:
    """A random Llama small enough for a step in milliseconds, with logits far from uniform."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    config = LlamaConfig(**{"vocab_size": vocab, "initializer_range": 0.2, **sizes, **heads, **ends, **changes})
    return LlamaForCausalLM(config).to(dtype).eval()


def tiny_mixtral(vocab: int = 1000, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """One with experts, of which its files have a matrix each and it has one tensor."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_local_experts": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    config = hf.MixtralConfig(**{"vocab_size": vocab, "initializer_range": 0.2, **sizes, **heads, **ends, **changes})
    return hf.MixtralForCausalLM(config).to(dtype).eval()


def stopping_llama() -> LlamaForCausalLM:
    """A tiny Llama whose responses end after eight tokens or so, whatever it says."""
    model = tiny_llama()
    model.generation_config.eos_token_id = list(range(1, 1000, 8))
    return model


def untrained(tokenizer: Any) -> Any:
    """A policy that says noise, and ends often enough that there is something to select."""
    policy = build_policy(tokenizer, seed=1)
    policy.lm_head.weight = torch.nn.Parameter(policy.lm_head.weight.detach().clone())
    policy.config.tie_word_embeddings = False
    with torch.no_grad():
        hidden = policy.base_model(torch.arange(4, 1000)[:, None])[0].mean((0, 1))
        policy.lm_head.weight[tokenizer.eos_token_id] = 5 * hidden / hidden.square().sum()  # exp(5) of 1,000 in all
    return policy
