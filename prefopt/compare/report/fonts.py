"""Finds installed fonts that can write a text, so that no figure shows boxes for characters.

Matplotlib's own font has no Chinese. It takes a list of families, though, and looks in the next one for a character
that the one before lacks: this makes the list. It needs matplotlib.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

from ...utils.extras import install

logger = logging.getLogger(__name__)

LATIN = "DejaVu Sans"
"""Comes with matplotlib."""
FAMILIES = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "Noto Sans SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
    # The first face of the file that holds Noto Sans CJK SC too, and the only one that matplotlib before 3.11 reads.
    "Noto Sans CJK JP",
)
"""Sans serif with Chinese characters, the best first."""
BUNDLE = ("mplfonts", "fonts/NotoSansCJKsc-Regular.otf")
"""A package that brings such a font, and where in it: `pip install 'prefopt[zh]'`."""
ADVICE = f"{install('zh')}, or install a font such as Noto Sans CJK SC"


@dataclass(frozen=True)
class Fonts:
    """
    Args:
        families: for matplotlib's `font.family`; the first one is asked first for every character.
        missing: characters that none of them has.
    """

    families: tuple[str, ...]
    missing: frozenset[str]


def fonts_for(text: str) -> Fonts:
    """The fewest families, in the order of `FAMILIES`, that write as much of the text as can be written here."""
    families, missing = [LATIN], _lacking(_files((LATIN,))[LATIN], text)
    candidates = installed() if missing else {}
    for family, path in candidates.items():
        still = _lacking(path, "".join(missing))
        if len(still) < len(missing):
            families.append(family)
            missing = still
    return Fonts(tuple(families), missing)


def installed() -> dict[str, str]:
    """Family -> file, of those of `FAMILIES` that there are, in that order."""
    found = _files(FAMILIES)
    if not found:
        _register()
        found = _files(FAMILIES)
    return found


def _files(families: tuple[str, ...]) -> dict[str, str]:
    """Of families that matplotlib knows."""
    from matplotlib import font_manager

    known = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist if Path(entry.fname).is_file()}
    return {family: known[family] for family in families if family in known}


def _register() -> None:
    """Shows matplotlib what its cached list may be too old to know, and the font that a package brings."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted({*font_manager.findSystemFonts(), *_bundled()} - known):
        try:
            wanted = FT2Font(path).family_name in FAMILIES
        except (OSError, RuntimeError) as error:  # matplotlib reads no bitmap fonts, such as those of emoji
            logger.debug("%s is not a font that matplotlib can read: %s", path, error)
            continue
        if wanted:
            font_manager.fontManager.addfont(path)


def _bundled() -> list[str]:
    """Found without importing the package, which is a program with needs of its own."""
    name, inside = BUNDLE
    found = importlib.util.find_spec(name)
    folders = (found.submodule_search_locations or []) if found else []
    return [str(path) for folder in folders if (path := Path(folder) / inside).is_file()]


def _lacking(path: str, text: str) -> frozenset[str]:
    """Characters that this font cannot write; it lacks nothing of what leaves no mark, such as a space."""
    from matplotlib.ft2font import FT2Font

    known = FT2Font(path).get_charmap()
    return frozenset(character for character in text if not character.isspace() and ord(character) not in known)
