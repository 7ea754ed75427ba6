"""Log-probs and their companions a chunk at a time: values by hand, and the written-out gradient against autograd's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prefopt.models._logits import FROM_LOGITS, DenseHead, from_logits, token_outputs

N, H, V = 7, 5, 11
KINDS = {"plain": {}, "scaled": {"scale": 0.25}, "capped": {"cap": 2.0}, "both": {"scale": 3.0, "cap": 1.5}}


def material(bias: bool = True, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(N, H, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, H, dtype=dtype, requires_grad=True)
    shift = torch.randn(V, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, shift, torch.randint(V, (N,))


@pytest.fixture(params=["kept", "computed again"])
def memory(request: Any) -> dict[str, int]:
    """Chunks of three tokens, the last one smaller, with and without room to keep their logits."""
    return {"chunk": 3 * V, "kept": 10**6 if request.param == "kept" else 0}


def test_numbers_worked_by_hand() -> None:
    """Probabilities 1/2, 1/4, 1/8, 1/8: entropy 1.75 bits, sum of squares 11/32."""
    logits = torch.log(torch.tensor([[4.0, 2.0, 1.0, 1.0]], dtype=torch.float64))
    found = from_logits(logits, torch.tensor([1]), FROM_LOGITS)
    assert found["logps"].item() == pytest.approx(-1.3862943611198906)
    assert found["entropy"].item() == pytest.approx(1.75 * 0.6931471805599453)
    assert found["log_sum_sq"].exp().item() == pytest.approx(11 / 32)
    assert found["top1"].item() == 0 and from_logits(logits, torch.tensor([0]), FROM_LOGITS)["top1"].item() == 1


@pytest.mark.parametrize("wants", [{"logps"}, {"entropy"}, {"log_sum_sq"}, {"logps", "top1"}, FROM_LOGITS])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_dense_gradient_equals_finite_differences(
    kind: str, bias: bool, wants: set[str], memory: dict[str, int]
) -> None:
    hidden, weight, shift, tokens = material(bias)
    smooth = sorted(set(wants) - {"top1"})

    def run(hidden: Tensor, weight: Tensor, shift: Tensor | None) -> tuple[Tensor, ...]:
        found = token_outputs(DenseHead(weight, shift, **KINDS[kind]), hidden, tokens, V, frozenset(wants), **memory)
        return tuple(found[name] for name in smooth)

    # A second backward pass computes again what the first one kept, to rounding.
    assert torch.autograd.gradcheck(run, (hidden, weight, shift), nondet_tol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_called_head_gives_the_same(kind: str, memory: dict[str, int]) -> None:
    hidden, weight, shift, tokens = material()
    dense = DenseHead(weight, shift, **KINDS[kind])
    found = {}
    for name, head in (("dense", dense), ("called", lambda x: dense(x))):
        out = token_outputs(head, hidden, tokens, V, FROM_LOGITS, **memory)
        loss = sum((out[n] * torch.arange(N)).sum() for n in ("logps", "entropy", "log_sum_sq"))
        found[name] = [*out.values(), *torch.autograd.grad(loss, (hidden, weight, shift))]
    for left, right in zip(found["dense"], found["called"], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_no_token_at_all_still_reaches_the_weights(memory: dict[str, int]) -> None:
    """A rank whose rows are all absent takes part in the reduction of gradients with zeros."""
    hidden, weight, shift, _ = material()
    for head in (DenseHead(weight, shift), nn.Linear(H, V).double()):
        out = token_outputs(head, hidden[:0], torch.zeros(0, dtype=torch.long), V, FROM_LOGITS, **memory)
        assert {name: len(values) for name, values in out.items()} == dict.fromkeys(FROM_LOGITS, 0)
        weights = [weight, shift] if isinstance(head, DenseHead) else list(head.parameters())
        for gradient in torch.autograd.grad(sum(out[n].sum() for n in ("logps", "entropy")), weights):
            assert (gradient == 0).all()


def test_frozen_weights_get_no_gradient(memory: dict[str, int]) -> None:
    hidden, weight, shift, tokens = material()
    weight.requires_grad_(False)
    out = token_outputs(DenseHead(weight, shift), hidden, tokens, V, frozenset({"logps"}), **memory)
    out["logps"].sum().backward()
    assert weight.grad is None and hidden.grad is not None and shift is not None and shift.grad is not None


def test_bfloat16_autocast_is_float32_after_the_product(memory: dict[str, int]) -> None:
    hidden, weight, shift, tokens = material(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = token_outputs(DenseHead(weight, shift), hidden, tokens, V, FROM_LOGITS, **memory)
    low = nn.functional.linear(hidden.bfloat16(), weight.bfloat16()) + shift.bfloat16()
    for name, values in from_logits(low.float(), tokens, FROM_LOGITS).items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-6)
    found["logps"].sum().backward()
    gradient = weight.grad.clone()
    assert gradient.dtype == torch.float32
    weight.grad = None
    token_outputs(DenseHead(weight, shift), hidden, tokens, V, frozenset({"logps"}), **memory)["logps"].sum().backward()
    assert 0 < (gradient - weight.grad).norm() / weight.grad.norm() < 0.02


def test_unlikely_tokens_keep_their_log_probs() -> None:
    """A log-prob of -200 is below what a float32 probability can hold."""
    weight = torch.tensor([[0.0], [200.0]], requires_grad=True)
    out = token_outputs(DenseHead(weight), torch.ones(1, 1), torch.tensor([0]), 2, frozenset({"logps"}))["logps"]
    assert out.item() == -200
    out.backward()
    assert weight.grad is not None and weight.grad.flatten().tolist() == [1.0, -1.0]


def test_tokens_that_are_ruled_out_add_nothing_to_the_entropy(memory: dict[str, int]) -> None:
    hidden, weight, _, _ = material()
    ruled_out = torch.zeros(V, dtype=torch.float64).index_fill(0, torch.tensor([2, 5]), -torch.inf)
    dense, tokens = DenseHead(weight, ruled_out), torch.ones(N, dtype=torch.long)
    wants = frozenset({"logps", "entropy"})
    (entropy, slope), others = (
        (out["entropy"], torch.autograd.grad(out["entropy"].sum(), hidden)[0])
        for out in (token_outputs(head, hidden, tokens, V, wants, **memory) for head in (dense, lambda x: dense(x)))
    )
    torch.testing.assert_close(others, (entropy, slope), rtol=1e-12, atol=1e-12)
    left = [i for i in range(V) if i not in (2, 5)]
    expected = torch.distributions.Categorical(logits=(hidden @ weight.t())[:, left]).entropy()
    torch.testing.assert_close(entropy, expected, rtol=1e-12, atol=1e-12)


def test_a_half_precision_gradient_is_rounded_once() -> None:
    """However many chunks it is added up from."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(256, 16).bfloat16(), torch.randn(32, 16).bfloat16().requires_grad_()
    tokens, errors = torch.randint(32, (256,)), []
    exact = torch.randn(0)
    for count, dtype in ((1, torch.float64), (1, torch.bfloat16), (256, torch.bfloat16)):
        each = weight.detach().to(dtype).requires_grad_()
        head, chunk = DenseHead(each), 256 * 32 // count
        out = token_outputs(head, hidden.to(dtype), tokens, 32, frozenset({"logps"}), chunk=chunk)["logps"]
        (found,) = torch.autograd.grad(out.sum(), each)
        exact = found if dtype == torch.float64 else exact
        errors.append(float((found.double() - exact).norm() / exact.norm()))
    assert errors[2] < 2 * errors[1] < 0.02
