"""What an iteration of sampling and selecting came to: numbers for a file, a line for people, a figure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..scoring.scorer import Scorer
from .candidate import Candidate, Scored, last_tokenizer
from .dataset_answers import DATASET
from .diversity import degenerate, distinct
from .evaluate import REWARD
from .order_statistics import Estimate, doublings, reward_curves
from .pool import Pool
from .selection import Group

logger = logging.getLogger(__name__)

Report = dict[str, Any]


def report_of(pool: Pool, scorer: Scorer, iteration: int, groups: Sequence[Group]) -> Report:
    """What the pool holds of an iteration, and what was best after it.

    `best` is about the best response to each prompt of all iterations: their mean score, how many of them were sampled
    in each iteration (`drawn_in`), and how many came with the dataset (`given`). `without_ids` are those of all
    candidates that `warn_of_texts` counts. For the others see `describe`.

    Args:
        groups: the candidates of each prompt, best first.
    """
    sampled = [row for row in pool.scored(scorer) if row.candidate.iteration == iteration and not _from_dataset(row)]
    texts = {"without_ids": warn_of_texts(row.candidate for group in groups for row in group)}
    return {"iteration": iteration, "scorer": scorer_card(scorer), **describe(sampled), "best": _best(groups), **texts}


def scorer_card(scorer: Scorer) -> Report:
    """What a report says of the scorer."""
    return {"name": scorer.name, "fingerprint": scorer.fingerprint}


def describe(sampled: Sequence[Scored]) -> Report:
    """What was sampled, equally many responses to each prompt, and what it is worth.

    `rewards` has the expected maximum, mean and median score of N responses, with 95 % intervals over prompts, for N up
    to as many as were sampled; all responses count, those truncated at the length limit (`unfinished`) too.
    """
    table = score_table(sampled)
    texts = [[row.candidate.response for row in group] for group in _by_key(sampled).values()]
    return {
        "temperature": sampled[0].candidate.temperature,
        "prompts": len(table),
        "responses": len(sampled),
        "unfinished": share(not row.candidate.finished for row in sampled),
        "degenerate": share(degenerate(response) for group in texts for response in group),
        "distinct_2": float(np.mean([distinct(group, 2) for group in texts])),
        "rewards": {str(n): _plain(curve) for n, curve in reward_curves(table, doublings(table.shape[1])).items()},
    }


def warn_of_texts(candidates: Iterable[Candidate]) -> int:
    """Count, and log, the sampled responses that can be trained on by their text alone, of those to select from.

    They are of a version of prefopt that kept no ids, end before a stop string that begins within a token, or were
    sampled with another tokenizer than the last.
    """
    sampled = [candidate for candidate in candidates if candidate.policy != DATASET]
    by = last_tokenizer(sampled)
    count = sum(candidate.ids is None or candidate.tokenizer != by for candidate in sampled)
    if count:
        logger.warning(
            "%s of %s sampled responses to select from have no ids of the last policy's tokenizer: training encodes "
            "their text, which may give other ids than were sampled",
            f"{count:,}",
            f"{len(sampled):,}",
        )
    return count


def _from_dataset(row: Scored) -> bool:
    """Whether a response is an answer that came with the rows."""
    return row.candidate.policy == DATASET


def _by_key(scored: Iterable[Scored]) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = {}
    for row in scored:
        groups.setdefault(row.candidate.prompt_key, []).append(row)
    return groups


def score_table(scored: Iterable[Scored]) -> np.ndarray:
    """[prompts, responses]: the scores of responses of which each prompt has equally many."""
    return np.array([[row.score for row in group] for group in _by_key(scored).values()], dtype=np.float64)


def _plain(curve: Mapping[str, Estimate]) -> dict[str, list[float | None]]:
    """Mean, low and high; null where one prompt gives no interval, since JSON has no infinity."""
    return {name: [x if np.isfinite(x) else None for x in estimate] for name, estimate in curve.items()}


def _best(groups: Sequence[Group]) -> Report:
    tops = [group[0] for group in groups]
    iterations = [top.candidate.iteration for top in tops if not _from_dataset(top)]
    return {
        "mean": float(np.mean([top.score for top in tops])),
        "drawn_in": {str(iteration): iterations.count(iteration) for iteration in sorted(set(iterations))},
        "given": sum(map(_from_dataset, tops)),
    }


def share(holds: Iterable[bool]) -> float:
    """How many of these are true, as a share of all."""
    values = list(holds)
    return sum(values) / len(values)


def summary_of(report: Report) -> str:
    """One line for people."""
    n = max(map(int, report["rewards"]))
    rewards = report["rewards"][str(n)]
    evaluated = report["evaluation"].get(REWARD)
    held_out = "" if evaluated is None else f", held out {evaluated:.3g}"
    count = report.get("without_ids")
    left = report.get("left_out")
    out = f" ({left['cut']:,} of {left['candidates']:,} candidates cut off, {left['blank']:,} blank)" if left else ""
    differ = report.get("encoding", {}).get("sampled_ids_differ")
    ids = f", {differ:,} responses by sampled ids that are not their text's" if differ else ""
    texts = f", selected from {count:,} responses without ids among others" if count else ""
    return (
        f"iteration {report['iteration']}: {report['responses']:,} responses to {report['prompts']:,} prompts at "
        f"temperature {report['temperature']:g}, {report['unfinished']:.1%} truncated; reward "
        f"{rewards['mean'][0]:.3g}, best of {n} {rewards['max'][0]:.3g}, best so far "
        f"{report['best']['mean']:.3g}{held_out}; trained on {report['rows']:,} rows{ids}{out}{texts}"
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
    """Plot the rewards against the number of responses, for every iteration."""
    from .plot import plot_rewards

    curves = {report["iteration"]: {int(n): _estimates(c) for n, c in report["rewards"].items()} for report in reports}
    plot_rewards(path, curves)


def _estimates(curve: Mapping[str, Sequence[float | None]]) -> dict[str, Estimate]:
    return {name: Estimate(*(np.nan if x is None else x for x in values)) for name, values in curve.items()}
