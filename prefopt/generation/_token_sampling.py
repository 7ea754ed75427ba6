"""How a token is sampled from logits: the distribution, and the random numbers of a response (`uniform_stream`).

The token that is sampled stands at its uniform number's quantile (the inverse of the cumulative distribution, in the
order of token ids), so that a response depends on its own numbers and on nothing that is sampled beside it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.tensors import upcast

BLOCK = 256
"""Probabilities summed before the cumulative sum: a cumulative sum over a whole vocabulary costs more than its exp."""
CHUNK = 2**20
"""Logits sampled from at a time: what fits in a processor's cache, since large temporaries cost more than the exp."""
NUCLEUS = 64
"""The likeliest tokens among which the nucleus is looked for first, then among eight times as many, and so on."""


def uniform_stream(length: int, *key: int | str) -> Tensor:
    """The random numbers of one response: uniform in [0, 1), one for each of its tokens: [length], float64.

    Args:
        key: all that they depend on, such as (seed, round, iteration, key of the prompt, number of the response).
    """
    key_hash = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key_hash, "big") >> 1)
    return torch.rand(length, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Distribution:
    """What is sampled from: the policy's distribution after a penalty, a temperature and two cuts, in this order.

    ================== ================================================================================================
    temperature        divides the logits; 0 takes the likeliest token (after the penalty)
    top_k              keeps the k likeliest tokens, 0 all of them
    top_p              keeps the fewest likeliest tokens that together reach this probability, 1 all of them
    repetition_penalty divides positive and multiplies negative logits of tokens that the prompt or response has (CTRL,
                       Keskar et al. 2019, section 4.1), 1 leaves them
    ================== ================================================================================================

    As transformers' processors, except that tokens exactly as likely as the last one kept by top_p are kept too: which
    of them sorting puts first is chance.

    Raises:
        ValueError: a setting outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be a number from 0; 0 is greedy")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"top_p={self.top_p} must be in (0, 1], top_k={self.top_k} at least 0; 1 and 0 keep every token"
            )
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty={self.repetition_penalty} must be positive; 1 leaves all as it is")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, without chance."""
        return self.temperature == 0

    @property
    def depends_on_seen(self) -> bool:
        """Whether the distribution depends on the tokens that prompt and response have."""
        return self.repetition_penalty != 1

    def adjusted(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """The logits that are sampled from, -inf for tokens that are cut: [R, V] -> [R, V].

        Args:
            seen: [R, V], True for tokens that the prompt or response of a row has; unread without a penalty.
        """
        if self.depends_on_seen and seen is not None:
            penalised = torch.where(logits < 0, logits * self.repetition_penalty, logits / self.repetition_penalty)
            logits = torch.where(seen, penalised, logits)
        if self.temperature not in (0, 1):
            logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            logits = _at_least(logits, logits.topk(self.top_k).values[:, -1:])
        if self.top_p < 1:
            logits = _at_least(logits, _nucleus_edge(logits, _log_sum_exp(logits), self.top_p))
        return logits

    def sample(self, logits: Tensor, uniforms: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The next token of every row, and its log-prob under the policy's own distribution: [R] each.

        Args:
            logits: [R, V], the policy's, untouched.
            uniforms: [R] in [0, 1), float64; unread if greedy.
            seen: [R, V], see `adjusted`.
        """
        size = max(1, CHUNK // logits.shape[-1])
        logit_parts = logits.split(size)
        seen_parts = [None] * len(logit_parts) if seen is None else seen.split(size)
        parts = zip(logit_parts, uniforms.split(size), seen_parts, strict=True)
        tokens, logps = zip(*(self._sample(*part) for part in parts), strict=True)
        return torch.cat(tokens), torch.cat(logps)

    def _sample(self, logits: Tensor, uniforms: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = upcast(logits)
        adjusted = self.adjusted(logits, seen)
        if self.greedy:
            tokens = adjusted.argmax(-1)
            return tokens, _picked(logits, tokens) - _log_sum_exp(logits)[:, 0]
        tokens, log_total = _at_quantile(adjusted, uniforms)
        return tokens, _picked(logits, tokens) - (log_total if adjusted is logits else _log_sum_exp(logits)[:, 0])


def _picked(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index[:, None])[:, 0]


def _at_least(logits: Tensor, edge: Tensor) -> Tensor:
    return logits.masked_fill(logits < edge, -torch.inf)


def _log_sum_exp(logits: Tensor) -> Tensor:
    """log sum exp, in a third of the time of torch's own: [R, V] -> [R, 1]. Each row has a finite logit."""
    top = logits.amax(-1, keepdim=True)
    return top + (logits - top).exp_().sum(-1, keepdim=True).log()


def _nucleus_edge(logits: Tensor, log_total: Tensor, top_p: float, size: int = NUCLEUS) -> Tensor:
    """The logit of the last token that top_p keeps: [R, V] -> [R, 1]. log_total: [R, 1].

    Sorting a vocabulary costs as much as a small model's step, so only the likeliest tokens are sorted.
    """
    likeliest = logits.topk(min(size, logits.shape[-1])).values
    reached = (likeliest - log_total).exp().cumsum(-1, dtype=torch.float64)
    last = (reached < top_p).sum(-1, keepdim=True).clamp(max=likeliest.shape[-1] - 1)
    edge = likeliest.gather(-1, last)
    too_few = (reached[:, -1] < top_p).nonzero()[:, 0]
    if size < logits.shape[-1] and len(too_few):
        edge[too_few] = _nucleus_edge(logits[too_few], log_total[too_few], top_p, 8 * size)
    return edge


def _at_quantile(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The token at each row's quantile, and the log of what its probabilities are divided by: [R] each.

    First the block of tokens in which the quantile lies, then the token in the block.
    """
    top = logits.amax(-1, keepdim=True)
    mass = (logits - top).exp_()
    whole = mass.shape[-1] // BLOCK * BLOCK
    blocks = torch.cat([mass[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1), mass[:, whole:].sum(-1, keepdim=True)], -1)
    block, share, total = _at_share(blocks, uniforms)
    index = block[:, None] * BLOCK + torch.arange(BLOCK, device=logits.device)
    inside = index < mass.shape[-1]
    within = mass.gather(-1, index.clamp(max=mass.shape[-1] - 1)).masked_fill(~inside, 0.0)
    tokens = (block * BLOCK + _at_share(within, share)[0]).clamp(max=mass.shape[-1] - 1)  # where the mass is NaN
    return tokens, top[:, 0] + total.log().to(top.dtype)


def _at_share(mass: Tensor, quantile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the share `quantile` of the mass ends: the index, how far into it (a share of it), and the whole mass.

    mass: [R, N] from 0; quantile: [R] in [0, 1] -> [R] each. An entry without mass is never found, whatever rounding
    does.
    """
    cumulative = mass.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()  # or searchsorted copies it, and warns
    target = quantile.to(mass.device)[:, None] * total
    index = torch.searchsorted(cumulative, target, right=True)
    index = torch.minimum(index, torch.searchsorted(cumulative, total))  # the first to reach it all has mass
    index = index.clamp(max=mass.shape[-1] - 1)  # where the mass is NaN
    own = mass.gather(-1, index).double()
    share = ((target - cumulative.gather(-1, index) + own) / own).clamp(0, 1)
    return index[:, 0], share[:, 0], total[:, 0]
