"""Tells which extra of prefopt to install where an optional package is missing."""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtra(ImportError, ValueError):
    """Packages of an extra are not installed; the message names the extra."""


def require(extra: str, packages: tuple[str, ...], what: str) -> None:
    """Check that packages of an extra are installed, without importing them.

    Args:
        extra: of prefopt, such as "compare".
        packages: the names by which they are imported.
        what: needs them, as the message says it.

    Raises:
        MissingExtra: one or more are not installed.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingExtra(f"{what} needs {' and '.join(missing)}: {install(extra)}")


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'prefopt[{extra}]'"
