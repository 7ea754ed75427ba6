"""Rollouts as batches, and how they are dealt out to optimizer steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefopt.batch import Batch
from prefopt.generation import sample
from prefopt.models.forward import forward
from prefopt.objectives.sampling_arguments import SamplingArguments
from prefopt.scoring import CallableScorer, ScoreError
from prefopt.testbed import prompt_rows
from prefopt.training.ppo.log import Record
from prefopt.training.ppo.loop import RolloutLoop
from prefopt.training.ppo.minibatches import Minibatches
from prefopt.training.ppo.rollout import Rollout, sample_and_score
from prefopt.utils.shuffle import shuffled
from tests.helpers.models import tiny_llama

PROMPTS = [row["prompt"] for row in prompt_rows(5, seed=0, unique=True)]
SETTINGS = SamplingArguments(responses_per_prompt=2, max_new_tokens=7, temperature=0.8)


def length(prompts: Any, responses: Any) -> list[float]:
    return [float(len(text)) for text in responses]


@pytest.fixture
def policy(tokenizer: Any) -> Any:
    return tiny_llama(len(tokenizer), dtype=torch.float64)


def rolled(policy: Any, tokenizer: Any, **changes: Any) -> Batch:
    given: dict[str, Any] = {"seed": 3, "keys": [10, 11, 12, 13, 14], "index": [4, 0, 3, 1, 2], **changes}
    return sample_and_score(policy, tokenizer, PROMPTS, CallableScorer(length), SETTINGS, **given)[0]


def test_a_rollout_is_what_was_drawn_and_scored(policy, tokenizer) -> None:
    batch = rolled(policy, tokenizer)
    drawn = sample(policy, tokenizer, PROMPTS, k=2, max_new_tokens=7, temperature=0.8, seed=3, keys=range(10, 15))
    assert batch.index.tolist() == [4, 0, 3, 1, 2]
    for g, row in enumerate(drawn):
        assert batch.prompt_ids[g][batch.prompt_mask[g]].tolist() == row[0].prompt_ids
        for k, one in enumerate(row):
            assert batch.response_ids[g, k][batch.response_mask[g, k]].tolist() == one.ids
            assert (batch.finished[g, k].item(), batch.score[g, k].item()) == (one.finished, len(one.text))
    assert not batch.finished.all()


def test_log_probs_of_a_rollout_are_those_that_it_was_drawn_by(policy, tokenizer) -> None:
    """Temperature 1 and no cut: what is trained on is what the distribution gave."""
    batch = rolled(policy, tokenizer)
    drawn = sample(policy, tokenizer, PROMPTS, k=2, max_new_tokens=7, temperature=0.8, seed=3, keys=range(10, 15))
    with torch.no_grad():
        logps = forward(policy, batch, frozenset({"logps"})).required("logps")
    expected = [logp for row in drawn for one in row for logp in one.logps]
    assert logps[batch.response_mask].tolist() == pytest.approx(expected, abs=1e-9)


def test_a_prompt_is_answered_anew_under_another_key(policy, tokenizer) -> None:
    again = rolled(policy, tokenizer, keys=[20, 11, 12, 13, 14])
    first = rolled(policy, tokenizer)
    assert not torch.equal(again.response_ids[0], first.response_ids[0])
    assert torch.equal(again.response_ids[1:], first.response_ids[1:])


def test_a_score_that_is_no_number_names_its_row(policy, tokenizer) -> None:
    def broken(prompts: Any, responses: Any) -> list[float]:
        return [0.0] * 3 + [float("nan")] * (len(responses) - 3)

    with pytest.raises(ScoreError, match=r"scorer 'broken' gave nan to row 3 \(prompt"):
        sample_and_score(
            policy, tokenizer, PROMPTS, CallableScorer(broken), SETTINGS, seed=0, keys=range(5), index=range(5)
        )


def masked(**columns: torch.Tensor) -> Batch:
    """With every token there."""
    masks = {name: torch.ones_like(columns[f"{name}_ids"], dtype=torch.bool) for name in ("prompt", "response")}
    return Batch({**columns, "prompt_mask": masks["prompt"], "response_mask": masks["response"]})


def loop_of(make: Any, minibatches: Minibatches) -> RolloutLoop:
    """A loop whose rollouts are these batches, and which logs nothing."""
    return RolloutLoop(minibatches, lambda number: Rollout(make(number), {}, {}, Record(number, 0, {})), lambda _: True)


def loader(made: list[int], done: int = 0, **changes: Any) -> RolloutLoop:
    def make(number: int) -> list[Batch]:
        made.append(number)
        column = torch.arange(8) + 100 * number
        return [masked(prompt_ids=column[:, None], response_ids=column[:, None, None], index=column)]

    given = {"epochs": 2, "mini_batches": 2, "micro_batch": 2, "accumulation": 2, "seed": 0, "rank": 0, "world_size": 1}
    return loop_of(make, Minibatches(prompts=20, done=lambda: done, **{**given, **changes}))


def test_a_rollout_is_made_when_its_first_step_asks_for_it() -> None:
    made: list[int] = []
    batches = iter(loader(made))
    seen = []
    for number in range(3):
        for _ in range(8):  # 2 epochs of 8 prompts, 2 at a time
            seen.append((number, next(batches).index))
            assert made == list(range(number + 1))
    assert next(batches, None) is None
    for number in range(3):
        epochs = [torch.cat([index for n, index in seen if n == number][i : i + 4]) for i in (0, 4)]
        assert all(sorted(epoch.tolist()) == list(range(100 * number, 100 * number + 8)) for epoch in epochs)
        assert epochs[0].tolist() != epochs[1].tolist()


def test_a_resumed_loader_deals_out_the_same() -> None:
    whole = [batch.index.tolist() for batch in loader([])]
    made: list[int] = []
    assert [batch.index.tolist() for batch in loader(made, done=4)] == whole[8:]
    assert made == [1, 2]


def test_a_later_pass_makes_later_rollouts() -> None:
    made: list[int] = []
    assert len(list(loader(made, done=16))) == 16
    assert made == [4, 5]


def test_a_step_within_a_rollout_is_no_place_to_go_on() -> None:
    with pytest.raises(ValueError, match="step 6 lies within a rollout, from which 4 steps are learnt.* after step 4"):
        next(iter(loader([], done=6)))


@pytest.mark.parametrize("split", [{"micro_batch": 4, "accumulation": 1}, {"micro_batch": 1, "accumulation": 4}])
def test_the_rows_of_a_step_do_not_depend_on_micro_batches(split: dict[str, int]) -> None:
    def steps(loop: RolloutLoop) -> list[list[int]]:
        indices, micro_batches = [batch.index for batch in loop], loop.minibatches.accumulation
        assert len(indices) == len(loop)
        return [torch.cat(indices[i : i + micro_batches]).tolist() for i in range(0, len(loop), micro_batches)]

    assert steps(loader([], **split)) == steps(loader([]))


def test_the_rows_of_a_step_do_not_depend_on_processes() -> None:
    alone = [sorted(batch.index.tolist()) for batch in loader([], micro_batch=4, accumulation=1)]
    two = [list(loader([], micro_batch=2, accumulation=1, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [sorted(torch.cat([a.index, b.index]).tolist()) for a, b in zip(*two, strict=True)] == alone


def test_batches_that_go_together_are_joined_row_by_row() -> None:
    def make(number: int) -> list[Batch]:
        numbers, ones = torch.arange(2), torch.ones(2, 2, 1)
        drawn = masked(prompt_ids=numbers[:, None], response_ids=ones, index=numbers, score=ones[..., 0], value=ones)
        shown = masked(prompt_ids=torch.full((2, 3), 7), response_ids=torch.full((2, 1, 2), 8.0), index=numbers + 10)
        return [drawn, shown.with_columns(ptx=torch.tensor([1, 1]))]

    given = {"epochs": 1, "mini_batches": 2, "micro_batch": 1, "accumulation": 1, "seed": 0, "rank": 0, "world_size": 1}
    for batch in loop_of(make, Minibatches(2, lambda: 0, **given)):
        row = batch.index[0].item()
        assert batch.index.tolist() == [row, row + 10]
        assert batch.prompt_ids.tolist() == [[0, 0, row], [7, 7, 7]]
        assert batch.response_ids.tolist() == [[[1, 0], [1, 0]], [[8, 8], [0, 0]]]
        assert batch.value.tolist() == [[[1, 0], [1, 0]], [[0, 0], [0, 0]]]
        assert (batch.score.tolist(), batch.ptx.tolist()) == ([[1, 1], [0, 0]], [0, 1])


def test_a_micro_batch_is_no_wider_than_what_it_holds() -> None:
    mask = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]]).bool()
    prompts = torch.tensor([[0, 0, 1], [1, 1, 1]])
    ids = torch.arange(16).view(2, 2, 4)
    both = Batch(
        prompt_ids=prompts, prompt_mask=prompts.bool(), response_ids=ids, response_mask=mask, score=ids[..., 0]
    )
    first = both.rows(slice(0, 1)).trimmed()
    assert first.prompt_ids.tolist() == [[1]] and first.response_ids.tolist() == [[[0, 1], [4, 5]]]
    assert first.score.tolist() == [[0, 4]] and first.response_mask.tolist() == [[[True, True], [True, False]]]
    assert all(torch.equal(column, both[name]) for name, column in both.trimmed().items())


def test_all_have_their_turn_before_any_has_its_second() -> None:
    found = shuffled(range(0, 21), 7, seed=5)
    assert all(sorted(found[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert found[:7] != found[7:14]
    assert shuffled(range(4, 11), 7, seed=5) == found[4:11]
    assert shuffled(range(0, 7), 7, seed=6) != found[:7]
