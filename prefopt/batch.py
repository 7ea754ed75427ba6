"""`Batch`, the rows that go into a model, and `Outputs`, what comes out of it: all that an objective is given.

Shape letters, the same in every file:

    G  prompts in the batch (the first axis is always prompts)
    K  responses per prompt, best first when an order is known; a preference pair is K = 2
    P  prompt positions, left padded
    R  response positions, right padded
    V  vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Batch(dict[str, Tensor]):
    """The encoded rows of one batch: a dict of tensors, whose columns are attributes too.

    ============== ========= ==============================================================================
    prompt_ids     [G, P]    left padded
    prompt_mask    [G, P]    bool
    response_ids   [G, K, R] right padded
    response_mask  [G, K, R] bool: the token exists and is attended; an absent response is all False
    loss_mask      [G, K, R] bool, a subset of response_mask: what log-probs, lengths, KL and sizes count
    index          [G]       row number in the dataset, -1 for a row that only fills up the batch
    score          [G, K]    what a scorer gave each response, if known
    margin         [G]       required gap between the scores of a pair, if known
    grade          [G]       index into GRADES, -1 where unknown, if known
    label          [G]       bool: the one response of an unpaired row is a good one, if the rows are unpaired
    ref_logps      [G, K, R] response log-probs under the reference, if an objective needs them
    finished       [G, K]    bool: the response ended by itself and was not truncated, if it was sampled
    ============== ========= ==============================================================================

    A column of one axis is about prompts, of two about responses, of three about tokens. Columns that an on-policy
    objective adds to a rollout are described there, see `objectives/ppo.py`. It is a dict so that Trainer and
    accelerate can move it.
    """

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this batch has no column {name!r}; it has {sorted(self)}") from None

    def with_columns(self, **columns: Tensor) -> Batch:
        """The batch with these columns added or replaced; its tensors are shared, not copied."""
        return Batch({**self, **columns})

    def rows(self, select: slice | Tensor) -> Batch:
        """The batch of some of the prompts, which a slice, a boolean mask or indices select."""
        return Batch({name: column[select] for name, column in self.items()})

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        return Batch({name: column.to(device) for name, column in self.items()})

    def trimmed(self) -> Batch:
        """The batch without the positions that no prompt, or no response, of it has."""
        absent = int((~self.prompt_mask.any(0)).cumprod(0).sum())
        longest = int(self.response_mask.flatten(0, 1).sum(-1).max())
        tokens = {name: column[..., : max(longest, 1)] for name, column in self.items() if column.dim() == 3}
        prompts = {name: self[name][:, absent:] for name in ("prompt_ids", "prompt_mask")}
        return self.with_columns(**tokens, **prompts)

    @property
    def present(self) -> Tensor:
        """Which responses exist: [G, K] bool"""
        return self.response_mask.any(-1)

    @property
    def lengths(self) -> Tensor:
        """How many tokens of each response count: [G, K]"""
        return self.loss_mask.sum(-1)

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (dict(self),)


@dataclass(frozen=True)
class Outputs:
    """A model's outputs on a batch. A field is None unless it was asked for, and 0 at masked positions.

    ============= ========= ==============================================================================
    logps         [G, K, R] log-prob of response token t, in nats, from the state that predicts t
    values        [G, K, R] value before response token t, from the same state: a baseline must not see the action
    scores        [G, K]    the reward head's score, from the state at the last response token
    entropy       [G, K, R] entropy of the model's distribution of token t, in nats
    top1          [G, K, R] 1 where token t was the most probable one
    log_sum_sq    [G, K, R] log of the sum over the vocabulary of squared probabilities (WPO's normaliser)
    ============= ========= ==============================================================================
    """

    logps: Tensor | None = None
    values: Tensor | None = None
    scores: Tensor | None = None
    entropy: Tensor | None = None
    top1: Tensor | None = None
    log_sum_sq: Tensor | None = None

    def detached(self) -> Outputs:
        """The same outputs, without a gradient."""
        return Outputs(**{name: value if value is None else value.detach() for name, value in vars(self).items()})

    def required(self, name: str) -> Tensor:
        """The field of this name.

        Raises:
            ValueError: it was not computed, since nobody asked for it.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"Outputs.{name} was not computed: name it in the objective's `wants` or `trains`")
        return value


def fill_rows(batch: Batch, count: int) -> Batch:
    """Add `count` absent prompts to a batch: every mask False, index -1."""
    return Batch({name: torch.cat([column, _empty(name, column, count)]) for name, column in batch.items()})


def join(parts: Sequence[Batch]) -> Batch:
    """Put batches together: the prompts of all parts, in their order, padded to common widths.

    A column that a part lacks is 0 in the part's rows; `index` and `grade` are -1.
    """
    examples = {name: column for part in parts for name, column in part.items()}
    filled = [{name: _column_of(part, name, example) for name, example in examples.items()} for part in parts]
    widths = [max(sizes) for sizes in zip(*(part["response_ids"].shape[1:] for part in filled), strict=True)]
    prompt = [max(part["prompt_ids"].shape[1] for part in filled)]

    def joined(name: str) -> Tensor:
        left = name.startswith("prompt_")
        return torch.cat([_padded(part[name], prompt if left else widths, left=left) for part in filled])

    return Batch({name: joined(name) for name in examples})


def _column_of(part: Batch, name: str, example: Tensor) -> Tensor:
    return part[name] if name in part else _empty(name, example, len(part.prompt_ids))


def _padded(column: Tensor, widths: list[int], *, left: bool) -> Tensor:
    """The column with zeros to the right of every axis but the first, or to the left, up to `widths`."""
    missing = [width - size for width, size in zip(widths, column.shape[1:], strict=False)]
    amounts = [amount for count in reversed(missing) for amount in ((count, 0) if left else (0, count))]
    return F.pad(column, amounts) if any(amounts) else column


def _empty(name: str, column: Tensor, count: int) -> Tensor:
    """The column of `count` absent prompts."""
    return column.new_full((count, *column.shape[1:]), -1 if name in ("index", "grade") else 0)
