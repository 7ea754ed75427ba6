"""Generates rows from a seed: demonstrations, graded preferences, K rated candidates, prompts.

No row holds the gold reward: a grade or a rating is what a noisy annotator perceived.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from .annotators import demonstrate, grade, perceive
from .prompts import Prompt, plain_reply, sample_prompts

Row = dict[str, Any]
PLAIN_SHARE = 0.25  # of the SFT rows: plain right answers, without which a model this small learns no facts
CANDIDATES = 4  # responses to a prompt in a K-response file


def sft_rows(n: int, seed: int, split: str = "train") -> list[Row]:
    """`n` rows {prompt: messages, response}: the demonstrator's, and a share of plain right answers."""
    rng = random.Random(f"sft {split} {seed}")

    def response(prompt: Prompt) -> str:
        if rng.random() < PLAIN_SHARE:
            return plain_reply(prompt.fact, prompt.language, rng)
        return demonstrate(prompt, rng)

    return [{"prompt": p.messages, "response": response(p)} for p in sample_prompts(n, seed, split)]


def prompt_rows(n: int, seed: int, split: str = "train", *, unique: bool = False) -> list[Row]:
    """`n` rows {prompt: messages}."""
    return [{"prompt": p.messages} for p in sample_prompts(n, seed, split, unique=unique)]


def preference_rows(n: int, seed: int, split: str = "train") -> list[Row]:
    """`n` rows {prompt: messages, chosen, rejected, grade}: two different demonstrations, compared by the annotator."""
    rng = random.Random(f"preferences {split} {seed}")
    prompts = sample_prompts(n, seed, split)
    rows: list[Row] = []
    for prompt in prompts:
        a, b = _different(prompt, 2, rng)
        rows.append(_compare(prompt, (a, True), (b, True), rng))
    return rows


def pairs_from(prompts: Sequence[Prompt], responses: Iterable[Sequence[tuple[str, bool]]], seed: int) -> list[Row]:
    """The annotator's preferences between given responses, e.g. samples of a policy.

    `responses` holds for each prompt two pairs (text, finished). Where both are the same there is no row.
    """
    rng = random.Random(f"pairs {seed}")
    both = [(p, tuple(two)) for p, two in zip(prompts, responses, strict=True)]
    return [_compare(p, a, b, rng) for p, (a, b) in both if a != b]


def candidate_rows(n: int, seed: int, split: str = "train", k: int = CANDIDATES) -> list[Row]:
    """`n` rows {prompt: messages, responses, scores}: `k` different demonstrations and the annotator's ratings."""
    rng = random.Random(f"candidates {split} {seed}")
    rows: list[Row] = []
    for prompt in sample_prompts(n, seed, split):
        texts = _different(prompt, k, rng)
        scores = [round(perceive(prompt, text, rng), 2) for text in texts]
        rows.append({"prompt": prompt.messages, "responses": texts, "scores": scores})
    return rows


def _different(prompt: Prompt, k: int, rng: random.Random) -> list[str]:
    """`k` demonstrations of which no two are the same."""
    texts: dict[str, None] = {}
    while len(texts) < k:
        texts[demonstrate(prompt, rng)] = None
    return list(texts)


def _compare(prompt: Prompt, a: tuple[str, bool], b: tuple[str, bool], rng: random.Random) -> Row:
    gap = perceive(prompt, a[0], rng, a[1]) - perceive(prompt, b[0], rng, b[1])
    chosen, rejected = (a[0], b[0]) if gap > 0 else (b[0], a[0])
    return {"prompt": prompt.messages, "chosen": chosen, "rejected": rejected, "grade": grade(gap)}
