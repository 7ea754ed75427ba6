"""What happens to rows on their way to token ids, counted: the part of `check.py` that has a tokenizer.

The ids are those of `row_encoder.Encoder`, which training uses; what they say is decoded from them.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .findings import Encoded, Finding, Part
from .records import DataError
from .row_encoder import COUNTS, Encoder
from .template import is_bare
from .truncation import Encoding

if TYPE_CHECKING:
    import datasets
    from transformers import GenerationConfig, PreTrainedTokenizerBase

BATCH = 256
PROBE = "a question"

_ELSEWHERE = ("tool_calls_unwritten", "sampled_ids_differ")
"""Of these the first is looked for here, and the second is how it should be."""
_NOTED = {name: column for name, column in COUNTS.items() if name not in _ELSEWHERE}
"""Names in the report -> columns that the encoder counts in."""

_LOOKED_AT = (
    "tool_calls_unwritten",
    "doubled_bos",
    "doubled_eos",
    "doubled_template",
    "empty_answers",
)
"""Names in the report of what is looked for here."""

Row = dict[str, Any]


def encoding_findings(
    rows: "datasets.Dataset",
    places: list[str],
    kind: str,
    tokenizer: "PreTrainedTokenizerBase",
    encoding: Encoding,
    progress: bool,
) -> tuple[dict[str, Finding], int, Encoded | None]:
    """What happens to the rows; the number of the first that can be encoded, and what it becomes.

    Args:
        rows: text, as the load functions give it, with at least one row.
        places: where each row stands.
        kind: what a row holds.
        progress: show a progress bar on stderr.
    """
    encoder = Encoder(tokenizer, encoding, _generation_config(tokenizer))
    names = [
        "refused",
        "tool_calls_unwritten",
        *_NOTED,
        *_LOOKED_AT,
        *(["identical_encoded"] if kind == "pair" else []),
    ]
    findings = {name: Finding() for name in names}
    template_end = encoder.renderer.prompt([{"role": "user", "content": PROBE}]).rpartition(PROBE)[2].strip()
    shown: tuple[int, Encoded | None] | None = None
    for number, row, ids in _encoded_rows(rows, encoder, progress):
        if isinstance(ids, DataError):
            findings["refused"].add(f"{places[number]} ({str(ids).removeprefix('row 0: ')})")
            continue
        if ids["_unwritten"]:
            findings["tool_calls_unwritten"].add(places[number])
            continue
        shown = shown or (number, decoded(ids, tokenizer))
        for name, times in _counts(row, ids, encoder, template_end).items():
            findings[name].add(places[number], times)
        if kind == "pair":
            findings["identical_encoded"].add(places[number], ids["response_ids"][0] == ids["response_ids"][1])
    return findings, *(shown or (0, None))


def decoded(ids: Row, tokenizer: "PreTrainedTokenizerBase") -> Encoded:
    """What the token ids of a row say, special tokens included; joined, the texts are what all its ids together say."""
    responses = zip(ids["response_ids"], _masks(ids), strict=True)
    parts = [list(_parts(ids["prompt_ids"], response, mask, tokenizer)) for response, mask in responses]
    return Encoded(_text(ids["prompt_ids"], tokenizer), parts)


def _parts(
    prompt: list[int], response: list[int], mask: list[int], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[Part]:
    """The stretches of a response that are trained on and that are not; each decoded behind all that stands before it.

    By itself a stretch would lose the space at its start, with some tokenizers.
    """
    before = list(prompt)
    for trained, group in groupby(zip(response, mask, strict=True), key=lambda pair: pair[1]):
        stretch = [token for token, _ in group]
        known, text = _text(before, tokenizer), _text(before + stretch, tokenizer)
        said = text[len(known) :] if text.startswith(known) else _text(stretch, tokenizer)
        yield Part(said, bool(trained))
        before += stretch


def _text(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _masks(ids: Row) -> list[list[int]]:
    """For each response, which of its tokens the loss falls on."""
    return ids["loss_mask"] if "loss_mask" in ids else [[1] * len(response) for response in ids["response_ids"]]


def _encoded_rows(
    rows: "datasets.Dataset", encoder: Encoder, progress: bool
) -> Iterator[tuple[int, Row, Row | DataError]]:
    """Each row with its number, and what the encoder makes of it or why it cannot."""
    from tqdm.auto import tqdm

    with tqdm(total=len(rows), desc="encoding", unit="row", disable=not progress, leave=False) as bar:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            columns = zip(*batch.values(), strict=True)
            texts = [dict(zip(batch, values, strict=True)) for values in columns]
            yield from zip(range(start, start + len(texts)), texts, _encoded(batch, encoder), strict=True)
            bar.update(len(texts))


def _encoded(batch: dict[str, list[Any]], encoder: Encoder) -> list[Row | DataError]:
    """What the encoder makes of each row; where it refuses the batch, the rows are tried one at a time."""
    count = len(batch["prompt"])
    try:
        columns = encoder(batch, list(range(count)))
    except DataError as error:
        if count == 1:
            return [error]
        alone = ({name: [values[number]] for name, values in batch.items()} for number in range(count))
        return [found for row in alone for found in _encoded(row, encoder)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _counts(row: Row, ids: Row, encoder: Encoder, template_end: str) -> dict[str, int]:
    """How often each thing was found in a row."""
    prompt = row["prompt"]
    ends_as_template = bool(template_end) and prompt[-1]["content"].rstrip().endswith(template_end)
    return {
        **{name: int(ids[note]) for name, note in _NOTED.items()},
        **_boundaries(row, encoder),
        "doubled_template": int(ends_as_template and not is_bare(prompt)),
        "empty_answers": sum(_is_empty(*pair, encoder) for pair in zip(ids["response_ids"], _masks(ids), strict=True)),
    }


def _is_empty(response: list[int], mask: list[int], encoder: Encoder) -> bool:
    """Whether what is trained on of a response is special tokens and space alone."""
    trained = [token for token, counts in zip(response, mask, strict=True) if counts]
    return not str(encoder.tokenizer.decode(trained, skip_special_tokens=True)).strip()


def _boundaries(row: Row, encoder: Encoder) -> dict[str, int]:
    """What goes wrong at the edges of a row when specials are added blindly."""
    opening, responses = encoder.render(row, 0)[:2]
    answers = [segments[0].text for segments in responses]
    alone, *apart = encoder.tokenise([opening, *answers])
    stop = encoder.renderer.end(row["prompt"])
    return {
        "doubled_bos": int(encoder.brings_bos(alone, row["prompt"])),
        "doubled_eos": sum(ids[-1:] == [stop] for ids in apart),
    }


def _generation_config(tokenizer: "PreTrainedTokenizerBase") -> "GenerationConfig | None":
    """What lies in the tokenizer's folder, so that responses end here as they do in training."""
    folder = Path(tokenizer.name_or_path)
    if not tokenizer.name_or_path or not (folder / "generation_config.json").is_file():
        return None
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'generation_config.json'}: cannot be read: {error}") from error
