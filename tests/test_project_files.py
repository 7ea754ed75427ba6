"""What stands beside the package for those who work on it is true: contributing, changes, hooks, forms of reports."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import prefopt
from prefopt.cli.commands import all_commands

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_hooks_run_what_ci_runs() -> None:
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert re.findall(r"^make (\w+)$", read(".ci/run"), re.M)[:2] == ["lint", "types"]
    ran = re.findall(r"^\t\.venv/bin/(ruff \w+|mypy)", MAKEFILE, re.M)
    assert sorted(" ".join(hook["entry"].split()[:2]).removeprefix(".venv/bin/") for hook in hooks) == sorted(
        line.removesuffix(" --force-exclude") for line in ran
    )
    (folders,) = set(re.findall(r"ruff \w+(?: --check)? (.*)$", MAKEFILE, re.M))
    assert all(hook["files"] == f"^({'|'.join(folders.split())})/" for hook in hooks if "ruff" in hook["entry"])
    checked = tomllib.loads(read("pyproject.toml"))["tool"]["mypy"]["packages"]
    assert [hook["files"] for hook in hooks if "mypy" in hook["entry"]] == [f"^{package}/" for package in checked]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_is_named_is_there(name: str) -> None:
    text = read(name)
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    assert set(re.findall(r"^make ([a-z-]+)", text, re.M)) <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
    assert {command for command in re.findall(r"`prefopt ([a-z]+)", text)} <= set(all_commands())
    for module in re.findall(r"`python -m ([\w.]+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for path in re.findall(r"`((?:tests|prefopt|findings|examples)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path


def test_the_changes_begin_with_this_version_or_the_next() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", read("CHANGELOG.md"), re.M)
    assert versions == sorted(versions, reverse=True) and prefopt.__version__ in versions[:2]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_forms_of_reports_are_whole(path: Path) -> None:
    form: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) and all(part["attributes"]["label"] for part in form["body"])
    assert set(re.findall(r"`prefopt ([a-z]+)", path.read_text("utf-8"))) <= set(all_commands())
