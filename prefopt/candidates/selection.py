"""Which candidates are trained on: pure functions from scored candidates to rows that every trainer takes.

    groups = by_prompt(pool.scored(reward_model))
    rows = best(groups)                      # {prompt, response, score}: SFT, rejection-sampling fine-tuning
    rows = ranked(groups, 4)                 # {prompt, responses, scores}: RRHF, reward modelling of lists
    rows = best_worst(groups)                # {prompt, chosen, rejected, score_chosen, score_rejected}: DPO
    write_rows("selection.jsonl", rows)      # a file that every trainer takes; so is datasets.Dataset.from_list(rows)

Rows come in the order in which their prompts first stand in the pool. Each also has `finished`, a list that says of its
responses in their order whether they ended with a stop token: training gives the others none, as the policy gave none.
And `sampled_ids` with `sampled_by`, the ids that the policy sampled, which training takes rather than encode the text.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.records import are_texts, plain_turn
from ..generation.stopping import PARTIAL_CHARACTER
from ..utils import jsonl
from ..utils.renamed import renamed_arguments
from .candidate import Candidate, Scored, last_tokenizer, prompt_key

Row = dict[str, Any]
Group = list[Scored]
"""The candidates of one prompt, best first."""
Segment = tuple[int, int]
"""A round and an iteration."""


@renamed_arguments(include_unfinished="include_truncated")
def by_prompt(
    scored: Iterable[Scored], *, prior_top_n: int | None = None, include_truncated: bool = False
) -> list[Group]:
    """The candidates to select from, those of a prompt together, best first; of equal scores the earliest comes first.

    Left out are responses that the length limit truncated, empty ones, and all but the best-placed of equal texts. A
    prompt that has nothing left has no group.

    Args:
        scored: candidates of all rounds, with scores by one scorer.
        prior_top_n: how many responses to each prompt stay of each iteration before the last one that has candidates
            (of the highest round its highest iteration): None keeps all, 0 selects from the last iteration alone.
            Llama 2 (section 3.2.3) found that forgetting earlier iterations loses abilities.
        include_truncated: select also from responses that the length limit truncated.

    Raises:
        ValueError: a negative number.
    """
    if prior_top_n is not None and prior_top_n < 0:
        raise ValueError(f"prior_top_n={prior_top_n} must be at least 0, or None for all")
    groups: dict[str, dict[Segment, Group]] = {}
    last = (-1, -1)
    for row in scored:
        segment = row.candidate.round, row.candidate.iteration
        last = max(last, segment)
        if (include_truncated or row.candidate.finished) and shown_text(row.candidate).strip():
            groups.setdefault(row.candidate.prompt_key, {}).setdefault(segment, []).append(row)
    joined = (_joined(segments, last, prior_top_n) for segments in groups.values())
    return [group for group in joined if group]


def left_out(candidates: Iterable[Candidate]) -> dict[str, int]:
    """Count what `by_prompt` leaves out.

    Returns:
        `candidates` and `prompts`, how many there are; `cut`, those that the length limit truncated; `blank`, those of
        the others that say nothing.
    """
    every = list(candidates)
    return {
        "candidates": len(every),
        "prompts": len({candidate.prompt_key for candidate in every}),
        "cut": sum(not candidate.finished for candidate in every),
        "blank": sum(candidate.finished and not shown_text(candidate).strip() for candidate in every),
    }


def _joined(segments: dict[Segment, Group], last: Segment, prior_top_n: int | None) -> Group:
    """The iterations of one prompt as one group; duplicates are left out first, so that the top n are n texts."""
    tops = (_distinct(group)[: None if segment == last else prior_top_n] for segment, group in segments.items())
    return _distinct([row for top in tops for row in top])


def _distinct(group: Group) -> Group:
    """Best first, each text once. The key breaks ties by time, whatever order the candidates came in."""
    first: dict[str, Scored] = {}
    for row in sorted(group, key=lambda row: (-row.score, row.candidate.key)):
        first.setdefault(shown_text(row.candidate).strip(), row)
    return list(first.values())


def best(groups: Iterable[Group], threshold: float | None = None) -> list[Row]:
    """The best response to each prompt, if its score is at least `threshold`.

    Args:
        groups: the scored candidates of each prompt, best first, as `by_prompt` gives them.

    Returns:
        Rows {prompt, response, score, ...}, one for each prompt, to fine-tune on.
    """
    return [_answer(group[0]) for group in groups if _reaches(group[0], threshold)]


def above(groups: Iterable[Group], threshold: float) -> list[Row]:
    """Every response whose score is at least `threshold` (ReST, arXiv:2308.08998), best first within a prompt."""
    return [_answer(row) for group in groups for row in group if _reaches(row, threshold)]


def ranked(groups: Iterable[Group], k: int | None = None, threshold: float | None = None) -> list[Row]:
    """The best `k` responses to each prompt (None: all), best first, if the best reaches `threshold`.

    A prompt with fewer gives a shorter list, down to 2; one response ranks nothing and gives no row.

    Raises:
        ValueError: k below 2.
    """
    if k is not None and k < 2:
        raise ValueError(f"k={k}: a ranking needs at least 2")
    tops = [group[:k] for group in groups if len(group) > 1 and _reaches(group[0], threshold)]
    return [
        {
            "prompt": _prompt(top[0].candidate),
            "responses": [shown_text(row.candidate) for row in top],
            "scores": [row.score for row in top],
            "finished": _finished(*(row.candidate for row in top)),
            **_sampled(*(row.candidate for row in top)),
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


def rows_for(responses: int | None, groups: Iterable[Group], threshold: float | None = None) -> list[Row]:
    """Rows for an objective that compares so many responses: the best (1), best and worst (2), or all (None)."""
    if responses == 1:
        return best(groups, threshold)
    return best_worst(groups, threshold) if responses == 2 else ranked(groups, None, threshold)


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Rows as a JSONL file, whole or not at all; its bytes depend on the rows alone.

    Raises:
        OSError: as on a full disk; the message names the file.
    """
    jsonl.replace(Path(path), rows)


def _reaches(row: Scored, threshold: float | None) -> bool:
    return threshold is None or row.score >= threshold


def _worse(group: Group, margin: float) -> Group:
    """Those clearly worse than the best: an equal score says nothing about which is better."""
    return [row for row in group if row.score < group[0].score and group[0].score - row.score >= margin]


def _prompt(candidate: Candidate) -> list[dict[str, str]]:
    return [plain_turn(turn) for turn in candidate.prompt]


def shown_text(candidate: Candidate) -> str:
    """The response, less what the length limit left of a character: the policy never sampled the sign shown for it."""
    if candidate.finish_reason != "length":
        return candidate.response
    return candidate.response.rstrip(PARTIAL_CHARACTER).rstrip()


def _finished(*candidates: Candidate) -> list[bool]:
    """Which of a row's responses ended with a stop token.

    A stop string is not one: it is the caller's, and the policy would have gone on. Nor is a stop token that training
    would replace by its own. Every row has the column, also where all its responses ended so: `Dataset.from_list` keeps
    the columns of the first row alone, so a column that only some rows have would be lost without a word.
    """
    return [candidate.finish_reason == "stop" for candidate in candidates]


def _sampled(*candidates: Candidate) -> Row:
    """The ids that were sampled for a row's responses, [] for text that came from elsewhere, and their tokenizer.

    Where they are of several tokenizers, as in a pool that went on with another policy, the last policy's stay.
    """
    by = last_tokenizer(candidates)
    ids = [list(candidate.trained_ids) if by and candidate.tokenizer == by else [] for candidate in candidates]
    return {"sampled_ids": ids, "sampled_by": by}


def _answer(row: Scored) -> Row:
    candidate = row.candidate
    said = {"prompt": _prompt(candidate), "response": shown_text(candidate), "score": row.score}
    return {**said, "finished": _finished(candidate), **_sampled(candidate)}


def unscored_pair(chosen: Candidate, rejected: Candidate) -> Row:
    """A pair as a row that every trainer of pairs takes, whoever prefers the one to the other."""
    sides = {"chosen": shown_text(chosen), "rejected": shown_text(rejected)}
    return {
        "prompt": _prompt(chosen),
        **sides,
        "finished": _finished(chosen, rejected),
        **_sampled(chosen, rejected),
    }


def _pair(chosen: Scored, rejected: Scored) -> Row:
    scores = {"score_chosen": chosen.score, "score_rejected": rejected.score}
    return unscored_pair(chosen.candidate, rejected.candidate) | scores


def self_rejected(rows: Iterable[Mapping[str, Any]], candidates: Iterable[Candidate]) -> tuple[list[Row], Counter[str]]:
    """Pairs without a scorer: a dataset's answers, chosen, against a policy's own responses (SPIN, arXiv:2401.01335).

    Every distinct answer to a prompt makes a pair with every distinct response to it. Left out, and counted, are
    responses that the length limit truncated, empty ones, those that say what another or an answer says, and answers
    that call tools or have a thought, whose text is the chat template's.

    Args:
        rows: what `load_sft` returns: `prompt`, `response` and, where known, `finished`.

    Returns:
        The pairs, and how many responses were left out for which reason.
    """
    answers: dict[str, dict[str, Mapping[str, Any]]] = {}
    left_out: Counter[str] = Counter()
    for row in rows:
        if not all(are_texts(row)):
            left_out["answers with tool calls or a thought, which are no text"] += 1
        else:
            answers.setdefault(prompt_key(row["prompt"]), {}).setdefault(row["response"].strip(), row)
    rejected: dict[str, dict[str, Candidate]] = {key: {} for key in answers}
    for candidate in candidates:
        if reason := _unfit(candidate, answers, rejected):
            left_out[reason] += 1
        else:
            rejected[candidate.prompt_key][candidate.response.strip()] = candidate
    pairs = [
        _against(row, candidate)
        for key, rows_of_prompt in answers.items()
        for row in rows_of_prompt.values()
        for candidate in rejected[key].values()
    ]
    return pairs, left_out


def _unfit(candidate: Candidate, answers: Mapping[str, Any], rejected: Mapping[str, Any]) -> str | None:
    """Why a response makes no pair, in words that go with a count."""
    key, text = candidate.prompt_key, candidate.response.strip()
    if key not in answers:
        return "to prompts without an answer"
    if not candidate.finished:
        return "truncated"
    if not text:
        return "empty"
    if text in answers[key]:
        return "equal to the dataset's answer"
    return "repeated" if text in rejected[key] else None


def _against(row: Mapping[str, Any], candidate: Candidate) -> Row:
    """An answer, which ended with a stop token unless its row says otherwise, and a response."""
    prompt = [plain_turn(turn) for turn in row["prompt"]]
    ended = (row.get("finished") or [True])[0]
    sides = {"chosen": row["response"], "rejected": candidate.response}
    ids = {"sampled_ids": [[], list(candidate.trained_ids)], "sampled_by": candidate.tokenizer or ""}
    return {"prompt": prompt, **sides, "finished": [ended, candidate.finish_reason == "stop"], **ids}
