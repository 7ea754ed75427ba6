"""Where the boundary between prompt and answer is decided, and the stop token: batches of text rows to token ids.

A prompt is encoded as sampling sees it, a response as sampling would produce it after those ids, see `continuation.py`:
so the boundary between them is the same in training and at inference, and every response ends with one stop token,
unless the row says that it was truncated: then it has none, as a target holds no stop token that sampling did not emit.

Special tokens come from the template and from here, never from what a message says: an answer that spells "<eos>" is
encoded as ordinary text. Two texts are not: a templated prompt, as template and contents are one text there, and what
has no template at all, bare prompts and documents, as they may bring their author's own. Both are counted.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..utils.collector import collector_paused
from .continuation import Continuation, continuations
from .records import ANSWER_EXTRAS, TURN_EXTRAS, DataError, is_answer, responses_of
from .rendering import Message
from .sampled_ids import SampledIds, check_sampled, ended
from .special_tokens import Piece, SpecialTokens
from .template import Renderer, Rendering, Segment, is_bare, thoughts_left_out
from .truncation import Encoding, truncate

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

UNREAD = "tools, tool calls, reasoning_content or chat_template_kwargs that the chat template does not use"
UNREAD_KEYS = "tools' turns with a tool_call_id or name that the chat template does not read"
NOTES = {
    "_prompt_cut": "prompts cut",
    "_responses_cut": "responses cut",
    "_stops_lost": "stop tokens lost",
    "_merges": "answers that merge with the text before them when tokenised with it: encoded as sampling gives them",
    "_mismatches": "responses that the chat template renders otherwise within the whole conversation",
    "_answers_dropped": "later answers dropped, as the chat template rewrites an answer before them",
    "_unwritten": "rows dropped, as the chat template does not write their tool calls after the prompt",
    "_resampled": "responses trained on by the ids that were sampled, which are not those of their text",
    "_foreign": "responses encoded from their text, as their sampled ids are of another tokenizer, stop token or text",
    "_inputs_unread": f"rows: {UNREAD}",
    "_keys_unread": f"rows: {UNREAD_KEYS}",
    "_special_tokens_kept": "rows whose prompt, or text without a prompt, spells a special token: it became a real one",
    "_special_tokens_split": "rows whose answer, or prompt without a template, spells a special token: kept as text",
}
"""Columns that say what encoding did to a row -> the words that follow their sum."""
COUNTS = {
    "prompts_cut": "_prompt_cut",
    "answers_cut": "_responses_cut",
    "eos_lost": "_stops_lost",
    "boundary_merges": "_merges",
    "template_mismatches": "_mismatches",
    "answers_dropped": "_answers_dropped",
    "tool_calls_unwritten": "_unwritten",
    "sampled_ids_differ": "_resampled",
    "sampled_ids_unused": "_foreign",
    "template_inputs_unread": "_inputs_unread",
    "tool_keys_unread": "_keys_unread",
    "special_tokens_kept": "_special_tokens_kept",
    "special_tokens_split": "_special_tokens_split",
}
"""Names in reports, metrics and `prefopt data check` -> these columns."""


UNKNOWN = "\ue000\U0010fffd"
"""Characters for private use, which no vocabulary has."""


REMARKS = frozenset({"_resampled", "_keys_unread"})
"""Those of them that are as they should be."""


MAY_HAVE_EXTRAS = frozenset((*ANSWER_EXTRAS, "later_turns"))
"""Columns without which all answers of a row are texts alone."""


class RowTexts(NamedTuple):
    """The texts of a row as they are tokenised, and what the chat template did to its responses."""

    prompt: str
    responses: list[list[Segment]]
    mismatches: int  # responses that the template renders otherwise in the whole conversation
    dropped: int  # later answers that the template leaves no way to train on
    unwritten: bool  # whether a response calls tools in a way that the template does not write
    inputs_unread: bool  # whether the row brings something for the template that nothing reads
    keys_unread: bool  # the same of what only tells which call a tool's turn answers


class Encoder:
    """Encodes batches of text rows, as `datasets.Dataset.map` calls it: columns in, columns of ids out.

    What it did to a row is counted in the columns of `NOTES`.

    Args:
        tokenizer: with or without a chat template.
        encoding: how long a row may be.
        generation_config: of the model; it may say which token ends a response.
        allow_empty: whether a response may have neither text nor stop token: it can be scored, not trained on.
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
        self.special_tokens = SpecialTokens(tokenizer)
        ends = (self.renderer.stop, self.renderer.eos)
        self.end_texts = {end: str(tokenizer.decode([end], skip_special_tokens=False)) for end in ends}
        self.bos = _added_bos(tokenizer)
        self.sampled_ids = SampledIds(tokenizer)
        self._check_unknown(ends)

    def _check_unknown(self, ends: tuple[int, int]) -> None:
        """Refuse a tokenizer by which text that it does not know ends a response."""
        unknown: Any = self.tokenizer.unk_token_id
        if unknown in ends and unknown in self.special_tokens.tokenise([Piece(UNKNOWN, False)])[0]:
            raise DataError(
                f"the tokenizer gives {self.tokenizer.unk_token!r}, which ends a response, to text that it does not "
                "know: an answer with such text would be taught to end there. Give it another unk_token or eos_token"
            )

    @collector_paused()
    def __call__(self, batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        self.renderer.prepare((row["prompt"], _tails(row)) for row in rows)
        rendered = [self.render(row, number) for row, number in zip(rows, indices, strict=True)]
        pieces = [self._pieces(row["prompt"], texts) for row, texts in zip(rows, rendered, strict=True)]
        ids = iter(continuations(self.special_tokens, (piece for row in pieces for piece in row)))
        encoded = [self._row(*parts, ids) for parts in zip(rows, rendered, pieces, strict=True)]
        return {name: [row[name] for row in encoded] for name in encoded[0]}

    def tokenise(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts whose special tokens are meant, without special tokens around them."""
        return self.special_tokens.tokenise(Piece(text, True) for text in texts)

    def encode_prompt(self, prompt: list[Message]) -> list[int]:
        """The ids of a prompt, the same in training and in sampling."""
        piece = Piece(self.renderer.prompt(prompt), self._parses_special(prompt))
        return self.prompt_ids(self.special_tokens.tokenise([piece])[0], prompt)

    def render(self, row: Mapping[str, Any], number: int) -> RowTexts:
        """The texts of a row, as the template gives them; `number` is the row's, for messages."""
        prompt = row["prompt"]
        tails = _tails(row)
        try:
            opening = self.renderer.prompt(prompt)
            responses = [self.renderer.response(prompt, opening, tail) for tail in tails]
            flags = _finished(row, len(responses))
            check_sampled(row, len(responses))
            segments = [self._ending(response, flag, prompt) for response, flag in zip(responses, flags, strict=True)]
        except DataError as error:
            raise DataError(f"row {number}: {error}") from error
        mismatches = sum(not response.agrees for response in responses)
        unwritten = any(response.unwritten for response in responses)
        dropped = sum(response.dropped for response in responses)
        unread = self.renderer.leaves_out(prompt)
        if not unread and not MAY_HAVE_EXTRAS.isdisjoint(row):
            unread = any(map(thoughts_left_out, tails, segments))
        keys_unread = self.renderer.leaves_keys_out([*prompt, *row.get("later_turns", ())])
        return RowTexts(opening, segments, mismatches, dropped, unwritten, unread, keys_unread)

    def _ending(self, response: Rendering, finished: bool, prompt: list[Message]) -> list[Segment]:
        """A response's segments, the last without its stop token if the row says that it was truncated.

        Of several answers that is the last alone. Where it was dropped, all that stayed are terminated.
        """
        *before, last = response.segments
        if finished or response.dropped or response.unwritten:
            return response.segments
        stop = self.end_texts[self.renderer.end(prompt)]
        if not self.allow_empty and not last.text.replace(stop, "").strip():
            raise DataError(
                "a response is empty and finished is false, so that it was truncated: without a stop token nothing is "
                "left to train on; leave it out, or give true if the model ended it by itself"
            )
        return [*before, last._replace(finished=False)]

    def _parses_special(self, prompt: list[Message]) -> bool:
        """Whether special tokens spelled in a prompt's text, or between answers, are meant (or cannot be helped)."""
        return is_bare(prompt) or self.renderer.templated(prompt) or not self.special_tokens.can_split

    def _pieces(self, prompt: list[Message], texts: RowTexts) -> list[Piece]:
        """The texts of a row in order, each answer without the stop token that it may bring."""
        parses_special = self._parses_special(prompt)
        is_document = not texts.prompt or not self.special_tokens.can_split
        pieces = [Piece(texts.prompt, parses_special)]
        stop = self.end_texts[self.renderer.end(prompt)]
        for segments in texts.responses:
            before = texts.prompt
            for segment in segments:
                text = self._unstopped(segment, prompt) if segment.trained else segment.text
                means_special = is_document or segment.templated if segment.trained else parses_special
                pieces.append(Piece(text, means_special, before))
                before = stop if segment.trained else segment.text
        return pieces

    def _unstopped(self, answer: Segment, prompt: list[Message]) -> str:
        """An answer without the stop token's text that it may bring at its end."""
        stop = self.end_texts[self.renderer.end(prompt)]
        trimmed = answer.text.rstrip()
        return trimmed.removesuffix(stop) if trimmed.endswith(stop) else answer.whole

    def _row(
        self, row: Mapping[str, Any], texts: RowTexts, pieces: list[Piece], ids: Iterator[Continuation]
    ) -> dict[str, Any]:
        """The encoded row; `ids` gives the ids of its pieces, one after another."""
        own = [next(ids) for _ in pieces]
        prompt = self.prompt_ids(own[0].ids, row["prompt"])
        stop = self.renderer.end(row["prompt"])
        said = (piece.ids for piece in own[1:])
        whole = [self._joined(segments, stop, said) for segments in texts.responses]
        finished = [segments[-1].finished for segments in texts.responses]
        resampled, foreign = self.sampled_ids.put(row, whole, finished, stop)
        kept, part = truncate(prompt, (len(response) for response, _ in whole), self.encoding, self.bos)
        cut = [len(response[part]) < len(response) for response, _ in whole]
        lost = sum(map(all, zip(cut, finished, strict=True)))
        encoded = {"prompt_ids": kept, "response_ids": [response[part] for response, _ in whole], **_known(row)}
        if "later_turns" in row:
            encoded["loss_mask"] = [mask[part] for _, mask in whole]
        truncated = (len(kept) < len(prompt), sum(cut), lost if part.start is None else 0)
        merges = sum(piece.merges for piece in own)
        templated = (merges, texts.mismatches, texts.dropped, texts.unwritten)
        others = (resampled, foreign, texts.inputs_unread, texts.keys_unread)
        counts = (*truncated, *templated, *others, *self._spelled(row, texts, pieces))
        return encoded | dict(zip(NOTES, counts, strict=True))

    def _spelled(self, row: Mapping[str, Any], texts: RowTexts, pieces: list[Piece]) -> tuple[bool, bool]:
        """Whether a special token's text became that token somewhere in a row's contents, and whether it did not."""
        segments = (segment for segments in texts.responses for segment in segments)
        both = zip(pieces[1:], segments, strict=True)
        said = [piece for piece, segment in both if segment.trained and not segment.templated]
        if not MAY_HAVE_EXTRAS.isdisjoint(row):
            said += _templated(row, texts)
        others = [turn for turn in row.get("later_turns", ()) if not is_answer(turn)]
        parses_special = pieces[0].parse_special
        said += [Piece(text, parses_special) for turn in (*row["prompt"], *others) for text in _said(turn)]
        became = {piece.parse_special for piece in said if self.special_tokens.spelled_in(piece.text)}
        return True in became, False in became

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

    def _joined(self, segments: list[Segment], stop: int, ids: Iterator[list[int]]) -> tuple[list[int], list[int]]:
        """A response's ids and its loss mask, 1 on answers and 0 between them."""
        joined: list[int] = []
        mask: list[int] = []
        for segment in segments:
            piece = next(ids)
            if segment.trained:
                piece = ended(piece, stop, segment.finished)
            joined += piece
            mask += [int(segment.trained)] * len(piece)
        return joined, mask


def _finished(row: Mapping[str, Any], count: int) -> list[bool]:
    """Which responses are terminated: all, unless the row says otherwise."""
    flags = row.get("finished")
    if flags is None:
        return [True] * count
    if len(flags) != count or None in flags:
        raise DataError(f"finished is {flags} for {count} responses; give true or false for each, in their order")
    return list(flags)


def _tails(row: Mapping[str, Any]) -> list[list[Message]]:
    """Each response of a row as turns: an answer, and the later turns where there are any."""
    later, responses = row.get("later_turns", []), responses_of(row)
    answers = [{"role": "assistant", "content": response} for response in responses]
    for name in ANSWER_EXTRAS:
        for answer, value in zip(answers, row.get(name) or [], strict=False):
            if value:
                answer[name] = value
    return [[answer, *later] for answer in answers]


def _templated(row: Mapping[str, Any], texts: RowTexts) -> Iterator[Piece]:
    """What is said in the answers that the template wrote, where special tokens that are spelled become real."""
    for tail, segments in zip(_tails(row), texts.responses, strict=True):
        trained = (segment for segment in segments if segment.trained)
        for turn, segment in zip(filter(is_answer, tail), trained, strict=False):
            if segment.templated:
                yield from (Piece(text, True) for text in _said(turn))


def _said(turn: Message) -> Iterator[str]:
    """What a turn says, and what it brings for the template."""
    yield turn["content"]
    if len(turn) > 2:
        yield from (str(turn[name]) for name in TURN_EXTRAS if turn.get(name))


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that pass through. A score that is not known is NaN, so that every row has K of them."""
    columns = {name: row[name] for name in ("margin", "grade", "label") if name in row}
    if "scores" in row:
        columns["score"] = row["scores"] or [float("nan")] * len(row["responses"])
    elif "score_chosen" in row:
        pair = [row["score_chosen"], row["score_rejected"]]
        columns["score"] = [float("nan") if score is None else score for score in pair]
    return columns


def _added_bos(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The BOS id, if the tokenizer begins plain text with it; of an encoder such as BERT that is CLS."""
    ids: Any = tokenizer("a")["input_ids"]
    begins = {tokenizer.bos_token_id, getattr(tokenizer, "cls_token_id", None)} - {None}
    return ids[0] if ids[:1] and ids[0] in begins else None
