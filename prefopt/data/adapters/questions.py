"""The prompt of formats with separate columns: a question, an instruction with its input, or chat turns.

Adapters of several families read their prompts with these functions; no format is registered here.
"""

from ..records import Turn
from .fields import Drop, Row, chat_turns, first_key, is_chat, text
from .transcripts import tagged_prompt

QUESTIONS = ("query", "question", "prompt")
"""The fields that may hold a question; the first that a row has counts."""


def question_prompt(row: Row) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """The prompt of a row whose question is a user's turn, a tagged transcript or a list of turns, and its repairs."""
    name = first_key(row, QUESTIONS)
    if name is None:
        raise Drop(f"none of the fields {', '.join(QUESTIONS)}")
    if is_chat(row[name]):
        return tuple(chat_turns(row, name)), ()
    question = text(row, name)
    return tagged_prompt(question) or ((Turn("user", question.strip()),), ())


def instruction_prompt(row: Row) -> tuple[Turn, ...]:
    """Alpaca's prompt: system and history where given, then the instruction with its input on the next line."""
    opening = [Turn("system", row["system"])] if isinstance(row.get("system"), str) and row["system"] else []
    for exchange in row.get("history") or []:
        if not (isinstance(exchange, list) and len(exchange) == 2 and all(isinstance(part, str) for part in exchange)):
            raise Drop("field 'history': expected [question, answer] pairs")
        opening += [Turn("user", exchange[0]), Turn("assistant", exchange[1])]
    parts = (text(row, name).strip() for name in ("instruction", "input") if name in row)
    return *opening, Turn("user", "\n".join(part for part in parts if part))
