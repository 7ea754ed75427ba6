"""Every text of the report that is neither the user's nor a model's, by key and language; knows no findings."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from ...utils.names import did_you_mean
from . import words_en, words_zh
from .number_format import MISSING, number

TEXTS: Mapping[str, Mapping[str, str]] = {"en": words_en.TEXTS, "zh": words_zh.TEXTS}
BCP47 = {"en": "en", "zh": "zh-Hans"}


class Words(string.Formatter):
    """The texts in one language: `words("few_seeds", seeds=2, needed=5)`.

    A text names what it is told and how to write it, "{rate:.0%}"; see `number_format.number`. Several values in one
    place become a list in a sentence. What a text does not name is not needed.

    Raises:
        ValueError: no such language.
    """

    def __init__(self, lang: str = "en") -> None:
        if lang not in TEXTS:
            raise ValueError(f"a report in {lang!r}: there are texts in {', '.join(TEXTS)}")
        self.lang = lang
        self.texts = TEXTS[lang]

    def __call__(self, key: str, /, **values: Any) -> str:
        """
        Raises:
            KeyError: no text has this key, or a value that it names was not given.
        """
        if key not in self.texts:
            raise KeyError(f"no text {key!r}: {did_you_mean(key, self.texts, most=1)}".rstrip(": "))
        try:
            return self.vformat(self.texts[key], (), values)
        except KeyError as error:
            raise KeyError(f"text {key!r} needs a value {error}; given: {sorted(values)}") from None

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return self.listed(value)
        if value is None:
            return MISSING
        return number(value, format_spec) if format_spec else str(value)

    def listed(self, names: Sequence[Any]) -> str:
        """ "a, b and c"."""
        *most, last = (str(name) for name in names)
        return self.texts["list.comma"].join(most) + self.texts["list.and"] + last if most else last

    def verdict(self, value: str, form: str = "verdict") -> str:
        """Of a `compare.Verdict` by its value; `form` "matrix" is short."""
        return self(f"{form}.{value}")
