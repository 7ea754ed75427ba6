"""The rows that all rounds share, and the prompts of each."""

from __future__ import annotations

import random

from ...candidates.candidate import prompt_key
from ...data.loading import load
from ...data.records import DataError, Messages
from ...testbed import prompt_rows
from ...utils import jsonl
from ..context import StageContext
from ..tasks import stream_seed
from .files import PROMPTS, Result


def rows(context: StageContext) -> Result:
    data = context.source.rows(context.seed)
    data.write(context.folder)
    return {"pairs": len(data.pairs), "validation": len(data.validation)}


def held_out(context: StageContext) -> Result:
    data = context.source.held_out(context.rows)
    data.write(context.folder)
    return {"pairs": len(data.pairs or ()), "prompts": len(data.prompts)}


def prompts(context: StageContext) -> Result:
    """The next prompts of one order of all, those to be labelled first; from the beginning again where it ends."""
    wanted, source = context.inputs, context.inputs["source"]
    if source is None and context.is_testbed:
        return _fresh_prompts(context)
    rows = context.rows.pairs if source is None else load(source[0], "any")[0]
    known = {prompt_key(prompt): prompt for prompt in rows["prompt"]}
    order = sorted(known)
    random.Random(f"prompts {context.plan_seed}").shuffle(order)
    label, sample = wanted["label"], wanted["sample"]
    begin = sum(each["label"] + (each["sample"] or 0) for each in wanted["before"])
    count = label + (len(order) if sample is None else sample)
    if label > len(order) or (sample or 0) > len(order):
        raise DataError(f"prompts: {label} to label and {sample} to sample, and there are {len(order)} in all")
    turns = [order[(begin + place) % len(order)] for place in range(count)]
    chosen = {"label": turns[:label], "sample": list(dict.fromkeys(turns[label:]))}
    _write_prompts(context, {purpose: [known[key] for key in keys] for purpose, keys in chosen.items()})
    again = max(0, min(count, begin + count - len(order))) if source is None and sample is not None else 0
    return {**{purpose: len(keys) for purpose, keys in chosen.items()}, "of": len(order), "again": again}


def _fresh_prompts(context: StageContext) -> Result:
    """Of the synthetic task, which makes new ones for every round."""
    every = len(context.rows.pairs)
    sizes = [(each["label"], every if each["sample"] is None else each["sample"]) for each in context.inputs["before"]]
    label, sample = context.inputs["label"], context.inputs["sample"]
    sample = every if sample is None else sample
    begin = sum(map(sum, sizes))
    order = stream_seed(context.plan_seed, "prompts")  # one order for all rounds
    made = [row["prompt"] for row in prompt_rows(begin + label + sample, order, unique=True)][begin:]
    _write_prompts(context, {"label": made[:label], "sample": made[label:]})
    return {"label": label, "sample": sample, "again": 0}


def _write_prompts(context: StageContext, chosen: dict[str, list[Messages]]) -> None:
    rows = [{"prompt": list(prompt), "for": purpose} for purpose, group in chosen.items() for prompt in group]
    jsonl.replace(context.folder / PROMPTS, rows)


def prompts_for(context: StageContext, purpose: str) -> list[Messages]:
    folder = context.folder_of("prompts")
    assert folder is not None
    return [row["prompt"] for row in jsonl.read(folder / PROMPTS) if row["for"] == purpose]
