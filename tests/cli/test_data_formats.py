"""The table of formats is made from the adapters, and the page in docs/ is that table."""

from pathlib import Path

import pytest

from prefopt.cli.data_formats import main
from prefopt.data.adapters import REGISTRY

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_page_is_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text("utf-8"), "prefopt data formats --markdown > docs/formats.md"


def test_every_format_is_listed_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines if line and not line.startswith(" ")} >= set(REGISTRY)
