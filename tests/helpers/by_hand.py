"""What `forward` must give, computed on one bare sequence at a time, without batch or padding; and the comparison."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from prefopt.batch import Batch
from prefopt.models.forward import FROM_LOGITS, forward


def alone(batch: Batch, g: int, k: int) -> tuple[list[int], list[int]]:
    """One response with its prompt, as bare ids."""
    prompt = batch.prompt_ids[g][batch.prompt_mask[g]].tolist()
    return prompt, batch.response_ids[g, k][batch.response_mask[g, k]].tolist()


def by_hand(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Per-token outputs by calling the model on one bare sequence at a time, written out as their definitions say."""
    found = {name: [] for name in ("logps", "entropy", "top1", "log_sum_sq")}
    for g, k in batch.present.nonzero().tolist():
        prompt, response = alone(batch, g, k)
        logits = model(torch.tensor([prompt + response])).logits[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        for t, token in enumerate(response):
            position = len(prompt) + t - 1
            if position < 0:
                for values in found.values():
                    values.append(logits.new_zeros(()))
                continue
            logp = torch.log_softmax(logits[position], -1)
            found["logps"].append(logp[token])
            found["entropy"].append(-(logp.exp() * logp).sum())
            found["top1"].append((logp.argmax() == token).to(logp.dtype))
            found["log_sum_sq"].append(logp.exp().square().sum().log())
    return {name: torch.stack(values) for name, values in found.items()}


DIFFERENTIABLE = ("logps", "entropy", "log_sum_sq")


TO_ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
"""For float64 numbers that are computed twice: weights that were read from a file lie elsewhere in memory than those of
the model that was saved, and where they lie decides, on some processors, in which order a matrix product adds up."""


FLOAT32_GRADIENTS = 5e-5
"""How near gradients of a float32 model are to one another, by whatever kernels: those that MKL has for the oldest
processors differ by 1.2e-5, its newest by 3e-6. Float64 shows whether the formula is right."""


def exactness(dtype: torch.dtype = torch.float64) -> float:
    """How near `assert_near` wants numbers of this precision."""
    return 1e-5 if dtype == torch.float32 else 1e-9


def weighed(outputs: dict[str, Tensor]) -> Tensor:
    """A scalar in which every token of every output has a weight of its own."""
    return sum(
        (outputs[name] * torch.linspace(-1, 1, len(outputs[name]), dtype=outputs[name].dtype)).sum()
        for name in DIFFERENTIABLE
    )


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Of a loss, by the name of the parameter; none for parameters that the loss does not reach."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative to the largest entry: a gradient of 1e-12 beside one of 1 is rounding."""
    assert found.shape == expected.shape
    deviation = (found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1)
    assert deviation <= tolerance


def assert_equals_loop(model: nn.Module, batch: Batch, tolerance: float, plain: nn.Module | None = None) -> None:
    """forward on `model` against the loop on `plain`, which has the same weights."""
    plain = plain or model
    out = forward(model, batch, FROM_LOGITS)
    mask = batch.response_mask
    found = {name: getattr(out, name)[mask] for name in FROM_LOGITS}
    expected = by_hand(plain, batch)
    for name, values in expected.items():
        assert_near(found[name], values, tolerance)
        assert (getattr(out, name)[~mask] == 0).all()
    left, right = gradients(model, weighed(found)), gradients(plain, weighed(expected))
    assert left.keys() == right.keys() and len(right) > 0
    for name, gradient in right.items():
        rounding = FLOAT32_GRADIENTS if gradient.dtype == torch.float32 else 0.0
        assert_near(left[name], gradient, max(tolerance, rounding))


LORAS = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["v_proj", "embed_tokens"]},
    "in full": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "dora": {"target_modules": ["q_proj"], "use_dora": True},
}


def with_adapter(model: nn.Module, **settings: Any) -> Any:
    """An adapter far from the identity, in the dtype of the model."""
    peft = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **settings), autocast_adapter_dtype=False)
    torch.manual_seed(3)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return peft.to(model.dtype)
