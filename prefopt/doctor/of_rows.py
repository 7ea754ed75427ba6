"""Checks of the rows that a run trains on, known before its first step: what is cut, equal, or told by a cue."""

from __future__ import annotations

from .run import Figures, Run

SAME = 0.05
"""Of the pairs, those whose two responses are the same ids, of which nothing can be learnt: one in twenty is no longer
an oversight. Where answers were cut after a few tokens it was 18 %, and 1.6 % where they were cut later."""
CUT = 0.2
"""Of the responses, those without their end: a fifth of the policy's lessons is then not to stop."""
CUE = 0.9
"""Of the pairs, those that a cue tells: people, and annotators of the small world, agree on less (.6 to .8). Length
told 52 % of the small world's pairs and a token 9 %, where it was no cue."""
FEWEST_PAIRS = 30
"""By chance alone 30 pairs show 27 on one side once in 120,000 times."""


def same_pairs(run: Run) -> Figures | None:
    pairs, same = run.number("rows", "pairs"), run.number("rows", "same")
    return {"same": same, "pairs": pairs, "share": same / pairs} if pairs and same >= SAME * pairs and same else None


def answers_cut(run: Run) -> Figures | None:
    responses, cut = run.number("rows", "responses"), run.number("rows", "without_end")
    if not cut >= CUT * responses:
        return None
    limit = run.fact("settings", "max_length")
    return {"cut": cut, "responses": responses, "share": cut / responses, "max_length": limit}


def length_cue(run: Run) -> Figures | None:
    unequal, longer = run.number("rows", "unequal"), run.number("rows", "longer")
    if not unequal >= FEWEST_PAIRS:
        return None
    share = max(longer, unequal - longer) / unequal
    if share < CUE:
        return None
    kind = "longer" if 2 * longer > unequal else "shorter"
    return {"kind": kind, "share": share, "pairs": unequal}


def format_cue(run: Run) -> Figures | None:
    pairs, told = run.number("rows", "pairs"), run.number("rows", "told")
    if not pairs >= FEWEST_PAIRS or not told >= CUE * pairs:
        return None
    kind = "chosen" if run.fact("rows", "cue_in") == "chosen" else "rejected"
    return {"token": str(run.fact("rows", "cue")), "kind": kind, "share": told / pairs, "pairs": pairs}


CHECKS = (same_pairs, answers_cut, length_cue, format_cue)
