"""Preference formats with separate columns: query/chosen/rejected, TRL, LLaMA-Factory, RRHF, MOSS, hh-rlhf-cn.

Each `@register(...)` is one format: how a row of it is recognised, and the function below, which says what it means.
"""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from ..records import Candidates, Turn
from .base import register
from .fields import (
    Drop,
    Row,
    chat_turn,
    chat_turns,
    first_key,
    is_chat,
    is_chat_turn,
    is_text,
    items,
    merge_speakers,
    numbers,
    terminated,
    text,
)
from .questions import QUESTIONS, instruction_prompt, question_prompt
from .transcripts import common_turns, pair_of


@register(
    "hh-rlhf-cn",
    kind="pair",
    fields="context: [{role, text}], chosen: {role, text}, rejected: {role, text}",
    recognises=lambda row: isinstance(row.get("context"), list) and is_chat_turn(row.get("chosen")),
)
def read_hh_cn(row: Row) -> Candidates:
    prompt, repairs = merge_speakers(chat_turns(row, "context"))
    sides = [chat_turn(row.get(side), side).content.strip() for side in ("chosen", "rejected")]
    return Candidates(tuple(Turn(t.role, t.content.strip()) for t in prompt), tuple(sides), repairs=repairs)


def _is_ranking(row: Row) -> bool:
    if "instruction" in row:
        return is_text(row, "chosen", "rejected") or isinstance(row.get("output"), list)
    return is_chat(row.get("conversations")) and is_chat_turn(row.get("chosen")) and is_chat_turn(row.get("rejected"))


@register(
    "llamafactory",
    kind="pair",
    fields="instruction, input, chosen, rejected (or output: [two]); conversations, chosen, rejected: {from, value}",
    recognises=_is_ranking,
)
def read_llamafactory(row: Row) -> Candidates:
    """LLaMA-Factory's two ranking forms, and its form of 2023 whose `output` is [chosen, rejected]."""
    if "conversations" in row:
        prompt, repairs = merge_speakers(chat_turns(row, "conversations"))
        if isinstance(row.get("system"), str) and row["system"]:
            prompt = [Turn("system", row["system"]), *prompt]
        return Candidates(
            tuple(prompt), _answers(chat_turn(row.get(s), s).content for s in ("chosen", "rejected")), repairs=repairs
        )
    if "output" not in row:
        return Candidates(instruction_prompt(row), _answers(text(row, side) for side in ("chosen", "rejected")))
    ranked = items(row, "output")
    if len(ranked) != 2 or not all(isinstance(answer, str) for answer in ranked):
        raise Drop("field 'output': expected two texts, chosen and rejected")
    return Candidates(instruction_prompt(row), _answers(ranked))


def _answers(answers: Any) -> tuple[str, ...]:
    return tuple(answer.strip() for answer in answers)


@register(
    "query-chosen-rejected",
    kind="pair",
    fields="query (or question; by name also prompt), chosen, rejected: texts; the query is a user's turn",
    recognises=lambda row: is_text(row, "chosen", "rejected") and ("query" in row or "question" in row),
    finish_columns=True,
)
def read_query(row: Row) -> Candidates:
    prompt, repairs = question_prompt(row)
    return Candidates(prompt, _answers(text(row, side) for side in ("chosen", "rejected")), repairs=repairs)


@register(
    "moss",
    kind="pair",
    fields="chosen: [texts], rejected: [texts], the user's and the assistant's in turn",
    recognises=lambda row: "prompt" not in row and all(_is_texts(row.get(side)) for side in ("chosen", "rejected")),
)
def read_moss(row: Row) -> Candidates:
    """Texts that alternate, the user first; all but the last are the context (MOSS-RLHF's reward model data)."""
    return pair_of([_alternating(items(row, side), side) for side in ("chosen", "rejected")])


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, str) for part in value)


def _alternating(said: list[Any], name: str) -> list[Turn]:
    if not _is_texts(said):
        raise Drop(f"field {name!r}: expected a list of texts")
    return [Turn(("user", "assistant")[number % 2], part.strip()) for number, part in enumerate(said)]


@register(
    "rrhf",
    kind="list",
    fields="query, responses: [K texts], scores: [K numbers] (or responses: [{text, score}])",
    recognises=lambda row: isinstance(row.get("responses"), list) and first_key(row, QUESTIONS) is not None,
)
def read_rrhf(row: Row) -> Candidates:
    """K responses with their scores, put best first; without scores their order is kept as it came.

    Which responses are terminated is read here and not by `Adapter`, as it moves with the responses.
    """
    prompt, repairs = question_prompt(row)
    responses, scores = _scored(row)
    finished = terminated(row, len(responses))
    if len(responses) != len(scores or responses):
        raise Drop("responses and scores differ in number")
    best_first = sorted(range(len(responses)), key=lambda k: -scores[k]) if scores else range(len(responses))
    kept = [k for k in best_first if responses[k].strip()]
    if len(kept) < 2:
        raise Drop("fewer than two responses")
    repairs += ("empty response removed from the list",) if len(kept) < len(responses) else ()
    ordered = tuple(scores[k] for k in kept) if scores else None
    kept_finished = tuple(finished[k] for k in kept) if finished else None
    return Candidates(prompt, _answers(responses[k] for k in kept), ordered, finished=kept_finished, repairs=repairs)


def _scored(row: Row) -> tuple[list[str], tuple[float, ...] | None]:
    """Responses as texts beside a list of scores, or as objects that hold one text and one number each."""
    responses = items(row, "responses")
    scores = numbers(row, "scores") if row.get("scores") else None
    if responses and all(isinstance(response, Mapping) for response in responses):
        scores = numbers({"scores": [_only(response, int | float) for response in responses]}, "scores")
        responses = [_only(response, str) for response in responses]
    if not all(isinstance(response, str) for response in responses):
        raise Drop("field 'responses': expected texts")
    return responses, scores


def _only(response: Mapping[str, Any], kind: Any) -> Any:
    """The one value of this kind in an object, whatever its name."""
    values = [value for value in response.values() if isinstance(value, kind)]
    if len(values) != 1:
        raise Drop("field 'responses': expected one text and one number in each object")
    return values[0]


@register(
    "trl",
    kind="pair",
    fields="chosen, rejected: texts or [{role, content}], with or without prompt",
    recognises=lambda row: all(isinstance(row.get(s), str) or is_chat(row.get(s)) for s in ("chosen", "rejected")),
    finish_columns=True,
)
def read_trl(row: Row) -> Candidates:
    """TRL's standard and conversational formats. Bare text stays verbatim: no speaker, no template, no strip."""
    if is_chat(row.get("chosen")):
        return _conversational(row)
    answers = text(row, "chosen"), text(row, "rejected")
    if is_chat(row.get("prompt")):
        return Candidates(tuple(chat_turns(row, "prompt")), answers)
    if "prompt" in row:
        return Candidates((Turn("text", text(row, "prompt")),), answers)
    cut = shared_start(*answers)
    return Candidates((Turn("text", answers[0][:cut]),), (answers[0][cut:], answers[1][cut:]))


def _conversational(row: Row) -> Candidates:
    """Both sides are lists of turns, after an explicit prompt or with the prompt inside; a text `prompt` repeats it."""
    prompt = chat_turns(row, "prompt") if is_chat(row.get("prompt")) else []
    sides = [chat_turns(row, side) for side in ("chosen", "rejected")]
    if not all(common_turns(prompt, side) == len(prompt) for side in sides):
        sides = [prompt + side for side in sides]
    return pair_of(sides)


def shared_start(chosen: str, rejected: str) -> int:
    """Where two texts part, taken back to the start of the word and of the space before it."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected)))  # noqa: B905
    cut = same
    if any(_in_word(side, same) for side in (chosen, rejected)):
        while cut and _is_letter(chosen[cut - 1]):
            cut -= 1
    return cut - 1 if cut and chosen[cut - 1] == " " else cut


def _in_word(side: str, position: int) -> bool:
    """Whether a cut here would leave nothing, or half a word of a script that writes spaces."""
    return position == len(side) or (position > 0 and _is_letter(side[position - 1]) and _is_letter(side[position]))


def _is_letter(character: str) -> bool:
    return character.isascii() and character.isalnum()
