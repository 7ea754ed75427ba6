"""Formats with one good response, or with a prompt only: instructions, conversations, Zhihu-KOL, HC3, plain text.

Each `@register(...)` is one format: how a row of it is recognised, and the function below, which says what it means.
"""

from dataclasses import replace
from typing import Any

from ..records import Candidates, Response, Turn
from .answers import is_good
from .base import REGISTRY, register
from .columns import CONVERSATIONS, LABELS, QUESTIONS, Columns, decoded, peek
from .fields import Drop, Row, chat_turns, first_key, is_chat, is_text, items, merge_speakers, number, response_of, text
from .questions import Prompt, asked, prompt_of
from .transcripts import transcript_turns

ANSWERS = ("response", "completion", "answer", "output")
WEIGHTS = ("weight", "loss_weight")


def conversation(said: list[Turn], context: int = 0) -> Candidates:
    """Everything before the first assistant turn is the prompt; from there on all assistant turns are trained on.

    Args:
        context: how many turns belong to the prompt though the assistant speaks in them.
    """
    before, context_repairs = merge_speakers(said[:context])
    tail, repairs = merge_speakers(said[context:])
    first = next((number for number, turn in enumerate(tail) if turn.role == "assistant"), None)
    if first is None:
        raise Drop("conversation has no assistant turn")
    response, more = answered(tail[first:])
    return Candidates((*before, *tail[:first]), (response,), repairs=context_repairs + repairs + more)


def _untrained(turns: list[Any], name: str) -> int:
    """How many turns stand before the first answer that counts, where answers have a weight of 0 or 1."""
    weights = [_weight(turn, name) for turn in turns]
    counted = [number for number, weight in enumerate(weights) if weight == 1]
    left_out = [number for number, weight in enumerate(weights) if weight == 0]
    if not left_out:
        return 0
    if not counted:
        raise Drop(f"field {name!r}: every answer has the weight 0")
    if left_out[-1] > counted[0]:
        raise Drop(f"field {name!r}: an answer of weight 0 after one of weight 1, which cannot be left out")
    return left_out[-1] + 1


def _weight(turn: Any, name: str) -> float | None:
    """The weight of an assistant's turn, None where it has none."""
    key = first_key(turn, WEIGHTS) if isinstance(turn, dict) else None
    if key is None or turn[key] is None or chat_turns({name: [turn]}, name)[0].role != "assistant":
        return None
    weight = number(turn, key)
    if weight not in (0, 1):
        raise Drop(f"field {name!r}: a turn has the weight {weight:g}, expected 0 or 1")
    return weight


def answered(tail: list[Turn]) -> tuple[Response, tuple[str, ...]]:
    """The response that turns from the first answer on make: its text, or the turns when there are several answers."""
    last = max((number for number, turn in enumerate(tail) if turn.role == "assistant"), default=-1)
    if last < 0 or tail[0].role != "assistant":
        raise Drop("response does not start with an assistant turn")
    if not all(turn.content.strip() or turn.tool_calls for turn in tail if turn.role == "assistant"):
        raise Drop("empty response")
    repairs = ("turns after the last answer removed",) if last + 1 < len(tail) else ()
    return (response_of(tail[0]) if last == 0 else tuple(tail[: last + 1])), repairs


@register(
    "hc3-chinese",
    kind="sft",
    fields="question, human_answers: [texts], chatgpt_answers: [texts]",
    recognises=lambda row: "question" in row and ("chatgpt_answers" in row or "human_answers" in row),
    source="https://huggingface.co/datasets/Hello-SimpleAI/HC3-Chinese",
)
def read_hc3(row: Row) -> Candidates:
    """The first of ChatGPT's answers, or else of the people's; the others are not used."""
    answers = [*(row.get("chatgpt_answers") or []), *(row.get("human_answers") or [])]
    answer = next((answer for answer in answers if isinstance(answer, str) and answer.strip()), "")
    return Candidates((Turn("user", text(row, "question").strip()),), (answer,))


@register(
    "zhihu-kol",
    kind="sft",
    fields="INSTRUCTION, RESPONSE",
    recognises=lambda row: is_text(row, "INSTRUCTION", "RESPONSE"),
    source="https://huggingface.co/datasets/wangrui6/Zhihu-KOL",
)
def read_zhihu(row: Row) -> Candidates:
    return Candidates((Turn("user", text(row, "INSTRUCTION").strip()),), (text(row, "RESPONSE"),))


@register(
    "alpaca",
    kind="sft",
    fields="instruction, input, output (or response, completion, answer): texts; optional system, history",
    recognises=lambda row: is_text(row, "instruction") and _answer_name(row) is not None,
    source="https://github.com/tatsu-lab/stanford_alpaca",
)
def read_alpaca(row: Row) -> Candidates:
    return Candidates(asked(row, "instruction").turns, (text(row, _answer_name(row) or "output"),))


def _answer_name(row: Row) -> str | None:
    """The column of the one answer, text or turns; with an instruction, LLaMA-Factory's `output` comes first."""
    names = ("output", *ANSWERS) if "instruction" in row else ANSWERS
    name = first_key(row, names)
    return name if name is not None and (isinstance(row[name], str) or is_chat(row[name])) else None


def _is_conversation(row: Row) -> bool:
    name = first_key(row, CONVERSATIONS)
    return name is not None and is_chat(row[name]) and _ends_on_answer(row, name)


def _ends_on_answer(row: Row, name: str) -> bool:
    """Whether the assistant has the last word in a conversation; else the whole of it is a prompt."""
    last = items({name: decoded(row[name])}, name)[-1]
    try:
        return chat_turns({name: [last]}, name)[-1].role == "assistant"
    except Drop:
        return True


@register(
    "conversations",
    kind="sft",
    fields="messages: [{role, content}], conversations: [{from, value}] or conversation: [{human, assistant}]",
    recognises=_is_conversation,
)
def read_conversation(row: Row) -> Candidates:
    name = first_key(row, CONVERSATIONS)
    if name is None:
        raise Drop(f"none of the fields {', '.join(CONVERSATIONS)}")
    return conversation(chat_turns(row, name), _untrained(items({name: decoded(row[name])}, name), name))


def _is_answered(row: Row) -> bool:
    return "prompt" in row and _answer_name(row) is not None


@register(
    "prompt-response",
    kind="sft",
    fields="prompt, response (or completion, ...): texts or [{role, content}]; a text prompt stays verbatim",
    recognises=_is_answered,
    finish_columns=True,
    source="https://huggingface.co/docs/trl/dataset_formats",
)
def read_prompt_response(row: Row) -> Candidates:
    """TRL's prompt and completion, standard or conversational; a prompt with speaker tags is read as a conversation."""
    name = first_key(row, ANSWERS) or ANSWERS[0]
    prompt = asked(row, "prompt") if "prompt" in row else Prompt((Turn("text", text(row, "prompt")),), verbatim=True)
    if not is_chat(row.get(name)) and (not prompt.verbatim or prompt.turns[0].role == "text"):
        answer = text(row, name)
        whole = answer if prompt.verbatim else prompt.answer(answer)
        return Candidates(prompt.turns, (whole,), repairs=prompt.repairs)
    tail = chat_turns(row, name) if is_chat(row.get(name)) else [Turn("assistant", text(row, name))]
    response, repairs = answered(tail + (chat_turns(row, "later_turns") if row.get("later_turns") else []))
    turns = (Turn("user", t.content.strip()) if t.role == "text" and t.content else t for t in prompt.turns)
    return Candidates(tuple(turns), (response,), repairs=prompt.repairs + repairs)


@register(
    "query-response",
    kind="sft",
    fields="query, question or input (by name also prompt), response (or answer, output): texts; a user's turn",
    recognises=lambda row: first_key(row, QUESTIONS) is not None and _answer_name(row) is not None,
    finish_columns=True,
)
def read_query_response(row: Row) -> Candidates:
    prompt = prompt_of(row, ("query", "question", *QUESTIONS))
    if prompt is None:
        raise Drop(f"none of the fields {', '.join(QUESTIONS)}")
    turns = tuple(Turn("user", t.content.strip()) if t.role == "text" else t for t in prompt.turns)
    answer = prompt.answer(text(row, first_key(row, ANSWERS) or ANSWERS[0]))
    return Candidates(turns, (answer,), repairs=prompt.repairs)


def _is_labelled(row: Row) -> bool:
    if first_key(row, LABELS) is None:
        return False
    return any(REGISTRY[name].knows(row) for name in DEMONSTRATIONS)


DEMONSTRATIONS = ("alpaca", "conversations", "prompt-response", "query-response")
"""Formats of one answer, of which a label may say whether it is a good one."""


@register(
    "labelled",
    kind="unpaired",
    fields=f"one answer in any of the formats {', '.join(DEMONSTRATIONS)}, and {', '.join(LABELS)}",
    recognises=_is_labelled,
    finish_columns=True,
    source="https://huggingface.co/docs/trl/dataset_formats#unpaired-preference",
)
def read_labelled(row: Row) -> Candidates:
    """An answer that a label calls good or bad: what KTO and BCO learn from."""
    name = first_key(row, LABELS)
    if name is None:
        raise Drop(f"none of the fields {', '.join(LABELS)}")
    plain = row.plain() if isinstance(row, Columns) else row
    form = next((REGISTRY[form] for form in DEMONSTRATIONS if REGISTRY[form].knows(plain)), None)
    if form is None:
        raise Drop("no answer in a known form beside the label")
    return replace(form.read(row), label=is_good(row, name))


@register(
    "text", kind="sft", fields="text: trained on from its first token", recognises=lambda row: is_text(row, "text")
)
def read_text(row: Row) -> Candidates:
    """TRL's language modeling format: no prompt, no speaker, the whole text verbatim."""
    return Candidates((Turn("text", ""),), (text(row, "text"),))


@register(
    "prompts",
    kind="prompt",
    fields="prompt: text (verbatim, unless it has speaker tags) or [{role, content}] up to a user's turn",
    recognises=lambda row: isinstance(row.get("prompt"), str | list),
)
def read_prompt(row: Row) -> Candidates:
    return _prompt_alone(asked(row, "prompt") if "prompt" in row else None, "prompt")


def _prompt_alone(prompt: Prompt | None, name: str) -> Candidates:
    if prompt is None:
        raise Drop(f"field {name!r}: missing")
    turns, repairs = merge_speakers(list(prompt.turns))
    return Candidates(tuple(turns), repairs=prompt.repairs + repairs)


@register(
    "queries",
    kind="prompt",
    fields="query, question, instruction or input (by name also prompt): text, a user's turn",
    recognises=lambda row: any(isinstance(row.get(name), str) for name in QUESTIONS),
)
def read_query_prompt(row: Row) -> Candidates:
    prompt = asked(row, "instruction") if "instruction" in row else prompt_of(row, ("query", "question", *QUESTIONS))
    if prompt is not None and prompt.turns[0].role == "text":  # asked for by name
        prompt = Prompt((Turn("user", prompt.turns[0].content.strip()),))
    return _prompt_alone(prompt, "query")


@register(
    "messages-prompts",
    kind="prompt",
    fields="messages: [{role, content}] or conversations, ending on a user's turn",
    recognises=lambda row: any(is_chat(row.get(name)) for name in CONVERSATIONS),
)
def read_messages_prompt(row: Row) -> Candidates:
    """The conversation up to its last user turn; what the assistant says after it is not needed."""
    name = next((name for name in CONVERSATIONS if is_chat(peek(row, name))), CONVERSATIONS[0])
    return _prompt_alone(Prompt(tuple(chat_turns(row, name))), name)


@register(
    "red-team",
    kind="prompt",
    fields=r'transcript: "\n\nHuman: ...\n\nAssistant: ...", of which the first question is the prompt',
    recognises=lambda row: isinstance(row.get("transcript"), str) and bool(transcript_turns(row["transcript"])),
    source="https://huggingface.co/datasets/Anthropic/hh-rlhf",
)
def read_red_team(row: Row) -> Candidates:
    """The question alone: the answers of an attacked model are no demonstrations."""
    turns = transcript_turns(text(row, "transcript"))
    if not turns:
        raise Drop("field 'transcript': does not start with a speaker tag")
    asked_first = next((number for number, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    return _prompt_alone(Prompt(tuple(turns[:asked_first])), "transcript")
