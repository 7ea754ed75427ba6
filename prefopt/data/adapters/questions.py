"""How formats with separate columns ask: a question, an instruction with its input, or turns; registers no format."""

from ..records import Turn
from .fields import Drop, Row, first_key, is_turns, text, turns
from .transcripts import tagged_prompt

QUESTIONS = ("query", "question", "prompt")


def asked(row: Row) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """The prompt of a row whose question is a user's turn, a tagged transcript or a list of turns; and its repairs."""
    name = first_key(row, QUESTIONS)
    if name is None:
        raise Drop(f"none of the fields {', '.join(QUESTIONS)}")
    if is_turns(row[name]):
        return tuple(turns(row, name)), ()
    question = text(row, name)
    return tagged_prompt(question) or ((Turn("user", question.strip()),), ())


def instruction_prompt(row: Row) -> tuple[Turn, ...]:
    """Alpaca's prompt: system and history where given, then the instruction with its input on the next line."""
    opening = [Turn("system", row["system"])] if isinstance(row.get("system"), str) and row["system"] else []
    for exchange in row.get("history") or []:
        if not (isinstance(exchange, list) and len(exchange) == 2 and all(isinstance(part, str) for part in exchange)):
            raise Drop("field 'history': expected [question, answer] pairs")
        opening += [Turn("user", exchange[0]), Turn("assistant", exchange[1])]
    asked = (text(row, name).strip() for name in ("instruction", "input") if name in row)
    return *opening, Turn("user", "\n".join(part for part in asked if part))
