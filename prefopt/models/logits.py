"""From hidden states to log-probs and what goes with them, a chunk of tokens at a time: the logits of a vocabulary are
large, and nothing needs all of them at once. Knows a head, not a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ..utils.tensors import wide

FROM_LOGITS = frozenset({"logps", "entropy", "top1", "log_sum_sq"})
CHUNK = 2**24
"""Logits computed at a time: 64 MiB in float32."""
KEPT = 2**26
"""Logits kept for the backward pass rather than computed again: 256 MiB in float32."""


@dataclass(frozen=True, eq=False)
class DenseHead:
    """A head whose weights are at hand: logits = cap tanh(scale (h W' + b) / cap), without the tanh if cap is None."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.shaped(nn.functional.linear(hidden, self.weight, self.bias))

    def shaped(self, logits: Tensor) -> Tensor:
        """What follows the matrix product."""
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


Head = DenseHead | Callable[[Tensor], Tensor]
"""[n, H] -> [n, V]. A callable is called chunk by chunk, twice if there is not the memory to keep its logits."""


def token_outputs(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    vocab: int,
    wants: frozenset[str],
    *,
    chunk: int = CHUNK,
    kept: int = KEPT,
) -> dict[str, Tensor]:
    """Outputs of each token from the hidden state that predicts it, in at least float32.

    Args:
        head: how hidden states become logits.
        hidden: [N, H]
        tokens: [N]
        vocab: how many logits the head gives.
        wants: a subset of `FROM_LOGITS`.
        chunk: logits computed at a time.
        kept: so many logits are kept for the backward pass, and where there are more they are computed again.

    Returns:
        [N] each; all but top1 are differentiable.
    """
    if isinstance(head, DenseHead):
        keep = torch.is_grad_enabled() and head.cap is None and len(tokens) * vocab <= kept
        found = _Dense.apply(hidden, head.weight, head.bias, tokens, head, wants, keep, chunk)
        return dict(zip(sorted(wants), found, strict=True))
    run: Callable[..., dict[str, Tensor]] = _of_chunk
    if torch.is_grad_enabled() and len(tokens) * vocab > kept:
        run = lambda *args: checkpoint(_of_chunk, *args, use_reentrant=False)  # type: ignore[return-value] # noqa: E731
    parts = [run(head, hidden[s], tokens[s], wants) for s in _chunks(len(tokens), vocab, chunk)]
    return {name: torch.cat([part[name] for part in parts]) for name in sorted(wants)}


def _chunks(count: int, vocab: int, chunk: int) -> list[slice]:
    """Of equal size, and at least one: weights that nothing was computed from still get a gradient of zero."""
    pieces = max(1, -(-count * vocab // chunk))
    step = max(1, -(-count // pieces))
    return [slice(start, start + step) for start in range(0, max(count, 1), step)]


def _of_chunk(head: Callable[[Tensor], Tensor], hidden: Tensor, tokens: Tensor, wants: frozenset[str]) -> Any:
    return from_logits(wide(head(hidden)), tokens, wants)


def from_logits(logits: Tensor, tokens: Tensor, wants: frozenset[str]) -> dict[str, Tensor]:
    """logits: [N, V]; tokens: [N] -> [N] each."""
    norm = logits.logsumexp(-1)
    picked = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    compute: dict[str, Callable[[], Tensor]] = {
        "logps": lambda: picked - norm,
        "entropy": lambda: _entropy(logits.log_softmax(-1)),
        "top1": lambda: (picked >= logits.amax(-1)).to(logits.dtype),
        "log_sum_sq": lambda: (2 * logits).logsumexp(-1) - 2 * norm,
    }
    return {name: compute[name]() for name in sorted(wants)}


def _entropy(logps: Tensor) -> Tensor:
    """[N, V] -> [N]. A token that is ruled out has a log-prob of -inf, and adds nothing."""
    return -(logps.exp() * logps.clamp(min=torch.finfo(logps.dtype).min)).sum(-1)


class _Dense(torch.autograd.Function):
    """The same for a dense head, with its gradient written out.

    With z the logits, p = softmax(z), H = -sum p log p and S = log sum p^2,

        d logp_t / dz = 1_t - p,    dH / dz = -p (log p + H),    dS / dz = 2 (p^2 / e^S - p).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        head: DenseHead,
        wants: frozenset[str],
        keep: bool,
        chunk: int,
    ) -> tuple[Tensor, ...]:
        device = hidden.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        ctx.head, ctx.low, ctx.names, ctx.kept = head, low, sorted(wants), []
        ctx.chunks = _chunks(len(tokens), len(weight), chunk)
        parts = []
        with torch.autocast(device, enabled=False):
            shown = weight.to(low)
            for s in ctx.chunks:
                found, probs = _consumed(_logits(hidden[s].to(low), shown, bias, head), tokens[s], wants)
                parts.append(found)
                if keep:
                    ctx.kept.append(probs)
        columns = {name: torch.cat([part[name] for part in parts]) for name in ("norm", *ctx.names)}
        ctx.save_for_backward(hidden, weight, bias, tokens, *columns.values())
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*[columns[name] for name in ctx.names if name == "top1"])
        return tuple(columns[name] for name in ctx.names)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens, norm, *values = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, []  # a second backward pass computes them again
        given = {n: g for n, g in zip(ctx.names, grads, strict=True) if g is not None and n != "top1"}
        known = dict(zip(ctx.names, values, strict=True))
        totals = _Totals(weight.to(ctx.low), hidden, weight, bias, ctx.needs_input_grad)
        for i, s in enumerate(ctx.chunks):
            inputs = hidden[s].to(ctx.low)
            probs, bend = (kept[i], None) if kept else _again(inputs, totals.shown, bias, ctx.head, norm[s])
            part, found = ({name: column[s, None] for name, column in each.items()} for each in (given, known))
            slopes = _slopes(probs, tokens[s], part, found)
            slopes = slopes if bend is None else slopes.mul_(bend)
            slopes = slopes if ctx.head.scale == 1.0 else slopes.mul_(ctx.head.scale)
            totals.add(s, slopes.to(ctx.low), inputs)
        return *totals.gradients(), None, None, None, None, None


class _Totals:
    """Gradients of hidden states, weight and bias, added up over chunks in at least float32."""

    def __init__(self, shown: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: Any):
        self.shown, self.of_hidden, self.like = shown, torch.empty_like(hidden), (weight, bias)
        self.of_weight = torch.zeros_like(wide(weight)) if needed[1] else None
        self.of_bias = torch.zeros_like(wide(bias)) if bias is not None and needed[2] else None

    def add(self, s: slice, slopes: Tensor, inputs: Tensor) -> None:
        """slopes: [n, V], the gradient of the matrix product; inputs: [n, H], what went into it."""
        self.of_hidden[s] = slopes @ self.shown
        if self.of_weight is not None and self.of_weight.dtype == slopes.dtype:
            self.of_weight.addmm_(slopes.t(), inputs)
        elif self.of_weight is not None:
            self.of_weight += slopes.t() @ inputs
        if self.of_bias is not None:
            self.of_bias += slopes.sum(0)

    def gradients(self) -> tuple[Tensor | None, ...]:
        totals = zip((self.of_weight, self.of_bias), self.like, strict=True)
        return self.of_hidden, *(None if x is None or y is None else x.to(y.dtype) for x, y in totals)


def _again(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, head: DenseHead, norm: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Probabilities that were not kept, and the slope of the cap at the logits."""
    logits = _logits(hidden, weight, bias, head)
    bend = None if head.cap is None else 1 - (logits / head.cap) ** 2
    return logits.sub_(norm[:, None]).exp_(), bend


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, head: DenseHead) -> Tensor:
    logits = hidden @ weight.t()
    return head.shaped(wide(logits if bias is None else logits + bias.to(logits.dtype)))


def _consumed(logits: Tensor, tokens: Tensor, wants: frozenset[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs of each token and the normaliser; then the probabilities, in the place of the logits."""
    picked = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    peak = logits.amax(-1, keepdim=True)
    probs = logits.sub_(peak).exp_()
    total = probs.sum(-1, keepdim=True)
    probs, norm = probs.div_(total), (peak + total.log()).squeeze(-1)
    compute: dict[str, Callable[[], Tensor]] = {
        "logps": lambda: picked - norm,
        "entropy": lambda: -torch.xlogy(probs, probs).sum(-1),
        "top1": lambda: (picked >= peak.squeeze(-1)).to(probs.dtype),
        "log_sum_sq": lambda: probs.square().sum(-1).log(),
    }
    return {"norm": norm, **{name: compute[name]() for name in sorted(wants)}}, probs


def _slopes(probs: Tensor, tokens: Tensor, grads: dict[str, Tensor], known: dict[str, Tensor]) -> Tensor:
    """The gradient with respect to the logits, [n, V], in the place of the probabilities. grads, known: [n, 1] each."""
    others = []
    if "entropy" in grads:
        others.append(-grads["entropy"] * (torch.xlogy(probs, probs) + probs * known["entropy"]))
    if "log_sum_sq" in grads:
        others.append(2 * grads["log_sum_sq"] * (probs.square() / known["log_sum_sq"].exp() - probs))
    grad = grads.get("logps", probs.new_zeros(len(probs), 1))
    slopes = probs.mul_(-grad).scatter_add_(1, tokens.unsqueeze(-1), grad)
    for other in others:
        slopes.add_(other)
    return slopes
