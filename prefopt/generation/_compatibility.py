"""How a model can be decoded, decided by trying it on that very model, once: by the fast loop (`is_supported`), or in
which way by transformers' `generate` (`way_to_generate`).

Attention of its own making, state that goes from token to token beside attention, positions counted in another way: no
list of families stays complete. So a few rows go through the fast loop, one of them is dropped on the way, and only a
model that gives them the logits that it gives to each alone is decoded there. transformers' `generate` serves all
others: on prompts that are padded on the left, and with a cache, unless that gives other log-probs than a row alone.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ..models.attention import packed_attention
from ..models.wrappers import own_forward, patched_forward, unwrap
from ._engine import Engine, Run, directly
from ._kv_cache import KERNEL
from .stopping import SequenceState, StoppingRules

logger = logging.getLogger(__name__)

PROMPT_LENGTHS = (5, 9, 2)
PROMPT_OF_ROW = (0, 0, 1, 2, 2)
TOKENS = 6
"""Of each row's response."""
DROPPED, DROPPED_AFTER = 1, 3
"""Row number 1 leaves after three tokens."""

_supported: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def is_supported(inner: Any, run: Run = directly) -> bool:
    """Whether the fast loop can decode `inner`, a model without its wrappers, in evaluation mode.

    Args:
        run: runs a computation under the wrappers. Where processes share the weights, all of them have to ask.
    """
    if inner not in _supported:
        with torch.no_grad(), torch.random.fork_rng([]), torch.autocast(inner.device.type, enabled=False):
            reason = _mismatch(inner, run)
        if reason is not None:
            logger.warning("%s is sampled by generate, which is slower: %s", type(inner).__name__, reason)
        _supported[inner] = reason is None
    return _supported[inner]


def _mismatch(inner: Any, run: Run) -> str | None:
    """Why the fast loop does not give what the model gives, or None if it does."""
    exact = _is_exact(inner)
    rng = random.Random(0)
    vocab = inner.config.get_text_config().vocab_size
    prompts = [[rng.randrange(vocab) for _ in range(length)] for length in PROMPT_LENGTHS]
    tokens = [[rng.randrange(vocab) for _ in range(TOKENS)] for _ in PROMPT_OF_ROW]
    expected = [_alone(inner, prompts[prompt], row, run) for prompt, row in zip(PROMPT_OF_ROW, tokens, strict=True)]
    other_first_row = [[(token + 1) % vocab for token in tokens[0]], *tokens[1:]]
    try:
        logits, changed = (_together(inner, prompts, rows, run) for rows in (tokens, other_first_row))
    except Exception as error:  # whatever a model does with arguments that are new to it, generate still works
        return f"in the fast loop it fails: {type(error).__name__}: {error}".splitlines()[0]
    wrong, leak = _deviation(logits, expected), _deviation(changed[1:], logits[1:])
    if leak > (1e-5 if exact else 1e-2):
        return f"in the fast loop one row changes the logits of another (by {leak:.1e})"
    return None if wrong <= (1e-4 if exact else 0.1) else f"in the fast loop its logits differ by {wrong:.1e}"


def _is_exact(inner: nn.Module) -> bool:
    return all(p.dtype in (torch.float32, torch.float64) for p in inner.parameters())


def _alone(inner: Any, prompt: list[int], tokens: list[int], run: Run = directly) -> Tensor:
    """[TOKENS, V]: the logits that each token is sampled from, with nothing beside them and no padding."""
    ids = torch.tensor([prompt + tokens], device=inner.device)
    logits = run(lambda: {"logits": own_forward(inner)(input_ids=ids, use_cache=False).logits})["logits"]
    return logits[0, len(prompt) - 1 : -1]


def _together(inner: Any, prompts: list[list[int]], tokens: list[list[int]], run: Run) -> list[Tensor]:
    """The same for all rows, out of the fast loop; the last ones missing for the row that is dropped."""
    with packed_attention(inner, KERNEL):
        engine = Engine(inner, run=run)
        cache, first_logits = engine.prefill(prompts, [PROMPT_OF_ROW.count(number) for number in range(len(prompts))])
        logits_of_rows = [[row_logits] for row_logits in first_logits]
        rows = list(range(len(PROMPT_OF_ROW)))
        for length in range(TOKENS - 1):
            if length == DROPPED_AFTER:
                rows = cache.keep([row for row in rows if row != DROPPED])
            (logits,) = engine.step([cache], [tokens[row][length] for row in rows])
            for row, row_logits in zip(rows, logits, strict=True):
                logits_of_rows[row].append(row_logits)
    return [torch.stack(row_logits) for row_logits in logits_of_rows]


def _deviation(rows: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative difference of two vectors of logits, infinite where one is not a number."""
    worst = 0.0
    for row, expected_row in zip(rows, expected, strict=True):
        x, y = row.double(), expected_row[: len(row)].double()
        relative = (x - y).norm(dim=-1) / y.norm(dim=-1).clamp(min=1e-12)
        worst = max(worst, float(relative.nan_to_num(torch.inf).max()))
    return worst


# ---- transformers' generate ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """How transformers' `generate` is asked.

    Args:
        padded: prompts of different lengths in one batch, padded on the left. Some recurrences and convolutions know no
            mask, and some models count positions from the start of a row.
        cached: each token is computed once. Without, the whole row is computed again for every token.
    """

    padded: bool = True
    cached: bool = True

    def caches(self, sequences: list[SequenceState]) -> bool:
        """Whether a batch is generated with a cache.

        Models that keep their state to themselves take a prompt of one token for the next token of the row before
        (RecurrentGemma's, in transformers 5.23).
        """
        return self.cached and (self.padded or len(sequences[0].prompt_ids) > 1)

    def batches(self, sequences: list[SequenceState], size: int) -> Iterator[list[SequenceState]]:
        """The sequences in batches of at most `size`, each of prompts of one length if they must not be padded."""
        by_length: dict[int, list[SequenceState]] = {}
        for sequence in sequences:
            by_length.setdefault(0 if self.padded else len(sequence.prompt_ids), []).append(sequence)
        for group in by_length.values():
            yield from (group[start : start + size] for start in range(0, len(group), size))


PADDED, UNPADDED, UNCACHED = Way(), Way(padded=False), Way(padded=False, cached=False)
WAYS = (PADDED, UNPADDED, UNCACHED)
"""The fastest first."""

Generate = Callable[[Any, list[SequenceState], StoppingRules, Way], None]
"""Samples sequences to their ends, in a given way."""

_ways: WeakKeyDictionary[nn.Module, Way] = WeakKeyDictionary()


def way_to_generate(policy: Any, generate: Generate) -> Way:
    """The fastest way in which `generate` samples from what the policy gives for a whole row at once.

    Args:
        policy: in evaluation mode, under no_grad.
    """
    inner: Any = unwrap(policy)
    if inner not in _ways:
        _ways[inner] = _fastest_way(policy, inner, generate)
    return _ways[inner]


def _fastest_way(policy: Any, inner: Any, generate: Generate) -> Way:
    name = type(inner).__name__
    if any(isinstance(module, FSDPModule) for module in inner.modules()):
        logger.warning(
            "%s is sampled without a trial, as its weights are spread over processes: whether padding before a prompt "
            "or its cache changes its log-probs is not known. Sample from the saved model in one process to have it "
            "tried",
            name,
        )
        return PADDED
    # A trained model's cache may be less exact than a row at once: Zamba 2's differs by 4e-4 in transformers 5.23.
    allowed = 2e-3 if _is_exact(inner) else 0.2
    differences: dict[Way, float] = {}
    with patched_forward(inner, own_forward(inner)), torch.autocast(inner.device.type, enabled=False):
        for way in WAYS:
            differences[way] = _difference_from_alone(policy, inner, generate, way)
            if differences[way] <= allowed:
                _say(name, way, list(differences.values()))
                return way
    logger.warning(
        "%s gives other log-probs for a token at the end of a row than when more tokens follow (by %.1e): it is not a "
        "causal language model, and what is sampled is not what would be trained",
        name,
        differences[UNCACHED],
    )
    return min(differences, key=lambda way: differences[way])


def _say(name: str, way: Way, differences: list[float]) -> None:
    """Say which way was taken, and by how much the log-probs of the faster ones were wrong."""
    if way == UNPADDED:
        logger.warning(
            "%s is sampled on prompts of one length at a time, which is slower: padding before a prompt changes its "
            "log-probs (by %.1e)",
            name,
            differences[0],
        )
    elif way == UNCACHED:
        logger.warning(
            "%s is sampled without a cache, each row anew for each token, which is much slower: its own cache changes "
            "its log-probs (by %.1e)",
            name,
            differences[1],
        )


def _difference_from_alone(policy: Any, inner: Any, generate: Generate, way: Way) -> float:
    """The largest difference of a sampled token's log-prob to that in its whole row, run at once."""
    rng = random.Random(0)
    vocab = inner.config.get_text_config().vocab_size
    prompts = [[rng.randrange(vocab) for _ in range(length)] for length in PROMPT_LENGTHS]
    sequences = [SequenceState(prompt, row, prompts[prompt], ("way", row)) for row, prompt in enumerate(PROMPT_OF_ROW)]
    generate(policy, sequences, StoppingRules(cast(Any, None), (vocab,), TOKENS), way)
    worst = 0.0
    for sequence in sequences:
        logps = _alone(inner, sequence.prompt_ids, sequence.ids).float().log_softmax(-1)
        expected = logps.gather(1, torch.tensor(sequence.ids, device=logps.device)[:, None])[:, 0]
        found = torch.tensor(sequence.logps, device=logps.device)
        worst = max(worst, float((found - expected).abs().nan_to_num(torch.inf).max()))
    return worst
