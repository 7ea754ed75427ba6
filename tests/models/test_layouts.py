"""Packed rows: the same numbers as a plain loop, no sequence sees another, and models that cannot be packed are not."""

from __future__ import annotations

import copy
import logging
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from accelerate import cpu_offload
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from prefopt.batch import Batch
from prefopt.data.collate import collate
from prefopt.models import layout_selection
from prefopt.models._logits import FROM_LOGITS
from prefopt.models.forward import forward
from prefopt.models.heads import attach_lm_head, scorer_from_policy
from prefopt.models.layout import packed
from prefopt.models.layout_selection import request_layout
from prefopt.models.load import load_policy
from prefopt.models.modes import keep_differentiable
from tests.helpers.by_hand import LORAS, assert_equals_loop, assert_near, exactness, gradients, with_adapter
from tests.helpers.models import COMMON, FAMILIES, VOCAB, tiny
from tests.helpers.rows import ragged

KERNELS = ["segments", "dense"]
PACKED = [family for family in FAMILIES if family != "bloom"]
LOGPS = frozenset({"logps"})


def rows(k: int, prompt: tuple[int, int], response: tuple[int, int], n: int = 3) -> Batch:
    rng = random.Random(k)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(3, VOCAB) for _ in range(rng.randint(low, high))]

    return collate([{"prompt_ids": ids(*prompt), "response_ids": [ids(*response) for _ in range(k)]} for _ in range(n)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", [*KERNELS, "padded"])
@pytest.mark.parametrize("family", PACKED)
def test_every_layout_equals_a_plain_loop(family: str, layout: str, dtype: torch.dtype) -> None:
    model = tiny(family, dtype)
    request_layout(model, layout)
    assert_equals_loop(model, ragged(k=2), exactness(dtype))
    assert layout_selection._selected[model].layout == layout


@pytest.mark.parametrize("lengths", [((30, 40), (1, 6)), ((1, 3), (20, 24)), ((0, 0), (1, 9)), ((8, 12), (1, 1))])
@pytest.mark.parametrize("k", [1, 2, 3, 8])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_long_and_short_prompts_and_responses(family: str, kernel: str, k: int, lengths: Any) -> None:
    """The sliding windows of four tokens begin in the prompt, end in it, or never reach it."""
    model = tiny(family)
    request_layout(model, kernel)
    assert_equals_loop(model, rows(k, *lengths), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", PACKED)
def test_families_are_packed_by_themselves(family: str, dtype: torch.dtype) -> None:
    model = tiny(family, dtype)
    forward(model, ragged(k=2), LOGPS)
    assert layout_selection._selected[model].layout == "segments"


HYBRID: dict[str, dict[str, Any]] = {
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "Mamba2": {"num_heads": 8, "head_dim": 8},
    "RecurrentGemma": {"lru_width": 32, "attention_window_size": 16},
    "FalconH1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    # transformers' own Mamba 2 does not run in bfloat16 on a CPU
    [(name, torch.float32) for name in [*HYBRID, "Bloom"]]
    + [(name, torch.bfloat16) for name in [*HYBRID, "Bloom"] if name != "Mamba2"],
)
def test_models_that_mix_neighbours_fall_back(name: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    """Convolutions, recurrences, sinks and ALiBi: padded rows, said once, and the numbers of a plain loop."""
    torch.manual_seed(0)
    if name == "Bloom":
        model = tiny("bloom", dtype)
    else:
        settings = COMMON | HYBRID[name]
        model = getattr(hf, f"{name}ForCausalLM")(getattr(hf, f"{name}Config")(**settings)).to(dtype).eval()
    layout_selection._logged.clear()
    with caplog.at_level(logging.INFO, "prefopt.models.layout_selection"), torch.no_grad():
        forward(model, ragged(k=2), LOGPS)
        forward(copy.deepcopy(model), ragged(k=2), LOGPS)
    assert layout_selection._selected[model].layout == "padded"
    (said,) = (record for record in caplog.records if record.name == "prefopt.models.layout_selection")
    assert said.levelno == logging.WARNING and name in said.message and "padded rows" in said.message
    with pytest.raises(ValueError, match=f"'segments' would be wrong for {name}"):
        request_layout(model, "segments")
        forward(model, ragged(k=2), LOGPS)


def test_an_unknown_layout_is_an_error() -> None:
    with pytest.raises(ValueError, match="'packd'.*auto, padded, segments"):
        request_layout(tiny("llama"), "packd")


def test_a_prompt_is_computed_once_and_nothing_is_padded() -> None:
    model, batch = tiny("llama"), ragged(k=4)
    forward(model, batch, LOGPS)
    seen: list[Tensor] = []
    model.base_model.embed_tokens.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    forward(model, batch, LOGPS)
    prompts = batch.prompt_mask[batch.present.any(-1)].sum()
    last = batch.present.sum()  # predicts nothing, so it is not fed
    assert [len(ids.flatten()) for ids in seen] == [int(prompts + batch.response_mask.sum() - last)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt2"])
def test_no_sequence_sees_another(family: str, kernel: str) -> None:
    """Bit by bit: other tokens in one response leave all others as they were."""
    model, batch = tiny(family, torch.float32), rows(3, (4, 9), (2, 7))
    request_layout(model, kernel)
    out = forward(model, batch, LOGPS).logps
    ids = batch.response_ids.clone()
    ids[1, 1] = (ids[1, 1] + 5) % VOCAB
    other = forward(model, batch.with_columns(response_ids=ids), LOGPS).logps
    same = torch.ones(3, 3, dtype=torch.bool)
    same[1, 1] = False
    assert torch.equal(out[same], other[same]) and not torch.equal(out[1, 1], other[1, 1])


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_activation_checkpointing(family: str, kernel: str, reentrant: bool) -> None:
    """Recomputed layers attend as the first time, long after the model's own attention was put back."""
    plain = tiny(family)
    model = copy.deepcopy(plain).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    request_layout(model, kernel)
    before = [module.__dict__.get("_gradient_checkpointing_func") for module in model.modules()]
    assert_equals_loop(model, ragged(k=3), 1e-9, plain)
    assert [module.__dict__.get("_gradient_checkpointing_func") for module in model.modules()] == before
    assert model.config._attn_implementation == plain.config._attn_implementation


@pytest.mark.parametrize("kernel", [*KERNELS, "padded"])
@pytest.mark.parametrize("kind", LORAS)
def test_under_an_adapter(kind: str, kernel: str) -> None:
    model = with_adapter(tiny("llama tied" if kind == "in full" else "llama"), **LORAS[kind])
    request_layout(model.get_base_model(), kernel)
    assert_equals_loop(model, ragged(k=3), 1e-9)


@pytest.mark.parametrize("family", ["opt", "gemma2", "cohere", "granite"])
def test_an_adapter_on_the_head_of_a_family_that_shapes_its_logits(family: str) -> None:
    """The head is a module then; for OPT, which keeps its decoder a level deeper, not even that."""
    model = with_adapter(tiny(family), target_modules=["q_proj", "lm_head"])
    assert_equals_loop(model, ragged(k=2), 1e-9)


@pytest.mark.parametrize("family", [family for family in PACKED if family not in ("cohere", "granite")])
def test_scores_and_values_do_not_depend_on_the_layout(family: str) -> None:
    scorer = scorer_from_policy(tiny(family))
    attach_lm_head(scorer, tiny(family))
    wants = FROM_LOGITS | {"scores", "values"}
    found = {}
    for layout in ("padded", *KERNELS):
        request_layout(scorer, layout)
        found[layout] = forward(scorer, ragged(k=3), wants)
    for kernel in KERNELS:
        for name in wants:
            torch.testing.assert_close(getattr(found[kernel], name), getattr(found["padded"], name), rtol=0, atol=1e-9)


def test_a_reward_model_computes_no_vocabulary() -> None:
    scorer = scorer_from_policy(tiny("llama"))
    attach_lm_head(scorer, tiny("llama"))
    scorer.auxiliary_lm_head.register_forward_pre_hook(lambda *_: pytest.fail("the language head ran"))
    out = forward(scorer, ragged(k=2), frozenset({"scores"}))
    assert out.scores is not None and out.logps is None


def test_a_batch_of_absent_rows_runs_the_model_all_the_same() -> None:
    """A rank without rows must take part in what the others do; its gradients are zeros."""
    model = tiny("llama")
    batch = collate([{"prompt_ids": [], "response_ids": [[], []]}])
    out = forward(model, batch, LOGPS)
    assert out.logps is not None and (out.logps == 0).all()
    out.logps.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (parameter.grad == 0).all(), name


def test_trying_a_model_draws_no_random_numbers() -> None:
    model = tiny("gpt2", torch.float32).train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    layout_selection.select_layout(model, torch.device("cpu"), lambda compute: compute())
    assert torch.equal(torch.rand(3), expected) and model.training


def test_positions_and_segments_of_a_packed_row() -> None:
    """Two prompts of 2 and 1 tokens; responses of 3 and 1, and one of 2 beside an absent one."""
    batch = collate(
        [
            {"prompt_ids": [10, 11], "response_ids": [[12, 13, 14], [15]]},
            {"prompt_ids": [20], "response_ids": [[21, 22]]},
        ]
    )
    layout = packed(batch, whole=False)
    assert layout.inputs["input_ids"].tolist() == [[10, 11, 12, 13, 20, 21]]
    assert layout.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1]]
    assert layout.packing is not None and layout.packing.segments == [(2, [2]), (1, [1])]
    assert layout.before[batch.response_mask].tolist() == [1, 2, 3, 1, 4, 5]
    whole = packed(batch, whole=True)
    assert whole.inputs["input_ids"].tolist() == [[10, 11, 12, 13, 14, 15, 20, 21, 22]]
    assert whole.last[batch.present].tolist() == [4, 5, 8]


@pytest.mark.parametrize(("bits", "tolerance"), [(4, 1e-4), (8, 0.05)])
def test_a_quantised_backbone_under_an_adapter(bits: int, tolerance: float, tmp_path: Path) -> None:
    """Log-probs and the adapter's gradient on packed and on padded rows; 8-bit layers round by all rows together."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    tiny("llama", torch.float32, **sizes).save_pretrained(tmp_path)
    quantised = hf.BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    model = load_policy(str(tmp_path), quantization_config=quantised)
    keep_differentiable(model)
    model = with_adapter(model, target_modules=["q_proj", "down_proj"]).train()
    found = {}
    for layout in ("padded", "auto"):
        request_layout(model.get_base_model(), layout)
        out = forward(model, ragged(k=3), LOGPS).logps
        found[layout] = (out.detach(), gradients(model, out.square().sum()))
    assert layout_selection._selected[model.get_base_model()].layout == "segments"
    (padded, slopes), (packed, others) = found.values()
    assert_near(packed, padded, tolerance)
    assert slopes.keys() == others.keys() and len(slopes) > 0
    for name, slope in slopes.items():
        assert_near(others[name], slope, tolerance)


def test_layers_that_others_checkpoint_are_recomputed_right() -> None:
    """torch's own wrapper, which FSDP's activation checkpointing uses, recomputes after the forward is over."""
    plain = tiny("llama")
    model = copy.deepcopy(plain)
    for number, layer in enumerate(model.model.layers):
        model.model.layers[number] = checkpoint_wrapper(layer)
    out, expected = forward(model, ragged(k=3), LOGPS).logps, forward(plain, ragged(k=3), LOGPS).logps
    found, slopes = gradients(model, out.square().sum()), gradients(plain, expected.square().sum())
    assert len(found) == len(slopes) > 0
    for name, slope in slopes.items():
        wrapped = re.sub(r"(layers\.\d+)", r"\1._checkpoint_wrapped_module", name)
        assert_near(found[wrapped], slope, 1e-9)


def test_a_model_whose_backbone_has_another_name() -> None:
    """transformers then calls the whole model its own backbone: its own forward gives the logits, rows are packed."""

    class Oddly(hf.LlamaForCausalLM):
        base_model_prefix = "language_model"

    model = Oddly(tiny("llama").config).double()
    model.load_state_dict(tiny("llama").state_dict())
    assert_equals_loop(model, ragged(k=2), 1e-9)
    assert layout_selection._selected[model] == layout_selection.LayoutSelection("segments", frozenset())


def test_a_model_with_weights_elsewhere() -> None:
    """accelerate brings each weight when it is needed; until then it is on no device."""
    expected = forward(tiny("llama", torch.float32), ragged(k=2), LOGPS).logps
    model = cpu_offload(tiny("llama", torch.float32), execution_device=torch.device("cpu"))
    torch.testing.assert_close(forward(model, ragged(k=2), LOGPS).logps, expected)


@pytest.mark.parametrize("gives", [False, True])
@pytest.mark.parametrize("name", ["GraniteMoe", "Olmoe", "Mixtral", "Qwen2Moe", "Qwen3Moe"])
def test_experts_that_take_rows_together_are_packed(name: str, gives: bool) -> None:
    """Also where the model gives a loss that balances them, before its logits."""
    torch.manual_seed(0)
    experts = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "output_router_logits": gives}
    model = getattr(hf, f"{name}ForCausalLM")(getattr(hf, f"{name}Config")(**COMMON | experts)).eval()
    assert_equals_loop(model, ragged(k=2), 1e-5)
    assert layout_selection._selected[model].layout == "segments"


def test_weights_that_are_not_numbers_are_said_to_be_so(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("llama", torch.float32)
    model.model.norm.weight.data[0] = torch.nan
    forward(model, ragged(k=2), LOGPS)
    assert "hidden states are not finite" in caplog.text


def test_compiled_models_still_train() -> None:
    model, batch = tiny("llama", torch.float32), ragged(k=2)
    expected = forward(copy.deepcopy(model), batch, LOGPS).logps
    compiled = torch.compile(model, backend="aot_eager")
    out = forward(compiled, batch, LOGPS).logps
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
