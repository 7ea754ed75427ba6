"""Fixtures and settings of every test; nothing here needs a network or a file of real data."""

from __future__ import annotations

import gc
import logging
import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from prefopt.testbed.model import build_tokenizer

pytest.register_assert_rewrite("tests.helpers")
torch.set_num_threads(1)
# How long an example takes says how busy the computer is, not whether the code is right.
too_slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("prefopt", deadline=None, suppress_health_check=too_slow)
hypothesis.settings.load_profile("prefopt")


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LEVELS = {name: logging.getLogger(name).level for name in ("prefopt", "transformers")}
"""Of logs, before any test."""
UNSUPPORTED = ("pack_vnni2 is only supported when avx512 is supported",)
"""What torch 2.13 says where ATEN_CPU_CAPABILITY=default takes the kernels of bfloat16 attention away."""


@pytest.fixture(scope="session")
def shared_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def tokenizer(shared_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return shared_tokenizer


@pytest.fixture(autouse=True)
def _the_tokenizer_stays(shared_tokenizer: PreTrainedTokenizerFast) -> Iterator[None]:
    """All tests share one tokenizer: with another pad token, say, the next test's random model is another one."""
    names = ("chat_template", "pad_token", "eos_token", "bos_token", "padding_side", "truncation_side")
    before = {name: getattr(shared_tokenizer, name) for name in names}, len(shared_tokenizer)
    yield
    after = {name: getattr(shared_tokenizer, name) for name in names}, len(shared_tokenizer)
    assert after == before, "build a tokenizer of the test's own"


def pytest_collection_finish() -> None:
    """What has been imported by now is not searched for garbage any more: each training searches once at its start."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip what torch itself cannot do on this processor, and says so."""
    try:
        return (yield)
    except RuntimeError as error:
        if str(error) in UNSUPPORTED:
            pytest.skip(f"torch: {error}")
        raise


@pytest.fixture(autouse=True)
def _same_process() -> Iterator[None]:
    """A command sets the levels of logs, and what signals do, which the next test must not notice."""
    for name, level in LEVELS.items():  # also of what a module's own fixtures ran
        logging.getLogger(name).setLevel(level)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precomputed log-probs of a test stay in the test."""
    monkeypatch.setenv("PREFOPT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def float64_all_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms, and the softmax of eager attention, go through float32 whatever the model's dtype: here they must not."""
    softmax, to, narrow = nn.functional.softmax, Tensor.to, Tensor.float

    def exact_softmax(x: Tensor, dim: int | None = None, dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
        return softmax(x, dim=dim, dtype=None if x.dtype == torch.float64 else dtype, **rest)

    def exact_to(x: Tensor, *args: Any, **rest: Any) -> Tensor:
        # not the buffer of rotary frequencies, [D] or [B, D, 1]
        hidden_or_weight = (x.dim() > 1 and x.shape[-1] > 1) or isinstance(x, nn.Parameter)
        narrows = x.dtype == torch.float64 and hidden_or_weight and torch.float32 in (*args, *rest.values())
        return x if narrows else to(x, *args, **rest)

    monkeypatch.setattr(nn.functional, "softmax", exact_softmax)
    monkeypatch.setattr(Tensor, "to", exact_to)
    monkeypatch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else narrow(x))
