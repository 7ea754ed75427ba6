"""What activations take is found on short rows, exactly where operations are the same, and nothing is left behind."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from prefopt.batch import Batch
from prefopt.models import memory
from prefopt.models.forward import forward
from prefopt.models.heads import scorer_from_policy
from prefopt.models.layout import packed, padded
from prefopt.models.layout_selection import PADDED, request_layout, run_on_layout, select_layout
from prefopt.models.memory import Shape, activations, head_bytes
from tests.helpers.models import tiny_llama

CPU = torch.device("cpu")
SHAPE = Shape((120,), ((90, 60),))
BATCH = Shape((30, 50, 40), ((25, 20), (40, 30), (15, 35)))
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def model_of(kind: str) -> Any:
    model: Any = tiny_llama(max_position_embeddings=1024, num_hidden_layers=4)
    if kind == "lora":
        model = get_peft_model(model, LORA)
    if kind == "reward":
        model = scorer_from_policy(model)
    if kind == "checkpointing":
        model.activation_checkpointing_enable()
    if kind == "padded":
        request_layout(model, PADDED)
    return model.train()


def saved_for_backward(model: Any, shape: Shape) -> int:
    """Bytes that autograd keeps of a forward pass of the backbone beside weights, as torch's own hooks tell them."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    selection = select_layout(inner, CPU, lambda compute: compute())
    batch, kept = shape.batch(CPU), {}
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    layout = padded(batch) if selection.layout == PADDED else packed(batch, whole=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = run_on_layout(inner, inner.base_model, layout, selection.layout)
    assert states.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("kind", ["plain", "lora", "padded", "checkpointing"])
@pytest.mark.parametrize("shape", [SHAPE, BATCH], ids=["one row", "several rows"])
def test_what_lives_after_the_forward_pass_is_what_autograd_keeps(kind: str, shape: Shape) -> None:
    model = model_of(kind)
    found = activations(model, shape, whole=False, context=nullcontext)
    assert found is not None
    live = found.live(shape, CPU)[found.forward - 1]
    if kind == "checkpointing":  # hooks do not see what checkpoints keep: the inputs of four layers, and little more
        states = 4 * 32 * (sum(shape.prompts) + shape.predicted)
        assert 4 * states < live < 9 * states
    else:
        assert live == pytest.approx(saved_for_backward(model, shape), rel=0.06)


@pytest.mark.parametrize("kind", ["plain", "lora", "padded", "checkpointing", "reward"])
def test_a_longer_row_takes_exactly_what_short_ones_say(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind)
    found = activations(model, SHAPE, whole=kind == "reward", context=nullcontext)
    monkeypatch.setattr(memory, "_sizes", lambda *_: [270, 280, 290])
    directly = activations(model, SHAPE, whole=kind == "reward", context=nullcontext)
    assert found is not None and directly is not None
    assert found.live(SHAPE, CPU) == pytest.approx(directly.live(SHAPE, CPU), rel=0.02, abs=4096)


def test_many_responses_make_the_short_rows_longer() -> None:
    """Rounded to a few tokens each, rows of three lengths would be one and the same."""
    model, many = model_of("plain"), Shape((40,), ((12,) * 64,))
    found = activations(model, many, whole=False, context=nullcontext)
    longer = Shape((80,), ((24,) * 64,))
    assert found is not None
    assert found.live(many, CPU).max() < found.live(longer, CPU).max() < 3 * found.live(many, CPU).max()


class Peak(memory._LiveBytes):
    """The largest number of live bytes of all that was not there before."""


@pytest.mark.parametrize("kind", ["plain", "lora", "padded", "checkpointing"])
def test_a_whole_step_peaks_where_activations_and_head_say(kind: str) -> None:
    """Beside a forward and backward pass of log-probs at full size, in which everything is counted."""
    model = model_of(kind)
    batch: Batch = BATCH.batch(CPU)
    forward(model, batch, frozenset({"logps"}))  # selects the layout
    found = activations(model, BATCH, whole=False, context=nullcontext)
    assert found is not None
    head, head_gradient = head_bytes(model, BATCH, found.width, None)
    live = found.live(BATCH, CPU)
    predicted = max(live[found.forward - 1] + head, float((live + found.gradients + head_gradient).max()))
    model.zero_grad(set_to_none=True)
    with Peak([*model.parameters(), *model.buffers(), *batch.values()]) as peak:
        forward(model, batch, frozenset({"logps"})).required("logps").sum().backward()
    assert predicted == pytest.approx(max(peak.history), rel=0.1)


def test_nothing_is_left_behind() -> None:
    model = model_of("plain").eval()
    weight = model.lm_head.weight
    weight.grad = torch.ones_like(weight)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    activations(model, SHAPE, whole=False, context=nullcontext)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    assert torch.equal(weight.grad, torch.ones_like(weight))
    others: list[nn.Parameter] = [p for p in model.parameters() if p is not weight]
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in others)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_shapes_keep_their_proportions() -> None:
    scaled = BATCH.scaled(100)
    total = 30 + 50 + 40 + 25 + 20 + 40 + 30 + 15 + 35
    assert scaled.prompts == (round(100 * 120 / total),)
    assert scaled.responses == ((round(100 * 80 / total), round(100 * 85 / total)),)
    rows = [{"prompt_ids": [1] * 3, "response_ids": [[1], [2, 2]]}, {"prompt_ids": [1], "response_ids": [[1, 1]]}]
    assert Shape.of(rows) == Shape((3, 1), ((1, 2), (2,))) and Shape.of(rows).predicted == 5
