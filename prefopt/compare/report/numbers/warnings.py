"""Warns of what a reader has to know before believing the numbers: keys of words.py, and the values in their texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

import numpy as np

from ....doctor.of_reward_model import CHANCE
from ....doctor.of_sampling import DEGENERATE, UNFINISHED
from ...records import Experiment
from ...statistics import FEWEST_SEEDS, Claim, detectable, sign_test
from ..findings import Findings, Warning
from .curves import over_optimised
from .judges import behaviour
from .means import Means
from .pairings import Compared
from .tables import CHECKPOINT, REWARD_MODEL, Data

FEW_PROMPTS = 0.5
"""Standard deviations of a difference over prompts: a medium effect (Cohen 1988), shown by 34 prompts and more."""
FLIPS = 0.2
LEANING = 0.01
"""p-value of a binomial test."""
FAILED = 0.1
"""Of what a judge was asked: more of it missing can turn a result."""
COSTS = 2.0


def warnings_of(
    data: Data, findings: Findings, pairs: Mapping[tuple[str, str], Compared], seeds: int
) -> Iterator[Warning]:
    """
    Args:
        findings: all but its warnings.
        seeds: as many as any two methods share.
    """
    yield from (Warning(**note) for note in data.experiment.notes)
    for failure in findings.failures:
        kind, what = ("cell_failed", "method") if failure.method in data.experiment.names else ("stage_failed", "stage")
        yield Warning(kind, {what: failure.method, "seed": failure.seed, "reason": failure.reason}, True)
    yield from _of_seeds(data, findings, seeds)
    yield from _of_prompts(findings)
    yield from _of_rewards(data, findings)
    yield from _of_judges(data)
    yield from _of_methods(findings)
    yield from (Warning("identical", {"first": a, "second": b}) for a, b in pairs if _same(data, pairs, a, b))


def _of_seeds(data: Data, findings: Findings, seeds: int) -> Iterator[Warning]:
    if seeds < FEWEST_SEEDS and not _trained_elsewhere(data.experiment):
        yield Warning("few_seeds", {"seeds": seeds, "needed": FEWEST_SEEDS}, True)
    for name in data.experiment.names:
        table = data.responses.table(name, findings.primary)
        have = table.seeds if table else tuple(data.cells.get(name, ()))
        missing = [seed for seed in findings.seeds if seed not in have]
        if missing and have:  # of a method without any, its failures say all
            ranked = findings.claim == Claim.METHODS.name
            yield Warning("missing_seeds", {"method": name, "seeds": missing}, ranked and len(have) < FEWEST_SEEDS)


def _trained_elsewhere(experiment: Experiment) -> bool:
    """Whether only checkpoints that a user brings are compared: there are no further seeds of these to add."""
    checkpoints = {cell.name for cell in experiment.cells if cell.method == CHECKPOINT}
    return bool(checkpoints) and checkpoints >= {*experiment.names} - {experiment.baseline}


def _of_prompts(findings: Findings) -> Iterator[Warning]:
    if findings.prompts == 1:
        yield Warning("one_prompt", {"prompts": findings.prompts}, True)
        return
    seen = [pairing.detectable for pairing in findings.pairings if pairing.detectable is not None]
    if seen and detectable(1.0, findings.prompts, alpha=1 - findings.level) > FEW_PROMPTS:
        yield Warning("few_prompts", {"prompts": findings.prompts, "detectable": median(seen)}, True)


def _of_rewards(data: Data, findings: Findings) -> Iterator[Warning]:
    if not any(findings.primary in method.metrics for method in findings.methods):
        yield Warning("no_reward_model", {}, True)
    elif findings.primary == "score" and any(
        _scored(method.cost.flops, method.cost.shared) for method in findings.methods
    ):
        yield Warning("same_scorer", {"scorer": "score"}, True)
    yield from _of_the_reward_model(data, findings)
    for name, overdone in over_optimised(data, findings.curves, findings.level).items():
        yield Warning("over_optimised", {"method": name, **overdone._asdict()}, True)


def _of_the_reward_model(data: Data, findings: Findings) -> Iterator[Warning]:
    """Said of these reward models, whatever the report claims of methods: what they select cannot be better."""
    table = data.pairs.table(REWARD_MODEL, "correct")
    if table is None:
        return
    accuracy = Means(Claim.CHECKPOINTS, findings.level).share(table.means)
    # Without bounds all are ties, as of a model that gives every response the same, or there is one pair.
    low, high = (accuracy.mean if bound is None else bound for bound in (accuracy.low, accuracy.high))
    if low <= CHANCE:
        values = {"accuracy": accuracy.mean, "low": low, "high": high}
        yield Warning("weak_reward_model", values, findings.primary == "score")


def _scored(flops: Mapping[str, float], shared: Mapping[str, float]) -> bool:
    """A method that needed the reward model, or scored responses, before it was judged was made by scores."""
    return "reward model" in shared or flops.get("scoring", 0) > 0


def _of_judges(data: Data) -> Iterator[Warning]:
    for judge, grid in data.judgements.items():
        seen = behaviour(grid)
        if seen.flipped > FLIPS * seen.both:
            yield Warning("judge_flips", {"judge": judge, "rate": seen.flipped / seen.both})
        if seen.flipped and sign_test(seen.first, seen.flipped - seen.first) < LEANING:
            yield Warning("judge_leans", {"judge": judge, "rate": seen.first / seen.flipped})
        for method, (failed, asked) in seen.failed.items():
            if failed:
                values = {"judge": judge, "method": method, "failed": failed, "asked": asked}
                yield Warning("judge_failed", values, failed >= FAILED * asked)


def _of_methods(findings: Findings) -> Iterator[Warning]:
    """SFT alone is left out of the costs: the others' contain it."""
    costs = {each.name: each.cost.total for each in findings.methods if each.method != "sft" and each.cost.total > 0}
    if costs:
        cheapest, dearest = min(costs, key=lambda name: costs[name]), max(costs, key=lambda name: costs[name])
        ratio = costs[dearest] / costs[cheapest]
        if ratio > COSTS:
            yield Warning("unequal_cost", {"cheapest": cheapest, "dearest": dearest, "ratio": ratio})
    for metric, most in (("unfinished", UNFINISHED), ("degenerate", DEGENERATE)):
        for method in findings.methods:
            if metric in method.metrics and method.metrics[metric].mean > most:
                yield Warning(metric, {"method": method.name, "share": method.metrics[metric].mean})


def _same(data: Data, pairs: Mapping[tuple[str, str], Compared], first: str, second: str) -> bool:
    """The same rewards and the same words: rewards alone may agree, as where all responses have the highest."""
    one, other = (data.responses.frames[name] for name in (first, second))
    shared = [seed for seed in one if seed in other]
    return pairs[first, second].identical and all(
        np.array_equal(one[seed]["response"].to_numpy(), other[seed]["response"].to_numpy()) for seed in shared
    )
