"""A run that is killed, cut off or out of disk loses nothing it had saved, and goes on as if nothing had happened."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from torch import Tensor
from transformers import MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from prefopt import PreferenceTrainer
from prefopt.models.reference import AdapterCopy
from prefopt.objectives.dpo import DPO
from prefopt.objectives.sft import SFT
from prefopt.training import checkpoint
from tests.helpers.checkpoints import LORA, ROWS, assert_equal, build, by_tokens, logs, saved, weights
from tests.helpers.models import tiny_llama, tiny_mixtral
from tests.helpers.processes import TIMEOUT_S, completed
from tests.helpers.programs.dying_runs import MOMENTS

# ---- exact resume --------------------------------------------------------------------------------------------------


def continued() -> Any:
    """A model whose adapter has been trained already."""
    model = get_peft_model(tiny_llama(), LORA)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


ON_EXPERTS = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])

CASES: dict[str, tuple[int, Callable[[Path], PreferenceTrainer]]] = {
    "plain": (3, lambda f: build(f, save_steps=3)),
    "adapter": (3, lambda f: build(f, save_steps=3, peft_config=LORA)),
    "continued adapter": (3, lambda f: build(f, save_steps=3, model=continued())),
    "experts": (3, lambda f: build(f, save_steps=3, model=tiny_mixtral())),
    "experts, adapter": (3, lambda f: build(f, save_steps=3, model=tiny_mixtral(), peft_config=ON_EXPERTS)),
    "accumulation": (3, lambda f: build(f, save_steps=3, gradient_accumulation_steps=2)),
    "state": (3, lambda f: build(f, DPO(loss_type=["bco_pair"]), save_steps=3)),
    "state, accumulation and dropout": (
        2,
        lambda f: build(
            f,
            DPO(loss_type=["bco_pair"]),
            model=tiny_llama(attention_dropout=0.2),
            disable_dropout=False,
            gradient_accumulation_steps=2,
        ),
    ),
    "moving reference": (
        3,
        lambda f: build(f, save_steps=3, sync_ref_model=True, ref_model_sync_steps=2, ref_model_mixup_alpha=0.5),
    ),
    "precomputed reference": (3, lambda f: build(f, save_steps=3, precompute_ref_log_probs=True)),
    "middle of the second epoch": (8, lambda f: build(f, max_steps=-1, num_train_epochs=2, save_steps=8)),
    "end of the first epoch": (6, lambda f: build(f, max_steps=-1, num_train_epochs=2, save_steps=6)),
    "token budget": (3, lambda f: by_tokens(f, save_steps=3)),
    "token budget, accumulation, middle of the second epoch": (
        5,
        lambda f: by_tokens(f, max_steps=-1, num_train_epochs=2, save_steps=5, gradient_accumulation_steps=2),
    ),
    "token budget, end of the first epoch": (
        7,
        lambda f: by_tokens(f, max_steps=-1, num_train_epochs=2, save_steps=7),
    ),
    "dropout": (3, lambda f: build(f, save_steps=3, model=tiny_llama(attention_dropout=0.2), disable_dropout=False)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_equals_one_that_went_through(case: str, tmp_path: Path) -> None:
    step, make = CASES[case]
    whole, resumed = make(tmp_path / "whole"), make(tmp_path / "resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "run" / f"checkpoint-{step}"))
    assert resumed.state.global_step == whole.state.global_step > step
    assert_equal(weights(resumed), weights(whole))
    assert len(logs(whole, step)) >= 2 and logs(resumed) == logs(whole)
    assert_equal(resumed.step.state, whole.step.state)
    if case == "moving reference":
        assert_equal(dict(resumed.reference.model.state_dict()), dict(whole.reference.model.state_dict()))
        assert not torch.equal(resumed.reference.model.lm_head.weight, tiny_llama().lm_head.weight)
    if "state" in case:
        assert any(tensor.abs().max() > 0 for tensor in whole.step.state.values())
    assert (case == "continued adapter") == isinstance(whole.reference, AdapterCopy)


def test_orders_of_rows_depend_on_seed_and_epoch_only(tmp_path: Path) -> None:
    def orders(trainer: PreferenceTrainer) -> list[list[int]]:
        seen: list[list[int]] = []
        real = trainer.step.count

        def spy(batches: list[Any]) -> Any:
            seen.append([i for batch in batches for i in batch.index.tolist()])
            return real(batches)

        with mock.patch.object(trainer.step, "count", spy):
            trainer.train()
        half = len(seen) // 2
        return [sum(seen[:half], []), sum(seen[half:], [])]

    args = {"max_steps": -1, "num_train_epochs": 2, "save_strategy": "no"}
    first, second = orders(build(tmp_path, **args))
    torch.rand(17)  # whatever else draws random numbers
    assert orders(build(tmp_path, DPO(loss_type=["simpo"]), **args)) == [first, second]
    assert sorted(first) == sorted(second) == list(range(len(ROWS))) and first != second
    assert orders(build(tmp_path, seed=7, **args))[0] != first


def test_skipped_steps_are_still_counted_after_a_resume(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    trainer.step.guard.skipped = 2
    trainer.train()
    resumed = build(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert logs(resumed)[-1]["skipped_steps"] == 2


def test_all_of_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever loses power after the rename has every file, the names in its folder, and then the name itself."""
    staged, final = tmp_path / "staged", tmp_path / "checkpoint-1"
    (staged / "policy").mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(b"weights")
    (staged / "policy" / "config.json").write_text("{}")
    happened: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        happened.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        happened.append(("rename", str(source)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    checkpoint.publish(staged, final, {"format": 2})
    moment = happened.index(("rename", str(staged)))
    names = ("model.safetensors", "policy/config.json", "policy", checkpoint.MANIFEST, "")
    assert {path for what, path in happened[:moment]} == {str(staged / name) for name in names}
    assert happened[moment + 1 :] == [("sync", str(tmp_path))]
    assert checkpoint.problem_with(final) is None


# ---- runs that die -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the dying runs left; the first of pytest's workers that needs it lets them run, the others wait."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    root = tmp_path_factory.getbasetemp().parent / f"dead-{session}"
    try:
        root.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + TIMEOUT_S
        while not (root / "outcome").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
    else:
        try:
            completed(1, "tests.helpers.programs.dying_runs", str(root))
        except BaseException as error:
            (root / "outcome").write_text(f"{type(error).__name__}: {error}")
            raise
        (root / "outcome").write_text("done")
    assert (root / "outcome").read_text() == "done"
    return root


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    trainer = build(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return weights(trainer)


@pytest.mark.parametrize("name", MOMENTS)
def test_killed_while_saving(name: str, dead: Path, uninterrupted: dict[str, Tensor]) -> None:
    folder = dead / name
    assert (folder / "status").read_text() == str(-signal.SIGKILL)
    assert checkpoint.newest(folder / "run").name == f"checkpoint-{MOMENTS[name]}"
    trainer = build(folder)
    trainer.train(resume_from_checkpoint=True)
    assert logs(trainer)[0]["step"] == 1 and len(logs(trainer)) == 6
    assert_equal(weights(trainer), uninterrupted)
    assert not [name for name in saved(folder) if name.startswith(".")]


def test_a_disk_that_is_full(dead: Path, uninterrupted: dict[str, Tensor]) -> None:
    error = (dead / "disk" / "error").read_text()
    assert error.startswith("OSError: could not write ") and "checkpoint-4" in error and "untouched" in error
    assert saved(dead / "disk") == ["checkpoint-2"]
    trainer = build(dead / "disk")
    trainer.train(resume_from_checkpoint=True)
    assert_equal(weights(trainer), uninterrupted)


FAILURES = {
    "weights": ("transformers.modeling_utils.safe_save_file", SafetensorError("IoError: No space left on device")),
    "optimizer": ("torch.save", RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")),
    "state": ("transformers.TrainerState.save_to_json", OSError(28, "No space left on device")),
    "extras": ("prefopt.training.checkpointing.save_file", SafetensorError("IoError: No space left on device")),
    "publishing": ("prefopt.training.checkpoint.flush", OSError(5, "Input/output error")),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failed_write_is_an_error_that_leaves_what_was_there(what: str, tmp_path: Path) -> None:
    trainer = build(tmp_path, max_steps=2)
    trainer.train()
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    target, error = FAILURES[what]
    trainer = build(tmp_path, resume_with_changes=["max_steps"])
    with (
        mock.patch(target, side_effect=error),
        pytest.raises(OSError, match="could not write .*checkpoint-4") as caught,
    ):
        trainer.train(resume_from_checkpoint=True)
    assert str(error.args[-1]) in str(caught.value) and caught.value.__cause__ is error
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    assert saved(tmp_path) == ["checkpoint-2"]


@pytest.mark.slow
def test_a_resumed_run_on_two_ranks(tmp_path: Path) -> None:
    completed(2, "tests.helpers.programs.checkpoint_ranks", str(tmp_path))
    assert sorted(p.name for p in tmp_path.glob("rank*")) == ["rank-0-of-2", "rank-1-of-2"]
    names = {p.name for p in (tmp_path / "rows" / "whole" / "run" / "checkpoint-6").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", checkpoint.MANIFEST} <= names
    assert saved(tmp_path / "rows" / "whole") == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


# ---- which checkpoint ----------------------------------------------------------------------------------------------


def truncate(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, "model.safetensors has 100 bytes instead of"),
    "missing": (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "no manifest": (lambda folder: (folder / checkpoint.MANIFEST).unlink(), "no prefopt_manifest.json"),
    "half a manifest": (lambda folder: (folder / checkpoint.MANIFEST).write_text('{"files": {'), "damaged"),
    "another's manifest": (lambda folder: (folder / checkpoint.MANIFEST).write_text("[1]"), "damaged"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    build(folder).train()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be damaged."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path


def test_nothing_else_is_left_after_a_run(run: Path) -> None:
    assert saved(run) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, run: Path, uninterrupted: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    act, why = DAMAGES[damage]
    act(run / "run" / "checkpoint-6")
    (run / "run" / "checkpoint-99").mkdir()
    (run / "run" / "checkpoint-last").mkdir()
    (run / "run" / "checkpoint-100").write_text("not a folder")
    trainer = build(run)
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=True)
    said = [record.getMessage() for record in caplog.records if "not resuming" in record.getMessage()]
    assert len(said) == 2 and "checkpoint-99: no prefopt_manifest.json" in said[0]
    assert "checkpoint-6" in said[1] and why in said[1]
    assert len(logs(trainer)) == 6
    assert_equal(weights(trainer), uninterrupted)


@pytest.mark.parametrize("damage", ["truncated", "missing", "half a manifest"])
def test_a_damaged_checkpoint_that_is_named_is_an_error(damage: str, run: Path) -> None:
    act, why = DAMAGES[damage]
    act(run / "run" / "checkpoint-4")
    with pytest.raises(ValueError, match=f"checkpoint-4 is not complete .*{why}.*resume_from_checkpoint=True"):
        build(run).train(resume_from_checkpoint=str(run / "run" / "checkpoint-4"))


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no complete checkpoint.*no checkpoint-. folder"):
        build(tmp_path).train(resume_from_checkpoint=True)
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="checkpoint-3: no prefopt_manifest.json"):
        build(tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_without_optimizer_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(tmp_path, save_only_model=True).train()
    with caplog.at_level(logging.WARNING):
        build(tmp_path).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert "no optimizer state" in caplog.text


def qwen() -> Any:
    """A model of another family with as many weights."""
    llama = tiny_llama(attention_bias=True)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: getattr(llama.config, name) for name in (*names, "num_key_value_heads")}
    return Qwen2ForCausalLM(Qwen2Config(**sizes))


OTHERS: dict[str, tuple[Callable[[Path], PreferenceTrainer], str]] = {
    "family": (lambda f: build(f, model=qwen()), "model: 'LlamaForCausalLM' -> 'Qwen2ForCausalLM'"),
    "size": (lambda f: build(f, model=tiny_llama(intermediate_size=96)), "trained weights: "),
    "adapter": (lambda f: build(f, peft_config=LORA), r"adapter: \[\] -> \['LORA'\]"),
    "objective": (lambda f: build(f, DPO(beta=0.2)), r"objective.beta: 0.1 -> 0.2"),
    "method": (lambda f: build(f, SFT()), r"objective.name: .DPO. -> .SFT."),
    "accumulation": (lambda f: build(f, gradient_accumulation_steps=2), "gradient_accumulation_steps: 1 -> 2"),
    "batch": (lambda f: build(f, per_device_train_batch_size=4), "per_device_train_batch_size: 2 -> 4"),
    "budget": (lambda f: build(f, max_tokens_per_batch=45), "max_tokens_per_batch: None -> 45"),
    "seed": (lambda f: build(f, seed=1), "seed: 42 -> 1"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(other: str, finished: Path, tmp_path: Path) -> None:
    make, difference = OTHERS[other]
    trainer = make(tmp_path)
    with pytest.raises(ValueError, match=f"belongs to another run: .*{difference}"):
        trainer.train(resume_from_checkpoint=str(finished / "run" / "checkpoint-2"))
    assert trainer.state.global_step == 0


def test_another_number_of_processes_is_refused(finished: Path, tmp_path: Path) -> None:
    mine = build(tmp_path).checkpoints.describe_anew()
    checkpoint.check_resumable(finished / "run" / "checkpoint-2", mine)
    with pytest.raises(ValueError, match="processes: 1 -> 2"):
        checkpoint.check_resumable(finished / "run" / "checkpoint-2", mine | {"processes": 2})


def test_an_objective_that_prints_its_address_can_resume(tmp_path: Path) -> None:
    class Foreign(SFT):
        __repr__ = object.__repr__

    build(tmp_path, Foreign(), max_steps=2).train()
    kept = Foreign()  # so that the next one lives elsewhere
    assert kept is not None
    trainer = build(tmp_path, Foreign(), resume_with_changes=["max_steps"])
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 6


# ---- rotation and the best model -----------------------------------------------------------------------------------


def made(run_dir: Path, *steps: int) -> None:
    """Complete checkpoints, the newest with the oldest time."""
    for number, step in enumerate(steps):
        staged = run_dir / checkpoint.STAGING / f"checkpoint-{step}"
        staged.mkdir(parents=True)
        (staged / "weights").write_text("w")
        checkpoint.publish(staged, run_dir / staged.name, {})
        os.utime(run_dir / staged.name, (1e9 - number, 1e9 - number))
    shutil.rmtree(run_dir / checkpoint.STAGING)


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [2, 9, 10, 100]),
        (0, None, [2, 9, 10, 100]),
        (3, None, [9, 10, 100]),
        (1, None, [100]),
        (2, 2, [2, 100]),
        (1, 2, [2, 100]),
        (1, 100, [100]),
        (3, 9, [9, 10, 100]),
    ],
)
def test_rotation_goes_by_number(limit: int | None, best: int | None, left: list[int], tmp_path: Path) -> None:
    made(tmp_path, 2, 9, 10, 100)
    (tmp_path / "checkpoint-5").mkdir()  # not ours, so neither counted nor deleted
    checkpoint.rotate(tmp_path, limit, [str(tmp_path / f"checkpoint-{best}") if best else None])
    assert {p.name for p in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in [*left, 5]}


def test_publishing_twice_replaces_the_first(tmp_path: Path) -> None:
    made(tmp_path, 3)
    (tmp_path / "checkpoint-3" / "stale").write_text("s")
    made(tmp_path, 3)
    assert sorted(p.name for p in (tmp_path / "checkpoint-3").iterdir()) == [checkpoint.MANIFEST, "weights"]


def test_a_run_keeps_as_many_as_it_was_told(tmp_path: Path) -> None:
    build(tmp_path, save_steps=1, save_total_limit=2).train()
    assert saved(tmp_path) == ["checkpoint-5", "checkpoint-6"]


def test_files_of_a_killed_save_do_not_enter_the_next(tmp_path: Path) -> None:
    stale = tmp_path / "run" / checkpoint.STAGING / "checkpoint-2" / "rng_state_1.pth"
    stale.parent.mkdir(parents=True)
    stale.write_text("of another run")
    build(tmp_path).train()
    assert not (tmp_path / "run" / "checkpoint-2" / stale.name).exists()
    assert saved(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def best_args(**changes: Any) -> dict[str, Any]:
    """The best is the first: the higher the loss, the better, and training lowers it."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    return {"eval_strategy": "steps", "eval_steps": 2, "save_total_limit": 2, **best, **changes}


def assert_best_is_loaded(trainer: PreferenceTrainer, folder: Path) -> None:
    best = folder / "run" / "checkpoint-2"
    assert trainer.state.best_model_checkpoint == str(best)
    assert saved(folder) == ["checkpoint-2", "checkpoint-6"]
    for step in (2, 6):
        state = json.loads((folder / "run" / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(best)
    file = next(best.glob("*model.safetensors"))
    from safetensors.torch import load_file

    mine = weights(trainer)
    for name, tensor in load_file(file).items():
        own = name.replace(".lora_A.weight", ".lora_A.default.weight").replace(
            ".lora_B.weight", ".lora_B.default.weight"
        )
        assert torch.equal(mine[own], tensor)


@pytest.mark.parametrize("peft_config", [None, LORA])
def test_the_best_model_is_loaded_from_where_it_is(peft_config: Any, tmp_path: Path) -> None:
    trainer = build(tmp_path, peft_config=peft_config, **best_args())
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert_best_is_loaded(trainer, tmp_path)
    # What trained goes on training in a next round.
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == trainable


def test_the_best_experts_are_loaded(tmp_path: Path) -> None:
    trainer = build(tmp_path, model=tiny_mixtral(), **best_args())
    trainer.train()
    best = MixtralForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-2")
    last = MixtralForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-6")
    assert_equal(weights(trainer), best.state_dict())
    assert all(not torch.equal(last.state_dict()[name], best.state_dict()[name]) for name in best.state_dict())


def test_the_best_model_after_a_resume(tmp_path: Path) -> None:
    build(tmp_path, **best_args(load_best_model_at_end=False)).train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    assert saved(tmp_path) == ["checkpoint-2"]
    trainer = build(tmp_path, **best_args())
    trainer.train(resume_from_checkpoint=True)
    assert_best_is_loaded(trainer, tmp_path)


# ---- secrets -------------------------------------------------------------------------------------------------------


def test_no_token_in_any_file(tmp_path: Path) -> None:
    token = f"hf_{random.getrandbits(128):032x}"
    trainer = build(tmp_path, hub_token=token)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert [p for p in files if p.name == "training_args.bin"]
    assert not [p for p in files if token.encode() in p.read_bytes()]
    assert trainer.args.hub_token == token
