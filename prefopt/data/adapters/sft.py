"""Formats with one good response, or with a prompt only: instructions, conversations, Zhihu-KOL, HC3, plain text.

Each `@register(...)` is one format: how a row of it is recognised, and the function below, which says what it means.
"""

from ..records import Candidates, Response, Turn
from .base import register
from .fields import Drop, Row, chat_turns, first_key, is_chat, is_text, merge_speakers, text
from .questions import instruction_prompt, question_prompt
from .transcripts import tagged_prompt

ANSWERS = ("response", "completion", "answer")
CONVERSATIONS = ("messages", "conversations", "conversation")


def conversation(said: list[Turn]) -> Candidates:
    """Everything before the first assistant turn is the prompt; from there on all assistant turns are trained on."""
    said, repairs = merge_speakers(said)
    first = next((number for number, turn in enumerate(said) if turn.role == "assistant"), None)
    if first is None:
        raise Drop("conversation has no assistant turn")
    response, more = answered(said[first:])
    return Candidates(tuple(said[:first]), (response,), repairs=repairs + more)


def answered(tail: list[Turn]) -> tuple[Response, tuple[str, ...]]:
    """The response that turns from the first answer on make: its text, or the turns when there are several answers."""
    last = max((number for number, turn in enumerate(tail) if turn.role == "assistant"), default=-1)
    if last < 0 or tail[0].role != "assistant":
        raise Drop("response does not start with an assistant turn")
    if not all(turn.content.strip() for turn in tail if turn.role == "assistant"):
        raise Drop("empty response")
    repairs = ("turns after the last answer removed",) if last + 1 < len(tail) else ()
    return (tail[0].content if last == 0 else tuple(tail[: last + 1])), repairs


@register(
    "hc3-chinese",
    kind="sft",
    fields="question, human_answers: [texts], chatgpt_answers: [texts]",
    recognises=lambda row: "question" in row and ("chatgpt_answers" in row or "human_answers" in row),
)
def read_hc3(row: Row) -> Candidates:
    """The first of ChatGPT's answers, or else of the people's; the others are not used."""
    answers = [*(row.get("chatgpt_answers") or []), *(row.get("human_answers") or [])]
    answer = next((answer for answer in answers if isinstance(answer, str) and answer.strip()), "")
    return Candidates((Turn("user", text(row, "question").strip()),), (answer.strip(),))


@register(
    "zhihu-kol",
    kind="sft",
    fields="INSTRUCTION, RESPONSE",
    recognises=lambda row: is_text(row, "INSTRUCTION", "RESPONSE"),
)
def read_zhihu(row: Row) -> Candidates:
    return Candidates((Turn("user", text(row, "INSTRUCTION").strip()),), (text(row, "RESPONSE").strip(),))


@register(
    "alpaca",
    kind="sft",
    fields="instruction, input, output: texts; optional system, history",
    recognises=lambda row: is_text(row, "instruction", "output"),
)
def read_alpaca(row: Row) -> Candidates:
    return Candidates(instruction_prompt(row), (text(row, "output").strip(),))


def _is_conversation(row: Row) -> bool:
    name = first_key(row, CONVERSATIONS)
    return name is not None and is_chat(row[name])


@register(
    "conversations",
    kind="sft",
    fields="messages: [{role, content}] or conversations: [{from, value}]",
    recognises=_is_conversation,
)
def read_conversation(row: Row) -> Candidates:
    name = first_key(row, CONVERSATIONS)
    if name is None:
        raise Drop(f"none of the fields {', '.join(CONVERSATIONS)}")
    said = chat_turns(row, name)
    if isinstance(row.get("system"), str) and row["system"] and said and said[0].role != "system":
        said = [Turn("system", row["system"]), *said]
    return conversation(said)


def _is_answered(row: Row) -> bool:
    name = first_key(row, ANSWERS)
    if "prompt" not in row or name is None or isinstance(row.get("label", row.get("kto_tag")), bool):
        return False  # a yes-or-no label says that some of these answers are bad ones
    return isinstance(row[name], str) or is_chat(row[name])


@register(
    "prompt-response",
    kind="sft",
    fields="prompt, response (or completion): texts or [{role, content}]; a text prompt stays verbatim",
    recognises=_is_answered,
    finish_columns=True,
)
def read_prompt_response(row: Row) -> Candidates:
    """TRL's prompt and completion, standard or conversational; a prompt with speaker tags is read as a conversation."""
    name = first_key(row, ANSWERS) or ANSWERS[0]
    tagged = tagged_prompt(row["prompt"]) if is_text(row, "prompt") else None
    if tagged is not None:
        return Candidates(tagged[0], (text(row, name).strip(),), repairs=tagged[1])
    if not is_chat(row.get("prompt")):
        return Candidates((Turn("text", text(row, "prompt")),), (text(row, name),))
    tail = chat_turns(row, name) if is_chat(row.get(name)) else [Turn("assistant", text(row, name))]
    response, repairs = answered(tail + (chat_turns(row, "later_turns") if row.get("later_turns") else []))
    return Candidates(tuple(chat_turns(row, "prompt")), (response,), repairs=repairs)


@register(
    "query-response",
    kind="sft",
    fields="query (or question; by name also prompt), response (or answer): texts; the query is a user's turn",
    recognises=lambda row: ("query" in row or "question" in row) and first_key(row, ANSWERS) is not None,
    finish_columns=True,
)
def read_query_response(row: Row) -> Candidates:
    prompt, repairs = question_prompt(row)
    return Candidates(prompt, (text(row, first_key(row, ANSWERS) or ANSWERS[0]).strip(),), repairs=repairs)


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
    recognises=lambda row: isinstance(row.get("prompt"), str) or is_chat(row.get("prompt")),
)
def read_prompt(row: Row) -> Candidates:
    if is_chat(row.get("prompt")):
        prompt, repairs = merge_speakers(chat_turns(row, "prompt"))
        return Candidates(tuple(prompt), repairs=repairs)
    tagged = tagged_prompt(text(row, "prompt"))
    return Candidates(tagged[0], repairs=tagged[1]) if tagged else Candidates((Turn("text", row["prompt"]),))


@register(
    "queries",
    kind="prompt",
    fields="query, question or instruction (by name also prompt): text, a user's turn",
    recognises=lambda row: is_text(row, "instruction") or is_text(row, "query") or is_text(row, "question"),
)
def read_query_prompt(row: Row) -> Candidates:
    if "instruction" in row:
        return Candidates(instruction_prompt(row))
    prompt, repairs = question_prompt(row)
    return Candidates(prompt, repairs=repairs)
