"""Who says which of two candidates is better: a judge in both orders, or people, for whom a round waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ..candidates.candidate import Candidate
from ..compare.measure import PairJudge
from ..compare.records import RESPONSES, table
from ..data.records import plain_turn
from ..labelling import export_labels, import_labels, pairs_to_label
from ..tasks import Waiting
from ..utils import jsonl
from ..utils.files import require_folder
from .context import Pair, StageContext

ARRIVED = "labels"
"""The folder, beside what people get, in which a round looks for the files that they send back."""

GIVEN = ("prompt", "chosen", "rejected", "grade", "finished", "sampled_ids", "sampled_by")
"""Columns of labels that a training takes."""


def labelled_row(pair: Pair, first_is_better: bool, **more: Any) -> dict[str, Any]:
    """A preference with the ids that were sampled, and where either side comes from."""
    chosen, rejected = pair if first_is_better else (pair[1], pair[0])
    tokenizers = {chosen.tokenizer, rejected.tokenizer}
    by = tokenizers.pop() if len(tokenizers) == 1 else None
    ids = [list(each.trained_ids) if by else [] for each in (chosen, rejected)]
    return {
        "prompt": [plain_turn(turn) for turn in chosen.prompt],
        "chosen": chosen.response,
        "rejected": rejected.response,
        "finished": [each.finish_reason == "stop" for each in (chosen, rejected)],
        "sampled_ids": ids,
        "sampled_by": by or "",
        "from": [_origin(chosen), _origin(rejected)],
        **more,
    }


def _origin(candidate: Candidate) -> dict[str, Any]:
    return {
        "round": candidate.round,
        "policy": candidate.policy,
        "temperature": candidate.temperature,
        "seed": candidate.seed,
        "k": candidate.k,
    }


def label_by_judge(context: StageContext, pairs: Sequence[Pair], judge: PairJudge) -> Iterator[dict[str, Any]]:
    """The pairs that a judge decides; ties, and pairs that it fails at, are left out.

    Raises:
        ValueError: the judge failed at every pair.
    """
    prompts = {first.prompt_key: list(first.prompt) for first, _ in pairs}
    tables = [_responses([pair[side] for pair in pairs]) for side in (0, 1)]
    outcomes = judge.judge(prompts, *tables)
    failed = outcomes["error"] != ""
    if failed.all():
        raise ValueError(f"label: {judge.name} failed at all {len(pairs)} pairs: {outcomes['error'].iloc[0]}")
    decided = dict(zip(outcomes["prompt_key"], outcomes["outcome"], strict=True))
    for pair in pairs:
        outcome = decided[pair[0].prompt_key]
        if outcome in (0.0, 1.0):
            yield labelled_row(pair, outcome == 1.0, labelled_by=judge.name)


def _responses(side: Sequence[Candidate]) -> pd.DataFrame:
    rows = [
        {
            "prompt_key": each.prompt_key,
            "k": 0,
            "response": each.response,
            "finished": each.finished,
            "length": len(each.ids or ()),
            "degenerate": False,
        }
        for each in side
    ]
    return table(rows, RESPONSES)


def ask_people(
    folder: Path, candidates: Sequence[Candidate], *, seed: int, lang: str, include_truncated: bool
) -> dict[str, Any]:
    """Write what people are to label, blind, and where what they send back is looked for.

    Raises:
        ValueError: no prompt has two responses that differ.
    """
    pairs = pairs_to_label(candidates, count=None, seed=seed, include_truncated=include_truncated)
    page = export_labels(folder, pairs, lang=lang)
    require_folder(folder / ARRIVED)
    return {"pairs": len(pairs), "page": str(page.relative_to(folder))}


def labelled_by_people(context: StageContext) -> list[dict[str, Any]]:
    """The pairs that people have labelled, once these are as many as the plan wants.

    Raises:
        Waiting: they are not yet; it says for what, and where to put it.
    """
    folder, asked = context.folder_of("ask"), context.task.needs["ask"].result(context.out)
    assert folder is not None and asked is not None
    labels = import_labels(folder, sorted(path for path in (folder / ARRIVED).glob("*") if path.is_file()))
    jsonl.replace(context.folder / "labels_report.json", [asdict(labels.report)])
    judged, pairs, wanted = labels.report.labelled, labels.report.pairs, context.inputs["at_least"]
    if judged < wanted * pairs or not labels.rows:
        raise Waiting(
            f"{judged} of {pairs} pairs are labelled, and {wanted:.0%} are wanted (label: at_least): label them "
            f"in {folder / asked['page']}, put the files into {folder / ARRIVED}, and run the same command again"
        )
    return labels.rows
