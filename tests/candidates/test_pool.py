"""The pool loses nothing, whatever stops a run; selections are what a person would select by hand."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from prefopt import load_preferences, load_sft
from prefopt.candidates import (
    Candidate,
    Pool,
    PoolError,
    Scored,
    above,
    best,
    best_random,
    best_worst,
    by_prompt,
    candidates_from,
    ranked,
    write_rows,
)
from prefopt.candidates._ledger import INDEX
from prefopt.candidates.candidate import prompt_key
from prefopt.candidates.dataset_answers import DatasetAnswers
from prefopt.candidates.selection import self_rejected
from prefopt.data.encode import encode_dataset
from prefopt.generation import Sample
from prefopt.scoring import CallableScorer, ScoreError
from prefopt.utils import jsonl

FRANCE = ({"role": "user", "content": "法国的首都是哪里？"},)
BREAD = ({"role": "user", "content": "How do I bake bread?"},)
LINES = '巴黎。\n\u2028第二行\u0085\r\n\t"引号" \\ \U0001f600'


def without_ids(count: int) -> dict[str, Any]:
    """What a row says of responses whose ids are not known."""
    return {"sampled_ids": [[]] * count, "sampled_by": ""}


def candidate(text: str, prompt: Any = FRANCE, round: int = 0, k: int = 0, **changes: Any) -> Candidate:
    settings = {"iteration": 0, "finish_reason": "stop", "policy": "sft", "temperature": 1.0, "seed": 7} | changes
    return Candidate(round=round, k=k, prompt=prompt, response=text, **settings)


def some(round: int = 0, iteration: int = 0, k: int = 3) -> list[Candidate]:
    """K candidates for each of two prompts."""
    return [
        candidate(f"{LINES} {round}.{iteration}.{i}", prompt, round, i, iteration=iteration)
        for prompt in (FRANCE, BREAD)
        for i in range(k)
    ]


def length(prompts: Any, responses: Any) -> list[float]:
    return [len(response) / 3 for response in responses]


def last_digit(prompts: Any, responses: Any) -> list[float]:
    return [float(response[-1]) for response in responses]


LENGTH, DIGIT = CallableScorer(length), CallableScorer(last_digit)


@pytest.fixture(autouse=True)
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the waits for the disk instead of waiting: a test is not a power cut."""
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    return waits


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# What is on disk


def test_candidates_come_back_as_they_were(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    everything = [*some(1, 0), *some(0, 12), *some(0, 2)]
    assert pool.append(everything) == 18 and pool.append(everything) == 0
    assert list(Pool(tmp_path).candidates()) == [*some(0, 2), *some(0, 12), *some(1, 0)]
    assert list(pool.candidates(0, 12)) == some(0, 12) and list(pool.candidates(1)) == some(1)
    assert pool.segments() == [(0, 2), (0, 12), (1, 0)]
    assert pool.has(some()[0].key[:1] + (2,) + some()[0].key[2:]) and not pool.has(some(0, 5)[0].key)


def test_a_line_is_readable_and_has_nothing_but_what_was_given(tmp_path: Path) -> None:
    Pool(tmp_path).append([candidate("是巴黎。", finish_reason="length", temperature=1)])
    assert (tmp_path / "candidates-000-00000.jsonl").read_text(encoding="utf-8") == (
        '{"finish_reason": "length", "iteration": 0, "k": 0, "policy": "sft", '
        '"prompt": [{"content": "法国的首都是哪里？", "role": "user"}], "prompt_key": "%s", "response": "是巴黎。", '
        '"round": 0, "seed": 7, "temperature": 1.0}\n'.replace("%s", candidate("").prompt_key)
    )


def test_the_prompt_key_is_that_of_the_contents() -> None:
    key = candidate("a").prompt_key
    assert candidate("b", ({"content": "法国的首都是哪里？", "role": "user", "more": "x"},), 3).prompt_key == key
    others = [({"role": "system", "content": FRANCE[0]["content"]},), BREAD, FRANCE + BREAD]
    assert len({key, *(candidate("a", prompt).prompt_key for prompt in others)}) == 4


def test_samples_become_candidates() -> None:
    """Also to a prompt that stands there twice."""
    drawn = [[Sample([1], [2], text, reason, [0.0]) for text, reason in row] for row in (
        [("一", "stop"), ("二", "length")], [("three", "stop_string")], [("四", "stop")]
    )]  # fmt: skip
    settings = {"round": 2, "iteration": 1, "policy": "v2", "temperature": 1.2, "seed": 5}
    found = candidates_from([list(FRANCE), list(BREAD), list(FRANCE)], drawn, **settings)
    assert [(c.response, c.k, c.finished) for c in found] == [
        ("一", 0, True), ("二", 1, False), ("three", 0, True), ("四", 2, True),
    ]  # fmt: skip
    assert {(c.round, c.iteration, *c.settings) for c in found} == {(2, 1, "v2", 1.2, 5)}
    assert len({c.key for c in found}) == 4


def test_what_was_appended_is_on_the_disk(tmp_path: Path, synced: list[int]) -> None:
    """The data and, for a new file, its name; then the data. The index each time, and its name."""
    pool = Pool(tmp_path)
    pool.append(some()[:1])
    assert len(synced) == 4
    pool.append(some()[1:])
    assert len(synced) == 7
    write_rows(tmp_path / "rows.jsonl", [{"a": 1}])
    assert len(synced) == 9


@pytest.mark.parametrize("changes", [{"finish_reason": "eos"}, {"k": -1}, {"round": -1}], ids=str)
def test_a_bad_candidate_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="finish_reason='eos'|count from 0"):
        candidate("a", **changes)


def test_another_runs_pool_is_refused(tmp_path: Path) -> None:
    Pool(tmp_path).append(some())
    before = contents(tmp_path)
    for changes in ({"seed": 8}, {"temperature": 0.5}, {"policy": "v2"}):
        with pytest.raises(PoolError, match="candidates-000-00000.jsonl: response 0 to '法国.*another run's pool"):
            Pool(tmp_path).append([candidate("a", **changes)])
    assert contents(tmp_path) == before


# Kills


def test_a_kill_at_any_byte_of_the_last_append(tmp_path: Path) -> None:
    """Whatever is left of it, the next run ends with the same bytes."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    first, second = some()[:4], some()[4:]
    pool = Pool(whole)
    pool.append(first)
    size, index = (whole / "candidates-000-00000.jsonl").stat().st_size, (whole / INDEX).read_bytes()
    pool.append(second)
    data = (whole / "candidates-000-00000.jsonl").read_bytes()
    for end in range(size, len(data) + 1):
        cut.mkdir(exist_ok=True)
        (cut / "candidates-000-00000.jsonl").write_bytes(data[:end])
        (cut / INDEX).write_bytes(index)
        assert list(Pool(cut).candidates()) == some()[: data[:end].count(b"\n")]
        resumed = Pool(cut)
        resumed.append(first)
        resumed.append(second)
        assert contents(cut) == contents(whole)


def test_a_kill_at_any_byte_of_the_scores(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    pool.append(some()[:3])
    index = (tmp_path / INDEX).read_bytes()
    assert pool.score(LENGTH, chunk=2) == 3
    whole, path = contents(tmp_path), tmp_path / f"scores/{LENGTH.fingerprint}/candidates-000-00000.jsonl"
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        (tmp_path / INDEX).write_bytes(index)
        with pytest.raises(PoolError, match="has no score"):
            list(Pool(tmp_path).scored(LENGTH))
        assert Pool(tmp_path).score(LENGTH, chunk=2) == 3 - data[:end].count(b"\n")
        assert path.read_bytes() == data
    assert contents(tmp_path) == whole


def test_a_resumed_run_asks_for_the_same_batches(tmp_path: Path) -> None:
    """Rounding may depend on the batch, so the bytes would."""
    asked: list[list[str]] = []

    def judge(prompts: Any, responses: Any) -> list[float]:
        asked.append(list(responses))
        return length(prompts, responses)

    scorer = CallableScorer(judge, fingerprint="v1")
    Pool(tmp_path).append(some())
    Pool(tmp_path).score(scorer, chunk=4)
    path = tmp_path / "scores/v1/candidates-000-00000.jsonl"
    lines, first = path.read_bytes().splitlines(keepends=True), list(asked)
    assert [len(batch) for batch in first] == [4, 2]
    for kept, batches in ((0, [0, 1]), (3, [0, 1]), (4, [1]), (5, [1]), (6, [])):
        path.write_bytes(b"".join(lines[:kept]))
        (tmp_path / INDEX).unlink(missing_ok=True)
        asked.clear()
        assert Pool(tmp_path).score(scorer, chunk=4) == 6 - kept
        assert asked == [first[number] for number in batches]


class Killed(BaseException):
    """No handler sees a kill coming."""


def play(folder: Path) -> None:
    """A run of three rounds."""
    pool = Pool(folder / "pool")
    for round in range(3):
        for prompt in (FRANCE, BREAD):
            pool.append([c for c in some(round) if c.prompt == prompt])
        pool.score(LENGTH, chunk=4)
        pool.score(DIGIT, chunk=4)
        rows = best(by_prompt(pool.scored(DIGIT)))
        write_rows(folder / f"selection-{round}.jsonl", rows)


def test_a_run_killed_at_any_write_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what the last write had to write is there; what follows a kill is the same program again."""
    play(tmp_path / "whole")
    write, rename = os.write, os.replace
    left = math.inf

    def counted_write(descriptor: int, data: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            write(descriptor, bytes(data)[: len(data) // 2])
            monkeypatch.setattr(os, "ftruncate", die)
            raise Killed
        return write(descriptor, data)

    def counted_rename(*names: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        rename(*names)

    def die(*_: Any) -> None:
        raise Killed

    truncate = os.ftruncate
    monkeypatch.setattr(os, "write", counted_write)
    monkeypatch.setattr(os, "replace", counted_rename)
    kills = 0
    for number in range(200):
        folder = tmp_path / f"killed-{number}"
        left = number
        try:
            play(folder)
        except Killed:
            kills += 1
            monkeypatch.setattr(os, "ftruncate", truncate)
            left = math.inf
            play(folder)
        assert contents(folder) == contents(tmp_path / "whole")
        if kills == number:
            break
    assert kills > 20


def test_a_cut_line_is_said_and_a_damaged_one_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool, path = Pool(tmp_path), tmp_path / "candidates-000-00000.jsonl"
    pool.append(some())
    path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / INDEX).unlink()
    with caplog.at_level(logging.WARNING):
        Pool(tmp_path).append(some())
    assert "candidates-000-00000.jsonl: a half-written line of" in caplog.text
    for bad in (b"{broken\n", b"[1]\n", b"\xff\xfe\n"):
        path.write_bytes(bad + path.read_bytes())
        (tmp_path / INDEX).unlink(missing_ok=True)
        with pytest.raises(jsonl.DamagedFile, match="candidates-000-00000.jsonl:1: not a JSON"):
            list(Pool(tmp_path).candidates())


def test_a_half_line_longer_than_a_block_is_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    jsonl.append(path, [{"a": 1}])
    for tail in (b"x" * (3 * jsonl.BLOCK), b"\0" * jsonl.BLOCK):
        path.write_bytes(jsonl.line_of({"a": 1}) + tail)
        jsonl.append(path, [{"b": 2}])
        assert list(jsonl.read(path)) == [{"a": 1}, {"b": 2}]
    path.write_bytes(b"x" * 10)
    jsonl.append(path, [{"b": 2}])
    assert list(jsonl.read(path)) == [{"b": 2}]


# A full disk


def fill_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """From now on the disk takes `room` more bytes."""
    write = os.write
    left = [room]

    def full(descriptor: int, data: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, bytes(data)[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", full)


@pytest.mark.parametrize("room", [0, 1, 200, 500])
def test_a_full_disk_loses_nothing(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, full = tmp_path / "whole", tmp_path / "full"
    for folder in (whole, full):
        Pool(folder).append(some()[:2])
    Pool(whole).append(some())
    before = contents(full)
    pool = Pool(full)
    with monkeypatch.context() as patch:
        fill_disk(patch, room)
        with pytest.raises(OSError, match="No space left.*intact; make room.*candidates-000-00000.jsonl") as error:
            pool.append(some())
    assert error.value.errno == errno.ENOSPC
    assert contents(full) == before
    assert pool.append(some()) == 4  # the same pool goes on
    assert contents(full) == contents(whole)


def test_a_full_disk_while_scoring_and_selecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(tmp_path)
    pool.append(some())
    pool.score(LENGTH)
    before = contents(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"a": 1}])
    with monkeypatch.context() as patch:
        fill_disk(patch, 150)
        with pytest.raises(OSError, match="No space left.*jsonl"):
            pool.score(DIGIT)
        with pytest.raises(OSError, match="No space left.*rows.jsonl"):
            write_rows(tmp_path / "rows.jsonl", [{"b": 2}])
    found = contents(tmp_path)
    assert found["rows.jsonl"] == b'{"a": 1}\n' and not any(name.endswith(".staging") for name in found)
    assert {name: found[name] for name in before} == before
    assert pool.score(DIGIT) == 6


def test_a_text_that_is_not_unicode_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    with pytest.raises(ValueError, match="surrogates"):
        pool.append([candidate("a"), candidate("\ud83d", k=1)])
    assert contents(tmp_path) == {} and pool.append([candidate("a")]) == 1


# Scores


def test_scores_by_several_scorers_stand_side_by_side(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    pool.append([*some(), *some(1)])
    assert pool.score(LENGTH) == 12
    before = contents(tmp_path)
    before.pop(INDEX)  # which knows of the other scores too
    assert pool.score(DIGIT, round=1) == 6 and pool.score(DIGIT) == 6 and pool.score(DIGIT) == 0
    assert before.items() <= contents(tmp_path).items()
    assert pool.scorers() == {LENGTH.fingerprint: "length", DIGIT.fingerprint: "last_digit"}
    for scorer in (LENGTH, DIGIT):
        found = list(pool.scored(scorer))
        assert [one.candidate for one in found] == [*some(), *some(1)] == list(pool.candidates())
        expected = scorer.function(None, [one.candidate.response for one in found])
        assert [one.score for one in pool.scored(scorer.fingerprint)] == expected
    assert [one.candidate.round for one in pool.scored(DIGIT, round=1)] == [1] * 6


def test_new_candidates_are_all_that_is_scored(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    pool.append(some())
    pool.score(LENGTH)
    pool.append([*some(1), *some(0, 0, 5)])
    with pytest.raises(PoolError, match="has no score by it: call pool.score.*Scorers.*: length"):
        list(pool.scored(LENGTH))
    assert pool.score(LENGTH) == 6 + 4
    assert len(list(pool.scored(LENGTH))) == 16


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda n: [1.0, math.nan, 1.0, 1.0][:n], "gave nan to row 1 .prompt '法国的首都是哪里？', response "),
        (lambda n: [1.0] * (n - 1), r"returned 1 scores for 2 responses: the first without one is row 1 .*How do I"),
    ],
)
def test_a_bad_scorer_is_named_and_nothing_is_lost(returned: Any, message: str, tmp_path: Path) -> None:
    """The first chunk is good, the second is not; the next run asks for the second alone."""
    bad = True
    calls = 0

    class Judge:
        name, fingerprint = "judge", "v1"

        def score(self, prompts: Any, responses: Any, finished: Any = None) -> list[float]:
            nonlocal calls
            calls += 1
            return returned(len(responses)) if bad and calls == (1 if "nan" in message else 2) else [0.5] * len(prompts)

    pool = Pool(tmp_path)
    pool.append(some())
    with pytest.raises(ScoreError, match=f"scorer 'judge' {message}"):
        pool.score(Judge(), chunk=4)
    kept = contents(tmp_path)
    kept.pop(INDEX)  # which knows of what follows too
    bad = False
    assert pool.score(Judge(), chunk=4) == (6 if "nan" in message else 2)
    assert all(contents(tmp_path)[name].startswith(data) for name, data in kept.items())


def test_a_scorer_is_told_what_was_cut_off(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    pool.append(
        [candidate("a"), candidate("b", k=1, finish_reason="length"), candidate("c", finish_reason="stop_string", k=2)]
    )
    pool.score(CallableScorer(lambda prompts, responses, finished: [float(f) for f in finished]))
    [fingerprint] = pool.scorers()
    assert [one.score for one in pool.scored(fingerprint)] == [1.0, 0.0, 1.0]


def test_a_fingerprint_that_names_no_folder_is_refused(tmp_path: Path) -> None:
    for fingerprint in ("../x", "a/b", ".", "a b"):
        with pytest.raises(PoolError, match="cannot name a folder"):
            Pool(tmp_path).score(CallableScorer(length, fingerprint=fingerprint))


# Selection, on examples worked by hand


def scored(*rows: tuple[Any, int, str, float]) -> list[Scored]:
    """(prompt, round, text, score) -> scored candidates, numbered as they come."""
    return [Scored(candidate(text, prompt, round, k), score) for k, (prompt, round, text, score) in enumerate(rows)]


ROUNDS = scored(
    (FRANCE, 0, "里昂", -1.0),
    (FRANCE, 0, "巴黎", 2.0),
    (FRANCE, 0, "巴黎。", 1.5),
    (BREAD, 0, "Flour.", 0.5),
    (FRANCE, 1, "马赛", -2.0),
    (FRANCE, 1, "巴黎", 2.0),
    (BREAD, 1, "Wait.", 0.0),
    (BREAD, 1, "Mix.", 3.0),
    (FRANCE, 2, "不知道", 0.0),
    (FRANCE, 2, "尼斯", -1.5),
    (BREAD, 2, "Bake.", 1.0),
)


def answers(rows: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(row["response"], row["score"]) for row in rows]


@pytest.mark.parametrize(
    ("prior_top_n", "france", "bread"),
    [
        (None, ["巴黎", "巴黎。", "不知道", "里昂", "尼斯", "马赛"], ["Mix.", "Bake.", "Flour.", "Wait."]),
        (0, ["不知道", "尼斯"], ["Bake."]),
        (1, ["巴黎", "不知道", "尼斯"], ["Mix.", "Bake.", "Flour."]),
        (2, ["巴黎", "巴黎。", "不知道", "尼斯", "马赛"], ["Mix.", "Bake.", "Flour.", "Wait."]),
    ],
)
@pytest.mark.parametrize("when", ["rounds", "iterations", "both"])
def test_which_rounds_are_selected_from(
    when: str, prior_top_n: int | None, france: list[str], bread: list[str]
) -> None:
    """Rounds, iterations of one round, or an iteration of the first round and then two of the second."""
    places = {"rounds": [(0, 0), (1, 0), (2, 0)], "iterations": [(0, 2), (0, 9), (0, 10)]}
    place = places.get(when, [(0, 7), (1, 0), (1, 1)])
    rows = [
        Scored(replace(candidate, round=place[candidate.round][0], iteration=place[candidate.round][1]), score)
        for candidate, score in ROUNDS
    ]
    groups = by_prompt(rows, prior_top_n=prior_top_n)
    assert [[one.candidate.response for one in group] for group in groups] == [france, bread]
    assert by_prompt(reversed(rows), prior_top_n=prior_top_n) == groups[::-1]


def test_the_best_response() -> None:
    assert best(by_prompt(ROUNDS)) == [
        {"prompt": list(FRANCE), "response": "巴黎", "score": 2.0, "finished": [True], **without_ids(1)},
        {"prompt": list(BREAD), "response": "Mix.", "score": 3.0, "finished": [True], **without_ids(1)},
    ]
    assert answers(best(by_prompt(ROUNDS, prior_top_n=0))) == [("不知道", 0.0), ("Bake.", 1.0)]
    assert answers(best(by_prompt(ROUNDS), threshold=2.5)) == [("Mix.", 3.0)]
    assert answers(best(by_prompt(ROUNDS), threshold=3.0)) == [("Mix.", 3.0)]


def test_every_response_above_a_threshold() -> None:
    found = above(by_prompt(ROUNDS), 1.0)
    assert answers(found) == [("巴黎", 2.0), ("巴黎。", 1.5), ("Mix.", 3.0), ("Bake.", 1.0)]


def test_a_ranking() -> None:
    bread = {"prompt": list(BREAD), "responses": ["Mix.", "Bake.", "Flour."], "scores": [3.0, 1.0, 0.5]}
    assert ranked(by_prompt(ROUNDS), 3, threshold=2.5) == [{**bread, "finished": [True] * 3, **without_ids(3)}]
    last = ranked(by_prompt(ROUNDS, prior_top_n=0), 3)  # one response to the other prompt ranks nothing
    france = {"prompt": list(FRANCE), "responses": ["不知道", "尼斯"], "scores": [0.0, -1.5]}
    assert last == [{**france, "finished": [True] * 2, **without_ids(2)}]
    assert ranked(by_prompt(ROUNDS)) == ranked(by_prompt(ROUNDS), 6)
    assert [len(row["responses"]) for row in ranked(by_prompt(ROUNDS))] == [6, 4]
    with pytest.raises(ValueError, match="k=1"):
        ranked([], 1)


def test_best_worst_pairs() -> None:
    france = {"chosen": "巴黎", "rejected": "马赛", "score_chosen": 2.0, "score_rejected": -2.0}
    bread = {"chosen": "Mix.", "rejected": "Wait.", "score_chosen": 3.0, "score_rejected": 0.0}
    assert best_worst(by_prompt(ROUNDS)) == [
        {"prompt": list(FRANCE), **france, "finished": [True, True], **without_ids(2)},
        {"prompt": list(BREAD), **bread, "finished": [True, True], **without_ids(2)},
    ]
    assert [row["chosen"] for row in best_worst(by_prompt(ROUNDS), margin=4.0)] == ["巴黎"]
    assert best_worst(by_prompt(ROUNDS), margin=4.1) == []
    assert [row["chosen"] for row in best_worst(by_prompt(ROUNDS), threshold=2.5)] == ["Mix."]


def test_best_random_pairs() -> None:
    groups = by_prompt(ROUNDS)
    found = [best_random(groups, seed) for seed in range(60)]
    assert {row["chosen"] for rows in found for row in rows} == {"巴黎", "Mix."}
    assert {rows[0]["rejected"] for rows in found} == {"巴黎。", "不知道", "里昂", "尼斯", "马赛"}
    assert {best_random(groups, seed, margin=2.0)[0]["rejected"] for seed in range(60)} == {
        "不知道", "里昂", "尼斯", "马赛",
    }  # fmt: skip
    assert best_random(groups, 3) == best_random(groups, 3)
    assert best_random(groups[1:], 3) == best_random(groups, 3)[1:]


def test_equal_scores_make_no_pair() -> None:
    groups = by_prompt(scored((FRANCE, 0, "a", 1.0), (FRANCE, 0, "b", 1.0)))
    assert best_worst(groups) == [] == best_random(groups, 0)
    assert answers(best(groups)) == [("a", 1.0)]  # the earliest


def test_a_text_is_there_once() -> None:
    groups = by_prompt(scored((FRANCE, 0, "巴黎", 1.0), (FRANCE, 1, "巴黎 ", 1.0), (BREAD, 1, "巴黎", 1.0)))
    assert [[one.candidate.round for one in group] for group in groups] == [[0], [1]]


def test_responses_cut_off_and_empty_ones_are_left_out() -> None:
    cut = [
        Scored(candidate("很长", finish_reason="length"), 9.0),
        Scored(candidate(" \n", k=1), 8.0),
        Scored(candidate("停", k=2, finish_reason="stop_string"), 1.0),
        Scored(candidate("也很长", BREAD, finish_reason="length"), 9.0),
    ]
    assert answers(best(by_prompt(cut))) == [("停", 1.0)]
    assert answers(best(by_prompt(cut, include_truncated=True))) == [("很长", 9.0), ("也很长", 9.0)]
    with pytest.raises(ValueError, match="prior_top_n=-1"):
        by_prompt(cut, prior_top_n=-1)


@pytest.mark.parametrize(("round", "iteration"), [(3, 0), (2, 1)])
def test_a_cut_off_last_round_does_not_bring_the_round_before_back(round: int, iteration: int) -> None:
    rows = [*ROUNDS, Scored(candidate("很长", round=round, iteration=iteration, finish_reason="length"), 9.0)]
    assert by_prompt(rows, prior_top_n=0) == []
    assert [len(group) for group in by_prompt(rows, prior_top_n=0, include_truncated=True)] == [1]


ENDS = [
    Scored(candidate("巴黎是首都", finish_reason="length"), 3.0),
    Scored(candidate("巴黎。", k=1), 2.0),
    Scored(candidate("巴黎是", k=2, finish_reason="stop_string"), 1.0),
    Scored(candidate("Mix", BREAD, finish_reason="stop_string"), 1.0),
    Scored(candidate("Mix flour.", BREAD, k=1), 0.0),
]


def test_rows_say_which_responses_ended_with_a_stop_token() -> None:
    """A stop string is not one."""
    groups, all_of_them = by_prompt(ENDS), by_prompt(ENDS, include_truncated=True)
    assert [row["finished"] for row in best(groups)] == [[True], [False]]
    assert [row["finished"] for row in above(all_of_them, 1.0)] == [[False], [True], [False], [False]]
    assert [row["finished"] for row in best_worst(groups)] == [[True, False], [False, True]]
    assert [row["finished"] for row in best_random(groups, 0)] == [[True, False], [False, True]]
    assert [row["finished"] for row in ranked(all_of_them)] == [[False, True, False], [False, True]]


def test_half_a_character_is_no_text() -> None:
    """The limit falls within a character's bytes, for which the tokenizer shows a sign that the policy never drew."""
    texts = ["巴黎\ufffd", "巴\ufffd\ufffd", "\ufffd", "巴", "有\ufffd的字"]
    cut = [Scored(candidate(text, k=k, finish_reason="length"), -k) for k, text in enumerate(texts)]
    [row] = ranked(by_prompt(cut, include_truncated=True))
    assert row["responses"] == ["巴黎", "巴", "有\ufffd的字"]
    whole = [Scored(candidate("巴黎\ufffd"), 1.0)]
    assert answers(best(by_prompt(whole))) == [("巴黎\ufffd", 1.0)]


SCORES = st.integers(-3, 3).map(float)
DRAWN = st.tuples(st.sampled_from([FRANCE, BREAD]), st.sampled_from("abcd"), SCORES, st.booleans())


@given(st.lists(st.lists(DRAWN, max_size=6), max_size=5), st.sampled_from([None, 1, 2]))
def test_the_best_per_prompt_never_falls(rounds: list[list[Any]], prior_top_n: int | None) -> None:
    pool: list[Scored] = []
    before: dict[str, float] = {}
    for round, drawn in enumerate(rounds):
        for k, (prompt, text, score, finished) in enumerate(drawn):
            reason = "stop" if finished else "length"
            pool.append(Scored(candidate(text, prompt, round, k, finish_reason=reason), score))
        rows = best(by_prompt(pool, prior_top_n=prior_top_n))
        now = {row["prompt"][0]["content"]: row["score"] for row in rows}
        assert all(now[prompt] >= score for prompt, score in before.items())
        finished_ones = [one for one in pool if one.candidate.finished]
        assert now == {
            p: max(one.score for one in finished_ones if one.candidate.prompt[0]["content"] == p)
            for p in {one.candidate.prompt[0]["content"] for one in finished_ones}
        }
        before = now


# Trainers take the rows


@pytest.mark.parametrize("how", ["file", "dataset", "list"])
def test_trainers_take_the_rows(how: str, tmp_path: Path, tokenizer: Any) -> None:
    def given_as(rows: list[dict[str, Any]], name: str) -> Any:
        write_rows(tmp_path / name, rows)
        return {"file": str(tmp_path / name), "dataset": Dataset.from_list(rows), "list": rows}[how]

    groups = by_prompt(ROUNDS)
    pairs = encode_dataset(given_as(best_worst(groups), "pairs.jsonl"), tokenizer)
    lists = encode_dataset(given_as(ranked(groups, 4), "lists.jsonl"), tokenizer)
    single = encode_dataset(given_as(best(groups), "sft.jsonl"), tokenizer)
    texts = [[tokenizer.decode(ids) for ids in row] for row in lists["response_ids"]]
    assert texts[0] == ["巴黎<eos>", "巴黎。<eos>", "不知道<eos>", "里昂<eos>"]
    assert lists["score"][1] == [3.0, 1.0, 0.5, 0.0]
    assert [[tokenizer.decode(ids) for ids in row] for row in pairs["response_ids"]][0] == ["巴黎<eos>", "马赛<eos>"]
    assert pairs["score"] == [[2.0, -2.0], [3.0, 0.0]]
    assert [tokenizer.decode(row[0]) for row in single["response_ids"]] == ["巴黎<eos>", "Mix.<eos>"]
    assert tokenizer.decode(single["prompt_ids"][0]) == "<user>法国的首都是哪里？<assistant>"


@pytest.mark.parametrize("how", ["file", "dataset", "list", "loaded"])
def test_training_makes_no_stop_token_up(how: str, tmp_path: Path, tokenizer: Any) -> None:
    def texts(rows: list[dict[str, Any]], load: Any) -> list[list[str]]:
        write_rows(tmp_path / "selection.jsonl", rows)
        file = tmp_path / "selection.jsonl"
        given = {"file": str(file), "dataset": Dataset.from_list(rows), "list": rows, "loaded": load(file)}[how]
        return [[tokenizer.decode(ids) for ids in row["response_ids"]] for row in encode_dataset(given, tokenizer)]

    groups = by_prompt(ENDS, include_truncated=True)
    assert texts(best(groups), load_sft) == [["巴黎是首都"], ["Mix"]]
    assert texts(best(by_prompt(ENDS)), load_sft) == [["巴黎。<eos>"], ["Mix"]]
    assert texts(best_worst(groups), load_preferences) == [["巴黎是首都", "巴黎是"], ["Mix", "Mix flour.<eos>"]]
    lists = [["巴黎是首都", "巴黎。<eos>", "巴黎是"], ["Mix", "Mix flour.<eos>"]]
    assert texts(ranked(groups), load_preferences) == lists


def test_load_functions_take_the_file(tmp_path: Path) -> None:
    groups = by_prompt(ROUNDS)
    write_rows(tmp_path / "a.jsonl", best(groups))
    write_rows(tmp_path / "b.jsonl", best_worst(groups))
    assert load_sft(tmp_path / "a.jsonl")["response"][:] == ["巴黎", "Mix."]
    assert load_preferences(tmp_path / "b.jsonl")["rejected"][:] == ["马赛", "Wait."]
    first = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert "法国的首都是哪里？" in first and json.loads(first) == best(groups)[0]


def test_a_prompt_with_tools_is_another_and_keeps_them(tmp_path: Path) -> None:
    with_tools = [{**FRANCE[0], "tools": '[{"name": "地图"}]'}, *FRANCE[1:]]
    assert prompt_key(with_tools) != prompt_key(FRANCE)
    assert prompt_key([{**turn, "tools": None, "tool_calls": None} for turn in FRANCE]) == prompt_key(FRANCE)
    Pool(tmp_path).append([candidate("Paris.", with_tools)])
    (kept,) = Pool(tmp_path).candidates()
    assert list(kept.prompt) == with_tools
    row = best([[Scored(kept, 1.0)]])[0]
    assert row["prompt"] == with_tools


def test_answers_that_call_tools_are_no_texts(caplog: pytest.LogCaptureFixture) -> None:
    calls = '[{"function": {"name": "地图"}}]'
    rows = [
        {"prompt": FRANCE, "response": "", "tool_calls": [calls]},
        {"prompt": FRANCE, "response": "Paris.", "tool_calls": None},
    ]
    with caplog.at_level(logging.WARNING, "prefopt.candidates"):
        found = DatasetAnswers(rows)
    assert found.answers == {prompt_key(FRANCE): {"Paris.": True}} and "1 answers have tool calls" in caplog.text
    pairs, left_out = self_rejected(rows, [candidate("Lyon.")])
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("Paris.", "Lyon.")]
    assert left_out == {"answers with tool calls or a thought, which are no text": 1}
