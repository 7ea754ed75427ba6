"""A command's help page as text. What stands on it, others say: this imports neither torch nor the settings.

Short pages are kept in `help_pages.json`, from which `--help` is answered at once. `python -m prefopt.cli.help_pages`
writes the file from the settings' dataclasses, and a test compares the two.
"""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

KEPT = Path(__file__).with_name("help_pages.json")
WIDEST = 100


@dataclass(frozen=True)
class Entry:
    """One option: its flag, what stands for its value (nothing for a switch), and what it does, default included."""

    flag: str
    metavar: str
    help: str


@dataclass(frozen=True)
class Section:
    """A title and the options under it."""

    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Page:
    """A help page.

    Args:
        prog: the command as it is typed, such as `prefopt dpo`.
        usage: what follows it in the line of usage.
        example: what follows it in the example; several lines.
        more: how to see all options, on a page that shows only some.
    """

    prog: str
    usage: str
    summary: str
    sections: tuple[Section, ...]
    example: str
    more: str = ""

    def text(self) -> str:
        """The page for this terminal's width, as argparse sets it."""
        parser = ArgumentParser(
            prog=self.prog,
            usage=f"{self.prog} {self.usage}",
            description=self.summary,
            epilog=f"A value in [] is the default. Example:\n\n  {self.prog} {self.example}\n{self.more}",
            add_help=False,
            formatter_class=_formatter,
        )
        for section in self.sections:
            group = parser.add_argument_group(section.title)
            for entry in section.entries:
                text = entry.help.replace("%", "%%")  # argparse fills in % itself
                if entry.metavar:
                    group.add_argument(entry.flag, metavar=entry.metavar, help=text)
                else:
                    group.add_argument(entry.flag, action="store_true", help=text)
        return parser.format_help()


def kept_page(command: str) -> Page | None:
    """The short page of a command, None for a command that has none here."""
    page = json.loads(KEPT.read_text(encoding="utf-8")).get(command)
    return None if page is None else _page(page)


def keep(pages: dict[str, Page], file: Path = KEPT) -> None:
    """Write the short pages."""
    plain = {name: asdict(page) for name, page in pages.items()}
    file.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _page(plain: dict) -> Page:
    sections = [
        Section(each["title"], tuple(Entry(**entry) for entry in each["entries"])) for each in plain["sections"]
    ]
    return Page(**{**plain, "sections": tuple(sections)})


def _formatter(prog: str) -> RawDescriptionHelpFormatter:
    width = min(shutil.get_terminal_size().columns, WIDEST) - 1
    return RawDescriptionHelpFormatter(prog, max_help_position=30, width=width)


def titled(*sections: tuple[str, Sequence[Entry]]) -> tuple[Section, ...]:
    """Sections from titles and their entries; those without any are left out."""
    return tuple(Section(title, tuple(entries)) for title, entries in sections if entries)
