"""What stands beside token ids in a row, and the table that rows of ids become.

Beside a column of ids there may be labels, an attention mask and a mask of the loss, under names with its prefix or
suffix: `chosen_labels` of `chosen_input_ids`, `attention_mask_chosen` of `input_ids_chosen`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .adapters.base import PAIR_SCORES
from .adapters.columns import LABELS, peek
from .adapters.fields import Drop, grade, number, numbers
from .adapters.labels import is_good
from .adapters.rankings import SCORE_LISTS
from .records import kind_of

if TYPE_CHECKING:
    import datasets

IGNORED = -100
"""The label of a token that the loss leaves out, as in PyTorch's cross entropy."""
MASKS = ("completion_mask", "assistant_masks", "loss_mask")
"""Columns that are 1 where the loss is, for rows without `labels`."""
GOOD_OR_BAD = tuple(name for name in LABELS if name != "labels")
"""Columns that may call a single answer good or bad; `labels` are those of tokens here."""


@dataclass(frozen=True)
class Tokens:
    """Token ids, and for each whether the loss is over it; None where nothing says it, and it is over all of them."""

    ids: list[int]
    losses: list[int] | None = None

    def behind(self, count: int) -> "Tokens":
        """What comes after the first so many."""
        return Tokens(self.ids[count:], None if self.losses is None else self.losses[count:])

    @property
    def _bounds(self) -> tuple[int, int]:
        """Where what the loss is over begins and ends. The first token of a sequence is never predicted."""
        trained = [number for number, loss in enumerate(self.losses or ()) if loss and number]
        if not trained:
            raise Drop("no token to learn: labels or mask leave out all of them")
        return trained[0], trained[-1] + 1

    @property
    def before(self) -> list[int]:
        """Of a whole sequence, what stands before the first token that the loss is over: its prompt."""
        return self.ids[: self._bounds[0]]

    @property
    def trained(self) -> "Tokens":
        """Of a whole sequence, the rest up to the last such token: its response."""
        start, end = self._bounds
        losses = (self.losses or [])[start:end]
        return Tokens(self.ids[start:end], None if all(losses) else losses)


@dataclass(frozen=True)
class Ids:
    """A row as token ids.

    Args:
        prompt: at least one token.
        answers: each with at least one.
        scores: a number for each answer.
        margin, grade, label: as of `Candidates`.
    """

    prompt: list[int]
    answers: list[Tokens] = field(default_factory=list)
    scores: list[float] | None = None
    margin: float | None = None
    grade: str | None = None
    label: bool | None = None

    @property
    def repeats_prompt(self) -> bool:
        """Whether each of the answers begins with the prompt, and goes on after it."""
        count = len(self.prompt)
        return all(len(each.ids) > count and each.ids[:count] == self.prompt for each in self.answers)

    def without_repetition(self) -> "Ids":
        """The row with answers that come after the prompt."""
        return replace(self, answers=[answer.behind(len(self.prompt)) for answer in self.answers])

    @property
    def nothing_trained(self) -> bool:
        """Whether the loss is over no token of some answer."""
        return any(answer.losses is not None and not any(answer.losses) for answer in self.answers)


def is_ids(value: Any) -> bool:
    """Whether this is a list of at least one integer, and of nothing else."""
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def given_tokens(row: Mapping[str, Any], name: str, prompt: int = 0) -> Tokens:
    """The ids in a column, less those that an attention mask leaves out, with what labels and masks say of the loss.

    Args:
        prompt: of so many tokens, those of a mask over a prompt and its answer are left out.

    Raises:
        Drop: they do not fit each other.
    """
    ids = _ids(row, name)
    losses = _losses(row, name, ids, prompt)
    mask = _beside(name, "attention_mask")
    if mask not in row:
        return Tokens(ids, losses)
    present = _list(row, mask)
    if len(present) != len(ids):
        raise Drop(f"field {mask!r}: has another length than {name}")
    kept = [number for number, there in enumerate(present) if there]
    return Tokens([ids[number] for number in kept], losses and [losses[number] for number in kept])


def _beside(name: str, what: str) -> str:
    """What a column beside ids is called: chosen_labels beside chosen_input_ids and chosen_ids."""
    if name.startswith("input_ids"):
        return what + name.removeprefix("input_ids")
    return f"{name.removesuffix('_input_ids').removesuffix('_ids')}_{what}"


def _losses(row: Mapping[str, Any], name: str, ids: list[int], prompt: int) -> list[int] | None:
    labels = _beside(name, "labels")
    if labels in row:
        given = _list(row, labels)
        if len(given) != len(ids):
            raise Drop(f"field {name!r}: has another length than its labels or mask")
        if any(a != b for a, b in zip(given, ids, strict=True) if a != IGNORED):
            raise Drop(f"field {labels!r}: differs from {name} where it is not -100; they stand unshifted here")
        return [int(label != IGNORED) for label in given]
    alone = MASKS if name in ("input_ids", "completion_ids", "response_ids") else ()
    found = [_list(row, mask) for mask in dict.fromkeys((*alone, _beside(name, "mask"))) if mask in row]
    found = [mask[prompt:] if len(mask) == prompt + len(ids) else mask for mask in found]
    if any(len(mask) != len(ids) for mask in found):
        raise Drop(f"field {name!r}: has another length than its labels or mask")
    return [int(all(each)) for each in zip(*found, strict=True)] if found else None


def judgement(row: Mapping[str, Any], count: int) -> dict[str, Any]:
    """What the row says of its answers: label, scores, margin and grade, as fields of `Ids`.

    Raises:
        Drop: a column is something else, or there are other scores than answers.
    """
    said: dict[str, Any] = {}
    label = next((name for name in GOOD_OR_BAD if name in row), None)
    if label is not None:
        if count != 1:
            raise Drop(f"column {label!r} tells what the row means, and is not read beside {count} answers")
        said["label"] = is_good({label: row[label]}, label)
    if names := next((names for names in PAIR_SCORES if count == 2 and names[0] in row and names[1] in row), None):
        said["scores"] = [number({name: row[name]}, name) for name in names]
    elif name := next((name for name in ("score", *SCORE_LISTS) if isinstance(peek(row, name), list)), None):
        said["scores"] = _scores(row[name], name, count)
    said |= {name: number({name: row[name]}, name) for name in ("margin",) if name in row}
    return said | ({"grade": grade({"grade": row["grade"]})} if "grade" in row else {})


def _scores(values: list[Any], name: str, count: int) -> list[float] | None:
    """A number for each answer; in our own column `score` all may be NaN, where they are not known."""
    if name == "score" and all(value is None or value != value for value in values):
        return None
    if len(values) != count:
        raise Drop(f"field {name!r}: holds {len(values)} values for {count} responses, expected one for each")
    return list(numbers({name: values}, name))


def joined(rows: Sequence[Ids]) -> "datasets.Dataset":
    """The rows as an encoded dataset; a score that is not known is NaN, a margin, grade or label null."""
    import datasets

    ids = datasets.List(datasets.Value("int32"))
    features: dict[str, Any] = {"prompt_ids": ids, "response_ids": datasets.List(ids)}
    columns: dict[str, list[Any]] = {
        "prompt_ids": [row.prompt for row in rows],
        "response_ids": [[answer.ids for answer in row.answers] for row in rows],
    }
    masks = [[answer.losses or [1] * len(answer.ids) for answer in row.answers] for row in rows]
    if any(answer.losses is not None for row in rows for answer in row.answers):
        features["loss_mask"], columns["loss_mask"] = datasets.List(datasets.List(datasets.Value("int8"))), masks
    if any(row.scores is not None for row in rows):
        features["score"] = datasets.List(datasets.Value("float64"))
        columns["score"] = [row.scores or [float("nan")] * len(row.answers) for row in rows]
    for name, kind in (("margin", "float64"), ("grade", "string"), ("label", "bool")):
        values = [getattr(row, name) for row in rows]
        if any(value is not None for value in values):
            features[name], columns[name] = datasets.Value(kind), values
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


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
