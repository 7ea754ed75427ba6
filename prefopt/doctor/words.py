"""What is said of each sickness in each language: what is wrong, with its numbers, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import words_en, words_zh

TEXTS: Mapping[str, Mapping[str, tuple[str, str]]] = {"en": words_en.TEXTS, "zh": words_zh.TEXTS}
"""Language -> name of a check -> what is wrong, and what to do."""
KINDS: Mapping[str, Mapping[str, str]] = {"en": words_en.KINDS, "zh": words_zh.KINDS}
"""Language -> a figure that is a word -> the word in that language."""
JOINT = {"en": ": ", "zh": "："}
COMMA = {"en": ", ", "zh": "、"}
UNKNOWN = "?"


def languages() -> list[str]:
    """The languages in which there are texts."""
    return list(TEXTS)


def said(name: str, figures: Mapping[str, Any], lang: str) -> tuple[str, str]:
    """What is wrong, and what to do.

    Raises:
        ValueError: no such language.
    """
    if lang not in TEXTS:
        raise ValueError(f"there are texts in {', '.join(TEXTS)}, not in {lang!r}")
    values = {key: _worded(value, lang) for key, value in figures.items()}
    wrong, advice = (part.format(**values) for part in TEXTS[lang][_key(name, figures)])
    return wrong, advice


def _worded(value: Any, lang: str) -> Any:
    """A figure as a text has it: of words those of the language, several of them listed."""
    if isinstance(value, list):
        return COMMA[lang].join(_worded(each, lang) for each in value)
    if isinstance(value, str):
        return KINDS[lang].get(value, value)
    return UNKNOWN if value is None else value


def _key(name: str, figures: Mapping[str, Any]) -> str:
    """A check that looks at two things has a text for each kind of figures."""
    kind = f"{name}.{figures.get('kind')}"
    return kind if kind in TEXTS["en"] else name
