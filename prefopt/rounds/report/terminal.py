"""The report over rounds in a terminal: the versions, and what is not done yet; writes no file."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..results import RoundsResults
from .tables import measured, on_one_line, versions_about
from .texts import text


def print_rounds(results: RoundsResults, console: Console, lang: str = "en") -> None:
    """One line a version, of at most eighty columns, and the sentence that says which is best."""
    primary = results.primary
    newest = max((n for version in results.versions for n in version.scores), default=0)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    label = text(lang, "gold") if primary == "gold" else text(lang, "score", number=newest)
    for column in (
        text(lang, "version"),
        text(lang, "trained"),
        label,
        text(lang, "wins previous"),
        text(lang, "kl_first"),
    ):
        table.add_column(Text(column), justify="left", overflow="fold")
    for version in results.versions:
        reward = version.gold if primary == "gold" else version.scores.get(newest)
        methods = ", ".join(str(each["method"]) for each in version.trained) or "–"
        kl = "–" if version.kl_first is None else f"{version.kl_first.mean:.2f}"
        wins = on_one_line(measured(version.wins.get("previous"), ".0%"))
        table.add_row(*map(Text, (f"v{version.number}", methods, on_one_line(measured(reward)), wins, kl)))
    console.print(Text(results.title, style="bold"))
    console.print("", table, "", sep="\n")
    console.print(Text(versions_about(results, lang)))
    for line in results.pending:
        console.print(Text(f"! {line}", style="yellow"), soft_wrap=True)
