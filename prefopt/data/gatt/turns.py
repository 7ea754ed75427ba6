"""`survival`: for how many turns a model keeps to an instruction that was given in the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..records import DataError, Messages
from .checks import Check, check_for
from .dialogue import Respond, asked, opened, said_by, with_instruction
from .instructions import Instruction


class Share(NamedTuple):
    """A share of conversations, with its interval (Wilson's) and how many conversations there are."""

    share: float
    low: float
    high: float
    conversations: int


@dataclass(frozen=True)
class Survival:
    """Whether each answer kept to its instruction.

    Args:
        held: [conversations, turns]: 1, 0, or NaN beyond a conversation's end.
        replies: of each conversation, its answers.
    """

    held: np.ndarray
    replies: list[list[str]]

    def recall(self, level: float = 0.95) -> list[Share]:
        """Of each turn: the share of answers that keep to the instruction there."""
        return [_share(column[~np.isnan(column)], level) for column in self.held.T]

    def survived(self, level: float = 0.95) -> list[Share]:
        """Of each turn: the share of conversations whose answers kept to the instruction up to there and there."""
        return [_share(column[~np.isnan(column)], level) for column in np.cumprod(self.held, axis=1).T]

    def lifetimes(self) -> np.ndarray:
        """For how many turns from the first each conversation kept to it: [conversations]."""
        return np.nan_to_num(np.cumprod(self.held, axis=1)).sum(axis=1)


def _share(values: np.ndarray, level: float) -> Share:
    if not len(values):
        return Share(np.nan, np.nan, np.nan, 0)
    from scipy.stats import binomtest

    kept = int(values.sum())
    low, high = binomtest(kept, len(values)).proportion_ci(level, method="wilson")
    return Share(kept / len(values), float(low), float(high), len(values))


def survival(
    conversations: Sequence[Messages],
    instructions: Sequence[Instruction],
    respond: Respond,
    *,
    every: bool = False,
    checks: Mapping[str, Check] | None = None,
) -> Survival:
    """Talk with a model by the user's turns of conversations, and see at each turn whether it keeps to the instruction.

    The answers are the model's own. A constraint with a probe is decided by what the model would answer to that
    question at this turn, after which the conversation goes on as if nobody had asked.

    Args:
        conversations: whose user's turns are asked; their answers are not used.
        instructions: one for each, given in the first turn in its long form.
        respond: as of `gatt_rows`.
        every: repeat the instruction in every turn: what could be reached.
        checks: kind of constraint -> function of (constraint, answer), for kinds of your own.

    Raises:
        DataError: a conversation without a user's turn; not as many instructions.
        ValueError: a constraint of a kind that nothing decides.
    """
    if len(conversations) != len(instructions):
        raise DataError(f"{len(conversations)} conversations and {len(instructions)} instructions: give one for each")
    deciding = [[(one, check_for(one, checks)) for one in instruction.constraints] for instruction in instructions]
    histories, places = [opened(one) for one in conversations], [asked(one) for one in conversations]
    replies: list[list[str]] = [[] for _ in conversations]
    held = np.full((len(conversations), max(map(len, places), default=0)), np.nan)
    for turn in range(held.shape[1]):
        wanted = [number for number, own in enumerate(places) if turn < len(own)]
        questions: list[tuple[int, str]] = [(n, str(conversations[n][places[n][turn]]["content"])) for n in wanted]
        questions += [(n, one.probe) for n in wanted for one, _ in deciding[n] if one.probe]
        prompts = [
            with_instruction([*histories[n], {"role": "user", "content": question}], instructions[n].text, every=every)
            for n, question in questions
        ]
        answered = dict(zip(questions, (reply.text for reply in said_by(respond, prompts)), strict=True))
        for number, question in questions[: len(wanted)]:
            answer = answered[number, question]
            held[number, turn] = all(
                check(one, answered[number, one.probe] if one.probe else answer) for one, check in deciding[number]
            )
            replies[number].append(answer)
            said = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
            histories[number] += said
    return Survival(held, replies)
