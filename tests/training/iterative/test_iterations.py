"""Iterations of drawing, scoring, selecting and training: what is on disk, what trains, and what a kill leaves."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from prefopt import (
    DPOConfig,
    DPOTrainer,
    PreferenceConfig,
    PreferenceTrainer,
    RejectionSampling,
    RejectionSamplingTrainer,
    RRHFConfig,
    RRHFTrainer,
)
from prefopt.candidates import Origin, Pool, best, by_prompt
from prefopt.candidates.candidate import prompt_key
from prefopt.candidates.dataset_answers import DATASET
from prefopt.candidates.generate import sample_responses
from prefopt.data import load_sft
from prefopt.data.row_encoder import Encoder
from prefopt.generation import beam_search, sample
from prefopt.models.load import load_policy
from prefopt.objectives.sampling_arguments import IterationArguments
from prefopt.testbed import preference_rows
from tests.helpers.iterations import DRAWN, config, files_of, vowels
from tests.helpers.models import untrained
from tests.helpers.processes import launch
from tests.helpers.training import quiet

ROWS = 8


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    return Dataset.from_list(preference_rows(ROWS, seed=3))


@pytest.fixture
def policy(tokenizer: Any) -> Any:
    return untrained(tokenizer)


def trainer_of(tmp_path: Path, policy: Any, tokenizer: Any, pairs: Any, **changes: Any) -> RejectionSamplingTrainer:
    args = config(tmp_path, **{"iterations": 2, **changes})
    return RejectionSamplingTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer, scorer=vowels)


def reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("iteration-*/report.json"))]


def test_a_run_writes_what_it_drew_selected_and_learnt(tmp_path, policy, tokenizer, pairs, caplog) -> None:
    trainer = trainer_of(tmp_path, policy, tokenizer, pairs)
    with caplog.at_level(logging.INFO, "prefopt"):
        result = trainer.train()
    assert "not read" not in caplog.text  # of rows that it wrote itself
    folder = tmp_path / "run"
    pool = Pool(folder / "pool")
    prompts = {prompt_key(row["prompt"]) for row in pairs}
    assert pool.segments() == [(0, 0), (0, 1)]
    for iteration in range(2):
        drawn = list(pool.candidates(0, iteration))
        assert len(drawn) == 4 * len(prompts)
        rows = [json.loads(line) for line in (folder / f"iteration-00{iteration}/selection.jsonl").open()]
        upto = (one for one in pool.scored(trainer.scorer) if one.candidate.iteration <= iteration)
        assert rows == best(by_prompt(upto))
    first, second = reports(folder)
    assert first["prompts"] == len(prompts) and first["responses"] == 4 * len(prompts)
    assert second["best"]["mean"] >= first["best"]["mean"]  # what was best stays in the pool
    assert first["policy"] != second["policy"]
    assert result.global_step == first["steps"] + second["steps"]
    assert (folder / "rewards.png").stat().st_size > 1000


def test_prompts_are_encoded_once_for_all_iterations(tmp_path, policy, tokenizer, pairs, monkeypatch) -> None:
    trainer = trainer_of(tmp_path, policy, tokenizer, pairs)
    encoded: Counter[str] = Counter()
    alone = Encoder.encode_prompt
    monkeypatch.setattr(Encoder, "encode_prompt", lambda self, p: encoded.update([prompt_key(p)]) or alone(self, p))
    trainer.train()
    assert encoded == {prompt_key(row["prompt"]): 1 for row in pairs}


def test_the_best_reward_of_a_prompt_never_falls(tmp_path, policy, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, policy, tokenizer, pairs, prompts_per_iteration=4)
    trainer.args.learning_rate = 1.0  # a training that ruins the policy must not lose what was found
    trainer.train()
    files = sorted((tmp_path / "run").glob("iteration-*/selection.jsonl"))
    before, after = [{prompt_key(r["prompt"]): r["score"] for r in map(json.loads, file.open())} for file in files]
    assert before and before.keys() <= after.keys()
    assert all(after[prompt] >= score for prompt, score in before.items())


def test_an_iteration_is_an_offline_run_from_the_base(tmp_path, policy, tokenizer, pairs) -> None:
    """The last policy equals what training a fresh copy of the base on the selection by hand gives."""
    base = {name: weight.clone() for name, weight in policy.state_dict().items()}
    trainer = trainer_of(tmp_path, policy, tokenizer, pairs)
    trainer.train()
    by_hand = untrained(tokenizer)
    by_hand.load_state_dict(base)
    rows = load_sft(str(tmp_path / "run/iteration-001/selection.jsonl"))
    args = PreferenceConfig(**quiet(tmp_path / "hand", per_device_train_batch_size=4, learning_rate=1e-3))
    args.seed += 1
    PreferenceTrainer(by_hand, "sft", args, rows, processing_class=tokenizer).train()
    for name, weight in by_hand.state_dict().items():
        assert torch.equal(weight, trainer.model.state_dict()[name]), name


def test_init_previous_goes_on_from_the_last_policy(tmp_path, policy, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, policy, tokenizer, pairs, init="previous")
    trainer.train()
    by_hand = untrained(tokenizer)  # whose weights lie in memory as the run's do, not as they lie in a file
    by_hand.load_state_dict(load_policy(str(tmp_path / "run/iteration-000/policy")).state_dict())
    rows = load_sft(str(tmp_path / "run/iteration-001/selection.jsonl"))
    args = PreferenceConfig(**quiet(tmp_path / "hand", per_device_train_batch_size=4, learning_rate=1e-3))
    args.seed += 1
    PreferenceTrainer(by_hand, "sft", args, rows, processing_class=tokenizer).train()
    for name, weight in by_hand.state_dict().items():
        assert torch.equal(weight, trainer.model.state_dict()[name]), name


def test_the_same_call_for_every_method(tmp_path, policy, tokenizer, pairs) -> None:
    """PreferenceTrainer by name: the same run as the named trainer's."""
    named = trainer_of(tmp_path / "named", policy, tokenizer, pairs)
    base = {name: weight.clone() for name, weight in policy.state_dict().items()}
    named.train()
    other = untrained(tokenizer)
    other.load_state_dict(base)
    args = PreferenceConfig(**quiet(tmp_path, per_device_train_batch_size=4, learning_rate=1e-3))
    objective = RejectionSampling(iterations=2, **DRAWN)
    PreferenceTrainer(other, objective, args, pairs, processing_class=tokenizer, scorer=vowels).train()
    for name, weight in other.state_dict().items():
        assert torch.equal(weight, named.model.state_dict()[name]), name


def test_rrhf_ranks_drawn_responses_beside_the_datasets(tmp_path, policy, tokenizer, pairs) -> None:
    args = config(tmp_path, RRHFConfig)
    trainer = RRHFTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer, scorer=vowels)
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "run/iteration-000/selection.jsonl").open()]
    given = {prompt_key(row["prompt"]): {row["chosen"], row["rejected"]} for row in pairs}
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in rows)
    assert all(given[prompt_key(row["prompt"])] <= set(row["responses"]) for row in rows)
    assert any(len(row["responses"]) > 2 for row in rows)
    kinds = {one.policy == DATASET for one in Pool(tmp_path / "run/pool").candidates()}
    assert kinds == {True, False}


def test_rrhf_by_diverse_beams(tmp_path, policy, tokenizer, pairs) -> None:
    args = config(tmp_path, RRHFConfig, source="diverse-beam")
    trainer = RRHFTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer, scorer=vowels)
    trainer.train()
    drawn = [one for one in Pool(tmp_path / "run/pool").candidates() if one.policy != DATASET]
    by_key: dict[str, list[str]] = {}
    for one in drawn:
        by_key.setdefault(one.prompt_key, []).append(one.response)
    assert all(len(texts) == 4 for texts in by_key.values())
    assert any(len(set(texts)) == 4 for texts in by_key.values())


def test_mixed_responses_are_half_sampled_half_searched(policy, tokenizer, pairs) -> None:
    settings = IterationArguments(source="mixed", responses_per_prompt=5, max_new_tokens=6)
    prompts = [row["prompt"] for row in pairs]
    found = sample_responses(policy, tokenizer, prompts, settings, Origin("v", seed=3, iteration=2))
    keys = [prompt_key(prompt) for prompt in prompts]
    drawn = sample(policy, tokenizer, prompts, k=3, max_new_tokens=6, seed=3, stream=(0, 2), keys=keys)
    searched = beam_search(policy, tokenizer, prompts, k=2, groups=2, max_new_tokens=6)
    assert found == [a + b for a, b in zip(drawn, searched, strict=True)]


def test_without_a_scorer_rrhf_trains_on_the_rows(tmp_path, policy, tokenizer, pairs) -> None:
    args = RRHFConfig(**quiet(tmp_path, learning_rate=1e-3))
    before = policy.lm_head.weight.clone()
    RRHFTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer).train()
    assert not (tmp_path / "run/pool").exists()
    assert not torch.equal(policy.lm_head.weight, before)
    with pytest.raises(ValueError, match="responses_per_prompt=3 means nothing without a scorer"):
        args = RRHFConfig(responses_per_prompt=3, **quiet(tmp_path))
        RRHFTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer)


# ---- evaluation ----------------------------------------------------------------------------------------------------


def test_the_best_iteration_by_drawn_responses_is_loaded(tmp_path, tokenizer, pairs) -> None:
    """By a measure that the first iteration wins, so that the last one is not the best.

    Whether it does by the longest or by the shortest responses depends on the kernels that a computer has.
    """
    held_out = Dataset.from_list(preference_rows(6, seed=4, split="test"))
    for longest in (True, False):
        folder = tmp_path / str(longest)
        args = config(folder, iterations=2, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
        args.metric_for_best_model, args.greater_is_better = "eval_response_length", longest
        trainer = RejectionSamplingTrainer(
            untrained(tokenizer),
            args,
            train_dataset=pairs,
            eval_dataset=held_out,
            processing_class=tokenizer,
            scorer=vowels,
        )
        trainer.train()
        lengths = [report["evaluation"]["response_length"] for report in reports(folder / "run")]
        assert lengths[0] != lengths[1]
        if (lengths[0] > lengths[1]) is longest:
            break
    assert (lengths[0] > lengths[1]) is longest
    assert trainer.evaluate()["eval_response_length"] == lengths[0]
    found = reports(folder / "run")[0]["evaluation"]
    assert found["objective/scores_se"] > 0 and 0 <= found["unfinished"] <= 1
    steps = [entry["step"] for entry in trainer.state.log_history if "eval_response_length" in entry]
    assert steps[1] == 2 * steps[0] > 0  # a curve


def test_what_best_means_is_checked_before_anything_is_drawn(tmp_path, policy, tokenizer, pairs) -> None:
    args = config(tmp_path, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    args.metric_for_best_model = "no_such"
    rows = {"a": pairs, "b": pairs}
    trainer = RejectionSamplingTrainer(
        policy, args, train_dataset=pairs, eval_dataset=rows, processing_class=tokenizer, scorer=vowels
    )
    with pytest.raises(ValueError, match="metric_for_best_model='no_such': generated responses give a_objective/rlhf"):
        trainer.train()
    assert not (tmp_path / "run/run.json").exists()


def test_one_held_out_prompt_has_no_standard_error(tmp_path, policy, tokenizer, pairs) -> None:
    args = config(tmp_path, iterations=1, eval_strategy="epoch")
    trainer = RejectionSamplingTrainer(
        policy, args, train_dataset=pairs, eval_dataset=pairs.select([0]), processing_class=tokenizer, scorer=vowels
    )
    trainer.train()
    assert "objective/scores_se" not in reports(tmp_path / "run")[0]["evaluation"]
    with pytest.raises(ValueError, match="there are no held-out prompts"):
        trainer.evaluate(pairs.select([]))


def test_a_temperature_is_searched_before_each_iteration(tmp_path, policy, tokenizer, pairs) -> None:
    held_out = Dataset.from_list(preference_rows(12, seed=4, split="test"))
    args = config(tmp_path, iterations=2, temperatures=[1.6, 2.0, 2.4], search_budget=300)
    trainer = RejectionSamplingTrainer(
        policy, args, train_dataset=pairs, eval_dataset=held_out, processing_class=tokenizer, scorer=vowels
    )
    trainer.train()
    for number, report in enumerate(reports(tmp_path / "run")):
        found = json.loads((tmp_path / f"run/temperatures-00{number}/temperature.json").read_text())
        assert report["temperature"] == found["best"] and found["responses"] <= 300
    temperatures = {one.temperature for one in Pool(tmp_path / "run/pool").candidates()}
    assert temperatures <= {1.6, 2.0, 2.4}


def test_a_search_needs_held_out_prompts(tmp_path, policy, tokenizer, pairs) -> None:
    with pytest.raises(ValueError, match="temperatures are searched on held-out prompts: pass an eval_dataset"):
        trainer_of(tmp_path, policy, tokenizer, pairs, temperatures=[0.5, 1.0]).train()


# ---- resume --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(0, 20, 3))
def test_killed_anywhere_a_run_ends_the_same(moment, tmp_path, tokenizer, pairs, monkeypatch) -> None:
    from prefopt.training import checkpoint
    from prefopt.utils import jsonl

    def run(folder: Path, resume: bool) -> None:
        policy = untrained(tokenizer)
        trainer_of(folder, policy, tokenizer, pairs, save_strategy="steps", save_steps=1).train(resume)

    run(tmp_path / "whole", False)
    left = moment

    def killing(write: Any) -> Any:
        def each(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                raise Killed
            return write(*args, **kwargs)

        return each

    with monkeypatch.context() as patch:
        for module, name in ((jsonl, "append"), (jsonl, "replace"), (checkpoint, "publish"), (checkpoint, "begin")):
            patch.setattr(module, name, killing(getattr(module, name)))
        with pytest.raises(Killed):
            run(tmp_path / "killed", False)
    run(tmp_path / "killed", True)
    assert files_of(tmp_path / "killed/run") == files_of(tmp_path / "whole/run")


@pytest.mark.parametrize("init", ["base", "previous"])
@pytest.mark.parametrize("kind", ["full", "lora", "modules_to_save", "bfloat16"])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(kind, init, tmp_path, tokenizer, pairs) -> None:
    """Restored from the base, or read back from the last iteration's folder, with and without an adapter."""

    def run(folder: Path, iterations: int, resume: bool) -> Any:
        policy = untrained(tokenizer)
        if kind == "bfloat16":
            policy = policy.bfloat16()
        extra = {"modules_to_save": ["lm_head"]} if kind == "modules_to_save" else {}
        adapted = kind in ("lora", "modules_to_save")
        peft = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], **extra) if adapted else None
        args = config(folder, iterations=iterations, init=init, float32_weights=kind != "bfloat16")
        given = {"processing_class": tokenizer, "scorer": vowels, "peft_config": peft}
        trainer = RejectionSamplingTrainer(policy, args, train_dataset=pairs, **given)
        trainer.train(resume_from_checkpoint=resume)
        return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}

    whole = run(tmp_path / "whole", 2, False)
    first = run(tmp_path / "parts", 1, False)
    resumed = run(tmp_path / "parts", 2, True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[name], first[name]) for name in whole)
    assert files_of(tmp_path / "parts/run") == files_of(tmp_path / "whole/run")


def test_an_error_in_a_resumed_training_is_not_taken_for_a_fresh_start(tmp_path, tokenizer, pairs) -> None:
    class Missing(TrainerCallback):
        def __init__(self, at: int):
            self.at = at

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == self.at:
                raise FileNotFoundError("a file of the user's")

    for at, resume in ((2, False), (3, True)):
        trainer = trainer_of(tmp_path, untrained(tokenizer), tokenizer, pairs, save_strategy="steps", save_steps=1)
        trainer.add_callback(Missing(at))
        with pytest.raises(FileNotFoundError, match="of the user's"):
            trainer.train(resume_from_checkpoint=resume)


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path, policy, tokenizer, pairs) -> None:
    trainer = trainer_of(tmp_path, policy, tokenizer, pairs)
    trainer.train()
    with pytest.raises(ValueError, match="this trainer's model has been trained: build a new trainer"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="holds a run already: pass resume_from_checkpoint=True"):
        trainer_of(tmp_path, untrained(tokenizer), tokenizer, pairs).train()
    other = trainer_of(tmp_path, untrained(tokenizer), tokenizer, pairs, temperature=0.5)
    with pytest.raises(ValueError, match=r"belongs to another run: .*temperature: 1\.0 -> 0\.5"):
        other.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["selection.jsonl", "report.json", "policy/model.safetensors", "../pool"])
def test_damage_of_what_an_iteration_left_is_found(name: str, tmp_path, tokenizer, pairs) -> None:
    """A policy that is damaged is trained again, to the same bytes; of what it was trained on, the file is named."""

    def run(**changes: Any) -> None:
        trainer_of(tmp_path, untrained(tokenizer), tokenizer, pairs, **changes).train(resume_from_checkpoint="auto")

    run(iterations=1)
    before = files_of(tmp_path / "run")
    path = tmp_path / "run" / "iteration-000" / name
    path = next(path.resolve().glob("candidates-*")) if name == "../pool" else path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if name.startswith("policy"):
        run(iterations=1)
        assert files_of(tmp_path / "run") == before
        return
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        run(iterations=2)


def test_more_iterations_can_be_asked_for_later(tmp_path, tokenizer, pairs) -> None:
    def run(folder: Path, iterations: int, resume: bool) -> None:
        args = config(folder, iterations=iterations)
        policy = untrained(tokenizer)
        RejectionSamplingTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer, scorer=vowels).train(
            resume_from_checkpoint=resume
        )

    run(tmp_path / "whole", 2, False)
    run(tmp_path / "parts", 1, False)
    run(tmp_path / "parts", 2, True)
    assert files_of(tmp_path / "parts/run") == files_of(tmp_path / "whole/run")


# ---- stop tokens ---------------------------------------------------------------------------------------------------


def test_no_stop_token_is_trained_on_that_was_not_there(tmp_path, policy, tokenizer) -> None:
    """Neither after a dataset's answer that was cut off, nor in the place of another stop token."""
    other = tokenizer.convert_tokens_to_ids("a")
    policy.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    with torch.no_grad():
        policy.lm_head.weight[other] = policy.lm_head.weight[tokenizer.eos_token_id]
    rows = preference_rows(ROWS, seed=3)
    cut = [{**row, "finished": [False, True]} for row in rows]
    args = config(tmp_path, RRHFConfig, iterations=1)
    pairs = Dataset.from_list(
        [{name: row[name] for name in ("prompt", "chosen", "rejected", "finished")} for row in cut]
    )
    RRHFTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer, scorer=vowels).train()
    pool = list(Pool(tmp_path / "run/pool").candidates())
    assert {one.finish_reason for one in pool} >= {"stop", "other_stop", "length"}
    given = {one.response: one.finish_reason for one in pool if one.policy == DATASET}
    assert all(given[row["chosen"]] == "length" for row in rows if row["chosen"] not in {r["rejected"] for r in rows})
    selected = [json.loads(line) for line in (tmp_path / "run/iteration-000/selection.jsonl").open()]
    reasons = {(one.prompt_key, one.response): one.finish_reason for one in pool}
    for row in selected:
        for response, finished in zip(row["responses"], row["finished"], strict=True):
            assert finished == (reasons[prompt_key(row["prompt"]), response] == "stop")


def test_a_response_to_bare_text_is_kept_to_the_letter(policy, tokenizer) -> None:
    prompt = [{"role": "text", "content": "The capital of France is"}]
    found = sample(policy, tokenizer, [prompt], k=32, max_new_tokens=6)[0]
    assert any(one.text != one.text.strip() for one in found)
    for one in found:
        ids = one.ids[:-1] if one.finish_reason == "stop" else one.ids
        assert one.text == tokenizer.decode(ids, skip_special_tokens=True)


# ---- what is wrong is said -----------------------------------------------------------------------------------------


def test_a_method_that_draws_needs_a_scorer_and_others_take_none(tmp_path, policy, tokenizer, pairs) -> None:
    with pytest.raises(ValueError, match="RejectionSampling generates responses and nothing scores them: pass scorer="):
        RejectionSamplingTrainer(policy, config(tmp_path), train_dataset=pairs, processing_class=tokenizer)
    with pytest.raises(ValueError, match="DPO generates no responses: leave scorer out"):
        args = DPOConfig(**quiet(tmp_path))
        DPOTrainer(policy, None, args, train_dataset=pairs, processing_class=tokenizer, scorer=vowels)


def test_a_scorer_that_fails_loses_nothing(tmp_path, tokenizer, pairs) -> None:
    def broken(prompts: Any, responses: Any) -> list[float]:
        return [float("nan")] * len(responses)

    args = config(tmp_path, iterations=1)
    policy = untrained(tokenizer)
    with pytest.raises(ValueError, match=r"scorer 'broken' gave nan to row 0 \(prompt .*, response"):
        RejectionSamplingTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer, scorer=broken).train()
    assert len(list(Pool(tmp_path / "run/pool").candidates())) == 4 * len({prompt_key(r["prompt"]) for r in pairs})


def test_nothing_to_select_is_an_error_that_says_why(tmp_path, tokenizer, pairs) -> None:
    args = config(tmp_path, iterations=1, max_new_tokens=1)
    with pytest.raises(
        ValueError, match=r"no row to train on from \d+ candidates, to \d+ prompts, of which \d+ were cut off"
    ):
        RejectionSamplingTrainer(
            untrained(tokenizer), args, train_dataset=pairs, processing_class=tokenizer, scorer=vowels
        ).train()


def test_a_prompt_too_long_is_named_before_anything_is_drawn(tmp_path, policy, tokenizer, pairs) -> None:
    long = {"prompt": [{"role": "user", "content": "word " * 400}], "chosen": "yes", "rejected": "no"}
    rows = Dataset.from_list([{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in pairs] + [long])
    with pytest.raises(ValueError, match=r"prompt \d+ has \d+ tokens, which with max_new_tokens=12 is more than"):
        trainer_of(tmp_path, policy, tokenizer, rows).train()
    assert not list((tmp_path / "run/pool").glob("*"))


def test_a_prompt_that_training_would_cut_is_told(tmp_path, policy, tokenizer, pairs, caplog) -> None:
    trainer_of(tmp_path, policy, tokenizer, pairs, max_length=24).train()
    assert re.search(r"\d of \d prompts with a response may exceed max_length=24", caplog.text)


def test_encoded_rows_have_no_text_to_draw_from(tmp_path, policy, tokenizer) -> None:
    rows = Dataset.from_list([{"prompt_ids": [5, 6], "response_ids": [[7, 1], [8, 1]]}])
    with pytest.raises(ValueError, match="generating responses needs their text"):
        trainer_of(tmp_path, policy, tokenizer, rows)


def test_the_settings_are_checked() -> None:
    for wrong in ({"init": "first"}, {"iterations": 0}, {"responses_per_prompt": 0}, {"source": "magic"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RejectionSampling(**wrong)


# ---- several processes ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_draw_and_select_the_same(tmp_path) -> None:
    """Chunks are dealt out to ranks, scored and written by the first, and trained on by both."""
    one, two = (launch(n, "tests.helpers.programs.sampling_ranks", folder=str(tmp_path / str(n))) for n in (1, 2))
    assert (one.pop("world"), two.pop("world")) == (1, 2)
    assert one["files"] == two["files"]
    assert one["weights"] == pytest.approx(two["weights"], rel=1e-4)
    assert one["evaluation"] == pytest.approx(two["evaluation"])
