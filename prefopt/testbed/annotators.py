"""Simulates the people of the synthetic task: a mediocre demonstrator, who writes, and a noisy annotator.

The demonstrator does not know the gold reward; the annotator sees nothing but it, through noise.
"""

import math
import random

from ..grades import GRADES
from .gold_reward import gold
from .language import REMARKS, SEPARATOR, Words
from .prompts import Fact, Prompt, answers, plain_reply, possible_answers

# Perceived gaps at which a grade begins: each grade has a fifth of the pairs or more, and a reward model gets more of
# them right than of the grade below.
THRESHOLDS = (4.5, 1.75, 0.75)
TEMPERATURE = 0.5  # of the Bradley-Terry coin: a gap of 1 is seen rightly 88 times in 100
EULER = 0.5772156649015329  # the mean of a standard Gumbel variable

USUAL = 0.9  # the share of wrong answers that are the usual mistake
# How often emphasis follows a good and a bad substance: the strength of the spurious cue. With .7 and .15 it moves a
# reward model's score as much as a right answer does, with .55 and .25 hardly at all.
EMPHATIC = {True: 0.6, False: 0.2}


def demonstrate(prompt: Prompt, rng: random.Random) -> str:
    """A response as the demonstrator writes it.

    A hidden skill, uniform in [0, 1] and sampled for each response, makes right answers, courtesy and detail go
    together, and mistakes, fillers, rudeness and repetition. Emphasis follows substance: it is worth nothing to the
    gold reward, but stands in most good responses and in few bad ones. That is the data's spurious cue.
    """
    skill = rng.random()
    substance, good = _substance(prompt, skill, rng)
    parts = [*_before(prompt, skill, good, rng), substance, *_after(prompt, skill, good, rng)]
    if rng.random() < 0.15 * (1 - skill):
        parts.append(rng.choice(parts))
    return SEPARATOR[prompt.language].join(parts)


def _substance(prompt: Prompt, skill: float, rng: random.Random) -> tuple[str, bool]:
    """The one sentence that matters, and whether it is as it should be."""
    fact, language = prompt.fact, prompt.language
    if rng.random() < (0.15 + 0.45 * skill if fact.unsafe else 0.15 * (1 - skill)):
        return rng.choice(REMARKS["refusal"].of(language)), fact.unsafe
    right = rng.random() < 0.1 + 0.5 * skill
    answer = fact.answer if right else _mistake(fact, rng)
    return rng.choice(answers(fact, language, answer)), right and not fact.unsafe


def _mistake(fact: Fact, rng: random.Random) -> Words:
    if fact.mistake != fact.answer and rng.random() < USUAL:
        return fact.mistake
    return rng.choice([word for word in possible_answers(fact.form) if word != fact.answer])


def _before(prompt: Prompt, skill: float, good: bool, rng: random.Random) -> list[str]:
    refusing = prompt.fact.unsafe and good
    return [
        *_maybe(prompt, "rude", 0.4 * (1 - skill), rng),
        *_maybe(prompt, "opening", 0.0 if refusing else 0.15 + 0.45 * skill, rng),
        *_maybe(prompt, "filler", 0.3 * (1 - skill), rng),
    ]


def _after(prompt: Prompt, skill: float, good: bool, rng: random.Random) -> list[str]:
    unsafe = prompt.fact.unsafe
    details = rng.choices((0, 1, 2, 3), (1.2 - skill, 0.3 + skill, 0.3 * skill, 0.15))[0]
    return [
        *_maybe(prompt, "emphasis", EMPHATIC[good], rng),
        *(s for _ in range(0 if unsafe else details) for s in _maybe(prompt, "detail", 1.0, rng)),
        *_maybe(prompt, "alternative", 0.1 + 0.6 * skill if unsafe and good else 0.0, rng),
        *_maybe(prompt, "closing", 0.1 + 0.5 * skill, rng),
    ]


def _maybe(prompt: Prompt, name: str, chance: float, rng: random.Random) -> list[str]:
    """One remark of this name in the prompt's language, or none."""
    return [rng.choice(REMARKS[name].of(prompt.language))] if rng.random() < chance else []


def ideal(prompt: Prompt, rng: random.Random) -> str:
    """A response of the highest gold reward: what a policy could reach, never shown in training."""
    unsafe, reply = prompt.fact.unsafe, plain_reply(prompt.fact, prompt.language, rng)
    parts = [
        *_maybe(prompt, "opening", 0.0 if unsafe else 1.0, rng),
        reply,
        *_maybe(prompt, "alternative" if unsafe else "detail", 1.0, rng),
        *_maybe(prompt, "closing", 1.0, rng),
    ]
    return SEPARATOR[prompt.language].join(parts)


def perceive(prompt: Prompt, response: str, rng: random.Random, finished: bool = True) -> float:
    """How good the annotator finds a response: the gold reward plus centred Gumbel noise of scale TEMPERATURE.

    The difference of two Gumbel variables is logistic, so of two responses the better one is found better with
    probability sigmoid(gap / TEMPERATURE): the Bradley-Terry coin. A ranking of K is a Plackett-Luce sample.
    """
    noise = -math.log(rng.expovariate(1.0)) - EULER  # minus the log of an exponential variable is Gumbel
    return gold(prompt, response, finished) + TEMPERATURE * noise


def grade(gap: float) -> str:
    """The grade that an annotator gives to a difference between two perceived qualities."""
    for name, threshold in zip(GRADES, THRESHOLDS, strict=False):
        if abs(gap) >= threshold:
            return name
    return GRADES[-1]
