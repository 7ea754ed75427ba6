"""Tiny random models of families beyond `models.FAMILIES`: experts, latent attention, state spaces, image and text."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import nn

from tests.helpers.models import COMMON, ENDS, SIZES, TWO_KINDS

EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {  # DeepSeek's attention, and its experts
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "num_key_value_heads": 4,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4}
MAMBA2 = {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 4}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "shared_expert_intermediate_size": 16,
}
NO_HEADS = {**SIZES, **ENDS, "initializer_range": 0.3}

TEXT: dict[str, dict[str, Any]] = {
    "GptOss": COMMON | TWO_KINDS | EXPERTS,
    "DeepseekV2": COMMON | LATENT | {"topk_method": "group_limited_greedy"},
    "DeepseekV3": COMMON | LATENT,
    "Qwen3Moe": COMMON | EXPERTS,
    "Gemma": COMMON,
    "Cohere2": COMMON | TWO_KINDS | {"logit_scale": 0.25},
    "Olmo2": COMMON,
    "SmolLM3": COMMON,
    "Mamba": NO_HEADS | {"state_size": 8},
    "FalconMamba": NO_HEADS | {"state_size": 8},
    "Mamba2": NO_HEADS | MAMBA2,
    "Jamba": COMMON | EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    "Bamba": COMMON | MAMBA | {"attn_layer_indices": [1]},
    "Zamba2": COMMON
    | {"layers_block_type": ["linear_attention", "hybrid"], "mamba_d_state": 8, "chunk_size": 4, "num_mem_blocks": 1},
    "FalconH1": COMMON | MAMBA | {"mamba_d_ssm": 64},
    "Lfm2": COMMON | {"layer_types": ["conv", "full_attention"]},
    "RecurrentGemma": COMMON | {"lru_width": 32, "attention_window_size": 4, "num_hidden_layers": 3},
    "Rwkv": NO_HEADS | {"context_length": 64},
    "Qwen3Next": COMMON | EXPERTS | LINEAR,
    "GraniteMoeHybrid": COMMON
    | MAMBA
    | {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 16,
        "layer_types": ["mamba", "attention"],
    },
    "NemotronH": COMMON
    | {
        "layers_block_type": ["mamba", "attention", "mlp"],
        "ssm_state_size": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "chunk_size": 4,
    },
}

ON_PADDED_ROWS = {
    "GptOss",  # its attention has sinks
    *("Mamba", "FalconMamba", "Mamba2", "Jamba", "Bamba", "Zamba2", "FalconH1", "Lfm2"),
    *("RecurrentGemma", "Rwkv", "Qwen3Next", "GraniteMoeHybrid", "NemotronH"),
}
"""Families in which more than attention by positions carries something from token to token."""

VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP = VISION | {"image_size": 16, "patch_size": 8}
QWEN_VISION = {"depth": 1, "num_heads": 2, "hidden_size": 32, "embed_dim": 32, "out_hidden_size": 32}
QWEN_VISION |= {"intermediate_size": 32, "patch_size": 8, "num_position_embeddings": 16}
QWEN_TOKENS = {"image_token_id": 57, "video_token_id": 58, "vision_start_token_id": 59, "vision_end_token_id": 60}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}

WITH_IMAGES: dict[str, dict[str, Any]] = {
    "Gemma3": {
        "text_config": COMMON | TWO_KINDS | {"query_pre_attn_scalar": 8},
        "vision_config": CLIP,
        "mm_tokens_per_image": 4,
        "image_token_index": 58,
        "boi_token_index": 59,
        "eoi_token_index": 60,
    },
    "Qwen2VL": {"text_config": COMMON | MROPE, "vision_config": QWEN_VISION, **QWEN_TOKENS},
    "Qwen2_5_VL": {"text_config": COMMON | MROPE, "vision_config": QWEN_VISION, **QWEN_TOKENS},
    "Qwen3VL": {
        "text_config": COMMON | MROPE,
        "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0]},
        **QWEN_TOKENS,
    },
    "Llava": {
        "text_config": COMMON | {"model_type": "llama"},
        "vision_config": CLIP | {"model_type": "clip_vision_model"},
        "image_token_index": 58,
    },
    "Mistral3": {
        "text_config": COMMON | {"model_type": "mistral", "sliding_window": None},
        "vision_config": CLIP | {"model_type": "pixtral"},
        "image_token_index": 58,
    },
    "Idefics3": {
        "text_config": COMMON | {"model_type": "llama"},
        "vision_config": CLIP,
        "image_token_id": 58,
    },
    "SmolVLM": {"text_config": COMMON | {"model_type": "llama"}, "vision_config": CLIP, "image_token_id": 58},
}


def tiny_family(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A model whose distributions are far from uniform, of a family in `TEXT` or `WITH_IMAGES`."""
    torch.manual_seed(seed)
    config = getattr(hf, f"{name}Config")(**(TEXT | WITH_IMAGES)[name])
    kind = "ForCausalLM" if name in TEXT else "ForConditionalGeneration"
    model = getattr(hf, f"{name}{kind}")(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else parameter.data.add_(
            torch.randn_like(parameter) * 0.1
        )
    return model.to(dtype).eval()
