"""A section of a plan, as YAML holds it, into a frozen dataclass; whatever is wrong becomes a `PlanError`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from ...objectives.engine_arguments import EngineArguments
from ...tasks.launched import command_of
from ...utils import settings
from ...utils.names import hint

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


def with_sections(given: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> dict[str, Any]:
    """The values of a plan, those of its sections as the dataclasses that these are.

    Raises:
        PlanError: something in a section cannot be; the message says where.
    """
    sections: dict[str, Any] = {
        name: built(kind, given[name], f"{where}: {name}")
        for name, kind in kinds.items()
        if isinstance(given.get(name), Mapping)
    }
    return {**given, **sections}


def check_launch(given: Any, names: Collection[str]) -> None:
    """Refuse a `launch` of which no stage could be started.

    Args:
        given: a launcher's command for all trainings, or one by the name of what is trained.

    Raises:
        PlanError: there is no such program, or nothing of such a name is trained.
    """
    commands = dict.fromkeys(names, given) if isinstance(given, str) else given
    if not isinstance(commands, Mapping) or not all(isinstance(command, str) for command in commands.values()):
        raise PlanError(f"launch: given {given!r}: write a command, or `name of a stage: command`, in one line each")
    for name, command in commands.items():
        if name not in names:
            raise PlanError(f"launch: nothing called {name!r} is trained{hint(str(name), names)}")
        try:
            command_of(command)
        except ValueError as error:
            raise PlanError(str(error)) from None


def engine_in(training: Mapping[str, Any], temperatures: Sequence[float]) -> dict[str, Any]:
    """Who samples responses, by a plan's settings for all trainings; nothing where that is prefopt itself.

    Args:
        temperatures: at which the plan samples, beside what its methods and rounds say themselves.

    Raises:
        PlanError: a setting that cannot be, or sampling that vLLM does not do.
    """
    given = {field.name: training[field.name] for field in fields(EngineArguments) if field.name in training}
    arguments = built(EngineArguments, given, "training")
    try:
        arguments.check_vllm("sampling", temperatures)
    except ValueError as error:
        raise PlanError(f"training: {error}") from error
    return given if arguments.use_vllm else {}


def read_values(path: str | Path, needed: str) -> dict[str, Any]:
    """The values of a plan in a YAML file.

    Args:
        needed: a sentence that says what a plan is, for messages.

    Raises:
        PlanError: it cannot be read, is no YAML, or empty.
    """
    try:
        given = settings.read_yaml(Path(path).expanduser(), settings.NumberLoader)
    except settings.SettingsError as error:
        raise PlanError(f"{error}. {needed}") from error
    if not given:
        raise PlanError(f"{path}: is empty. {needed}")
    return {name: value for name, (value, _) in given.items()}
