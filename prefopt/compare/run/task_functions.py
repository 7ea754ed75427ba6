"""Does the work of each kind of task, in the process that runs it.

Every function reads the results of the tasks that its own needs, writes files into its task's folder, and returns what
is to be kept beside these files, in plain values. A function's name is the kind of its tasks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from peft import PeftModel
from transformers import GenerationConfig, PrinterCallback

from ...candidates.candidate import prompt_key
from ...candidates.evaluate import standard_error
from ...data.encode import encode_dataset
from ...models import merge_adapter
from ...tasks import Task
from ...testbed.model import build_policy, build_tokenizer
from ...training import checkpoint
from ...training.arguments import get_peft_config, get_quantization_config, loading
from ...training.metrics import encoding_counts
from ...training.trainers import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from ...utils import jsonl
from ...utils.distributed import on_first
from .. import records
from ..measure import (
    STREAM,
    ResponseEvaluator,
    judge_from,
    measure_choices,
    pair_logps,
    policy_pairs,
    read_questions,
    scored_pairs,
)
from ..plan import BEST_OF_N, TESTBED, MethodSpec, make_method_spec, make_trainer, objective_of
from .cost import Budget, Spent, measured
from .task_context import MODEL, TaskContext, device, source_from
from .validation_curve import STREAM as VALIDATION_STREAM
from .validation_curve import ProgressFile, ValidationCurve

RUN, CACHE = "run", "cache"
PAIRS, LOGPS = "pairs", "logps.npy"
Result = dict[str, Any]
TASK_TYPE = {"policy": "CAUSAL_LM", "scorer": "SEQ_CLS", "actor-critic": "CAUSAL_LM"}


# ---- stages ----------------------------------------------------------------------------------------------------------


def rows(context: TaskContext) -> Result:
    data = source_from(context.inputs).rows(context.seed)
    data.write(context.folder)
    return {"pairs": len(data.train or ()), "validation": len(data.validation)}


def held_out(context: TaskContext) -> Result:
    data = source_from(context.inputs).held_out(context.rows)
    data.write(context.folder)
    return {"pairs": len(data.pairs or ()), "prompts": len(data.prompts)}


def encode(context: TaskContext) -> Result:
    counts: Counter[str] = Counter()
    _encoded(context, context.rows.pairs, counts).save_to_disk(context.folder / "train")
    return {"encoding": dict(+counts)}


def _encoded(context: TaskContext, table: Dataset, counts: Counter[str] | None = None) -> Dataset:
    """Rows as token ids by the starting policy's tokenizer and stop tokens; `counts` is told what encoding did."""
    generation = None
    with suppress(OSError):
        generation = GenerationConfig.from_pretrained(context.start)
    return encode_dataset(table, context.tokenizer, context.encoding.encoding, None, generation, counts)


def sft(context: TaskContext) -> Result:
    args = SFTConfig(**arguments(context, context.inputs["settings"]))
    policy: Any = context.start
    tokenizer = None
    if policy == TESTBED:
        tokenizer = build_tokenizer()
        policy = build_policy(tokenizer, context.seed)
    demonstrations = context.rows.demonstrations
    more = {"train_dataset": demonstrations, "processing_class": tokenizer, **adapter(context, "policy")}
    trainer, result = trained(context, lambda: SFTTrainer(policy, args, **more))
    _merge(trainer)
    trainer.save_model(str(context.folder / MODEL))
    return result


def _merge(trainer: Any) -> None:
    """Merge an adapter into the policy, which every method starts from, maybe with an adapter of its own."""
    if isinstance(trainer.model, PeftModel):
        trainer.model = merge_adapter(trainer.model)


def reward(context: TaskContext) -> Result:
    args = RewardConfig(**arguments(context, context.inputs["settings"]))
    more = {"train_dataset": context.encoded, **adapter(context, "scorer")}
    trainer, result = trained(context, lambda: RewardTrainer(context.start, args, **more))
    trainer.save_model(str(context.folder / MODEL))
    return result


def rank(context: TaskContext) -> Result:
    """Rank the held-out pairs by the reward model."""
    scorer, pairs = context.scorer(), context.held_out.pairs
    if pairs is not None and scorer is not None:
        records.write(context.folder / "pairs.parquet", scored_pairs(scorer, pairs))
    return {}


def reference(context: TaskContext) -> Result:
    """Write the starting policy's log-probs of the pairs into the cache that trainers read."""
    settings = {**context.inputs["settings"], "precompute_ref_log_probs": True}
    args = DPOConfig(**arguments(context, settings))
    os.environ["PREFOPT_CACHE"] = str(context.folder / CACHE)
    with measured() as spent:
        DPOTrainer(context.start, None, args, train_dataset=context.encoded, **adapter(context, "policy"))
    return {"cost": asdict(spent.cost())}


# ---- methods ---------------------------------------------------------------------------------------------------------


def train(context: TaskContext) -> Result:
    """Train a method with one seed; the policy is written into `model`."""
    spec = _method_spec(context)
    args = arguments(context, {})
    if (shared := context.folder_of("reference")) is not None:
        os.environ["PREFOPT_CACHE"], args["precompute_ref_log_probs"] = str(shared / CACHE), True
    more: dict[str, Any] = {"scorer": context.scorer()} if spec.generates else {}
    if getattr(objective_of(spec), "ptx_coef", 0):
        more["ptx_dataset"] = context.rows.demonstrations
    table = context.rows.pairs if spec.generates else context.encoded
    # Before the trainer: transformers' arguments, when they are made, reset the state that a trainer works by.
    validated = context.inputs["curve"]["curve_points"] and context.rows.validation
    evaluator = context.evaluator(context.inputs["curve"], VALIDATION_STREAM, context.scorer()) if validated else None
    more |= {"train_dataset": table, **adapter(context, spec.objective.trains)}
    trainer, result = trained(context, lambda: make_trainer(spec, context.start, args, **more), spec, evaluator)
    trainer.save_model(str(context.folder / MODEL))
    write_log(context, trainer)
    return result


def write_log(context: TaskContext, trainer: Any) -> None:
    """Keep what a training logged; of several processes, one writes."""
    on_first(lambda: jsonl.replace(context.folder / "log.jsonl", trainer.state.log_history))


def _method_spec(context: TaskContext) -> MethodSpec:
    settings = {**context.inputs["settings"], "method": context.inputs["method"]}
    return make_method_spec(context.task.name, settings, context.inputs["training"])


def trained(
    context: TaskContext,
    build: Callable[[], Any],
    spec: MethodSpec | None = None,
    evaluator: ResponseEvaluator | None = None,
) -> tuple[Any, Result]:
    """Train, from the newest checkpoint if there is one.

    Args:
        build: makes the trainer.
        spec: the method; None of a stage.
        evaluator: evaluates the policy for its learning curve; None, where there is to be none.

    Returns:
        the trainer; and the cost of making and running it, with what encoding did to rows that it encoded itself.
    """
    with measured(context.folder) as spent:
        trainer = build()
        iterative = spec is not None and spec.generates and not trainer.objective.on_policy
        iterations = trainer.objective.iterations if iterative else 1
        trainer.remove_callback(PrinterCallback)
        for callback in _callbacks(context, spec, evaluator, iterations, spent):
            trainer.add_callback(callback)
        output = trainer.train(resume_from_checkpoint=_resumable(context, trainer))
    return trainer, {"cost": asdict(spent.cost()), "encoding": encoding_counts(output.metrics)}


def _callbacks(
    context: TaskContext,
    spec: MethodSpec | None,
    evaluator: ResponseEvaluator | None,
    iterations: int,
    spent: Spent,
) -> list[Any]:
    """What counts the cost of a training, shows its progress, records its learning curve, and ends it at its budget."""
    callbacks: list[Any] = [spent, ProgressFile(context.folder, iterations)]
    if evaluator is not None:
        points = context.inputs["curve"]["curve_points"]
        prompts = context.rows.validation
        callbacks.append(ValidationCurve(context.folder, evaluator, prompts, points, iterations, spent))
    if spec is not None and (budget := context.inputs["budget"]) is not None:
        left = budget["flops"] - sum(_spent_before(context, role) for role in _charged(spec, budget))
        callbacks.append(Budget(spent.tally, left))
    return callbacks


def _charged(spec: MethodSpec, budget: Mapping[str, Any]) -> Iterator[str]:
    """The roles of the shared stages whose cost counts towards a method's budget."""
    yield "reference"
    if spec.needs_reward_model and budget["reward_model"]:
        yield "reward"


def _spent_before(context: TaskContext, role: str) -> float:
    result = context.task.needs[role].result(context.out) if role in context.task.needs else None
    return sum(result["cost"]["flops"].values()) if result else 0.0


def _resumable(context: TaskContext, trainer: Any) -> str | bool | None:
    if trainer.scorer is not None and not trainer.objective.on_policy:
        return True
    try:
        return str(checkpoint.newest(context.folder / RUN))
    except FileNotFoundError:
        return None


def arguments(context: TaskContext, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's arguments that are the same for every training, with its settings."""
    return {
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": device().type == "cpu",
        "logging_steps": 0.02,
        "text_prompts": "verbatim",  # the rows are what the plan's data makes of them, for training and evaluation
        **settings,
        "output_dir": str(context.folder / RUN),
        "seed": context.seed,
        "model_init_kwargs": loading(context.model),
    }


def adapter(context: TaskContext, trains: str) -> dict[str, Any]:
    model = context.model
    return {
        "peft_config": get_peft_config(model, TASK_TYPE[trains]),
        "quantization_config": get_quantization_config(model),
    }


# ---- evaluation ------------------------------------------------------------------------------------------------------


def reference_pairs(context: TaskContext) -> Result:
    """Write the held-out pairs as token ids, and the starting policy's log-probs of them."""
    if (pairs := context.held_out.pairs) is not None:
        encoded = _encoded(context, pairs)
        encoded.save_to_disk(context.folder / PAIRS)
        np.save(context.folder / LOGPS, pair_logps(context.policy(context.start), encoded))
    return {}


def evaluate(context: TaskContext) -> Result:
    """Evaluate a method on the held-out rows, and write a table of each kind."""
    sizes, n = context.inputs["evaluation"], context.inputs["n"]
    k, scorer = sizes["responses_per_prompt"], context.scorer()
    policy, prompts = context.policy(context.policy_folder), context.held_out.prompts
    evaluator = context.evaluator(sizes, STREAM, scorer, context.policy_folder)
    if (own := context.own_tokenizer) is not None:
        evaluator = replace(evaluator, tokenizer=own, reference=None)
    with measured() as spent:
        if context.inputs["method"] == BEST_OF_N:
            responses = evaluator.evaluate_best_of_n(policy, prompts, n=n, k=k, seed=context.seed)
        else:
            responses = evaluator.evaluate(policy, prompts, k=k, seed=context.seed)
    records.write(context.folder / "responses.parquet", responses)
    if context.inputs["method"] != BEST_OF_N:
        _evaluate_policy(context, policy, evaluator)
    return {"cost": asdict(spent.cost())}


def _evaluate_policy(context: TaskContext, policy: Any, evaluator: ResponseEvaluator) -> None:
    """Evaluate what takes a policy and not only its responses: held-out pairs, and multiple-choice questions."""
    folder = context.folder_of("reference")
    if folder is not None and evaluator.reference is not None and (folder / LOGPS).is_file():
        pairs = policy_pairs(policy, np.load(folder / LOGPS), Dataset.load_from_disk(folder / PAIRS))
        records.write(context.folder / "pairs.parquet", pairs)
    if context.inputs["choices"]:
        questions = read_questions(*(path for path, *_ in context.inputs["choices"]))
        shots = context.inputs["evaluation"]["shots"]
        choices = measure_choices(policy, evaluator.tokenizer, questions, shots=shots)
        records.write(context.folder / "choices.parquet", choices)


def validate(context: TaskContext) -> Result:
    """The mean score of responses to validation prompts, by which hyperparameters are chosen."""
    sizes, source = context.inputs["evaluation"], context.policy_folder
    evaluator = context.evaluator(sizes, VALIDATION_STREAM, context.scorer(), source)
    prompts = context.rows.validation
    if not prompts:
        raise ValueError("there are no validation prompts to choose settings by: give data a `validation`")
    responses = evaluator.evaluate(context.policy(source), prompts, k=1, seed=context.seed)
    scores = responses["score"].to_numpy()
    return {"score": float(scores.mean()), "error": standard_error(scores)}


def judge(context: TaskContext) -> Result:
    """Let a judge that reads texts compare the first response to each prompt with the baseline's."""
    folders = [context.task.needs[role].folder(context.out) for role in ("ours", "theirs")]
    ours, theirs = (pd.read_parquet(folder / "responses.parquet") for folder in folders)
    # A folder for each task: two that ask at once must not write into one file.
    judge = judge_from(context.inputs["judge"], folder=context.out / "judgements" / context.folder.name)
    prompts = {prompt_key(prompt): prompt for prompt in context.held_out.prompts}
    judgements = judge.judge(prompts, ours, theirs)
    records.write(context.folder / "judgements.parquet", judgements)
    return {"name": judge.name, "kind": judge.kind, "again": bool((judgements["error"] != "").any())}


STAGES = (rows, held_out, encode, sft, reward, rank, reference, reference_pairs)
TASK_FUNCTIONS: dict[str, Callable[[TaskContext], Result]] = {
    function.__name__: function for function in (*STAGES, train, evaluate, validate, judge)
}


def run(task: Task, out: Path) -> Result:
    """Do a comparison's task."""
    return TASK_FUNCTIONS[task.kind](TaskContext(task, out))
