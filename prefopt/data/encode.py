"""Datasets of text to datasets of token ids, and the same for a single prompt or response.

How a row is encoded, its boundary and its stop token, stands in `row_encoder.py`; what is cut of a long one in
`truncation.py`; padding and tensors in `collate.py`.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .adapters.rankings import UNORDERED
from .loading import Source, load
from .records import ANSWER_EXTRAS, TURN_EXTRAS, DataError, Turn
from .row_encoder import COUNTS, NOTES, REMARKS, Encoder
from .stop_tokens import stop_token_ids as stop_token_ids
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
    *ANSWER_EXTRAS,
    "finished",
    "sampled_ids",
    "sampled_by",
    "label",
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
    counts: Counter[str] | None = None,
) -> "datasets.Dataset":
    """A dataset as token ids, ready to train on: `prompt_ids` and `response_ids` (K lists) of each row.

    And, where known, `loss_mask`, `score` (K numbers), `margin`, `grade` and, of unpaired rows, `label`.

    Takes what `load_preferences`, `load_sft` and `load_prompts` return, and any raw dataset that an adapter
    recognises; an encoded dataset is returned untouched. `loss_mask` (1 on answers, 0 on the turns between them) is
    there when some response has several answers. What truncation did is logged.

    Args:
        encoding: how long a row may be; by default `Encoding()`.
        num_proc: processes that encode at the same time.
        generation_config: of the model; it may say which token ends a response.
        counts: what encoding did to the rows is added to it, under the names of `row_encoder.COUNTS`.

    Raises:
        DataError: a row that cannot be encoded; the message names it.
    """
    import datasets
    import pyarrow.compute

    if isinstance(dataset, datasets.Dataset) and {"prompt_ids", "response_ids"} <= set(dataset.column_names):
        return dataset
    table = as_text(dataset)
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
    totals = {name: pyarrow.compute.sum(encoded.data.column(name)).as_py() or 0 for name in NOTES}
    _log_notes(totals, len(encoded), encoding or Encoding())
    if counts is not None:
        counts.update({name: totals[column] for name, column in COUNTS.items()})
    return _written(encoded).remove_columns(list(NOTES))


def _written(encoded: "datasets.Dataset") -> "datasets.Dataset":
    """Encoded rows without those whose tool calls the chat template does not write."""
    unwritten = encoded.data.column("_unwritten").to_numpy()
    if not unwritten.any():
        return encoded
    if unwritten.all():
        raise DataError(
            f"all {len(encoded):,} rows answer by tool calls that the chat template does not write after the prompt: "
            "give a template for tools by chat_template_path, or write each call as the text of its turn"
        )
    return encoded.select((unwritten == 0).nonzero()[0])


def as_text(dataset: Source, purpose: str = "any") -> "datasets.Dataset":
    """The dataset in the columns of the load functions: itself, or read by the adapter that recognises it."""
    import datasets

    bad_ones = purpose == "sft" and "label" in getattr(dataset, "column_names", ())  # which `load` drops, and counts
    if isinstance(dataset, datasets.Dataset) and _is_loaded(dataset) and not bad_ones:
        if purpose == "sft" and "responses" in dataset.column_names and "scores" not in dataset.column_names:
            raise DataError(f"{UNORDERED}: give each a score, or one response in the column `response`")
        return dataset
    return load(dataset, purpose)[0]


def _is_loaded(dataset: "datasets.Dataset") -> bool:
    """Whether a dataset has the columns and types that the load functions give, so that no adapter need read it."""
    columns = set(dataset.column_names)
    if "prompt" not in columns or not columns <= KNOWN_COLUMNS:
        return False
    if any(dataset.data.column(name).null_count for name in columns & {"chosen", "rejected", "response", "label"}):
        return False
    if "label" in columns and ("response" not in columns or dataset.features["label"].dtype != "bool"):
        return False
    if "sampled_ids" in columns and not _are_ids(dataset.features["sampled_ids"]):
        return False
    for name, kind in (("finished", "bool"), *((name, "string") for name in ANSWER_EXTRAS)):
        if name in columns and getattr(getattr(dataset.features[name], "feature", None), "dtype", "") != kind:
            return False
    chat = getattr(dataset.features["prompt"], "feature", None)
    texts = {getattr(dataset.features[name], "dtype", None) for name in columns & TEXT_COLUMNS}
    return _is_chat(chat) and texts <= {"string"}


def _are_ids(feature: Any) -> bool:
    return str(getattr(getattr(getattr(feature, "feature", None), "feature", None), "dtype", "")).startswith("int")


def _is_chat(turn: Any) -> bool:
    """Whether this is the type of turns that the load functions give: texts, the extras among them."""
    if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn) <= {"role", "content", *TURN_EXTRAS}:
        return False
    return {getattr(turn[name], "dtype", None) for name in turn.keys() & {*TURN_EXTRAS}} <= {"string"}


def _features(columns: list[str]) -> "datasets.Features":
    import datasets

    ids = datasets.List(datasets.Value("int32"))
    features: dict[str, Any] = {"prompt_ids": ids, "response_ids": datasets.List(ids)}
    if "later_turns" in columns:
        features["loss_mask"] = datasets.List(datasets.List(datasets.Value("int8")))
    if "scores" in columns or "score_chosen" in columns:
        features["score"] = datasets.List(datasets.Value("float64"))
    features |= {
        name: datasets.Value(kind)
        for name, kind in (("margin", "float64"), ("grade", "string"), ("label", "bool"))
        if name in columns
    }
    return datasets.Features(features | {name: datasets.Value("int32") for name in NOTES})


def _log_notes(totals: Mapping[str, int], rows: int, encoding: Encoding) -> None:
    """One line about what truncation did, and one for each other note that has something to say."""
    cut = ", ".join(f"{totals[name]:,} {NOTES[name]}" for name in list(NOTES)[:3])
    rule = encoding.truncation_mode or "prompt first"
    level = logging.WARNING if any(totals[name] for name in list(NOTES)[:3]) else logging.INFO
    log.log(level, "encoded %s rows, max_length %s (%s): %s", f"{rows:,}", encoding.max_length, rule, cut)
    for name in list(NOTES)[3:]:
        if totals[name]:
            log.log(logging.INFO if name in REMARKS else logging.WARNING, "%s %s", f"{totals[name]:,}", NOTES[name])


def encode_prompt(turns: Iterable[Turn | Mapping[str, str]], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids after which the model is to answer, for sampling: the very ids that training has before a response."""
    messages = [t.message if isinstance(t, Turn) else dict(t) for t in turns]
    return Encoder(tokenizer, Encoding()).encode_prompt(messages)


def decode_response(ids: Iterable[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """The answer's text up to the first stop token, without special tokens and the space around it."""
    stops, kept = set(stop_token_ids(tokenizer)), []
    for token in ids:
        if int(token) in stops:
            break
        kept.append(int(token))
    return str(tokenizer.decode(kept, skip_special_tokens=True)).strip()


def split_pairs(dataset: "datasets.Dataset") -> "datasets.Dataset":
    """Encoded pairs as unpaired rows, two of each: the chosen response with the label true, then the rejected one."""
    by_response = [name for name in ("response_ids", "loss_mask", "ref_logps") if name in dataset.column_names]

    def split(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        prompts = [ids for ids in batch["prompt_ids"] for _ in range(2)]
        responses = {name: [[response] for pair in batch[name] for response in pair] for name in by_response}
        return {"prompt_ids": prompts, **responses, "label": [True, False] * len(batch["prompt_ids"])}

    columns = dataset.column_names
    return dataset.map(split, batched=True, remove_columns=columns, load_from_cache_file=False, desc="Splitting pairs")


def with_mismatched(dataset: "datasets.Dataset", max_length: int | None = None) -> "datasets.Dataset":
    """Rows with one more response each, of another prompt: KTO's mismatched answer, whose KL is its reference point.

    Row i of pairs takes the chosen (even i) or rejected (odd i) answer of row i + 1, the last row that of the first. An
    unpaired row takes the answer of the next row whose prompt is another one, since the answers to one prompt often
    follow one another. As this depends on the dataset alone, so does the loss, whatever the batch size. With
    `max_length` that answer is cut to what the prompt leaves. Its score is unknown (NaN).

    Args:
        dataset: encoded rows, as `encode_dataset` gives them.
        max_length: of prompt and answer together, in tokens.

    Raises:
        DataError: fewer than two rows, or rows with log-probs of a reference.
    """
    if len(dataset) < 2:
        raise DataError(
            f"a mismatched answer comes from another row, but this dataset has {len(dataset)}; give at least 2"
        )
    if "ref_logps" in dataset.column_names:
        raise DataError("these rows have ref_logps, but a mismatched answer has none; leave that column out")
    labelled = "label" in dataset.column_names
    numbers = _next_of_another_prompt(dataset) if labelled else [(i + 1) % len(dataset) for i in range(len(dataset))]
    columns = [name for name in ("response_ids", "loss_mask") if name in dataset.column_names]
    answers = dataset.select_columns(columns).select(numbers)

    def add(row: dict[str, Any], index: int) -> dict[str, Any]:
        count = len(row["response_ids"])
        if count != (1 if labelled else 2):
            raise DataError(
                f"row {index} has {count} responses; a mismatched answer is added to pairs, or to one with a label"
            )
        room = None if max_length is None else max(1, max_length - len(row["prompt_ids"]))
        added = {name: [*row[name], values[index % count][:room]] for name, values in answers[index].items()}
        return added | ({"score": [*row["score"], float("nan")]} if "score" in row else {})

    return dataset.map(add, with_indices=True, load_from_cache_file=False, desc="Adding mismatched answers")


def _next_of_another_prompt(dataset: "datasets.Dataset") -> list[int]:
    """For each row the number of the next one with another prompt, the first row following the last."""
    prompts = [hash(tuple(row["prompt_ids"])) for row in dataset.select_columns(["prompt_ids"])]
    count = len(prompts)
    found: list[int | None] = [None] * count
    for i in [*range(count)][::-1] * 2:  # the second time round, rows at the end know of those at the start
        following = (i + 1) % count
        found[i] = following if prompts[following] != prompts[i] else found[following]
    if None in found:
        raise DataError("a mismatched answer is one to another prompt, but all rows have the same; give two prompts")
    return [number for number in found if number is not None]
