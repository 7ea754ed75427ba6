"""Where responses are trained on by the ids that a policy sampled, instead of those that their text would be given.

A row brings them in `sampled_ids`, and in `sampled_by` the fingerprint of their tokenizer.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .records import DataError, responses_of
from .tokenizer_identity import tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SampledIds:
    """Takes the ids of sampled responses for those of their text, as far as they say it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer

    def put(
        self, row: Mapping[str, Any], whole: list[tuple[list[int], list[int]]], finished: Sequence[bool], stop: int
    ) -> tuple[int, int]:
        """Put the ids that were sampled in the place of those of the text: a policy may have said it in other tokens.

        Args:
            whole: for each response its ids, and their loss mask.
            finished: which responses are terminated.
            stop: the token that terminates them.

        Returns:
            How many were other ids, and how many are of another tokenizer, of a text that was edited since, or end with
            another stop token, so that those of the text stay.
        """
        sampled, by = row.get("sampled_ids"), row.get("sampled_by")
        if not sampled or not by:
            return 0, 0
        if by != tokenizer_fingerprint(self.tokenizer) or row.get("later_turns"):
            return 0, sum(map(bool, sampled))
        others, left_out = 0, 0
        for number, (ids, text) in enumerate(zip(sampled, responses_of(row), strict=True)):
            if not ids or ids == whole[number][0]:
                continue
            said = self._as_sampled(ids, text, finished[number], stop)
            if said is None:
                left_out += 1
            elif said != whole[number][0]:
                others += 1
                whole[number] = said, [1] * len(said)
        return others, left_out

    def _as_sampled(self, ids: list[int], text: str, finished: bool, stop: int) -> list[int] | None:
        """The ids of a response as it was sampled; None where they do not say its text, or end otherwise than it does.

        A stop token of another template than today's would stay in the response, before today's.
        """
        ends = not finished or ids[-1:] == [stop]
        return ended(ids, stop, finished) if ends and self._says(ids[:-1] if finished else ids, text) else None

    def _says(self, ids: list[int], text: str) -> bool:
        """Whether ids are those of a text, less the space around it and what the length limit left of a character."""
        decoded = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        return _trimmed(decoded) == _trimmed(text)


def _trimmed(text: str) -> str:
    return text.strip().rstrip("\ufffd").rstrip()


def ended(answer: list[int], stop: int, finished: bool) -> list[int]:
    """An answer with its one stop token; a truncated one with none, not even one that a tokenizer makes of its text."""
    if finished:
        return answer if answer[-1:] == [stop] else [*answer, stop]
    while answer[-1:] == [stop]:
        answer = answer[:-1]
    return answer


def check_sampled(row: Mapping[str, Any], count: int) -> None:
    """Refuse sampled ids that are not a list for each response, or no ids.

    Raises:
        DataError: they are not.
    """
    sampled = row.get("sampled_ids") or [[]] * count
    wrong = [ids for ids in sampled if ids is None or min(ids, default=0) < 0]
    if len(sampled) != count or wrong:
        found = f"{wrong[0]} for one response" if wrong else f"{len(sampled)} lists for {count} responses"
        raise DataError(
            f"sampled_ids has {found}; give a list of ids, none below 0, for each response in their order, [] where "
            "they are not known"
        )
