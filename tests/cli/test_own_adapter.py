"""A format of a user's own, from a file beside the data, trains through the command line."""

import json
import sys
from pathlib import Path

import pytest

from prefopt.cli import main
from prefopt.testbed.model import build_policy, build_tokenizer

MINE = """
from prefopt.data import Candidates, Turn

def my_rows(row):
    return Candidates((Turn("user", row["ask"]),), (row["good"],))
"""
QUICK = [
    "--bf16",
    "false",
    "--disable_tqdm",
    "true",
    "--per_device_train_batch_size",
    "2",
    "--max_length",
    "64",
    "--max_steps",
    "2",
]


def test_an_adapter_of_a_users_own_file_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.delitem(sys.modules, "my_own_formats", raising=False)
    tokenizer = build_tokenizer()
    build_policy(tokenizer).save_pretrained("model")
    tokenizer.save_pretrained("model")
    Path("my_own_formats.py").write_text(MINE)
    Path("rows.jsonl").write_text("".join(json.dumps({"ask": f"q{i}", "good": f"a{i}"}) + "\n" for i in range(8)))
    command = ["sft", "--model_name_or_path", "model", "--dataset_name", "rows.jsonl", "--output_dir", "out"]
    assert main([*command, "--adapter", "my_own_formats:my_rows", *QUICK]) == 0
    assert Path("out/model.safetensors").is_file()
    sys.modules.pop("my_own_formats")
