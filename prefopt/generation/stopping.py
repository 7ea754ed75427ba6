"""A response, in the making and made: where it ends, and its text. Knows ids and strings, not the model they are of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from transformers import PreTrainedTokenizerBase

FinishReason = Literal["stop", "stop_string", "length"]
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer shows for a character of which some bytes are still to come."""


@dataclass(frozen=True)
class Sample:
    """One response to a prompt.

    ============= =====================================================================================================
    prompt_ids    ids of the prompt
    ids           every id that was drawn, with the stop token, or the tokens of the stop string, if it has one
    text          its text without what ended it
    finish_reason "stop" (a stop token), "stop_string", or "length" (it was cut at max_new_tokens)
    logps         log-prob of each id under the policy's own distribution: temperature 1, nothing cut, no penalty. Their
                  last digits depend on what else is computed with them, so that equality leaves them out
    ============= =====================================================================================================
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finish_reason: FinishReason
    logps: list[float] = field(compare=False)

    @property
    def finished(self) -> bool:
        return self.finish_reason != "length"


@dataclass
class Row:
    """A response in the making: number `number` of prompt number `prompt`, drawn by the random numbers of `stream`."""

    prompt: int
    number: int
    prompt_ids: list[int]
    stream: tuple[int | str, ...]
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    ended: FinishReason | None = None
    bare: bool = False
    """The prompt is bare text, which its response goes on from to the letter."""

    def add(self, token: int, logp: float, ends: Ends) -> bool:
        """One more token. Whether the response ends with it.

        Raises:
            ValueError: a log-prob that is NaN.
        """
        if math.isnan(logp):
            raise ValueError(f"the policy's logits after {len(self.ids)} tokens of a response are not numbers (NaN)")
        self.ids.append(token)
        self.logps.append(logp)
        self.ended = ends.reason(self.ids)
        return self.ended is not None

    def sample(self, ends: Ends) -> Sample:
        assert self.ended is not None
        return Sample(self.prompt_ids, self.ids, ends.text(self.ids, self.ended, self.bare), self.ended, self.logps)


@dataclass(frozen=True)
class Ends:
    """A response ends with a stop token, with the token that completes a stop string, or at `limit` tokens.

    Raises:
        ValueError: a stop string that no text can have.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens: tuple[int, ...]
    limit: int
    strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for string in self.strings:
            special = next((token for token in self.tokenizer.all_special_tokens if token in string), None)
            if not string or special:
                what = f"has the special token {special!r}, which is no text" if string else "is empty"
                raise ValueError(f"stop string {string!r} {what}: a stop token belongs in generation_config")

    def reason(self, ids: Sequence[int]) -> FinishReason | None:
        """Why a response that has just got its last id ends there, None if it goes on."""
        if ids[-1] in self.tokens:
            return "stop"
        if self.strings and self._cut(ids) is not None:
            return "stop_string"
        return "length" if len(ids) >= self.limit else None

    def text(self, ids: Sequence[int], reason: FinishReason, bare: bool = False) -> str:
        """Without what ended it, special tokens and, unless it goes on from bare text, the space around it."""
        cut = self._cut(ids) if reason == "stop_string" else None
        if cut is None:
            kept = list(ids[:-1] if reason == "stop" else ids)
            cut = str(self.tokenizer.decode(kept, skip_special_tokens=True))
        return cut if bare else cut.strip()

    def _cut(self, ids: Sequence[int]) -> str | None:
        """The text before the first stop string, None without one.

        All of the response is decoded each time: what a token adds depends on those before it, in Chinese often on
        the first bytes of its character.
        """
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).rstrip(UNFINISHED)
        found = [place for place in (text.find(string) for string in self.strings) if place >= 0]
        return text[: min(found)] if found else None
