"""Puts the numbers of a report together, and decides what may be claimed of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

from ...records import Experiment
from ...statistics import FEWEST_SEEDS, Claim
from ..findings import Failure, Findings, FrontierPoint, Method
from ..metrics import METRICS
from .best_of import best_of_curves
from .curves import moments
from .held_out import choices_of, grade_accuracies
from .judges import judges_of
from .means import Means
from .methods import gain_of, method_of
from .pairings import all_compared, frontier_points, pairings
from .responses import histograms, length_points, samples
from .tables import Data, Table, data_of
from .warnings import warnings_of


def findings_of(experiment: Experiment, level: float = 0.95) -> Findings:
    """All numbers of a report, by the statistics of `prefopt.compare`; the order of cells and of their rows is nothing.

    Two methods are compared on the seeds that both have. With five of them or more the claim is METHODS, otherwise
    CHECKPOINTS: of the report, if no two methods share five; of a pair, if these two do not.

    Raises:
        ValueError: the experiment contradicts itself, or a cell's table lacks rows or has some twice; it names it.
    """
    data = data_of(experiment)
    primary = _primary(data)
    rewards = data.known(primary)
    seeds = _most_shared(data, rewards)
    claim = Claim.METHODS if seeds >= FEWEST_SEEDS and len(experiment.prompts) > 1 else Claim.CHECKPOINTS
    means, pairs = Means(claim, level), all_compared(rewards, level)
    judges = judges_of(data, means)
    methods = [method_of(data, name, means, gain_of(data, name, primary, pairs), judges) for name in data.names]
    found = Findings(
        title=experiment.title,
        primary=primary,
        claim=claim.name,
        level=level,
        baseline=experiment.baseline,
        seeds=list(experiment.seeds),
        prompts=len(experiment.prompts),
        pairs=len(data.pairs.rows),
        methods=methods,
        pairings=pairings(pairs),
        frontier=_frontier(data, methods, rewards, primary, level),
        curves=moments(data),
        histograms=histograms(data),
        best_of=best_of_curves(data, means),
        grades=grade_accuracies(data, means),
        lengths=length_points(data, primary),
        judges=judges,
        choices=choices_of(data, means),
        samples=samples(data),
        failures=[Failure(**failure) for failure in experiment.failures],
        provenance=experiment.provenance,
    )
    return replace(found, warnings=list(warnings_of(data, found, pairs, seeds)))


def _primary(data: Data) -> str:
    """What was asked for; else gold where all methods with responses have it, else the score.

    Raises:
        ValueError: no method has what was asked for, or it is nothing to decide by.
    """
    wanted, deciding = data.experiment.primary, [name for name, metric in METRICS.items() if metric.decides]
    if wanted is None:
        known = len(data.known("gold"))
        return "gold" if known and known == len(data.responses.frames) else "score"
    if wanted not in deciding or not data.known(wanted):
        have = [name for name in deciding if data.known(name)]
        raise ValueError(f"primary={wanted!r}: methods can be compared by {have} here; leave it out to have one chosen")
    return wanted


def _most_shared(data: Data, rewards: Mapping[str, Table]) -> int:
    """Seeds of the two methods that share most; of the only one, if there is one."""
    if len(rewards) > 1:
        return max(len(one.shared(other)) for one, other in combinations(rewards.values(), 2))
    return max((len(by_seed) for by_seed in data.cells.values()), default=0)


def _frontier(
    data: Data, methods: list[Method], rewards: Mapping[str, Table], primary: str, level: float
) -> list[FrontierPoint]:
    both = {
        each.name: (each.metrics[primary], each.metrics["kl"])
        for each in methods
        if primary in each.metrics and "kl" in each.metrics
    }
    return frontier_points(rewards, data.known("kl"), both, level)
