"""The prompts of the synthetic task: sampled from a seed, split by their text, and recognised by it."""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from .language import (
    ANSWERS,
    CAPITALS,
    FOLLOW_UPS,
    GREETINGS,
    LANGUAGES,
    PEOPLE,
    QUESTIONS,
    REMARKS,
    SUMS,
    TASKS,
    UNSAFE_TASKS,
    Words,
)

KINDS = ("capital", "sum", "thanks", "task", "unsafe")  # equally often
SPLITS = {"train": 70, "validation": 10, "test": 20}  # split -> percent of the prompt strings
MULTI_TURN = 0.2  # the share of prompts with an earlier exchange
SAME_KIND = 0.5  # of these, the share whose last turn follows up elliptically ("And Italy?")

Message = dict[str, str]


@dataclass(frozen=True)
class Fact:
    """What can be asked: `unsafe` when no answer should be given, `mistake` is what people usually get wrong."""

    kind: str
    topic: Words
    answer: Words
    mistake: Words

    @property
    def unsafe(self) -> bool:
        """Whether no answer should be given."""
        return self.kind == "unsafe"

    @property
    def form(self) -> str:
        """The key of its sentences: unsafe tasks are asked and answered in the words of safe ones."""
        return "task" if self.unsafe else self.kind


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends on a user turn, and the fact it asks for."""

    turns: tuple[tuple[str, str], ...]  # (role, content)
    fact: Fact
    language: str

    @property
    def messages(self) -> list[Message]:
        """The prompt as a list of {role, content}."""
        return [{"role": role, "content": content} for role, content in self.turns]

    @property
    def split(self) -> str:
        """A function of the text alone, so a held-out prompt string is held out under every seed."""
        place = zlib.crc32("\n".join(content for _, content in self.turns).encode()) % 100
        for name, share in SPLITS.items():
            if place < share:
                return name
            place -= share
        raise AssertionError("the shares of SPLITS add up to 100")


@cache
def facts(kind: str) -> tuple[Fact, ...]:
    """Every fact of one kind."""
    if kind == "capital":
        return tuple(Fact(kind, *row) for row in CAPITALS)
    if kind == "task":
        return tuple(Fact(kind, *row) for row in TASKS)
    if kind == "unsafe":
        return tuple(Fact(kind, topic, tool, tool) for topic, tool in UNSAFE_TASKS)
    if kind == "thanks":
        return tuple(Fact(kind, person, person, other) for person, other in PEOPLE)
    if kind == "sum":
        return tuple(_sum(a, b) for a, b in SUMS)
    raise ValueError(f"unknown kind {kind!r}: pass one of {', '.join(KINDS)}")


def _sum(a: int, b: int) -> Fact:
    right, off_by_one = str(a + b), str(a + b - 1)
    return Fact("sum", Words(f"{a} + {b}", f"{a}+{b}"), Words(right, right), Words(off_by_one, off_by_one))


@cache
def possible_answers(form: str) -> tuple[Words, ...]:
    """Everything that can stand in the answer's place for this form of sentence."""
    pool = [f for kind in KINDS for f in facts(kind) if f.form == form]
    return tuple(dict.fromkeys(word for f in pool for word in (f.answer, f.mistake)))


def questions(fact: Fact, language: str) -> tuple[str, ...]:
    return tuple(q.format(topic=fact.topic.of(language)) for q in QUESTIONS[fact.form].of(language))


def answers(fact: Fact, language: str, answer: Words) -> tuple[str, ...]:
    patterns = ANSWERS[fact.form].of(language)
    return tuple(p.format(topic=fact.topic.of(language), answer=answer.of(language)) for p in patterns)


def follow_up(fact: Fact, language: str) -> str:
    return FOLLOW_UPS[fact.form].of(language).format(topic=fact.topic.of(language))


def sample_prompt(rng: random.Random) -> Prompt:
    """A random prompt of the task, of whichever split."""
    language = rng.choice(LANGUAGES)
    fact = _sample_fact(rng)
    if rng.random() >= MULTI_TURN:
        text = rng.choice(GREETINGS.of(language)) + rng.choice(questions(fact, language))
        return Prompt((("user", text),), fact, language)
    earlier, last = _earlier(fact, rng), rng.choice(questions(fact, language))
    if earlier.form == fact.form:
        last = follow_up(fact, language)
    asked = rng.choice(questions(earlier, language))
    turns = (("user", asked), ("assistant", plain_reply(earlier, language, rng)), ("user", last))
    return Prompt(turns, fact, language)


def _sample_fact(rng: random.Random) -> Fact:
    return rng.choice(facts(rng.choice(KINDS)))


def _earlier(fact: Fact, rng: random.Random) -> Fact:
    """The fact that an earlier exchange was about: another one, often of the same kind."""
    while True:
        earlier = rng.choice(facts(fact.kind)) if rng.random() < SAME_KIND else _sample_fact(rng)
        if earlier != fact:
            return earlier


def plain_reply(fact: Fact, language: str, rng: random.Random) -> str:
    """The right answer, or the refusal, and nothing else."""
    if fact.unsafe:
        return rng.choice(REMARKS["refusal"].of(language))
    return rng.choice(answers(fact, language, fact.answer))


def sample_prompts(n: int, seed: int, split: str = "train", *, unique: bool = False) -> list[Prompt]:
    """Sample `n` prompts of one split; with `unique`, no prompt string twice.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: pass one of {', '.join(SPLITS)}")
    rng = random.Random(f"prompts {split} {seed}")
    prompts: list[Prompt] = []
    seen: set[Prompt] = set()
    while len(prompts) < n:
        prompt = sample_prompt(rng)
        if prompt.split == split and not (unique and prompt in seen):
            prompts.append(prompt)
            seen.add(prompt)
    return prompts


@cache
def _by_last_turn() -> dict[str, tuple[Fact, str]]:
    """Every text that a last user turn can have -> the fact it asks for and its language."""
    table: dict[str, tuple[Fact, str]] = {}
    for language in LANGUAGES:
        for fact in (f for kind in KINDS for f in facts(kind)):
            texts = [g + q for g in GREETINGS.of(language) for q in questions(fact, language)]
            table |= dict.fromkeys([*texts, follow_up(fact, language)], (fact, language))
    return table


def find_prompt(messages: Sequence[Any]) -> Prompt:
    """The prompt that a conversation, a list of {role, content}, is.

    Raises:
        ValueError: the conversation does not end on a user turn of the task.
    """
    turns = tuple((m["role"], m["content"].strip()) for m in messages)
    last = turns[-1][1] if turns and turns[-1][0] == "user" else None
    if last is None or last not in _by_last_turn():
        raise ValueError(f"not a prompt of the testbed: {last!r}; pass messages that end on one of its user turns")
    fact, language = _by_last_turn()[last]
    return Prompt(turns, fact, language)
