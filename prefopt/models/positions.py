"""How many positions a model has, and rows that are longer: refused or named before a run, not in the middle of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from .heads import counts_positions_by_pad
from .rope_lengths import DYNAMIC, length_rules
from .wrappers import unwrap

logger = logging.getLogger(__name__)

RESERVED = 2
"""Rows of a table of positions that OPT and its kin keep beside those of their config."""
RELATIVE = "rel_embeddings"
"""What families call a table of distances between two tokens."""


def check_lengths(model: nn.Module, lengths: Sequence[int], remedy: str) -> None:
    """Compare rows with the positions that a model has.

    Beyond a table of learnt positions there is nothing to look up. Rotary and relative positions go on, and a model
    that has never seen them says less and less of what it means: rows that reach there are named in a warning.

    Args:
        model: possibly wrapped.
        lengths: tokens of each row, with its longest response.
        remedy: what to do; `{limit}` in it stands for the most tokens of a row.

    Raises:
        ValueError: rows are longer than the table.
    """
    inner: Any = unwrap(model)
    limit = position_limit(inner)
    beyond = [length for length in lengths if limit is not None and length > limit]
    if beyond:
        found = f"{len(beyond):,} of {len(lengths):,} rows have more tokens than the {limit:,} positions of "
        found = f"{found}{type(inner).__name__}, the longest {max(beyond):,}"
        if has_table(inner):
            raise ValueError(f"{found}: it has none beyond. {remedy.format(limit=limit)}")
        logger.warning("%s: it has not been trained on such rows. %s", found, remedy.format(limit=limit))
    _note_frequencies(inner, lengths)


def _note_frequencies(inner: nn.Module, lengths: Sequence[int]) -> None:
    for kind, limit in {(rule.kind, rule.limit) for rule in length_rules(inner)}:
        beyond = sum(length > limit for length in lengths)
        if beyond:
            logger.warning(
                "%s of %s rows have more than %s tokens, where the rotary frequencies of %s (%s) change: each row is "
                "run with those of its own length, %s",
                *(f"{beyond:,}", f"{len(lengths):,}", f"{limit:,}", type(inner).__name__, kind),
                "and so apart from rows of other lengths, which is slow"
                if kind == DYNAMIC
                else "in two parts of a batch",
            )


def position_limit(inner: Any) -> int | None:
    """The most tokens of a row that a model is made for, with what its rotary scaling adds; None without a limit."""
    config = inner.config.get_text_config(decoder=True)
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    if counts_positions_by_pad(inner):
        return limit - 1 - (config.pad_token_id or 0)
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = (
        [parameters] if "rope_type" in parameters else [kind for kind in parameters.values() if isinstance(kind, dict)]
    )
    scaled = [
        int(kind["factor"] * (kind.get("original_max_position_embeddings") or limit))
        for kind in kinds
        if kind.get("factor")
    ]
    return max([limit, *scaled])


def has_table(inner: Any) -> bool:
    """Whether a model looks its positions up in a table as long as they are."""
    config = inner.config.get_text_config(decoder=True)
    limit = getattr(config, "max_position_embeddings", None) or 0
    tokens = inner.get_input_embeddings()
    sizes = [
        module.num_embeddings
        for name, module in inner.named_modules()
        # DeBERTa's table of distances, beyond which all are alike, is as long
        if isinstance(module, nn.Embedding) and module is not tokens and RELATIVE not in name
    ]
    sizes += [len(b) for name, b in inner.named_buffers() if name.endswith("embed_positions") and b.dim() == 2]
    return any(limit <= size <= limit + RESERVED for size in sizes)
