"""Who batches, by rows or by tokens: which rows make a batch, and in which order batches come.

Only the lengths of rows count here, not what is in them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler

from ..utils.renamed import renamed

logger = logging.getLogger(__name__)

Batches = list[list[int]]
"""The row numbers of each batch; -1 is a row that only fills up."""

WINDOW = 64
"""How many batches' rows are sorted together: so many that lengths within a batch are close, and few enough that an
epoch of some hundred batches puts other rows together than the one before."""


class RowSampler(Sampler[int]):
    """Row numbers for batches of a fixed number of rows, in an order that depends on the seed and the epoch only.

    There are as many as a multiple of `multiple`, so that ranks take whole batches of distinct rows: nothing is trained
    or counted twice to make ranks even.

    Args:
        size: how many rows there are.
        multiple: rows that all ranks take together.
        drop: leave the last, smaller part out, instead of filling it up with -1.
        seed: of the shuffle; None keeps the rows in order.
        epoch: says which epoch begins.
    """

    def __init__(
        self,
        size: int,
        *,
        multiple: int = 1,
        drop: bool = False,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
    ):
        self.size, self.multiple, self.drop, self.seed, self.epoch = size, multiple, drop, seed, epoch

    def __len__(self) -> int:
        whole = self.size // self.multiple if self.drop else -(-self.size // self.multiple)
        return whole * self.multiple

    def __iter__(self) -> Iterator[int]:
        rows = torch.arange(self.size)
        if self.seed is not None:
            rows = torch.randperm(self.size, generator=_generator(self.seed, self.epoch()))
        yield from rows[: len(self)].tolist()
        yield from [-1] * (len(self) - self.size)


class TokenBudget(Sampler[list[int]]):
    """Batches of as many rows as fit in a number of tokens, composed by the seed and the epoch only.

    Rows are shuffled as by `RowSampler`, sorted by length within windows so that a batch holds similar lengths, and cut
    into batches. Each `world` consecutive batches are as long as each other and go to the ranks side by side, so that
    none waits long; these groups are shuffled. Without a seed the rows stay in order.

    Trainer counts steps, and finds its place after a resume, by a number of batches that is the same in every epoch,
    while rows that are put together anew may need a few batches more or less. So the number is what epoch 0 needs and a
    little room, and an epoch that needs fewer has some batches cut in two. One that needs more, which the room makes
    rare, puts rows together as epoch 0 does.

    Args:
        costs: [N], tokens of each row.
        budget: tokens of a batch; a row that has more is a batch of its own.
        world: the number of batches is a multiple of it; if there are too few rows for that, batches [-1] fill up.
        drop: where they are no such multiple, leave batches out instead of cutting more in two.
        seed: of the shuffle; None keeps the rows in order.
        epoch: says which epoch begins.
        window: how many batches' rows are sorted together.
    """

    def __init__(
        self,
        costs: Tensor,
        budget: int,
        *,
        world: int = 1,
        drop: bool = False,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
        window: int = WINDOW,
    ):
        self.costs, self.budget, self.world, self.drop, self.seed, self.epoch = costs, budget, world, drop, seed, epoch
        self.windows = max(1, round(int(costs.sum()) / budget / window))
        self.needed = len(self._composed(self._generator(0)))
        wanted = self.needed + self._room()
        several = max(wanted // world, min(wanted, 1)) if drop else -(-wanted // world)
        self.count = several * world
        self._warn_of_long_rows()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches(self.epoch()))

    def __str__(self) -> str:
        tokens = self.costs.double().mean() * self.rows_per_batch
        return (
            f"{self.count} batches an epoch, on average of {self.rows_per_batch:.1f} rows and {tokens:.0f} tokens "
            f"({tokens / self.budget:.0%} of max_tokens_per_batch)"
        )

    @property
    def rows_per_batch(self) -> float:
        """The mean over an epoch."""
        return len(self.costs) / max(1, self.count, self.needed)  # some of which `drop` may leave out

    def batches(self, epoch: int) -> Batches:
        """The row numbers of every batch of an epoch; batch i is for rank i % world."""
        generator = self._generator(epoch)
        batches = self._composed(generator)
        if len(batches) > self.count and not self.drop:
            batches = self._composed(self._generator(0))
        if len(batches) > self.count:
            batches = self._without_surplus(batches, generator)
        batches = _divided(batches, self.count)
        return batches if generator is None else self._shuffled(batches, generator)

    def _generator(self, epoch: int) -> torch.Generator | None:
        return None if self.seed is None else _generator(self.seed, epoch)

    def _room(self) -> int:
        """How many batches more than epoch 0 another epoch may need: a sum over windows varies as their root."""
        return 0 if self.seed is None or self.windows == 1 else 2 * math.isqrt(self.windows)

    def _composed(self, generator: torch.Generator | None) -> Batches:
        """Batches of a random order of the rows, sorted by length within windows; in order without a generator."""
        if generator is None:
            return split_by_tokens(range(len(self.costs)), self.costs, self.budget)
        rows = torch.randperm(len(self.costs), generator=generator)
        # Up and down in turns: a batch across two windows holds similar lengths too.
        ordered = [
            window[self.costs[window].argsort(stable=True, descending=bool(number % 2))]
            for number, window in enumerate(rows.tensor_split(self.windows))
        ]
        return split_by_tokens(torch.cat(ordered).tolist(), self.costs, self.budget)

    def _without_surplus(self, batches: Batches, generator: torch.Generator | None) -> Batches:
        # The last ones are all long or all short, so chance decides which go.
        count = len(batches)
        places = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        kept = [batches[place] for place in sorted(places[: self.count].tolist())]
        gone = sum(map(len, batches)) - sum(map(len, kept))
        logger.info("%d rows in %d batches are left out of this epoch", gone, len(batches) - len(kept))
        return kept

    def _shuffled(self, batches: Batches, generator: torch.Generator) -> Batches:
        """The same batches in a random order, those that go to the ranks side by side kept together."""
        groups = [batches[start : start + self.world] for start in range(0, len(batches), self.world)]
        return [batch for place in torch.randperm(len(groups), generator=generator).tolist() for batch in groups[place]]

    def _warn_of_long_rows(self) -> None:
        longer = self.costs[self.costs > self.budget]
        if len(longer):
            logger.warning(
                "%d of %d rows have more than %d tokens (the longest %d): each is a batch of its own",
                *(len(longer), len(self.costs), self.budget, int(longer.max())),
            )


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def split_by_tokens(numbers: Iterable[int], costs: Tensor, budget: int) -> Batches:
    """Row numbers, in order, in batches of at most `budget` tokens; a row that has more is a batch of its own.

    Args:
        numbers: of the rows.
        costs: [N], tokens of each row, by its number.
        budget: tokens of a batch.
    """
    tokens = costs.tolist()
    batches: Batches = []
    room = -1
    for number in numbers:
        room -= tokens[number]
        if room < 0:
            batches.append([])
            room = budget - tokens[number]
        batches[-1].append(number)
    return batches


def _divided(batches: Batches, count: int) -> Batches:
    """The same rows in `count` batches: those of most rows are halved, and [-1] fill up what single rows leave."""
    while (missing := count - len(batches)) > 0 and any(len(batch) > 1 for batch in batches):
        several = [place for place, batch in enumerate(batches) if len(batch) > 1]
        halved = set(sorted(several, key=lambda place: -len(batches[place]))[:missing])
        batches = [part for place, batch in enumerate(batches) for part in _parts(batch, place in halved)]
    return batches + [[-1]] * (count - len(batches))


def _parts(batch: list[int], halve: bool) -> Batches:
    """A batch in two, or as it is."""
    half = len(batch) // 2
    return [batch[:half], batch[half:]] if halve else [batch]


def token_counts(dataset: Dataset) -> Tensor:
    """Tokens of each encoded row, [N]: those of its prompt once and those of all its responses."""
    columns = dataset.select_columns(["prompt_ids", "response_ids"]).with_format("arrow")
    counts = [_lengths(part["prompt_ids"]) + _inner_lengths(part["response_ids"]) for part in columns.iter(1000)]
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *counts]))


def sequence_lengths(dataset: Dataset) -> list[int]:
    """Tokens of the prompt and the longest response of each encoded row."""
    columns = dataset.select_columns(["prompt_ids", "response_ids"]).with_format("arrow")
    lengths: list[int] = []
    for part in columns.iter(1000):
        lengths += (_lengths(part["prompt_ids"]) + _longest(part["response_ids"])).tolist()
    return lengths


def _longest(lists: Any) -> np.ndarray:
    """Of each list of lists, the length of its longest list, 0 without any."""
    counts = _lengths(lists)
    longest = np.zeros(len(counts), dtype=np.int64)
    np.maximum.at(longest, np.repeat(np.arange(len(counts)), counts), _lengths(lists.combine_chunks().flatten()))
    return longest


def _lengths(lists: Any) -> np.ndarray:
    """The length of each list of a pyarrow column of lists."""
    return pc.list_value_length(lists).to_numpy().astype(np.int64)


def _inner_lengths(lists: Any) -> np.ndarray:
    """Of each list of lists, the length of all its lists together."""
    before = np.cumsum([0, *_lengths(lists.combine_chunks().flatten())])
    return np.diff(before[np.cumsum([0, *_lengths(lists)])])


def shard(size: int, rank: int, world: int, fill: int) -> list[int]:
    """Row numbers of one rank for an evaluation, filled up with -1 so that all ranks have as many batches of `fill`.

    Args:
        size: how many rows there are.
        rank: which of the `world` processes this is.
    """
    own = list(range(rank, size, world))
    longest = -(-size // world)
    return own + [-1] * (-(-longest // fill) * fill - len(own) if world > 1 else 0)


def shard_by_tokens(costs: Tensor, budget: int, rank: int, world: int) -> Batches:
    """Batches of one rank for a pass over all rows, the longest rows first; all ranks have as many, [-1] at the end."""
    batches = split_by_tokens(costs.argsort(stable=True, descending=True).tolist(), costs, budget)
    own = batches[rank::world]
    return own + [[-1]] * (-(-len(batches) // world) - len(own))


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Order": "RowSampler", "cut": "split_by_tokens"})
