"""Weights that come in 16 bits train in float32; where they do not, the share that cannot move is said."""

from __future__ import annotations

import copy
import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from prefopt import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
from prefopt.models.critic import new_critic
from prefopt.models.precision import share_that_cannot_move
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

ROWS = ragged_pairs(6)
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
HALF = [torch.bfloat16, torch.float16]
CANNOT = re.compile(r"([\d.]+)% of the ([\d,]+) weights of the (\w+(?: \w+)?) that train in (\w+) cannot move")


def half(dtype: torch.dtype = torch.bfloat16) -> Any:
    return tiny_llama(dtype=dtype)


def trainer(model: Any, tokenizer: Any, tmp_path: Path, **changes: Any) -> DPOTrainer:
    given = {name: changes.pop(name) for name in ("peft_config", "optimizers") if name in changes}
    args = DPOConfig(**quiet(tmp_path, max_steps=1, per_device_train_batch_size=6, **changes))
    return DPOTrainer(model, args=args, train_dataset=ROWS, processing_class=tokenizer, **given)


def dtypes(model: nn.Module, *, trained: bool | None = None) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters() if trained is None or p.requires_grad is trained}


def moved(model: nn.Module, before: dict[str, Tensor]) -> float:
    """The share of all numbers that are others than before."""
    changed = [(p != before[name]).double() for name, p in model.named_parameters()]
    return float(torch.cat([c.flatten() for c in changed]).mean())


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", HALF)
def test_a_model_object_trains_in_float32(
    dtype: torch.dtype, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = half(dtype)
    start, objects = weights(model), list(model.parameters())
    with caplog.at_level(logging.WARNING, "prefopt"):
        run = trainer(model, tokenizer, tmp_path)
    assert caplog.text.count("LlamaForCausalLM came with weights in") == 1 and "cannot move" not in caplog.text
    assert dtypes(run.model) == {torch.float32}
    assert all(p is before for p, before in zip(run.model.parameters(), objects, strict=True))
    assert all(torch.equal(p, start[name].float()) for name, p in run.model.named_parameters()), "a cast adds nothing"
    before = weights(run.model)
    run.train()
    assert moved(run.model, before) > 0.5  # the embeddings of tokens that no row has stay
    assert run.state.log_history[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)


def test_left_as_it_is_it_hardly_moves_and_that_is_said(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = half()
    before = weights(model)
    with caplog.at_level(logging.WARNING, "prefopt"):
        run = trainer(model, tokenizer, tmp_path, float32_weights=False, learning_rate=1e-5)
    (found,) = CANNOT.findall(caplog.text)
    assert found[1:] == (f"{sum(p.numel() for p in model.parameters()):,}", "policy", "bfloat16")
    assert "a step of adamw_torch" in caplog.text and "learning rate, 1e-05," in caplog.text
    run.train()
    assert dtypes(run.model) == {torch.bfloat16}
    # A weight without a gradient does not move either, so what did not move is at least what cannot.
    others = [p for name, p in run.model.named_parameters() if "embed_tokens" not in name]
    stuck = torch.cat(
        [(p == before[name]).flatten() for name, p in run.model.named_parameters() if "embed_tok" not in name]
    )
    assert stuck.double().mean() == pytest.approx(share_that_cannot_move(others, 1e-5), abs=0.01)


def by_loop(numbers: list[float], rate: float, bits: int) -> float:
    """The share of numbers of `bits` binary digits whose half unit in the last place is above the rate."""
    stuck = 0
    for number in numbers:
        half_unit = 2.0 ** (math.frexp(number)[1] - bits - 1) if number else 0.0
        stuck += rate < half_unit * (0.5 if math.frexp(abs(number))[0] == 0.5 else 1)  # below a power of 2 it is half
    return stuck / len(numbers)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
@pytest.mark.parametrize("rate", [1e-6, 3e-5, 1.1e-4, 1e-3])
def test_the_share_is_that_of_half_units_in_the_last_place(dtype: torch.dtype, bits: int, rate: float) -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter((torch.randn(40, 50) * scale).to(dtype)) for scale in (0.02, 1.0)]
    numbers = [number for p in parameters for number in p.flatten().tolist()]
    assert share_that_cannot_move(parameters, rate) == pytest.approx(by_loop(numbers, rate, bits), abs=1e-3)


def test_a_large_matrix_is_sampled() -> None:
    torch.manual_seed(0)
    large = nn.Parameter((torch.randn(1000, 700) * 0.02).bfloat16())
    few, many = share_that_cannot_move([large], 3e-5), by_loop(large.flatten().tolist(), 3e-5, 8)
    assert few == pytest.approx(many, abs=0.01) and 0.1 < many < 0.9


@pytest.mark.parametrize("dtype", ["bfloat16", "auto", "float32"])
def test_a_name_gives_what_was_asked_for(
    dtype: str, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    half().save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.WARNING, "prefopt"):
        run = trainer(str(tmp_path / "model"), tokenizer, tmp_path, model_init_kwargs={"dtype": dtype})
    assert dtypes(run.model) == {torch.float32 if dtype == "float32" else torch.bfloat16}
    assert bool(CANNOT.search(caplog.text)) is (dtype != "float32") and "came with" not in caplog.text


@pytest.mark.parametrize("kind", ["fresh", "given", "given in bfloat16"])
def test_an_adapter_trains_in_float32_on_a_base_that_stays(
    kind: str, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, changes = half(), {"peft_config": LORA} if kind == "fresh" else {}
    if kind != "fresh":
        model = get_peft_model(model, LORA)
    if kind == "given in bfloat16":
        model = model.bfloat16()
    with caplog.at_level(logging.WARNING, "prefopt"):
        run = trainer(model, tokenizer, tmp_path, **changes)
    assert dtypes(run.model, trained=True) == {torch.float32} and torch.bfloat16 in dtypes(run.model, trained=False)
    assert ("came with weights in bfloat16" in caplog.text) is (kind == "given in bfloat16")
    assert "cannot move" not in caplog.text
    run.train()
    assert math.isfinite(run.state.log_history[0]["loss"])


def test_copies_that_train_beside_an_adapter_are_told_of(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """PEFT leaves them in the base's 16 bits, and a float32 head would not fit the base's states."""
    config = copy.deepcopy(LORA)
    config.modules_to_save = ["lm_head"]
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer(half(), tokenizer, tmp_path, peft_config=config).train()
    assert CANNOT.findall(caplog.text)[0][1:] == (f"{32 * 1000:,}", "policy", "bfloat16")


def test_of_other_optimizers_less_is_said(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer(half(), tokenizer, tmp_path, float32_weights=False, optim="sgd")
        model = half()
        own = torch.optim.AdamW(model.parameters(), lr=1.0)
        trainer(model, tokenizer, tmp_path, float32_weights=False, optimizers=(own, None))
    assert caplog.text.count("how many are depends on the optimizer") == 2 and "cannot move" not in caplog.text


def test_an_optimizer_that_was_made_before_goes_on(tmp_path: Path, tokenizer: Any) -> None:
    model = half()
    own = torch.optim.AdamW(model.parameters(), lr=1e-5)
    run = trainer(model, tokenizer, tmp_path, optimizers=(own, None))
    before = weights(run.model)
    run.train()
    assert moved(run.model, before) > 0.5


def test_a_reward_model_object_trains_in_float32(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    args = RewardConfig(**quiet(tmp_path, max_steps=1))
    with caplog.at_level(logging.WARNING, "prefopt"):
        run = RewardTrainer(half(), args=args, train_dataset=ROWS, processing_class=tokenizer)
        assert dtypes(run.model) == {torch.float32}
        args = RewardConfig(**quiet(tmp_path, float32_weights=False))
        RewardTrainer(half(), args=args, train_dataset=ROWS, processing_class=tokenizer)
    assert [found[2] for found in CANNOT.findall(caplog.text)] == ["reward model"]


def test_a_critic_trains_as_precisely_as_the_policy() -> None:
    assert dtypes(new_critic(None, get_peft_model(half(), LORA))) == {torch.float32}
    plain = new_critic(None, half())
    assert {p.dtype for name, p in plain.named_parameters() if "score" not in name} == {torch.bfloat16}
