"""Prompts that came as bare text: a user's turn, where the model speaks by a chat template, or text to go on with.

Many files keep a question as plain text. A chat model that is trained on it verbatim sees a question glued to its
answer, in a form that it never meets again: it soon answers with its stop token alone. So with a chat template a bare
prompt is a user's turn, in training, sampling and evaluation alike; `verbatim` keeps it as it came, as TRL does.
"""

import logging
from collections.abc import Callable, Mapping
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

    A text that spells the tokenizer's special tokens brings its own template, and stays what it is.

    Args:
        rows: what the load functions return.
        mode: "user", "verbatim", or "auto": user turns where the tokenizer has a chat template.
    """
    check_mode(mode)
    if mode == "user":
        return users_turns(rows)
    if mode == "verbatim" or not tokenizer.chat_template:
        return rows
    return users_turns(rows, SpecialTokens(tokenizer).spelled_in)


def users_turns(
    rows: "datasets.Dataset", brings_template: Callable[[str], bool] = lambda text: False
) -> "datasets.Dataset":
    """Rows of text whose bare prompts are user turns; how many is logged.

    The space between such a prompt and its answers goes, as it belongs to no turn, and so does what follows an answer;
    the indent of code stays. A document (an empty prompt) stays what it is.

    Args:
        brings_template: whether a text is already written in the template of a model.
    """
    chat = getattr(rows.features.get("prompt"), "feature", None)
    if not isinstance(chat, Mapping) or "text" not in _roles(rows):
        return rows

    def is_question(prompt: Messages) -> bool:
        bare = is_bare(prompt) and prompt and prompt[0]["content"].strip()
        return bool(bare) and not brings_template(prompt[0]["content"])

    def converted(row: dict[str, Any]) -> dict[str, Any]:
        if not is_question(row["prompt"]):
            return row
        answers = {name: _stripped(row[name]) for name in ANSWERS if row.get(name) is not None}
        prompt = [{"role": "user", "content": row["prompt"][0]["content"].strip()}]
        return {**row, **answers, "prompt": prompt}

    asks = [is_question(prompt) for prompt in rows["prompt"]]
    count = sum(asks)
    if not count:
        return rows
    answers = zip(*(rows[name] for name in ANSWERS if name in rows.column_names), strict=True)
    spaced = sum(ask and any(map(_has_space, said)) for ask, said in zip(asks, answers, strict=False))
    log.warning(
        "%s of %s prompts are plain text: each is a user's turn in the chat template. text_prompts='verbatim' goes on "
        "with the text as it is, without the template%s",
        f"{count:,}",
        f"{len(rows):,}",
        f". The space around the answers of {spaced:,} of them goes" if spaced else "",
    )
    return rows.map(converted, load_from_cache_file=False, features=rows.features, desc="Making prompts turns")


def count_bare(rows: "datasets.Dataset") -> int:
    """How many prompts are a question in plain text."""
    chat = getattr(rows.features.get("prompt"), "feature", None)
    if not isinstance(chat, Mapping) or "text" not in _roles(rows):
        return 0
    return sum(is_bare(prompt) and bool(prompt and prompt[0]["content"].strip()) for prompt in rows["prompt"])


def _roles(rows: "datasets.Dataset") -> set[str]:
    """The roles that occur in prompts."""
    import pyarrow.compute

    roles: set[str] = set()
    for chunk in rows.with_format("arrow").select_columns(["prompt"]).iter(10_000):
        turns = pyarrow.compute.list_flatten(chunk["prompt"])
        roles.update(pyarrow.compute.unique(pyarrow.compute.struct_field(turns, "role")).to_pylist())
    return roles


def _stripped(answer: Any) -> Any:
    """An answer, or each of several, less the space that joined it to the prompt, and what follows it."""
    return _unspaced(answer) if isinstance(answer, str) else list(map(_unspaced, answer))


def _unspaced(text: str) -> str:
    lines = text.rstrip().lstrip("\r\n")
    return lines if lines.startswith(_INDENT) else lines.lstrip()


_INDENT = ("  ", "\t")
"""How an answer begins whose first line is indented, as code is."""


def _has_space(answer: Any) -> bool:
    return bool(answer) and _stripped(answer) != (answer if isinstance(answer, str) else list(answer))
