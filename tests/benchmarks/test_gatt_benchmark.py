"""The benchmark of Ghost Attention: what its arms are trained on, and its table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import gatt
from prefopt.data.gatt import GattRows, survival, with_instruction
from prefopt.testbed import sample_dialogues, sample_openings
from prefopt.testbed.model import build_policy, build_tokenizer


def test_the_arms_differ_in_one_thing() -> None:
    talks = sample_dialogues(3, 0, turns=2)
    told = sample_openings(talks, 0)
    rows = [{"prompt": with_instruction(talks[n], told[n].text, every=False), "response": f"r{n}"} for n in (0, 2)]
    arms = gatt.arms(GattRows(rows, [0, 2], Counter()), talks, told)
    assert arms["gatt"] == rows
    assert arms["as sampled"] == [
        {"prompt": with_instruction(talks[n], told[n].text), "response": f"r{n}"} for n in (0, 2)
    ]
    assert arms["all answers"][1]["messages"] == [*rows[1]["prompt"], {"role": "assistant", "content": "r2"}]


def test_the_table_is_of_means_over_seeds() -> None:
    records = [
        {"seed": seed, "arm": "gatt", "turn": turn, "held": [value] * 4}
        for seed in (0, 1)
        for turn, value in ((1, 1.0), (2, float(seed)))
    ]
    assert gatt.table(records).splitlines()[2] == "| gatt | 100 [100, 100] | 50 [0, 100] |"


def test_a_seed_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def records(seed: int, *_: object) -> list[dict[str, object]]:
        return [{"seed": seed, "arm": "base", "turn": 1, "held": [1.0, 0.0], "alive": [0.0, 0.0], "gold": 2.5}]

    monkeypatch.setattr(gatt, "in_the_small_world", records)
    gatt.main(["--output_dir", str(tmp_path), "--seeds", "5", "6"])
    assert "| base | 50 [" in (shown := capsys.readouterr().out) and "| base | 0 [0, 0] |" in shown
    monkeypatch.setattr(gatt, "in_the_small_world", None)
    gatt.main(["--output_dir", str(tmp_path), "--seeds", "5", "6"])
    assert capsys.readouterr().out == shown


def test_a_policy_talks_through_a_dialogue() -> None:
    """One that knows nothing, so it obeys nowhere; two that are asked alike answer alike."""
    tokenizer = build_tokenizer()
    policy = build_policy(tokenizer)
    talks = sample_dialogues(2, 0, turns=2)
    told = sample_openings(talks, 0)
    one, other = (survival(talks, told, gatt.responder(policy, tokenizer, 3, 8)) for _ in range(2))
    assert one.held.tolist() == [[0, 0], [0, 0]] and one.replies == other.replies
    assert len({reply for replies in one.replies for reply in replies}) == 4
