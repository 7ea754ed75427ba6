"""One tiny random model of each family that forward is tested on, and the same computed without batch or padding."""

from __future__ import annotations

import random
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from prefopt.batch import Batch
from prefopt.data.collate import collate

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


def ragged(k: int, n: int = 5, seed: int = 0) -> Batch:
    """Rows with everything odd: an empty prompt, one-token and absent responses, an absent row, masked tokens."""
    rng = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(3, VOCAB) for _ in range(rng.randint(low, high))]

    rows = [{"prompt_ids": ids(1, 9), "response_ids": [ids(2, 8) for _ in range(k)]} for _ in range(n)]
    rows[0]["prompt_ids"] = []
    rows[1]["response_ids"][-1] = ids(1, 1)
    rows[2]["response_ids"] = rows[2]["response_ids"][: k - 1]
    rows.append({"prompt_ids": [], "response_ids": []})
    return collate(rows)


def alone(batch: Batch, g: int, k: int) -> tuple[list[int], list[int]]:
    """One response with its prompt, as bare ids."""
    prompt = batch.prompt_ids[g][batch.prompt_mask[g]].tolist()
    return prompt, batch.response_ids[g, k][batch.response_mask[g, k]].tolist()


def by_hand(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Per-token outputs by calling the model on one bare sequence at a time, written out as their definitions say."""
    found = {name: [] for name in ("logps", "entropy", "top1", "log_sum_sq")}
    for g, k in batch.present.nonzero().tolist():
        prompt, response = alone(batch, g, k)
        logits = model(torch.tensor([prompt + response])).logits[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        for t, token in enumerate(response):
            position = len(prompt) + t - 1
            if position < 0:
                for values in found.values():
                    values.append(logits.new_zeros(()))
                continue
            logp = torch.log_softmax(logits[position], -1)
            found["logps"].append(logp[token])
            found["entropy"].append(-(logp.exp() * logp).sum())
            found["top1"].append((logp.argmax() == token).to(logp.dtype))
            found["log_sum_sq"].append(logp.exp().square().sum().log())
    return {name: torch.stack(values) for name, values in found.items()}
