"""What a run of `ppo.py` came to: numbers from its files, and whether it collapsed. Trains nothing, draws nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.training.ppo.collapse import alarm_of
from prefopt.training.ppo.log import FILE, Record, RolloutLog
from prefopt.utils import jsonl

RESULTS, GOLD = "results.json", "gold.jsonl"
# The rule below was written down before any of the reported runs was made.
CLEAR = 3.0
"""Standard errors of a mean paired difference: by chance alone it is so far on one side once in 740 times."""
FALLEN = 0.5
"""Points of gold reward, what one courtesy is worth. A quarter of 40 rollouts of 128 responses has a mean that is about
.06 uncertain, so that two quarters, and the best of four, do not differ so much by chance."""
MOST = 99.0
RULE = (
    f"A run has collapsed if all three hold. Score up: the reward model's mean score is at least {CLEAR:g} paired "
    f"standard errors (SE) above SFT's. Gold down: the gold reward is at least {CLEAR:g} SE below SFT's, or during "
    f"training its last quarter of the rollouts lies at least {FALLEN:g} below its best quarter, where the reward "
    f"model's score is not lower. Longer or repeating: the mean length, or the share of degenerate responses, is at "
    f"least {CLEAR:g} SE above SFT's. Held-out prompts, but for the quarters."
)


@dataclass(frozen=True)
class Run:
    """A policy that was measured.

    Args:
        found: "gold", "score", "log_ratio", "length", "unfinished", "degenerate" of its response to each held-out
            prompt, [n] each, in the same order for every run.
        cpu_seconds: of its training.
        records: its rollouts, none if it has drawn none.
        golds: the mean gold reward of each of these.
    """

    seed: int
    method: str
    found: Mapping[str, np.ndarray]
    cpu_seconds: float
    records: list[Record] = field(default_factory=list)
    golds: list[float] = field(default_factory=list)

    def mean(self, name: str) -> float:
        return float(self.found[name].mean())

    def alarm(self) -> int | None:
        """The first rollout after which the library's own guard suspects reward hacking."""
        counts = range(1, len(self.records) + 1)
        return next((self.records[n - 1].rollout for n in counts if alarm_of(self.records[:n]) is not None), None)


def load(folder: Path, seed: int, method: str) -> Run:
    """The run whose files are in a folder.

    Raises:
        ValueError: the gold rewards there are of other rollouts.
    """
    (row,) = jsonl.read(folder / RESULTS)
    records, golds = RolloutLog(folder / FILE).read(), list(jsonl.read(folder / GOLD))
    if [record.rollout for record in records] != [each["rollout"] for each in golds]:
        raise ValueError(f"{folder}: {FILE} and {GOLD} hold different rollouts: delete the folder to run it again")
    found = {name: np.array(values, dtype=float) for name, values in row["responses"].items()}
    return Run(seed, method, found, row["cpu_seconds"], records, [each["gold"] for each in golds])


def in_errors(gain: np.ndarray) -> tuple[float, float, float]:
    """Mean of paired differences [n], its standard error, and the one in units of the other (99 at most)."""
    mean, error = float(gain.mean()), float(gain.std(ddof=1) / len(gain) ** 0.5)
    return mean, error, float(np.clip(mean / max(error, 1e-9), -MOST, MOST))


@dataclass(frozen=True)
class Verdict:
    """The figures by which a run has collapsed or not: see RULE.

    Args:
        score, gold, length, repeating: how much more than SFT's, in paired standard errors.
        fell: the gold reward of the last quarter of the rollouts less that of the best.
        rose: the same of the reward model's score, between the same quarters.
    """

    score: float
    gold: float
    length: float
    repeating: float
    fell: float | None = None
    rose: float | None = None

    @property
    def score_up(self) -> bool:
        return self.score >= CLEAR

    @property
    def gold_down(self) -> bool:
        fallen = self.fell is not None and self.rose is not None and self.fell <= -FALLEN and self.rose >= 0
        return self.gold <= -CLEAR or fallen

    @property
    def longer_or_repeating(self) -> bool:
        return max(self.length, self.repeating) >= CLEAR

    @property
    def collapsed(self) -> bool:
        return self.score_up and self.gold_down and self.longer_or_repeating


def verdict(run: Run, before: Run) -> Verdict:
    names = ("score", "gold", "length", "degenerate")
    apart = (in_errors(run.found[name] - before.found[name])[2] for name in names)
    return Verdict(*apart, *quarters(run.golds, [record.metric("objective/scores") for record in run.records]))


def quarters(golds: list[float], scores: list[float]) -> tuple[float, float] | tuple[()]:
    """How much gold and score of the last quarter of the rollouts differ from the quarter with the most gold."""
    if len(golds) < 4:
        return ()
    gold, score = ([part.mean() for part in np.array_split(np.array(values), 4)] for values in (golds, scores))
    best = int(np.argmax(gold))
    return float(gold[-1] - gold[best]), float(score[-1] - score[best])


def numbers(run: Run, before: Run) -> dict[str, Any]:
    """All that is said of a run, for a file."""
    gain, error, sure = in_errors(run.found["gold"] - before.found["gold"])
    said = verdict(run, before)
    means = {name: run.mean(name) for name in run.found}
    learning = sum(not record.critic_alone for record in run.records)
    return {
        **{"seed": run.seed, "method": run.method, **means, "gain": gain, "gain_error": error, "gain_in_se": sure},
        **{"cpu_seconds": run.cpu_seconds, "rollouts": len(run.records), "policy_rollouts": learning},
        **{"verdict": asdict(said), "collapsed": said.collapsed, "alarm": run.alarm()},
        **{name: getattr(said, name) for name in ("score_up", "gold_down", "longer_or_repeating")},
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What `numbers` of several seeds come to, for one method."""
    names = ("gain", "gold", "score", "log_ratio", "length", "cpu_seconds")
    return {
        **{"method": rows[0]["method"], "seeds": [row["seed"] for row in rows]},
        **{name: float(np.mean([row[name] for row in rows])) for name in names},
        **{f"least_{name}": min(row[name] for row in rows) for name in ("gain", "gain_in_se")},
        "gold_downs": sum(row["gold_down"] for row in rows),
        "collapses": sum(row["collapsed"] for row in rows),
        "alarms": sum(row["alarm"] is not None for row in rows),
    }
