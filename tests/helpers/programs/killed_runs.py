"""Run by itself: runs of every method are killed at random moments and run again; a line of JSON for each attempt.

python -m tests.helpers.programs.killed_runs '{"folder": "kills", "methods": {"dpo": 4}, "signal": "SIGTERM"}'
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from prefopt import PreferenceConfig, PreferenceTrainer, RejectionSamplingTrainer, testbed
from prefopt.candidates.plot import new_figure
from prefopt.cli.train import train_and_save
from prefopt.compare.run import compare
from prefopt.compare.run.task_functions import TASK_FUNCTIONS
from prefopt.models.heads import scorer_from_policy
from prefopt.objectives.base import Objective
from prefopt.objectives.dpo import DPO
from prefopt.objectives.reward import BradleyTerry
from prefopt.objectives.rrhf import RRHF
from prefopt.objectives.sft import SFT
from prefopt.rounds import results_of, rounds_plan_from, run_rounds
from prefopt.rounds.report import write_rounds_report
from prefopt.rounds.stages.run_stage import STAGE_FUNCTIONS
from prefopt.rounds.tasks import RoundTasks
from prefopt.scoring import RewardModelScorer
from prefopt.tasks import schedule
from prefopt.testbed.model import build_tokenizer
from prefopt.training.checkpoint import problem_with
from prefopt.training.output_folder import AUTO
from prefopt.utils import jsonl
from tests.helpers import engines, iterations, ppo
from tests.helpers.checkpoints import BASE, LORA
from tests.helpers.kills import ENDED, Run, Whole, finish, killed, kills, said, undisturbed
from tests.helpers.models import tiny_llama, untrained
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

assert TASK_FUNCTIONS and STAGE_FUNCTIONS  # paid for here, not by every process of a comparison
IN_A_ROW = 3
"""How often a run is killed before it may end."""
TRIES = 8
"""Runs for each kill: one that is faster than the undisturbed one was has ended before it is struck."""
SAVING = {"save_strategy": "steps", "save_steps": 2}
OTHER: dict[str, Any] = {}
"""Arguments by which all runs are others."""
PLAN: dict[str, Any] = {
    "title": "比较",
    "policy": "testbed",
    "data": {"train": "testbed", "train_rows": 24},
    "sft": {"max_steps": 6, "learning_rate": 3e-3},
    "reward": {"max_steps": 6, "learning_rate": 1e-3},
    "training": {
        **{"per_device_train_batch_size": 4, "max_length": 128, "max_new_tokens": 8, "learning_rate": 1e-3},
        **{"bf16": False, "gradient_checkpointing": False, **SAVING},
    },
    "evaluation": {"prompts": 4, "pairs": 4, "responses_per_prompt": 1, "max_new_tokens": 8},
    "judges": ["score"],
    "methods": {
        "dpo": {"max_steps": 6},
        "rejection-sampling": {"max_steps": 2, "iterations": 2, "responses_per_prompt": 2, "prompts_per_iteration": 8},
    },
    "seeds": [0],
}

ROUNDS: dict[str, Any] = {
    **{name: PLAN[name] for name in ("title", "policy", "training")},
    "data": {"train": "testbed", "train_rows": 40},
    "sft": PLAN["sft"],
    "evaluation": {**PLAN["evaluation"], "curve_prompts": 4},
    "round": {
        "prompts": {"label": 12, "sample": 6},
        "label": {"by": "testbed", "temperatures": [0.8, 1.2], "include_truncated": True},
        "reward": {"max_steps": 4, "margin": "small"},
        "sample": {"responses_per_prompt": 3, "temperatures": [0.7, 1.0], "search_prompts": 2, "max_truncated": 1.0},
        "select": {"include_truncated": True},
        "train": {"method": "rejection-sampling", "max_steps": 4},
    },
    "rounds": [
        {"sample": {"temperatures": []}},
        {"train": [{"method": "dpo", "max_steps": 4}, {"method": "ppo-max", "max_steps": 4, "num_mini_batches": 2}]},
    ],
}
"""Two rounds, every kind of stage."""
PEOPLE: dict[str, Any] = {
    **ROUNDS,
    "round": {
        **ROUNDS["round"],
        "label": {"by": "people", "at_least": 0.9, "include_truncated": True},
        "reward": {"max_steps": 2},
        "train": {"method": "dpo", "rows": "labels", "max_steps": 2},
    },
    "rounds": 1,
}
"""A round that waits for people, who send half of their labels at a time."""


def offline(objective: Callable[[], Objective], k: int = 2, **changes: Any) -> Callable[[Path], None]:
    """A run over rows that are there."""

    def call(folder: Path) -> None:
        os.environ["PREFOPT_CACHE"] = str(folder / "cache")
        given = dict(changes)
        adapter, columns = given.pop("adapter", None), given.pop("columns", {})
        # Two ranks have half a step's rows each.
        each = 2 // int(os.environ.get("WORLD_SIZE", "1"))
        args = {**BASE, "max_steps": 8, "per_device_train_batch_size": each, **given, **OTHER}
        learnt, model = objective(), tiny_llama()
        rows = ragged_pairs(12, k=k, **columns)
        model = scorer_from_policy(model) if learnt.trains == "scorer" else model
        config = PreferenceConfig(**quiet(folder, **args))
        trainer = PreferenceTrainer(model, learnt, config, rows, None, build_tokenizer(), peft_config=adapter)
        train_and_save(trainer, AUTO)

    return call


def in_iterations(folder: Path, **changes: Any) -> None:
    rows, tokenizer = Dataset.from_list(testbed.preference_rows(16, seed=3)), build_tokenizer()
    args = iterations.config(folder, iterations=2, max_steps=4, **SAVING, **OTHER, **changes)
    judge = RewardModelScorer(ppo.reward_model(tokenizer), tokenizer)
    more: dict[str, Any] = {"train_dataset": rows, "processing_class": tokenizer, "scorer": judge}
    more |= {"eval_dataset": Dataset.from_list(testbed.preference_rows(4, seed=4, split="test"))} if changes else {}
    train_and_save(RejectionSamplingTrainer(untrained(tokenizer), args, **more), AUTO)


def on_policy(folder: Path) -> None:
    rows, tokenizer = Dataset.from_list(testbed.preference_rows(16, seed=3)), build_tokenizer()
    changes = {"max_steps": 8, "num_ppo_epochs": 2, "critic_pretrain_steps": 2, "ptx_coef": 0.1, **SAVING, **OTHER}
    train_and_save(ppo.trainer_of(folder, tokenizer, rows, **changes), AUTO)


def comparison(folder: Path) -> None:
    schedule.process_context = lambda *_: get_context("fork")  # type: ignore[assignment,return-value]
    torch.set_num_threads(1)
    changes = {name: value for name, value in OTHER.items() if name != "seed"}
    findings = compare({**PLAN, "training": {**PLAN["training"], **changes}}, folder / "out", jobs=1)
    assert not findings.failures, findings.failures


def in_rounds(plan: Any, folder: Path) -> None:
    schedule.process_context = lambda *_: get_context("fork")  # type: ignore[assignment,return-value]
    torch.set_num_threads(1)
    out = folder / "out"
    while (run := run_rounds(plan, out, jobs=1)).waits:
        label_half(next(out.glob("rlhf-v1/ask-*")))
    assert not run.failures, run.failures
    results = results_of(RoundTasks(rounds_plan_from(plan)), out)
    write_rounds_report(results, out / "report")


def label_half(asked: Path) -> None:
    """The half of a round's pairs that is not labelled yet: first every other one, then the others."""
    arrived = asked / "labels"
    number = len(list(arrived.glob("*.jsonl")))
    rows = list(jsonl.read(asked / "annotate/pairs.jsonl"))[number::2]
    choices = ("A better", "B significantly better")
    given = [{"pair_id": row["pair_id"], "choice": choices[len(row["a"]) % 2], "annotator": "李"} for row in rows]
    jsonl.replace(arrived / f"{number}.jsonl", given)


def under(engine: str, call: Callable[[Path], None]) -> Callable[[Path], None]:
    """A run under one of `tests.helpers.engines`."""

    def run(folder: Path) -> None:
        engines.use(engine)
        call(folder)

    return run


def saved(*patterns: str) -> Callable[[Path], dict[str, bytes]]:
    """The files of a folder that these patterns match."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for each in patterns for path in sorted(folder.glob(each))
    }


def compared(folder: Path) -> dict[str, bytes]:
    """Every table and model of a comparison, and its report but for times, memory and where it was made."""
    report = json.loads((folder / "out/report/report.json").read_text("utf-8"))
    del report["provenance"]
    for method in report["methods"]:
        for name in ("seconds", "cpu_seconds", "peak_memory"):
            del method["cost"][name]
    files = saved("out/*/*/*.parquet", "out/*/*/model/**/*.safetensors", "out/train/*/run/**/selection.jsonl")(folder)
    return {**files, "report": json.dumps(report, sort_keys=True).encode()}


def of_rounds(folder: Path) -> dict[str, bytes]:
    """What every stage of rounds came to: labels, selections, models, tables, and the report but for times."""
    report = json.loads((folder / "out/report/rounds.json").read_text("utf-8"))
    for version in report["versions"]:
        del version["seconds"]
    names = ("labels", "held_out", "selected", "prompts")
    patterns = [f"out/rlhf-v*/*/{name}.jsonl" for name in names]
    patterns += ["out/rlhf-v*/policy/*.safetensors", "out/rlhf-v*/reward/*.safetensors", "out/rlhf-v*/*/*.parquet"]
    files = saved(*patterns, "out/rlhf-v*/*/pool/**/*.jsonl")(folder)
    assert {Path(name).name for name in files} >= {"labels.jsonl", "model.safetensors", "responses.parquet"}
    return {**files, "report": json.dumps(report, sort_keys=True).encode()}


def model(*more: str) -> Callable[[Path], dict[str, bytes]]:
    """The final model, the losses on the way to it, and these files."""

    def results(folder: Path) -> dict[str, bytes]:
        history = json.loads((folder / "run/trainer_state.json").read_text())["log_history"]
        losses = [{name: log[name] for name in ("step", "loss")} for log in history if "loss" in log]
        files = saved("run/*.safetensors", "run/policy/*.safetensors", "run/critic/*.safetensors", *more)(folder)
        assert files, "there is no model"
        return {**files, "losses": json.dumps(losses).encode()}

    return results


SAMPLED = saved(
    "run/*.safetensors",
    "run/pool/**/*.jsonl",
    "run/iter*/selection.jsonl",
    "run/iter*/report.json",
    "run/iter*/policy/*.safetensors",
)
RUNS = {
    "sft": Run(offline(SFT, k=1), model()),
    "dpo": Run(offline(DPO), model()),
    "dpo-lora": Run(offline(DPO, adapter=LORA), model()),
    "dpo-precomputed": Run(offline(DPO, precompute_ref_log_probs=True), model()),
    "dpo-two-ranks": Run(offline(lambda: DPO(loss_type=["bco_pair"])), model(), ranks=2),
    "dpo-fsdp2": Run(under("fsdp2", offline(DPO)), model(), ranks=2),
    "reward": Run(offline(BradleyTerry), model()),
    "rrhf": Run(offline(RRHF, columns={"scores": lambda rng: [rng.random(), rng.random()]}), model()),
    "rejection-sampling": Run(in_iterations, SAMPLED),
    "rejection-sampling-searched": Run(partial(in_iterations, temperatures=[1.6, 2.4]), SAMPLED),
    "rejection-sampling-two-ranks": Run(in_iterations, SAMPLED, ranks=2),
    "rejection-sampling-fsdp2": Run(under("fsdp2", in_iterations), SAMPLED, ranks=2),
    "ppo-max": Run(on_policy, model("run/rollouts.jsonl")),
    "ppo-max-two-ranks": Run(on_policy, model("run/rollouts.jsonl"), ranks=2),
    "ppo-max-fsdp2": Run(under("fsdp2", on_policy), model("run/rollouts.jsonl"), ranks=2),
    "compare": Run(comparison, compared),
    "rounds": Run(partial(in_rounds, ROUNDS), of_rounds),
    "rounds-by-people": Run(partial(in_rounds, PEOPLE), of_rounds),
}


def attempts(name: str, folder: Path, count: int, signum: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Kills of a method's run until there are so many, and how each of these runs has ended."""
    run = RUNS[name]
    whole = undisturbed(run, folder / "whole")
    planned = kills(whole, count, signum, rng, run)
    number = 0
    while planned and number < TRIES * count:
        place, number = folder / str(number), number + 1
        struck = []
        while planned and len(struck) < IN_A_ROW:
            kill = planned.pop()
            statuses = killed(run, place, kill)
            if ENDED in statuses and not differing(run, place, whole):  # all is there: nothing was left to agree on
                planned += kills(whole, 1, signum, rng, run, share=float(kill.operation is not None))
                break
            struck.append({**vars(kill), "statuses": statuses, "steps": steps(place), **said(place)})
        finish(run, place)
        yield {"method": name, "kills": struck, "differs": differing(run, place, whole), "folder": str(place)}
        shutil.rmtree(place)


def steps(folder: Path) -> list[str]:
    """The checkpoints that a kill has left, whole ones alone."""
    whole = (each for each in folder.glob("run/**/checkpoint-*") if problem_with(each) is None)
    return sorted(str(each.relative_to(folder)) for each in whole)


def differing(run: Run, folder: Path, whole: Whole) -> list[str]:
    found = run.results(folder)
    return sorted(name for name in found.keys() | whole.results.keys() if found.get(name) != whole.results.get(name))


def main(folder: str, methods: dict[str, int], signal: str = "SIGKILL", seed: int = 0) -> None:
    found = []
    for name, count in methods.items():
        rng = random.Random(f"{seed} {name} {signal}")
        for attempt in attempts(name, Path(folder) / name, count, signum_of(signal), rng):
            print("RESULT " + json.dumps(attempt), flush=True)
            found.append(attempt)
    print("\n".join(table(found)))


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """Of each method: kills, those of them within saves, runs, and runs that ended as the undisturbed one."""
    yield "| method | kills | within saves | runs | equal |"
    yield "|---|---:|---:|---:|---:|"
    for name in dict.fromkeys(each["method"] for each in found):
        runs = [each for each in found if each["method"] == name and each["kills"]]
        struck = [kill for each in runs for kill in each["kills"]]
        saves, equal = sum(kill["operation"] is not None for kill in struck), sum(not each["differs"] for each in runs)
        yield f"| {name} | {len(struck)} | {saves} | {len(runs)} | {equal} |"


def signum_of(name: str) -> int:
    return int(signal.Signals[name])


def prepare() -> None:
    """Pay for what every attempt needs, before the first one is forked."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    disable_progress_bars()
    new_figure()
    get_checkpoint_conversion_mapping("llama")  # which PEFT asks for, of all models there are
    build_tokenizer()  # once for all
    gc.freeze()


if __name__ == "__main__":
    prepare()
    main(**json.loads(sys.argv[1]))
