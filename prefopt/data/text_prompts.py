"""Prompts that came as bare text: a user's turn, where the model speaks by a chat template, or text to go on with.

Many files keep a question as plain text. A chat model that is trained on it verbatim sees a question glued to its
answer, in a form that it never meets again: it soon answers with its stop token alone. So with a chat template a bare
prompt is a user's turn, in training, sampling and evaluation alike; `verbatim` keeps it as it came, as TRL does.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .records import DataError, Messages
from .special_tokens import SpecialTokens
from .template import is_bare

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MODES = ("auto", "user", "verbatim")
ANSWERS = ("chosen", "rejected", "response", "responses")


def check_mode(mode: str) -> None:
    """Raise DataError for a mode that there is not."""
    if mode not in MODES:
        raise DataError(f"text_prompts={mode!r}: expected one of {', '.join(MODES)}")


def with_turns(
    rows: "datasets.Dataset", tokenizer: "PreTrainedTokenizerBase", mode: str = "auto"
) -> "datasets.Dataset":
    """Rows of text whose bare prompts are user turns, if the mode and the tokenizer want it; how many is logged.

    The space around such a prompt and its answers goes, as it belongs to no turn. A document (an empty prompt) stays
    what it is, and so does a text that spells the tokenizer's special tokens, which brings its own template.

    Args:
        rows: what the load functions return.
        mode: "user", "verbatim", or "auto": user turns where the tokenizer has a chat template.
    """
    convert = _Conversion(tokenizer, mode)
    chat = getattr(rows.features.get("prompt"), "feature", None)
    if not convert.wanted or not isinstance(chat, Mapping) or "text" not in _roles(rows):
        return rows
    count = sum(map(convert.fits, rows["prompt"]))
    if not count:
        return rows
    convert.say(count, len(rows))
    return rows.map(convert.row, load_from_cache_file=False, features=rows.features, desc="Making prompts turns")


def prompts_with_turns(
    prompts: Iterable[Messages], tokenizer: "PreTrainedTokenizerBase", mode: str = "auto"
) -> list[Messages]:
    """The same for prompts alone."""
    convert = _Conversion(tokenizer, mode)
    return [_as_user(prompt) if convert.wanted and convert.fits(prompt) else prompt for prompt in prompts]


def _roles(rows: "datasets.Dataset") -> set[str]:
    """The roles that occur in prompts."""
    import pyarrow.compute

    roles: set[str] = set()
    for chunk in rows.with_format("arrow").select_columns(["prompt"]).iter(10_000):
        turns = pyarrow.compute.list_flatten(chunk["prompt"])
        roles.update(pyarrow.compute.unique(pyarrow.compute.struct_field(turns, "role")).to_pylist())
    return roles


class _Conversion:
    def __init__(self, tokenizer: "PreTrainedTokenizerBase", mode: str) -> None:
        check_mode(mode)
        self.wanted = mode == "user" or (mode == "auto" and bool(tokenizer.chat_template))
        self.mode, self.special_tokens = mode, SpecialTokens(tokenizer)

    def fits(self, prompt: Messages) -> bool:
        """Whether this is a question in bare text."""
        if not is_bare(prompt) or not prompt or not prompt[0]["content"].strip():
            return False
        return self.mode == "user" or not self.special_tokens.spelled_in(prompt[0]["content"])

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        if not self.fits(row["prompt"]):
            return row
        answers = {name: _stripped(row[name]) for name in ANSWERS if row.get(name) is not None}
        return {**row, **answers, "prompt": _as_user(row["prompt"])}

    def say(self, count: int, of: int) -> None:
        log.warning(
            "%s of %s prompts are plain text, and the tokenizer has a chat template: each is given as a user's turn. "
            "text_prompts='verbatim' glues the answer to the text as it is, without the template",
            f"{count:,}",
            f"{of:,}",
        )


def _as_user(prompt: Messages) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt[0]["content"].strip()}]


def _stripped(answer: Any) -> Any:
    return answer.strip() if isinstance(answer, str) else [text.strip() for text in answer]
