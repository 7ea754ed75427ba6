"""The table of formats that are told by the names of their columns: each entry is one format, with its source.

Three forms cover most of what people keep: a pair under some names (`PAIRS`), two answers and a verdict (`JUDGED`), and
several answers in one column (`LISTS`). The prompt, the system turn and the history are found alike for all of them,
see `columns.py`. Formats that need code of their own stand in `pairs.py`, `transcripts.py` and `sft.py`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from ..records import Candidates
from .answers import pair
from .base import register
from .columns import CONVERSATIONS, HISTORY, QUESTIONS, peek
from .fields import Drop, Row
from .file import whole_number
from .positions import ENDS, POINTERS, POINTING
from .questions import answer_in, asked, prompt_of, prompt_or_drop
from .rankings import several
from .verdicts import (
    Verdict,
    by_ending,
    by_flags,
    by_score,
    by_sign,
    first_if_true,
    judged,
)

HUB = "https://huggingface.co/datasets/"
GITHUB = "https://github.com/"


class PairFormat(NamedTuple):
    """A pair whose columns have these names; `prompt` is false where both hold the whole conversation."""

    name: str
    chosen: str
    rejected: str
    source: str
    prompt: bool = True
    unread: str = ""


PAIRS = (
    PairFormat(
        "cvalues",
        "pos_resp",
        "neg_resp",
        "https://modelscope.cn/datasets/damo/CValues-Comparison",
        unread="pos_type, neg_type",
    ),
    PairFormat(
        "openai-preference",
        "preferred_output",
        "non_preferred_output",
        "https://platform.openai.com/docs/guides/direct-preference-optimization",
    ),
    PairFormat(
        "llamafactory-v1", "chosen_messages", "rejected_messages", GITHUB + "hiyouga/LLaMA-Factory", prompt=False
    ),
    PairFormat("ms-swift-messages", "messages", "rejected_messages", GITHUB + "modelscope/ms-swift", prompt=False),
    PairFormat("ms-swift-conversation", "messages", "rejected_response", GITHUB + "modelscope/ms-swift", prompt=False),
    PairFormat("ms-swift", "response", "rejected_response", GITHUB + "modelscope/ms-swift"),
    PairFormat(
        "stack-exchange-paired",
        "response_j",
        "response_k",
        HUB + "lvwerra/stack-exchange-paired",
        unread="qid, date, metadata",
    ),
    PairFormat("response-chosen", "response_chosen", "response_rejected", GITHUB + "shibing624/MedicalGPT"),
    PairFormat("chosen-response", "chosen_response", "rejected_response", HUB + "argilla"),
)


class JudgedFormat(NamedTuple):
    """Two answers in columns of their own, and the columns that say which is better, in the sense of `verdict`."""

    name: str
    answers: tuple[str, str]
    verdict: Verdict
    columns: tuple[str, ...]
    source: str
    prompt: str | None = None
    unread: str = ""


JUDGED = (
    JudgedFormat(
        "pku-saferlhf",
        ("response_0", "response_1"),
        by_ending,
        ("better_response_id",),
        HUB + "PKU-Alignment/PKU-SafeRLHF",
        unread="safer_response_id, is_response_0_safe, is_response_1_safe",
    ),
    JudgedFormat(
        "shp",
        ("human_ref_A", "human_ref_B"),
        first_if_true,
        ("labels",),
        HUB + "stanfordnlp/SHP",
        "history",
        "score_A, score_B, score_ratio, ...",
    ),
    JudgedFormat(
        "webgpt", ("answer_0", "answer_1"), by_score, ("score_0", "score_1"), HUB + "openai/webgpt_comparisons"
    ),
    JudgedFormat(
        "arena",
        ("conversation_a", "conversation_b"),
        by_ending,
        ("winner",),
        HUB + "lmsys/chatbot_arena_conversations",
        "",
    ),
    JudgedFormat(
        "lmsys-55k",
        ("response_a", "response_b"),
        by_flags,
        ("winner_model_a", "winner_model_b", "winner_tie"),
        HUB + "lmsys/lmsys-arena-human-preference-55k",
    ),
    JudgedFormat(
        "helpsteer2", ("response_1", "response_2"), by_sign, ("preference_strength",), HUB + "nvidia/HelpSteer2"
    ),
    JudgedFormat("helpsteer3", ("response1", "response2"), by_sign, ("overall_preference",), HUB + "nvidia/HelpSteer3"),
    JudgedFormat(
        "align-anything",
        ("response_1", "response_2"),
        by_ending,
        ("overall_response",),
        HUB + "PKU-Alignment/align-anything",
    ),
    JudgedFormat("alpaca-farm", ("output_1", "output_2"), by_ending, ("preference",), HUB + "tatsu-lab/alpaca_farm"),
)

_ENDS = (("a", "b"), ("1", "2"), ("0", "1"), ("A", "B"))
_WORDS = ("response", "answer", "output", "completion", "candidate", "option")
TWINS = tuple((f"{word}{gap}{a}", f"{word}{gap}{b}") for word in _WORDS for gap in ("_", "") for a, b in _ENDS)
NAMED = (*POINTERS, "preference", "label")
"""Columns that name the better of two answers, or its place, in files that follow no published format."""


class ListFormat(NamedTuple):
    """Several answers in one column: texts with scores or ranks beside them, or objects that hold both."""

    name: str
    column: str
    source: str
    unread: str = ""


LISTS = (
    ListFormat("rrhf", "responses", GITHUB + "GanjinZero/RRHF"),
    ListFormat("nectar", "answers", HUB + "berkeley-nest/Nectar", "turns, num_responses, source, good_natured"),
    ListFormat(
        "ultrafeedback",
        "completions",
        HUB + "openbmb/UltraFeedback",
        "models, correct_answers, annotations of a completion, ...",
    ),
    ListFormat("gpt4-comparisons", "responses_and_scores", GITHUB + "Instruction-Tuning-with-GPT-4/GPT-4-LLM"),
    ListFormat("candidates", "candidates", ""),
    ListFormat("outputs", "outputs", ""),
)

_PROMPTS = (*QUESTIONS, *CONVERSATIONS, *HISTORY)


def _has_prompt(row: Row, *others: str) -> bool:
    return any(name in row and name not in others for name in _PROMPTS)


def _enter_pair(entry: PairFormat) -> None:
    chosen, rejected = entry.chosen, entry.rejected

    def recognises(row: Row) -> bool:
        return chosen in row and rejected in row and (not entry.prompt or _has_prompt(row, chosen, rejected))

    def read(row: Row) -> Candidates:
        for name in (chosen, rejected):
            if name not in row:
                raise Drop(f"field {name!r}: missing")
        prompt = prompt_of(row) if entry.prompt else None
        return pair(prompt, answer_in(row, chosen), answer_in(row, rejected))

    fields = f"{'prompt (or question, messages, ...), ' if entry.prompt else ''}{chosen}, {rejected}"
    register(entry.name, kind="pair", fields=fields, recognises=recognises, source=entry.source, unread=entry.unread)(
        read
    )


def _counts(row: Row) -> bool:
    """Whether a row points at an answer by a number, of which only the whole file tells where it is counted from."""
    return any(whole_number(peek(row, name)) is not None for name in (*NAMED, *_DOCUMENTED) if name in row)


_DOCUMENTED = tuple(entry.columns[0] for entry in JUDGED if entry.verdict is by_ending)


def _enter_judged(entry: JudgedFormat) -> None:
    first, second = entry.answers

    def recognises(row: Row) -> bool:
        return first in row and second in row and any(column in row for column in entry.columns[:2])

    def read(row: Row) -> Candidates:
        prompt = prompt_or_drop(row) if entry.prompt is None else None
        if entry.prompt:
            prompt = asked(row, entry.prompt)
        return judged(row, entry.answers, entry.verdict, entry.columns, prompt)

    fields = f"{entry.prompt if entry.prompt is not None else 'prompt'}, {first}, {second}, {', '.join(entry.columns)}"
    register(
        entry.name,
        kind="pair",
        fields=fields.lstrip(", "),
        recognises=recognises,
        source=entry.source,
        unread=entry.unread,
        needs_file=_counts,
    )(read)


def _twins(row: Row) -> tuple[tuple[str, str], str] | None:
    """The two answers of a row and the column that names the better one."""
    return _twins_among(tuple(row.keys()))


@lru_cache(1024)
def _twins_among(columns: tuple[str, ...]) -> tuple[tuple[str, str], str] | None:
    answers = next((names for names in TWINS if names[0] in columns and names[1] in columns), None)
    column = next((name for name in NAMED if name in columns), None)
    return (answers, column) if answers and column else None


def _enter_twins() -> None:
    def read(row: Row) -> Candidates:
        found = _twins(row)
        if found is None:
            raise Drop(f"no two answers, such as {' and '.join(TWINS[0])}, and none of the fields {', '.join(NAMED)}")
        return judged(row, found[0], by_ending, (found[1],), prompt_or_drop(row))

    fields = (
        f"prompt, two of {', '.join(f'{word}_a/b/1/2/0' for word in _WORDS)}, and {', '.join(POINTING)} (also "
        f"with {', '.join(ENDS[1:4])}), preference or label"
    )
    register(
        "two-answers",
        kind="pair",
        fields=fields,
        recognises=lambda row: _twins(row) is not None,
        needs_file=_counts,
    )(read)


def _enter_list(entry: ListFormat) -> None:
    def recognises(row: Row) -> bool:
        return isinstance(row.get(entry.column), list) and _has_prompt(row, entry.column)

    def read(row: Row) -> Candidates:
        return several(row, entry.column, prompt_or_drop(row))

    fields = (
        f"prompt (or query, ...), {entry.column}: [K texts] with scores, ranks or chosen_index (best, selected, ...), "
        "or [{text, score, rank or chosen}]"
    )
    register(
        entry.name,
        kind="list",
        fields=fields,
        recognises=recognises,
        source=entry.source,
        unread=entry.unread,
        needs_file=_counts,
    )(read)


def enter_all() -> None:
    """Register every entry of the table."""
    enter: tuple[tuple[tuple[object, ...], Callable[..., None]], ...] = (
        (PAIRS, _enter_pair),
        (JUDGED, _enter_judged),
        (LISTS, _enter_list),
    )
    for entries, function in enter:
        for entry in entries:
            function(entry)
    _enter_twins()


enter_all()
