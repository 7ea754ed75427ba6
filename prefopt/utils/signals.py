"""Signals that ask a program to end: SIGTERM, SIGHUP and Ctrl-C wait for a good moment, and end it with their status.

    with listening(grace=30) as signals:   # what is done inside ends at once, by `Interrupted`, at any point
        with signals.deferred():           # what is done in here ends where the block does, or where `check` is called
            ...

Whatever waits, waits for `grace` seconds at most; then, and at a second signal, the process ends where it stands, with
the same status. Processes that were started together end together (`peers.py`): until they have met, nothing ends at
once. A thread sees to that: handlers in Python run only between two operations of the main thread, of which
one may hang in compiled code, as when another rank is gone.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from . import peers

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name))
STREAMS = (1, 2)
"""Standard output and standard error."""
GRACE = 30.0
"""Seconds between a signal and the end, where nothing else is said."""
MEETING = 5.0
"""Seconds that processes which could end at once wait for the others, so as to end with them."""
TICK = 0.2
"""Seconds after which it is looked again how long a signal may wait."""
ECHO = 1.0
"""Seconds within which a signal is the first one again: launchers pass on what a whole group of processes was sent."""
DEFAULT = (signal.SIG_DFL, signal.default_int_handler)
"""Handlers that may be replaced: who ignores a signal (nohup), or handles it, wants it so."""


class Interrupted(SystemExit):
    """A signal asked the program to end, and it did what it could. Uncaught, it ends Python with the signal's status.

    Args:
        signum: the number of the signal.
        message: what has become of the work, and how to go on with it.
    """

    def __init__(self, signum: int, message: str = ""):
        super().__init__(signum, message)
        self.signum, self.message = signum, message
        self.code = status_of(signum)

    def __str__(self) -> str:
        return self.message or f"interrupted by {name_of(self.signum)}"


class InterruptedByKeyboard(Interrupted, KeyboardInterrupt):
    """As `Interrupted`, of Ctrl-C."""


def interrupted(signum: int, message: str = "") -> Interrupted:
    """The exception that a signal leads to."""
    return (InterruptedByKeyboard if signum == signal.SIGINT else Interrupted)(signum, message)


def status_of(signum: int) -> int:
    """The exit status of a program that a signal has ended, as shells have it: 143, 129, 130."""
    return 128 + signum


def _asked(signum: int) -> int:
    """The signal that asks a process to end when this one comes."""
    return int(signal.SIGTERM) if signum == peers.TOLD else signum


def name_of(signum: int) -> str:
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


class Listener:
    """What signals have asked of this process since it listens. One that does not listen is never asked.

    Args:
        grace: seconds between a signal and the end; None is for whoever works inside to say.
    """

    def __init__(self, grace: float | None = None):
        self.terminals = [stream for stream in STREAMS if os.isatty(stream)]
        self.grace = grace
        self.signum: int | None = None
        """The first signal that came."""
        self.closed = False
        """Whether it only notes what still comes: nothing ends at once any more."""
        self._deferred = [False]

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let signals wait for the end of the block, which then raises `Interrupted`, or for `check`."""
        with self._mode(True):
            yield

    @contextmanager
    def at_once(self, possible: bool = True) -> Iterator[None]:
        """Let signals end the block at any point, if that is `possible`: of what it does, nothing can be torn."""
        with self._mode(not possible):
            self.check(possible)
            yield

    @contextmanager
    def _mode(self, deferred: bool) -> Iterator[None]:
        self._deferred.append(deferred)
        try:
            yield
        finally:
            self._deferred.pop()
        self.check(not deferred or self.ends_at_once)

    @property
    def ends_at_once(self) -> bool:
        """Whether a signal may end this process at any point."""
        return not self._deferred[-1] and peers.met()

    @property
    def left(self) -> float:
        """Seconds that a signal may wait."""
        grace = GRACE if self.grace is None else self.grace
        return grace if self._deferred[-1] or peers.met() else min(grace, MEETING)

    def meet(self) -> None:
        """Get to know the processes that were started with this one, once; all of them have to call it."""
        if (signum := peers.meet(self.signum)) is not None:
            self.note(signum)
        self.check(self.ends_at_once)

    def check(self, wanted: bool = True) -> None:
        """Raise `Interrupted` if a signal has come."""
        if wanted and self.signum is not None:
            self.closed = True
            raise interrupted(self.signum)

    def note(self, signum: int) -> None:
        """A signal has come, to this process or to another rank."""
        if self.signum is None:
            self.signum = signum

    def _handle(self, signum: int, frame: Any) -> None:
        self.note(_asked(signum))
        _leave_terminal(self.terminals)
        if self.ends_at_once and not self.closed:
            if signum != peers.TOLD:
                peers.tell()
            self.check()


class _Installed:
    """The handlers and the thread of a listener."""

    def __init__(self, listener: Listener):
        self.listener = listener
        self.mask: set[int] | None = None
        """What was blocked before a fork that is under way."""
        heard = SIGNALS if peers.TOLD is None else (*SIGNALS, peers.TOLD)
        self.before = {each: signal.getsignal(each) for each in heard if signal.getsignal(each) in DEFAULT}
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.wakeup = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        self.thread = threading.Thread(target=self._watch, name="prefopt-signals", daemon=True)
        self.thread.start()
        for each in self.before:
            signal.signal(each, listener._handle)

    def remove(self) -> None:
        for each, handler in self.before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(self.wakeup)
        os.write(self.writer, b"\0")
        self.thread.join(1.0)
        if not self.thread.is_alive():
            os.close(self.reader)
            os.close(self.writer)

    def remove_in_child(self) -> None:
        """A process that is forked meanwhile has no thread; its parent says when it ends, by the same signals."""
        signal.set_wakeup_fd(-1)
        for each, handler in self.before.items():
            signal.signal(each, signal.SIG_IGN if each == signal.SIGINT else handler)

    def _watch(self) -> None:
        asked: float | None = None
        while True:
            if asked is not None and time.monotonic() > asked + self.listener.left:
                self._leave(f"not done within {self.listener.left:g} s (signal_grace)")
            if not select.select([self.reader], [], [], None if asked is None else TICK)[0]:
                continue
            for signum in os.read(self.reader, 64):
                if signum == 0:
                    return
                if signum not in self.before:
                    continue
                if asked is None:
                    asked = time.monotonic()
                    self.listener.note(_asked(signum))
                    name, left = name_of(_asked(signum)), self.listener.left
                    say(f"{name}: ending, within {left:g} s; a second signal ends this at once")
                elif time.monotonic() - asked > ECHO and signum != peers.TOLD:
                    self._leave("a second signal")

    def _leave(self, why: str) -> None:
        assert self.listener.signum is not None
        peers.tell()  # they would fail for want of this one
        text = f"{name_of(self.listener.signum)}: {why}: this ends where it stands; what was on disk before stays"
        saying = threading.Thread(target=say, args=(text,), daemon=True)  # nobody may be reading
        saying.start()
        saying.join(1.0)
        os._exit(status_of(self.listener.signum))


_active: _Installed | None = None


@contextmanager
def listening(grace: float | None = None, end: Callable[[Interrupted], None] | None = None) -> Iterator[Listener]:
    """Listen for signals while the block runs; inside another such block, go on with that one's listener.

    Only the main thread of a process can listen; in another one nothing changes.

    Args:
        grace: see `Listener`; that of the outermost block counts that says one.
        end: is told, by the outermost block, of the `Interrupted` with which it ends.
    """
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield Listener()
        return
    if _active is not None:
        listener = _active.listener
        before, listener.grace = listener.grace, grace if listener.grace is None else listener.grace
        yield listener
        listener.grace = before
        return
    listener = Listener(grace)
    _active = installed = _Installed(listener)
    try:
        try:
            yield listener
        finally:
            listener.closed, _active = True, None
            installed.remove()
        listener.check()
    except Interrupted as ending:
        if end is not None:
            end(ending)
        raise
    except Exception as error:  # which may come of the end of another process
        if listener.signum is None:
            raise
        raise interrupted(listener.signum, f"Interrupted by {name_of(listener.signum)}: {error}") from error


def listener() -> Listener:
    """That of the block which listens around here, if one does."""
    inside = _active is not None and threading.current_thread() is threading.main_thread()
    return _active.listener if inside and _active is not None else Listener()


def say(text: str) -> None:
    """Write a line to standard error, from the first of several processes; where no one is left to read it, for all."""
    try:
        os.write(2, f"{text}\n".encode() if os.environ.get("RANK", "0") == "0" else b"")
    except OSError:  # the terminal has hung up, or the pipe is closed
        _silence(STREAMS)


def _leave_terminal(terminals: Sequence[int]) -> None:
    """Write no more to terminals that have hung up, as before a SIGHUP."""
    _silence([stream for stream in terminals if not os.isatty(stream)])


def _silence(streams: Iterable[int]) -> None:
    """What is written to these streams from here on goes nowhere, and must not fail."""
    with suppress(OSError), open(os.devnull, "wb") as nothing:
        for stream in streams:
            os.dup2(nothing.fileno(), stream)


def _before_fork() -> None:
    """Hold signals back until the new process has its own handlers: it shares the pipe by which the thread is told."""
    if _active is not None and hasattr(signal, "pthread_sigmask"):
        _active.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    if _active is not None and _active.mask is not None:
        mask, _active.mask = _active.mask, None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    global _active
    if _active is not None:
        _active.remove_in_child()
        _after_fork()
        _active = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
