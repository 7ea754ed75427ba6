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
    ids = _behind(special_tokens, [_lead(special_tokens, piece) for piece in pieces])
    merging = [place for place, found in enumerate(ids) if found is None]
    resolved = dict(zip(merging, _unmerged(special_tokens, [pieces[place] for place in merging]), strict=True))
    return [
        Continuation(resolved[place], bool(pieces[place].after)) if found is None else Continuation(found)
        for place, found in enumerate(ids)
    ]


def _lead(special_tokens: SpecialTokens, piece: Piece) -> Piece:
    """The piece with as much of what it comes after as is tokenised with it, and as it is tokenised with that.

    If special tokens spelled in the text stay text, none may be in the lead either.
    """
    if not piece.after or not piece.text:
        return piece._replace(after="")
    end = piece.after[-WINDOW:]
    special = special_tokens.last_in(end)
    if special is None:
        return piece._replace(after=end)
    plain = (
        "" if special[0] in special_tokens.strip_right and not end[special.end() :].strip() else end[special.end() :]
    )
    if piece.parse_special or not (plain or special_tokens.spelled_in(piece.text)):
        return piece._replace(after=end[special.start() :], parse_special=True)
    return piece._replace(after=plain or ("" if special_tokens.begins_anew_after(special[0]) else ANCHORS[0]))


def _behind(special_tokens: SpecialTokens, pieces: Sequence[Piece]) -> list[list[int] | None]:
    """The ids of each piece behind its lead; None where the lead's ids are others then."""
    leads = {(piece.after, piece.parse_special): 0 for piece in pieces if piece.after}
    texts = [Piece(*lead) for lead in leads]
    texts += [Piece(piece.after + piece.text, piece.parse_special) for piece in pieces]
    ids = special_tokens.tokenise(texts)
    known = dict(zip(leads, ids, strict=False))
    found: list[list[int] | None] = []
    for piece, whole in zip(pieces, ids[len(leads) :], strict=True):
        lead = known.get((piece.after, piece.parse_special), [])
        found.append(whole[len(lead) :] if whole[: len(lead)] == lead else None)
    return found


def _unmerged(special_tokens: SpecialTokens, pieces: Sequence[Piece]) -> list[list[int]]:
    """The ids of pieces where no token spans their beginning, behind an anchor that they do not merge with."""
    if not pieces:
        return []
    behind = [_behind(special_tokens, [piece._replace(after=anchor) for piece in pieces]) for anchor in ANCHORS]
    alone = special_tokens.tokenise(pieces)
    return [
        next((ids for ids in choices if ids is not None), otherwise)
        for *choices, otherwise in zip(*behind, alone, strict=True)
    ]
