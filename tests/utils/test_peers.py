"""Processes that were started together know of one another by their launcher, and a signal reaches them alone."""

from __future__ import annotations

import os
import signal
import time
from contextlib import nullcontext, suppress

import pytest

from prefopt.utils import peers
from prefopt.utils.signals import Interrupted, listening


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, 0), ({"WORLD_SIZE": "2"}, 2), ({"OMPI_COMM_WORLD_SIZE": "4"}, 4), ({"WORLD_SIZE": ""}, 0)],
)
def test_how_many_a_launcher_has_started(environment: dict[str, str], count: int) -> None:
    assert peers.started(environment) == count


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes were started that have not met."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(peers, "_others", None)


@pytest.mark.usefixtures("strangers")
def test_nothing_ends_at_once_before_they_have_met() -> None:
    done = []
    with pytest.raises(Interrupted), listening() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("went on")
        assert signals.left <= 5.0
        with signals.deferred():
            assert signals.left == 30.0
    assert done == ["went on"]


@pytest.mark.usefixtures("strangers")
def test_whoever_is_ended_at_once_ends_the_others_that_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here two others, of which one does not listen; that one goes on."""
    ready, children = os.pipe(), []
    for listens in (True, False):
        if (child := os.fork()) == 0:
            peers._others = []
            with suppress(Interrupted), listening() if listens else nullcontext():
                os.write(ready[1], b".")
                time.sleep(0.0 if listens else 0.5)
                os._exit(status_if_ended(listens))
            os._exit(143)
        children.append(child)
    assert len(os.read(ready[0], 1) + os.read(ready[0], 1)) == 2
    monkeypatch.setattr(peers, "_others", [peers._sender(child) for child in children])
    with pytest.raises(Interrupted), listening():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [143, 0]
    peers.tell()  # nobody is there any more


def status_if_ended(listens: bool) -> int:
    if listens:
        signal.pause()
    return 0


def test_an_error_that_comes_of_the_end_of_another_has_the_signals_status() -> None:
    message = "Interrupted by SIGTERM: Connection closed by peer"
    with pytest.raises(Interrupted, match=message) as caught, listening() as signals, signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("Connection closed by peer")
    assert caught.value.code == 143
    with pytest.raises(RuntimeError, match="of its own"), listening():
        raise RuntimeError("of its own")
