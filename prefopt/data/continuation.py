"""The ids of a text that continues another: those that it has in the whole conversation.

By itself a text may get other ids. SentencePiece and its likes begin any text with a space that nobody wrote, so an
answer that is tokenised alone starts with a token that the policy never sees there. Here a text is tokenised behind the
end of what stands before it, whose ids are then taken away again.

Where the two merge to a token that spans the boundary, no ids of the answer are those of the whole conversation. Then
it gets those that sampling can give: sampling starts from the ids of the prompt, which are fixed by then.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .special_tokens import Piece, SpecialTokens

WINDOW = 64
"""How many characters of what stands before a text are looked at: more than a token has."""
ANCHORS = ("\n", "a", "。")
"""Texts of which one at least merges with no text that follows."""


class Continuation(NamedTuple):
    """The ids of a text, and whether it merges with what stands before it when the two are tokenised together."""

    ids: list[int]
    merges: bool = False


def continuations(special_tokens: SpecialTokens, pieces: Iterable[Piece]) -> list[Continuation]:
    """The ids of each piece behind the text that it comes after, in their order."""
    pieces = list(pieces)
    ends = {piece.after: _end(special_tokens, piece.after) for piece in pieces if piece.after}
    ids = _behind(special_tokens, [_led(special_tokens, piece, ends) for piece in pieces])
    merging = [place for place, found in enumerate(ids) if found is None]
    apart = dict(zip(merging, _apart(special_tokens, [pieces[place] for place in merging]), strict=True))
    return [Continuation(apart[place], True) if own is None else Continuation(own) for place, own in enumerate(ids)]


class _End(NamedTuple):
    """The end of what stands before a text: with the last special token in it, and what of it is plain text."""

    special: str
    whole: str
    plain: str


def _end(special_tokens: SpecialTokens, text: str) -> _End:
    end = text[-WINDOW:]
    special = special_tokens.last_in(end)
    if special is None:
        return _End("", end, end)
    plain = end[special.end() :]
    swallowed = special[0] in special_tokens.strip_right and not plain.strip()
    return _End(special[0], end[special.start() :], "" if swallowed else plain)


def _led(special_tokens: SpecialTokens, piece: Piece, ends: dict[str, _End]) -> Piece:
    """The piece with as much of what it comes after as is tokenised with it, and as it is tokenised with that.

    If special tokens spelled in the text stay text, none may be in the lead either.
    """
    text, parse_special, after = piece
    if not after or not text:
        return Piece(text, parse_special)
    end = ends[after]
    if parse_special:
        return Piece(text, True, end.whole)
    if end.plain:
        return Piece(text, False, end.plain)
    if not special_tokens.spelled_in(text):
        return Piece(text, True, end.whole)
    return Piece(text, False, "" if special_tokens.begins_anew_after(end.special) else ANCHORS[0])


def _behind(special_tokens: SpecialTokens, pieces: Sequence[Piece]) -> list[list[int] | None]:
    """The ids of each piece behind its lead; None where the lead's ids are others then."""
    leads = list({(after, parse_special) for _, parse_special, after in pieces if after})
    texts = [Piece(*lead) for lead in leads]
    texts += [Piece(after + text, parse_special) for text, parse_special, after in pieces]
    ids = special_tokens.tokenise(texts)
    known = {("", True): [], ("", False): [], **dict(zip(leads, ids, strict=False))}
    found: list[list[int] | None] = []
    for (_, parse_special, after), whole in zip(pieces, ids[len(leads) :], strict=True):
        lead = known[after, parse_special]
        count = len(lead)
        found.append(whole[count:] if whole[:count] == lead else None)
    return found


def _apart(special_tokens: SpecialTokens, pieces: Sequence[Piece]) -> list[list[int]]:
    """The ids of pieces where no token spans their beginning, behind an anchor that they do not merge with."""
    if not pieces:
        return []
    behind = [
        _behind(special_tokens, [Piece(text, parse_special, anchor) for text, parse_special, _ in pieces])
        for anchor in ANCHORS
    ]
    alone = special_tokens.tokenise(pieces)
    return [
        next((ids for ids in choices if ids is not None), otherwise)
        for *choices, otherwise in zip(*behind, alone, strict=True)
    ]
