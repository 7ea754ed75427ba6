"""Run by itself on a folder: runs that are killed at a moment of their second save, or run out of disk.

Each run has a folder of its own, with its exit code in `status`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from transformers import Trainer

from prefopt import PreferenceTrainer
from prefopt.testbed.model import build_tokenizer
from prefopt.training import checkpoint
from tests.helpers.checkpoints import build


def die(*_: Any, **__: Any) -> None:
    """What a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_step_four(trainer: PreferenceTrainer, act: Callable[..., Any], instead_of: Callable[..., Any]) -> Any:
    """`act` in the place of a function, from the fourth step on."""
    return lambda *args, **kwargs: (act if trainer.state.global_step == 4 else instead_of)(*args, **kwargs)


def half_a_file(tensors: Any, file: Any, **_: Any) -> None:
    Path(file).write_bytes(b"\0" * 1000)
    die()


def at_the_parent(path: Path) -> None:
    if path.name == "run":
        die()


def at_the_manifest(path: Path) -> None:
    if path.name == checkpoint.MANIFEST:
        die()


def moment(trainer: PreferenceTrainer, name: str) -> Any:
    """The patch that kills the run at this moment of its second save."""
    where: dict[str, tuple[str, Callable[..., Any]]] = {
        "while the model is written": ("transformers.modeling_utils.safe_save_file", half_a_file),
        "after the model": ("transformers.Trainer._save_optimizer_and_scheduler", die),
        "after the optimizer": ("transformers.Trainer._save_rng_state", die),
        "before the manifest": ("prefopt.training.checkpoint.publish", die),
        "while files are flushed": ("prefopt.training.checkpoint.flush", die),
        "after the manifest": ("prefopt.training.checkpoint.flush", at_the_manifest),
        "before the rename": ("prefopt.training.checkpoint.os.replace", die),
        "after the rename": ("prefopt.training.checkpoint.flush", at_the_parent),
        "before rotation": ("prefopt.training.checkpoint.rotate", die),
        "while rotating": ("prefopt.training.checkpoint.shutil.rmtree", die),
    }
    target, act = where[name]
    module, _, attribute = target.rpartition(".")
    owner: Any = {
        "transformers.Trainer": Trainer,
        "prefopt.training.checkpoint": checkpoint,
        "prefopt.training.checkpoint.os": os,
        "prefopt.training.checkpoint.shutil": shutil,
        "transformers.modeling_utils": sys.modules["transformers.modeling_utils"],
    }[module]
    if name in ("before the rename", "while rotating"):  # only in that room: everyone else uses these too
        room = SimpleNamespace(**vars(owner) | {attribute: at_step_four(trainer, act, getattr(owner, attribute))})
        return mock.patch.object(checkpoint, module.rpartition(".")[2], room)
    return mock.patch.object(owner, attribute, at_step_four(trainer, act, getattr(owner, attribute)))


MOMENTS = {
    "while the model is written": 2,
    "after the model": 2,
    "after the optimizer": 2,
    "before the manifest": 2,
    "while files are flushed": 2,
    "after the manifest": 2,
    "before the rename": 2,
    "after the rename": 4,
    "before rotation": 4,
    "while rotating": 4,
}
"""A moment of saving checkpoint-4, and the newest complete checkpoint that a run killed then leaves."""


def with_little_disk(folder: Path) -> None:
    """A run whose file system takes no file above 20 kB from the fourth step on."""
    import resource

    trainer = build(folder)
    real = trainer._save_checkpoint

    def save(*args: Any) -> None:
        if trainer.state.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        real(*args)

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with mock.patch.object(trainer, "_save_checkpoint", save):
        try:
            trainer.train()
        except Exception as error:  # whatever it is, the test reads which
            (folder / "error").write_text(f"{type(error).__name__}: {error}")


def dying_runs(root: Path) -> None:
    """One child per moment; the parent has loaded what takes long."""
    build_tokenizer()
    for name in MOMENTS:
        if os.fork() == 0:
            trainer = build(root / name, save_total_limit=1 if "rotati" in name else None)
            with moment(trainer, name):
                trainer.train()
            os._exit(0)
        _, status = os.wait()
        (root / name / "status").write_text(str(os.waitstatus_to_exitcode(status)))
    if os.fork() == 0:
        with_little_disk(root / "disk")
        os._exit(0)
    os.wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    dying_runs(Path(sys.argv[1]))
