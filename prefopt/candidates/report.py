"""What an iteration of drawing and selecting came to: numbers for a file, a line for people, a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..scoring.scorer import Scorer
from .candidate import Scored
from .dataset_answers import DATASET
from .diversity import degenerate, distinct
from .evaluate import REWARD
from .order_statistics import Estimate, doublings, reward_curves
from .pool import Pool
from .selection import Group

Report = dict[str, Any]


def report_of(pool: Pool, scorer: Scorer, iteration: int, groups: Sequence[Group]) -> Report:
    """What the pool holds of an iteration, and what was best after it.

    `best` is about the best response to each prompt of all iterations: their mean score, and how many of them each
    iteration drew. For the others see `described`.
    """
    drawn = [one for one in pool.scored(scorer) if one.candidate.iteration == iteration and not _is_given(one)]
    return {"iteration": iteration, "scorer": card(scorer), **described(drawn), "best": _best(groups)}


def card(scorer: Scorer) -> Report:
    return {"name": scorer.name, "fingerprint": scorer.fingerprint}


def described(drawn: Sequence[Scored]) -> Report:
    """What was drawn, equally many responses to each prompt, and what it is worth.

    `rewards` has the expected maximum, mean and median score of N responses, with 95 % intervals over prompts, for N up
    to as many as were drawn; all that was drawn counts, what was cut off at the length limit too.
    """
    table = score_table(drawn)
    texts = [[one.candidate.response for one in group] for group in _by_key(drawn).values()]
    return {
        "temperature": drawn[0].candidate.temperature,
        "prompts": len(table),
        "responses": len(drawn),
        "unfinished": share(not one.candidate.finished for one in drawn),
        "degenerate": share(degenerate(response) for group in texts for response in group),
        "distinct_2": float(np.mean([distinct(group, 2) for group in texts])),
        "rewards": {str(n): _plain(curve) for n, curve in reward_curves(table, doublings(table.shape[1])).items()},
    }


def _is_given(one: Scored) -> bool:
    return one.candidate.policy == DATASET


def _by_key(drawn: Iterable[Scored]) -> dict[str, list[Scored]]:
    found: dict[str, list[Scored]] = {}
    for one in drawn:
        found.setdefault(one.candidate.prompt_key, []).append(one)
    return found


def score_table(drawn: Iterable[Scored]) -> np.ndarray:
    """[prompts, responses]: the scores of responses of which each prompt has equally many."""
    return np.array([[one.score for one in group] for group in _by_key(drawn).values()], dtype=np.float64)


def _plain(curve: Mapping[str, Estimate]) -> dict[str, list[float | None]]:
    """Mean, low and high; null where one prompt gives no interval, since JSON has no infinity."""
    return {name: [x if np.isfinite(x) else None for x in estimate] for name, estimate in curve.items()}


def _best(groups: Sequence[Group]) -> Report:
    tops = [group[0] for group in groups]
    drawn = [one.candidate.iteration for one in tops if not _is_given(one)]
    return {
        "mean": float(np.mean([one.score for one in tops])),
        "drawn_in": {str(iteration): drawn.count(iteration) for iteration in sorted(set(drawn))},
        "given": sum(map(_is_given, tops)),
    }


def share(holds: Iterable[bool]) -> float:
    found = list(holds)
    return sum(found) / len(found)


def summary_of(report: Report) -> str:
    """One line for people."""
    n = max(map(int, report["rewards"]))
    most = report["rewards"][str(n)]
    evaluated = report["evaluation"].get(REWARD)
    held_out = "" if evaluated is None else f", held out {evaluated:.3g}"
    return (
        f"iteration {report['iteration']}: {report['responses']:,} responses to {report['prompts']:,} prompts at "
        f"temperature {report['temperature']:g}, {report['unfinished']:.1%} unfinished; reward {most['mean'][0]:.3g}, "
        f"best of {n} {most['max'][0]:.3g}, best so far {report['best']['mean']:.3g}{held_out}; trained on "
        f"{report['rows']:,} rows"
    )


def best_iteration(reports: Sequence[Report], metric: str | None, greater: bool | None) -> int:
    """The iteration whose policy is the best on held-out prompts by `metric`, of equal ones the first.

    Raises:
        ValueError: they were not evaluated.
    """
    name = (metric or REWARD).removeprefix("eval_")
    if not all(name in report["evaluation"] for report in reports):
        raise ValueError("load_best_model_at_end needs an eval_dataset and eval_strategy='epoch' or 'steps'")
    sign = -1 if greater is False else 1
    return max(range(len(reports)), key=lambda number: sign * reports[number]["evaluation"][name])


def write_rewards(path: Path, reports: Sequence[Report]) -> None:
    """The picture of rewards against the number of responses, for every iteration."""
    from .plot import rewards_picture

    curves = {report["iteration"]: {int(n): _estimates(c) for n, c in report["rewards"].items()} for report in reports}
    rewards_picture(path, curves)


def _estimates(curve: Mapping[str, Sequence[float | None]]) -> dict[str, Estimate]:
    return {name: Estimate(*(np.nan if x is None else x for x in values)) for name, values in curve.items()}
