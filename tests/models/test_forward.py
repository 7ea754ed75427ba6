"""forward gives what a plain loop over bare sequences gives, values and gradients, and leaves the model as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import nn

from prefopt.batch import fill_rows
from prefopt.data.collate import collate
from prefopt.models.forward import FROM_LOGITS, forward
from prefopt.models.heads import attach_lm_head, scorer_from_policy
from tests.helpers.by_hand import LORAS, alone, assert_equals_loop, assert_near, by_hand, exactness, with_adapter
from tests.helpers.models import FAMILIES, tiny
from tests.helpers.rows import ragged


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_plain_loop(family: str, dtype: torch.dtype) -> None:
    assert_equals_loop(tiny(family, dtype), ragged(k=2), exactness(dtype))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_any_number_of_responses(k: int) -> None:
    batch = ragged(k)
    assert not batch.present.all() and (batch.lengths == 1).any() and not batch.prompt_mask.any(-1).all()
    assert_equals_loop(tiny("llama"), batch, 1e-9)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2"])
def test_eager_attention(family: str) -> None:
    assert_equals_loop(tiny(family, attn_implementation="eager"), ragged(k=2), exactness())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_more_padding_changes_nothing(family: str) -> None:
    model, batch = tiny(family), ragged(k=2)
    padded = fill_rows(batch, 2)
    for name, side in [("prompt_ids", (3, 0)), ("prompt_mask", (3, 0))] + [
        (name, (0, 5)) for name in ("response_ids", "response_mask", "loss_mask")
    ]:
        padded[name] = nn.functional.pad(padded[name], side)
    out, more = forward(model, batch, FROM_LOGITS), forward(model, padded, FROM_LOGITS)
    for name in FROM_LOGITS:
        kept = getattr(more, name)[: len(batch.index), :, : batch.response_ids.shape[-1]]
        torch.testing.assert_close(kept, getattr(out, name), rtol=1e-9, atol=1e-9)
        assert getattr(more, name).isfinite().all()


def test_the_id_in_padding_does_not_matter() -> None:
    model, batch = tiny("llama"), ragged(k=2)
    out = forward(model, batch, FROM_LOGITS)
    for name, mask in (("prompt_ids", batch.prompt_mask), ("response_ids", batch.response_mask)):
        batch[name] = batch[name].masked_fill(~mask, 7)
    other = forward(model, batch, FROM_LOGITS)
    for name in FROM_LOGITS:
        torch.testing.assert_close(getattr(other, name), getattr(out, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["llama tied", "gpt2", "gemma2"])
def test_activation_checkpointing(family: str) -> None:
    plain = tiny(family)
    model = copy.deepcopy(plain).train()
    model.gradient_checkpointing_enable()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    forward(model, ragged(k=2), FROM_LOGITS)  # decides on a layout
    calls = []
    model.base_model.get_submodule("h.0.attn" if family == "gpt2" else "layers.0.self_attn").register_forward_pre_hook(
        lambda *_: calls.append(1)
    )
    assert_equals_loop(model, ragged(k=2), exactness(), plain)
    assert len(calls) == 2  # once forward, once more while going back


@pytest.mark.parametrize("kind", LORAS)
def test_under_an_adapter(kind: str) -> None:
    model = with_adapter(tiny("llama"), **LORAS[kind])
    assert_equals_loop(model, ragged(k=2), 1e-9)
    with model.disable_adapter():
        off = forward(model, ragged(k=2), FROM_LOGITS).logps
    assert (off - forward(model, ragged(k=2), FROM_LOGITS).logps).abs().max() > 1e-3


def test_bfloat16_autocast_gives_float32() -> None:
    batch = ragged(k=2)
    policy = tiny("llama", torch.float32)
    scorer = scorer_from_policy(policy)
    attach_lm_head(scorer, policy)
    with torch.autocast("cpu", torch.bfloat16):
        out = forward(policy, batch, FROM_LOGITS)
        scored = forward(scorer, batch, FROM_LOGITS | {"scores", "values"})
    for outputs, names in ((out, FROM_LOGITS), (scored, FROM_LOGITS | {"scores", "values"})):
        assert {getattr(outputs, name).dtype for name in names} == {torch.float32}
    expected = forward(policy, batch, FROM_LOGITS)
    assert 0 < (out.logps - expected.logps).abs().max() < 0.3


def test_a_bfloat16_model_gives_float32_from_its_own_logits() -> None:
    batch, model = ragged(k=2), tiny("llama", torch.bfloat16)
    out = forward(model, batch, FROM_LOGITS)
    assert out.logps.dtype == out.entropy.dtype == torch.float32
    # A float32 log-softmax is not confined to the few values that bfloat16 has.
    assert (out.logps.bfloat16().float() != out.logps)[batch.response_mask].float().mean() > 0.5


def test_first_token_after_nothing_has_no_probability() -> None:
    batch = collate([{"prompt_ids": [], "response_ids": [[5, 6, 7]]}, {"prompt_ids": [4], "response_ids": [[5, 6]]}])
    logps = forward(tiny("llama"), batch, frozenset({"logps"})).logps
    assert logps[0, 0, 0] == 0 and (logps[0, 0, 1:] < 0).all() and (logps[1, 0, :2] < 0).all()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_leaves_the_model_as_it_was(fails: bool, wrapped: bool) -> None:
    model = tiny("llama", torch.float32)
    if wrapped:  # accelerate and quantisers set `forward` on the instance
        model.forward = model.forward
    prompt = torch.tensor([[5, 6, 7, 8]])
    before = model.generate(prompt, max_new_tokens=8, do_sample=False)
    attributes, attention = dict(model.__dict__), model.config._attn_implementation
    batch = ragged(k=2)
    if fails:
        batch["response_ids"] = batch.response_ids + 1000
        with pytest.raises(IndexError):
            forward(model, batch, FROM_LOGITS)
    else:
        forward(model, batch, FROM_LOGITS)
    assert model.__dict__ == attributes
    assert model.config._attn_implementation == attention
    assert torch.equal(model.generate(prompt, max_new_tokens=8, do_sample=False), before)


def test_a_wrapper_that_fails_before_the_model_leaves_it_as_it_was() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self) -> None:
            raise RuntimeError("lost a rank")

    model = tiny("llama")
    from prefopt.models import wrappers

    with pytest.raises(RuntimeError, match="lost a rank"):
        wrappers.run_under_wrapper(Wrapper(model), model, lambda: pytest.fail("not reached"))
    assert "forward" not in model.__dict__


def test_prompt_tuning_is_an_error() -> None:
    model = get_peft_model(tiny("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="PROMPT_TUNING.*LoRA"):
        forward(model, ragged(k=2), FROM_LOGITS)


def test_unknown_outputs_and_missing_heads_are_errors() -> None:
    model, batch = tiny("llama"), ragged(k=2)
    with pytest.raises(ValueError, match="unknown outputs.*entropie"):
        forward(model, batch, frozenset({"entropie"}))
    with pytest.raises(ValueError, match="no reward head"):
        forward(model, batch, frozenset({"scores"}))
    with pytest.raises(ValueError, match="lm_coefficient"):
        forward(scorer_from_policy(model), batch, frozenset({"scores", "logps"}))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("cohere", "granite")])
def test_scorer_with_language_head(family: str) -> None:
    """A scorer on a policy's backbone, with its language head: the same log-probs, and scores and values by a loop."""
    policy, batch, tolerance = tiny(family), ragged(k=2), exactness()
    scorer = scorer_from_policy(policy)
    for name, buffer in scorer.base_model.named_buffers():  # made in float64, the policy's in float32
        buffer.copy_(policy.base_model.get_buffer(name))
    attach_lm_head(scorer, policy)
    out = forward(scorer, batch, FROM_LOGITS | {"scores", "values"})
    for name, expected in by_hand(policy, batch).items():
        assert_near(getattr(out, name)[batch.response_mask], expected, tolerance)
    for g, k in batch.present.nonzero().tolist():
        prompt, response = alone(batch, g, k)
        read = scorer.score(scorer.base_model(torch.tensor([prompt + response])).last_hidden_state)[0, :, 0]
        assert_near(out.scores[g, k], read[-1], tolerance)
        first = 0 if prompt else 1  # nothing stands before the first token of an empty prompt
        values = out.values[g, k, first : len(response)]
        assert_near(values, read[len(prompt) + first - 1 :][: len(values)], tolerance)
        assert first == 0 or out.values[g, k, 0] == 0
    assert (out.scores[~batch.present] == 0).all() and (out.values[~batch.response_mask] == 0).all()


@pytest.mark.parametrize("family", ["cohere", "granite"])
def test_a_family_without_a_classification_model_is_an_error(family: str) -> None:
    with pytest.raises(ValueError, match=f"no sequence-classification model for '{family}'"):
        scorer_from_policy(tiny(family))
