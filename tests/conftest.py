"""Small models, tokenizers and rows that every test may use; nothing here needs a network or a file of real data."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefopt.testbed.model import build_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precomputed log-probs of a test stay in the test."""
    monkeypatch.setenv("PREFOPT_CACHE", str(tmp_path_factory.mktemp("cache")))


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


def ragged_pairs(n: int, seed: int = 0, vocab: int = 1000, k: int = 2, **columns: Any) -> Dataset:
    """Encoded rows of very different lengths, so that a mean of means would show."""
    rng = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(4, vocab) for _ in range(rng.randint(low, high))]

    rows = [{"prompt_ids": ids(1, 12), "response_ids": [[*ids(0, 14), 1] for _ in range(k)]} for _ in range(n)]
    dataset = Dataset.from_list(rows)
    for name, make in columns.items():
        dataset = dataset.add_column(name, [make(rng) for _ in range(n)])
    return dataset


def quiet(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Training arguments of a fast, silent, exact run on the CPU."""
    return {
        "output_dir": str(tmp_path / "run"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        **changes,
    }
