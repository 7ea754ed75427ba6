"""Who decides that "<eos>" in a text becomes the token or stays text: texts to ids, for each text one or the other.

Which of the two holds for a prompt, an answer or what stands between answers, is said in `row_encoder.py`.
"""

import re
from collections import deque
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..utils.renamed import renamed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Piece(NamedTuple):
    """A text to tokenise.

    Args:
        parse_special: whether a special token that is spelled in the text becomes that token. A template's markers
            do; what a message says does not.
        after: the text before it in the conversation, which `continuation.py` goes by; special tokens are meant there.
    """

    text: str
    parse_special: bool
    after: str = ""


class SpecialTokens:
    """A tokenizer that is told for each text whether special tokens may come out of it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self.tokenizer = tokenizer

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds the text of any special token."""
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        texts = sorted(filter(None, {*added, *map(str, self.tokenizer.all_special_tokens)}))
        return re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    @cached_property
    def can_split(self) -> bool:
        """Whether the tokenizer can read a special token's text as ordinary text; not all can."""
        eos: Any = self.tokenizer.eos_token
        try:
            return self.tokenizer.eos_token_id not in self._ids([f"a {eos} b"], split=True)[0]
        except (NotImplementedError, TypeError, ValueError):  # mistral-common's tokenizers refuse the argument
            return False

    def spelled_in(self, text: str) -> bool:
        """Whether a text holds the text of a special token."""
        return self.pattern.search(text) is not None

    def last_in(self, text: str) -> re.Match[str] | None:
        """The last special token that a text holds."""
        return next(iter(deque(self.pattern.finditer(text), maxlen=1)), None)

    @cached_property
    def strip_right(self) -> frozenset[str]:
        """The special tokens that swallow the space after them."""
        return frozenset(str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.rstrip)

    def begins_anew_after(self, special: str) -> bool:
        """Whether a text gets the same ids after this special token as by itself."""
        behind, special_alone, alone = self._ids([special + "a", special, "a"], split=False)
        return behind == special_alone + alone

    def tokenise(self, pieces: Iterable[Piece]) -> list[list[int]]:
        """The ids of each piece by itself, whatever it comes after, without special tokens around them."""
        pieces = list(pieces)
        ids_of: list[list[int]] = [[]] * len(pieces)
        for split in (True, False):  # a fast tokenizer remembers the last mode: leave it in the usual one
            places = [place for place, piece in enumerate(pieces) if piece.parse_special != split]
            if places:
                for place, ids in zip(places, self._ids([pieces[i].text for i in places], split), strict=True):
                    ids_of[place] = ids
        return ids_of

    def _ids(self, texts: list[str], split: bool) -> list[list[int]]:
        rule: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        return self.tokenizer(texts, split_special_tokens=split, **rule)["input_ids"]  # type: ignore[return-value]


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Specials": "SpecialTokens"})
