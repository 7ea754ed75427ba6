"""What the chat template makes of a conversation, as text, and what it was found to do when it was tried."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .records import TEXTS_BESIDE, THOUGHTS, DataError
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
        thought = thought_key(tokenizer) if any(turn.get("reasoning_content") for turn in messages) else None
        rest: Any = {"tools": tools, "tokenize": False, "add_generation_prompt": prompt, **kwargs}

        def turns(text: bool = False) -> list[Any]:
            made = turns_for_template(messages, thought, text=text)
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


_THOUGHT = "a thought"
_thoughts: dict[str, str | None] = {}
"""Chat template -> what it calls the thought before an answer, None where it writes none."""


def thought_key(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """What the chat template calls the thought before an answer: it is tried with the names that rows have for it."""
    template = str(tokenizer.chat_template)
    if template not in _thoughts:
        answers: list[dict[str, Any]] = [{"role": "assistant", "content": PROBE}, *_CALLS]
        said = (
            (name, _tried(tokenizer, [_QUESTION, {**turn, name: _THOUGHT}])) for name in THOUGHTS for turn in answers
        )
        _thoughts[template] = next((name for name, text in said if _THOUGHT in (text or "")), None)
    return _thoughts[template]


_tool_keys: dict[str, frozenset[str]] = {}
"""Chat template -> what it reads of a tool's turn beside the content."""


def tool_keys(tokenizer: "PreTrainedTokenizerBase") -> frozenset[str]:
    """What the chat template reads of a tool's turn beside the content: what changes its text when it is lacking."""
    template = str(tokenizer.chat_template)
    if template not in _tool_keys:
        keys = TEXTS_BESIDE["tool"]
        whole = _told(tokenizer, keys)
        if whole is None:  # it refuses such a conversation; what it may read then stands in its text
            found = (key for key in keys if key in template)
        else:
            found = (key for key in keys if _told(tokenizer, [each for each in keys if each != key]) != whole)
        _tool_keys[template] = frozenset(found)
    return _tool_keys[template]


_QUESTION = {"role": "user", "content": "a question"}
_CALLS = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call12345", "type": "function", "function": {"name": "clock", "arguments": arguments}}],
    }
    for arguments in ({"place": "x"}, '{"place": "x"}')
]
"""A call of a tool, its arguments as an object and as text: templates take one of them."""
_TOLD = {"role": "tool", "content": "a result", "tool_call_id": "call12345", "name": "watch"}
"""The tool's answer to it, under another name than the call has; some templates want ids of nine letters."""


def _told(tokenizer: "PreTrainedTokenizerBase", keys: Sequence[str]) -> str | None:
    """What the template writes of a call and its result, which has these keys; None where it fails."""
    told = {name: _TOLD[name] for name in ("role", "content", *keys)}
    said = (_tried(tokenizer, [_QUESTION, call, told]) for call in _CALLS)
    return next((text for text in said if text is not None), None)


def _tried(tokenizer: "PreTrainedTokenizerBase", turns: list[Any]) -> str | None:
    """What the template writes of turns, None where it fails."""
    try:
        made = _in_parts(turns) if _takes_parts(tokenizer) else turns
        return str(tokenizer.apply_chat_template(made, tokenize=False))
    except Exception:  # whatever a template raises
        return None
