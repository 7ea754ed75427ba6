"""The speed benchmark: its statistics on numbers worked by hand, its counts, and a whole run on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.models import tiny_llama
from tests.helpers.processes import TIMEOUT_S
from tests.helpers.rows import ragged_pairs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


SETTING = {"work": "dpo", "model": "m", "batch": 4}


def record(method: str, repeat: int, cpu_s: float, peak_mib: float = 100.0, **changes: Any) -> dict[str, Any]:
    run = {"setting": SETTING, "method": method, "repeat": repeat, "machine": {"cpu": "x"}}
    return {**run, "cpu_s": cpu_s, "wall_s": 2 * cpu_s, "tokens": 10, "peak_mib": peak_mib, **changes}


RECORDS = [
    {"gate": ["trl", "prefopt"], "passed": True},
    *(record("trl", repeat, cpu_s, 300.0) for repeat, cpu_s in enumerate([8.0, 9.0, 4.0, 99.0])),
    *(record("prefopt", repeat, cpu_s) for repeat, cpu_s in enumerate([2.0, 3.0, 4.0])),
    record("trl", 0, 1.0, setting={**SETTING, "batch": 16}),
]


def test_ratios_are_taken_within_a_repeat() -> None:
    from tables import summary

    table = summary(RECORDS, SETTING)
    trl, ours = table["methods"]["trl"], table["methods"]["prefopt"]
    assert (trl["cpu_s"], trl["repeats"], ours["cpu_s"], ours["wall_s"]) == (8.5, 4, 3.0, 6.0)
    assert trl["time_ratio"]["prefopt"] == (3.0, 1.0, 4.0)  # 8/2, 9/3, 4/4; repeat 3 has no counterpart
    assert trl["memory_ratio"]["prefopt"] == (3.0, 3.0, 3.0)
    assert ours["time_ratio"] == {} and table["subjects"] == ["prefopt"]


def test_batches_of_similar_lengths_share_out_the_same_pairs() -> None:
    from material import POOL, by_length, tokens_of

    rows = list(ragged_pairs(2 * POOL * 4))
    shares = [by_length(rows, 4, share) for share in range(POOL)]
    assert sorted(map(str, rows)) == sorted(str(row) for share in shares for row in share)
    assert {len(share) for share in shares} == {8}
    longest, shortest = shares[0][:4], shares[-1][-4:]
    assert min(map(tokens_of, longest)) >= max(map(tokens_of, shares[1])) >= max(map(tokens_of, shortest))


def test_table_in_markdown() -> None:
    from tables import markdown, summary

    lines = markdown(summary(RECORDS, SETTING)).splitlines()
    assert lines[0] == "**dpo**: model m, batch 4"
    assert lines[2].startswith("| method | repeats | CPU s/pair | time / prefopt | total / prefopt |")
    assert lines[4] == "| trl | 4 | 8.500 | 3.00x (1.00-4.00) | 2.33x | 17.000 | 10 | 300 | 3.00x |"
    assert lines[5] == "| prefopt | 3 | 3.000 | 1 | 1 | 6.000 | 10 | 100 | 1 |"
    assert len(lines) == 6


def test_settings_are_kept_apart_and_a_repeated_run_replaces_the_first() -> None:
    from tables import by_method, settings_of

    again = [*RECORDS, record("prefopt", 0, 7.0)]
    assert [setting["batch"] for setting in settings_of(again)] == [4, 16]
    assert by_method(again, SETTING)["prefopt"][0]["cpu_s"] == 7.0


def test_a_line_that_a_kill_cut_in_half_is_measured_again(tmp_path: Path) -> None:
    from measuring import Results

    results = Results(tmp_path / "results.jsonl")
    results.append({"method": "trl", "repeat": 0})
    with results.path.open("a") as file:
        file.write('{"method": "trl", "rep')
    results.append({"method": "trl", "repeat": 2})
    assert [found["repeat"] for found in results.read()] == [0, 2]
    assert results.has({"repeat": 2}) and not results.has({"repeat": 1})


def test_a_pass_before_training_is_spread_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    from measuring import Stopwatch

    watch = Stopwatch()
    times = iter([(0.0, 0.0, 0), (6.0, 12.0, 60), (10.0, 20.0, 100), (18.0, 36.0, 180)])
    monkeypatch.setattr(watch, "_now", lambda: next(times))
    with watch.aside():
        pass
    watch.start()
    watch.lap()
    found = watch.per_pair(4, 6)  # 8 s for 4 pairs and 6 s for 6
    assert (found["cpu_s"], found["wall_s"], found["tokens"]) == (3.0, 6.0, 30.0)


ROWS = [
    {"prompt_ids": [5] * 3, "response_ids": [[6] * 2, [7] * 4]},
    {"prompt_ids": [5] * 1, "response_ids": [[6] * 1, [7] * 2]},
]


def test_what_a_pair_needs_and_what_padding_makes_of_it() -> None:
    from roofline import needed, padded

    whole, policy = needed(ROWS, whole=True), needed(ROWS, whole=False)
    assert (whole.tokens, policy.tokens) == ((9 + 4) / 2, (7 + 2) / 2)
    assert policy.seen == (6 + (1 + 3) + (6 + 9) + 1 + 0 + (1 + 1)) / 2  # prompt, then each answer and what it sees
    assert padded(ROWS, 2).tokens == 2 * 7 and padded(ROWS, 1).tokens == (2 * 7 + 2 * 3) / 2
    assert policy.predicted == padded(ROWS, 2).predicted == 9 / 2


def test_ways_of_running_a_model_agree() -> None:
    """All of the ablation: the same log-probs, whatever is padded, packed or shared."""
    from bare import VARIANTS, log_probs

    from prefopt.data.collate import collate

    model, batch = tiny_llama(), collate(list(ragged_pairs(4)))
    found = {name: log_probs(variant, model, batch) for name, variant in VARIANTS["ablation"].items()}
    for logps in found.values():
        torch.testing.assert_close(logps, found["naive"], atol=1e-4, rtol=1e-4)


def test_micro_batches_hold_every_row_once_within_the_budget() -> None:
    from bare import budgeted

    rows = list(ragged_pairs(20))
    parts = list(budgeted(rows, 60))
    sizes = [[len(row["prompt_ids"]) + sum(map(len, row["response_ids"])) for row in part] for part in parts]
    assert sorted(map(str, rows)) == sorted(str(row) for part in parts for row in part)
    assert all(sum(size) <= 60 or len(size) == 1 for size in sizes) and len(parts) > 1


def test_the_gate_sees_a_difference() -> None:
    from gate import deviations

    want = (2.0, {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])})
    assert deviations(want, want)["gradient"] == 0.0
    found = deviations((2.5, {"a": torch.tensor([3.0, 0.5]), "b": torch.tensor([4.0])}), want)
    assert found == {"loss": 0.25, "gradient": 0.1, "most": "a"}
    with pytest.raises(ValueError, match="different weights: \\['b'\\]"):
        deviations((2.0, {"a": torch.zeros(2)}), want)


@pytest.mark.slow
def test_a_run_measures_once(tmp_path: Path, tokenizer: Any) -> None:
    pytest.importorskip("trl", reason="the baseline, which the test extra installs")
    tiny_llama().save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    folder = tmp_path / "out"
    once = ["--model", str(tmp_path / "tiny"), "--output_dir", str(folder), "--repeats", "1", "--pairs", "4"]
    first = speed(*once, "--methods", "trl", "prefopt")
    assert "gate: prefopt against trl" in first and "prefopt, repeat 0:" in first
    results = (folder / "results.jsonl").read_text()
    gate, *runs = map(json.loads, results.splitlines())
    assert gate["passed"] and gate["deviations"]["prefopt"]["gradient"] <= 1e-5
    assert [run["method"] for run in runs] == ["trl", "prefopt"]
    assert str(tmp_path) not in results  # results can be shown to others
    second = speed(*once, "--methods", "trl", "prefopt")
    assert "gate" not in second and (folder / "results.jsonl").read_text() == results
    table = speed("--output_dir", str(folder), "--table")
    assert table.strip() == second.strip() and "| trl | 1 |" in table and "| prefopt | 1 |" in table
    (summary,) = json.loads((folder / "summary.json").read_text())
    assert summary["methods"]["trl"]["time_ratio"]["prefopt"][0] > 0
    assert summary["machines"][0]["versions"]["trl"]


def speed(*arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / "train_speed.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_sampling_speed_measures_profiles_and_compares_once(tmp_path: Path, tokenizer: Any) -> None:
    from sampling_speed import same

    assert same([1, 2, 3], [1, 2, 4]) == 2 and same([1], [1, 5]) == 1
    model = tmp_path / "model"
    tiny_llama(len(tokenizer)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    sizes = ["--prompts", "3", "--k", "2", "--max_new_tokens", "5", "--batch_sizes", "2", "6", "--repeats", "1"]
    command = [sys.executable, BENCHMARKS / "sampling_speed.py", "--model", model, *sizes, "--output_dir", tmp_path]

    def run(*flags: str) -> str:
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    lines = run().splitlines()
    found = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {(one["method"], one["batch"]) for one in found} == {(m, b) for m in ("generate", "prefopt") for b in (2, 6)}
    assert all(0 < one["tokens"] <= 3 * 2 * 5 and one["cpu_s"] > 0 for one in found)
    assert sum(line.startswith(("| generate |", "| prefopt |")) for line in lines) == 4
    assert "of 6 responses differ" in run("--divergence")
    assert "| operator | calls |" in run("--profile")
