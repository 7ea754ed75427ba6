"""Tiny models whose rotary frequencies depend on how long a sequence is, and what they say of a row alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

LIMIT = 20
SIZES: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
DYNAMIC = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 100.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 4.0, 6.0, 8.0],
    "original_max_position_embeddings": LIMIT,
}
PLAIN = {"rope_type": "default", "rope_theta": 100.0}


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, max_position_embeddings=LIMIT, rope_parameters=DYNAMIC))


def phi3() -> Any:
    ends = {"pad_token_id": 0, "eos_token_id": 1, "original_max_position_embeddings": LIMIT}
    config = Phi3Config(**SIZES, **HEADS, **ends, max_position_embeddings=200, rope_parameters=LONG)
    return Phi3ForCausalLM(config)


def gemma3() -> Any:
    """With frequencies of its own for each kind of layers."""
    kinds = {"sliding_attention": PLAIN, "full_attention": DYNAMIC}
    layers = {"layer_types": list(kinds), "sliding_window": 6, "head_dim": 8, "query_pre_attn_scalar": 8}
    return Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, **HEADS, **layers, max_position_embeddings=LIMIT, rope_parameters=kinds)
    )


MODELS = {"llama, dynamic": llama, "phi3, longrope": phi3, "gemma3, dynamic in one kind": gemma3}


def make(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]().double().eval()


def alone(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    """A response's log-probs by a model that has seen nothing before it: [R]."""
    fresh = copy.deepcopy(model)
    ids = torch.tensor([prompt + response])
    return fresh(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[-len(response) :, 0]
