"""Rows that came as token ids: whole sequences with labels or a mask, or a prompt with its answers.

They are taken as they are: nothing is added, cut or decoded. What stands here is only where each row keeps its prompt
and its responses, and which tokens the loss is over.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from .adapters.columns import Columns
from .adapters.fields import Drop
from .reading import Located
from .records import kind_of
from .report import LoadReport

if TYPE_CHECKING:
    import datasets

IGNORED = -100
"""The label of a token that the loss leaves out, as in PyTorch's cross entropy."""
MASKS = ("completion_mask", "assistant_masks", "loss_mask")
"""Columns that are 1 where the loss is, for rows without `labels`."""
PROMPTS = ("prompt_ids", "prompt_input_ids")
SIDES = (
    ("chosen_ids", "rejected_ids"),
    ("chosen_input_ids", "rejected_input_ids"),
    ("input_ids_chosen", "input_ids_rejected"),
)
"""What the answers of a pair are called, by TRL's releases; without a prompt beside them they are whole sequences."""
ALONE = ("completion_ids", "response_ids")


@dataclass(frozen=True)
class Ids:
    """A row as token ids.

    Args:
        prompt: at least one token.
        responses: each with at least one.
        masks: for each response 1 where the loss is; None where it is everywhere.
    """

    prompt: list[int]
    responses: list[list[int]]
    masks: list[list[int]] | None = None


def is_tokenised(row: Mapping[str, Any]) -> bool:
    """Whether a row holds token ids."""
    names = ("input_ids", *(name for names in SIDES for name in names), *ALONE)
    return any(_is_ids(row.get(name)) for name in names) or (_is_ids(row.get("prompt_ids")) and "response_ids" in row)


def read(rows: Iterable[Located], report: LoadReport) -> "datasets.Dataset":
    """The rows as an encoded dataset; which of them could not be used, and which columns were not read, is reported.

    Raises:
        DataError: with a strict report, a row that cannot be used.
    """
    import datasets

    found = list(_read(rows, report))
    ids = datasets.List(datasets.Value("int32"))
    features: dict[str, Any] = {"prompt_ids": ids, "response_ids": datasets.List(ids)}
    columns: dict[str, list[Any]] = {
        "prompt_ids": [row.prompt for row in found],
        "response_ids": [row.responses for row in found],
    }
    if any(row.masks for row in found):
        features["loss_mask"] = datasets.List(datasets.List(datasets.Value("int8")))
        columns["loss_mask"] = [row.masks or [[1] * len(ids) for ids in row.responses] for row in found]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _read(rows: Iterable[Located], report: LoadReport) -> Iterator[Ids]:
    for origin, columns in rows:
        row = Columns(columns)
        try:
            ids = ids_of(row)
        except Drop as reason:
            report.drop(str(reason), origin)
            continue
        report.unread.update(row.unread())
        report.kept += 1
        yield ids


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


def _answered(row: Mapping[str, Any], prompt: str, response: str) -> Ids:
    """A prompt with one answer, or with a list of answers and their loss masks, as `encode_dataset` gives them."""
    value = row[response]
    if _is_ids(value):
        return Ids(_ids(row, prompt), [value])
    if not isinstance(value, list) or not all(map(_is_ids, value)):
        raise Drop(f"field {response!r}: is {kind_of(value)}, expected token ids, or a list of them for each answer")
    masks = row.get("loss_mask")
    if masks is not None and [len(mask) for mask in masks] != [len(ids) for ids in value]:
        raise Drop("field 'loss_mask': has other lengths than the answers")
    return Ids(_ids(row, prompt), value, masks)


def _pair(row: Mapping[str, Any], sides: tuple[str, str]) -> Ids:
    answers = [_ids(row, name) for name in sides]
    if prompt := _first(row, PROMPTS):
        return Ids(_ids(row, prompt), answers)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*answers, strict=False)))
    cut = min(same, *(len(answer) - 1 for answer in answers))
    if cut == 0:
        raise Drop(f"fields {sides[0]!r} and {sides[1]!r}: share no token to begin with, so there is no prompt")
    return Ids(answers[0][:cut], [answer[cut:] for answer in answers])


def _sequence(row: Mapping[str, Any]) -> Ids:
    ids, mask = _ids(row, "input_ids"), _loss_mask(row)
    if mask is None:
        raise Drop(
            "field 'input_ids': nothing says which tokens the loss is over; add labels, or input_ids again as labels"
        )
    if len(mask) != len(ids):
        raise Drop("field 'input_ids': has another length than its labels or mask")
    kept = _list(row, "attention_mask") if "attention_mask" in row else [1] * len(ids)
    if len(kept) != len(ids):
        raise Drop("field 'attention_mask': has another length than input_ids")
    pairs = [(token, loss) for token, loss, present in zip(ids, mask, kept, strict=True) if present]
    # The first token of a sequence is never predicted, whatever its label.
    trained = [number for number, (_, loss) in enumerate(pairs) if loss and number]
    if not trained:
        raise Drop("no token to learn: labels or mask leave out all of them")
    start, end = trained[0], trained[-1] + 1
    response, losses = [token for token, _ in pairs[start:end]], [int(bool(loss)) for _, loss in pairs[start:end]]
    return Ids([token for token, _ in pairs[:start]], [response], None if all(losses) else [losses])


def _loss_mask(row: Mapping[str, Any]) -> list[int] | None:
    if "labels" in row:
        labels, ids = _list(row, "labels"), row["input_ids"]
        if len(labels) == len(ids) and any(a != b for a, b in zip(labels, ids, strict=True) if a != IGNORED):
            raise Drop("field 'labels': differs from input_ids where it is not -100; they stand unshifted here")
        return [int(label != IGNORED) for label in labels]
    masks = [_list(row, name) for name in MASKS if name in row]
    return [int(all(each)) for each in zip(*masks, strict=True)] if masks else None


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _list(row: Mapping[str, Any], name: str) -> list[int]:
    value = row[name]
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise Drop(f"field {name!r}: is {kind_of(value)}, expected a list of integers")
    return value


def _ids(row: Mapping[str, Any], name: str) -> list[int]:
    value = _list(row, name)
    if not value or min(value) < 0:
        raise Drop(f"field {name!r}: expected token ids, at least one and none below 0")
    return value
