"""What a comparison keeps of the code that its plan names, so that a report is made without running that code again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...utils import files, secrets
from ...utils.extensions import importing_nothing
from ...utils.fingerprint import fingerprint_of_values
from .sections import PlanError

FILE = "imported.json"
AGAIN = "--report_only imports nothing, and no run in this folder has kept what the report needs: run it without"

Kept = Mapping[str, Any]


@dataclass
class Imported:
    """What is kept, by hashes of what the plan says."""

    methods: dict[str, Kept] = field(default_factory=dict)
    judges: dict[str, Kept] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Imported:
        """What runs in a folder have kept; nothing, where there is none."""
        path = folder / FILE
        return cls(**json.loads(path.read_text("utf-8"))) if path.is_file() else cls()

    def write(self, folder: Path) -> None:
        kept = secrets.without_secrets({"methods": self.methods, "judges": self.judges})
        files.replace(folder / FILE, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")

    def method(self, name: str, method: str, settings: Kept, common: Kept) -> Kept:
        """What is kept of a method.

        Raises:
            PlanError: nothing is.
        """
        kept = self.methods.get(method_key(name, method, settings, common))
        if kept is None:
            raise PlanError(f"methods: {name}: {method}: {AGAIN}")
        return kept

    def judge(self, spec: str, tolerance: float, name: str) -> Kept:
        """What is kept of a judge.

        Raises:
            PlanError: nothing is.
        """
        kept = self.judges.get(judge_key(spec, tolerance, name))
        if kept is None:
            raise PlanError(f"judges: {spec}: {AGAIN}")
        return kept


def method_key(name: str, method: str, settings: Kept, common: Kept) -> str:
    """By which a method is found again, whose code is not to be imported: a fingerprint of what the plan says of it."""
    return fingerprint_of_values([name, method, secrets.without_named([dict(settings), dict(common)])])


def judge_key(spec: str, tolerance: float, name: str) -> str:
    """By which a judge is found again, whose code is not to be imported: a fingerprint of what the plan says of it."""
    return fingerprint_of_values([spec, tolerance, name])


_current: ContextVar[Imported | None] = ContextVar("imported", default=None)


def kept_imports() -> Imported | None:
    """What stands in for the plan's code, None where that is imported."""
    return _current.get()


@contextmanager
def instead_of_imports(folder: Path) -> Iterator[None]:
    """Import none of the code that a plan names: what runs in the folder have kept stands in for it."""
    token = _current.set(Imported.read(folder))
    try:
        with importing_nothing("a report of what is done needs no code of the plan's"):
            yield
    finally:
        _current.reset(token)
