"""Signals wait for a good moment, not for ever, and end a program with their status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import prefopt
from prefopt.utils.signals import Interrupted, interrupted, listener, listening, status_of

STATUS = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}
"""128 and the signal's number, as a shell tells of a program that the signal has ended (POSIX, 2.8.2)."""


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = [signal.getsignal(getattr(signal, name)) for name in STATUS]
    yield
    assert [signal.getsignal(getattr(signal, name)) for name in STATUS] == before
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1


@pytest.mark.parametrize("name", STATUS)
def test_what_is_deferred_goes_on_to_its_end(name: str) -> None:
    done = []
    with pytest.raises(prefopt.Interrupted) as caught, listening() as signals, signals.deferred():
        send(name)
        done.append("the step")
    assert done == ["the step"]
    assert caught.value.code == STATUS[name] and isinstance(caught.value, SystemExit)
    assert isinstance(caught.value, KeyboardInterrupt) == (name == "SIGINT")


def test_elsewhere_a_signal_ends_the_block_at_once() -> None:
    done = []
    with pytest.raises(Interrupted), listening():
        send("SIGTERM")
        done.append("never")
    assert done == []


def test_a_part_of_what_is_deferred_may_end_at_once() -> None:
    done = []
    with pytest.raises(Interrupted), listening() as signals, signals.deferred():
        try:
            with signals.at_once():
                send("SIGTERM")
                done.append("never")
        except Interrupted:
            done.append("saved")
            raise
    with pytest.raises(Interrupted), listening() as signals, signals.deferred(), signals.at_once(possible=False):
        send("SIGTERM")
        done.append("went on")
    assert done == ["saved", "went on"]


def test_blocks_within_one_another_have_one_listener() -> None:
    ends: list[Interrupted] = []
    with pytest.raises(Interrupted), listening(7.0, ends.append) as outer, outer.deferred():
        with listening(3.0, lambda ending: pytest.fail("only the outermost is told")) as inner, inner.deferred():
            assert inner is outer is listener() and inner.grace == 7.0
            send("SIGTERM")
        ends.append(interrupted(signal.SIGHUP))  # the inner block does not end the outer one's work
    assert [ending.signum for ending in ends] == [signal.SIGHUP, signal.SIGTERM]
    with listening() as outer:
        with listening(3.0) as inner:
            assert inner.grace == 3.0
        assert outer.grace is None


def test_whoever_ignores_a_signal_or_handles_it_wants_it_so() -> None:
    """As under nohup, or in a program with a handler of its own."""
    seen: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda n, _: seen.append(n))
    try:
        with listening() as signals:
            send("SIGHUP")
            send("SIGTERM")
        assert signals.signum is None and seen == [signal.SIGTERM]
    finally:
        for name, handler in zip(("SIGHUP", "SIGTERM"), before, strict=True):
            signal.signal(getattr(signal, name), handler)


def test_only_the_main_thread_listens() -> None:
    found: list[object] = []

    def work() -> None:
        with listening() as signals, signals.deferred():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_process_that_is_forked_meanwhile_dies_of_a_signal_and_tells_nobody() -> None:
    with listening() as signals:
        if (child := os.fork()) == 0:
            try:
                signal.pause()
            finally:
                os._exit(0)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert signals.signum is None


def test_an_interruption_survives_another_process() -> None:
    import pickle

    for number in (signal.SIGTERM, signal.SIGINT):
        copy = pickle.loads(pickle.dumps(interrupted(number, "步骤 3")))
        assert type(copy) is type(interrupted(number)) and (str(copy), copy.code) == ("步骤 3", status_of(number))


PROGRAM = """
import os, signal, sys, time
from prefopt.utils.signals import listening
def send(name): os.kill(os.getpid(), getattr(signal, name))
with listening({grace}) as signals, signals.deferred():
    send("SIGTERM")
{rest}
    print("went on", flush=True)
"""
ENDINGS: dict[str, tuple[float, str, int, str]] = {
    "in time": (60, "", 143, "went on"),
    "not in time": (0.1, "    time.sleep(100)", 143, "not done within 0.1 s"),
    "told twice by a launcher": (60, "    send('SIGTERM'); send('SIGHUP')", 143, "went on"),
    "a second signal": (60, "    time.sleep(1.2); send('SIGINT'); time.sleep(100)", 143, "a second signal"),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_how_a_program_ends(case: str) -> None:
    grace, rest, status, said = ENDINGS[case]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(grace=grace, rest=rest)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status
    assert "SIGTERM: ending, within" in done.stderr and said in done.stdout + done.stderr
    assert ("went on" in done.stdout) == (said == "went on")


def test_a_terminal_that_hangs_up_fails_nothing_that_is_written_later() -> None:
    """The kernel sends SIGHUP, and every later write to the terminal is an error."""
    import pty

    code = PROGRAM.format(grace=60, rest="    print('步骤', flush=True)")
    code = code.replace('send("SIGTERM")', "print('ready', flush=True); signal.pause()")
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == STATUS["SIGHUP"]
