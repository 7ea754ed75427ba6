"""The final model is whole or absent, whatever stops its saving, and damage of a checkpoint is found in each file."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.training import checkpoint, final_model
from prefopt.utils import files
from tests.helpers.checkpoints import LORA, assert_equal, build, saved, weights
from tests.helpers.processes import completed

FULL = OSError(errno.ENOSPC, "No space left on device")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def loadable(folder: Path) -> bool:
    """Whether there is a model: a config, which everything that loads one looks for first."""
    return any((folder / name).is_file() for name in final_model.CONFIGS)


# ---- the final model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    trainer = build(tmp_path_factory.mktemp("trained"), save_strategy="no", max_steps=1)
    trainer.train()
    return trainer


@pytest.mark.parametrize("at", range(0, 9))
@pytest.mark.parametrize("there", ["nothing", "an earlier model"])
def test_killed_while_files_are_renamed(at: int, there: str, trained: Any, tmp_path: Path) -> None:
    """Each rename in turn: in another process, which ends there at once."""
    folder = tmp_path / "model"
    if there != "nothing":
        trained.save_model(str(folder))
        (folder / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier one")
        (folder / "notes.txt").write_text("a user's")
    whole = tmp_path / "whole"
    trained.save_model(str(whole))
    child = os.fork()
    if child == 0:
        renames = iter(range(100))

        def replace(source: Any, target: Any) -> None:
            if next(renames) == at:
                os._exit(9)
            os.rename(source, target)

        room = SimpleNamespace(**vars(os) | {"replace": replace})
        with mock.patch.object(final_model, "os", room):
            trained.save_model(str(folder))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 9:
        assert not loadable(folder)
    else:
        assert status == 0 and loadable(folder)
    trained.save_model(str(folder))
    found = bytes_of(folder)
    assert (found.pop("notes.txt", b"") != b"") == (there != "nothing")
    assert found == bytes_of(whole)


def failing(count: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """A function that fails at its n-th call, as on a full disk."""
    calls = iter(range(1000))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == count:
            raise OSError(*FULL.args)
        return real(*args, **kwargs)

    return call


@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_a_disk_that_is_full_at_any_flush_leaves_the_earlier_model(count: int, trained: Any, tmp_path: Path) -> None:
    trained.save_model(str(tmp_path))
    before = bytes_of(tmp_path)
    with (
        mock.patch.object(final_model, "flush", failing(count, files.flush)),
        pytest.raises(
            OSError, match=r"could not write .*No space.*at least [\d,]+ bytes are needed, [\d,]+ are free.*"
        ),
    ):
        trained.save_model(str(tmp_path))
    assert bytes_of(tmp_path) == before


def test_a_full_disk_names_the_file_that_was_being_written(trained: Any, tmp_path: Path) -> None:
    def half(tensors: Any, file: Any, **_: Any) -> None:
        Path(file).write_bytes(b"\0" * 1000)
        raise SafetensorError("IoError: No space left on device")

    with (
        mock.patch("transformers.modeling_utils.safe_save_file", half),
        pytest.raises(OSError, match=r"could not write .*out/model.safetensors .*No space left.*untouched"),
    ):
        trained.save_model(str(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())
    trained.save_model(str(tmp_path / "out"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    AutoTokenizer.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "training_args.bin"])
@pytest.mark.parametrize("target", ["/dev/full", "nowhere/at/all"])
def test_a_file_that_cannot_be_written_or_opened_is_named_whatever_library_writes_it(
    name: str, target: str, trained: Any, tmp_path: Path
) -> None:
    """Python, tokenizers and torch say it in their own ways, and some without a name."""

    def make(folder: Path) -> None:
        files.make_folder(folder)
        if folder == final_model.staged(tmp_path / "out"):
            (folder / name).symlink_to(target)

    with mock.patch.object(final_model, "make_folder", make), pytest.raises(OSError) as caught:
        trained.save_model(str(tmp_path / "out"))
    assert str(caught.value).startswith(f"could not write {tmp_path / 'out' / name} (")
    assert not list((tmp_path / "out").iterdir())


def test_a_kill_behind_the_last_checkpoint_only_saves(tmp_path: Path) -> None:
    build(tmp_path).train()
    whole = bytes_of(tmp_path / "run" / "checkpoint-6")
    trainer = build(tmp_path)
    trainer.train(resume_from_checkpoint="auto")
    trainer.save_model()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == whole["model.safetensors"]


def test_metrics_and_state_are_whole_or_absent(trained: Any) -> None:
    folder = Path(trained.args.output_dir)
    trained.save_metrics("train", {"train_loss": 0.5})
    trained.save_metrics("eval", {"eval_loss": 0.25})
    trained.save_state()
    before = bytes_of(folder)
    assert '"train_loss": 0.5' in before["all_results.json"].decode()
    assert '"eval_loss": 0.25' in before["all_results.json"].decode() and "trainer_state.json" in before
    for act in (trained.save_state, lambda: trained.save_metrics("eval", {"eval_loss": 1.0})):
        with mock.patch.object(files.os, "fsync", side_effect=FULL), pytest.raises(OSError, match="No space left"):
            act()
    assert bytes_of(folder) == before


# ---- damage of a checkpoint ----------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(data)


def zero(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def rename_a_tensor(path: Path) -> None:
    """One letter of a name in the header, which leaves the file's size."""
    path.write_bytes(path.read_bytes().replace(b"embed_tokens", b"embed_tokenz", 1))


def other_runs(path: Path) -> None:
    """A file of the same size, of another checkpoint."""
    shutil.copy(path.parent.parent / "checkpoint-4" / path.name, path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    build(folder).train()
    return folder / "run"


NAMES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json")
NAMES += ("prefopt_state.safetensors", "training_args.bin", "tokenizer.json", checkpoint.MANIFEST)


@pytest.mark.parametrize("damage", [flip, zero, Path.unlink])
@pytest.mark.parametrize("name", NAMES)
def test_damage_of_each_file_is_found(damage: Callable[[Path], Any], name: str, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    damage(run / "checkpoint-6" / name)
    assert checkpoint.newest(run) == run / "checkpoint-4"
    assert name in str(checkpoint.problem_with(run / "checkpoint-6", thorough=True))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (flip, "model.safetensors"),
        (flip, "optimizer.pt"),
        (zero, "scheduler.pt"),
        (rename_a_tensor, "model.safetensors"),
        (other_runs, "scheduler.pt"),
        (other_runs, "model.safetensors"),
    ],
)
def test_a_run_goes_on_from_the_newest_whole_checkpoint(
    damage: Callable[[Path], Any], name: str, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoint-6" / name)
    trainer, whole = build(tmp_path), load_file(finished / "checkpoint-6" / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=True)
    assert f"checkpoint-6: {name} is damaged: its content is not what was written" in caplog.text
    assert_equal({key: weights(trainer)[key] for key in whole}, whole)
    assert load_file(tmp_path / "run/checkpoint-6/model.safetensors").keys() == whole.keys()


@pytest.mark.parametrize("peft_config", [None, LORA])
def test_a_missing_tensor_is_an_error_where_no_hash_tells(peft_config: LoraConfig | None, tmp_path: Path) -> None:
    build(tmp_path, peft_config=peft_config, save_steps=4).train()
    folder = tmp_path / "run" / "checkpoint-4"
    (path,) = folder.glob("*model.safetensors")
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[f"{name[:-1]}z"] = tensors.pop(name)
    save_file(tensors, path, metadata={"format": "pt"})
    (folder / checkpoint.MANIFEST).unlink()
    with pytest.raises(ValueError, match=f"{name.replace('.default', '')}.*take another checkpoint"):
        build(tmp_path / "b", peft_config=peft_config).train(resume_from_checkpoint=str(folder))


def test_a_sharded_model_gives_way_to_one_file(trained: Any, tmp_path: Path) -> None:
    trained.model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    trained.save_model(str(tmp_path))
    assert [p.name for p in tmp_path.glob("model*")] == ["model.safetensors"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.get_input_embeddings().weight, trained.model.get_input_embeddings().weight)


@pytest.mark.slow
def test_two_ranks_resume_one_lock_and_one_damage(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole")
    whole.train()
    build(tmp_path / "split").train()
    for step in (4, 6):
        shutil.rmtree(tmp_path / "split/run" / f"checkpoint-{step}")
    completed(2, "tests.helpers.programs.resume_ranks", str(tmp_path))
    assert sorted(p.name for p in tmp_path.glob("rank*")) == ["rank-0-of-2", "rank-1-of-2"]
    assert saved(tmp_path / "split") == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    found, expected = load_file(tmp_path / "final/model.safetensors"), weights(whole)
    assert all(torch.allclose(tensor, expected[name], atol=1e-5) for name, tensor in found.items()) and found
