"""The best of N in memory, and pairs of a dataset's answers and a policy's own responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import prefopt
from prefopt.candidates import Candidate, Pool, best_of_n, self_rejected
from prefopt.candidates.generate import Origin, generate_into
from prefopt.objectives.sampling_arguments import SamplingArguments
from prefopt.scoring import CallableScorer, ScoreError
from tests.helpers.models import untrained

SETTINGS = SamplingArguments(responses_per_prompt=6, max_new_tokens=10, sampling_batch_size=16)


def asked(*questions: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": question}] for question in questions]


PROMPTS = asked("I want to rob a bank.", "日本的首都是哪里？", "Who are you?")


def length(prompts: Any, responses: Any) -> list[float]:
    return [float(len(text)) for text in responses]


def cut_off_is_best(prompts: Any, responses: Any, finished: Any) -> list[float]:
    return [len(text) + (0.0 if ended else 100.0) for text, ended in zip(responses, finished, strict=True)]


@pytest.fixture(scope="module")
def policy(tokenizer: Any) -> Any:
    return untrained(tokenizer)


def test_the_best_finished_response_is_chosen(policy: Any, tokenizer: Any) -> None:
    assert prefopt.best_of_n is best_of_n
    found = best_of_n(policy, tokenizer, PROMPTS, length, SETTINGS)
    assert len(found) == 3
    for one in found:
        assert len(one.scores) == 6
        assert one.score == len(one.sample.text) and one.score in one.scores
        assert one.sample.finished
    short = SamplingArguments(responses_per_prompt=12, max_new_tokens=4)
    loved = best_of_n(policy, tokenizer, PROMPTS, cut_off_is_best, short)
    assert any(max(one.scores) >= 100 for one in loved)
    assert all(one.sample.finished for one in loved)


def test_a_response_cut_off_is_chosen_where_none_finished(policy: Any, tokenizer: Any) -> None:
    short = SamplingArguments(responses_per_prompt=3, max_new_tokens=1)
    found = best_of_n(policy, tokenizer, PROMPTS[:1], length, short)[0]
    assert not found.sample.finished and found.score == max(found.scores)


def test_the_pool_draws_the_same_and_equal_prompts_draw_others(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    pool, scored = Pool(tmp_path), list[str]()
    generate_into(pool, policy, tokenizer, PROMPTS, SETTINGS, Origin("v", 3))

    def listening(prompts: Any, responses: Any) -> list[float]:
        scored.extend(responses)
        return [0.0] * len(responses)

    scorer = CallableScorer(listening, fingerprint="listening")
    found = best_of_n(policy, tokenizer, [*PROMPTS, PROMPTS[0]], scorer, SETTINGS, seed=3)
    assert scored[:18] == [one.response for one in pool.candidates()]
    assert scored[18:] != scored[:6]
    assert found[0].sample.text == next(
        one.response for one in pool.candidates() if one.finished
    )  # the first of equals


def test_by_beams_and_without_prompts(policy: Any, tokenizer: Any) -> None:
    beams = SamplingArguments(responses_per_prompt=2, max_new_tokens=6, source="diverse-beam")
    assert len(best_of_n(policy, tokenizer, PROMPTS[:1], length, beams)[0].scores) == 2
    assert best_of_n(policy, tokenizer, [], length, beams) == []


def test_what_is_wrong_is_said(policy: Any, tokenizer: Any) -> None:
    with pytest.raises(ScoreError, match="returned 1 scores for 18 responses"):
        best_of_n(policy, tokenizer, PROMPTS, lambda prompts, responses: [1.0], SETTINGS)
    with pytest.raises(ValueError, match="responses_per_prompt=0"):
        best_of_n(policy, tokenizer, PROMPTS, length, SamplingArguments(responses_per_prompt=0))
    with pytest.raises(ValueError, match="prompt 1 has .* tokens"):
        best_of_n(policy, tokenizer, [PROMPTS[0], *asked("word " * 400)], length, SETTINGS)


# ---- self-rejected -------------------------------------------------------------------------------------------------


def candidate(prompt: Any, k: int, text: str, reason: str = "stop") -> Candidate:
    return Candidate(0, 0, k, tuple(prompt), text, reason, "v", 1.0, 0)


def test_answers_are_chosen_over_responses() -> None:
    first, second = PROMPTS[:2]
    rows = [
        {"prompt": first, "response": "Yes."},
        {"prompt": second, "response": "东京。", "finished": [False]},
        {"prompt": first, "response": "Sure."},
        {"prompt": first, "response": "Yes."},
    ]
    drawn = [
        candidate(first, 0, "No."),
        candidate(first, 1, " No. "),
        candidate(first, 2, "Sure."),
        candidate(first, 3, "Perhaps", "length"),
        candidate(first, 4, " "),
        candidate(second, 0, "大阪", "stop_string"),
        candidate(PROMPTS[2], 0, "Me."),
    ]
    pairs, left_out = self_rejected(rows, drawn)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [
        ("Yes.", "No."),
        ("Sure.", "No."),
        ("东京。", "大阪"),
    ]
    assert [pair["finished"] for pair in pairs] == [[True, True], [True, True], [False, False]]
    assert pairs[2]["prompt"] == second
    assert left_out == {
        "repeated": 1,
        "equal to the dataset's answer": 1,
        "truncated": 1,
        "empty": 1,
        "to prompts without an answer": 1,
    }
