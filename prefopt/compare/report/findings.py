"""What a comparison came to, as plain values: all that any form of the report reads, and what `report.json` holds.

Every text in it is either the user's, a model's, or a
key of `words.py`, so that one `Findings` can be read in any language.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...utils import files
from ...utils.visible import visible_json

FILE = "report.json"


@dataclass(frozen=True)
class Value:
    """A mean and its interval at the report's level, for what the report claims.

    Without bounds where there is one prompt, or one seed under a claim about methods, or nothing varies.
    """

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a method took, summed over its own stages; means over seeds.

    Args:
        flops: floating-point operations by purpose: "training", "generation", "scoring", "reference", and "trials" for
            the settings that were tried and not taken.
        shared: those of stages that several methods use and that this one needs: "reward model", "sft".
        tokens: by purpose, as `flops`.
        seconds, cpu_seconds: of the cell alone.
        peak_memory: bytes, the largest over seeds; None where it could not be measured.
        steps: of the optimizer.
    """

    flops: Mapping[str, float]
    shared: Mapping[str, float]
    tokens: Mapping[str, int]
    seconds: float
    cpu_seconds: float
    steps: int
    peak_memory: int | None = None

    @property
    def own(self) -> float:
        """FLOPs without what is shared."""
        return sum(self.flops.values())

    @property
    def total(self) -> float:
        """FLOPs, the whole of each shared stage among them."""
        return self.own + sum(self.shared.values())


@dataclass(frozen=True)
class Method:
    """One line of the headline table.

    Args:
        name: as the plan calls it.
        method: what it is: a name that `objectives.load` knows, "sft" or "best-of-n".
        settings: what the plan gave, and what a grid chose.
        seeds: those that finished, in order.
        metrics: by name (`metrics.METRICS`); none for a metric that the method does not have.
        trials: how many settings were tried on validation prompts.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    seeds: Sequence[int]
    metrics: Mapping[str, Value]
    cost: Cost
    trials: int = 1


@dataclass(frozen=True)
class Pairing:
    """The first of two methods less the second, by the primary metric.

    Args:
        verdict: a `compare.Verdict`, of the first, after correction.
        p: Holm-corrected over all pairs.
        difference: on the seeds that both have; of these checkpoints alone where these are fewer than five.
        effect: the mean difference in units of its standard deviation over prompts (d_z).
        detectable: the smallest true difference that this design finds in 80 of 100 repetitions.
    """

    first: str
    second: str
    verdict: str
    difference: Value
    p: float
    effect: float | None = None
    detectable: float | None = None


@dataclass(frozen=True)
class FrontierPoint:
    """A method at the end of its training; see `compare.Point`."""

    name: str
    reward: Value
    kl: Value
    dominated_by: Sequence[str] = ()
    clearly_by: Sequence[str] = ()


@dataclass(frozen=True)
class Moment:
    """A policy during its training, by fresh responses to validation prompts.

    Args:
        look: which one it is, from 0: at the same share of the training with every seed, but for whole steps.
        share: of the training that is done, from 0 to 1.
        flops: of the cell so far.
        values: means by metric: "score", "gold" where it is known, "kl", "length".
        errors: their standard errors over prompts.
    """

    method: str
    seed: int
    look: int
    step: int
    share: float
    flops: float
    values: Mapping[str, float]
    errors: Mapping[str, float]


@dataclass(frozen=True)
class Histogram:
    """How a metric is distributed over responses, all seeds together; the same edges for every method.

    Args:
        edges: [bins + 1].
        shares: method -> [bins], in sum 1.
    """

    metric: str
    edges: Sequence[float]
    shares: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class BestOfCurve:
    """What the best of K responses by the score is worth.

    Args:
        ks: numbers of responses.
        best, median: expected highest and median score of K responses.
        predicted: the highest were scores Gaussian with each prompt's own mean and deviation: unbiased of such scores.
        gold: gold reward of the response with the highest score; None where gold is not known.
    """

    method: str
    ks: Sequence[int]
    best: Sequence[Value]
    median: Sequence[Value]
    predicted: Sequence[float]
    gold: Sequence[Value] | None = None


@dataclass(frozen=True)
class GradeAccuracy:
    """Held-out pairs of one grade that are ranked right.

    Args:
        grade: the dataset's own word for how much better the chosen response is; "" of pairs that have none.
        pairs: how many; an accuracy is a mean over seeds.
        by: method -> accuracy; a method is here if its policy ranks pairs, by its implicit reward. "reward-model" is
            here too, which is no method.
    """

    grade: str
    pairs: int
    by: Mapping[str, Value]


@dataclass(frozen=True)
class LengthPoints:
    """Length and reward, the primary one, of single responses of one method: at most some hundred, evenly taken.

    Args:
        correlation: Spearman's, of all of them.
    """

    method: str
    length: Sequence[float]
    reward: Sequence[float]
    correlation: float | None


@dataclass(frozen=True)
class WinRate:
    """A method against the baseline by one judge.

    Args:
        wins, ties, losses: over all seeds' prompts.
        rate: wins and half the ties, with an interval by seeds and prompts.
        p: of the sign test, Holm-corrected over methods. A prompt counts once, by its mean over seeds: this is about
            these checkpoints, whatever the rate's interval claims.
        length_controlled: see `compare.length_controlled`; None where it cannot be fitted.
        failures: prompts that the judge gave no usable answer to; they are in no other number.
        flip_rate, first_preferred: of a judge that was asked in both orders.
    """

    method: str
    wins: int
    ties: int
    losses: int
    rate: Value
    p: float | None
    length_controlled: Value | None = None
    failures: int = 0
    flip_rate: float | None = None
    first_preferred: float | None = None


@dataclass(frozen=True)
class Judge:
    """All methods against the baseline, by one judge."""

    name: str
    kind: str
    """"reward-model", "gold", "function" or "endpoint"."""
    rates: Sequence[WinRate]


@dataclass(frozen=True)
class Choices:
    """Multiple-choice accuracy on one file.

    Args:
        by: method -> accuracy.
        p: method -> exact McNemar against the baseline, Holm-corrected over methods and files. Of several seeds a
            question counts once, for the side that had it right with more of them: it is about these checkpoints.
    """

    name: str
    questions: int
    by: Mapping[str, Value]
    p: Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """One response in the sample browser. `outcome` against the baseline: 1 won, .5 tie, 0 lost."""

    method: str
    text: str
    values: Mapping[str, float]
    finished: bool
    outcome: float | None = None


@dataclass(frozen=True)
class Sample:
    """One prompt and the first response to it of every method, with one seed."""

    key: str
    prompt: Sequence[Mapping[str, str]]
    seed: int
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Warning:
    """Something a reader has to know: `key` of words.py, and what to put in. `serious` ones stand above the table."""

    key: str
    values: Mapping[str, Any] = field(default_factory=dict)
    serious: bool = False


@dataclass(frozen=True)
class Failure:
    """A cell that is missing, with the reason in one line and the traceback's last lines."""

    method: str
    seed: int | None
    reason: str
    details: str = ""


@dataclass(frozen=True)
class Findings:
    """The whole of a comparison.

    Args:
        title: the plan's.
        primary: the metric that methods are compared by.
        claim: a `compare.Claim` by name: "METHODS", or "CHECKPOINTS" with fewer than five seeds.
        baseline: the method that the others are held against.
        seeds: planned; prompts, pairs: held out, after overlaps were taken out.
        provenance: ordered; values are texts, numbers, or mappings of such.
    """

    title: str
    primary: str
    claim: str
    level: float
    baseline: str
    seeds: Sequence[int]
    prompts: int
    pairs: int
    methods: Sequence[Method]
    pairings: Sequence[Pairing] = ()
    frontier: Sequence[FrontierPoint] = ()
    curves: Sequence[Moment] = ()
    histograms: Sequence[Histogram] = ()
    best_of: Sequence[BestOfCurve] = ()
    grades: Sequence[GradeAccuracy] = ()
    lengths: Sequence[LengthPoints] = ()
    judges: Sequence[Judge] = ()
    choices: Sequence[Choices] = ()
    samples: Sequence[Sample] = ()
    warnings: Sequence[Warning] = ()
    failures: Sequence[Failure] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def method(self, name: str) -> Method:
        return next(each for each in self.methods if each.name == name)

    def pairing(self, first: str, second: str) -> Pairing | None:
        """The one of these two, in whatever order it was made; None where there is none."""
        return next((each for each in self.pairings if {each.first, each.second} == {first, second}), None)

    def write(self, folder: Path) -> Path:
        """Into report.json, whole or not at all."""
        path = folder / FILE
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        data = visible_json(text).encode("utf-8", "backslashreplace")  # half a surrogate pair is \ud800 in JSON too
        files.replace(path, data)
        return path
