"""From judgments to preferences: what each annotator thinks of a pair, and what they decide together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..candidates.selection import unscored_pair
from ..grades import GRADES
from ..utils.names import hint
from .judgment import SIDES, STRENGTH, Judgment
from .pairs import LabelPair

SEVERAL = ("majority", "weights", "all")
"""How a pair that several annotators judged becomes rows."""
SECOND, NEITHER, FIRST = -1, 0, 1


def prefers(judgment: Judgment, shown: LabelPair) -> int:
    """Which candidate a judgment is for, whichever side it stood on."""
    if judgment.choice not in SIDES:
        return NEITHER
    return FIRST if (judgment.choice == "a") != shown.swapped else SECOND


@dataclass(frozen=True)
class Opinion:
    """What one annotator thinks of two candidates, after judging them once, or in both orders.

    Args:
        pair: the candidates; how they were shown says `judgments`.
        judgments: those that are no skips.
        sides: for each of these `FIRST`, `SECOND` or `NEITHER`.
    """

    annotator: str
    pair: LabelPair
    judgments: tuple[Judgment, ...]
    sides: tuple[int, ...]

    @property
    def side(self) -> int:
        """The candidate that all judgments prefer (Zheng et al., arXiv:2306.05685, section 3.4)."""
        return self.sides[0] if len(set(self.sides)) == 1 else NEITHER

    @property
    def reason(self) -> str:
        """Why there is no side: "contradicted" is also a preference in one order only."""
        if len(set(self.sides)) > 1:
            return "contradicted"
        if self.side != NEITHER:
            return ""
        return "both bad" if {each.choice for each in self.judgments} == {"both_bad"} else "tie"

    @property
    def flipped(self) -> bool:
        """Whether the same position won in both orders."""
        return {FIRST, SECOND} <= set(self.sides)

    @property
    def grade(self) -> str | None:
        """The weakest of the grades given; None where one is missing."""
        grades = [judgment.grade for judgment in self.judgments]
        return max((each for each in grades if each), key=GRADES.index) if all(grades) else None


def opinions_of(pairs: Sequence[LabelPair], judgments: Iterable[Judgment]) -> list[Opinion]:
    """What every annotator thinks of every pair that they did not skip, in the order in which pairs are shown."""
    shown = {pair.id: pair for pair in pairs}
    grouped: dict[str, dict[str, list[Judgment]]] = {pair.pair: {} for pair in pairs}
    for judgment in judgments:
        if judgment.choice != "skip" and judgment.id in shown:
            grouped[shown[judgment.id].pair].setdefault(judgment.annotator, []).append(judgment)
    opinions = []
    for by_annotator in grouped.values():
        for annotator, said in by_annotator.items():
            said.sort(key=lambda each: shown[each.id].repeat)
            sides = tuple(prefers(each, shown[each.id]) for each in said)
            opinions.append(Opinion(annotator, shown[said[0].id], tuple(said), sides))
    return opinions


def rows_of(
    opinions: Sequence[Opinion], several: str = "majority", weights: Mapping[str, float] | None = None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The preferences as rows that `load_preferences` and every trainer of pairs take, and why others give none.

    Args:
        several: "majority": a pair gives a row if more than half of its annotators prefer the same candidate;
            "weights": if more than half of their weight does; "all": one row for every annotator who prefers one.
        weights: annotator -> weight; who is not named has 1.

    Raises:
        ValueError: no such way, weights without "weights", or a negative one.
    """
    _check(several, weights)
    weight = {opinion.annotator: (weights or {}).get(opinion.annotator, 1.0) for opinion in opinions}
    by_pair: dict[str, list[Opinion]] = {}
    for opinion in opinions:
        if weight[opinion.annotator] > 0:
            by_pair.setdefault(opinion.pair.pair, []).append(opinion)
    lots = [[each] for of_pair in by_pair.values() for each in of_pair] if several == "all" else by_pair.values()
    rows, without = [], dict[str, int]()
    for lot in lots:
        side = _decided(lot, weight)
        if side == NEITHER:
            reason = lot[0].reason if len({each.reason for each in lot}) == 1 and lot[0].reason else "no majority"
            without[reason] = without.get(reason, 0) + 1
        else:
            rows.append(_row(lot, side, weight))
    return rows, without


def _check(several: str, weights: Mapping[str, float] | None) -> None:
    if several not in SEVERAL:
        raise ValueError(f"several={several!r}: no such way{hint(several, SEVERAL)}")
    if (several == "weights") != bool(weights):
        raise ValueError('several="weights" and weights={annotator: weight} go together: give both or neither')
    for name, weight in (weights or {}).items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weights: {name}={weight}: a weight is a number from 0 up")


def _decided(lot: Sequence[Opinion], weight: Mapping[str, float]) -> int:
    """The side with more than half of the weight."""
    total = sum(weight[each.annotator] for each in lot)
    for side in (FIRST, SECOND):
        if 2 * sum(weight[each.annotator] for each in lot if each.side == side) > total:
            return side
    return NEITHER


def _row(lot: Sequence[Opinion], side: int, weight: Mapping[str, float]) -> dict[str, Any]:
    """The preference and where it comes from; of what both candidates have, the chosen one's first."""
    agreeing = [each for each in lot if each.side == side]
    pair = agreeing[0].pair
    chosen, rejected = (pair.first, pair.second) if side == FIRST else (pair.second, pair.first)
    times = [judgment.time for each in agreeing for judgment in each.judgments if judgment.time]
    return {
        **unscored_pair(chosen, rejected),
        **({} if (grade := _grade(agreeing, weight)) is None else {"grade": grade}),
        "pair": pair.pair,
        "prompt_key": chosen.prompt_key,
        "policy": [chosen.policy, rejected.policy],
        "round": [chosen.round, rejected.round],
        "temperature": [float(chosen.temperature), float(rejected.temperature)],
        "seed": [chosen.seed, rejected.seed],
        "annotator": [each.annotator for each in agreeing],
        "support": sum(weight[each.annotator] for each in agreeing) / sum(weight[each.annotator] for each in lot),
        "time": max(times, default=None),
    }


def _grade(agreeing: Sequence[Opinion], weight: Mapping[str, float]) -> str | None:
    """The weighted median of the grades of those who agree, the weaker of two; None where nobody gave one."""
    graded = sorted((STRENGTH[each.grade], weight[each.annotator], each.grade) for each in agreeing if each.grade)
    half, reached = sum(share for _, share, _ in graded) / 2, 0.0
    for _, share, grade in graded:
        reached += share
        if reached >= half:
            return grade
    return None
