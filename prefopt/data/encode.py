"""Datasets of text to datasets of token ids, and the same for a single prompt or response.

How a row is encoded, its boundary and its stop token, stands in `row_encoder.py`; what is cut of a long one in
`truncation.py`; padding and tensors in `collate.py`.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .adapters.answers import UNORDERED
from .loading import Source, load
from .records import DataError, Turn
from .row_encoder import NOTES, Encoder
from .template import stop_token_ids as stop_token_ids
from .truncation import Encoding as Encoding

if TYPE_CHECKING:
    import datasets
    from transformers import GenerationConfig, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

TEXT_COLUMNS = {"chosen", "rejected", "response", "grade"}
KNOWN_COLUMNS = TEXT_COLUMNS | {
    "prompt",
    "later_turns",
    "responses",
    "scores",
    "finished",
    "margin",
    "score_chosen",
    "score_rejected",
}


def encode_dataset(
    dataset: Source,
    tokenizer: "PreTrainedTokenizerBase",
    encoding: Encoding | None = None,
    num_proc: int | None = None,
    generation_config: "GenerationConfig | None" = None,
    purpose: str = "any",
) -> "datasets.Dataset":
    """A dataset as token ids, ready to train on: `prompt_ids` and `response_ids` (K lists) of each row.

    And, where known, `loss_mask`, `score` (K numbers), `margin` and `grade`.

    Takes what `load_preferences`, `load_sft` and `load_prompts` return, and any raw dataset that an adapter
    recognises; an encoded dataset is returned untouched. `loss_mask` (1 on answers, 0 on the turns between them) is
    there when some response has several answers. What truncation did is logged.

    Args:
        encoding: how long a row may be; by default `Encoding()`.
        num_proc: processes that encode at the same time.
        generation_config: of the model; it may say which token ends a response.
        purpose: what raw rows are for, as of `load`: with "sft" only good answers are taken.

    Raises:
        DataError: a row that cannot be encoded; the message names it.
    """
    import datasets

    if isinstance(dataset, datasets.Dataset) and {"prompt_ids", "response_ids"} <= set(dataset.column_names):
        return dataset
    table = as_text(dataset, purpose)
    encoded = table.map(
        Encoder(tokenizer, encoding or Encoding(), generation_config),
        batched=True,
        with_indices=True,
        remove_columns=table.column_names,
        features=_features(table.column_names),
        num_proc=num_proc,
        load_from_cache_file=False,
        desc="Encoding",
    )
    _log_notes(encoded, encoding or Encoding())
    return encoded.remove_columns(list(NOTES))


def as_text(dataset: Source, purpose: str = "any") -> "datasets.Dataset":
    """The dataset in the columns of the load functions: itself, or read by the adapter that recognises it."""
    import datasets

    if isinstance(dataset, datasets.Dataset) and _is_loaded(dataset):
        if purpose == "sft" and "responses" in dataset.column_names and "scores" not in dataset.column_names:
            raise DataError(f"{UNORDERED}: give each a score, or one response in the column `response`")
        return dataset
    return load(dataset, purpose)[0]


def _is_loaded(dataset: "datasets.Dataset") -> bool:
    """Whether a dataset has the columns and types that the load functions give, so that no adapter need read it."""
    columns = set(dataset.column_names)
    if "prompt" not in columns or not columns <= KNOWN_COLUMNS:
        return False
    if any(dataset.data.column(name).null_count for name in columns & {"chosen", "rejected", "response"}):
        return False
    if "finished" in columns and getattr(getattr(dataset.features["finished"], "feature", None), "dtype", "") != "bool":
        return False
    chat = getattr(dataset.features["prompt"], "feature", None)
    texts = (getattr(dataset.features[name], "dtype", None) for name in columns & TEXT_COLUMNS)
    return isinstance(chat, Mapping) and set(chat) == {"role", "content"} and set(texts) <= {"string"}


def _features(columns: list[str]) -> "datasets.Features":
    import datasets

    ids = datasets.List(datasets.Value("int32"))
    features: dict[str, Any] = {"prompt_ids": ids, "response_ids": datasets.List(ids)}
    if "later_turns" in columns:
        features["loss_mask"] = datasets.List(datasets.List(datasets.Value("int8")))
    if "scores" in columns or "score_chosen" in columns:
        features["score"] = datasets.List(datasets.Value("float64"))
    features |= {
        name: datasets.Value(kind) for name, kind in (("margin", "float64"), ("grade", "string")) if name in columns
    }
    return datasets.Features(features | {name: datasets.Value("int32") for name in NOTES})


def _log_notes(encoded: "datasets.Dataset", encoding: Encoding) -> None:
    """One line about what truncation did, and one for each other note that has something to say."""
    totals = {name: sum(encoded.with_format("numpy")[name][:].tolist()) for name in NOTES}
    cut = ", ".join(f"{totals[name]:,} {NOTES[name]}" for name in list(NOTES)[:3])
    rule = encoding.truncation_mode or "prompt first"
    level = logging.WARNING if any(totals[name] for name in list(NOTES)[:3]) else logging.INFO
    log.log(level, "encoded %s rows, max_length %s (%s): %s", f"{len(encoded):,}", encoding.max_length, rule, cut)
    for name in list(NOTES)[3:]:
        if totals[name]:
            log.warning("%s %s", f"{totals[name]:,}", NOTES[name])


def encode_prompt(turns: Iterable[Turn | Mapping[str, str]], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids after which the model is to answer, for sampling: the very ids that training has before a response."""
    messages = [{"role": t.role, "content": t.content} if isinstance(t, Turn) else dict(t) for t in turns]
    return Encoder(tokenizer, Encoding()).encode_prompt(messages)


def decode_response(ids: Iterable[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """The answer's text up to the first stop token, without special tokens and the space around it."""
    stops, kept = set(stop_token_ids(tokenizer)), []
    for token in ids:
        if int(token) in stops:
            break
        kept.append(int(token))
    return str(tokenizer.decode(kept, skip_special_tokens=True)).strip()


def with_mismatched(dataset: "datasets.Dataset", max_length: int | None = None) -> "datasets.Dataset":
    """Pairs with one more response each, of another prompt: KTO's mismatched answer, whose KL is its reference point.

    Row i takes the chosen (even i) or rejected (odd i) answer of row i + 1, the last row that of the first. As this
    depends on the dataset alone, so does the loss, whatever the batch size. With `max_length` that answer is cut to
    what the prompt leaves. Its score is unknown (NaN).
    """
    if len(dataset) < 2:
        raise DataError(
            f"a mismatched answer comes from another row, but this dataset has {len(dataset)}; give at least 2"
        )
    answers = dataset.select_columns([name for name in ("response_ids", "loss_mask") if name in dataset.column_names])

    def add(row: dict[str, Any], index: int) -> dict[str, Any]:
        if len(row["response_ids"]) != 2:
            raise DataError(
                f"row {index} has {len(row['response_ids'])} responses; a mismatched answer is added to pairs"
            )
        room = None if max_length is None else max(1, max_length - len(row["prompt_ids"]))
        other = answers[(index + 1) % len(dataset)]
        added = {name: [*row[name], values[index % 2][:room]] for name, values in other.items()}
        return added | ({"score": [*row["score"], float("nan")]} if "score" in row else {})

    return dataset.map(add, with_indices=True, load_from_cache_file=False, desc="Adding mismatched answers")
