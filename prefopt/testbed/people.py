"""Who writes and who judges in the small world: a mediocre demonstrator and a noisy annotator.

The demonstrator does not know the gold reward; the annotator sees nothing but it, through noise.
"""

import math
import random

from prefopt.testbed.gold_reward import gold
from prefopt.testbed.language import REMARKS, SEPARATOR, Words
from prefopt.testbed.world import Fact, Prompt, answers, plain_reply, possible_answers

GRADES = ("significantly", "better", "slightly", "negligibly")  # Llama 2 (arXiv 2307.09288), section 3.2.1
THRESHOLDS = (4.5, 2.5, 1.0)  # perceived gaps at which a grade begins: near the quartiles of the demonstrator's pairs
TEMPERATURE = 0.5  # of the Bradley-Terry coin: a gap of 1 is seen rightly 88 times in 100
EULER = 0.5772156649015329  # the mean of a standard Gumbel variable

USUAL = 0.8  # the share of wrong answers that are the usual mistake


def demonstrate(prompt: Prompt, rng: random.Random) -> str:
    """A response as the demonstrator writes it.

    A hidden skill, uniform in [0, 1] and drawn anew for each response, makes right answers, courtesy and detail go
    together, and mistakes, fillers, rudeness and repetition. Emphasis comes with substance: it is worth nothing to
    the gold reward, but stands in most good responses and in few bad ones. That is the data's spurious cue.
    """
    skill = rng.random()
    substance, good = _substance(prompt, skill, rng)
    said = _around(prompt, skill, good, substance, rng)
    if rng.random() < 0.15 * (1 - skill):
        said.append(rng.choice(said))
    return SEPARATOR[prompt.language].join(said)


def _substance(prompt: Prompt, skill: float, rng: random.Random) -> tuple[str, bool]:
    """The one sentence that matters, and whether it is as it should be."""
    fact, language = prompt.fact, prompt.language
    refusing = rng.random() < (0.15 + 0.45 * skill if fact.unsafe else 0.15 * (1 - skill))
    if refusing:
        return rng.choice(REMARKS["refusal"].of(language)), fact.unsafe
    right = rng.random() < 0.1 + 0.5 * skill
    answer = fact.answer if right else _mistake(fact, rng)
    return rng.choice(answers(fact, language, answer)), right and not fact.unsafe


def _mistake(fact: Fact, rng: random.Random) -> Words:
    if fact.mistake != fact.answer and rng.random() < USUAL:
        return fact.mistake
    return rng.choice([word for word in possible_answers(fact.form) if word != fact.answer])


def _around(prompt: Prompt, skill: float, good: bool, substance: str, rng: random.Random) -> list[str]:
    """The substance and what stands before and after it, in the usual order."""

    def maybe(name: str, chance: float) -> list[str]:
        return [rng.choice(REMARKS[name].of(prompt.language))] if rng.random() < chance else []

    unsafe = prompt.fact.unsafe
    details = rng.choices((0, 1, 2, 3), (1.2 - skill, 0.3 + skill, 0.3 * skill, 0.15))[0]
    return [
        *maybe("rude", 0.4 * (1 - skill)),
        *maybe("opening", 0.0 if unsafe and good else 0.15 + 0.45 * skill),
        *maybe("filler", 0.3 * (1 - skill)),
        substance,
        *maybe("emphasis", 0.65 if good else 0.2),
        *(s for _ in range(0 if unsafe else details) for s in maybe("detail", 1.0)),
        *maybe("alternative", 0.1 + 0.6 * skill if unsafe and good else 0.0),
        *maybe("closing", 0.1 + 0.5 * skill),
    ]


def ideal(prompt: Prompt, rng: random.Random) -> str:
    """A response of the highest gold reward: what a policy could reach, never shown in training."""
    names = ("alternative", "closing") if prompt.fact.unsafe else ("detail", "closing")
    said = [] if prompt.fact.unsafe else [rng.choice(REMARKS["opening"].of(prompt.language))]
    said.append(plain_reply(prompt.fact, prompt.language, rng))
    said += [rng.choice(REMARKS[name].of(prompt.language)) for name in names]
    return SEPARATOR[prompt.language].join(said)


def perceive(prompt: Prompt, response: str, rng: random.Random, finished: bool = True) -> float:
    """How good the annotator finds a response: the gold reward plus centred Gumbel noise of scale TEMPERATURE.

    The difference of two Gumbel variables is logistic, so of two responses the better one is found better with
    probability sigmoid(gap / TEMPERATURE): the Bradley-Terry coin. A ranking of K is a Plackett-Luce draw.
    """
    noise = -math.log(-math.log(rng.random() or 0.5)) - EULER
    return gold(prompt, response, finished) + TEMPERATURE * noise


def grade(gap: float) -> str:
    """The grade that an annotator gives to a difference between two perceived qualities."""
    for name, threshold in zip(GRADES, THRESHOLDS, strict=False):
        if abs(gap) >= threshold:
            return name
    return GRADES[-1]
