"""The recipe for one GPU of 24 GB, as far as CPUs go: 4-bit weights, adapter, paged moments, checkpoints, a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.helpers.commands import run
from tests.helpers.models import tiny_llama

RECIPE = Path(__file__).parents[2] / "examples" / "qlora.yaml"


def test_the_recipe_trains_an_adapter_on_4_bit_weights(tmp_path: Path, tokenizer: Any, capsys: Any) -> None:
    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "model")  # blocks of 64 weights
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": f"二加 {n} 是多少?", "chosen": f"是 {n + 2}", "rejected": "不知道 " * (n % 4 + 1)} for n in range(48)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    words = ["dpo", "--config", RECIPE, "--model_name_or_path", tmp_path / "model"]
    words += ["--dataset_name", tmp_path / "pairs.jsonl", "--output_dir", tmp_path / "out"]
    assert run(*words, "--use_cpu", "true", "--max_steps", "2", "--logging_steps", "1", "--max_length", "200") == 0
    said = capsys.readouterr()
    assert "in batches of at most" in said.out
    weights = load_file(tmp_path / "out/adapter_model.safetensors")
    assert {name.split(".")[-3] for name in weights} >= {"q_proj", "down_proj"}  # all linear layers
    assert any(float(tensor.abs().max()) > 0 for name, tensor in weights.items() if "lora_B" in name), "it has learnt"
    logs = json.loads((tmp_path / "out/trainer_state.json").read_text())["log_history"]
    assert logs[0]["loss"] == pytest.approx(0.6931, abs=2e-3)
