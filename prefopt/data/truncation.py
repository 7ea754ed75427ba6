"""Who decides what gives way when a row is too long: the prompt, the responses, and on which side they are cut."""

from collections.abc import Iterable
from dataclasses import dataclass

from .records import DataError

MODES = (None, "keep_start", "keep_end")


@dataclass(frozen=True)
class Encoding:
    """How long a sequence may be, and what gives way when it is longer.

    Args:
        max_length: the most tokens of a prompt with its longest response; None for any number.
        max_prompt_length: how many of the prompt's tokens stay where it is cut by the first rule below; None for half
            of `max_length`.
        truncation_mode: None is the original DPO's rule: only if the prompt and the longest response exceed
            `max_length`, the prompt's last `max_prompt_length` tokens stay; if that is still too long, the responses
            are cut to `max_length - max_prompt_length`. "keep_start" cuts the end of each whole sequence, as TRL does,
            but leaves at least one response token. "keep_end" cuts the start, as far as the longest response demands.
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
    """What stays of a prompt, and which part of each of its responses.

    Args:
        prompt: its token ids.
        lengths: how many tokens each response has.
        bos: a token that survives a cut of the prompt's start where it begins with it, as many models answer badly
            without it.

    Returns:
        The prompt's ids that stay, and the slice to take of each response's ids.
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
    """The last `room` ids of a prompt, the first of them `bos` if the prompt began with it."""
    if len(prompt) <= room:
        return prompt
    return [bos, *prompt[1 - room :]] if bos is not None and prompt[0] == bos and room > 1 else prompt[-room:]
