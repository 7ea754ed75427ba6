"""The other processes of a run: a signal that ends one of them ends those on the same computer too.

A launcher sends a signal to all. Where it reaches one alone, the others would fail in their next exchange with it, and
end with a status that says nothing of a signal. So processes that were started together tell one another who they are
(`meet`), and one that leaves says so (`tell`): by a signal of its own, which nobody dies of who does not listen.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""How many processes torchrun or MPI started, as accelerate reads it."""

TOLD = getattr(signal, "SIGURG", None)
"""Says that another process was asked to end, by SIGTERM in most cases. It is ignored by default (signal(7))."""

_others: list[Callable[[int], object]] | None = None
"""Each sends a signal to a process; None until these are known."""


def started(environment: Mapping[str, str] | None = None) -> int:
    """How many processes a launcher has started together, 0 where it does not say."""
    environment = os.environ if environment is None else environment
    return max((int(environment[name]) for name in SIZES if environment.get(name, "").isdecimal()), default=0)


def met() -> bool:
    """Whether this process knows the others, if there are any."""
    return _others is not None or started() < 2


def meet(signum: int | None = None) -> int | None:
    """Get to know the others, once; every process has to call it.

    Args:
        signum: the signal that has come here.

    Returns:
        one that has come to any of them.
    """
    global _others
    from .distributed import gathered, rank

    if _others is not None:
        return signum
    places = gathered((_place(), os.getpid(), signum))
    place = places[rank()][0]
    pids = [pid for where, pid, _ in places if where == place and pid != os.getpid()]
    _others = [_sender(pid) for pid in pids]
    return max((number for _, _, number in places if number), default=None)


def tell() -> None:
    """Tell the others on this computer that this one was asked to end."""
    for send in _others or ():
        if TOLD is not None:
            with suppress(OSError):  # it has ended
                send(TOLD)


def _place() -> tuple[str, str]:
    """The computer and the space in which a process number means this process, as in a container."""
    space = "/proc/self/ns/pid"
    return socket.gethostname(), os.readlink(space) if os.path.exists(space) else ""


def _sender(pid: int) -> Callable[[int], object]:
    """Sends to this very process: its number may be another's once it has ended."""
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):  # an old kernel, or one that forbids it
            return partial(signal.pidfd_send_signal, os.pidfd_open(pid))
    return partial(os.kill, pid)
