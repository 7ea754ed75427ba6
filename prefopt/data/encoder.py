"""A batch of text rows -> token ids: boundary, stop token, truncation; knows no file format, no dataset and no tensor.

A prompt is encoded as sampling sees it, a response as sampling would produce it: the two are tokenised apart, so the
boundary between them is the same in training and at inference, and every response ends with one stop token.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .records import DataError
from .template import Message, Renderer, Segment

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

MODES = (None, "keep_start", "keep_end")
NOTES = {
    "_prompt_cut": "prompts cut",
    "_responses_cut": "responses cut",
    "_stops_lost": "stop tokens lost",
    "_mismatches": "responses that the chat template renders otherwise within the whole conversation",
}


@dataclass(frozen=True)
class Encoding:
    """How long a sequence may be, and what gives way when it is longer.

    truncation_mode None is the original DPO's rule: only if the prompt and the longest response exceed `max_length`,
    the prompt's last `max_prompt_length` tokens stay (None: half of `max_length`); if that is still too long, the
    responses are cut to `max_length - max_prompt_length`. "keep_start" cuts the end of each whole sequence, as TRL
    does, but leaves at least one response token. "keep_end" cuts the start, as far as the longest response demands.
    """

    max_length: int | None = 1024
    max_prompt_length: int | None = None
    truncation_mode: str | None = None

    def __post_init__(self) -> None:
        if self.truncation_mode not in MODES:
            raise DataError(f"truncation_mode is {self.truncation_mode!r}; known are None, 'keep_start', 'keep_end'")
        if self.max_length is not None and self.max_length < 2:
            raise DataError(f"max_length is {self.max_length}; a prompt and a response need at least 2")
        if self.max_length is not None and not 0 < self.prompt_room < self.max_length:
            raise DataError(
                f"max_prompt_length is {self.max_prompt_length}; give 1 to max_length - 1 = {self.max_length - 1}"
            )

    @property
    def prompt_room(self) -> int:
        """How many prompt tokens stay when a row is too long."""
        return self.max_prompt_length if self.max_prompt_length is not None else (self.max_length or 0) // 2


def truncate(
    prompt: list[int], lengths: Iterable[int], encoding: Encoding, bos: int | None = None
) -> tuple[list[int], slice]:
    """The prompt that stays, and the part that stays of each response, given the responses' lengths.

    A leading `bos` survives a cut of the prompt's start, as many models answer badly without it.
    """
    longest, limit = max(lengths, default=0), encoding.max_length
    if limit is None or len(prompt) + longest <= limit:
        return prompt, slice(None)
    if encoding.truncation_mode == "keep_start":
        prompt = prompt[: limit - 1]
        return prompt, slice(limit - len(prompt))
    if encoding.truncation_mode == "keep_end":
        prompt = _last(prompt, max(1, limit - longest), bos)
        return prompt, slice(-(limit - len(prompt)), None)
    prompt = _last(prompt, encoding.prompt_room, bos)
    fits = len(prompt) + longest <= limit
    return prompt, slice(None) if fits else slice(limit - encoding.prompt_room)


def _last(prompt: list[int], room: int, bos: int | None) -> list[int]:
    if len(prompt) <= room:
        return prompt
    return [bos, *prompt[1 - room :]] if bos is not None and prompt[0] == bos and room > 1 else prompt[-room:]


class Encoder:
    """Encodes a batch of text rows; what it did to a row is counted in the columns of NOTES."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        encoding: Encoding,
        generation_config: "GenerationConfig | None" = None,
    ):
        self.tokenizer, self.encoding = tokenizer, encoding
        self.renderer = Renderer(tokenizer, generation_config)
        self.bos = _added_bos(tokenizer)

    def __call__(self, batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        written = [self.written(row, number) for row, number in zip(rows, indices, strict=True)]
        flat = [
            text for opening, responses, _ in written for text in (opening, *(s.text for r in responses for s in r))
        ]
        ids = iter(self.tokenise(flat))
        encoded = [self._row(row, *parts, ids) for row, parts in zip(rows, written, strict=True)]
        return {name: [row[name] for row in encoded] for name in encoded[0]}

    def tokenise(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts, without special tokens around them."""
        found = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        return found  # type: ignore[return-value]

    def written(self, row: Mapping[str, Any], number: int) -> tuple[str, list[list[Segment]], int]:
        """The texts of a row and how many of its responses the template renders otherwise."""
        prompt = row["prompt"]
        try:
            opening = self.renderer.prompt(prompt)
            found = [self.renderer.response(prompt, opening, tail) for tail in _tails(row)]
        except DataError as error:
            raise DataError(f"row {number}: {error}") from error
        return opening, [segments for segments, _ in found], sum(not agrees for _, agrees in found)

    def _row(
        self, row: Mapping[str, Any], opening: str, responses: list[list[Segment]], mismatches: int, ids: Any
    ) -> dict[str, Any]:
        prompt = self.prompt_ids(next(ids), row["prompt"])
        stop = self.renderer.end(row["prompt"])
        whole = [self._joined(segments, stop, ids) for segments in responses]
        kept, part = truncate(prompt, (len(response) for response, _ in whole), self.encoding, self.bos)
        cut = sum(len(response[part]) < len(response) for response, _ in whole)
        found = {"prompt_ids": kept, "response_ids": [response[part] for response, _ in whole], **_known(row)}
        if "later_turns" in row:
            found["loss_mask"] = [mask[part] for _, mask in whole]
        stops_lost = cut if part.start is None else 0
        return found | dict(zip(NOTES, (len(kept) < len(prompt), cut, stops_lost, mismatches), strict=True))

    def prompt_ids(self, ids: list[int], prompt: list[Message]) -> list[int]:
        """A prompt's ids, never empty, with one BOS where the tokenizer wants one (a template writes its own)."""
        while self.brings_bos(ids, prompt):
            ids = ids[1:]
        if self.bos is not None and self.adds_bos(prompt):
            ids = [self.bos, *ids]
        bos: Any = self.tokenizer.bos_token_id
        return ids or [self.renderer.eos if bos is None else bos]

    def adds_bos(self, prompt: list[Message]) -> bool:
        """Whether the BOS is ours to write: the tokenizer wants one and no template does it."""
        return self.bos is not None and not self.renderer.templated(prompt)

    def brings_bos(self, ids: list[int], prompt: list[Message]) -> bool:
        """Whether the text itself begins with a BOS too many."""
        surplus = [self.bos] * (1 if self.adds_bos(prompt) else 2)
        return self.bos is not None and ids[: len(surplus)] == surplus

    def _joined(self, segments: list[Segment], stop: int, ids: Any) -> tuple[list[int], list[int]]:
        """A response's ids and its loss mask."""
        joined: list[int] = []
        mask: list[int] = []
        for segment in segments:
            piece = next(ids)
            if segment.trained and piece[-1:] != [stop]:
                piece = [*piece, stop]
            joined += piece
            mask += [int(segment.trained)] * len(piece)
        return joined, mask


def _tails(row: Mapping[str, Any]) -> list[list[Message]]:
    """Each response of a row as turns: an answer, and the later turns where there are any."""
    if "responses" in row:
        answers = row["responses"]
    else:
        answers = [row[name] for name in ("chosen", "rejected", "response") if name in row]
    return [[{"role": "assistant", "content": answer}, *row.get("later_turns", [])] for answer in answers]


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that pass through. A score that is not known is NaN, so that every row has K of them."""
    found = {name: row[name] for name in ("margin", "grade") if name in row}
    if "scores" in row:
        found["score"] = row["scores"] or [float("nan")] * len(row["responses"])
    elif "score_chosen" in row:
        pair = [row["score_chosen"], row["score_rejected"]]
        found["score"] = [float("nan") if score is None else score for score in pair]
    return found


def _added_bos(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The BOS id, if the tokenizer begins plain text with it."""
    ids: Any = tokenizer("a")["input_ids"]
    return ids[0] if tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id] else None
