"""What ends a response: a stop token, a stop string or the length limit. And responses, ended (`Sample`) or growing.

Nothing here knows the model: only token ids, strings and the tokenizer that turns the one into the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from transformers import PreTrainedTokenizerBase

FinishReason = Literal["stop", "stop_string", "length"]
PARTIAL_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer shows for a character of which some bytes are still to come."""


@dataclass(frozen=True)
class Sample:
    """One response to a prompt.

    ================== ================================================================================================
    prompt_ids         ids of the prompt
    ids                every id that was sampled, with the stop token, or the tokens of the stop string, if it has one
    text               its text without what ended it
    finish_reason      "stop" (a stop token), "stop_string", or "length" (truncated at max_new_tokens)
    logps              log-prob of each id under the policy's own distribution: temperature 1, nothing cut, no penalty.
                       Their last digits depend on what else is computed with them, so that equality leaves them out
    before_stop_string how many of the ids stand before the stop string that ended it; None where it begins within a
                       token, and where something else ended it
    ================== ================================================================================================
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finish_reason: FinishReason
    logps: list[float] = field(compare=False)
    before_stop_string: int | None = field(default=None, compare=False)

    @property
    def finished(self) -> bool:
        """Whether the response terminated by itself and was not truncated at the length limit."""
        return self.finish_reason != "length"


@dataclass
class SequenceState:
    """A response that is being generated, or has just been.

    =============== ==============================================================================================
    prompt_number   which of the prompts it responds to
    response_number which of the responses to that prompt it is
    prompt_ids      ids of the prompt
    stream          the key of its random numbers, see `uniform_stream`
    ids, logps      the tokens so far, and their log-probs under the policy's own distribution
    finish_reason   what ended it; None while it goes on
    bare_prompt     the prompt is bare text, which the response continues to the letter: its text is not stripped
    on_token        is handed the response after each token, as where it is shown while it grows
    =============== ==============================================================================================
    """

    prompt_number: int
    response_number: int
    prompt_ids: list[int]
    stream: tuple[int | str, ...]
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    bare_prompt: bool = False
    on_token: Callable[[SequenceState], None] | None = field(default=None, compare=False)

    def append(self, token: int, logp: float, rules: StoppingRules) -> bool:
        """Add one token. Returns whether the response ends with it.

        Raises:
            ValueError: a log-prob that is NaN.
        """
        if math.isnan(logp):
            raise ValueError(f"the policy's logits after {len(self.ids)} tokens of a response are not numbers (NaN)")
        self.ids.append(token)
        self.logps.append(logp)
        self.finish_reason = rules.finish_reason(self.ids)
        if self.on_token is not None:
            self.on_token(self)
        return self.finish_reason is not None

    def to_sample(self, rules: StoppingRules) -> Sample:
        """The response, which has to have ended, with its text."""
        assert self.finish_reason is not None
        text = rules.text(self.ids, self.finish_reason, self.bare_prompt)
        before = rules.before_stop_string(self.ids) if self.finish_reason == "stop_string" else None
        return Sample(self.prompt_ids, self.ids, text, self.finish_reason, self.logps, before)


@dataclass(frozen=True)
class StoppingRules:
    """Says where a response ends: with a stop token, the token that completes a stop string, or `max_new_tokens`.

    Raises:
        ValueError: a stop string that no text can have.
    """

    tokenizer: PreTrainedTokenizerBase
    stop_tokens: tuple[int, ...]
    max_new_tokens: int
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for string in self.stop_strings:
            special = next((token for token in self.tokenizer.all_special_tokens if token in string), None)
            if not string or special:
                what = f"has the special token {special!r}, which is no text" if string else "is empty"
                raise ValueError(f"stop string {string!r} {what}: a stop token belongs in generation_config")

    def finish_reason(self, ids: Sequence[int]) -> FinishReason | None:
        """Why a response that has just got its last id ends there, None if it goes on."""
        if ids[-1] in self.stop_tokens:
            return "stop"
        if self.stop_strings and self._text_before_stop_string(ids) is not None:
            return "stop_string"
        return "length" if len(ids) >= self.max_new_tokens else None

    def text(self, ids: Sequence[int], finish_reason: FinishReason, bare_prompt: bool = False) -> str:
        """The response without what ended it, special tokens and, unless its prompt is bare, the space around it."""
        text = self._text_before_stop_string(ids) if finish_reason == "stop_string" else None
        if text is None:
            kept = list(ids[:-1] if finish_reason == "stop" else ids)
            text = str(self.tokenizer.decode(kept, skip_special_tokens=True))
        return self._leading_space(ids) + text if bare_prompt else text.strip()

    def _leading_space(self, ids: Sequence[int]) -> str:
        """The space that a response begins with and that some tokenizers, SentencePiece's, leave out of its text."""
        behind = [*self._word, *ids[:1]]
        text, word = (str(self.tokenizer.decode(each, skip_special_tokens=True)) for each in (behind, self._word))
        alone = str(self.tokenizer.decode(list(ids[:1]), skip_special_tokens=True))
        return " " if text == f"{word} {alone}" and text != word + alone else ""

    @cached_property
    def _word(self) -> list[int]:
        """A word that a response is decoded behind."""
        return list(self.tokenizer("a", add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]

    def before_stop_string(self, ids: Sequence[int]) -> int | None:
        """How many ids say the text before the first stop string; None without one, or if it begins within a token."""
        before = self._text_before_stop_string(ids)
        for count in range(len(ids) - 1, -1, -1) if before is not None else ():
            text = str(self.tokenizer.decode(list(ids[:count]), skip_special_tokens=True))
            if text == before:
                return count
            if len(text) < len(before or ""):
                break
        return None

    def _text_before_stop_string(self, ids: Sequence[int]) -> str | None:
        """The text before the first stop string, None without one.

        All of the response is decoded each time: what a token adds depends on those before it, in Chinese often on
        the first bytes of its character.
        """
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).rstrip(PARTIAL_CHARACTER)
        starts = [start for start in (text.find(string) for string in self.stop_strings) if start >= 0]
        return text[: min(starts)] if starts else None
