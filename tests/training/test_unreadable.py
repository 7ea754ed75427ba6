"""Files of a checkpoint that cannot be loaded: a sentence names the file, and nothing in it is run."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch

from prefopt.training.checkpoint import MANIFEST
from tests.helpers.checkpoints import build


class Marks:
    """A pickle that would write a file when it is opened."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.place,)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without a manifest, so that nothing but loading it tells what is wrong."""
    folder = tmp_path_factory.mktemp("saved")
    build(folder, save_steps=1, max_steps=1).train()
    checkpoint = folder / "run/checkpoint-1"
    (checkpoint / MANIFEST).unlink()
    return checkpoint


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("kind", ["zeroed", "cut", "code", "other"])
def test_the_file_is_named_and_no_code_runs(name: str, kind: str, saved: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(saved, tmp_path / "checkpoint-1"))
    path, ran = checkpoint / name, tmp_path / "ran"
    whole = path.read_bytes()
    if kind == "zeroed":
        path.write_bytes(bytes(len(whole)))
    elif kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "code":
        path.write_bytes(pickle.dumps(Marks(ran)))
    else:
        torch.save({"unrelated": 1}, path)
    trainer = build(tmp_path / "again", max_steps=2)
    with pytest.raises(ValueError, match="resume from another checkpoint") as caught:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert name in str(caught.value) and "\n" not in str(caught.value) and not ran.exists()
    assert ("does not fit this run" in str(caught.value)) == (kind == "other")


def test_a_sound_checkpoint_is_loaded(saved: Path, tmp_path: Path) -> None:
    trainer = build(tmp_path, max_steps=2)
    trainer.train(resume_from_checkpoint=str(saved))
    assert trainer.state.global_step == 2
