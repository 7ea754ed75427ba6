"""Writes a comparison's report in all its forms into one folder."""

from __future__ import annotations

from pathlib import Path

from ...utils.visible import visible_parts
from .figures import write_figures
from .findings import Findings
from .markdown import write_markdown
from .page import write_page
from .table_files import write_tables
from .tables import all_tables
from .words import Words


def write_report(findings: Findings, folder: Path, lang: str = "en") -> Path:
    """`report.html`, which needs nothing beside it, `report.md` with its pictures, `report.json`; the first's path.

    `tables/` has its tables for other programs, as CSV and LaTeX.
    """
    findings.write(folder)
    figures = write_figures(visible_parts(findings), folder, lang)
    write_tables(all_tables(visible_parts(findings), Words(lang)), folder)
    write_markdown(findings, folder, figures, lang)
    return write_page(findings, folder, figures, lang)
