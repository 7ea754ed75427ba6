"""A step for which memory has no room is computed in parts: the same losses and weights, said once, and counted."""

from __future__ import annotations

import gc
import json
import logging
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor

from prefopt import DPOConfig, DPOTrainer, PreferenceTrainer
from prefopt.cli import entry, train
from prefopt.data.batching import token_counts
from prefopt.data.collate import collate
from prefopt.scoring import RewardModelScorer
from prefopt.testbed import preference_rows
from prefopt.training.out_of_memory import IN_PARTS, Room, is_out_of_memory, recovers, token_costs
from tests.helpers.cases import CASES, build, numbers
from tests.helpers.crowded import Crowd, on_a_gpu, on_the_cpu
from tests.helpers.models import tiny_llama, untrained
from tests.helpers.ppo import reward_model, trainer_of
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(12)
LONGEST = int(token_costs(collate(list(ragged_pairs(13)))).max())
STEPS = {"num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.05}


def outcome(trainer: PreferenceTrainer) -> tuple[list[dict[str, float]], Tensor]:
    trainer.train()
    logs = [numbers(log) for log in trainer.state.log_history if "loss" in log]
    return logs, torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def assert_same(found: tuple[list[dict[str, float]], Tensor], expected: tuple[list[dict[str, float]], Tensor]) -> None:
    assert len(found[0]) == len(expected[0]) >= 2
    for step, undisturbed in zip(found[0], expected[0], strict=True):
        assert step == pytest.approx(undisturbed, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("split", [(16, 1), (4, 2)], ids=["one batch", "accumulated"])
@pytest.mark.parametrize("name", CASES)
def test_parts_add_up_to_the_step(
    name: str, split: tuple[int, int], backward: bool, tmp_path: Path, tokenizer: Any
) -> None:
    args = STEPS | {"per_device_train_batch_size": split[0], "gradient_accumulation_steps": split[1]}
    expected = outcome(build(name, tmp_path / "a", tokenizer, **args))
    trainer = build(name, tmp_path / "b", tokenizer, **args)
    limit = int(token_counts(trainer.train_dataset).max()) + 10
    crowd = Crowd(trainer.model, limit, backward=backward)
    found = outcome(trainer)
    assert 1 <= crowd.times <= 4, "a size that did not fit is tried once"
    assert max(crowd.seen[-3:]) <= limit, "the smaller size is kept"
    assert_same(found, expected)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_policy_and_critic_learn_the_same_from_a_rollout_in_parts(
    backward: bool, tmp_path: Path, tokenizer: Any
) -> None:
    rows, found = Dataset.from_list(preference_rows(12, seed=3)), []
    limit = 10**9
    for folder in ("undisturbed", "in parts"):
        scorer = RewardModelScorer(reward_model(tokenizer).double(), tokenizer)
        args = {"advantage_norm": True, "optim": "sgd"}
        trainer = trainer_of(tmp_path / folder, tokenizer, rows, untrained(tokenizer).double(), scorer=scorer, **args)
        crowd = Crowd(trainer.model, limit, backward=backward)
        found.append(outcome(trainer))
        limit = int(0.6 * max(crowd.seen))
    assert crowd.times >= 1
    assert_same(found[1], found[0])


@pytest.mark.parametrize("fail", [on_a_gpu, on_the_cpu])
def test_it_is_said_once_for_each_size_and_counted(
    fail: Any, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build("dpo", tmp_path, tokenizer, per_device_train_batch_size=13, **STEPS)
    crowd = Crowd(trainer.model, 150, backward=True, fail=fail)
    with caplog.at_level(logging.WARNING, "prefopt"):
        result = trainer.train()
    said = [record.getMessage() for record in caplog.records if "memory had no room" in record.getMessage()]
    assert len(said) == crowd.times >= 1
    assert said[0].startswith("step 1: memory had no room to compute the gradients of 13 rows of ")
    assert "in parts of at most" in said[0] and "gradient_accumulation_steps" in said[0]
    assert result.metrics[IN_PARTS] == trainer.recovery.room.split >= 2


def test_undisturbed_nothing_is_counted(tmp_path: Path, tokenizer: Any) -> None:
    assert IN_PARTS not in build("dpo", tmp_path, tokenizer, **STEPS).train().metrics


def test_the_second_micro_batch_does_not_double_the_first(tmp_path: Path, tokenizer: Any) -> None:
    """Rows sorted so that only the last micro-batch of a step is too large: the first has its gradient by then."""
    rows = ragged_pairs(8)
    order = token_costs(collate(list(rows))).argsort().tolist()
    args = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "train_sampling_strategy": "sequential"}

    def trainer(folder: str) -> PreferenceTrainer:
        config = DPOConfig(**quiet(tmp_path / folder, **STEPS | args))
        model = tiny_llama(dtype=torch.float64)
        return DPOTrainer(model, args=config, train_dataset=rows.select(order), processing_class=tokenizer)

    sizes = [int(token_costs(collate(list(rows.select(order[i : i + 4])))).sum()) for i in (0, 4)]
    assert sizes[0] < sizes[1]
    expected = outcome(trainer("a"))
    disturbed = trainer("b")
    crowd = Crowd(disturbed.model, sizes[1] - 20, backward=True)
    assert_same(outcome(disturbed), expected)
    assert crowd.times == 1


@pytest.mark.parametrize("name", ["dpo", "kto (cross-batch)", "bco, adapter copied", "dpo, precomputed"])
def test_passes_without_gradients_are_done_in_parts_too(name: str, tmp_path: Path, tokenizer: Any) -> None:
    """The reference's, and those before the loss that other rows' losses need."""
    args = STEPS | {"per_device_train_batch_size": 7, "gradient_accumulation_steps": 2}
    plain = build(name, tmp_path / "a", tokenizer, **args)
    expected, evaluated = outcome(plain), numbers(plain.evaluate())
    trainer = build(name, tmp_path / "b", tokenizer, **args)
    crowds = [Crowd(trainer.model, 70, learning=False)]
    crowds += [Crowd(trainer.reference.model, 70, learning=False)] if hasattr(trainer.reference, "model") else []
    assert_same(outcome(trainer), expected)
    assert numbers(trainer.evaluate()) == pytest.approx(evaluated, rel=1e-12, abs=1e-12)
    assert sum(crowd.times for crowd in crowds) >= 1


def test_a_row_that_does_not_fit_alone_is_named_with_what_helps(tmp_path: Path, tokenizer: Any) -> None:
    trainer = build("dpo", tmp_path, tokenizer, per_device_train_batch_size=13, **STEPS)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    Crowd(trainer.model, LONGEST - 6, backward=True)
    with pytest.raises(MemoryError) as caught:
        trainer.train()
    text, costs = str(caught.value), token_costs(collate(list(ragged_pairs(13)))).tolist()
    named = re.match(r"step 1: memory has no room to compute the gradients of row (\d+) alone, which has (\d+)", text)
    assert named and costs[int(named[1])] == int(named[2]) > LONGEST - 6
    for helps in ("a smaller max_length", "gradient_checkpointing=True", "reference_dtype='bfloat16'", "--use_peft"):
        assert helps in text
    for after, weight in zip(trainer.model.parameters(), before, strict=True):
        assert torch.equal(after, weight) and after.grad is None


def test_other_errors_stay_what_they_are(tmp_path: Path, tokenizer: Any) -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer = build("dpo", tmp_path, tokenizer, per_device_train_batch_size=13, **STEPS)
    Crowd(trainer.model, 100, fail=fail)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer.train()


def test_where_processes_wait_for_each_other_nothing_is_taken_apart(tmp_path: Path, tokenizer: Any) -> None:
    trainer = build("dpo", tmp_path, tokenizer, per_device_train_batch_size=13, **STEPS)
    assert trainer.recovery.room.recovers and trainer.step.reading.recovers
    trainer.recovery.room.recovers = False
    Crowd(trainer.model, 100)
    with pytest.raises(MemoryError, match=r"13 rows of .* at a time, and a batch is not taken apart where several"):
        trainer.train()


@pytest.mark.parametrize("optim", ["adalomo", "galore_adamw_layerwise"])
def test_optimizers_that_work_within_the_backward_pass_do_not_recover(optim: str, tmp_path: Path) -> None:
    args = DPOConfig(**quiet(tmp_path))
    assert recovers(Accelerator(cpu=True), args)
    args.optim = optim
    assert not recovers(Accelerator(cpu=True), args)


def test_what_running_out_of_memory_looks_like() -> None:
    for fail in (on_a_gpu, on_the_cpu):
        with pytest.raises(RuntimeError) as caught:
            fail()
        assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


def test_parts_hold_every_row_once_and_no_more_tokens_than_there_is_room_for() -> None:
    batch = collate(list(ragged_pairs(20, seed=2)))
    room = Room("learn")
    assert room.parts(batch) == [batch]
    room.tokens = 100
    parts = room.parts(batch)
    assert torch.cat([part.index for part in parts]).tolist() == batch.index.tolist() and len(parts) > 2
    assert all(int(token_costs(part).sum()) <= 100 or len(part.index) == 1 for part in parts)
    assert int(sum(part.response_mask.sum() for part in parts)) == int(batch.response_mask.sum())


def test_what_a_failed_pass_held_is_free_before_the_next(tmp_path: Path, tokenizer: Any) -> None:
    trainer = build("dpo", tmp_path, tokenizer, per_device_train_batch_size=13, **STEPS)
    alive: list[weakref.ref[Tensor]] = []
    left: list[int] = []

    def watch(_: Any, __: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            left.append(sum(ref() is not None for ref in alive))
            states = output[0] if isinstance(output, tuple) else output
            alive.append(weakref.ref(states))

    trainer.model.base_model.layers[-1].register_forward_hook(watch)
    Crowd(trainer.model, 150, backward=True)
    gc.disable()
    try:
        trainer.train()
    finally:
        gc.enable()
    assert max(left) == 0 and len(left) >= 4


@pytest.mark.parametrize(("tokens", "status"), [(60, 0), (4, 2)])
def test_the_command_says_it_in_its_summary_or_as_its_error(
    tokens: int, status: int, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model, rows = (
        tiny_llama(),
        [{"prompt": "二加二 2+2=", "chosen": "四 4", "rejected": "five " * i} for i in range(1, 9)],
    )
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    build_trainer = train.build

    def crowded(*args: Any, **kwargs: Any) -> Any:
        trainer = build_trainer(*args, **kwargs)
        Crowd(trainer.model, tokens, backward=True)
        return trainer

    monkeypatch.setattr(train, "build", crowded)
    words = ["dpo", "--model_name_or_path", str(tmp_path / "model"), "--dataset_name", str(tmp_path / "pairs.jsonl")]
    words += ["--output_dir", str(tmp_path / "out"), "--use_cpu", "true", "--max_steps", "2", "--bf16", "false"]
    assert entry.main(words) == status
    said = capsys.readouterr()
    if status:
        assert "memory has no room to compute the gradients of row" in said.err and "PREFOPT_DEBUG" not in said.err
    else:
        assert "micro-batches were computed in parts, for want of memory" in said.out
