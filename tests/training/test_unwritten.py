"""Where a write fails, the message names the file that was being written: by its error, or by what was open."""

from __future__ import annotations

import builtins
import errno
import io
from pathlib import Path
from typing import Any

import pytest

from prefopt.testbed.model import build_tokenizer
from prefopt.training.unwritten import not_written

TEMPLATE = "chat_template.jinja"


class Full(io.FileIO):
    """A file that takes no byte."""

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_template_of_a_tokenizer_is_named_and_not_a_folder_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers knows of a second path in the same function: of named templates, of which there are none."""
    staged, as_it_is = tmp_path / "model.staging", builtins.open
    staged.mkdir()

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        full = str(path).endswith(TEMPLATE) and "w" in mode
        return Full(path, "w") if full else as_it_is(path, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", opened)
    with pytest.raises(OSError, match="No space left") as caught:
        build_tokenizer().save_pretrained(staged)
    message = not_written(caught.value, tmp_path / "model", staged)
    assert message.startswith(f"could not write {tmp_path / 'model' / TEMPLATE} (")
