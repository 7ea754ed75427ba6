"""Rows of Ghost Attention: responses of the newest policy under an instruction that training says only once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...candidates.selection import write_rows
from ...data.gatt import Reply, Respond, gatt_rows, holds, sample_instructions
from ...data.records import DataError
from ...generation import sample
from ...utils import jsonl
from ..context import StageContext
from .files import SELECTED, Result
from .round_prompts import prompts_for

REPLIES = "replies.jsonl"
CHUNK = 64
"""Prompts whose replies are written down together: a kill loses no more."""


def gatt(context: StageContext) -> Result:
    """The round's conversations, each under an instruction of its own; earlier answers are sampled too."""
    conversations = prompts_for(context, "sample")
    turns = [sum(turn["role"] == "user" for turn in conversation) for conversation in conversations]
    if max(turns, default=0) < 2:
        raise DataError(
            f"gatt: none of {len(conversations)} prompts has a second turn of the user, in which an instruction could "
            "be forgotten: give the round conversations, `prompts: {source: dialogues.jsonl}`"
        )
    settings = context.inputs["instructions"]
    kinds = {name: settings[name] for name in ("languages", "kinds")}
    instructions = sample_instructions(len(conversations), context.stream, **kinds)
    source = context.policy_at("policy")

    def respond(prompts: Sequence[Any], number: int) -> Sequence[Any]:
        more = {**context.inputs["sampling"], "seed": context.stream, "stream": (number,)}
        return [replies[0] for replies in sample(served, context.tokenizer, prompts, **more)]

    with context.serving(source, context.policy(source)) as served:
        made = gatt_rows(
            conversations,
            instructions,
            _written_down(context.folder / REPLIES, respond),
            answers="sampled",
            each_turn=True,
            keep=holds if settings["keep"] else None,
        )
    if not made.rows:
        raise DataError(f"gatt: no response is left to train on: {dict(made.dropped)}")
    write_rows(context.folder / SELECTED, made.rows)
    return {"conversations": len(conversations), "rows": len(made.rows), "left_out": dict(made.dropped)}


def _written_down(path: Path, respond: Any) -> Respond:
    """Responds to so many prompts at a time, and goes on with what an attempt that was killed has written."""
    known = list(jsonl.read(path))
    calls = 0

    def replies(prompts: list[Any]) -> list[Any]:
        nonlocal calls
        found: list[Any] = []
        for start in range(0, len(prompts), CHUNK):
            if calls == len(known):
                said = respond(prompts[start : start + CHUNK], calls)
                record = {"replies": [{"text": reply.text, "finished": reply.finished} for reply in said]}
                jsonl.append(path, [record])
                known.append(record)
            found += [Reply(**reply) for reply in known[calls]["replies"]]
            calls += 1
        return found

    return replies
