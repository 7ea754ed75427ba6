"""Tiny tokenizers, trained on a few lines, with and without a chat template; and rows written to files."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.helpers.tokenizers import CHATML, LLAMA2, make_tokenizer


@pytest.fixture(scope="session")
def plain() -> PreTrainedTokenizerFast:
    """No chat template, no BOS."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def plain_bos() -> PreTrainedTokenizerFast:
    """No chat template; the tokenizer begins texts with BOS."""
    return make_tokenizer(add_bos=True)


@pytest.fixture(scope="session")
def chatml() -> PreTrainedTokenizerFast:
    """A ChatML template whose end of turn is the EOS."""
    return make_tokenizer(CHATML, eos="<|im_end|>")


@pytest.fixture(scope="session")
def llama2() -> PreTrainedTokenizerFast:
    """Llama 2's template, which writes its own BOS and a space around answers."""
    return make_tokenizer(LLAMA2, add_bos=True)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a file by its suffix: .jsonl, .jsonl.gz or .json."""

    def writing(rows: Iterable[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
        return path

    return writing
