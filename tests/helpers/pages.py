"""The pages of the documentation as they are written: headings, blocks, tables, links. Builds no site, runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.S)
SHELL = ("", "sh")
"""How blocks of commands are marked."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, "" where it has none, its text, and why it is not run, "" where it is."""

    language: str
    text: str
    not_run: str = ""

    @property
    def commands(self) -> list[str]:
        """The commands of a block of them, one each, without comments; of another block none."""
        if self.language not in SHELL:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [" ".join(line.split()) for line in map(uncommented, lines) if line.strip()]


@dataclass(frozen=True)
class Table:
    """A table: its headings, and its rows as text, with the marks of Markdown."""

    head: list[str]
    rows: list[list[str]]


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, of which it leaves out what calls Python."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)  # type: ignore[no-untyped-call]


def uncommented(line: str) -> str:
    """A line of a shell or of YAML less its comment."""
    return re.sub(r"(^|\s)#.*$", "", line).rstrip()


def settings() -> dict[str, Any]:
    """What is in mkdocs.yml."""
    return dict(yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), _Loader))


def english_pages() -> list[Path]:
    """The pages that the site lists, in its order."""
    return [DOCS / name for name in _names(settings()["nav"])]


def _names(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
        return
    for inner in part.values() if isinstance(part, dict) else part:
        yield from _names(inner)


def chinese(page: Path) -> Path:
    """The same page in Chinese."""
    return READMES[1] if page == READMES[0] else page.with_name(f"{page.stem}.zh.md")


@cache
def tokens(page: Path) -> list[Token]:
    """The page as Markdown has it."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def headings(page: Path) -> list[tuple[str, str]]:
    """Level, such as h2, and text of each heading."""
    found = tokens(page)
    return [(t.tag, _plain(found[i + 1])) for i, t in enumerate(found) if t.type == "heading_open"]


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))


def anchor(heading: str) -> str:
    """The anchor of a heading, as both the site and GitHub make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found = tokens(page)
    before = [None, *found]
    made = []
    for token, last in zip(found, before, strict=False):
        if token.type == "fence":
            reason = NOT_RUN.search(last.content) if last is not None and last.type == "html_block" else None
            made.append(Block(token.info.strip(), token.content, "" if reason is None else reason[1]))
    return made


def tables(page: Path) -> list[Table]:
    """The tables of a page."""
    made: list[Table] = []
    row: list[str] = []
    cell = False
    for token in tokens(page):
        if token.type == "table_open":
            made.append(Table([], []))
        elif token.type == "tr_open":
            row = []
        elif token.type in ("th_open", "td_open"):
            cell = True
        elif token.type == "inline" and cell:
            row.append(token.content)
            cell = False
        elif token.type == "tr_close":
            made[-1].rows.append(row)
    return [Table(table.rows[0], table.rows[1:]) for table in made]


def _children(page: Path) -> list[Token]:
    """The parts of all texts of a page: words, links, pictures, names in backticks."""
    return [child for token in tokens(page) if token.type == "inline" for child in token.children or ()]


def links(page: Path) -> list[str]:
    """Where the links and the pictures of a page lead."""
    found = [child.attrs for child in _children(page) if child.attrs]
    return [unquote(str(attributes.get("href") or attributes.get("src"))) for attributes in found]


def prose(page: Path) -> str:
    """The words of a page, of its tables too, without names in backticks and blocks."""
    return " ".join(child.content for child in _children(page) if child.type == "text")


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks."""
    return [" ".join(child.content.split()) for child in _children(page) if child.type == "code_inline"]
