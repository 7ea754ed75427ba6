"""Which temperature to draw K responses at: the one whose best of K scores highest on prompts kept for this.

    found = search(policy, tokenizer, prompts, scorer, settings, temperatures=[0.6, 0.8, 1.0, 1.2], folder=..., ...)
    found.best, found.plausible                # 1.0, (0.8, 1.2)

Knows a policy, prompts, pools and scores; not what the responses are drawn for afterwards. All that is drawn stays in
the folder: to go on after a kill, search again.

    t-0.80/             the pool of temperature 0.8
    settings.json       how all of them were drawn
    temperature.json    what was found
    temperature.png     the same as a picture (Llama 2, arXiv:2307.09288, Figure 8)
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.records import Messages
from ..generation.prompts import encoded
from ..objectives.sampling_arguments import SamplingArguments
from ..scoring.load import scorer_from
from ..scoring.scorer import Scorer
from ..utils import jsonl
from ..utils.distributed import on_first
from .candidate import prompt_key
from .diversity import Guards
from .generate import Draw, fill
from .order_statistics import Estimate, doublings
from .plot import temperature_picture
from .pool import Pool
from .temperature_comparison import Drawn, Round, Search, compared, measured, ranking, schedule

logger = logging.getLogger(__name__)

VARIES = ("responses_per_prompt", "temperature", "sampling_batch_size")
"""Settings that a search may change without making its pools another run's."""


def search(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    scorer: Any,
    settings: SamplingArguments,
    *,
    temperatures: Sequence[float],
    folder: str | Path,
    version: str,
    seed: int,
    k: int | None = None,
    n: int | None = None,
    halving: bool = False,
    budget: int | None = None,
    level: float = 0.95,
    max_unfinished: float = Guards.max_unfinished,
    max_degenerate: float = Guards.max_degenerate,
    min_distinct: float = Guards.min_distinct,
    progress: bool = False,
) -> Search:
    """Draw `n` responses to each prompt at each temperature, score them, and find the best best-of-`k`.

    All temperatures see the same prompts, and draw by the same random numbers, so that they are compared in pairs:
    what makes a prompt easy or a draw lucky is the same for all. Responses that selection would leave out, the
    unfinished and the blank, are never the best: each counts as the lowest score of the others to its prompt, at any
    temperature of the round (or to any prompt, if its own has none).

    Args:
        prompts: others than those that are trained on, which are answered by the same random numbers. A smaller budget
            takes the first ones: let their order be random.
        scorer: whatever `scorer_from` takes.
        k: the best of how many counts; by default the settings' `responses_per_prompt`.
        n: by default twice k: more than k lower the variance, and say as much of k = 1, 2, 4, ...
        halving: successive halving (Jamieson and Talwalkar, arXiv:1502.07943): all temperatures are tried on some
            prompts, the better half on more, until one is left.
        budget: the most responses to draw. None draws to all prompts, with halving by the last round.
        level: of the intervals, and of `Search.plausible`.
        max_unfinished, max_degenerate, min_distinct: a temperature that breaks one is not chosen, see `Guards`.

    Raises:
        ValueError: temperatures, numbers or prompts that cannot be searched; a folder whose responses were drawn by
            other settings; or no temperature that keeps to the guards, with what is wrong with each.
        ScoreError: the scorer did not give one finite number per response.
        OSError: the folder could not be written; what it held is intact.
    """
    k = settings.responses_per_prompt if k is None else k
    drawn = _drawn_by(settings, 2 * k if n is None else n)
    _check(temperatures, drawn, k, level)
    _check_prompts(prompts)
    plan = schedule(len(temperatures), len(prompts), drawn.responses_per_prompt, halving, budget)
    encoded(prompts, tokenizer, policy, drawn.max_new_tokens)  # hours later is too late for one that does not fit
    guards = Guards(max_unfinished, max_degenerate, min_distinct)
    arms = tuple(sorted(map(float, temperatures)))
    task = _Task(prompts, scorer_from(scorer), drawn, arms, k, Path(folder), version, seed, level, guards)
    on_first(task.claim)
    draw = partial(fill, policy=policy, tokenizer=tokenizer, settings=drawn, progress=progress)
    found = compared(_rounds(task, plan, draw), k, drawn.responses_per_prompt, level)
    on_first(partial(_write, task, found))
    return found


def _drawn_by(settings: SamplingArguments, n: int) -> SamplingArguments:
    """The settings of sampling alone: those of a trainer must not be made a second time."""
    values = {each.name: getattr(settings, each.name) for each in fields(SamplingArguments)}
    return SamplingArguments(**values | {"responses_per_prompt": n})


def _check(temperatures: Sequence[float], settings: SamplingArguments, k: int, level: float) -> None:
    n = settings.responses_per_prompt
    if not temperatures or not all(0 <= one < math.inf for one in temperatures):
        raise ValueError(f"temperatures={list(temperatures)}: give at least one, each a number from 0")
    if len(set(temperatures)) < len(temperatures):
        raise ValueError(f"temperatures={list(temperatures)}: give each once")
    if not 1 <= k <= n:
        raise ValueError(f"k={k} of n={n} responses: the best of k needs n >= k >= 1")
    if not 0.5 <= level < 1:
        raise ValueError(f"level={level} must lie in [0.5, 1)")
    if settings.source != "sampling":
        raise ValueError(f"source={settings.source!r} is not sampled: temperatures have nothing to search")
    settings.check_sampling()


def _check_prompts(prompts: Sequence[Messages]) -> None:
    first: dict[str, int] = {}
    for number, prompt in enumerate(prompts):
        if (there := first.setdefault(prompt_key(prompt), number)) != number:
            raise ValueError(f"prompt {number} is the same as prompt {there}: give each once")


@dataclass(frozen=True)
class _Task:
    """What is asked for, but for the policy."""

    prompts: Sequence[Messages]
    scorer: Scorer
    settings: SamplingArguments
    temperatures: tuple[float, ...]
    k: int
    folder: Path
    version: str
    seed: int
    level: float
    guards: Guards

    def pool(self, temperature: float) -> Pool:
        name = f"{temperature:.2f}"
        return Pool(self.folder / f"t-{name if float(name) == temperature else repr(temperature)}")

    def claim(self) -> None:
        """A candidate does not say what cut its distribution or its length, so the folder does."""
        card = self.folder / "settings.json"
        own = {name: value for name, value in asdict(self.settings).items() if name not in VARIES}
        own = json.loads(jsonl.line_of(own))  # as it is read back
        there = next(jsonl.read(card), own)
        other = [name for name in own if there.get(name) != own[name]]
        if other:
            named = ", ".join(f"{name}={there.get(name)!r}, now {own[name]!r}" for name in other)
            raise ValueError(f"{self.folder}: the responses there were drawn by {named}: search in another folder")
        jsonl.replace(card, [own])


def _rounds(task: _Task, plan: list[tuple[int, int]], draw: Callable[..., int]) -> list[Round]:
    rounds: list[Round] = []
    alive, before = list(task.temperatures), 0
    for size, count in plan:
        alive = sorted(alive[:size])
        new = task.prompts[before:count]
        for temperature in alive if new else ():
            where = Draw(task.version, task.seed, temperature=temperature)
            draw(task.pool(temperature), prompts=new, draw=where)
        for temperature in alive:
            task.pool(temperature).score(task.scorer)
        rounds.append(on_first(partial(_round, task, alive, count)))
        alive = ranking(rounds[-1])
        before = count
    return rounds


def _round(task: _Task, temperatures: Sequence[float], count: int) -> Round:
    drawn = {temperature: _read(task, temperature, count) for temperature in temperatures}
    return measured(drawn, task.k, task.level, task.guards)


def _read(task: _Task, temperature: float, count: int) -> Drawn:
    pool, n = task.pool(temperature), task.settings.responses_per_prompt
    rows = {prompt_key(prompt): row for row, prompt in enumerate(task.prompts[:count])}
    drawn = Drawn(np.full((count, n), np.nan), np.zeros((count, n), bool), [[""] * n for _ in range(count)])
    for one, score in pool.scored(task.scorer):
        row = rows.get(one.prompt_key)
        if row is not None and one.k < n and (one.round, one.iteration) == (0, 0):
            drawn.scores[row, one.k], drawn.finished[row, one.k] = score, one.finished
            drawn.texts[row][one.k] = one.response
    return drawn


def _write(task: _Task, found: Search) -> None:
    who = {"version": task.version, "seed": task.seed, "scorer": task.scorer.name}
    jsonl.replace(task.folder / "temperature.json", [found.record() | who])
    doubtful = [one.temperature for one in found.temperatures.values() if one.reasons]
    temperature_picture(task.folder / "temperature.png", _curves(found), found.best, found.plausible, doubtful)
    logger.info("best temperature %g (%g to %g plausible) for the best of %d", found.best, *found.plausible, task.k)


def _curves(found: Search) -> dict[str, dict[float, Estimate]]:
    """For several k, the highest first; of several rounds, the best of K in each, the last first.

    Rounds have other prompts, and means over different prompts make no curve: they differ more than temperatures do.
    """
    last = found.rounds[-1]
    if len(found.rounds) == 1:
        names = {k: f"best of {k}" if k > 1 else "one response" for k in reversed(doublings(found.k))}
        return {name: {one.temperature: one.rewards[k] for one in last.values()} for k, name in names.items()}
    return {
        f"best of {found.k},\n{next(iter(each.values())).prompts} prompts (round {number})": {
            one.temperature: one.rewards[found.k] for one in each.values()
        }
        for number, each in reversed(list(enumerate(found.rounds, 1)))
    }
