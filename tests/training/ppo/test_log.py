"""The trace of a run's rollouts survives a kill at any byte, has no rollout twice, and reads back what was written."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from prefopt.training.ppo.log import Example, Record, RolloutLog
from prefopt.utils import jsonl
from prefopt.utils.jsonl import DamagedFile


@pytest.fixture(autouse=True)
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the waits for the disk instead of waiting: a test is not a power cut."""
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    return waits


def record(number: int, **metrics: float) -> Record:
    text = "巴黎。\n\u2028“是”"
    example = Example(prompt="法国的首都是哪里？", response=text, score=0.1 + number, finished=number % 2 == 0)
    return Record(number, 4 * number, {"objective/kl": 0.5 * number} | metrics, [0.1, -1.5 + number], [example])


@pytest.fixture
def trace(tmp_path: Path) -> RolloutLog:
    return RolloutLog(tmp_path / "run" / "rollouts.jsonl")


def filled(trace: RolloutLog, count: int) -> list[Record]:
    records = [record(number) for number in range(count)]
    trace.begin(0)
    for one in records:
        trace.add(one)
    return records


def test_what_is_written_is_what_is_read(trace: RolloutLog) -> None:
    assert trace.read() == [], "there is no file yet"
    records = filled(trace, 3)
    assert trace.read() == RolloutLog(trace.path).read() == records
    assert trace.read()[2].scores == [0.1, 0.5] and trace.read()[2].step == 8


def test_every_line_is_on_the_disk_when_add_returns(trace: RolloutLog, synced: list[int]) -> None:
    trace.begin(0)
    before = len(synced)
    trace.add(record(0))
    assert len(synced) > before
    assert trace.path.read_bytes().endswith(b"\n")


def test_chinese_stays_readable_and_a_record_is_one_line(trace: RolloutLog) -> None:
    filled(trace, 2)
    text = trace.path.read_text(encoding="utf-8")
    assert "法国的首都是哪里？" in text and "\\u" not in text
    assert text.count("\n") == 2


def test_what_is_not_finite_is_valid_json_and_reads_as_nan(trace: RolloutLog) -> None:
    trace.begin(0)
    trace.add(
        Record(0, 0, {"val/explained_variance": math.nan, "ppl/policy": math.inf, "objective/kl": 0.0}, [math.nan, 1])
    )
    row = json.loads(trace.path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert row["metrics"] == {"val/explained_variance": None, "ppl/policy": None, "objective/kl": 0.0}
    (found,) = trace.read()
    assert math.isnan(found.metric("val/explained_variance")) and math.isnan(found.metric("ppl/policy"))
    assert math.isnan(found.scores[0]) and found.scores[1] == 1
    trace.begin(1)
    assert json.loads(trace.path.read_text()) == row, "rewriting it keeps it"


def test_metrics_by_name() -> None:
    assert record(3).metric("objective/kl") == 1.5 and math.isnan(record(3).metric("ppl/policy"))
    assert record(0, critic_alone=1.0).critic_alone
    assert not record(0, critic_alone=0.0).critic_alone and not record(0).critic_alone


@pytest.mark.parametrize(("first", "kept"), [(0, 0), (1, 1), (3, 3), (4, 4), (9, 4)])
def test_a_resumed_run_makes_its_rollouts_again(trace: RolloutLog, first: int, kept: int) -> None:
    records = filled(trace, 4)
    resumed = RolloutLog(trace.path)
    resumed.begin(first)
    assert resumed.read() == records[:kept]
    again = record(first, again=1.0)
    resumed.add(again)
    assert trace.read() == [*records[:kept], again]


def test_rollouts_that_are_missing_are_told_of(trace: RolloutLog, caplog: pytest.LogCaptureFixture) -> None:
    """A file that was cut or deleted: the run goes on, and says what its record lacks."""
    filled(trace, 4)
    RolloutLog(trace.path).begin(3)
    assert caplog.text == ""
    trace.path.write_bytes(trace.path.read_bytes()[:-9])
    RolloutLog(trace.path).begin(3)
    assert f"{trace.path} lacks rollouts 2: training goes on as it was" in caplog.text
    trace.path.unlink()
    caplog.clear()
    RolloutLog(trace.path).begin(12)
    assert "lacks rollouts 0, 1, 2, 3, 4, 5, 6, 7 and 4 more: " in caplog.text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data, ""),
        (lambda data: data.replace(b"1.5", b"1.6", 1), "is not what this run wrote"),
        (lambda data: data.replace(b'"step": 4', b'"step": 5'), "is not what this run wrote"),
        (lambda data: data[: len(data) // 2], "is not what this run wrote"),
        (lambda data: bytes(len(data)), "is not what this run wrote"),
        (lambda data: None, "is missing"),
    ],
)
def test_what_a_checkpoint_carries_is_what_counts(trace: RolloutLog, caplog: Any, spoil: Any, said: str) -> None:
    """One digit, another run's file, half a file, zeros, no file: the record is the checkpoint's, and that is said."""
    records = filled(trace, 3)
    checkpoint = trace.path.parent / "checkpoint-6"
    checkpoint.mkdir()
    trace.keep(checkpoint)
    whole = trace.path.read_bytes()
    trace.add(record(3))
    spoilt = spoil(whole)
    if spoilt is None:
        trace.path.unlink()
    else:
        trace.path.write_bytes(spoilt + trace.path.read_bytes()[len(whole) :])
    resumed = RolloutLog(trace.path)
    resumed.begin(3, checkpoint)
    assert trace.path.read_bytes() == whole and resumed.read() == records
    assert f"{trace.path} {said}: it is made anew from {checkpoint / 'rollouts.jsonl'}, 3 rollouts" in caplog.text or (
        not said and caplog.text == ""
    )
    resumed.add(record(3))


def test_no_rollout_is_there_twice_or_out_of_order(trace: RolloutLog) -> None:
    filled(trace, 3)
    for writer in (trace, RolloutLog(trace.path)):
        for number in (1, 2):
            with pytest.raises(ValueError, match=rf"ends with rollout 2.*call begin\({number}\)"):
                writer.add(record(number))
    assert [one.rollout for one in trace.read()] == [0, 1, 2]


def test_killed_at_any_byte_it_reads_on_and_goes_on(trace: RolloutLog) -> None:
    """Every prefix of the file is what a kill might leave."""
    records = filled(trace, 3)
    whole = trace.path.read_bytes()
    for size in range(len(whole)):
        trace.path.write_bytes(whole[:size])
        complete = whole[:size].count(b"\n")
        assert trace.read() == records[:complete]
        resumed = RolloutLog(trace.path)
        resumed.begin(complete)
        resumed.add(record(complete))
        assert resumed.read() == records[: complete + 1]
        assert trace.path.read_bytes() == b"".join(whole.splitlines(keepends=True)[: complete + 1])


def test_adding_without_begin_cuts_a_torn_line_off(trace: RolloutLog) -> None:
    records = filled(trace, 2)
    with trace.path.open("ab") as file:
        file.write(b'{"rollout": 2, "sco')
    RolloutLog(trace.path).add(record(2))
    assert trace.read() == [*records, record(2)]


def test_killed_while_it_begins_it_has_all_or_nothing(trace: RolloutLog, monkeypatch: pytest.MonkeyPatch) -> None:
    records = filled(trace, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            RolloutLog(trace.path).begin(1)
    assert trace.read() == records
    trace.path.with_name("rollouts.jsonl.staging").write_bytes(b'{"half')  # what kill -9 leaves
    trace.begin(1)
    assert trace.read() == records[:1] and [path.name for path in trace.path.parent.iterdir()] == ["rollouts.jsonl"]


def test_killed_for_real(tmp_path: Path) -> None:
    """A process that writes until it gets a kill -9."""
    import signal
    import subprocess
    import sys

    path = tmp_path / "rollouts.jsonl"
    code = (
        "import itertools, sys; from prefopt.training.ppo import Record, RolloutLog; trace = RolloutLog(sys.argv[1])\n"
        "trace.begin(0)\n"
        "for n in itertools.count(): trace.add(Record(n, n, {'x': n}, [0.5] * 20000)); print(n, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [int(child.stdout.readline()) for _ in range(4)]
        child.send_signal(signal.SIGKILL)
    found = [one.rollout for one in RolloutLog(path).read()]
    assert found[:4] == said == [0, 1, 2, 3] and found == list(range(len(found)))
    resumed = RolloutLog(path)
    resumed.begin(2)
    resumed.add(record(2))
    assert [one.rollout for one in resumed.read()] == [0, 1, 2]


@pytest.mark.parametrize(
    "damage",
    [
        b"not json\n",
        b"[1]\n",
        b'{"rollout": 1}\n',
        b'{"rollout": "one", "step": 0, "metrics": {}, "scores": [], "samples": []}\n',
        b'{"rollout": 1, "step": 0, "metrics": [], "scores": [], "samples": []}\n',
        b'{"rollout": 1, "step": 0, "metrics": {}, "scores": [], "samples": [{"text": ""}]}\n',
        b'{"rollout": 0, "step": 0, "metrics": {}, "scores": [], "samples": []}\n',
        b"\n",
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_thrown_away(trace: RolloutLog, damage: bytes) -> None:
    filled(trace, 3)
    first, _, last = trace.path.read_bytes().splitlines(keepends=True)
    trace.path.write_bytes(first + damage + last)
    for use in (trace.read, lambda: RolloutLog(trace.path).begin(1), lambda: RolloutLog(trace.path).add(record(3))):
        with pytest.raises(DamagedFile, match=r"rollouts\.jsonl:2: .*restore the file, or delete it from here on"):
            use()
    assert trace.path.read_bytes() == first + damage + last


def test_a_full_disk_loses_nothing(trace: RolloutLog, monkeypatch: pytest.MonkeyPatch) -> None:
    records = filled(trace, 2)
    write = os.write

    def full(descriptor: int, data: memoryview) -> int:
        write(descriptor, bytes(data[:5]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(jsonl.os, "write", full)
        with pytest.raises(OSError, match="rollouts.jsonl"):
            trace.add(record(2))
    assert trace.read() == records
    trace.add(record(2))
    assert trace.read() == [*records, record(2)]
