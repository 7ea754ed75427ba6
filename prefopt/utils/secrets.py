"""Knows what a secret is, and takes it out of whatever is written, logged or shown.

A secret is known by what it is called (a setting `token`, an environment variable `WANDB_API_KEY`), by its value once
it was read under such a name in this process, and by its form: the user part of a URL, what its query gives under such
a name (`?api_key=VALUE`, the signature of a signed address), and tokens of the Hugging Face hub and of GitHub. Values
of less than eight characters are known by their names alone, or text would lose words.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from itertools import zip_longest
from typing import Any
from urllib.parse import quote

MARK = "[secret]"
"""What stands where a secret was."""
SHORTEST = 8
"""Characters of the shortest value that is looked for in text."""

_SETTING = re.compile(
    r"token|(\w+_)?(hub|hf|huggingface|auth|access|api|session|refresh|bearer|security|sas)_token|(\w+_)?passw(or)?d"
    r"|(\w+_)?passphrase|(\w+_)?secret|(\w+_)?api_?key|(\w+_)?(secret|private|account|access)_key|authorization"
    r"|(\w+_)?credentials?|(\w+_)?connection_string"
)
_VARIABLE = re.compile(
    r"(\w+_)?(TOKEN|KEY|API_?KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|CONNECTION_STRING)(_?\d+)?"
)
_USER_OF_URL = re.compile(r"(?<=://)[^\s/@'\"\\<>?#]+(?=@)")
_URL = re.compile(r"(?<=://)[!#$%&(-;=?-\[\]-~]+")
_QUERY = re.compile(
    r"((?:[?&]|&amp;|%26)(?:[\w.-]*(?:token|api-?_?key|access_?key(?:_?id)?|secret|passw(?:or)?d|signature|credential)"
    r"|sig|key|auth|authorization)=)[^&#;]+",
    re.I,
)
_FORMS = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})\b")
_remembered: set[str] = set()


def is_secret_name(name: object) -> bool:
    """Whether a setting of this name holds a secret: `token` and `hub_token` do, `eos_token` and `key_env` do not."""
    return isinstance(name, str) and _SETTING.fullmatch(name.lower().replace("-", "_")) is not None


def remember(given: Any) -> None:
    """Know the values that stand under the names of secrets in settings, for the rest of the process."""
    _remembered.update(value for value in _named_in(given) if len(value) >= SHORTEST and value != MARK)


def remember_words(words: Sequence[str]) -> None:
    """As `remember`, of the words of a command line: `--hub_token VALUE`, `--hub_token=VALUE`, JSON in a value."""
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        flag, _, value = word.partition("=")
        value = value or following
        if word.startswith("--"):
            remember({flag.lstrip("-"): value})
            if value.lstrip().startswith("{"):
                remember(_parsed(value))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _named_in(value: Any) -> Iterator[str]:
    """Every text that stands, at any depth, under the name of a secret."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(part) if is_secret_name(name) else _named_in(part)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _named_in(vars(value))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _named_in(part)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def remember_value(value: str) -> None:
    """Know a value that is a secret though its name does not say so."""
    remember({"token": value})


@cache
def _is_secret_variable(name: str) -> bool:
    return _VARIABLE.fullmatch(name.upper()) is not None


def known() -> set[str]:
    """The values that are secrets in this process: of its environment's variables, and those that it was given."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if _is_secret_variable(name) and len(value.strip()) >= SHORTEST and not os.path.exists(value)
    }
    return found | _remembered


def redacted(text: str) -> str:
    """A text without the secrets of this process, each of which is replaced by `MARK`."""
    return _without(text, _written())


def _written() -> list[str]:
    """The secrets as they may be written, in a URL, JSON, HTML or Python; of two that begin alike the longer first."""
    forms = {
        form
        for value in known()
        for form in (value, quote(value, safe=""), json.dumps(value)[1:-1], html.escape(value), repr(value)[1:-1])
    }
    return sorted(forms, key=lambda form: (-len(form), form))


def _without(text: str, written: Iterable[str]) -> str:
    for form in written:
        text = text.replace(form, MARK)
    return _FORMS.sub(MARK, _without_parts_of_urls(text) if "://" in text else text)


def _without_parts_of_urls(text: str) -> str:
    return _URL.sub(lambda url: _QUERY.sub(rf"\1{MARK}", url[0]), _USER_OF_URL.sub(MARK, text))


def without_secrets(value: Any) -> Any:
    """A copy of plain values and dataclasses: `MARK` under the names of secrets, and every text redacted."""
    return _copied(value, False, _written())


def _copied(value: Any, secret: bool, written: Sequence[str]) -> Any:
    if type(value) is str:  # and no member of an enum, which would become another type
        return MARK if secret and value else _without(value, written)
    if isinstance(value, Mapping):
        named = ((name, secret or is_secret_name(name), part) for name, part in value.items())
        return {_copied(name, False, written): _copied(part, hidden, written) for name, hidden, part in named}
    if type(value) in (list, tuple):
        return type(value)(_copied(part, secret, written) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(
            value, **{name: _copied(part, secret or is_secret_name(name), written) for name, part in parts.items()}
        )
    return value


def without_named(value: Any) -> Any:
    """A copy of plain values that lacks what stands under the names of secrets, and is the same in every process."""
    if isinstance(value, Mapping):
        kept = {name: part for name, part in value.items() if not (is_secret_name(name) and any(_texts(part)))}
        return {name: without_named(part) for name, part in kept.items()}
    return [without_named(part) for part in value] if isinstance(value, list | tuple) else value


def marks_in(value: Any, where: str = "") -> Iterator[str]:
    """Where a copy that was written without its secrets lacks one: names, joined by `: `."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from marks_in(part, f"{where}: {name}" if where else str(name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from marks_in(part, where)
    elif isinstance(value, str) and MARK in value:
        yield where


class GuardedStream:
    """A text stream that writes no secret."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """From here on nothing that this process prints, tracebacks included, holds a secret."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, GuardedStream):
            setattr(sys, name, GuardedStream(stream))
