"""`prefopt self-rejected`: pairs of a dataset's answers and, rejected, a policy's own responses. Needs no scorer.

    pairs.jsonl   the pairs, which `prefopt dpo` takes

beside what `draw.py` puts there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..candidates.selection import self_rejected, write_rows
from ..objectives.sampling_arguments import SamplingArguments, changed
from . import is_first, set_up_logging
from .draw import DrawingArguments, Drawn, check, draw, parsed
from .rows import read
from .table import places

if TYPE_CHECKING:
    from . import Program

EXAMPLE = "demonstrations.jsonl --output_dir out"


@dataclass(kw_only=True)
class SelfRejectedArguments(DrawingArguments):
    """How many pairs to make of each answer."""

    responses_per_prompt: int = changed(SamplingArguments, "responses_per_prompt", 1)


def main(program: Program, prog: str, argv: Sequence[str]) -> int:
    """Parse, draw, pair; returns the exit code."""
    given = parsed(program, prog, argv, (SelfRejectedArguments,), EXAMPLE)
    if not given:
        return 0
    args, model_args, rows_args = given
    check(args, model_args, rows_args)
    set_up_logging()
    drawn = draw("self-rejected", args, model_args, read(rows_args, "sft"))
    if is_first():
        _pair(drawn)
    return 0


def _pair(drawn: Drawn) -> None:
    pairs, left_out = self_rejected(drawn.rows, drawn.candidates())
    reasons = [f"{count:,} {reason}" for reason, count in left_out.items()]
    write_rows(drawn.folder / "pairs.jsonl", pairs)
    if not pairs:
        raise ValueError(f"no response makes a pair: {', '.join(reasons)}; all are in {drawn.pool.folder}")
    print(f"\n{drawn.new:,} new responses; left out: {', '.join(reasons) or 'none'}")
    places([(f"{len(pairs):,} pairs", "pairs.jsonl")], drawn.folder)
