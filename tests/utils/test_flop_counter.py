"""What is counted, against numbers worked by hand, torch's own counter, and what must not change it."""

from __future__ import annotations

import importlib
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from prefopt.batch import Batch
from prefopt.data.collate import collate
from prefopt.generation import sample
from prefopt.generation.beams import beam_search
from prefopt.generation.vllm import VLLM
from prefopt.models.critic import attach_critic, new_critic
from prefopt.models.flops import count_forward, flops_model_of
from prefopt.models.forward import forward
from prefopt.models.heads import scorer_from_policy
from prefopt.models.layout_selection import request_layout
from prefopt.models.reference import reference_for
from prefopt.models.shared_critic import share_critic
from prefopt.scoring import RewardModelScorer
from prefopt.utils.flop_counter import FlopCounter, add, count_flops, is_counting, paused, scope
from tests.helpers.models import FAMILIES, tiny, tiny_llama
from tests.helpers.vllm import stand_in

LOGPS, SCORES, VALUES = (frozenset({name}) for name in ("logps", "scores", "values"))
ROWS = [{"prompt_ids": [7, 8, 9], "response_ids": [[4, 5], [6, 7, 8, 9]]}]
PROMPTS = [[{"role": "user", "content": text}] for text in ("Hi", "What is 2 + 2?", "Tell me how to cut paper.")]

# tiny_llama: 32 wide, 4 query heads and 2 key heads of 8, 64 in the middle, 2 layers, 1000 tokens.
LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
TOKEN = 2 * 2 * LAYER
PAIR = 2 * (4 * 4 * 8)
"""Of both layers together."""
HEAD = 2 * 32 * 1000
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
ADAPTER = 2 * 2 * (4 * (32 + 32) + 4 * (32 + 16))


def batch(rows: list[dict[str, Any]] = ROWS) -> Batch:
    return collate(rows)


def counted(model: Any, given: Batch, wants: frozenset[str] = LOGPS, grad: bool = False) -> FlopCounter:
    with count_flops() as counter, torch.set_grad_enabled(grad):
        forward(model, given, wants)
    return counter


# ---- who counts ----------------------------------------------------------------------------------------------------


def test_nested_ones_each_count_and_the_outermost_label_stands() -> None:
    with count_flops() as outer:
        add("training", 2.0, 1)
        with scope("trials"), count_flops() as inner, scope("scoring"):
            add("generation", 3.0, 4)
        with paused():
            assert not is_counting()
            add("training", 100.0, 100)
            with count_flops() as own:
                add("training", 5.0, 2)
        with scope("scoring"):
            add("other", 7.0, 3)
    assert outer.flops == {"training": 2.0, "trials": 3.0, "scoring": 7.0} and outer.total == 12.0
    assert outer.tokens == {"training": 1, "trials": 4, "scoring": 3}
    assert inner.flops == {"trials": 3.0} and own.flops == {"training": 5.0}
    assert not is_counting()


def test_an_error_ends_the_counting() -> None:
    for context in (count_flops(), paused(), scope("scoring")):
        with pytest.raises(KeyError), context:
            raise KeyError
    with count_flops() as counter:
        add("other", 1.0, 1)
    assert counter.flops == {"other": 1.0} and not is_counting()


def test_nothing_is_computed_for_a_count_that_nobody_takes(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("counted for nobody")

    for place in (
        "models.forward.count_forward",
        "generation._engine.flops_model_of",
        "generation.beams.flops_model_of",
    ):
        monkeypatch.setattr(f"prefopt.{place}", never)
    model = tiny_llama()
    forward(model, batch(), LOGPS)
    sample(model, tokenizer, PROMPTS, max_new_tokens=3)
    beam_search(model, tokenizer, PROMPTS, max_new_tokens=3)
    with count_flops(), pytest.raises(AssertionError, match="for nobody"):
        forward(model, batch(), LOGPS)
    began = time.thread_time()  # of this thread's own work, however busy the computer is
    for _ in range(10_000):
        is_counting()
    assert (time.thread_time() - began) / 10_000 < 1e-5  # a look-up: about 50 ns


def test_counting_changes_no_result(tokenizer: Any) -> None:
    def run() -> list[Any]:
        model = tiny_llama()
        model.requires_grad_(True)
        out = forward(model, batch(), LOGPS)
        out.required("logps").sum().backward()
        drawn = sample(model, tokenizer, PROMPTS, k=2, max_new_tokens=6)
        found = beam_search(model, tokenizer, PROMPTS, max_new_tokens=6)
        return [out.required("logps").tolist(), model.lm_head.weight.grad.tolist(), drawn, found]

    alone = run()
    with count_flops() as counter:
        assert run() == alone
    assert set(counter.flops) == {"training", "generation"}


# ---- a forward pass, by hand ---------------------------------------------------------------------------------------


def test_packed_rows_compute_the_prompt_once() -> None:
    """Fed are 3 tokens of the prompt, and 1 and 3 of the responses, whose last tokens predict nothing."""
    found = counted(tiny_llama(), batch())
    assert found.tokens == {"other": 7}
    pairs = (1 + 2 + 3) + 4 + (4 + 5 + 6)
    assert found.flops == {"other": 7 * TOKEN + pairs * PAIR + (2 + 4) * HEAD}


def test_padded_rows_compute_the_padding() -> None:
    model = tiny_llama()
    request_layout(model, "padded")
    found = counted(model, batch())
    assert found.tokens == {"other": 2 * (3 + 4)}
    pairs = (1 + 2 + 3 + 4 + 5 + 5 + 5) + (1 + 2 + 3 + 4 + 5 + 6 + 7)
    assert found.flops == {"other": 14 * TOKEN + pairs * PAIR + (2 + 4) * HEAD}


def test_a_reward_head_is_applied_once_to_a_response() -> None:
    """Which is fed with its last token."""
    found = counted(scorer_from_policy(tiny_llama()), batch(), SCORES)
    pairs = (1 + 2 + 3) + (4 + 5) + (4 + 5 + 6 + 7)
    assert found.tokens == {"other": 9}
    assert found.flops == {"other": 9 * TOKEN + pairs * PAIR + 2 * (2 * 32)}


def test_windows_limit_what_a_token_attends_to() -> None:
    """Gemma 2 with one layer of each kind, of which one sees four tokens; pairs cost 4 * 4 heads of 8."""
    model = tiny("gemma2", torch.float32)
    full = 25
    near = (1 + 2 + 3) + 4 + (4 + 4 + 4)
    work = flops_model_of(model)
    assert work.windows == {4: 1, math.inf: 1} and work.pair == 4 * 4 * 8
    assert counted(model, batch()).total == 7 * work.token + (full + near) * 128 + 6 * work.language


def test_a_count_does_not_depend_on_the_batch_size() -> None:
    rows = [{"prompt_ids": [5] * n, "response_ids": [[6] * (9 - n), [7] * n]} for n in range(1, 9)]
    for wants, model in ((LOGPS, tiny_llama()), (SCORES, scorer_from_policy(tiny_llama()))):
        parts = [counted(model, batch(rows[at : at + 3]), wants) for at in range(0, 8, 3)]
        whole = counted(model, batch(rows), wants)
        assert sum(part.total for part in parts) == whole.total > 0
        assert sum(part.tokens["other"] for part in parts) == whole.tokens["other"]


# ---- training ------------------------------------------------------------------------------------------------------


def test_a_step_costs_three_forward_passes_and_four_with_checkpointing() -> None:
    model = tiny_llama().train()
    once = counted(model, batch()).total
    assert counted(model, batch(), grad=True).flops == {"training": 3 * once}
    model.gradient_checkpointing_enable()
    assert counted(model, batch(), grad=True).flops == {"training": 3 * once + 7 * TOKEN + 25 * PAIR}
    assert counted(model, batch()).flops == {"other": once}
    assert counted(model.eval(), batch(), grad=True).flops == {"training": 3 * once}  # evaluation mode keeps all
    assert counted(model.requires_grad_(False), batch(), grad=True).flops == {"other": once}


def test_frozen_weights_cost_two_forward_passes_and_those_below_what_trains_one() -> None:
    model = get_peft_model(tiny_llama(), LORA)
    once = counted(model, batch())
    assert once.total == 7 * (TOKEN + ADAPTER) + 25 * PAIR + 6 * HEAD
    first = 2 * 32 * 32  # of the first layer, whose input takes no gradient
    a = 2 * 4 * 32  # its adapter's first matrix, whose input does not either
    behind = (TOKEN + ADAPTER - first) / (TOKEN + ADAPTER)
    expected = 7 * (2 * TOKEN - first + 3 * ADAPTER - a) + 25 * PAIR * (1 + 2 * behind) + 6 * 2 * HEAD
    assert counted(model, batch(), grad=True).flops["training"] == pytest.approx(expected, rel=1e-12)


def test_a_large_vocabularys_logits_are_computed_again() -> None:
    model = tiny_llama()
    positions = torch.tensor([0, 1, 2, 3, 3, 4, 5])  # a prompt of three tokens, and two responses to it

    def total(**kept: int) -> float:
        with count_flops() as tally:
            count_forward(model, positions, 6, 0, None, **kept)
        return tally.total

    usual = counted(model, batch(), grad=True).total
    assert total() == total(kept=6000) == usual and total(kept=5999) == usual + 6 * HEAD


def test_a_critic_is_counted_in_the_same_call() -> None:
    policy = tiny_llama()
    alone = counted(policy, batch(), grad=True).total
    attach_critic(policy, new_critic(tiny_llama(num_hidden_layers=1), policy))
    values = 7 * TOKEN / 2 + 25 * PAIR / 2 + 6 * (2 * 32)
    found = counted(policy, batch(), LOGPS | VALUES, grad=True)
    assert found.flops == {"training": alone + 3 * values} and found.tokens == {"training": 14}
    assert counted(policy, batch(), VALUES, grad=True).flops == {"training": 3 * values}


def test_a_shared_critic_runs_the_backbone_once_more_by_its_own_adapter() -> None:
    policy = get_peft_model(tiny_llama(), LORA)
    alone = counted(policy, batch()).total
    wider = LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    share_critic(policy, wider)
    assert counted(policy, batch()).total == alone
    own = 7 * (TOKEN + 2 * ADAPTER) + 25 * PAIR + 6 * (2 * 32)
    assert counted(policy, batch(), LOGPS | VALUES).total == alone + own


@pytest.mark.parametrize("kind", ["copy", "adapter off", "adapter copy", "before training"])
def test_a_reference_counts_as_one(kind: str) -> None:
    plain = kind in ("copy", "before training")
    policy = tiny_llama() if plain else get_peft_model(tiny_llama(), LORA)
    reference = reference_for(
        policy, None, fresh_adapter=kind == "adapter off", before_training=kind == "before training"
    )
    with count_flops() as counter:
        reference(policy, batch(), LOGPS)
    own = ADAPTER if kind == "adapter copy" else 0
    assert counter.flops == {"reference": 7 * (TOKEN + own) + 25 * PAIR + 6 * HEAD}


# ---- sampling ------------------------------------------------------------------------------------------------------


def by_lengths(found: list[list[Any]], shared: bool) -> tuple[int, float]:
    """A prompt is fed once, or once for each response; of a response all but its last token."""
    tokens = drawn = pairs = 0
    for row in found:
        p = len(row[0].prompt_ids)
        prompts = 1 if shared else len(row)
        tokens += prompts * p + sum(len(one.ids) - 1 for one in row)
        drawn += prompts + sum(len(one.ids) - 1 for one in row)
        pairs += prompts * sum(range(1, p + 1)) + sum(sum(range(p + 1, p + len(one.ids))) for one in row)
    return tokens, tokens * TOKEN + pairs * PAIR + drawn * HEAD


@pytest.mark.parametrize("loop", ["fast", "generate"])
@pytest.mark.parametrize("batch_size", [4, 128])
def test_responses_are_counted_by_their_lengths(
    loop: str, batch_size: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loop == "generate":
        monkeypatch.setattr(importlib.import_module("prefopt.generation.sampling"), "is_supported", lambda *_: False)
    model = tiny_llama()
    model.generation_config.eos_token_id = list(range(0, 1000, 9))  # responses of many lengths
    with count_flops() as counter:
        found = sample(model, tokenizer, PROMPTS, k=3, max_new_tokens=20, batch_size=batch_size)
    assert len({len(one.ids) for row in found for one in row}) > 3
    tokens, flops = by_lengths(found, shared=loop == "fast")
    assert counter.tokens == {"generation": tokens} and counter.flops == {"generation": flops}


def test_vllm_is_counted_by_the_same_formula(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It caches prompts, and its model is known by its config."""
    stand_in(monkeypatch)
    tiny_llama().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with VLLM(tmp_path) as policy, count_flops() as counter:
        found = sample(policy, tokenizer, PROMPTS, k=2, max_new_tokens=7)
    tokens, flops = by_lengths(found, shared=True)
    assert counter.tokens == {"generation": tokens} and counter.flops == {"generation": flops}


def test_a_prompt_is_fed_again_for_rows_beyond_a_batch(tokenizer: Any) -> None:
    model = tiny_llama()

    def tokens(batch_size: int) -> int:
        with count_flops() as counter:
            found = sample(model, tokenizer, PROMPTS[:1], k=4, max_new_tokens=5, batch_size=batch_size)
        assert len(found[0]) == 4
        return counter.tokens["generation"]

    prompt = len(sample(model, tokenizer, PROMPTS[:1], max_new_tokens=1)[0][0].prompt_ids)
    assert tokens(2) == tokens(4) + prompt


def test_every_beam_is_counted_at_every_step(tokenizer: Any) -> None:
    """No beam ends: each of the four feeds a token at all steps but the last, and the prompt is fed once."""
    model = tiny_llama()
    model.generation_config.eos_token_id = []
    steps = 5
    with count_flops() as counter:
        found = beam_search(model, tokenizer, PROMPTS[:2], k=4, groups=4, max_new_tokens=steps)
    if any(one.finished for row in found for one in row):
        pytest.fail("a beam ended, choose other stop tokens")
    lengths = [len(row[0].prompt_ids) for row in found]
    tokens = sum(lengths) + 2 * 4 * (steps - 1)
    pairs = sum(sum(range(1, p + 1)) + 4 * sum(range(p + 1, p + steps)) for p in lengths)
    drawn = 2 + 2 * 4 * (steps - 1)
    assert counter.tokens == {"generation": tokens}
    assert counter.flops == {"generation": tokens * TOKEN + pairs * PAIR + drawn * HEAD}


def test_scoring_is_counted_as_such(tokenizer: Any) -> None:
    scorer = RewardModelScorer(scorer_from_policy(tiny_llama()), tokenizer)
    with count_flops() as counter:
        scorer.score_ids([[5, 6, 7], [5, 6, 7]], [[8, 9], [8]], tokenizer)
    pairs = (1 + 2 + 3) + (4 + 5) + 4
    assert counter.tokens == {"scoring": 6}
    assert counter.flops == {"scoring": 6 * TOKEN + pairs * PAIR + 2 * (2 * 32)}


# ---- against torch's counter ---------------------------------------------------------------------------------------


def both(model: Any, given: Batch, grad: bool) -> tuple[float, float]:
    """FLOPs by us and by torch, of padded rows with eager attention."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    inner.set_attn_implementation("eager")
    request_layout(inner, "padded")
    with torch.no_grad():
        forward(model, given, LOGPS)  # which also decides on the head
    with torch.set_grad_enabled(grad), FlopCounterMode(display=False) as theirs, count_flops() as ours:
        out = forward(model, given, LOGPS)
        if grad:
            out.required("logps").sum().backward()
    return ours.total, theirs.get_total_flops()


def unseen(model: Any, given: Batch, grad: bool = False) -> float:
    """What eager attention computes of what no token may see: the rest of the square of each row."""
    rows, width = given.present.numel(), given.prompt_ids.shape[1] + given.response_ids.shape[2]
    work = flops_model_of(model.get_base_model() if hasattr(model, "peft_config") else model, grad=grad)
    positions = torch.cat([given.prompt_mask.repeat_interleave(2, 0), given.response_mask.flatten(0, 1)], 1).cumsum(1)
    seen = {window: float(positions.clamp(min=1, max=min(window, 10**6)).sum()) for window in work.windows}
    return sum(layers * work.pair * (rows * width**2 - seen[window]) for window, layers in work.windows.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_costs_what_torch_counts(family: str) -> None:
    model, given = tiny(family, torch.float32), batch()
    ours, theirs = both(model, given, grad=False)
    assert ours == pytest.approx(theirs, rel=0.03)
    assert ours + unseen(model, given) == theirs


@pytest.mark.parametrize("kind", ["full", "adapter", "checkpointing", "upper layer"])
def test_training_costs_what_torch_counts(kind: str) -> None:
    """But for what each difference below names."""
    torch.manual_seed(0)
    model: Any = tiny_llama(hidden_size=128, intermediate_size=256, num_hidden_layers=4).train()
    width, middle, layers, fed, read, vocab = 128, 256, 4, 14, 6, 1000
    kv = width // 2
    if kind == "adapter":
        model = get_peft_model(model, LORA)
    if kind == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if kind == "upper layer":
        model.requires_grad_(False)
        model.model.layers[3].requires_grad_(True)
    given = batch()
    ours, theirs = both(model, given, grad=True)
    assert ours == pytest.approx(theirs, rel=0.08 if kind == "checkpointing" else 0.04)

    difference = unseen(model, given, grad=True)
    if kind in ("full", "checkpointing"):
        difference -= 2 * read * width * vocab  # the counter does not know `addmm_`, which adds up the head's gradient
    if kind == "checkpointing":
        difference -= 2 * fed * layers * width * middle  # recomputing stops before a layer's last matrix
    if kind == "adapter":  # of the first layer, keys have an input without a gradient like queries, and values too
        difference -= 2 * fed * (2 * width * kv + 4 * width)
    if kind != "upper layer":  # there, attention is taken to be behind what trains by the share of weights that are
        assert ours + difference == pytest.approx(theirs, rel=1e-3)


# ---- other architectures -------------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
ATTENTION = 2 * 32 * 32 + 2 * 32 * 16


def test_a_token_goes_through_the_experts_that_it_is_sent_to() -> None:
    model = MixtralForCausalLM(MixtralConfig(**SIZES, **HEADS, num_local_experts=8, num_experts_per_tok=2))
    assert flops_model_of(model).token == 2 * 2 * (ATTENTION + 32 * 8 + 2 * 3 * 32 * 48)
    biased = GptOssForCausalLM(
        GptOssConfig(**SIZES, **HEADS, num_local_experts=8, num_experts_per_tok=2, sliding_window=4)
    )
    assert flops_model_of(biased).token == 2 * 2 * (ATTENTION + 32 * 8 + 2 * 3 * 32 * 48)
    assert flops_model_of(biased).windows == {4: 1, math.inf: 1}


def test_keys_and_values_may_differ_in_width() -> None:
    """DeepSeek: keys of 4 + 6, values of 8; the first layer is dense, the second has shared and routed experts."""
    config = DeepseekV3Config(
        **SIZES,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=12,
        qk_nope_head_dim=4,
        qk_rope_head_dim=6,
        v_head_dim=8,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=20,
        first_k_dense_replace=1,
    )
    work = flops_model_of(DeepseekV3ForCausalLM(config))
    attention = 32 * 16 + 16 * 4 * 10 + 32 * (12 + 6) + 12 * 4 * (4 + 8) + 4 * 8 * 32
    experts = 32 * 8 + (2 + 1) * 3 * 32 * 20
    assert work.token == 2 * (2 * attention + 3 * 32 * 48 + experts)
    assert work.pair == 2 * 4 * (10 + 8)


def test_a_model_without_attention_costs_its_weights() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4))
    matrices = sum(p.numel() for n, p in model.backbone.named_parameters() if p.dim() > 1 and "embeddings" not in n)
    assert flops_model_of(model).token == 2 * matrices > 0
    assert not flops_model_of(model).windows


def test_a_head_of_its_own_adapter_and_copies_that_train() -> None:
    model = get_peft_model(
        tiny_llama(tie_word_embeddings=False), LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    )
    inner = model.get_base_model()
    q = 2 * 2 * 4 * (32 + 32)
    assert flops_model_of(inner).language == HEAD and flops_model_of(inner).token == TOKEN + q
    assert flops_model_of(inner, grad=True).language == 3 * HEAD
    with model.disable_adapter():
        assert flops_model_of(inner).token == TOKEN and flops_model_of(inner).language == HEAD
    model.merge_adapter()
    assert flops_model_of(inner).token == TOKEN
