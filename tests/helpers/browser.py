"""A headless Chromium, and a page that is watched: what went wrong in it, and what it asked for.

Needs a Chromium of the system, or the one that PREFOPT_CHROMIUM names; playwright's own download is not used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("PREFOPT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install one (apt-get install chromium) or name it in PREFOPT_CHROMIUM"
)


@dataclass
class Watched:
    """A page with all that went wrong in it and all that it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _dialog(self, dialog: object) -> None:
        self.complaints.append("an alert came up")
        dialog.dismiss()  # type: ignore[attr-defined]

    def column(self, table: str, place: int) -> list[str]:
        """First line of each cell of a column."""
        return self.page.locator(f"{table} tbody tr > :nth-child({place}) .main").all_inner_texts()


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, which is closed in the end."""
    with sync_playwright() as playwright:
        # A container's root has no sandbox, and often too small a /dev/shm.
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()
