"""A batch of text rows -> token ids: boundary, stop token, truncation; knows no file format, no dataset and no tensor.

A prompt is encoded as sampling sees it, a response as sampling would produce it: the two are tokenised apart, so the
boundary between them is the same in training and at inference, and every response ends with one stop token, unless
the row says that it did not finish: then it has none, as a target holds no stop token that sampling did not emit.

Special tokens come from the template and from here, never from what a message says: an answer that spells "<eos>" is
encoded as ordinary text. Two texts are not: a templated prompt, as template and contents are one text there, and what
has no template at all, bare prompts and documents, as they may bring their author's own. Both are counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .records import DataError
from .special_tokens import Piece, Specials
from .template import Message, Renderer, Rendering, Segment, is_bare

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

MODES = (None, "keep_start", "keep_end")
NOTES = {
    "_prompt_cut": "prompts cut",
    "_responses_cut": "responses cut",
    "_stops_lost": "stop tokens lost",
    "_mismatches": "responses that the chat template renders otherwise within the whole conversation",
    "_answers_dropped": "later answers dropped, as the chat template rewrites an answer before them",
    "_specials_kept": "rows whose prompt, or text without a prompt, spells a special token: it became a real one",
    "_specials_split": "rows whose answer, or prompt without a template, spells a special token: kept as ordinary text",
}


class Written(NamedTuple):
    """The texts of a row, and what the template did to its responses."""

    opening: str
    responses: list[list[Segment]]
    mismatches: int  # responses that it renders otherwise
    dropped: int  # answers that it leaves no way to train on


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
    """Encodes a batch of text rows; what it did to a row is counted in the columns of NOTES.

    A response with neither text nor stop token is an error, unless `allow_empty`: it can be scored, not trained on.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        encoding: Encoding,
        generation_config: "GenerationConfig | None" = None,
        allow_empty: bool = False,
    ):
        self.tokenizer, self.encoding, self.allow_empty = tokenizer, encoding, allow_empty
        self.renderer = Renderer(tokenizer, generation_config)
        self.specials = Specials(tokenizer)
        ends = (self.renderer.stop, self.renderer.eos)
        self.end_texts = {end: str(tokenizer.decode([end], skip_special_tokens=False)) for end in ends}
        self.bos = _added_bos(tokenizer)

    def __call__(self, batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        written = [self.written(row, number) for row, number in zip(rows, indices, strict=True)]
        pieces = [self._pieces(row["prompt"], texts) for row, texts in zip(rows, written, strict=True)]
        ids = iter(self.specials.tokenise(piece for row in pieces for piece in row))
        encoded = [self._row(*parts, ids) for parts in zip(rows, written, pieces, strict=True)]
        return {name: [row[name] for row in encoded] for name in encoded[0]}

    def tokenise(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts whose special tokens are meant, without special tokens around them."""
        return self.specials.tokenise(Piece(text, True) for text in texts)

    def alone(self, prompt: list[Message]) -> list[int]:
        """The ids of a prompt, as training and sampling have them."""
        piece = Piece(self.renderer.prompt(prompt), self._marked(prompt))
        return self.prompt_ids(self.specials.tokenise([piece])[0], prompt)

    def written(self, row: Mapping[str, Any], number: int) -> Written:
        """The texts of a row, as the template gives them."""
        prompt = row["prompt"]
        try:
            opening = self.renderer.prompt(prompt)
            found = [self.renderer.response(prompt, opening, tail) for tail in _tails(row)]
            segments = [self._ending(*each, prompt) for each in zip(found, _finished(row, len(found)), strict=True)]
        except DataError as error:
            raise DataError(f"row {number}: {error}") from error
        mismatches = sum(not response.agrees for response in found)
        return Written(opening, segments, mismatches, sum(r.dropped for r in found))

    def _ending(self, response: Rendering, finished: bool, prompt: list[Message]) -> list[Segment]:
        """A response's segments, the last without its stop token if the row says that it did not finish.

        Of several answers that is the last alone. Where it was dropped, all that stayed are finished.
        """
        *before, last = response.segments
        if finished or response.dropped:
            return response.segments
        stop = self.end_texts[self.renderer.end(prompt)]
        if not self.allow_empty and not last.text.replace(stop, "").strip():
            raise DataError(
                "a response is empty and finished is false: without a stop token nothing is left to train on; "
                "leave it out, or give true if the model ended it by itself"
            )
        return [*before, last._replace(finished=False)]

    def _marked(self, prompt: list[Message]) -> bool:
        """Whether special tokens written in a prompt's text, or between answers, are meant (or cannot be helped)."""
        return is_bare(prompt) or self.renderer.templated(prompt) or not self.specials.splits

    def _pieces(self, prompt: list[Message], written: Written) -> list[Piece]:
        """The texts of a row in order, each answer without the stop token that it may bring."""
        marked, document = self._marked(prompt), not written.opening or not self.specials.splits
        pieces = [Piece(written.opening, marked)]
        for segment in (segment for segments in written.responses for segment in segments):
            text = self._unstopped(segment.text, prompt) if segment.trained else segment.text
            pieces.append(Piece(text, document if segment.trained else marked))
        return pieces

    def _unstopped(self, answer: str, prompt: list[Message]) -> str:
        stop = self.end_texts[self.renderer.end(prompt)]
        trimmed = answer.rstrip()
        return trimmed.removesuffix(stop) if trimmed.endswith(stop) else answer

    def _row(self, row: Mapping[str, Any], written: Written, pieces: list[Piece], ids: Any) -> dict[str, Any]:
        prompt = self.prompt_ids(next(ids), row["prompt"])
        stop = self.renderer.end(row["prompt"])
        whole = [self._joined(segments, stop, ids) for segments in written.responses]
        kept, part = truncate(prompt, (len(response) for response, _ in whole), self.encoding, self.bos)
        cut = [len(response[part]) < len(response) for response, _ in whole]
        lost = sum(c and segments[-1].finished for c, segments in zip(cut, written.responses, strict=True))
        found = {"prompt_ids": kept, "response_ids": [response[part] for response, _ in whole], **_known(row)}
        if "later_turns" in row:
            found["loss_mask"] = [mask[part] for _, mask in whole]
        truncated = (len(kept) < len(prompt), sum(cut), lost if part.start is None else 0)
        counts = (*truncated, written.mismatches, written.dropped, *self._spelled(row, written, pieces))
        return found | dict(zip(NOTES, counts, strict=True))

    def _spelled(self, row: Mapping[str, Any], written: Written, pieces: list[Piece]) -> tuple[bool, bool]:
        """Whether a special token's text became that token somewhere in a row's contents, and whether it did not."""
        segments = (segment for segments in written.responses for segment in segments)
        said = [piece for piece, segment in zip(pieces[1:], segments, strict=True) if segment.trained]
        others = [turn for turn in row.get("later_turns", ()) if turn["role"] != "assistant"]
        marked = pieces[0].marked
        said += [Piece(turn["content"], marked) for turn in (*row["prompt"], *others)]
        found = {piece.marked for piece in said if self.specials.spelled(piece.text)}
        return True in found, False in found

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
            if segment.trained:
                piece = _ended(piece, stop, segment.finished)
            joined += piece
            mask += [int(segment.trained)] * len(piece)
        return joined, mask


def _ended(answer: list[int], stop: int, finished: bool) -> list[int]:
    """An answer with its one stop token; unfinished with none, not even one that a tokenizer makes of its text."""
    if finished:
        return answer if answer[-1:] == [stop] else [*answer, stop]
    while answer[-1:] == [stop]:
        answer = answer[:-1]
    return answer


def _finished(row: Mapping[str, Any], count: int) -> list[bool]:
    """Which responses ended by themselves: all, unless the row says otherwise."""
    given = row.get("finished")
    if given is None:
        return [True] * count
    if len(given) != count or None in given:
        raise DataError(f"finished is {given} for {count} responses; give true or false for each, in their order")
    return list(given)


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
