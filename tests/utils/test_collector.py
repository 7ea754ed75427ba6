"""The collector of cycles pauses for as long as it is asked to, and is afterwards as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from prefopt.utils.collector import collector_paused


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    yield
    gc.enable()


def test_it_pauses_and_goes_on_also_after_an_error() -> None:
    with pytest.raises(KeyError), collector_paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_within_another_pause_it_stays_paused() -> None:
    @collector_paused()
    def work() -> bool:
        return gc.isenabled()

    with collector_paused():
        assert not work()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()
