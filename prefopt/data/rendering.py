"""What the chat template makes of a conversation, as text, and what it was found to do when it was tried."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .records import DataError
from .template_variables import are_plain, inputs_of, turns_for_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
PROBE = "an answer"


def render(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], prompt: bool = False) -> str:
    """The chat template's text of a conversation; of a prompt, up to where the model is to answer.

    Tools and variables are what its first turn brings, see `template_variables`.
    """
    in_parts = _takes_parts(tokenizer)
    try:
        if are_plain(messages):
            messages = _in_parts(messages) if in_parts else messages
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)  # type: ignore
        tools, kwargs = inputs_of(tokenizer, messages)
        rest: Any = {"tools": tools, "tokenize": False, "add_generation_prompt": prompt, **kwargs}

        def turns(text: bool = False) -> list[Any]:
            made = turns_for_template(messages, text=text)
            return _in_parts(made) if in_parts else made

        try:
            return str(tokenizer.apply_chat_template(turns(), **rest))
        except TypeError:  # DeepSeek-V3's takes the arguments of calls as text, most take objects
            return str(tokenizer.apply_chat_template(turns(text=True), **rest))
    except DataError:
        raise
    except Exception as error:  # templates raise errors of their own, without saying for which conversation
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(f"the chat template refuses a conversation of the roles {roles}: {error}") from error


def render_all(
    tokenizer: "PreTrainedTokenizerBase", conversations: list[list[Message]], prompt: bool
) -> list[str] | None:
    """What `render` gives for each of several plain conversations, in one call; None where it fails for one of them.

    Most of what a call costs does not depend on how much it renders.
    """
    turns: list[Any] = list(map(_in_parts, conversations)) if _takes_parts(tokenizer) else conversations
    try:
        found: Any = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    except Exception:  # `render` says for which, and why
        return None
    right = isinstance(found, list) and len(found) == len(turns) and all(isinstance(text, str) for text in found)
    return found if right else None


_parts: dict[str, bool] = {}
"""Chat template -> whether it takes contents as lists of parts."""


def _takes_parts(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a template writes the text of a turn only if it comes as a list of parts, images or texts.

    Such a one may fail on plain text (LLaVA's), or leave it out without an error (SmolVLM's, Idefics 3's).
    """
    template = str(tokenizer.chat_template)
    if template not in _parts:
        turn = [{"role": "user", "content": PROBE}]
        _parts[template] = not _writes_probe(tokenizer, turn) and _writes_probe(tokenizer, _in_parts(turn))
    return _parts[template]


def _writes_probe(tokenizer: "PreTrainedTokenizerBase", turns: list[Any]) -> bool:
    try:
        return PROBE in str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception:  # whatever a template raises
        return False


def _in_parts(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Turns whose contents are lists of one text each."""
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
