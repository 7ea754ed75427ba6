"""`gatt_rows`: responses sampled with the instruction on every user turn, trained on with it in the first turn only.

Llama 2 (arXiv:2307.09288, section 3.3) takes the loss on the last answer alone: the earlier ones of a dialogue were
not written under the instruction. So a row's prompt is all turns before the last answer, and its response is that one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import DataError, Messages
from .dialogue import Reply, Respond, asked, opened, said_by, with_instruction
from .instructions import Instruction

log = logging.getLogger(__name__)

ANSWERS = ("given", "sampled")


@dataclass(frozen=True)
class GattRows:
    """Rows for SFT, {prompt: messages, response}, and why responses were left out.

    Args:
        sources: of each row the number of its conversation.
    """

    rows: list[dict[str, Any]]
    sources: list[int]
    dropped: Counter[str]


def gatt_rows(
    conversations: Sequence[Messages],
    instructions: Sequence[Instruction],
    respond: Respond,
    *,
    answers: str = "given",
    each_turn: bool = False,
    keep: Callable[[Instruction, str], bool] | None = None,
) -> GattRows:
    """Sample responses under instructions, and make of each a row that says the instruction only once.

    Args:
        conversations: each with the user's turns and answers between them; what is said after the last of the user's
            turns is not used.
        instructions: one for each conversation.
        respond: prompts -> a reply to each; such as best-of-n by the newest policy. A reply is text, or has `text` and
            `finished`, as what `generation.sample` gives.
        answers: the earlier answers are those "given", as in the paper, or "sampled" too, each under the instruction.
        each_turn: a row for each of the user's turns and not for the last alone.
        keep: whether a response is good enough, such as `checks.holds`; None keeps all.

    Raises:
        DataError: a conversation without a user's turn or without the answers between them; not as many instructions.
    """
    if answers not in ANSWERS:
        raise DataError(f"answers={answers!r}: expected one of {', '.join(ANSWERS)}")
    if len(conversations) != len(instructions):
        raise DataError(f"{len(conversations)} conversations and {len(instructions)} instructions: give one for each")
    histories = [opened(conversation) for conversation in conversations]
    places = [asked(conversation) for conversation in conversations]
    made, dropped = [], Counter[str]()
    for turn in range(max(map(len, places), default=0)):
        wanted = [number for number, own in enumerate(places) if turn < len(own)]
        for number in wanted:
            histories[number] += _until(conversations[number], places[number], turn, answers)
        last = {number for number in wanted if turn == len(places[number]) - 1}
        sampled = [number for number in wanted if answers == "sampled" or each_turn or number in last]
        prompts = [with_instruction(histories[number], instructions[number].text) for number in sampled]
        for number, reply in zip(sampled, said_by(respond, prompts), strict=True):
            if each_turn or number in last:
                why = _why_not(reply, instructions[number], keep)
                dropped.update([why] if why else [])
                made += [] if why else [(number, _row(histories[number], instructions[number], reply))]
            if answers == "sampled":
                histories[number].append({"role": "assistant", "content": reply.text})
    if dropped:
        log.warning("%d responses left out: %s", dropped.total(), ", ".join(f"{n} {why}" for why, n in dropped.items()))
    made.sort(key=lambda numbered: numbered[0])
    return GattRows([row for _, row in made], [number for number, _ in made], dropped)


def _until(conversation: Messages, places: list[int], turn: int, answers: str) -> list[dict[str, str]]:
    """What is said from the turn before up to the user's turn of this number."""
    start = places[turn - 1] + 1 if turn else places[0]
    said = [dict(one) for one in conversation[start : places[turn] + 1]]
    if turn and answers == "given" and not any(one["role"] == "assistant" for one in said):
        raise DataError(f"the user's turn {turn} has no answer, and the next one follows: give answers='sampled'")
    return said if answers == "given" else [one for one in said if one["role"] != "assistant"]


def _why_not(reply: Reply, instruction: Instruction, keep: Callable[[Instruction, str], bool] | None) -> str:
    if not reply.text.strip():
        return "empty"
    if not reply.finished:
        return "truncated"
    return "not kept" if keep is not None and not keep(instruction, reply.text) else ""


def _row(history: Messages, instruction: Instruction, reply: Reply) -> dict[str, Any]:
    return {
        "prompt": with_instruction(history, instruction.training_text, every=False),
        "response": reply.text,
    }
