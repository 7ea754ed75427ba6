"""Measures multiple-choice accuracy: a policy's answer is the option that it finds likeliest.

What alignment costs elsewhere, the "alignment tax" (Ouyang et al., arXiv:2203.02155, section 4.2), shows on questions
that the preferences say nothing about. Nothing is generated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...data.batching import split_by_tokens
from ...data.records import DataError
from ...data.rendering import Message
from ...data.row_encoder import Encoder
from ...data.truncation import Encoding
from ...utils.tensors import masked_sum
from ..records import CHOICES, table
from .questions import Question
from .questions import read_questions as read_questions
from .responses import TOKENS, token_logps

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class Wording:
    """How a question is put, in one language."""

    instruction: str
    options: str
    answer: str
    gap: str
    """Before an answer that follows plain text."""


ENGLISH = Wording("Answer the following multiple-choice questions with a letter.", "{}. {}", "Answer:", " ")
CHINESE = Wording("下面是单项选择题，请用选项的字母作答。", "{}. {}", "答案：", "")


@dataclass(frozen=True)
class Scoring:
    """What stands for an option.

    Args:
        listed: the question comes with its options, each under its letter, and what is scored is the letter.
        value: log-likelihood and number of tokens -> what the options are ranked by.
    """

    listed: bool
    value: Callable[[float, int], float]


SCORINGS = {
    # As C-Eval asks for answers (Huang et al., arXiv:2305.08322).
    "letter": Scoring(True, lambda logp, tokens: logp),
    # By the mean over tokens, as long options have more to lose (Brown et al., arXiv:2005.14165, section 2.4).
    "text": Scoring(False, lambda logp, tokens: logp / tokens),
}


def measure_choices(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    shots: int = 0,
    examples: Sequence[Question] = (),
    scoring: str = "letter",
    chat: bool | None = None,
    tokens_per_batch: int = TOKENS,
    progress: bool = False,
) -> pd.DataFrame:
    """Which option a policy picks for each question, and whether it is right: the columns of `records.CHOICES`.

    Args:
        shots: so many questions are shown before each, with their answers. Where a question has no room for them all in
            the policy's context, the last ones are left out, and counted in a warning.
        examples: where shots are taken from, the first ones, such as the questions of a dev file. Without them they are
            the first ones of each file, which are then not asked.
        scoring: "letter" lists the options and ranks their letters; "text" lists none and ranks their texts by the mean
            log-likelihood of a token.
        chat: put questions as a conversation, by the chat template or, without one, as Human and Assistant; False puts
            them as plain text. None is whether the tokenizer has a template.

    Raises:
        DataError: no questions, fewer than shots, a shot that is asked for as well, or a question that is too long.
        ValueError: an unknown scoring.
    """
    if scoring not in SCORINGS:
        raise ValueError(f"scoring={scoring!r}: choose one of {', '.join(SCORINGS)}")
    files = _with_shots(questions, shots, examples)
    chat = bool(tokenizer.chat_template) if chat is None else chat
    encoder = QuestionEncoder(tokenizer, SCORINGS[scoring], chat, _context_length(policy))
    questions = [question for of_file, _ in files for question in of_file]
    rows = [row for of_file, shown in files for row in encoder.encode(of_file, shown)]
    logps = log_likelihoods(policy, rows, tokens_per_batch, progress)
    picks = [_likeliest(totals, row["response_ids"], encoder.scoring) for totals, row in zip(logps, rows, strict=True)]
    return table([_answer(question, pick) for question, pick in zip(questions, picks, strict=True)], CHOICES)


def _with_shots(
    questions: Sequence[Question], shots: int, examples: Sequence[Question]
) -> list[tuple[list[Question], list[Question]]]:
    """File by file, the questions to ask, and the shots, which are shown before each of them."""
    if not questions or shots < 0:
        raise DataError(f"{len(questions)} questions and shots={shots}: give at least one file, and 0 shots or more")
    if examples:
        _check(questions, examples[:shots], shots)
        return [(list(questions), list(examples[:shots]))]
    files: dict[str, list[Question]] = {}
    for question in questions:
        files.setdefault(question.file, []).append(question)
    for part in files.values():
        _check(part[shots:], part[:shots], shots)
    return [(part[shots:], part[:shots]) for part in files.values()]


def _check(questions: Sequence[Question], shown: Sequence[Question], shots: int) -> None:
    if len(shown) < shots or not questions:
        at = f"{shown[0].origin}: " if shown else ""
        raise DataError(f"{at}{len(shown)} questions are too few for {shots} shots and one to ask: ask for fewer shots")
    origins = {(shot.text, shot.options): shot.origin for shot in shown}
    for question in questions:
        if at := origins.get((question.text, question.options), ""):
            raise DataError(f"{question.origin}: shown with its answer from {at}: take shots from other rows")


def log_likelihoods(
    policy: Any, rows: Sequence[Row], tokens_per_batch: int, progress: bool = False
) -> list[list[float]]:
    """The log-likelihood of each option of each row, summed over its tokens."""
    by_row: list[list[float]] = [[] for _ in rows]
    with tqdm(total=len(rows), desc="answering questions", disable=not progress) as bar:
        for numbers in _batches(rows, tokens_per_batch):
            logps, mask = token_logps(policy, [rows[number] for number in numbers])
            for number, totals in zip(numbers, masked_sum(logps, mask).tolist(), strict=True):
                by_row[number] = totals[: len(rows[number]["response_ids"])]  # another row may have more options
            bar.update(len(numbers))
    return by_row


def _context_length(policy: Any) -> float:
    """The tokens that the policy's context has room for."""
    return getattr(policy.config.get_text_config(decoder=True), "max_position_embeddings", None) or math.inf


def _likeliest(totals: Sequence[float], options: Sequence[Sequence[int]], scoring: Scoring) -> int:
    """The number of the first option with the highest value."""
    values = [scoring.value(total, len(ids)) for total, ids in zip(totals, options, strict=True)]
    return values.index(max(values))


def _answer(question: Question, picked: int) -> Row:
    correct = float(picked == question.answer)
    where = {"file": question.file, "question": question.number}
    return {**where, "picked": picked, "answer": question.answer, "correct": correct}


def _batches(rows: Sequence[Row], budget: int) -> Iterator[list[int]]:
    """Numbers of rows, the longest first; counted as if each option brought its prompt, as padded ones do."""
    costs = torch.tensor([sum(len(row["prompt_ids"]) + len(ids) for ids in row["response_ids"]) for row in rows])
    yield from split_by_tokens(torch.argsort(costs, descending=True, stable=True).tolist(), costs, budget)


class QuestionEncoder:
    """Encodes a question as a row: a prompt, and its options as so many responses without a stop token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, scoring: Scoring, chat: bool, room: float):
        self.encoder = Encoder(tokenizer, Encoding(max_length=None), allow_empty=True)
        self.scoring, self.chat, self.room = scoring, chat, room

    def encode(self, questions: Sequence[Question], shots: Sequence[Question]) -> list[Row]:
        """Rows with `prompt_ids` and `response_ids`, with as many shots as there is room for."""
        rows = self._rows(questions, shots)
        long = [number for number, row in enumerate(rows) if _length(row) > self.room]
        for number in long:
            rows[number] = self._shortened(questions[number], shots)
        if long:
            logger.warning(
                "%d of %d questions have no room for all of %d shots in %d tokens and get fewer",
                *(len(long), len(questions), len(shots), self.room),
            )
        return rows

    def _shortened(self, question: Question, shots: Sequence[Question]) -> Row:
        for count in reversed(range(len(shots))):
            (row,) = self._rows([question], shots[:count])
            if _length(row) <= self.room:
                return row
        raise DataError(f"{question.origin}: the question alone is longer than the policy's {self.room:.0f} positions")

    def _rows(self, questions: Sequence[Question], shots: Sequence[Question]) -> list[Row]:
        batch: dict[str, list[Any]] = {
            "prompt": [self.prompt(question, shots) for question in questions],
            "responses": [
                [self._answer_text(question, i) for i in range(len(question.options))] for question in questions
            ],
            "finished": [[False] * len(question.options) for question in questions],
        }
        columns = self.encoder(batch, list(range(len(questions))))
        rows = zip(columns["prompt_ids"], columns["response_ids"], strict=True)
        encoded = [{"prompt_ids": prompt, "response_ids": options} for prompt, options in rows]
        for question, row in zip(questions, encoded, strict=True):
            if not all(row["response_ids"]):
                raise DataError(f"{question.origin}: an option is no text to this tokenizer: mend or remove it")
        return encoded

    def prompt(self, question: Question, shots: Sequence[Question]) -> list[Message]:
        """The turns before the answer; plain text is one turn without a speaker."""
        wording = _wording(question)
        texts = [self._question_text(shown, wording) for shown in (*shots, question)]
        answers = [self._answer_text(shot, shot.answer, wording) for shot in shots]
        opening = f"{wording.instruction}\n\n" if self.scoring.listed else ""
        if not self.chat:
            shown = "".join(f"{text}{answer}\n\n" for text, answer in zip(texts, answers, strict=False))
            return [{"role": "text", "content": f"{opening}{shown}{texts[-1]}"}]
        texts[0] = opening + texts[0]
        turns = [{"role": "user", "content": text} for text in texts]
        replies = [{"role": "assistant", "content": answer} for answer in answers]
        return [turn for both in zip(turns, replies, strict=False) for turn in both] + turns[-1:]

    def _question_text(self, question: Question, wording: Wording) -> str:
        options = [
            wording.options.format(*lettered) for lettered in zip(ascii_uppercase, question.options, strict=False)
        ]
        return "\n".join([question.text, *(options if self.scoring.listed else []), wording.answer])

    def _answer_text(self, question: Question, number: int, wording: Wording | None = None) -> str:
        text = ascii_uppercase[number] if self.scoring.listed else question.options[number]
        return text if self.chat else (wording or _wording(question)).gap + text


def _wording(question: Question) -> Wording:
    """Chinese for a question with Han characters."""
    return CHINESE if any("\u3400" <= character <= "\u9fff" for character in question.text) else ENGLISH


def _length(row: Row) -> int:
    """Tokens of the longest way through a row."""
    return len(row["prompt_ids"]) + max(map(len, row["response_ids"]))
