"""`search_temperatures`: at which temperature the best of K responses scores highest, on prompts kept for this.

    search = search_temperatures(policy, tokenizer, prompts, scorer, settings, temperatures=[0.6, 0.8, 1.0], ...)
    search.best, search.plausible                # 1.0, (0.8, 1.0)

All that is sampled stays in a folder: to go on after a kill, search again.

    t-0.80/             the pool of temperature 0.8
    settings.json       how the responses of all of them were sampled
    temperature.json    what the search came to
    temperature.png     the same as a figure (Llama 2, arXiv:2307.09288, Figure 8)
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.records import Messages
from ..generation.prompts import EncodedPrompts, encode_prompts
from ..objectives.sampling_arguments import SamplingArguments
from ..scoring.load import scorer_from
from ..scoring.scorer import Scorer
from ..utils import jsonl
from ..utils.distributed import on_first
from ..utils.renamed import renamed, renamed_arguments
from .candidate import prompt_key
from .diversity import Guards
from .generate import Origin, check_distinct, generate_into
from .order_statistics import Estimate, doublings
from .plot import plot_temperatures
from .pool import Pool
from .temperature_comparison import (
    ScoredResponses,
    SearchRound,
    TemperatureSearch,
    compare_rounds,
    evaluate_round,
    plan_rounds,
    rank,
)

logger = logging.getLogger(__name__)

VARIES = ("responses_per_prompt", "temperature", "sampling_batch_size")
"""Settings that a search may change without making its pools another run's."""


@renamed_arguments(max_unfinished="max_truncated")
def search_temperatures(
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
    max_truncated: float = Guards.max_truncated,
    max_degenerate: float = Guards.max_degenerate,
    min_distinct: float = Guards.min_distinct,
    include_truncated: bool = False,
    progress: bool = False,
) -> TemperatureSearch:
    """Sample `n` responses to each prompt at each temperature, score them, and find the best best-of-`k`.

    All temperatures see the same prompts, and sample by the same random numbers, so that they are compared in pairs:
    what makes a prompt easy or a sample lucky is the same for all. Responses that selection would leave out, the
    truncated and the blank, are never the best: each counts as the lowest score of the others to its prompt, at any
    temperature of the round (or to any prompt, if its own has none).

    Args:
        policy: as `sample` takes it.
        prompts: others than those that are trained on, which are answered by the same random numbers. A smaller budget
            takes the first ones: let their order be random.
        scorer: whatever `scorer_from` takes.
        settings: how to sample, but for the temperature.
        temperatures: which to compare, each once.
        folder: where all that is sampled is kept; another one for each policy.
        version: of the policy, such as its fingerprint.
        seed: of the random numbers.
        k: the best of how many counts; by default the settings' `responses_per_prompt`.
        n: by default twice k: more than k lower the variance, and say as much of k = 1, 2, 4, ...
        halving: successive halving (Jamieson and Talwalkar, arXiv:1502.07943): all temperatures are tried on some
            prompts, the better half on more, until one is left.
        budget: the most responses to sample. None samples responses to all prompts, with halving by the last round.
        level: of the intervals, and of `TemperatureSearch.plausible`.
        include_truncated: selection takes truncated responses too, so that they may be the best; then no temperature is
            left out for them.
        max_truncated, max_degenerate, min_distinct: a temperature that breaks one is not chosen, see `Guards`.

    Raises:
        ValueError: temperatures, numbers or prompts that cannot be searched; a folder whose responses were sampled
            by other settings; or no temperature that keeps to the guards, with what is wrong with each.
        ScoreError: the scorer did not give one finite number per response.
        OSError: the folder could not be written; what it held is intact.
    """
    k = settings.responses_per_prompt if k is None else k
    sampling = _sampling_of(settings, 2 * k if n is None else n)
    n = sampling.responses_per_prompt
    _check(temperatures, sampling, k, level)
    check_distinct(prompts)
    plan = plan_rounds(len(temperatures), len(prompts), n, halving, budget)
    # Before anything is sampled: hours later is too late for a prompt that does not fit.
    encoded = encode_prompts(prompts, tokenizer, policy, sampling.max_new_tokens)
    guards = Guards(1.0 if include_truncated else max_truncated, max_degenerate, min_distinct)
    arms = tuple(sorted(map(float, temperatures)))
    task = _SearchTask(
        encoded, scorer_from(scorer), sampling, arms, k, Path(folder), version, seed, level, guards, include_truncated
    )
    on_first(task.claim)
    generate = partial(generate_into, policy=policy, tokenizer=tokenizer, settings=sampling, progress=progress)
    search = compare_rounds(_run_rounds(task, plan, generate), k, n, level)
    on_first(partial(_write, task, search))
    return search


def _sampling_of(settings: SamplingArguments, n: int) -> SamplingArguments:
    """The settings of sampling alone: those of a trainer must not be made a second time."""
    values = {field.name: getattr(settings, field.name) for field in fields(SamplingArguments)}
    return SamplingArguments(**values | {"responses_per_prompt": n})


def _check(temperatures: Sequence[float], settings: SamplingArguments, k: int, level: float) -> None:
    n = settings.responses_per_prompt
    if not temperatures or not all(0 <= temperature < math.inf for temperature in temperatures):
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


@dataclass(frozen=True)
class _SearchTask:
    """What a search was asked for, but for the policy."""

    prompts: EncodedPrompts
    scorer: Scorer
    settings: SamplingArguments
    temperatures: tuple[float, ...]
    k: int
    folder: Path
    version: str
    seed: int
    level: float
    guards: Guards
    include_truncated: bool = False

    def pool(self, temperature: float) -> Pool:
        """Where the responses at a temperature are kept."""
        name = f"{temperature:.2f}"
        return Pool(self.folder / f"t-{name if float(name) == temperature else repr(temperature)}")

    def claim(self) -> None:
        """Write down how the folder's responses are sampled, or make sure that those in it were sampled so.

        A candidate does not say what cut its distribution or its length, so the folder does.

        Raises:
            ValueError: they were sampled otherwise.
        """
        path = self.folder / "settings.json"
        settings = {name: value for name, value in asdict(self.settings).items() if name not in VARIES}
        settings = json.loads(jsonl.line_of(settings))  # as it is read back
        written = next(jsonl.read(path), settings)
        other = [name for name in settings if written.get(name) != settings[name]]
        if other:
            named = ", ".join(f"{name}={written.get(name)!r}, now {settings[name]!r}" for name in other)
            raise ValueError(f"{self.folder}: the responses there were sampled by {named}: search in another folder")
        jsonl.replace(path, [settings])


def _run_rounds(task: _SearchTask, plan: list[tuple[int, int]], generate: Callable[..., int]) -> list[SearchRound]:
    """Sample, score and compare, round after round; the better half of a round's temperatures are in the next."""
    rounds: list[SearchRound] = []
    remaining, answered = list(task.temperatures), 0
    for size, count in plan:
        remaining = sorted(remaining[:size])
        new_prompts = task.prompts[answered:count]
        for temperature in remaining if new_prompts else ():
            origin = Origin(task.version, task.seed, temperature=temperature)
            generate(task.pool(temperature), prompts=new_prompts, origin=origin)
        for temperature in remaining:
            task.pool(temperature).score(task.scorer)
        rounds.append(on_first(partial(_evaluate_round, task, remaining, count)))
        remaining = rank(rounds[-1])
        answered = count
    return rounds


def _evaluate_round(task: _SearchTask, temperatures: Sequence[float], count: int) -> SearchRound:
    responses = {temperature: _read(task, temperature, count) for temperature in temperatures}
    return evaluate_round(responses, task.k, task.level, task.guards)


def _read(task: _SearchTask, temperature: float, count: int) -> ScoredResponses:
    """What the pool of a temperature has for the first `count` prompts."""
    pool, n = task.pool(temperature), task.settings.responses_per_prompt
    row_of = {prompt_key(prompt): row for row, prompt in enumerate(task.prompts[:count])}
    texts = [[""] * n for _ in range(count)]
    scores, finished = np.full((count, n), np.nan), np.zeros((count, n), bool)
    responses = ScoredResponses(scores, finished, texts, task.include_truncated)
    for candidate, score in pool.scored(task.scorer):
        row = row_of.get(candidate.prompt_key)
        if row is not None and candidate.k < n and (candidate.round, candidate.iteration) == (0, 0):
            responses.scores[row, candidate.k], responses.finished[row, candidate.k] = score, candidate.finished
            responses.texts[row][candidate.k] = candidate.response
    return responses


def _write(task: _SearchTask, search: TemperatureSearch) -> None:
    origin = {"version": task.version, "seed": task.seed, "scorer": task.scorer.name}
    jsonl.replace(task.folder / "temperature.json", [search.record() | origin])
    doubtful = [temperature for temperature, result in search.temperatures.items() if result.reasons]
    plot_temperatures(task.folder / "temperature.png", _curves(search), search.best, search.plausible, doubtful)
    logger.info("best temperature %g (%g to %g plausible) for the best of %d", search.best, *search.plausible, task.k)


def _curves(search: TemperatureSearch) -> dict[str, dict[float, Estimate]]:
    """For several k, the highest first; of several rounds, the best of K in each, the last first.

    Rounds have other prompts, and means over different prompts make no curve: they differ more than temperatures do.
    """
    if len(search.rounds) == 1:
        names = {k: f"best of {k}" if k > 1 else "one response" for k in reversed(doublings(search.k))}
        return {name: _curve(search.rounds[0], k) for k, name in names.items()}
    return {
        f"best of {search.k},\n{next(iter(round.values())).prompts} prompts (round {number})": _curve(round, search.k)
        for number, round in reversed(list(enumerate(search.rounds, 1)))
    }


def _curve(round: SearchRound, k: int) -> dict[float, Estimate]:
    """Temperature -> the expected best of k."""
    return {temperature: result.rewards[k] for temperature, result in round.items()}


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"search": "search_temperatures"})
