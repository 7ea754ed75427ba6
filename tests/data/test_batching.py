"""The order of rows and batches by a budget of tokens: every row once, similar lengths, as many batches each epoch."""

from __future__ import annotations

import logging
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prefopt import PreferenceConfig, PreferenceTrainer
from prefopt.data.batching import RowSampler, TokenBudget, shard_by_tokens, split_by_tokens, token_counts
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet


def log_normal(n: int, seed: int = 0) -> Tensor:
    """Lengths as answers have them: a median of 150 tokens, one in six above 400."""
    return (torch.randn(n, generator=torch.Generator().manual_seed(seed)) + 5).exp().long().clamp(1, 2000)


def waste(batches: list[list[int]], costs: Tensor) -> float:
    """The share of padding if batches were padded to their longest row."""
    padded = sum(len(batch) * int(costs[batch].max()) for batch in batches)
    return 1 - int(costs.sum()) / padded


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch if row >= 0]


@given(
    costs=st.lists(st.integers(0, 40), max_size=60),
    budget=st.integers(1, 100),
    world=st.integers(1, 5),
    drop=st.booleans(),
    seed=st.none() | st.integers(0, 3),
    window=st.sampled_from([1, 2, 64]),
)
@settings(max_examples=300)
def test_whatever_the_lengths(
    costs: list[int], budget: int, world: int, drop: bool, seed: int | None, window: int
) -> None:
    tokens = torch.tensor(costs, dtype=torch.int64)
    sampler = TokenBudget(tokens, budget, world=world, drop=drop, seed=seed, window=window)
    assert len(sampler) % world == 0
    for epoch in range(4):
        batches = sampler.batches(epoch)
        assert len(batches) == len(sampler) and all(batches)
        assert all(sum(costs[row] for row in batch if row >= 0) <= budget or len(batch) == 1 for batch in batches)
        rows = flat(batches)
        assert len(set(rows)) == len(rows) and (drop or sorted(rows) == list(range(len(costs))))
        assert sum(batch == [-1] for batch in batches) < world or sampler.windows > 1
        assert seed is not None or rows == sorted(rows)


@pytest.mark.parametrize("world", [1, 4])
def test_lengths_within_a_batch_are_similar(world: int) -> None:
    costs = log_normal(20_000)
    sampler = TokenBudget(costs, 8192, world=world, seed=0)
    batches = sampler.batches(0)
    random = RowSampler(len(costs), seed=0)
    fixed = torch.tensor(list(random)).split(round(sampler.rows_per_batch))
    assert waste(batches, costs) < 0.06 and waste([rows.tolist() for rows in fixed], costs) > 0.6
    assert int(costs.sum()) / (len(batches) * sampler.budget) > 0.95


def test_ranks_that_work_side_by_side_have_as_much_to_do() -> None:
    costs = log_normal(20_000)
    batches = TokenBudget(costs, 8192, world=4, seed=0).batches(0)
    tokens = torch.tensor([int(costs[batch].sum()) for batch in batches]).view(-1, 4).double()
    longest = torch.tensor([int(costs[batch].max()) for batch in batches]).view(-1, 4).double()
    assert (tokens.mean() / tokens.amax(1).mean()) > 0.95
    # Ranks have rows of one length, though the steps differ in it.
    assert longest.std(1).mean() < 0.15 * longest.std()


def test_epochs_put_other_rows_together_and_have_as_many_batches() -> None:
    costs = log_normal(20_000)
    sampler = TokenBudget(costs, 4096, seed=0)
    assert sampler.windows == 18
    epochs = [sampler.batches(epoch) for epoch in range(6)]
    needed = [len(sampler._composed(sampler._generator(epoch))) for epoch in range(6)]
    assert len(set(needed)) > 1 and max(needed) <= len(sampler) <= 1.01 * min(needed)
    assert {len(batches) for batches in epochs} == {len(sampler)}
    composed = [{frozenset(batch) for batch in batches} for batches in epochs]
    assert len(composed[0] & composed[1]) < 0.02 * len(sampler)
    assert [len(set(flat(batches))) for batches in epochs] == [20_000] * 6


def test_an_epoch_that_needs_more_batches_is_composed_as_the_first() -> None:
    costs = log_normal(20_000)
    sampler = TokenBudget(costs, 4096, seed=0)
    sampler.count = sampler.needed  # without the room for epochs that need more
    epoch = next(e for e in range(1, 20) if len(sampler._composed(sampler._generator(e))) > len(sampler))
    first, later = sampler.batches(0), sampler.batches(epoch)
    assert sorted(first) == sorted(later) and first != later


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    costs = log_normal(300)
    first = TokenBudget(costs, 2000, seed=0).batches(0)
    torch.rand(17)  # whatever else draws random numbers
    again = TokenBudget(costs, 2000, seed=0)
    again.batches(3)
    assert again.batches(0) == list(again) == first
    assert TokenBudget(costs, 2000, seed=1).batches(0) != first != again.batches(1)
    assert list(TokenBudget(costs, 2000, seed=0, epoch=lambda: 1)) == again.batches(1)


def test_rows_are_shuffled_as_by_the_row_sampler() -> None:
    """Among rows of one length, sorting leaves the shuffle as it is."""
    sampler = TokenBudget(torch.full((50,), 10), 30, seed=7)
    assert flat(sampler._composed(sampler._generator(2))) == list(RowSampler(50, seed=7, epoch=lambda: 2))


def test_without_a_shuffle_rows_stay_in_order() -> None:
    costs = torch.tensor([3, 3, 3, 9, 1, 1, 20, 2])
    assert list(TokenBudget(costs, 10)) == [[0, 1, 2], [3, 4], [5], [6], [7]]
    assert list(TokenBudget(costs, 10, world=3)) == [[0], [1, 2], [3, 4], [5], [6], [7]]


def test_ranks_take_distinct_batches_and_as_many() -> None:
    """As accelerate hands them out."""
    sampler = TokenBudget(log_normal(100), 1000, world=4, seed=0)
    shares = [list(BatchSamplerShard(sampler, 4, rank)) for rank in range(4)]
    assert {len(share) for share in shares} == {len(BatchSamplerShard(sampler, 4, 0))} == {len(sampler) // 4}
    assert [batch for group in zip(*shares, strict=True) for batch in group] == list(sampler)


def test_too_few_rows_are_filled_up() -> None:
    batches = list(TokenBudget(torch.tensor([5, 5, 5]), 100, world=4, seed=0))
    assert sorted(batches) == [[-1], [0], [1], [2]]


def test_what_is_left_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    sampler = TokenBudget(torch.full((26,), 10), 30, world=4, drop=True, seed=0)
    with caplog.at_level(logging.INFO):
        batches = sampler.batches(0)
    lost = 26 - len(set(flat(batches)))
    assert len(batches) == len(sampler) == 8 and [-1] not in batches and 1 < lost <= 3
    assert f"{lost} rows in 1 batches are left out of this epoch" in caplog.text


def test_rows_above_the_budget_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    sampler = TokenBudget(torch.tensor([5, 40, 5, 31, 30]), 30, seed=0)
    sampler.batches(0), sampler.batches(1)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "2 of 5 rows have more than 30 tokens (the longest 40): each is a batch of its own"
    ]
    assert sorted(map(sorted, sampler.batches(0))) == [[0, 2], [1], [3], [4]]


def test_a_budget_says_what_it_makes() -> None:
    said = str(TokenBudget(torch.full((90,), 10), 32))
    assert said == "30 batches an epoch, on average of 3.0 rows and 30 tokens (94% of max_tokens_per_batch)"


def test_tokens_of_rows() -> None:
    ids: list[dict[str, Any]] = [
        {"prompt_ids": [1, 2], "response_ids": [[1], [2, 3]]},
        {"prompt_ids": [], "response_ids": []},
        {"prompt_ids": [4], "response_ids": [[], [5, 6, 7], [1]]},
    ]
    rows = Dataset.from_list(ids)
    assert token_counts(rows).tolist() == [5, 0, 5]
    assert token_counts(rows.select([2, 1, 1])).tolist() == [5, 0, 0]
    assert token_counts(rows.select([])).tolist() == []
    many = ragged_pairs(2500)
    expected = [len(row["prompt_ids"]) + sum(map(len, row["response_ids"])) for row in many]
    assert token_counts(many).tolist() == expected


@pytest.mark.parametrize("world", [1, 3])
def test_a_pass_begins_with_the_longest_rows(world: int) -> None:
    costs = log_normal(100)
    shares = [shard_by_tokens(costs, 2500, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    rows = [flat(share) for share in shares]
    assert sorted(sum(rows, [])) == list(range(100))
    assert all(costs[share].tolist() == sorted(costs[share].tolist(), reverse=True) for share in rows)
    assert all(int(costs[flat([batch])].sum()) <= 2500 for share in shares for batch in share)


def test_the_cut() -> None:
    costs = torch.tensor([4, 6, 1, 30, 0, 10])
    assert split_by_tokens([0, 1, 2, 3, 4, 5], costs, 10) == [[0, 1], [2], [3], [4, 5]]
    assert split_by_tokens([], costs, 10) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch=0: a batch holds at least one token"),
        ({"max_tokens_per_batch": 100, "auto_find_batch_size": True}, "auto_find_batch_size changes a number of rows"),
    ],
)
def test_budgets_that_make_no_sense(args: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceConfig(**quiet(tmp_path, **args))


# ---- a run ---------------------------------------------------------------------------------------------------------


def run(tmp_path: Path, tokenizer: Any, **args: Any) -> tuple[PreferenceTrainer, list[list[int]]]:
    """A trainer that has trained on 40 rows, and the rows of each of its micro-batches."""
    config = PreferenceConfig(**quiet(tmp_path, max_tokens_per_batch=80, **args))
    trainer = PreferenceTrainer(tiny_llama(), "simpo", config, ragged_pairs(40), processing_class=tokenizer)
    seen: list[list[int]] = []
    real = trainer.step.count

    def spy(batches: list[Any]) -> Any:
        seen.extend(batch.index.tolist() for batch in batches)
        return real(batches)

    with mock.patch.object(trainer.step, "count", spy):
        trainer.train()
    return trainer, seen


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_sees_every_row_once_an_epoch(workers: int, tmp_path: Path, tokenizer: Any) -> None:
    few = partialmethod(TokenBudget.__init__, window=2)  # so that epochs need different numbers of batches
    with mock.patch.object(TokenBudget, "__init__", few):
        trainer, seen = run(tmp_path, tokenizer, num_train_epochs=3, dataloader_num_workers=workers)
        sampler = trainer.get_train_dataloader().batch_sampler
    assert isinstance(sampler, TokenBudget) and sampler.windows > 3
    assert len({len(sampler._composed(sampler._generator(epoch))) for epoch in range(3)}) > 1
    assert seen == [batch for epoch in range(3) for batch in sampler.batches(epoch)]
    steps = len(sampler)
    assert trainer.state.global_step == trainer.state.max_steps == 3 * steps
    for epoch in range(3):
        assert sorted(flat(seen[epoch * steps : (epoch + 1) * steps])) == list(range(40))
    epochs = [log["epoch"] for log in trainer.state.log_history if "loss" in log]
    assert epochs == pytest.approx([step / steps for step in range(1, 3 * steps + 1)])


def test_figures_of_a_run(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="prefopt"):
        trainer, seen = run(
            tmp_path, tokenizer, max_steps=4, gradient_accumulation_steps=2, per_device_train_batch_size=7
        )
    loader = trainer.get_train_dataloader()
    assert trainer.num_examples(loader) == 40 and len(seen) == 8
    assert f"training on {len(loader)} batches an epoch, on average of {40 / len(loader):.1f} rows" in caplog.text
    assert trainer.get_total_train_batch_size(trainer.args) == round(2 * 40 / len(loader))
    figures = trainer.state.log_history[-1]
    rows = figures["train_samples_per_second"] * figures["train_runtime"]
    assert rows == pytest.approx(4 * round(2 * 40 / len(loader)), rel=0.02)


def test_a_run_in_order(tmp_path: Path, tokenizer: Any) -> None:
    _, seen = run(tmp_path, tokenizer, num_train_epochs=2, train_sampling_strategy="sequential")
    assert sum(seen, []) == [*range(40), *range(40)]


def test_every_rank_gets_a_batch_even_where_surplus_is_dropped() -> None:
    batches = TokenBudget(torch.full((6,), 10), 1000, world=4, drop=True, seed=0)
    assert len(batches) == 4 and sorted(row for batch in batches for row in batch) == list(range(6))
