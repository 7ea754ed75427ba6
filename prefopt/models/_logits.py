"""Turns hidden states into log-probs, entropies and what else follows from logits, a chunk of tokens at a time.

The logits of a vocabulary are large, and nothing needs all of them at once. The gradient of a dense head is written out
by hand, so that logits need not be kept for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ..utils.tensors import upcast

FROM_LOGITS = frozenset({"logps", "entropy", "top1", "log_sum_sq"})
"""The fields of `Outputs` that follow from logits."""
LOGITS_PER_CHUNK = 2**24
"""Logits computed at a time: 64 MiB in float32."""
LOGITS_KEPT = 2**26
"""Logits kept for the backward pass rather than computed again: 256 MiB in float32."""


@dataclass(frozen=True, eq=False)
class DenseHead:
    """A language-model head that is one matrix: logits = cap tanh(scale (h W' + b) / cap).

    Args:
        weight: [V, H]
        bias: [V]
        cap: None leaves out the tanh.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """[n, H] -> [n, V]"""
        return self.shaped(nn.functional.linear(hidden, self.weight, self.bias))

    def shaped(self, logits: Tensor) -> Tensor:
        """Scale and cap the product of matrix and hidden states: [n, V] -> [n, V]"""
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


Head = DenseHead | Callable[[Tensor], Tensor]
"""Turns hidden states into logits, [n, H] -> [n, V]. A function is called chunk by chunk, and once more for a backward
pass if there is not the memory to keep its logits."""


def token_outputs(
    head: Head,
    hidden: Tensor,
    tokens: Tensor,
    vocab: int,
    wants: frozenset[str],
    *,
    chunk: int = LOGITS_PER_CHUNK,
    kept: int = LOGITS_KEPT,
) -> dict[str, Tensor]:
    """Compute the outputs of each token from the hidden state that predicts it, in at least float32.

    Args:
        head: how hidden states become logits.
        hidden: [N, H]
        tokens: [N]
        vocab: how many logits the head gives.
        wants: a subset of `FROM_LOGITS`.
        chunk: logits computed at a time.
        kept: so many logits are kept for the backward pass, and where there are more they are computed again.

    Returns:
        The outputs that `wants` names, [N] each; all but top1 are differentiable.
    """
    if isinstance(head, DenseHead):
        keep = torch.is_grad_enabled() and head.cap is None and len(tokens) * vocab <= kept
        outputs = _DenseOutputs.apply(hidden, head.weight, head.bias, tokens, head, wants, keep, chunk)
        return dict(zip(sorted(wants), outputs, strict=True))
    run: Callable[..., dict[str, Tensor]] = _chunk_outputs
    if torch.is_grad_enabled() and len(tokens) * vocab > kept:
        run = lambda *args: checkpoint(_chunk_outputs, *args, use_reentrant=False)  # type: ignore[return-value] # noqa: E731
    parts = [run(head, hidden[s], tokens[s], wants) for s in _chunks(len(tokens), vocab, chunk)]
    return {name: torch.cat([part[name] for part in parts]) for name in sorted(wants)}


def _chunks(count: int, vocab: int, chunk: int) -> list[slice]:
    """Slices of tokens, of equal size. There is always one: weights of no use still get a gradient, of zero."""
    pieces = max(1, -(-count * vocab // chunk))
    step = max(1, -(-count // pieces))
    return [slice(start, start + step) for start in range(0, max(count, 1), step)]


def _chunk_outputs(head: Callable[[Tensor], Tensor], hidden: Tensor, tokens: Tensor, wants: frozenset[str]) -> Any:
    return from_logits(upcast(head(hidden)), tokens, wants)


def from_logits(logits: Tensor, tokens: Tensor, wants: frozenset[str]) -> dict[str, Tensor]:
    """Compute the outputs of each token from the logits that predict it.

    Args:
        logits: [N, V]
        tokens: [N]
        wants: a subset of `FROM_LOGITS`.

    Returns:
        The outputs that `wants` names, [N] each.
    """
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
    """Entropy in nats: [N, V] -> [N]. A token that is ruled out has a log-prob of -inf, and adds nothing."""
    return -(logps.exp() * logps.clamp(min=torch.finfo(logps.dtype).min)).sum(-1)


class _DenseOutputs(torch.autograd.Function):
    """`token_outputs` for a dense head, with the gradient written out.

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
        product_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        ctx.head, ctx.product_dtype, ctx.names, ctx.kept_probs = head, product_dtype, sorted(wants), []
        ctx.chunks = _chunks(len(tokens), len(weight), chunk)
        parts = []
        with torch.autocast(device, enabled=False):
            cast_weight = weight.to(product_dtype)
            for s in ctx.chunks:
                logits = _logits(hidden[s].to(product_dtype), cast_weight, bias, head)
                outputs, probs = _outputs_in_place(logits, tokens[s], wants)
                parts.append(outputs)
                if keep:
                    ctx.kept_probs.append(probs)
        columns = {name: torch.cat([part[name] for part in parts]) for name in ("norm", *ctx.names)}
        ctx.save_for_backward(hidden, weight, bias, tokens, *columns.values())
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*[columns[name] for name in ctx.names if name == "top1"])
        return tuple(columns[name] for name in ctx.names)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens, norm, *values = ctx.saved_tensors
        kept_probs, ctx.kept_probs = ctx.kept_probs, []  # a second backward pass computes them again
        output_grads = {n: g for n, g in zip(ctx.names, grads, strict=True) if g is not None and n != "top1"}
        outputs = dict(zip(ctx.names, values, strict=True))
        sums = _GradientSums(weight.to(ctx.product_dtype), hidden, weight, bias, ctx.needs_input_grad)
        for i, s in enumerate(ctx.chunks):
            inputs, cap_slope = hidden[s].to(ctx.product_dtype), None
            if kept_probs:
                probs = kept_probs[i]
            else:
                probs, cap_slope = _recomputed_probs(inputs, sums.cast_weight, bias, ctx.head, norm[s])
            chunk_grads = {name: column[s, None] for name, column in output_grads.items()}
            slopes = _slopes(probs, tokens[s], chunk_grads, {name: column[s, None] for name, column in outputs.items()})
            slopes = slopes if cap_slope is None else slopes.mul_(cap_slope)
            slopes = slopes if ctx.head.scale == 1.0 else slopes.mul_(ctx.head.scale)
            sums.add(s, slopes.to(ctx.product_dtype), inputs)
        return *sums.gradients(), None, None, None, None, None


class _GradientSums:
    """Adds up the gradients of hidden states, weight and bias over chunks, in at least float32.

    Args:
        cast_weight: the weight in the dtype in which it is multiplied.
        needed: which of hidden, weight and bias need a gradient.
    """

    def __init__(self, cast_weight: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: Any):
        self.cast_weight, self.of_hidden, self.parameters = cast_weight, torch.empty_like(hidden), (weight, bias)
        self.of_weight = torch.zeros_like(upcast(weight)) if needed[1] else None
        self.of_bias = torch.zeros_like(upcast(bias)) if bias is not None and needed[2] else None

    def add(self, s: slice, slopes: Tensor, inputs: Tensor) -> None:
        """Add the gradients of one chunk.

        Args:
            slopes: [n, V], the gradient of the matrix product.
            inputs: [n, H], the hidden states that went into the product.
        """
        self.of_hidden[s] = slopes @ self.cast_weight
        if self.of_weight is not None and self.of_weight.dtype == slopes.dtype:
            self.of_weight.addmm_(slopes.t(), inputs)
        elif self.of_weight is not None:
            self.of_weight += slopes.t() @ inputs
        if self.of_bias is not None:
            self.of_bias += slopes.sum(0)

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Of hidden states, weight and bias, each in the dtype of what it is the gradient of."""
        sums = zip((self.of_weight, self.of_bias), self.parameters, strict=True)
        return self.of_hidden, *(None if x is None or y is None else x.to(y.dtype) for x, y in sums)


def _recomputed_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, head: DenseHead, norm: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Probabilities that were not kept, and the derivative of the cap at the logits or None: [n, V] each."""
    logits = _logits(hidden, weight, bias, head)
    cap_slope = None if head.cap is None else 1 - (logits / head.cap) ** 2
    return logits.sub_(norm[:, None]).exp_(), cap_slope


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, head: DenseHead) -> Tensor:
    logits = hidden @ weight.t()
    return head.shaped(upcast(logits if bias is None else logits + bias.to(logits.dtype)))


def _outputs_in_place(logits: Tensor, tokens: Tensor, wants: frozenset[str]) -> tuple[dict[str, Tensor], Tensor]:
    """`from_logits`, with the normaliser "norm"; then the probabilities, which overwrite the logits."""
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


def _slopes(probs: Tensor, tokens: Tensor, grads: dict[str, Tensor], outputs: dict[str, Tensor]) -> Tensor:
    """The gradient with respect to the logits, [n, V], which overwrites the probabilities.

    Args:
        probs: [n, V]
        tokens: [n]
        grads: the gradient with respect to each output, [n, 1].
        outputs: what the forward pass returned, [n, 1] each.
    """
    others = []
    if "entropy" in grads:
        others.append(-grads["entropy"] * (torch.xlogy(probs, probs) + probs * outputs["entropy"]))
    if "log_sum_sq" in grads:
        others.append(2 * grads["log_sum_sq"] * (probs.square() / outputs["log_sum_sq"].exp() - probs))
    grad = grads.get("logps", probs.new_zeros(len(probs), 1))
    slopes = probs.mul_(-grad).scatter_add_(1, tokens.unsqueeze(-1), grad)
    for other in others:
        slopes.add_(other)
    return slopes
