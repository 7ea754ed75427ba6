"""What each kind of task does, in the process that carries it out. Knows no other task and no order.

Every function reads the results that its task needs, writes into its task's folder, and returns what is to be kept of
it beside the files, in plain values.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from peft import PeftModel
from transformers import GenerationConfig, PrinterCallback

from ...candidates.candidate import prompt_key
from ...candidates.evaluate import standard_error
from ...data.encode import encode_dataset
from ...testbed.model import build_policy, build_tokenizer
from ...training import checkpoint
from ...training.arguments import get_peft_config, get_quantization_config, loading
from ...training.trainers import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from ...utils import jsonl
from .. import records
from ..measure.choices import measure_choices, read_questions
from ..measure.judges import judge_from
from ..measure.pairs import pair_logps, policy_pairs, scored_pairs
from ..measure.responses import STREAM, Measure
from ..plan.method_spec import BEST_OF_N, Way, objective_of, trainer_for, way_of
from ..plan.plan import TESTBED
from .cost import Budget, Spent, measured
from .job import MODEL, Job, device, world_like
from .watch import STREAM as WATCHING
from .watch import Report, Watch

RUN, CACHE = "run", "cache"
PAIRS, LOGPS = "pairs", "logps.npy"
Result = dict[str, Any]
TASK_TYPE = {"policy": "CAUSAL_LM", "scorer": "SEQ_CLS", "actor-critic": "CAUSAL_LM"}


# ---- stages ----------------------------------------------------------------------------------------------------------


def rows(job: Job) -> Result:
    found = world_like(job.given).rows(job.seed)
    found.write(job.folder)
    return {"pairs": len(found.train), "validation": len(found.validation)}


def held_out(job: Job) -> Result:
    found = world_like(job.given).held_out(job.rows)
    found.write(job.folder)
    return {"pairs": len(found.pairs or ()), "prompts": len(found.prompts)}


def encode(job: Job) -> Result:
    _encoded(job, job.rows.train).save_to_disk(job.folder / "train")
    return {}


def _encoded(job: Job, table: Dataset) -> Dataset:
    """Rows as ids by the starting policy's tokenizer, and what ends its responses."""
    generation = None
    with suppress(OSError):
        generation = GenerationConfig.from_pretrained(job.start)
    return encode_dataset(table, job.tokenizer, job.encoding.encoding, None, generation)


def sft(job: Job) -> Result:
    args = SFTConfig(**arguments(job, job.given["settings"]))
    policy: Any = job.start
    tokenizer = None
    if policy == TESTBED:
        tokenizer = build_tokenizer()
        policy = build_policy(tokenizer, job.seed)
    demonstrations = job.rows.demonstrations
    more = {"train_dataset": demonstrations, "processing_class": tokenizer, **adapter(job, "policy")}
    trainer, cost = trained(job, lambda: SFTTrainer(policy, args, **more))
    _merge(trainer)
    trainer.save_model(str(job.folder / MODEL))
    return {"cost": cost}


def _merge(trainer: Any) -> None:
    """An adapter becomes part of the policy: it is what every method starts from, maybe with an adapter of its own."""
    if isinstance(trainer.model, PeftModel):
        trainer.model = trainer.model.merge_and_unload()


def reward(job: Job) -> Result:
    args = RewardConfig(**arguments(job, job.given["settings"]))
    more = {"train_dataset": job.encoded, **adapter(job, "scorer")}
    trainer, cost = trained(job, lambda: RewardTrainer(job.start, args, **more))
    trainer.save_model(str(job.folder / MODEL))
    return {"cost": cost}


def rank(job: Job) -> Result:
    """The reward model on held-out pairs."""
    scorer, pairs = job.scorer(), job.test.pairs
    if pairs is not None and scorer is not None:
        records.write(job.folder / "pairs.parquet", scored_pairs(scorer, pairs))
    return {}


def reference(job: Job) -> Result:
    """The starting policy's log-probs of the pairs, into the cache that trainers look into."""
    settings = {**job.given["settings"], "precompute_ref_log_probs": True}
    args = DPOConfig(**arguments(job, settings))
    os.environ["PREFOPT_CACHE"] = str(job.folder / CACHE)
    with measured() as spent:
        DPOTrainer(job.start, None, args, train_dataset=job.encoded, **adapter(job, "policy"))
    return {"cost": asdict(spent.cost())}


# ---- methods ---------------------------------------------------------------------------------------------------------


def train(job: Job) -> Result:
    """A method with one seed; the policy is in `model`."""
    way = way_of(job.task.name, {**job.given["settings"], "method": job.given["method"]}, job.given["training"])
    given = arguments(job, {})
    if (shared := job.place("reference")) is not None:
        os.environ["PREFOPT_CACHE"], given["precompute_ref_log_probs"] = str(shared / CACHE), True
    more: dict[str, Any] = {"scorer": job.scorer()} if way.draws else {}
    if getattr(objective_of(way), "ptx_coef", 0):
        more["ptx_dataset"] = job.rows.demonstrations
    table = job.rows.train if way.draws else job.encoded
    # Before the trainer: transformers' arguments, when they are made, reset the state that a trainer works by.
    watched = job.given["curve"]["curve_points"] and job.rows.validation
    measure = job.measure(job.given["curve"], WATCHING, job.scorer()) if watched else None
    more |= {"train_dataset": table, **adapter(job, way.objective.trains)}
    trainer, cost = trained(job, lambda: trainer_for(way, job.start, given, **more), way, measure)
    trainer.save_model(str(job.folder / MODEL))
    jsonl.replace(job.folder / "log.jsonl", trainer.state.log_history)
    return {"cost": cost}


def trained(
    job: Job, build: Callable[[], Any], way: Way | None = None, measure: Measure | None = None
) -> tuple[Any, Result]:
    """Train, from the newest checkpoint if there is one, and tidy up; the trainer, and what it cost to make and run."""
    with measured(job.folder) as spent:
        trainer = build()
        drawn = way is not None and way.draws and not trainer.objective.on_policy
        iterations = trainer.objective.iterations if drawn else 1
        trainer.remove_callback(PrinterCallback)
        for callback in (spent, Report(job.folder, iterations), *_callbacks(job, way, measure, iterations, spent)):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=_resumable(job, trainer))
    for folder in (job.folder / RUN).glob("checkpoint-*"):
        shutil.rmtree(folder)
    return trainer, asdict(spent.cost())


def _callbacks(job: Job, way: Way | None, measure: Measure | None, iterations: int, spent: Spent) -> list[Any]:
    """What watches a method, and what ends it when it has spent enough."""
    found: list[Any] = []
    if measure is not None:
        points = job.given["curve"]["curve_points"]
        found.append(Watch(job.folder, measure, job.rows.validation, points, iterations, spent))
    if way is not None and (budget := job.given["budget"]) is not None:
        left = budget["flops"] - sum(_spent_before(job, role) for role in _charged(way, budget))
        found.append(Budget(spent.tally, left))
    return found


def _charged(way: Way, budget: Mapping[str, Any]) -> Iterator[str]:
    """The shared stages that a method pays for."""
    yield "reference"
    if way.scored and budget["reward_model"]:
        yield "reward"


def _spent_before(job: Job, role: str) -> float:
    result = job.task.needs[role].result(job.out) if role in job.task.needs else None
    return sum(result["cost"]["flops"].values()) if result else 0.0


def _resumable(job: Job, trainer: Any) -> str | bool | None:
    if trainer.scorer is not None and not trainer.objective.on_policy:
        return True
    try:
        return str(checkpoint.newest(job.folder / RUN))
    except FileNotFoundError:
        return None


def arguments(job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What every training is told, before its settings."""
    return {
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": device().type == "cpu",
        "logging_steps": 0.02,
        **settings,
        "output_dir": str(job.folder / RUN),
        "seed": job.seed,
        "model_init_kwargs": loading(job.model),
    }


def adapter(job: Job, trains: str) -> dict[str, Any]:
    model = job.model
    return {
        "peft_config": get_peft_config(model, TASK_TYPE[trains]),
        "quantization_config": get_quantization_config(model),
    }


# ---- measuring -------------------------------------------------------------------------------------------------------


def reference_pairs(job: Job) -> Result:
    """The held-out pairs as ids, and the starting policy's log-probs of them."""
    if (pairs := job.test.pairs) is not None:
        encoded = _encoded(job, pairs)
        encoded.save_to_disk(job.folder / PAIRS)
        np.save(job.folder / LOGPS, pair_logps(job.policy(job.start), encoded))
    return {}


def evaluate(job: Job) -> Result:
    """Everything about a method on what was held out, one table each."""
    sizes, n = job.given["evaluation"], job.given["n"]
    k, scorer = sizes["responses_per_prompt"], job.scorer()
    policy, prompts = job.policy(job.policy_folder), job.test.prompts
    measure = job.measure(sizes, STREAM, scorer)
    with measured() as spent:
        if job.given["method"] == BEST_OF_N:
            found = measure.best_of_n(policy, prompts, n=n, k=k, seed=job.seed)
        else:
            found = measure.table(policy, prompts, k=k, seed=job.seed)
    records.write(job.folder / "responses.parquet", found)
    if job.given["method"] != BEST_OF_N:
        _evaluate_policy(job, policy, measure)
    return {"cost": asdict(spent.cost())}


def _evaluate_policy(job: Job, policy: Any, measure: Measure) -> None:
    """What is known of a policy and not of its responses alone."""
    known = job.place("reference")
    if known is not None and (known / LOGPS).is_file():
        found = policy_pairs(policy, np.load(known / LOGPS), Dataset.load_from_disk(known / PAIRS))
        records.write(job.folder / "pairs.parquet", found)
    if job.given["choices"]:
        questions = read_questions(*(path for path, *_ in job.given["choices"]))
        shots = job.given["evaluation"]["shots"]
        records.write(
            job.folder / "choices.parquet", measure_choices(policy, measure.tokenizer, questions, shots=shots)
        )


def validate(job: Job) -> Result:
    """Mean score of responses to validation prompts, by which settings are chosen."""
    measure = job.measure(job.given["evaluation"], WATCHING, job.scorer())
    if not job.rows.validation:
        raise ValueError("there are no validation prompts to choose settings by: give data a `validation`")
    found = measure.table(job.policy(job.policy_folder), job.rows.validation, k=1, seed=job.seed)["score"].to_numpy()
    return {"score": float(found.mean()), "error": standard_error(found)}


def judge(job: Job) -> Result:
    """A judge that reads texts, on the first response to each prompt."""
    places = [job.task.needs[role].folder(job.out) for role in ("ours", "theirs")]
    ours, theirs = (pd.read_parquet(place / "responses.parquet") for place in places)
    # A folder for each task: two that ask at once must not write into one file.
    asked = judge_from(job.given["judge"], folder=job.out / "judgements" / job.folder.name)
    prompts = {prompt_key(prompt): prompt for prompt in job.test.prompts}
    found = asked.judge(prompts, ours, theirs)
    records.write(job.folder / "judgements.parquet", found)
    return {"name": asked.name, "kind": asked.kind, "again": bool((found["error"] != "").any())}


STAGES = (rows, held_out, encode, sft, reward, rank, reference, reference_pairs)
WORK: dict[str, Callable[[Job], Result]] = {each.__name__: each for each in (*STAGES, train, evaluate, validate, judge)}
