"""Preference formats that need code of their own: query/chosen/rejected, TRL, LLaMA-Factory, MOSS, hh-rlhf-cn.

Each `@register(...)` is one format: how a row of it is recognised, and the function below, which says what it means.
Formats that only call their columns something else stand in `formats.py`.
"""

from dataclasses import replace
from typing import Any

from ..records import Candidates, Turn
from .answers import implicit_pair, pair
from .base import register
from .cells import is_chat_turn
from .columns import CONVERSATIONS, QUESTIONS, peek
from .fields import (
    Drop,
    Row,
    chat_turn,
    chat_turns,
    first_key,
    is_chat,
    is_text,
    items,
    merge_speakers,
    said,
    text,
)
from .file import whole_number
from .questions import Prompt, answer_in, prompt_of
from .transcripts import pair_of

HUB = "https://huggingface.co/datasets/"


def _sides(row: Row) -> tuple[Any, Any]:
    for name in ("chosen", "rejected"):
        if name not in row:
            raise Drop(f"field {name!r}: missing")
    return answer_in(row, "chosen"), answer_in(row, "rejected")


@register(
    "hh-rlhf-cn",
    kind="pair",
    fields="context: [{role, text}], chosen: {role, text}, rejected: {role, text}",
    recognises=lambda row: isinstance(row.get("context"), list) and is_chat_turn(row.get("chosen")),
    source=HUB + "dikw/hh_rlhf_cn",
)
def read_hh_cn(row: Row) -> Candidates:
    prompt, repairs = merge_speakers(chat_turns(row, "context"))
    turns = tuple(replace(turn, content=turn.content.strip()) for turn in prompt)
    sides = [said(chat_turn(row.get(side), side), side) for side in ("chosen", "rejected")]
    return pair(Prompt(turns, repairs), *sides)


def _is_ranking(row: Row) -> bool:
    if "instruction" in row:
        return is_text(row, "chosen", "rejected") or isinstance(row.get("output"), list)
    return is_chat(row.get("conversations")) and "chosen" in row and "rejected" in row


@register(
    "llamafactory",
    kind="pair",
    fields="instruction, input, chosen, rejected (or output: [two]); conversations, chosen, rejected",
    recognises=_is_ranking,
    source="https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md",
)
def read_llamafactory(row: Row) -> Candidates:
    """LLaMA-Factory's two ranking forms, and its form of 2023 whose `output` is [chosen, rejected]."""
    prompt = prompt_of(row, ("instruction",))
    if "instruction" not in row or "output" not in row:
        return pair(prompt, *_sides(row))
    ranked = items(row, "output")
    if len(ranked) != 2 or not all(isinstance(answer, str) for answer in ranked):
        raise Drop("field 'output': expected two texts, chosen and rejected")
    return pair(prompt, *ranked)


_POST = {"subreddit": "SUBREDDIT: r/", "title": "TITLE: ", "post": "POST: ", "article": "Article: "}
"""What OpenAI writes before the parts of a text to summarise (https://github.com/openai/summarize-from-feedback)."""


@register(
    "summarize",
    kind="pair",
    fields="info: {subreddit, title, post} or {article}, summaries: [{text}, {text}], choice: 0 or 1",
    recognises=lambda row: isinstance(row.get("summaries"), list) and isinstance(row.get("info"), dict),
    source=HUB + "openai/summarize_from_feedback",
)
def read_summaries(row: Row) -> Candidates:
    """Two summaries and the place of the better one, counted from 0; the prompt ends on "TL;DR:", as it did there."""
    info, summaries = row["info"], items(row, "summaries")
    parts = [start + info[name].strip() for name, start in _POST.items() if isinstance(info.get(name), str)]
    if not any(info.get(name) for name in ("post", "article")):
        raise Drop("field 'info': has neither a post nor an article")
    choice = whole_number(row.get("choice"))
    if len(summaries) != 2 or choice not in (0, 1):
        raise Drop("fields 'summaries' and 'choice': expected two summaries, and 0 or 1 for the better one")
    answers = [text(summary, "text") if isinstance(summary, dict) else summary for summary in summaries]
    prompt = Prompt((Turn("text", "\n\n".join([*parts, "TL;DR:"])),), verbatim=True)
    return pair(prompt, answers[choice], answers[1 - choice])


@register(
    "chosen-role",
    kind="pair",
    fields="conversations whose last turns are from chosen_gpt and rejected_gpt",
    recognises=lambda row: any(_has_both_roles(row.get(name)) for name in CONVERSATIONS),
    source="https://github.com/wjmZZZ/LLM-zero2hero",
)
def read_chosen_role(row: Row) -> Candidates:
    name = next((name for name in CONVERSATIONS if _has_both_roles(peek(row, name))), None)
    if name is None:
        raise Drop(f"none of the fields {', '.join(CONVERSATIONS)} has turns of chosen_gpt and rejected_gpt")
    *before, one, other = items(row, name)
    sides = {_role(turn).lower(): {**turn, "from": "assistant", "role": "assistant"} for turn in (one, other)}
    if not {"chosen_gpt", "rejected_gpt"} <= sides.keys():
        raise Drop(f"field {name!r}: expected chosen_gpt and rejected_gpt as its last two turns")
    prompt = Prompt(tuple(chat_turns({name: before}, name)))
    return pair(prompt, *(said(chat_turn(sides[role], name), name) for role in ("chosen_gpt", "rejected_gpt")))


def _role(turn: Any) -> str:
    return str(turn.get("from") or turn.get("role"))


def _has_both_roles(value: Any) -> bool:
    roles = {_role(turn).lower() for turn in value if is_chat_turn(turn)} if isinstance(value, list) else set()
    return {"chosen_gpt", "rejected_gpt"} <= roles


@register(
    "query-chosen-rejected",
    kind="pair",
    fields="query, question or input (by name also prompt), chosen, rejected; a text query is a user's turn",
    recognises=lambda row: (
        is_text(row, "chosen", "rejected") and "prompt" not in row and first_key(row, QUESTIONS) is not None
    ),
    finish_columns=True,
)
def read_query(row: Row) -> Candidates:
    prompt = prompt_of(row, ("query", "question", *QUESTIONS))
    if prompt is None:
        raise Drop(f"none of the fields {', '.join(QUESTIONS)}")
    if prompt.turns[0].role == "text":  # asked for by name
        prompt = Prompt((Turn("user", prompt.turns[0].content.strip()),))
    return pair(replace(prompt, verbatim=False), *_sides(row))


@register(
    "moss",
    kind="pair",
    fields="chosen: [texts], rejected: [texts], the user's and the assistant's in turn",
    recognises=lambda row: "prompt" not in row and all(_is_texts(row.get(side)) for side in ("chosen", "rejected")),
    source="https://github.com/OpenLMLab/MOSS-RLHF",
)
def read_moss(row: Row) -> Candidates:
    """Texts that alternate, the user first; all but the last are the context (MOSS-RLHF's reward model data)."""
    return pair_of([_alternating(items(row, side), side) for side in ("chosen", "rejected")])


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, str) for part in value)


def _alternating(said: list[Any], name: str) -> list[Turn]:
    if not _is_texts(said):
        raise Drop(f"field {name!r}: expected a list of texts")
    roles = (("user", "assistant")[number % 2] for number in range(len(said)))
    return [Turn(role, part if role == "assistant" else part.strip()) for role, part in zip(roles, said, strict=True)]


def _is_answer(value: object) -> bool:
    return isinstance(value, str) or is_chat(value) or is_chat_turn(value)


@register(
    "trl",
    kind="pair",
    fields="chosen, rejected: texts or [{role, content}], with or without prompt",
    recognises=lambda row: _is_answer(row.get("chosen")) and _is_answer(row.get("rejected")),
    finish_columns=True,
    source="https://huggingface.co/docs/trl/dataset_formats",
)
def read_trl(row: Row) -> Candidates:
    """TRL's standard and conversational formats. Bare text stays verbatim: no speaker, no template, no strip."""
    sides = _sides(row)
    whole = all(isinstance(side, list) and any(turn.role == "user" for turn in side) for side in sides)
    prompt = prompt_of(row, ("prompt",), alone=True) if whole else prompt_of(row)
    chosen, rejected = sides
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        return implicit_pair(row, chosen, rejected)
    return pair(prompt, chosen, rejected)
