"""Which candidates to train on: pure functions from scored candidates to rows that every trainer takes.

    groups = by_prompt(pool.scored(reward_model))
    rows = best(groups)                      # {prompt, response, score}: SFT, rejection-sampling fine-tuning
    rows = ranked(groups, 4)                 # {prompt, responses, scores}: RRHF, reward modelling of lists
    rows = best_worst(groups)                # {prompt, chosen, rejected, score_chosen, score_rejected}: DPO
    write_rows("selection.jsonl", rows)      # a file that every trainer takes; so is datasets.Dataset.from_list(rows)

Rows come in the order in which their prompts first stand in the pool.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import jsonl
from .candidate import Scored

Row = dict[str, Any]
Group = list[Scored]
"""The candidates of one prompt, best first."""


def by_prompt(
    scored: Iterable[Scored], *, prior_top_n: int | None = None, include_unfinished: bool = False
) -> list[Group]:
    """The candidates to select from, those of a prompt together, best first; of equal scores the earliest comes first.

    Left out are responses that the length limit cut off, empty ones, and all but the best-placed of equal texts. A
    prompt that has nothing left has no group.

    Args:
        scored: candidates of all rounds, with scores by one scorer.
        prior_top_n: how many responses to each prompt stay of each round before the last: None keeps all, 0 selects
            from the last round alone. Llama 2 (section 3.2.3) found that forgetting earlier rounds loses abilities.

    Raises:
        ValueError: `include_unfinished`, which training cannot honour, or a negative number.
    """
    if include_unfinished:
        raise ValueError(
            "a row of text cannot say that its response was cut off: encoding ends every response with a stop token, "
            "which would teach the policy to stop in the middle. Raise max_new_tokens instead"
        )
    if prior_top_n is not None and prior_top_n < 0:
        raise ValueError(f"prior_top_n={prior_top_n} must be at least 0, or None for all")
    groups: dict[str, dict[int, Group]] = {}
    last = -1
    for one in scored:
        last = max(last, one.candidate.round)
        if one.candidate.finished and one.candidate.response.strip():
            groups.setdefault(one.candidate.prompt_key, {}).setdefault(one.candidate.round, []).append(one)
    joined = (_joined(rounds, last, prior_top_n) for rounds in groups.values())
    return [group for group in joined if group]


def _joined(rounds: dict[int, Group], last: int, prior_top_n: int | None) -> Group:
    """The rounds of one prompt as one group; duplicates are left out first, so that the top n are n texts."""
    tops = (_distinct(group)[: None if number == last else prior_top_n] for number, group in rounds.items())
    return _distinct([one for top in tops for one in top])


def _distinct(group: Group) -> Group:
    """Best first, each text once. The key breaks ties by time, whatever order the candidates came in."""
    ranking = sorted(group, key=lambda one: (-one.score, one.candidate.key))
    first: dict[str, Scored] = {}
    for one in ranking:
        first.setdefault(one.candidate.response.strip(), one)
    return list(first.values())


def best(groups: Iterable[Group], threshold: float | None = None) -> list[Row]:
    """The best response to each prompt, if its score is at least `threshold`."""
    return [_answer(group[0]) for group in groups if _reaches(group[0], threshold)]


def above(groups: Iterable[Group], threshold: float) -> list[Row]:
    """Every response whose score is at least `threshold` (ReST, arXiv:2308.08998), best first within a prompt."""
    return [_answer(one) for group in groups for one in group if _reaches(one, threshold)]


def ranked(groups: Iterable[Group], k: int, threshold: float | None = None) -> list[Row]:
    """The best `k` responses to each prompt, best first, if the best reaches `threshold`.

    A prompt with fewer gives a shorter list, down to 2; one response ranks nothing and gives no row.
    """
    if k < 2:
        raise ValueError(f"k={k}: a ranking needs at least 2")
    tops = [group[:k] for group in groups if len(group) > 1 and _reaches(group[0], threshold)]
    return [
        {
            "prompt": _prompt(top[0]),
            "responses": [one.candidate.response for one in top],
            "scores": [one.score for one in top],
        }
        for top in tops
    ]


def best_worst(groups: Iterable[Group], threshold: float | None = None, margin: float = 0.0) -> list[Row]:
    """The best response to each prompt against the worst.

    A pair's scores differ, and by at least `margin`; the chosen one's is at least `threshold`.
    """
    rows = []
    for group in groups:
        others = _worse(group, margin)
        if others and _reaches(group[0], threshold):
            rows.append(_pair(group[0], others[-1]))
    return rows


def best_random(groups: Iterable[Group], seed: int, threshold: float | None = None, margin: float = 0.0) -> list[Row]:
    """The best response to each prompt against any of those that `best_worst` could take.

    Which one depends on the seed and the prompt, not on the other prompts.
    """
    rows = []
    for group in groups:
        others = _worse(group, margin)
        if others and _reaches(group[0], threshold):
            chance = random.Random(f"{seed} {group[0].candidate.prompt_key}")
            rows.append(_pair(group[0], chance.choice(others)))
    return rows


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Rows as a JSONL file, whole or not at all; its bytes depend on the rows alone.

    Raises:
        OSError: as on a full disk; the message names the file.
    """
    jsonl.replace(Path(path), rows)


def _reaches(one: Scored, threshold: float | None) -> bool:
    return threshold is None or one.score >= threshold


def _worse(group: Group, margin: float) -> Group:
    """Those clearly worse than the best: an equal score says nothing about which is better."""
    return [one for one in group if one.score < group[0].score and group[0].score - one.score >= margin]


def _prompt(one: Scored) -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": turn["content"]} for turn in one.candidate.prompt]


def _answer(one: Scored) -> Row:
    return {"prompt": _prompt(one), "response": one.candidate.response, "score": one.score}


def _pair(chosen: Scored, rejected: Scored) -> Row:
    return {
        "prompt": _prompt(chosen),
        "chosen": chosen.candidate.response,
        "rejected": rejected.candidate.response,
        "score_chosen": chosen.score,
        "score_rejected": rejected.score,
    }
