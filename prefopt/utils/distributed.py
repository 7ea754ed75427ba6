"""Values that the processes of a run share: those of all of them (`gathered`), or of the first (`on_first`).

With one process each function returns at once. With several, all of them have to call it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import distributed


def rank() -> int:
    """Which process this is, 0 where there is only one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks, in each of them. They have to be picklable."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def or_all_stop(make: Callable[[], Any]) -> Any:
    """What `make` returns here, once it has returned in every process: none waits for one that has failed.

    Raises:
        Exception: where `make` failed whatever it raises, elsewhere a RuntimeError that quotes it.
    """
    made, error = None, None
    try:
        made = make()
    except Exception as problem:
        error = problem
    failures = gathered(repr(error) if error else None)
    if error:
        raise error
    for number, failure in enumerate(failures):
        if failure:
            raise RuntimeError(f"process {number} of {len(failures)} failed: {failure}")
    return made


def made_by_all(make: Callable[[], Any]) -> list[Any]:
    """What every process makes, in the order of their ranks. An error of one stops them all."""
    return gathered(or_all_stop(make))


def of_first(value: Any) -> Any:
    """The first process's value, in all of them. The others wait for it."""
    if world_size() == 1:
        return value
    holder = [value]
    distributed.broadcast_object_list(holder)
    return holder[0]


def on_first(make: Callable[[], Any]) -> Any:
    """What `make` returns in the first process, which alone calls it, in all of them.

    Raises:
        Exception: in the first process whatever `make` raises, in the others a RuntimeError that quotes it: they would
            wait for ever otherwise.
    """
    made, error = None, None
    if rank() == 0:
        try:
            made = make()
        except Exception as problem:
            error = problem
    failed = of_first(repr(error) if error else None)
    if error:
        raise error
    if failed:
        raise RuntimeError(f"the first process failed: {failed}")
    return of_first(made)
