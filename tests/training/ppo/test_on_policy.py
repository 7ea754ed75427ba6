"""Training on rollouts: whose turn it is, what is measured, what trains when, what a checkpoint holds; bad input."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    TrainerCallback,
)

from prefopt import PPO, Batch, PPOConfig, PPOTrainer, PreferenceConfig, PreferenceTrainer
from prefopt.candidates.candidate import prompt_key
from prefopt.candidates.dataset_answers import DatasetAnswers
from prefopt.data.collate import collate
from prefopt.data.row_encoder import Encoder
from prefopt.generation import sample
from prefopt.models.critic import critic_of, parameter_groups
from prefopt.models.forward import forward
from prefopt.models.load import load_policy, load_scorer
from prefopt.objectives.base import registry
from prefopt.scoring import CombinedScorer, RewardModelScorer, ScoreError, WeightedSum
from prefopt.testbed import preference_rows
from prefopt.training.ppo.collect import RolloutCollector
from prefopt.training.ppo.log import RolloutLog
from tests.helpers.iterations import vowels
from tests.helpers.models import untrained
from tests.helpers.ppo import config, logs, reward_model, trainer_of
from tests.helpers.training import quiet

ROWS = 12


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    return Dataset.from_list(preference_rows(ROWS, seed=3))


def weights(model: Any) -> dict[str, list[torch.Tensor]]:
    return {name: [p.detach().clone() for p in group] for name, group in parameter_groups(model).items()}


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def base(tmp_path, tokenizer) -> str:
    untrained(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


# ---- one call for every method -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "rejection-sampling", "rrhf", "ppo", "ppo-max"])
def test_methods_are_interchangeable(method: str, tmp_path, tokenizer, pairs) -> None:
    """The same call on the same pairs; only the objective's name changes, and whether it is given a scorer."""
    objective = registry()[method]
    asks = "scorer" in objective.needs
    trainer = PreferenceTrainer(
        untrained(tokenizer),
        method,
        PreferenceConfig(**quiet(tmp_path, max_steps=8, learning_rate=1e-3, per_device_train_batch_size=4)),
        train_dataset=pairs,
        eval_dataset=pairs,
        processing_class=tokenizer,
        scorer=vowels if asks else None,
    )
    before = weights(trainer.model)["policy"]
    result = trainer.train()
    assert result.global_step >= 4 and math.isfinite(result.training_loss)
    assert not same(before, weights(trainer.model)["policy"])
    told = trainer.evaluate()
    assert math.isfinite(told["eval_objective/scores" if asks else "eval_loss"])


# ---- what a rollout is ---------------------------------------------------------------------------------------------


def test_the_ratio_of_a_rollouts_first_minibatch_is_1(tmp_path, tokenizer, pairs) -> None:
    """What drew a response is what the first step finds: exactly on time. 1e-4 is rounding of float32 log-probs."""
    trainer = trainer_of(tmp_path, tokenizer, pairs, num_mini_batches=1, max_steps=4)
    trainer.train()
    assert logs(trainer, "val/ratio") == pytest.approx([1.0] * 4, abs=1e-4)
    assert logs(trainer, "policy/approxkl_avg") == pytest.approx([0.0] * 4, abs=1e-8)
    assert logs(trainer, "policy/clipfrac_avg") == [0.0] * 4


def test_a_second_pass_over_a_rollout_finds_another_policy(tmp_path, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs, num_mini_batches=1, num_ppo_epochs=2, max_steps=4)
    trainer.train()
    moved = logs(trainer, "policy/approxkl_avg")
    assert moved[0] < 1e-8 < moved[1] and moved[2] < 1e-8 < moved[3]


def test_a_rollout_is_drawn_from_the_policy_as_it_is(tmp_path, tokenizer, pairs) -> None:
    """The responses of rollout 1 are those that the policy after rollout 0's steps gives to the same random numbers."""
    trainer = trainer_of(tmp_path, tokenizer, pairs)
    seen: list[Any] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 2:
                prompts, size = DatasetAnswers(trainer.train_dataset).prompts, trainer.source.loop.minibatches.size
                from prefopt.utils.shuffle import shuffled

                places = range(size, 2 * size)
                asked = [prompts[i] for i in shuffled(places, len(prompts), args.seed)]
                seen.extend(sample(model, tokenizer, asked, max_new_tokens=10, seed=args.seed, keys=places))

    trainer.add_callback(Watch())
    trainer.train()
    record = RolloutLog(tmp_path / "run" / "rollouts.jsonl").read()[1]
    assert record.step == 2
    assert [one["response"] for one in record.samples] == [row[0].text for row in seen[: len(record.samples)]]


def test_prompts_are_encoded_once_for_all_rollouts(tmp_path, tokenizer, pairs, monkeypatch) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs)
    encoded: Counter[str] = Counter()
    alone = Encoder.encode_prompt
    monkeypatch.setattr(Encoder, "encode_prompt", lambda self, p: encoded.update([prompt_key(p)]) or alone(self, p))
    trainer.train()
    assert encoded == {prompt_key(row["prompt"]): 1 for row in pairs}


def test_every_prompt_has_its_turn_before_any_has_its_second(tmp_path, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs, per_device_train_batch_size=3, max_steps=4)
    asked: list[Any] = []

    def scorer(prompts: Any, responses: Any) -> list[float]:
        asked.append([prompt[-1]["content"] for prompt in prompts])
        return [0.0] * len(responses)

    trainer = trainer_of(tmp_path, tokenizer, pairs, per_device_train_batch_size=3, max_steps=4, scorer=scorer)
    trainer.train()
    assert [len(prompts) for prompts in asked] == [6, 6]
    assert len({*asked[0], *asked[1]}) == len({row["prompt"][-1]["content"] for row in pairs}) == ROWS


def test_the_kl_that_is_logged_is_that_of_the_distributions(tokenizer) -> None:
    """The mean of k1 over drawn responses against the sum over the whole vocabulary at each position they reach."""
    policy, reference = untrained(tokenizer).double(), untrained(tokenizer).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.004 * torch.randn_like(weight)
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    drawn = sample(policy, tokenizer, [prompt], k=400, max_new_tokens=6, seed=1)[0]
    batch = collate([{"prompt_ids": drawn[0].prompt_ids, "response_ids": [one.ids for one in drawn], "index": 0}])
    mask = batch.loss_mask[0]
    with torch.no_grad():
        logps = [forward(model, batch, frozenset({"logps"})).required("logps")[0] for model in (policy, reference)]
        ids = torch.cat([batch.prompt_ids.expand(400, -1), batch.response_ids[0]], 1)
        p = batch.prompt_ids.shape[1]
        whole = [model(ids).logits[:, p - 1 : -1].log_softmax(-1) for model in (policy, reference)]
    exact = ((whole[0].exp() * (whole[0] - whole[1])).sum(-1) * mask).sum(-1)
    log_ratio = (logps[0] - logps[1]) * mask
    k3 = (torch.expm1(-log_ratio) + log_ratio).masked_fill(~mask, 0.0).sum(-1)
    for estimate in (log_ratio.sum(-1), k3):
        difference = estimate - exact
        assert abs(difference.mean()) < 3 * difference.std() / math.sqrt(400)
    assert exact.mean() > 0.05  # there is something to estimate


# ---- who learns when -----------------------------------------------------------------------------------------------


class Snapshots(TrainerCallback):
    def __init__(self) -> None:
        self.weights: list[dict[str, list[torch.Tensor]]] = []
        self.rates: list[dict[str, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights.append(weights(model))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.rates.append({group["model"]: group["lr"] for group in optimizer.param_groups})


def watched(trainer: Any) -> Snapshots:
    seen = Snapshots()
    trainer.add_callback(seen)
    trainer.train()
    seen.weights.append(weights(trainer.model))
    return seen


def test_the_critic_learns_alone_at_first(tmp_path, tokenizer, pairs) -> None:
    changes = {
        "critic_pretrain_steps": 3,
        "critic_pretrain_until": 1.0,
        "critic_learning_rate": 1e-3,
        "warmup_steps": 0,
    }
    schedule = {"max_steps": 8, "lr_scheduler_type": "linear", "learning_rate": 1e-3}
    trainer = trainer_of(tmp_path, tokenizer, pairs, **{**schedule, **changes})
    seen = watched(trainer)
    moved = {name: [not same(a[name], b[name]) for a, b in pairwise(seen.weights)] for name in seen.rates[0]}
    assert moved == {"policy": [False] * 4 + [True] * 4, "critic": [True] * 8}  # 3 steps are two rollouts of 2
    assert [rates["policy"] for rates in seen.rates] == pytest.approx([0, 0, 0, 0, 1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert [rates["critic"] for rates in seen.rates] == pytest.approx([1e-3 * (8 - step) / 8 for step in range(8)])
    assert logs(trainer, "critic_learning_rate") == [rates["critic"] for rates in seen.rates]
    assert logs(trainer, "learning_rate") == pytest.approx([rates["policy"] for rates in seen.rates])
    alone = [record.critic_alone for record in RolloutLog(tmp_path / "run" / "rollouts.jsonl").read()]
    assert alone == [True, True, False, False]


def test_a_critic_that_explains_enough_need_not_learn_alone(tmp_path, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs, critic_pretrain_steps=100, critic_pretrain_until=-1e9)
    trainer.train()
    assert float(trainer.step.state["policy_start"]) == 0


@pytest.mark.parametrize(("kind", "option"), [("cosine_with_min_lr", "min_lr"), ("polynomial", "lr_end")])
def test_a_schedule_ends_where_it_is_told(kind: str, option: str, tmp_path, tokenizer, pairs) -> None:
    changes = {"lr_scheduler_type": kind, "lr_scheduler_kwargs": {option: 4e-5}, "warmup_steps": 0}
    trainer = trainer_of(tmp_path, tokenizer, pairs, max_steps=8, critic_learning_rate=8e-5, **changes)
    watched(trainer)
    ends = {group["model"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert ends == pytest.approx({"policy": 4e-5, "critic": 4e-5})


def test_a_critic_in_full_beside_an_adapter_does_not_follow_its_rate(base, tmp_path, tokenizer, pairs, caplog) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with caplog.at_level(logging.WARNING, "prefopt"):
        rates = watched(trainer_of(tmp_path, tokenizer, pairs, base, peft_config=lora, warmup_steps=0)).rates
    assert rates[0] == pytest.approx({"policy": 1e-4, "critic": 1.65e-6})
    assert "share_critic=True needs no second model" in caplog.text


def test_gradients_are_clipped_model_by_model(tmp_path, tokenizer, pairs) -> None:
    """A critic whose gradients are a thousand times as large leaves the policy's step as it is."""
    moves = []
    for weight in (1.0, 1000.0):
        trainer = trainer_of(tmp_path, tokenizer, pairs, vf_coef=weight, max_grad_norm=0.5, max_steps=2, optim="sgd")
        seen = watched(trainer)
        moves.append([b - a for a, b in zip(seen.weights[0]["policy"], seen.weights[1]["policy"], strict=True)])
        norms = {name: logs(trainer, f"{name}/grad_norm")[0] for name in ("policy", "critic")}
        assert norms["critic"] > 0.5
        assert logs(trainer, "grad_norm")[0] == pytest.approx(math.hypot(*norms.values()))
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*moves, strict=True))
    assert any(move.abs().max() > 1e-7 for move in moves[0])


def test_the_critic_starts_as_the_reward_model_and_leaves_it_alone(tmp_path, tokenizer, pairs) -> None:
    judge = reward_model(tokenizer)
    before = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
    trainer = trainer_of(tmp_path, tokenizer, pairs, scorer=RewardModelScorer(judge, tokenizer))
    critic: Any = critic_of(trainer.model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in critic.state_dict().items())
    trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in judge.state_dict().items())
    assert not all(torch.equal(tensor, before[name]) for name, tensor in critic.state_dict().items())


def test_a_function_as_scorer_has_a_critic_of_the_policys_backbone(tmp_path, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs, scorer=vowels)
    critic: Any = critic_of(trainer.model)
    own = dict(trainer.model.base_model.named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in critic.base_model.named_parameters())
    trainer.train()


# ---- what is written -----------------------------------------------------------------------------------------------


def test_policy_and_critic_are_saved_apart_and_load_alone(tmp_path, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs)
    trainer.train()
    trainer.save_model()
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy", dtype=torch.float32)
    critic = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "critic", dtype=torch.float32)
    own = dict(trainer.model.named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in policy.named_parameters())
    attached: Any = critic_of(trainer.model)
    assert all(torch.equal(p, dict(attached.named_parameters())[name]) for name, p in critic.named_parameters())
    load_policy(str(tmp_path / "run" / "policy"))
    load_scorer(str(tmp_path / "run" / "critic"))


def test_an_adapter_its_critic_and_the_reference_share_a_backbone(base, tmp_path, tokenizer, pairs) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    given = {"peft_config": lora, "share_critic": True, "gradient_checkpointing": True}
    trainer = trainer_of(tmp_path, tokenizer, pairs, base, **given)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in trainer.model.parameters()) - trained == sum(
        p.numel() for p in untrained(tokenizer).parameters()
    )
    seen = watched(trainer)
    assert all(not same(seen.weights[0][name], seen.weights[-1][name]) for name in ("policy", "critic"))
    assert logs(trainer, "val/ratio")[0] == pytest.approx(1.0, abs=1e-4)
    trainer.save_model()
    policy = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "policy")
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    texts = [sample(model, tokenizer, [prompt], max_new_tokens=10)[0][0].ids for model in (policy, trainer.model)]
    assert texts[0] == texts[1]
    load_scorer(str(tmp_path / "run" / "critic"))


@pytest.mark.parametrize("shares", [True, False])
def test_a_policy_of_4_bits_trains_through_adapters(shares: bool, base, tmp_path, tokenizer, pairs) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="float32")
    given = {"peft_config": lora, "quantization_config": quantized, "share_critic": shares}
    trainer = trainer_of(tmp_path, tokenizer, pairs, base, **given)
    seen = watched(trainer)
    assert all(not same(seen.weights[0][name], seen.weights[-1][name]) for name in ("policy", "critic"))
    assert logs(trainer, "val/ratio")[0] == pytest.approx(1.0, abs=1e-3)


def test_helpful_and_safe_are_judged_together(tmp_path, tokenizer, pairs) -> None:
    """Two reward models in one score; the critic starts from the one that it is given."""
    parts = {"helpfulness": reward_model(tokenizer, 5), "safety": reward_model(tokenizer, 6)}
    scorers = {name: RewardModelScorer(model, tokenizer, name=name) for name, model in parts.items()}
    both = CombinedScorer(scorers, WeightedSum({"helpfulness": 0.5, "safety": 0.5}))
    trainer = trainer_of(tmp_path, tokenizer, pairs, scorer=both, critic=parts["helpfulness"])
    critic: Any = critic_of(trainer.model)
    assert torch.equal(critic.score.weight, parts["helpfulness"].score.weight)
    trainer.train()
    assert len(logs(trainer, "objective/scores")) == 2


def test_what_was_measured_is_recorded_logged_and_drawn(tmp_path, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs, eval_dataset=pairs, missing_eos_penalty=2.0)
    trainer.train()
    records = RolloutLog(tmp_path / "run" / "rollouts.jsonl").read()
    assert [(record.rollout, record.step, len(record.scores)) for record in records] == [(0, 0, 8), (1, 2, 8)]
    names = {"objective/kl", "objective/scores", "objective/entropy", "lengths/response", "val/num_eos_tokens"}
    names |= {"ppl/policy", "ppl/reference", "val/explained_variance", "distinct_1", "distinct_2", "degenerate"}
    assert names <= records[0].metrics.keys()
    assert records[0].metrics["objective/kl"] == pytest.approx(0, abs=1e-4)  # before the first step it is the reference
    assert records[0].metrics["objective/scores"] == pytest.approx(sum(records[0].scores) / 8)
    trl = "objective/kl objective/entropy objective/non_score_reward objective/rlhf_reward objective/scores "
    trl += "policy/approxkl_avg policy/clipfrac_avg policy/entropy_avg loss/policy_avg loss/value_avg "
    trl += "val/clipfrac_avg val/ratio val/num_eos_tokens critic_learning_rate ppl/policy val/explained_variance"
    assert all(logs(trainer, name) for name in trl.split())
    assert logs(trainer, "objective/scores") == [record.metrics["objective/scores"] for record in records]
    assert (tmp_path / "run" / "rollouts.png").stat().st_size > 10_000
    told = trainer.evaluate()
    paid = trainer.objective.kl_coef * told["eval_objective/kl"] + 2.0 * told["eval_unfinished"]
    assert told["eval_unfinished"] > 0 and told["eval_objective/rlhf_reward"] == pytest.approx(
        told["eval_objective/scores"] - paid
    )


def test_checkpoints_and_evaluations_wait_for_the_end_of_a_rollout(tmp_path, tokenizer, pairs) -> None:
    steps = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 3}
    trainer = trainer_of(tmp_path, tokenizer, pairs, num_mini_batches=4, max_steps=8, eval_dataset=pairs, **steps)
    trainer.train()
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_objective/kl" in entry]
    assert evaluated == [4, 8]


def test_the_best_policy_can_be_kept(tmp_path, tokenizer, pairs) -> None:
    steps = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "objective/kl", "greater_is_better": False}
    trainer = trainer_of(tmp_path, tokenizer, pairs, eval_dataset=pairs, learning_rate=5e-3, **steps, **best)
    trainer.train()
    assert trainer.state.best_global_step == 2
    folder = tmp_path / "run" / "checkpoint-2"
    saved = load_policy(str(folder / "policy"))
    assert same(list(saved.parameters()), weights(trainer.model)["policy"])


def test_demonstrations_are_mixed_in(tmp_path, tokenizer, pairs) -> None:
    """With a large weight, and rewards that are all the same, the policy learns the chosen answers."""
    changes = {"ptx_coef": 1.0, "kl_coef": 0.0, "max_steps": 12, "learning_rate": 3e-3}
    trainer = trainer_of(tmp_path, tokenizer, pairs, scorer=lambda prompts, responses: [0.0] * len(prompts), **changes)
    trainer.train()
    ptx = logs(trainer, "loss/ptx")
    assert len(ptx) == 12 and ptx[-1] < 0.8 * ptx[0]


def test_the_weight_of_the_kl_adapts(tmp_path, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs, target_kl=100.0, kl_horizon=10.0, max_steps=6)
    trainer.train()
    # The KL is far below its target, so after each of three rollouts of 8 responses: 1 - .2 * 8 / 10.
    assert float(trainer.step.state["next_kl_coef"]) == pytest.approx(0.05 * 0.84**3)


# ---- collapse ------------------------------------------------------------------------------------------------------


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that finds fault with rollout 2."""
    import prefopt.training.ppo.source as module
    from prefopt.training.ppo.collapse import Alarm

    def alarm_of(records: Any, **_: Any) -> Any:
        return Alarm({"kl": "KL went from 1 to 9"}, (1, 2), 1) if len(records) > 2 else None

    monkeypatch.setattr(module, "alarm_of", alarm_of)


@pytest.mark.parametrize(("action", "last"), [("warn", 8), ("stop", 4), ("restore", 4)])
def test_a_collapse_is_said_saved_and_acted_upon(
    action: str, last: int, alarm: None, tmp_path, tokenizer, pairs, caplog: pytest.LogCaptureFixture
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 8}
    trainer = trainer_of(tmp_path, tokenizer, pairs, collapse_action=action, **saving)
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer.train()
    assert caplog.text.count("look like reward hacking") == 1 and "KL went from 1 to 9" in caplog.text
    assert trainer.state.global_step == last
    assert (tmp_path / "run" / "checkpoint-4").is_dir()
    if action == "restore":
        assert "going back to" in caplog.text
        saved = load_policy(str(tmp_path / "run" / "checkpoint-2" / "policy"))
        assert same(list(saved.parameters()), weights(trainer.model)["policy"])


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_what_went_wrong_is_not_taken_for_the_best_or_saved_over(
    strategy: str, alarm: None, tmp_path, tokenizer, pairs
) -> None:
    """The policy stays that of before the collapse, and the checkpoint of the collapse what it was."""
    often = {
        f"{kind}_{what}": value for kind in ("save", "eval") for what, value in (("strategy", strategy), ("steps", 2))
    }
    best = {"load_best_model_at_end": True, "metric_for_best_model": "objective/kl"}
    changes = {"collapse_action": "restore", "max_steps": 8, "eval_dataset": pairs, "learning_rate": 5e-3}
    trainer = trainer_of(tmp_path, tokenizer, pairs.select(range(8)), **often, **best, **changes)
    trainer.train()
    good, bad = (load_policy(str(tmp_path / "run" / f"checkpoint-{step}" / "policy")) for step in (2, 4))
    assert same(list(good.parameters()), weights(trainer.model)["policy"])
    assert not same(list(bad.parameters()), weights(trainer.model)["policy"])


def test_another_runs_checkpoints_are_nothing_to_go_back_to(alarm: None, tmp_path, tokenizer, pairs, caplog) -> None:
    trainer_of(tmp_path, tokenizer, pairs, save_strategy="steps", save_steps=2, max_steps=4).train()
    changes = {"max_steps": 8, "kl_coef": 0.1, "overwrite_output_dir": True}
    trainer = trainer_of(tmp_path, tokenizer, pairs, untrained(tokenizer), collapse_action="restore", **changes)
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer.train()
    assert "no earlier checkpoint to go back to" in caplog.text
    saved = load_policy(str(tmp_path / "run" / "checkpoint-4" / "policy"))
    assert same(list(saved.parameters()), weights(trainer.model)["policy"])


def test_a_collapse_without_a_checkpoint_leaves_the_policy(alarm: None, tmp_path, tokenizer, pairs, caplog) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs, collapse_action="restore", max_steps=8)
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer.train()
    assert "no earlier checkpoint to go back to" in caplog.text
    assert (tmp_path / "run" / "checkpoint-4" / "policy").is_dir()


@pytest.mark.parametrize("action", ["stop", "warn"])
def test_a_run_goes_on_from_the_checkpoint_of_its_collapse(
    action: str, alarm: None, tmp_path, tokenizer, pairs
) -> None:
    """That checkpoint was saved when the rollout which showed the collapse was recorded: it is made again."""
    saving = {"max_steps": 8, "save_strategy": "steps", "save_steps": 1000}
    first = trainer_of(tmp_path, tokenizer, pairs, collapse_action=action, **saving)

    class Kill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    first.add_callback(Kill())
    if action == "warn":
        with pytest.raises(KeyboardInterrupt):
            first.train()
    else:
        first.train()
    recorded = tmp_path / "run" / "rollouts.jsonl"
    assert (tmp_path / "run/checkpoint-4" / recorded.name).is_file()
    again = trainer_of(tmp_path, tokenizer, pairs, collapse_action="warn", **saving)
    again.train(resume_from_checkpoint=True)
    numbers = [json.loads(line)["rollout"] for line in recorded.read_text().splitlines()]
    assert again.state.global_step == 8 and numbers == list(range(len(numbers)))


# ---- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"critic_pretrain_steps": 4, "critic_pretrain_until": 1.0}, {"target_kl": 6.0}]
)
def test_a_resumed_run_is_the_run(changes: dict[str, Any], tmp_path, tokenizer, pairs) -> None:
    """Weights of both models, moments of rewards and what is recorded, bit for bit; in the second pass over prompts."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 8, "lr_scheduler_type": "cosine", **changes}
    whole = trainer_of(tmp_path / "whole", tokenizer, pairs, **saving)
    whole.train()
    killed = trainer_of(tmp_path / "killed", tokenizer, pairs, **saving)

    class Kill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    killed.add_callback(Kill())
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    recorded = tmp_path / "killed" / "run" / "rollouts.jsonl"
    recorded.write_text(recorded.read_text().replace('"step": 0', '"step": 1'))  # which the checkpoint makes good
    resumed = trainer_of(tmp_path / "killed", tokenizer, pairs, **saving)
    resumed.train(resume_from_checkpoint=True)
    for name, group in weights(whole.model).items():
        assert same(group, weights(resumed.model)[name])
    assert all(torch.equal(value, resumed.step.state[name]) for name, value in whole.step.state.items())
    traces = [(tmp_path / each / "run" / "rollouts.jsonl").read_text() for each in ("whole", "killed")]
    assert traces[0] == traces[1]
    own = [[entry for entry in t.state.log_history if "loss" in entry] for t in (whole, resumed)]
    assert own[0] == own[1]


def test_an_other_scorer_or_setting_is_another_run(tmp_path, tokenizer, pairs) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(tmp_path, tokenizer, pairs, **saving).train()
    with pytest.raises(ValueError, match="belongs to another run: objective."):
        trainer_of(tmp_path, tokenizer, pairs, kl_coef=0.1, **saving).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="belongs to another run: .*scorer: "):
        trainer_of(tmp_path, tokenizer, pairs, scorer=vowels, **saving).train(resume_from_checkpoint=True)
    longer = {"max_steps": 6, "resume_with_changes": ["max_steps"], **saving}
    again = trainer_of(tmp_path, tokenizer, pairs, collapse_action="stop", sampling_batch_size=3, **longer)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6


@pytest.mark.parametrize("split", [{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}])
def test_micro_batches_change_nothing(split: dict[str, int], tmp_path, tokenizer, pairs) -> None:
    policies = [untrained(tokenizer).double() for _ in range(2)]
    judges = [RewardModelScorer(reward_model(tokenizer).double(), tokenizer) for _ in range(2)]
    both = [
        trainer_of(
            tmp_path / str(i), tokenizer, pairs, policy, scorer=judge, max_steps=6, advantage_norm=True, **changes
        )
        for i, (policy, judge, changes) in enumerate(zip(policies, judges, ({}, split), strict=True))
    ]
    for trainer in both:
        trainer.train()
    for name, group in weights(both[0].model).items():
        for a, b in zip(group, weights(both[1].model)[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    for name in ("loss", "objective/kl", "loss/value_avg", "objective/scores"):
        assert logs(both[0], name) == pytest.approx(logs(both[1], name), abs=1e-7)


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_a_score_that_is_nan_stops_the_run_before_any_weight_moves(tmp_path, tokenizer, pairs) -> None:
    def broken(prompts: Any, responses: Any) -> list[float]:
        return [math.nan if i == 3 else 0.0 for i in range(len(responses))]

    trainer = trainer_of(tmp_path, tokenizer, pairs, scorer=broken)
    before = weights(trainer.model)
    with pytest.raises(ScoreError, match=r"scorer 'broken' gave nan to row 3 \(prompt"):
        trainer.train()
    assert all(same(before[name], group) for name, group in weights(trainer.model).items())


@pytest.mark.parametrize(("broken", "named"), [("critic", "the sum of the critic's values"), ("reference", "the ref")])
def test_a_model_that_says_nan_is_named(broken: str, named: str, tmp_path, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, tokenizer, pairs)
    model: Any = critic_of(trainer.model) if broken == "critic" else trainer.reference.model  # type: ignore[union-attr]
    with torch.no_grad():
        next(iter(model.parameters())).fill_(math.nan)
    before = weights(trainer.model)["policy"]
    with pytest.raises(ValueError, match=rf"{named}.* of response 0 to row \d+ is nan, and this rollout cannot be"):
        trainer.train()
    assert same(before, weights(trainer.model)["policy"])


def test_prompts_longer_than_max_length_are_told_of(tmp_path, tokenizer, pairs, caplog) -> None:
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer_of(tmp_path, tokenizer, pairs, max_length=16).train()
    assert re.search(r"a prompt with a response may have \d+ tokens: max_length=16 cuts rows that are", caplog.text)


def test_demonstrations_go_where_the_rollout_is(tokenizer, pairs) -> None:
    """On a device without numbers, which every computer has."""
    accelerator = SimpleNamespace(device=torch.device("meta"))
    step: Any = SimpleNamespace(objective=PPO(ptx_coef=1.0), accelerator=accelerator)
    rows = Dataset.from_list([{"prompt_ids": [5, 6], "response_ids": [[7, 1]]}] * 3)
    none = cast(Any, None)
    (batch,) = RolloutCollector(step, none, tokenizer, none, [[]] * 3, 16, 0, 4, rows)._mixed_in(0, Batch())
    assert {column.device.type for column in batch.values()} == {"meta"} and len(batch.index) == 16


def test_a_prompt_that_leaves_no_room_is_named_before_anything_is_drawn(tmp_path, tokenizer, pairs) -> None:
    long = {**pairs[0], "prompt": [{"role": "user", "content": "why " * 600}]}
    rows = Dataset.from_list([*pairs, long])

    def never(prompts: Any, responses: Any) -> list[float]:
        raise AssertionError("something was drawn")

    with pytest.raises(ValueError, match=r"prompt 12 has \d+ tokens, which with max_new_tokens=10 is more than"):
        trainer_of(tmp_path, tokenizer, rows, scorer=never).train()


def test_generations_that_never_end_are_cut_counted_and_punished(tmp_path, tokenizer, pairs, caplog) -> None:
    policy = untrained(tokenizer)
    with torch.no_grad():
        policy.lm_head.weight[tokenizer.eos_token_id] = 0
    trainer = trainer_of(tmp_path, tokenizer, pairs, policy, scorer=vowels, missing_eos_penalty=1.0)
    with caplog.at_level(logging.WARNING, "prefopt"):
        trainer.train()
    assert logs(trainer, "val/num_eos_tokens") == [0.0, 0.0]
    assert logs(trainer, "lengths/response") == [10.0, 10.0]
    record = RolloutLog(tmp_path / "run" / "rollouts.jsonl").read()[0]
    assert record.metrics["objective/rlhf_reward"] == pytest.approx(record.metrics["objective/scores"] - 1.0, abs=1e-4)
    assert caplog.text.count("none of the responses ended by itself") == 1
    assert all(p.isfinite().all() for p in trainer.model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 3}, r"max_steps=3 ends within a rollout, from which 2 steps are learnt: take max_steps=2 or 4"),
        ({"max_tokens_per_batch": 64}, "max_tokens_per_batch is for rows that are there"),
        ({"precompute_ref_log_probs": True}, "responses are generated as training goes"),
        ({"share_critic": True}, "share_critic needs an adapter on the policy"),
        ({"push_to_hub": True}, "push_to_hub would publish"),
    ],
)
def test_what_cannot_be_done_is_refused(changes: dict[str, Any], message: str, tmp_path, tokenizer, pairs) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, tokenizer, pairs, **changes).train()


def test_a_schedule_that_follows_the_loss_is_refused(tmp_path, tokenizer, pairs) -> None:
    changes = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_dataset": pairs}
    with pytest.raises(ValueError, match="lr_scheduler_type=.*: policy and critic have schedules of their own"):
        trainer_of(tmp_path, tokenizer, pairs, **changes).train()


def test_it_needs_a_scorer_and_prompts(tmp_path, tokenizer, pairs) -> None:
    with pytest.raises(ValueError, match="PPO generates responses and nothing scores them: pass scorer="):
        PPOTrainer(untrained(tokenizer), config(tmp_path), train_dataset=pairs, processing_class=tokenizer)
    with pytest.raises(ValueError, match="train_dataset is missing"):
        trainer_of(tmp_path, tokenizer, None).train()
    with pytest.raises(ValueError, match="these rows are prompts: pass ptx_dataset"):
        trainer_of(tmp_path, tokenizer, pairs.select_columns(["prompt"]), ptx_coef=0.5)


def test_presets_and_old_names() -> None:
    vanilla = PPOConfig.from_preset("ppo", output_dir="x", kl_coef=0.05)
    assert (vanilla.reward_norm, vanilla.reward_clip, vanilla.kl_coef) == ("none", None, 0.05)
    with pytest.raises(ValueError, match="preset 'vanilla': choose one of ppo-max, ppo, ppo-moss"):
        PPOConfig.from_preset("vanilla", output_dir="x")
    with pytest.warns(FutureWarning, match="`response_length` is now `max_new_tokens`"):
        old = PPOConfig(output_dir="x", response_length=33, total_episodes=100, per_device_train_batch_size=5)
    assert (old.max_new_tokens, old.max_steps) == (33, 20)
    with pytest.warns(FutureWarning, match="now `per_device_eval_batch_size`"):
        assert PPOConfig(output_dir="x", local_rollout_forward_batch_size=3).per_device_eval_batch_size == 3
    for bad in ({"whiten_rewards": True}, {"stop_token": "period"}, {"total_episodes": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PPOConfig(output_dir="x", **bad)


# ---- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(name for name, objective in registry().items() if objective.on_policy))
def test_it_learns_what_is_easy_to_see(name: str, tmp_path, tokenizer) -> None:
    """Every on-policy objective, by its name: more vowels, by at least five standard errors on other prompts."""
    rows, held_out = (Dataset.from_list(preference_rows(256, seed=3, split=split)) for split in ("train", "test"))
    objective = replace(registry()[name], max_new_tokens=10, critic_pretrain_steps=4)
    args = PreferenceConfig(**quiet(tmp_path, max_steps=60, learning_rate=3e-4, per_device_train_batch_size=16))
    data = {"train_dataset": rows, "eval_dataset": held_out, "processing_class": tokenizer}
    trainer = PreferenceTrainer(untrained(tokenizer), objective, args, **data, scorer=vowels)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    error = math.hypot(*(told["eval_objective/scores_se"] for told in (before, after)))
    assert after["eval_objective/scores"] - before["eval_objective/scores"] > 5 * error
