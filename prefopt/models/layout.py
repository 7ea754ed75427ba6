"""Lays the tokens of a batch out as a model's input, and says which hidden state predicts which response token.

There are two layouts: padded rows, which every causal model understands, and one packed row without padding, in which a
prompt stands once for all of its responses. Which one a model runs on is decided in `layout_selection.py`.
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
    """Says which tokens of a packed row belong together: the row holds each prompt, then the prompt's responses.

    ======== ========== ==============================================================
    group    [T]        which prompt a token belongs to
    response [T]        which response to that prompt, -1 for the prompt itself
    position [T]        position of the token in its sequence of prompt and response
    lengths  [G, 1 + K] how many tokens each prompt has, and each response to it
    ======== ========== ==============================================================
    """

    group: Tensor
    response: Tensor
    position: Tensor
    lengths: Tensor

    @cached_property
    def segments(self) -> list[tuple[int, list[int]]]:
        """(prompt length, response lengths) of every group that has tokens, as numbers."""
        groups = [lengths for lengths in self.lengths.tolist() if sum(lengths)]
        return [(lengths[0], [n for n in lengths[1:] if n]) for lengths in groups]

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether two tokens are of one prompt and response, so that the first may see the second if it is earlier.

        Args:
            query, key: numbers of tokens in the row, of shapes that broadcast.

        Returns:
            bool, of the shape that both broadcast to.
        """
        same = self.group[query] == self.group[key]
        return same & ((self.response[key] == -1) | (self.response[key] == self.response[query]))


@dataclass(frozen=True)
class Layout:
    """A batch as input of the backbone. Hidden states are numbered through all rows of that input.

    ======= ========= ==================================================================================
    inputs            arguments of the backbone: token ids, attention mask, position ids
    before  [G, K, R] number of the hidden state that predicts response token t, where `predictable`
    last    [G, K]    number of the hidden state at the last response token, where the response is
                      present and its last token was fed
    packing           which tokens of a packed row belong together, None for padded rows
    ======= ========= ==================================================================================
    """

    inputs: dict[str, Tensor]
    before: Tensor
    last: Tensor
    packing: Packing | None = None

    @property
    def sequence_lengths(self) -> Tensor:
        """How many tokens of this input the sequence of each token has; of a prompt, that of its longest response.

        [B, 1] for padded rows, [1, T] for a packed one.
        """
        if self.packing is None:
            return self.inputs["attention_mask"].sum(1, keepdim=True)
        lengths, response = self.packing.lengths, self.packing.response
        totals = lengths[:, :1] + lengths[:, 1:]
        longest = totals.amax(1)[self.packing.group]
        own = totals[self.packing.group, response.clamp(min=0)]
        return torch.where(response == -1, longest, own)[None]


def predictable(batch: Batch) -> Tensor:
    """Which response tokens have a token before them, to predict them from: [G, K, R] bool.

    All but the first token of a response to an empty prompt.
    """
    mask = batch.response_mask.clone()
    mask[..., 0] &= batch.prompt_mask.any(-1)[:, None]
    return mask


def padded(batch: Batch) -> Layout:
    """Lay each response out after its prompt, in a row of its own that is padded at its end: inputs [G*K, P+R].

    Padding before a row would reach into it through convolutions and recurrences, some of which know no mask (RWKV's
    and RecurrentGemma's, in transformers 5.23). Nothing that comes after a token reaches it.
    """
    g, k, r = batch.response_ids.shape
    p = batch.prompt_ids.shape[1]
    ids = torch.cat([batch.prompt_ids.repeat_interleave(k, 0), batch.response_ids.flatten(0, 1)], 1)
    mask = torch.cat([batch.prompt_mask.repeat_interleave(k, 0), batch.response_mask.flatten(0, 1)], 1)
    order = mask.sort(dim=1, descending=True, stable=True).indices  # the tokens of a row first, as they are ordered
    ids, mask = ids.gather(1, order), mask.gather(1, order)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    mask = mask | (~mask.any(1, keepdim=True))  # attention over no key at all is NaN; an absent row's output is masked
    rows = torch.arange(g * k, device=ids.device).view(g, k, 1) * (p + r)
    responses = rows + batch.prompt_mask.sum(1)[:, None, None] + torch.arange(r, device=ids.device)
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}
    return Layout(inputs, (responses - 1).clamp(min=0), _last(responses, batch))


def packed(batch: Batch, *, whole: bool) -> Layout:
    """Lay all prompts and responses out in one row without padding, each prompt once: inputs of shape [1, T].

    Args:
        whole: feed the last token of each response too, where a reward head reads, or what is computed depends on how
            long a sequence is. It predicts nothing, so otherwise it is left out.
    """
    mask = batch.response_mask
    fed = mask if whole else F.pad(mask[..., 1:], (0, 1))
    prompt = batch.prompt_mask & batch.present.any(-1, keepdim=True)
    cells = torch.cat([prompt, fed.flatten(1)], 1)  # row by row this is the order of the packed row
    numbers = cells.flatten().cumsum(0).view_as(cells) - 1
    p = prompt.shape[1]
    responses = numbers[:, p:].view_as(fed)
    before = torch.cat([numbers[:, p - 1, None, None].expand(-1, fed.shape[1], 1), responses[..., :-1]], -1)
    columns = torch.cat([batch.prompt_ids, batch.response_ids.flatten(1)], 1), *_owners(prompt, fed)
    ids, group, response, position = (column[cells] for column in columns)
    if not len(ids):  # a model has to run all the same, or ranks that have rows would wait for this one
        ids, group, response, position = (ids.new_zeros(1) for _ in range(4))
    lengths = torch.cat([prompt.sum(-1, keepdim=True), fed.sum(-1)], 1)
    packing = Packing(group, response, position, lengths)
    inputs = {"input_ids": ids[None], "position_ids": position[None], "attention_mask": torch.ones_like(ids)[None]}
    return Layout(inputs, before, _last(responses, batch), packing)


def _last(numbers: Tensor, batch: Batch) -> Tensor:
    """The entry of each response's last token: [G, K, R] -> [G, K]"""
    ends = (batch.response_mask.sum(-1, keepdim=True) - 1).clamp(min=0)
    return numbers.gather(-1, ends).squeeze(-1)


def _owners(prompt: Tensor, fed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Group, response and position of every cell, see `Packing`.

    Args:
        prompt: [G, P] bool, which cells of the prompts are in the row.
        fed: [G, K, R] bool, which cells of the responses are.

    Returns:
        [G, P + K*R] each.
    """
    g, k, r = fed.shape
    device = fed.device
    lengths = prompt.sum(-1)
    group = torch.arange(g, device=device)[:, None].expand(g, prompt.shape[1] + k * r)
    number = torch.arange(k, device=device)[:, None].expand(k, r).flatten().expand(g, -1)
    response = torch.cat([torch.full_like(prompt, -1, dtype=torch.long), number], 1)
    after = lengths[:, None, None] + torch.arange(r, device=device).expand(g, k, r)
    position = torch.cat([(prompt.cumsum(1) - 1).clamp(min=0), after.flatten(1)], 1)
    return group, response, position
