"""A critic beside the policy says what it says alone, trains as if alone, and is saved and loaded by itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig
from transformers import BertForSequenceClassification as Bert

from prefopt.batch import Batch
from prefopt.data.collate import collate
from prefopt.models.auxiliary import CRITIC
from prefopt.models.critic import (
    attach_critic,
    critic_of,
    detach_critic,
    load_critic,
    new_critic,
    parameter_groups,
    save_critic,
)
from prefopt.models.forward import forward
from prefopt.models.heads import LM_HEAD, attach_lm_head, set_normalization
from prefopt.models.layout_selection import request_layout
from prefopt.models.load import load_policy, load_scorer
from prefopt.models.modes import disable_dropout, evaluating, without_dropout
from prefopt.models.reference import AdapterCopy, AdapterOff, copy_adapter, policy_fingerprint
from prefopt.models.wrappers import unwrap
from tests.helpers.by_hand import TO_ROUNDING, gradients
from tests.helpers.critics import (
    BOTH,
    CHECKPOINTS,
    apart,
    checkpointed,
    disturb,
    joint_loss,
    logps_of,
    names_in,
    policy_of,
    scorer_of,
    state_of,
    values_of,
)
from tests.helpers.models import tiny
from tests.helpers.rows import ragged

ADAPTERS = pytest.mark.parametrize("adapters", [(False, False), (True, False), (False, True), (True, True)], ids=str)


def pair(adapters: tuple[bool, bool], family: str = "llama") -> tuple[Any, Any]:
    """A policy and a critic that is not yet beside it; (policy, critic): which of the two has an adapter."""
    return policy_of(family, adapter=adapters[0]), scorer_of(family, adapter=adapters[1])


@pytest.mark.parametrize("layout", ["padded", "segments", "dense"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
@ADAPTERS
def test_values_and_log_probs_are_those_of_two_models(adapters: Any, family: str, layout: str) -> None:
    policy, critic = pair(adapters, family)
    for model in (policy, critic):
        request_layout(unwrap(model), layout)
    values, logps = values_of(critic), logps_of(policy)
    assert values.std() > 0.1
    attach_critic(policy, critic)
    assert critic_of(policy) is critic
    out = forward(policy, ragged(k=2), BOTH)
    assert torch.equal(out.values, values) and torch.equal(out.logps, logps)
    assert torch.equal(values_of(policy), values) and torch.equal(logps_of(policy), logps)


def test_a_critic_has_a_layout_of_its_own() -> None:
    policy, critic = pair((False, False), "llama")
    request_layout(policy, "padded")
    request_layout(critic, "segments")
    seen: dict[str, torch.Size] = {}
    for name, model in (("policy", policy), ("critic", critic)):
        hook = lambda module, args, kwargs, name=name: seen.__setitem__(name, [*args, *kwargs.values()][0].shape)  # noqa: E731
        model.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    attach_critic(policy, critic)
    forward(policy, ragged(k=2), BOTH)
    assert seen["policy"][0] > 1 and seen["critic"][0] == 1


def test_only_what_is_wanted_runs() -> None:
    policy, critic = pair((False, False))
    attach_critic(policy, critic)
    forward(policy, ragged(k=2), BOTH)  # both have chosen their layouts
    ran: list[str] = []
    policy.model.register_forward_hook(lambda *_: ran.append("policy"))
    critic.model.register_forward_hook(lambda *_: ran.append("critic"))
    for wants, expected in (({"logps"}, ["policy"]), ({"values"}, ["critic"]), (BOTH, ["policy", "critic"])):
        ran.clear()
        forward(policy, ragged(k=2), frozenset(wants))
        assert ran == expected


def test_all_is_computed_inside_one_call_of_the_wrapper() -> None:
    class Wrapper(nn.parallel.DistributedDataParallel):
        def __init__(self, module: nn.Module):
            nn.Module.__init__(self)
            self.module, self.inside, self.calls = module, False, 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.inside, self.calls = True, self.calls + 1
            try:
                return self.module(*args, **kwargs)
            finally:
                self.inside = False

    policy, critic = pair((False, False))
    attach_critic(policy, critic)
    forward(policy, ragged(k=2), BOTH)
    wrapper, where = Wrapper(policy), []
    for part in (policy.model, critic.model, critic.score):
        part.register_forward_hook(lambda *_: where.append(wrapper.inside))
    assert torch.equal(forward(wrapper, ragged(k=2), BOTH).values, values_of(critic))
    assert wrapper.calls == 1 and where[:3] == [True] * 3


@pytest.mark.parametrize("layout", ["padded", "segments"])
def test_a_value_does_not_see_its_token(layout: str) -> None:
    policy, critic = pair((True, True))
    request_layout(unwrap(critic), layout)
    attach_critic(policy, critic)
    row = {"prompt_ids": [5, 6, 7], "response_ids": [[8, 9, 10, 11, 12], [13, 14, 15]]}
    before = values_of(policy, collate([row]))
    for t in range(5):
        changed = [*row["response_ids"][0]]
        changed[t] = 40
        after = values_of(policy, collate([row | {"response_ids": [changed, row["response_ids"][1]]}]))
        torch.testing.assert_close(after[0, 0, : t + 1], before[0, 0, : t + 1], rtol=0, atol=1e-12)
        assert (after[0, 0, t + 1 :] != before[0, 0, t + 1 :]).all()
        torch.testing.assert_close(after[0, 1], before[0, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
@ADAPTERS
def test_gradients_are_those_of_two_models(adapters: Any, checkpoints: str) -> None:
    batch = ragged(k=2)
    expected, expected_critic = apart(*(model.train() for model in pair(adapters)), batch)
    policy, critic = pair(adapters)
    attach_critic(policy, critic)
    checkpointed(policy, CHECKPOINTS[checkpoints])
    found = gradients(policy, joint_loss(policy, batch))
    ours = {n: g for n, g in found.items() if CRITIC not in n}
    theirs = {n.split(f"{CRITIC}.model.")[1]: g for n, g in found.items() if CRITIC in n}
    for some, wanted in ((ours, expected), (theirs, expected_critic)):
        assert some.keys() == wanted.keys() and len(some) > 2
        for name, gradient in wanted.items():
            torch.testing.assert_close(some[name], gradient, rtol=1e-9, atol=1e-9, msg=name)


@ADAPTERS
def test_parameter_groups_are_disjoint_and_complete(adapters: Any) -> None:
    policy, critic = pair(adapters)
    alone = {id(p) for p in policy.parameters() if p.requires_grad}
    theirs = {id(p) for p in critic.parameters() if p.requires_grad}
    attach_critic(policy, critic)
    groups = parameter_groups(policy)
    assert {id(p) for p in groups["policy"]} == alone and {id(p) for p in groups["critic"]} == theirs
    assert len(groups["policy"]) == len(alone) and len(groups["critic"]) == len(theirs) > 0
    assert not parameter_groups(tiny("llama"))["critic"]


# ---- saving and loading --------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> str:
    tiny("llama").save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def on_disk(base: str, adapters: tuple[bool, bool]) -> tuple[Any, Any]:
    """As `pair`, the critic's backbone being the folder's."""
    policy = policy_of(adapter=adapters[0], base=load_policy(base, dtype=torch.float64))
    critic = load_policy(base, dtype=torch.float64)
    critic.config._name_or_path = base
    return policy, scorer_of(adapter=adapters[1], base=critic)


@ADAPTERS
def test_the_saved_policy_has_no_critic(adapters: Any, base: str, tmp_path: Path) -> None:
    policy, critic = on_disk(base, adapters)
    policy.save_pretrained(tmp_path / "before")
    attach_critic(policy, critic)
    policy.save_pretrained(tmp_path / "after")
    files = [{f.name for f in (tmp_path / n).iterdir()} for n in ("before", "after")]
    assert files[0] == files[1]
    file = "adapter_model.safetensors" if adapters[0] else "model.safetensors"
    assert names_in(tmp_path / "after" / file) == names_in(tmp_path / "before" / file)
    if adapters[0]:
        again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "after", dtype=torch.float64)
        assert set(again.peft_config) == {"default"}
    else:
        again, told = AutoModelForCausalLM.from_pretrained(
            tmp_path / "after", dtype=torch.float64, output_loading_info=True
        )
        assert not told["missing_keys"] and not told["unexpected_keys"]
    assert torch.equal(logps_of(again), logps_of(policy))
    assert critic_of(policy) is critic


@ADAPTERS
def test_a_saved_critic_loads_alone(adapters: Any, base: str, tmp_path: Path) -> None:
    policy, critic = on_disk(base, adapters)
    attach_critic(policy, critic)
    save_critic(policy, tmp_path / "critic")
    auto: Any = AutoPeftModelForSequenceClassification if adapters[1] else AutoModelForSequenceClassification
    again = auto.from_pretrained(tmp_path / "critic", dtype=torch.float64, num_labels=1)
    for alone in (again, load_scorer(str(tmp_path / "critic"), dtype=torch.float64)):
        torch.testing.assert_close(values_of(alone), values_of(policy), **TO_ROUNDING)


@ADAPTERS
def test_a_critic_is_read_back_in_place(adapters: Any, base: str, tmp_path: Path) -> None:
    policy, critic = on_disk(base, adapters)
    attach_critic(policy, critic)
    save_critic(policy, tmp_path / "critic")
    before, values, logps = dict(critic.named_parameters()), values_of(policy), logps_of(policy)
    disturb(critic, 11)
    assert not torch.equal(values_of(policy), values)
    load_critic(policy, tmp_path / "critic")
    assert torch.equal(values_of(policy), values) and torch.equal(logps_of(policy), logps)
    assert all(p is before[name] for name, p in critic.named_parameters())


def test_a_bfloat16_critic_keeps_a_float32_head(tmp_path: Path) -> None:
    policy = tiny("llama", torch.bfloat16)
    attach_critic(policy, new_critic(scorer_of(), policy))
    critic: Any = critic_of(policy)
    assert critic.dtype == torch.bfloat16 and critic.score.weight.dtype == torch.float32
    save_critic(policy, tmp_path)
    start = state_of(critic)
    disturb(critic, 1)
    load_critic(policy, tmp_path)
    assert all(torch.equal(t, start[n]) and t.dtype == start[n].dtype for n, t in critic.state_dict().items())


def test_a_folder_of_another_critic_is_refused(tmp_path: Path) -> None:
    policy = tiny("llama")
    attach_critic(policy, scorer_of())
    tiny_critic = scorer_of(base=tiny("llama", intermediate_size=96))
    tiny_critic.save_pretrained(tmp_path / "small")
    start = state_of(critic_of(policy))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds other weights"):
        load_critic(policy, tmp_path / "small")
    assert all(torch.equal(t, start[n]) for n, t in critic_of(policy).state_dict().items())  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="has no critic"):
        save_critic(tiny("llama"), tmp_path / "none")


@ADAPTERS
def test_detaching_leaves_the_policy_as_it_was(adapters: Any) -> None:
    policy, critic = pair(adapters)
    modules, state, logps = [n for n, _ in policy.named_modules()], state_of(policy), logps_of(policy)
    flags = [p.requires_grad for p in policy.parameters()]
    detach_critic(policy)
    attach_critic(policy, critic)
    detach_critic(policy)
    assert critic_of(policy) is None and "save_pretrained" not in policy.__dict__
    assert [n for n, _ in policy.named_modules()] == modules
    assert [p.requires_grad for p in policy.parameters()] == flags
    assert all(torch.equal(t, state[n]) for n, t in policy.state_dict().items())
    assert torch.equal(logps_of(policy), logps)


@ADAPTERS
def test_a_policy_with_a_critic_is_copied_whole(adapters: Any, tmp_path: Path) -> None:
    policy, critic = pair(adapters)
    attach_critic(policy, critic)
    again = copy.deepcopy(policy)
    assert torch.equal(values_of(again), values_of(policy)) and critic_of(again) is not critic
    disturb(again, 2)
    assert not torch.equal(values_of(again), values_of(policy))
    again.save_pretrained(tmp_path)
    assert policy_fingerprint(policy, TOKENIZER) != policy_fingerprint(again, TOKENIZER)


class _Words:
    eos_token_id, chat_template = 1, None

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}


TOKENIZER = _Words()


def test_the_policys_version_is_its_own() -> None:
    policy = tiny("llama")
    version = policy_fingerprint(policy, TOKENIZER)
    attach_critic(policy, scorer_of())
    assert policy_fingerprint(policy, TOKENIZER) == version


# ---- beside references and modes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("critics", [False, True])
def test_an_adapters_references_work_beside_a_critic(critics: bool) -> None:
    policy, critic = pair((True, critics))
    start = logps_of(policy)
    copy_adapter(policy)
    with policy.disable_adapter():
        plain = logps_of(policy)
    attach_critic(policy, critic)
    values, wants = values_of(policy), frozenset({"logps"})
    flags = {n: p.requires_grad for n, p in policy.named_parameters()}
    for reference, expected in ((AdapterCopy(), start), (AdapterOff(), plain)):
        assert torch.equal(reference(policy, ragged(k=2), wants).logps, expected)
    assert {n: p.requires_grad for n, p in policy.named_parameters()} == flags
    assert torch.equal(values_of(policy), values) and torch.equal(logps_of(policy), start)


def test_modes_reach_the_critic() -> None:
    policy, critic = tiny("llama"), scorer_of(base=tiny("llama", attention_dropout=0.5, seed=2))
    attach_critic(policy, critic)
    plain = values_of(policy)
    policy.train()
    assert not torch.equal(values_of(policy), plain)
    with evaluating(policy):
        assert torch.equal(values_of(policy), plain)
    with without_dropout(policy):
        assert torch.equal(values_of(policy), plain)
    assert critic.training and not torch.equal(values_of(policy), plain)
    disable_dropout(policy)
    assert torch.equal(values_of(policy), plain)


# ---- what a critic starts from -------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [False, True])
def test_a_critic_starts_as_a_copy_of_the_reward_model(adapter: bool) -> None:
    policy, scorer = tiny("llama").train(), scorer_of(adapter=adapter)
    inner: Any = unwrap(scorer)
    attach_lm_head(inner, tiny("llama"))
    set_normalization(scorer, 3.0, 2.0)
    expected = {n for n, p in scorer.named_parameters() if p.requires_grad and LM_HEAD not in n}
    values = values_of(scorer)
    scorer.requires_grad_(False)
    critic = new_critic(scorer, policy)
    assert torch.equal(values_of(critic.eval()), values)
    assert {n for n, p in critic.named_parameters() if p.requires_grad} == expected
    assert not hasattr(critic.config, "score_mean") and scorer.config.score_mean == 3.0
    assert not hasattr(unwrap(critic), LM_HEAD) and hasattr(inner, LM_HEAD)
    assert not any(p.requires_grad for p in scorer.parameters())
    disturb(critic, 1)
    assert torch.equal(values_of(scorer), values)


@pytest.mark.parametrize("adapter", [False, True])
def test_a_critic_from_the_policy_has_its_backbone_and_says_zero(adapter: bool) -> None:
    policy = policy_of(adapter=adapter)
    merged = copy.deepcopy(policy).merge_and_unload() if adapter else policy
    critic = new_critic(None, policy)
    assert not isinstance(critic, PeftModel) and all(p.requires_grad for p in critic.parameters())
    for name, weight in merged.model.named_parameters():
        assert torch.equal(critic.model.get_parameter(name), weight), name
    assert values_of(critic).abs().max() == 0
    attach_critic(policy, critic)
    assert len(parameter_groups(policy)["critic"]) == len(list(critic.parameters()))


def test_a_critic_from_a_folder(tmp_path: Path, base: str, tokenizer: Any) -> None:
    scorer = scorer_of()
    scorer.save_pretrained(tmp_path / "rm")
    policy = tiny("llama")
    assert torch.equal(values_of(new_critic(tmp_path / "rm", policy, tokenizer)), values_of(scorer))
    assert values_of(new_critic(base, policy)).abs().max() == 0  # a language model: the head is new
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["entirely new"])
    other.save_pretrained(tmp_path / "rm")
    with pytest.raises(ValueError, match="another tokenizer"):
        new_critic(str(tmp_path / "rm"), policy, tokenizer)


# ---- what cannot be a critic ---------------------------------------------------------------------------------------


def bidirectional() -> Any:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 32}
    return Bert(BertConfig(vocab_size=100, num_labels=1, **sizes)).eval()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda policy: tiny("llama"), "no reward head"),
        (lambda policy: scorer_of(base=tiny("llama", vocab_size=40)), "knows 40 tokens and the policy has 61"),
        (lambda policy: bidirectional(), "sees the tokens after"),
        (lambda policy: policy, "values of its own|no reward head|is a reward model"),
    ],
)
def test_what_cannot_be_a_critic_is_refused(make: Any, match: str) -> None:
    policy = tiny("llama")
    with pytest.raises(ValueError, match=match):
        attach_critic(policy, make(policy))
    assert critic_of(policy) is None


def test_one_critic_at_a_time_and_none_on_a_reward_model() -> None:
    policy = tiny("llama")
    attach_critic(policy, scorer_of())
    with pytest.raises(ValueError, match="detach_critic"):
        attach_critic(policy, scorer_of())
    with pytest.raises(ValueError, match="values of its own"):
        attach_critic(scorer_of(), scorer_of())


def test_a_reward_model_still_has_its_own_values() -> None:
    scorer = scorer_of()
    batch: Batch = ragged(k=2)
    out = forward(scorer, batch, frozenset({"values", "scores"}))
    torch.testing.assert_close(out.values, values_of(scorer, batch), rtol=1e-9, atol=1e-9)
    assert out.scores.abs().max() > 0
    with pytest.raises(ValueError, match="no reward head"):
        forward(tiny("llama"), batch, BOTH)
