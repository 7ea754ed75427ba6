"""A critic on the policy's own backbone says and learns what a separate one of the same weights would."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model

from prefopt import DPOConfig, DPOTrainer
from prefopt.models.auxiliary import CRITIC
from prefopt.models.critic import (
    attach_critic,
    critic_of,
    detach_critic,
    load_critic,
    parameter_groups,
    save_critic,
)
from prefopt.models.forward import forward
from prefopt.models.layout_selection import request_layout
from prefopt.models.load import load_policy, load_scorer
from prefopt.models.peft_adapters import (
    AUXILIARY_ADAPTERS,
    REFERENCE_ADAPTER,
    copy_adapter,
    preserved_adapter_state,
    saving_policy_only,
    using_adapter,
)
from prefopt.models.reference import AdapterCopy, AdapterOff
from prefopt.models.shared_critic import SharedCritic, share_critic
from prefopt.models.wrappers import unwrap
from prefopt.training.parts import trained_by
from tests.helpers.by_hand import gradients
from tests.helpers.critics import (
    BOTH,
    CHECKPOINTS,
    apart,
    checkpointed,
    disturb,
    joint_loss,
    logps_of,
    lora,
    names_in,
    policy_of,
    scorer_of,
    state_of,
    values_of,
)
from tests.helpers.models import tiny, tiny_llama
from tests.helpers.rows import ragged, ragged_pairs
from tests.helpers.training import quiet

FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
OTHER = {"r": 2, "target_modules": ["o_proj", "v_proj"], "lora_alpha": 3}
"""The critic's adapter may be of another rank and on other layers than the policy's."""


def shared(family: str = "llama", **config: Any) -> tuple[Any, Any]:
    """A policy that shares its backbone with a critic, and the reward model that the critic is a copy of."""
    policy, scorer = policy_of(family, adapter=True), scorer_of(family, adapter=True, **config)
    share_critic(policy, scorer=scorer)
    return policy, scorer


@pytest.mark.parametrize("layout", ["padded", "segments"])
@FAMILIES
def test_values_are_the_reward_models_and_log_probs_the_policys(family: str, layout: str) -> None:
    logps = logps_of(policy_of(family, adapter=True))
    policy, scorer = shared(family)
    for model in (policy, scorer):
        request_layout(unwrap(model), layout)
    out = forward(policy, ragged(k=2), BOTH)
    torch.testing.assert_close(out.values, values_of(scorer), rtol=0, atol=1e-12)
    torch.testing.assert_close(out.logps, logps, rtol=0, atol=1e-12)
    assert out.values.std() > 0.1
    torch.testing.assert_close(values_of(policy), out.values, rtol=0, atol=1e-12)
    assert isinstance(critic_of(policy), SharedCritic)


@pytest.mark.parametrize("config", [{}, OTHER], ids=["alike", "other"])
@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
@pytest.mark.parametrize("layout", ["padded", "segments"])
def test_gradients_are_those_of_two_models(layout: str, checkpoints: str, config: Any) -> None:
    batch = ragged(k=2)
    alone = policy_of(adapter=True), scorer_of(adapter=True, **config)
    for model in alone:
        request_layout(unwrap(model), layout)
    expected, expected_critic = apart(*(model.train() for model in alone), batch)
    policy, _ = shared(**config)
    request_layout(unwrap(policy), layout)
    checkpointed(policy, CHECKPOINTS[checkpoints])
    found = gradients(policy, joint_loss(policy, batch))
    ours = {n: g for n, g in found.items() if CRITIC not in n.split(".")}
    theirs = {n: g for n, g in found.items() if CRITIC in n.split(".")}
    assert ours.keys() == expected.keys() and len(theirs) == len(expected_critic)
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-9, msg=name)
    for name, gradient in expected_critic.items():
        own = name.replace(".default.", f".{CRITIC}.").replace("score.modules_to_save.", "")
        own = own.replace(f"model.{CRITIC}.weight", f"model.{CRITIC}.score.weight") if "lora" not in own else own
        torch.testing.assert_close(theirs[own], gradient, rtol=1e-9, atol=1e-9, msg=name)
        assert gradient.abs().max() > 0


def test_a_value_does_not_see_its_token() -> None:
    policy, _ = shared()
    before, batch = values_of(policy), ragged(k=2)
    ids = batch.response_ids.clone()
    ids[:, :, 2] = (ids[:, :, 2] + 1) % 61
    after = values_of(policy, batch.with_columns(response_ids=ids))
    torch.testing.assert_close(after[..., :3], before[..., :3], rtol=0, atol=1e-12)
    assert (after[..., 3:] != before[..., 3:]).any()


def test_parameter_groups() -> None:
    policy, scorer = shared(**OTHER)
    groups, plain = parameter_groups(policy), policy_of(adapter=True)
    own = [p for p in plain.parameters() if p.requires_grad]
    assert [p.shape for p in groups["policy"]] == [p.shape for p in own]
    trained = [p for p in scorer.parameters() if p.requires_grad]
    assert sum(p.numel() for p in groups["critic"]) == sum(p.numel() for p in trained)
    both = [id(p) for group in groups.values() for p in group]
    assert sorted(both) == sorted(id(p) for p in policy.parameters() if p.requires_grad) and len(set(both)) == len(both)


@pytest.mark.parametrize("scorer", ["none", "plain", "other weights", "other size"])
def test_without_an_equal_backbone_it_starts_from_zero(scorer: str, caplog: Any) -> None:
    policy = policy_of(adapter=True)
    given = {
        "none": lambda: None,
        "plain": scorer_of,
        "other weights": lambda: scorer_of(adapter=True, base=tiny("llama", seed=9)),
        "other size": lambda: scorer_of(adapter=True, base=tiny("llama", intermediate_size=96)),
    }[scorer]()
    with caplog.at_level(logging.INFO, "prefopt.models.shared_critic"):
        critic = share_critic(policy, scorer=given)
    assert "starts from a fresh adapter" in caplog.text
    assert ("cannot start from the reward model" in caplog.text) == (scorer != "none")
    assert values_of(policy).abs().max() == 0 and critic.head.weight.dtype == torch.float64
    assert policy.peft_config[CRITIC].r == policy.peft_config["default"].r
    forward(policy, ragged(k=2), BOTH).values.sum().backward()
    assert critic.head.weight.grad.abs().max() > 0


def test_the_head_is_float32_under_a_bfloat16_policy() -> None:
    policy = get_peft_model(tiny("llama", torch.bfloat16), lora("llama", "CAUSAL_LM"))
    assert share_critic(policy, peft_config=LoraConfig(**OTHER)).head.weight.dtype == torch.float32
    assert values_of(policy).dtype == torch.float32 and policy.peft_config[CRITIC].r == 2


# ---- saving and loading --------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> str:
    tiny("llama").save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def from_disk(base: str) -> Any:
    policy = policy_of(adapter=True, base=load_policy(base, dtype=torch.float64))
    share_critic(policy, LoraConfig(**OTHER))
    return disturb(policy, 5)


def test_a_saved_critic_loads_alone(base: str, tmp_path: Path) -> None:
    policy = from_disk(base)
    save_critic(policy, tmp_path / "critic")
    folder = str(tmp_path / "critic")
    again = AutoPeftModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64, num_labels=1)
    for each in (again, load_scorer(folder, dtype=torch.float64)):
        torch.testing.assert_close(values_of(each), values_of(policy), rtol=0, atol=1e-12)
    assert values_of(policy).std() > 0.01
    assert not any(
        name in key for key in names_in(tmp_path / "critic/adapter_model.safetensors") for name in AUXILIARY_ADAPTERS
    )
    fresh = policy_of(adapter=True, base=load_policy(base, dtype=torch.float64))
    share_critic(fresh, scorer=folder)
    assert not torch.equal(values_of(fresh), torch.zeros_like(values_of(fresh)))


def test_a_critic_is_read_back_in_place(base: str, tmp_path: Path) -> None:
    policy = from_disk(base)
    save_critic(policy, tmp_path / "critic")
    values, logps, before = values_of(policy), logps_of(policy), dict(policy.named_parameters())
    with torch.no_grad():
        for parameter in parameter_groups(policy)["critic"]:
            parameter.add_(1.0)
    assert not torch.equal(values_of(policy), values)
    load_critic(policy, tmp_path / "critic")
    assert torch.equal(values_of(policy), values) and torch.equal(logps_of(policy), logps)
    assert all(p is before[name] for name, p in policy.named_parameters())


@pytest.mark.parametrize("within", [False, True])
def test_the_saved_policy_has_one_adapter(within: bool, base: str, tmp_path: Path) -> None:
    policy = from_disk(base)
    copy_adapter(policy)
    if within:
        with saving_policy_only(policy):
            policy.save_pretrained(tmp_path / "saved")
    else:
        policy.save_pretrained(tmp_path / "saved")
    assert [f.name for f in (tmp_path / "saved").iterdir() if f.is_dir()] == []
    names = names_in(tmp_path / "saved" / "adapter_model.safetensors")
    assert len(names) == len(parameter_groups(policy)["policy"])
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float64)
    torch.testing.assert_close(logps_of(again), logps_of(policy), rtol=0, atol=1e-12)
    assert set(policy.peft_config) == {"default", *AUXILIARY_ADAPTERS}


@pytest.mark.parametrize("config", [{}, OTHER | {"modules_to_save": ["embed_tokens"]}], ids=["alike", "other"])
def test_detaching_leaves_the_policy_as_it_was(config: Any) -> None:
    policy = policy_of(adapter=True)
    modules, state, logps = [n for n, _ in policy.named_modules()], state_of(policy), logps_of(policy)
    flags = [p.requires_grad for p in policy.parameters()]
    share_critic(policy, LoraConfig(**config) if config else None)
    detach_critic(policy)
    assert critic_of(policy) is None and set(policy.peft_config) == {"default"}
    assert policy.active_adapter == "default" and "save_pretrained" not in policy.__dict__
    assert [n for n, _ in policy.named_modules()] == modules
    assert [p.requires_grad for p in policy.parameters()] == flags
    assert all(torch.equal(t, state[n]) for n, t in policy.state_dict().items()) and len(state) == len(
        policy.state_dict()
    )
    assert torch.equal(logps_of(policy), logps)
    share_critic(policy)  # and again


def test_references_beside_a_shared_critic() -> None:
    policy = policy_of(adapter=True)
    start = logps_of(policy)
    copy_adapter(policy)
    with policy.disable_adapter():
        plain = logps_of(policy)
    share_critic(policy, scorer=scorer_of(adapter=True))
    values = values_of(policy)
    flags = {n: p.requires_grad for n, p in policy.named_parameters()}
    assert any(flags[n] for n in flags if CRITIC in n) and not any(flags[n] for n in flags if REFERENCE_ADAPTER in n)
    for reference, expected in ((AdapterCopy(), start), (AdapterOff(), plain)):
        assert torch.equal(reference(policy, ragged(k=2), frozenset({"logps"})).logps, expected)
    assert {n: p.requires_grad for n, p in policy.named_parameters()} == flags
    assert torch.equal(values_of(policy), values)


def test_same_gradients_and_active_undo_what_peft_changes() -> None:
    policy, _ = shared()
    logps, values = logps_of(policy), values_of(policy)
    flags = {n: p.requires_grad for n, p in policy.named_parameters()}
    with preserved_adapter_state(policy):
        policy.set_adapter(CRITIC)
        assert not torch.equal(logps_of(policy), logps)
        assert {n: p.requires_grad for n, p in policy.named_parameters()} != flags
    with using_adapter(policy, CRITIC):
        assert not torch.equal(logps_of(policy), logps)
    assert policy.active_adapter == "default" and torch.equal(logps_of(policy), logps)
    assert {n: p.requires_grad for n, p in policy.named_parameters()} == flags
    assert torch.equal(values_of(policy), values)
    with pytest.raises(ValueError, match="has an adapter 'none'"), using_adapter(policy, "none"):
        pass


def test_a_copy_of_the_policy_has_a_critic_of_its_own() -> None:
    policy, _ = shared()
    again, values = copy.deepcopy(policy), values_of(policy)
    disturb(again, 2)
    assert not torch.equal(values_of(again), values) and torch.equal(values_of(policy), values)


# ---- a trainer that saves and resumes ------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", ["shared", "own adapter", "own"])
def test_a_trainer_saves_and_reads_the_two_apart(kind: str, adapter: bool, tmp_path: Path, tokenizer: Any) -> None:
    if kind == "shared" and not adapter:
        pytest.skip("sharing needs an adapter")
    tiny_llama(dtype=torch.float64).save_pretrained(tmp_path / "base")

    def trainer(folder: str, seed: int) -> DPOTrainer:
        policy = policy_of(adapter=adapter, base=load_policy(str(tmp_path / "base"), dtype=torch.float64), seed=seed)
        args = DPOConfig(**quiet(tmp_path / folder))
        made = DPOTrainer(policy, args=args, train_dataset=ragged_pairs(8), processing_class=tokenizer)
        if kind == "shared":
            share_critic(policy)
        else:
            own = tiny_llama(dtype=torch.float64, seed=4)
            attach_critic(policy, scorer_of(adapter=kind == "own adapter", base=own))
        made.trained = made.checkpoints.trained = trained_by(lambda: made.model, args, made.step)  # now two models
        return disturbed(made, seed)

    def disturbed(made: Any, seed: int) -> Any:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in [p for group in parameter_groups(made.model).values() for p in group]:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        made.model.eval()
        return made

    first, second = trainer("first", 1), trainer("second", 2)
    first.save_model(str(tmp_path / "saved"))
    flags = {n: p.requires_grad for n, p in second.model.named_parameters()}
    assert not torch.allclose(values_of(second.model), values_of(first.model))
    assert not torch.allclose(logps_of(second.model), logps_of(first.model))
    second._load_from_checkpoint(str(tmp_path / "saved"))
    torch.testing.assert_close(logps_of(second.model), logps_of(first.model), rtol=0, atol=1e-12)
    torch.testing.assert_close(values_of(second.model), values_of(first.model), rtol=0, atol=1e-12)
    assert {n: p.requires_grad for n, p in second.model.named_parameters()} == flags
    assert not adapter or second.model.active_adapter == "default"
    file = "adapter_model.safetensors" if adapter else "model.safetensors"
    assert not any(name in key for key in names_in(tmp_path / "saved" / "policy" / file) for name in AUXILIARY_ADAPTERS)


# ---- what cannot be shared -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (None, "needs an adapter on the policy"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"init_lora_weights": "olora"}, "rewriting the base weights"),
    ],
)
def test_what_cannot_share_is_refused(config: Any, match: str) -> None:
    policy = tiny("llama", torch.float32)
    policy = policy if config is None else get_peft_model(policy, lora("llama", "CAUSAL_LM", **config))
    with pytest.raises(ValueError, match=match):
        share_critic(policy)
    assert critic_of(policy) is None


def test_one_critic_at_a_time() -> None:
    policy, _ = shared()
    with pytest.raises(ValueError, match="detach_critic"):
        share_critic(policy)
    with pytest.raises(ValueError, match="detach_critic"):
        attach_critic(policy, scorer_of())


def test_an_adapter_on_the_head_is_the_policys_alone() -> None:
    head = lora("llama", "CAUSAL_LM", target_modules=["q_proj", "lm_head"])
    policy = disturb(get_peft_model(tiny("llama"), head), 1)
    share_critic(policy)
    assert not any(CRITIC in name for name, _ in policy.get_base_model().lm_head.named_parameters())
    everything = get_peft_model(tiny("llama"), lora("llama", "CAUSAL_LM", target_modules="all-linear"))
    share_critic(everything, lora("llama", "SEQ_CLS", target_modules="all-linear"))
    assert not any(CRITIC in name for name, _ in everything.get_base_model().lm_head.named_parameters())
    pattern = lora("llama", "CAUSAL_LM", target_modules=r".*(q_proj|lm_head)")
    with pytest.raises(ValueError, match="output head"):
        share_critic(get_peft_model(tiny("llama"), pattern))
