"""What the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefopt import testbed
from prefopt.data import load_preferences
from prefopt.testbed.model import build_tokenizer
from tests.helpers.models import untrained

JUDGES = """
import os, time

def vowels(prompts, responses):
    while os.path.exists(os.environ.get("WAITS_BESIDE", "")):  # for a kill
        time.sleep(0.01)
    return [sum(c in "aeiou的是" for c in text) - 0.01 * len(text) for text in responses]

def few(prompts, responses):
    return [1.0]

def sick(prompts, responses):
    return [float("nan") if row == 2 else 1.0 for row in range(len(responses))]

limit = 3
"""


@pytest.fixture(scope="module")
def sampling_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny policy, rows for it, and a module of scorers."""
    folder = tmp_path_factory.mktemp("sampling")
    tokenizer = build_tokenizer()
    untrained(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    pairs = list(map(testbed.hh_rlhf, testbed.preference_rows(12, 0)))
    testbed.write_jsonl(folder / "pairs.jsonl", pairs)
    prompts = [{"prompt": row["prompt"]} for row in load_preferences(str(folder / "pairs.jsonl"))]
    testbed.write_jsonl(folder / "prompts.jsonl", prompts)
    (folder / "judges.py").write_text(JUDGES)
    return folder


@pytest.fixture
def in_sampling_folder(sampling_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are given in that folder; what they import from there is found there."""
    monkeypatch.chdir(sampling_folder)
    monkeypatch.syspath_prepend(str(sampling_folder))
