"""How the tokens of a batch lie in a model's input, and which hidden state speaks of which response token.

Two layouts: padded rows, which every model understands, and one packed row without padding in which a prompt stands
once for all of its responses. Tensors only: nothing here knows a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch


@dataclass(frozen=True)
class Packing:
    """Which tokens of a packed row belong together. Row: every prompt, followed by its responses one after the other.

    ======== ==== ============================================================
    group    [T]  which prompt a token belongs to
    response [T]  which of its responses, -1 for the prompt itself
    position [T]  position in the sequence that the model believes it reads
    lengths  [G, 1 + K] tokens of each prompt and of each of its responses
    ======== ==== ============================================================
    """

    group: Tensor
    response: Tensor
    position: Tensor
    lengths: Tensor

    @cached_property
    def segments(self) -> list[tuple[int, list[int]]]:
        """(prompt length, response lengths) of every prompt that is there, as numbers."""
        rows = [row for row in self.lengths.tolist() if sum(row)]
        return [(row[0], [n for n in row[1:] if n]) for row in rows]

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        """bool: tokens number `query` may see tokens number `key`, as far as they belong together."""
        same = self.group[query] == self.group[key]
        return same & ((self.response[key] == -1) | (self.response[key] == self.response[query]))


@dataclass(frozen=True)
class Layout:
    """A batch as input of the backbone. Hidden states are numbered through all rows of that input.

    ======= ========= ==================================================================================
    inputs            arguments of the backbone: token ids, attention mask, position ids
    before  [G, K, R] number of the hidden state that predicts response token t
    last    [G, K]    number of the hidden state at the last response token, if that was fed
    packing           what belongs together, None for padded rows
    ======= ========= ==================================================================================

    Numbers are valid only where `predictable` and `Batch.present` hold.
    """

    inputs: dict[str, Tensor]
    before: Tensor
    last: Tensor
    packing: Packing | None = None


def predictable(batch: Batch) -> Tensor:
    """[G, K, R]: response tokens that something predicts, which the first one after an empty prompt is not."""
    mask = batch.response_mask.clone()
    mask[..., 0] &= batch.prompt_mask.any(-1)[:, None]
    return mask


def padded(batch: Batch) -> Layout:
    """Prompt and response side by side, one row per response: [G*K, P+R]."""
    g, k, r = batch.response_ids.shape
    p = batch.prompt_ids.shape[1]
    ids = torch.cat([batch.prompt_ids.repeat_interleave(k, 0), batch.response_ids.flatten(0, 1)], 1)
    mask = torch.cat([batch.prompt_mask.repeat_interleave(k, 0), batch.response_mask.flatten(0, 1)], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    mask = mask | (~mask.any(1, keepdim=True))  # attention over no key at all is NaN; an absent row's output is masked
    number = torch.arange(ids.numel(), device=ids.device).view(g, k, p + r)
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}
    return Layout(inputs, number[..., p - 1 : -1], _last(number[..., p:], batch))


def packed(batch: Batch, *, whole: bool) -> Layout:
    """All prompts and responses in one row without padding, each prompt once: [1, T].

    The last token of a response predicts nothing, so it is fed only if `whole`: a reward head reads there.
    """
    mask = batch.response_mask
    fed = mask if whole else F.pad(mask[..., 1:], (0, 1))
    prompt = batch.prompt_mask & batch.present.any(-1, keepdim=True)
    cells = torch.cat([prompt, fed.flatten(1)], 1)  # row by row this is the order of the packed row
    number = cells.flatten().cumsum(0).view_as(cells) - 1
    p = prompt.shape[1]
    responses = number[:, p:].view_as(fed)
    before = torch.cat([number[:, p - 1, None, None].expand(-1, fed.shape[1], 1), responses[..., :-1]], -1)
    columns = torch.cat([batch.prompt_ids, batch.response_ids.flatten(1)], 1), *_owners(prompt, fed)
    ids, group, response, position = (column[cells] for column in columns)
    if not len(ids):  # a model has to run all the same, or ranks that have rows would wait for this one
        ids, group, response, position = (ids.new_zeros(1) for _ in range(4))
    lengths = torch.cat([prompt.sum(-1, keepdim=True), fed.sum(-1)], 1)
    packing = Packing(group, response, position, lengths)
    inputs = {"input_ids": ids[None], "position_ids": position[None], "attention_mask": torch.ones_like(ids)[None]}
    return Layout(inputs, before, _last(responses, batch), packing)


def _last(number: Tensor, batch: Batch) -> Tensor:
    """[G, K] out of [G, K, R]: the entry of each response's last token."""
    ends = (batch.response_mask.sum(-1, keepdim=True) - 1).clamp(min=0)
    return number.gather(-1, ends).squeeze(-1)


def _owners(prompt: Tensor, fed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Group, response and position of every cell. prompt: [G, P]; fed: [G, K, R] -> [G, P + K*R] each."""
    g, k, r = fed.shape
    device = fed.device
    lengths = prompt.sum(-1)
    group = torch.arange(g, device=device)[:, None].expand(g, prompt.shape[1] + k * r)
    order = torch.arange(k, device=device)[:, None].expand(k, r).flatten().expand(g, -1)
    response = torch.cat([torch.full_like(prompt, -1, dtype=torch.long), order], 1)
    after = lengths[:, None, None] + torch.arange(r, device=device).expand(g, k, r)
    position = torch.cat([(prompt.cumsum(1) - 1).clamp(min=0), after.flatten(1)], 1)
    return group, response, position
