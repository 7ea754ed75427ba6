"""Who responds to the prompts that are labelled, and what comes of the labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ...candidates.candidate import prompt_key
from ...candidates.generate import Origin, generate_into
from ...candidates.pool import Pool
from ...candidates.selection import write_rows
from ...compare.measure import judge_from
from ...data.loading import load
from ...data.records import DataError
from ...generation.samplers import version_of
from ...objectives.sampling_arguments import SamplingArguments
from ...testbed import find_prompt, pairs_from
from ...utils.extensions import load_named
from ..context import StageContext
from ..labels import ask_people, label_by_judge, labelled_by_people, labelled_row
from ..sections import GOLD, PEOPLE
from .files import HELD_OUT, LABELS, POOL, Result
from .round_prompts import prompts_for

LABELLED = 1
"""The iteration of candidates that are to be labelled, in the streams of random numbers; those to train on have 0."""


def candidates(context: StageContext) -> Result:
    """Two responses to each prompt that is to be labelled, by the policies that the plan names."""
    settings, temperatures = dict(context.inputs["sampling"]), context.inputs["temperatures"]
    same = context.task.needs["policy 0"] is context.task.needs["policy 1"] and len(set(temperatures)) == 1
    asked = prompts_for(context, "label")
    versions = []
    for side in (0,) if same else (0, 1):
        source = context.policy_at(f"policy {side}")
        policy = context.policy(source)
        versions.append(version := version_of(policy, context.tokenizer, context.sampler))
        sampling = SamplingArguments(**settings | {"responses_per_prompt": 2 if same else 1})
        origin = Origin(
            version, context.plan_seed, context.round, LABELLED + side, temperatures[side % len(temperatures)]
        )
        with context.serving(source, policy) as served:
            generate_into(Pool(context.folder / POOL), served, context.tokenizer, asked, sampling, origin)
    return {"prompts": len(asked), "policies": versions}


def ask(context: StageContext) -> Result:
    """What people are to label."""
    folder = context.folder_of("candidates")
    assert folder is not None
    responses = list(Pool(folder / POOL).candidates())
    wanted = {name: context.inputs[name] for name in ("lang", "include_truncated")}
    return ask_people(context.folder, responses, seed=context.stream, **wanted)


def label(context: StageContext) -> Result:
    """The pairs with their labels, a share of the prompts apart, which only measures reward models."""
    if context.inputs.get("files"):
        made: list[Any] = []
        for source, *_ in context.inputs["files"]:
            made += list(load(source, "preference")[0])
        labelled = made
    else:
        labelled = list(_labelled(context))
    if not labelled:
        raise DataError("label: of all pairs none got a label that says which response is better")
    apart = _set_aside([prompt_key(row["prompt"]) for row in labelled], context.inputs["held_out"])
    parts: dict[str, list[Any]] = {LABELS: [], HELD_OUT: []}
    for row in labelled:
        parts[HELD_OUT if prompt_key(row["prompt"]) in apart else LABELS].append(row)
    for name, part in parts.items():
        write_rows(context.folder / name, part)
    grades = Counter(str(row.get("grade") or "") for row in labelled)
    return {"labels": len(parts[LABELS]), "held_out": len(parts[HELD_OUT]), "grades": dict(sorted(grades.items()))}


def _labelled(context: StageContext) -> Iterator[dict[str, Any]]:
    """Rows {prompt, chosen, rejected, grade, ...} of the pairs that have a label."""
    folder = context.folder_of("candidates")
    assert folder is not None
    pairs = context.pairs_in(folder / POOL, include_truncated=context.inputs["include_truncated"])
    by, own = context.inputs["by"], context.inputs.get("stage")
    if own is not None:
        return iter(load_named(own, "label:")(context, pairs))
    if by == PEOPLE:
        return iter(labelled_by_people(context))
    if by == GOLD:
        known = [find_prompt(pair[0].prompt) for pair in pairs]
        responses = [tuple((each.response, each.finished) for each in pair) for pair in pairs]
        made = pairs_from(known, responses, context.stream)
        return (
            labelled_row(pair, row["chosen"] == pair[0].response, grade=row["grade"], labelled_by=GOLD)
            for pair, row in zip(pairs, made, strict=True)
        )
    return label_by_judge(context, pairs, judge_from(by, folder=context.folder / "judgements"))


def _set_aside(keys: Sequence[str], share: float) -> set[str]:
    """Keys are hashes: their order is random, and the same in every run."""
    distinct = sorted(set(keys))
    return set(distinct[: math.floor(share * len(distinct))])
