"""How much memory the activations of a model take in a training step, found by running it on a few tokens.

A formula for each architecture, adapter, quantisation and way of checkpointing would be wrong for the next one. So the
model itself runs forward and backward three times, on rows of some dozens of tokens, while every tensor that an
operation makes is counted for as long as it lives. Between operation i and the next the live bytes are a polynomial
a + b x + c x^2 in the number of positions x (c of masks and of attention weights that are written out), which the three
runs give; a step's peak is the largest of them at its own x. The language-model head, which works chunk by chunk and
keeps what it may, is no polynomial: `head_peak` counts it as `_logits.py` computes it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..batch import Batch
from ..data.collate import collate
from ._logits import LOGITS_KEPT, LOGITS_PER_CHUNK, DenseHead
from .heads import is_scorer, language_heads
from .layout import packed, padded
from .layout_selection import PADDED, LayoutSelection, backbone, run_on_layout, select_layout
from .modes import training
from .whole_scores import LAST
from .wrappers import unwrap

SHORT, EACH, RUNS = 48, 4, 3
"""Tokens of a prompt with its responses in the shortest run, at least; at least so many of each; how many runs."""


@dataclass(frozen=True)
class Shape:
    """The lengths of a batch: what its activations depend on.

    Args:
        prompts: tokens of each prompt.
        responses: of each prompt, tokens of its responses.
    """

    prompts: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> Shape:
        """The shape of a batch of encoded rows."""
        responses = tuple(tuple(len(ids) for ids in row["response_ids"]) for row in rows)
        return cls(tuple(len(row["prompt_ids"]) for row in rows), responses)

    @property
    def predicted(self) -> int:
        """Response tokens."""
        return sum(map(sum, self.responses))

    def batch(self, device: torch.device) -> Batch:
        """A batch of this shape, of one token again and again."""
        rows = [
            {"prompt_ids": [1] * prompt, "response_ids": [[1] * length for length in responses]}
            for prompt, responses in zip(self.prompts, self.responses, strict=True)
        ]
        return collate(rows).to(device)

    def scaled(self, tokens: int) -> Shape:
        """One row of the same proportions: a prompt with as many responses, of about `tokens` tokens together."""
        width = max(map(len, self.responses))
        sums = [sum(self.prompts), *(sum(r[k] for r in self.responses if k < len(r)) for k in range(width))]
        each = [max(2, round(tokens * part / max(1, sum(sums)))) for part in sums]
        return Shape((each[0],), (tuple(each[1:]),))


@dataclass(frozen=True)
class Activations:
    """Live bytes of a model's forward and backward pass, without its head, operation by operation.

    Args:
        coefficients: [3, operations]; see the head of this module.
        gradients: [operations], bytes of weights whose gradient was complete by then.
        forward: how many operations the forward pass has.
        width: bytes of one hidden state.
        layout: on which the model runs.
    """

    coefficients: np.ndarray
    gradients: np.ndarray
    forward: int
    width: int
    layout: str

    def live(self, shape: Shape, device: torch.device) -> np.ndarray:
        """[operations], of a batch of this shape."""
        positions, sums = _positions(shape, self.layout, device)
        return np.array([1.0, positions, sums]) @ self.coefficients


def activations(
    model: nn.Module, shape: Shape, *, whole: bool, context: Callable[[], AbstractContextManager[Any]]
) -> Activations | None:
    """Run a model on three short batches, and see what lives when.

    Args:
        model: as it trains: its adapter on it, checkpointing switched on, on its device, not wrapped.
        shape: of the batches that are asked about; the short ones have its proportions.
        whole: a reward head reads, for which the last tokens are fed too.
        context: what the forward pass runs in, such as autocast.

    Returns:
        None where this cannot be told: of models that score by their own forward pass, and of those that do other
        operations on other sizes.
    """
    inner: Any = unwrap(model)
    device = next(inner.parameters()).device
    selection = select_layout(inner, device, lambda compute: compute())
    part = backbone(inner)
    if selection.reading != LAST or part is None or not (is_scorer(inner) or selection.heads):
        return None
    if not (sizes := _sizes(inner, shape)):
        return None
    runs = []
    with training(inner), torch.random.fork_rng([device] if device.type == "cuda" else []):
        for tokens in sizes:
            batch = shape.scaled(tokens)
            runs.append(
                (_positions(batch, selection.layout, device), _run(inner, part, batch, selection, whole, context))
            )
    counts = {(len(run.live), run.forward) for _, run in runs}
    if len(counts) != 1:
        return None
    matrix = np.array([[1.0, positions, squares] for (positions, squares), _ in runs])
    if np.linalg.matrix_rank(matrix) < len(sizes):
        return None
    fitted = np.linalg.lstsq(matrix, np.array([run.live for _, run in runs], dtype=float), rcond=None)[0]
    last = runs[-1][1]
    return Activations(fitted, np.array(last.gradients), last.forward, last.width, selection.layout)


def _sizes(inner: Any, shape: Shape) -> list[int]:
    """Tokens of a prompt with its responses in each run; none where the model has no positions for so many."""
    shortest = max(SHORT, EACH * (1 + max(map(len, shape.responses))))
    limit = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
    return [] if limit and limit < RUNS * shortest else [shortest * run for run in range(1, RUNS + 1)]


def _positions(shape: Shape, layout: str, device: torch.device) -> tuple[int, int]:
    """How many positions a model runs on, and the sum over sequences of their squares."""
    if layout == PADDED:
        width = max(shape.prompts) + max(max(r, default=0) for r in shape.responses)
        rows = sum(map(len, shape.responses))
        return rows * width, rows * width**2
    groups = [p + sum(r) for p, r in zip(shape.prompts, shape.responses, strict=True)]
    squares = sum(groups) ** 2 if layout == "dense" else sum(n**2 for n in groups)
    return sum(groups), squares


@dataclass
class _Run:
    live: list[int]
    gradients: list[int]
    forward: int = 0
    width: int = 0


def _run(
    inner: Any, part: Any, shape: Shape, selection: LayoutSelection, whole: bool, context: Callable[[], Any]
) -> _Run:
    """One forward and backward pass, whose gradients are dropped as they come."""
    batch = shape.batch(next(inner.parameters()).device)
    layout = padded(batch) if selection.layout == PADDED else packed(batch, whole=whole)
    tracker = _LiveBytes([*inner.parameters(), *inner.buffers(), *batch.values(), *layout.inputs.values()])
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_dropping_gradients(inner, tracker))
        stack.enter_context(tracker)
        with context():
            states = run_on_layout(inner, part, layout, selection.layout)
        run = _Run(tracker.history, tracker.gradients, len(tracker.history), states[0, 0].nbytes)
        if states.requires_grad:
            states.backward(torch.zeros_like(states))
    return run


@contextmanager
def _dropping_gradients(model: nn.Module, tracker: _LiveBytes) -> Iterator[None]:
    def drop(parameter: Tensor) -> None:
        tracker.complete += parameter.nbytes
        parameter.grad = None

    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.grad for p in trained]
    for parameter in trained:
        parameter.grad = None
    handles = [p.register_post_accumulate_grad_hook(drop) for p in trained]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, grad in zip(trained, before, strict=True):
            parameter.grad = grad


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, after each operation, for as long as they live.

    Args:
        known: tensors that were there before, whose storages do not count.
    """

    def __init__(self, known: list[Tensor]):
        super().__init__()
        self.bytes = self.complete = 0
        self.history: list[int] = []
        self.gradients: list[int] = []
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        self.history.append(self.bytes)
        self.gradients.append(self.complete)
        return result

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known or key in self._alive:
            return
        size = storage.nbytes()

        def free(_: Any) -> None:
            del self._alive[key]
            self.bytes -= size

        self._alive[key] = weakref.ref(storage, free)
        self.bytes += size


def head_bytes(model: nn.Module, shape: Shape, width: int, product: torch.dtype | None) -> tuple[int, int]:
    """What a language-model head takes beside the hidden states, at its most; and its gradient, 0 where it has none.

    Args:
        width: bytes of a hidden state.
        product: the dtype of autocast, None without.
    """
    inner: Any = unwrap(model)
    device = next(inner.parameters()).device
    chosen = select_layout(inner, device, lambda compute: compute()).heads
    head = next((head for name, head in language_heads(inner).items() if name in chosen), None)
    vocab, count = inner.config.get_text_config().vocab_size, shape.predicted
    if not isinstance(head, DenseHead):
        return count * (2 * width + 3 * 4 * vocab), 0
    own, item = head.weight.element_size(), (product or head.weight.dtype).itemsize
    numbers, trains = head.weight.numel(), head.weight.requires_grad
    pieces = max(1, -(-count * vocab // LOGITS_PER_CHUNK))
    chunk = -(-count // pieces) * vocab
    kept = count * vocab if count * vocab <= LOGITS_KEPT and head.cap is None else 0
    cast = 0 if item == own else item
    common = 2 * count * width + numbers * cast + 4 * max(kept, chunk) + chunk * (0 if item == 4 else item)
    of_weight = trains * numbers * (max(4, own) + cast)
    return common + of_weight, trains * numbers * own
