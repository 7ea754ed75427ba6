"""Rows that came as token ids: whole sequences with labels or a mask, or a prompt with its answers.

They are taken as they are: nothing is added, cut or decoded. What stands here is what their columns are called, and
where each row keeps its prompt and its responses; `token_columns.py` has the masks, labels and scores beside them.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from .adapters.columns import Columns
from .adapters.fields import Drop
from .reading import Located
from .records import kind_of
from .report import LoadReport, odd_scores
from .token_columns import Ids, Tokens, given_tokens, is_ids, joined, judgement

if TYPE_CHECKING:
    import datasets

PROMPTS = ("prompt_ids", "prompt_input_ids")
SIDES = (
    ("chosen_ids", "rejected_ids"),
    ("chosen_input_ids", "rejected_input_ids"),
    ("input_ids_chosen", "input_ids_rejected"),
)
"""What the answers of a pair are called, by TRL's releases; without a prompt beside them they are whole sequences."""
ALONE = ("completion_ids", "response_ids")
BAD = "the answer is labelled as a bad one"
"""Why a row is no demonstration."""
REPEATED = "prompt removed from the beginning of its answers, which are whole sequences"
FORMS = (
    ("input_ids, and labels or a mask", "a sequence; the prompt is what stands before the first trained token"),
    (f"{' or '.join(PROMPTS)}, {' or '.join(ALONE)}", "a prompt with one answer, or with a list of answers"),
    (f"{' or '.join(PROMPTS)}, and {'; or '.join(map(' and '.join, SIDES))}", "a prompt with the answers of a pair"),
    ("the answers of a pair alone", "whole sequences; what both begin with is the prompt, or what labels leave out"),
)
"""Which columns rows of token ids may have, and what they are."""


def is_tokenised(row: Mapping[str, Any]) -> bool:
    """Whether a row holds token ids."""
    names = ("input_ids", *(name for names in SIDES for name in names), *ALONE)
    return any(is_ids(row.get(name)) for name in names) or (is_ids(row.get("prompt_ids")) and "response_ids" in row)


def read(
    rows: Iterable[Located], report: LoadReport, purpose: str = "any", drop_ties: bool = False
) -> "datasets.Dataset":
    """The rows as an encoded dataset; which of them could not be used, and which columns were not read, is reported.

    Args:
        purpose: what the rows are for, see `load`: an answer that is labelled as a bad one is no demonstration.
        drop_ties: leave out pairs whose scores are the same, or the other way round.

    Raises:
        DataError: with a strict report, a row that cannot be used.
    """
    found: list[tuple[str, Ids]] = []
    for origin, columns in rows:
        row = Columns(columns)
        try:
            ids = ids_of(row)
            if purpose == "sft" and ids.label is False:
                raise Drop(BAD)
        except Drop as reason:
            report.drop(str(reason), origin)
            continue
        report.leave_out(row, row.unread())
        found.append((origin, ids))
    labelled = any(ids.label is not None for _, ids in found)
    alike = _alike(found, report)
    kept = [ids for origin, ids in alike if _fits(ids, origin, report, drop_ties, labelled)]
    report.kept += len(kept)
    return joined(kept)


def ids_of(row: Mapping[str, Any]) -> Ids:
    """What the columns of a row say.

    Raises:
        Drop: ids, labels and masks that do not fit each other, or nothing to learn from.
    """
    if sides := next((names for names in SIDES if names[0] in row and names[1] in row), None):
        return _pair(row, sides)
    if "input_ids" in row:
        return _sequence(row)
    if (prompt := _first(row, PROMPTS)) and (response := _first(row, ALONE)):
        return _answered(row, prompt, response)
    raise Drop(f"token ids without a prompt: expected input_ids with labels, or one of {', '.join(PROMPTS)}")


def _sequence(row: Mapping[str, Any]) -> Ids:
    whole = given_tokens(row, "input_ids")
    if whole.losses is None:
        raise Drop(
            "field 'input_ids': nothing says which tokens the loss is over; add labels, or input_ids again as labels"
        )
    return Ids(whole.before, [whole.trained], **judgement(row, 1))


def _answered(row: Mapping[str, Any], prompt: str, response: str) -> Ids:
    """A prompt with one answer, or with a list of answers and their loss masks, as `encode_dataset` gives them."""
    asked, value = given_tokens(row, prompt), row[response]
    if is_ids(value):
        return Ids(asked.ids, [given_tokens(row, response, len(asked.ids))], **judgement(row, 1))
    if not isinstance(value, list) or not all(map(is_ids, value)):
        raise Drop(f"field {response!r}: is {kind_of(value)}, expected token ids, or a list of them for each answer")
    masks = row.get("loss_mask") or [None] * len(value)
    if not isinstance(masks, list) or [len(mask or ids) for mask, ids in zip(masks, value, strict=False)] != [
        len(ids) for ids in value
    ]:
        raise Drop("field 'loss_mask': has other lengths than the answers")
    answers = [Tokens(ids, mask) for ids, mask in zip(value, masks, strict=True)]
    return Ids(asked.ids, answers, **judgement(row, len(answers)))


def _pair(row: Mapping[str, Any], sides: tuple[str, str]) -> Ids:
    if prompt := _first(row, PROMPTS):
        asked = given_tokens(row, prompt).ids
        return Ids(asked, [given_tokens(row, name, len(asked)) for name in sides], **judgement(row, 2))
    wholes = [given_tokens(row, name) for name in sides]
    if all(whole.losses is not None for whole in wholes):
        starts = [whole.before for whole in wholes]
        if starts[0] != starts[1]:
            raise Drop(f"fields {sides[0]!r} and {sides[1]!r}: their labels leave out prompts that differ")
        return Ids(starts[0], [whole.trained for whole in wholes], **judgement(row, 2))
    answers = [whole.ids for whole in wholes]
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*answers, strict=False)))
    cut = min(same, *(len(answer) - 1 for answer in answers))
    if cut == 0:
        raise Drop(f"fields {sides[0]!r} and {sides[1]!r}: share no token to begin with, so there is no prompt")
    return Ids(answers[0][:cut], [whole.behind(cut) for whole in wholes], **judgement(row, 2))


def _alike(found: list[tuple[str, Ids]], report: LoadReport) -> list[tuple[str, Ids]]:
    """The rows without prompts that their answers repeat, where they do so in at least half of the rows.

    TRL has written the answers of a pair in both ways beside `prompt_input_ids`. A single answer may begin as its
    prompt does by chance, so all rows are looked at, and those that are otherwise than most are dropped or noted.
    """
    repeat = [ids.repeats_prompt for _, ids in found]
    if 2 * sum(repeat) < len(found) or not any(repeat):
        for (origin, _), repeats in zip(found, repeat, strict=True):
            if repeats:
                report.note(
                    "answers begin with the ids of their prompt, as in few other rows: left as they are", origin
                )
        return found
    kept = []
    for (origin, ids), repeats in zip(found, repeat, strict=True):
        if not repeats:
            report.drop("answers do not begin with their prompt, as they do in most rows", origin)
            continue
        report.repair(REPEATED, origin)
        kept.append((origin, ids.without_repetition()))
    return kept


def _fits(ids: Ids, origin: str, report: LoadReport, drop_ties: bool, labelled: bool) -> bool:
    """Whether a row is kept; what is odd about its scores is counted either way.

    Args:
        labelled: whether some row has a label.
    """
    if labelled and ids.label is None:
        report.drop("no label, which other rows have", origin)
        return False
    if ids.nothing_trained:
        report.drop("no token to learn: labels or mask leave out all of them", origin)
        return False
    odd = odd_scores(ids.scores) if len(ids.answers) == 2 else None
    if odd is not None:
        (report.drop if drop_ties else report.note)(odd, origin)
    return odd is None or not drop_ties


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)
