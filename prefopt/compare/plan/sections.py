"""A section of a plan, as YAML holds it, into a frozen dataclass; whatever is wrong becomes a `PlanError`."""

from __future__ import annotations

from typing import Any, TypeVar

from ...utils import settings

T = TypeVar("T")


class PlanError(ValueError):
    """A plan that cannot be carried out; the message says where and what to write instead."""


def built(kind: type[T], given: Any, where: str) -> T:
    """The dataclass of this kind whose fields are given.

    Raises:
        PlanError: no mapping, an unknown or missing key, or a value of another type.
    """
    try:
        return settings.built(kind, given, where)
    except settings.SettingsError as error:
        raise PlanError(str(error)) from error
