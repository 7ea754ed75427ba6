"""Does the work of each stage, in the process that runs it.

Every function reads the results of the tasks that its own needs, writes files into its task's folder, and returns what
is to be kept beside these files, in plain values. A function's name is the kind of its tasks.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from ..candidates.candidate import Scored, prompt_key
from ..candidates.evaluate import standard_error
from ..candidates.generate import Origin, generate_into
from ..candidates.pool import Pool
from ..candidates.report import describe
from ..candidates.selection import by_prompt, rows_for, write_rows
from ..candidates.temperature_search import search_temperatures
from ..compare import records
from ..compare.measure import STREAM, judge_from, measure_choices, read_questions, scored_pairs
from ..compare.plan import TESTBED
from ..compare.run.task_context import MODEL
from ..compare.run.task_functions import adapter, arguments, trained
from ..data.loading import load
from ..data.records import DataError, Messages
from ..models import merge_adapter
from ..models.reference import policy_fingerprint
from ..objectives.sampling_arguments import SamplingArguments
from ..tasks import Task
from ..testbed import find_prompt, pairs_from, prompt_rows
from ..testbed.model import build_policy, build_tokenizer
from ..training.trainers import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from ..utils import jsonl
from ..utils.extensions import load_named
from .context import StageContext
from .labels import GIVEN, ask_people, label_by_judge, labelled_by_people, labelled_row
from .plan import GOLD, PEOPLE
from .tasks import stream_seed
from .training_stage import make_trainer, training_stage

PROMPTS, LABELS, HELD_OUT, SELECTED, POOL = "prompts.jsonl", "labels.jsonl", "held_out.jsonl", "selected.jsonl", "pool"
LABELLED = 1
"""The iteration of candidates that are to be labelled, in the streams of random numbers; those to train on have 0."""
Result = dict[str, Any]


# ---- before the first round ------------------------------------------------------------------------------------------


def rows(context: StageContext) -> Result:
    data = context.source.rows(context.seed)
    data.write(context.folder)
    return {"pairs": len(data.train), "validation": len(data.validation)}


def held_out(context: StageContext) -> Result:
    data = context.source.held_out(context.rows)
    data.write(context.folder)
    return {"pairs": len(data.pairs or ()), "prompts": len(data.prompts)}


def start(context: StageContext) -> Result:
    """v0, or a policy that the plan names: trained, or taken as it is."""
    settings, policy = context.inputs["settings"], os.path.expanduser(context.inputs["policy"][0])
    if settings is None:
        return {"policy": policy}
    args = SFTConfig(**arguments(context, settings))
    tokenizer = build_tokenizer() if policy == TESTBED else None
    model: Any = build_policy(tokenizer, context.seed) if tokenizer is not None else policy
    more = {"train_dataset": context.rows.demonstrations, "processing_class": tokenizer, **adapter(context, "policy")}
    trainer, cost = trained(context, lambda: SFTTrainer(model, args, **more))
    return _saved(context, trainer, cost)


# ---- a round ---------------------------------------------------------------------------------------------------------


def prompts(context: StageContext) -> Result:
    """The next prompts of one order of all, those to be labelled first; from the beginning again where it ends."""
    wanted, source = context.inputs, context.inputs["source"]
    if source is None and context.is_testbed:
        return _fresh_prompts(context)
    rows = context.rows.train if source is None else load(source[0], "any")[0]
    known = {prompt_key(prompt): prompt for prompt in rows["prompt"]}
    order = sorted(known)
    random.Random(f"prompts {context.plan_seed}").shuffle(order)
    label, sample = wanted["label"], wanted["sample"]
    begin = sum(each["label"] + (each["sample"] or 0) for each in wanted["before"])
    count = label + (len(order) if sample is None else sample)
    if label > len(order) or (sample or 0) > len(order):
        raise DataError(f"prompts: {label} to label and {sample} to sample, and there are {len(order)} in all")
    turns = [order[(begin + place) % len(order)] for place in range(count)]
    chosen = {"label": turns[:label], "sample": list(dict.fromkeys(turns[label:]))}
    _write_prompts(context, {purpose: [known[key] for key in keys] for purpose, keys in chosen.items()})
    again = max(0, min(count, begin + count - len(order))) if source is None and sample is not None else 0
    return {**{purpose: len(keys) for purpose, keys in chosen.items()}, "of": len(order), "again": again}


def _fresh_prompts(context: StageContext) -> Result:
    """Of the synthetic task, which makes new ones for every round."""
    every = len(context.rows.train)
    sizes = [(each["label"], every if each["sample"] is None else each["sample"]) for each in context.inputs["before"]]
    label, sample = context.inputs["label"], context.inputs["sample"]
    sample = every if sample is None else sample
    begin = sum(map(sum, sizes))
    order = stream_seed(context.plan_seed, "prompts")  # one order for all rounds
    made = [row["prompt"] for row in prompt_rows(begin + label + sample, order, unique=True)][begin:]
    _write_prompts(context, {"label": made[:label], "sample": made[label:]})
    return {"label": label, "sample": sample, "again": 0}


def _write_prompts(context: StageContext, chosen: dict[str, list[Messages]]) -> None:
    rows = [{"prompt": list(prompt), "for": purpose} for purpose, group in chosen.items() for prompt in group]
    jsonl.replace(context.folder / PROMPTS, rows)


def _prompts(context: StageContext, purpose: str) -> list[Messages]:
    folder = context.folder_of("prompts")
    assert folder is not None
    return [row["prompt"] for row in jsonl.read(folder / PROMPTS) if row["for"] == purpose]


def candidates(context: StageContext) -> Result:
    """Two responses to each prompt that is to be labelled, by the policies that the plan names."""
    settings, temperatures = dict(context.inputs["sampling"]), context.inputs["temperatures"]
    same = context.task.needs["policy 0"] is context.task.needs["policy 1"] and len(set(temperatures)) == 1
    asked = _prompts(context, "label")
    versions = []
    for side in (0,) if same else (0, 1):
        policy = context.policy(context.policy_at(f"policy {side}"))
        versions.append(version := policy_fingerprint(policy, context.tokenizer))
        sampling = SamplingArguments(**settings | {"responses_per_prompt": 2 if same else 1})
        origin = Origin(
            version, context.plan_seed, context.round, LABELLED + side, temperatures[side % len(temperatures)]
        )
        generate_into(Pool(context.folder / POOL), policy, context.tokenizer, asked, sampling, origin)
    return {"prompts": len(asked), "policies": versions}


def ask(context: StageContext) -> Result:
    """What people are to label."""
    folder = context.folder_of("candidates")
    assert folder is not None
    responses = list(Pool(folder / POOL).candidates())
    wanted = {name: context.inputs[name] for name in ("count", "lang", "include_truncated")}
    return ask_people(context.folder, responses, seed=context.stream, **wanted)


def label(context: StageContext) -> Result:
    """The pairs with their labels, a share of the prompts apart, which only measures reward models."""
    if context.inputs.get("files"):
        made: list[Any] = []
        for source, *_ in context.inputs["files"]:
            made += list(load(source, "preference")[0])
        labelled = made
    else:
        labelled = list(_labelled(context))
    if not labelled:
        raise DataError("label: of all pairs none got a label that says which response is better")
    apart = _set_aside([prompt_key(row["prompt"]) for row in labelled], context.inputs["held_out"])
    parts: dict[str, list[Any]] = {LABELS: [], HELD_OUT: []}
    for row in labelled:
        parts[HELD_OUT if prompt_key(row["prompt"]) in apart else LABELS].append(row)
    for name, part in parts.items():
        write_rows(context.folder / name, part)
    grades = Counter(str(row.get("grade") or "") for row in labelled)
    return {"labels": len(parts[LABELS]), "held_out": len(parts[HELD_OUT]), "grades": dict(sorted(grades.items()))}


def _labelled(context: StageContext) -> Iterator[dict[str, Any]]:
    """Rows {prompt, chosen, rejected, grade, ...} of the pairs that have a label."""
    folder = context.folder_of("candidates")
    assert folder is not None
    pairs = context.pairs_in(folder / POOL, include_truncated=context.inputs["include_truncated"])
    by, own = context.inputs["by"], context.inputs.get("stage")
    if own is not None:
        return iter(load_named(own, "label:")(context, pairs))
    if by == PEOPLE:
        return iter(labelled_by_people(context))
    if by == GOLD:
        known = [find_prompt(pair[0].prompt) for pair in pairs]
        responses = [tuple((each.response, each.finished) for each in pair) for pair in pairs]
        made = pairs_from(known, responses, context.stream)
        return (
            labelled_row(pair, row["chosen"] == pair[0].response, grade=row["grade"], labelled_by=GOLD)
            for pair, row in zip(pairs, made, strict=True)
        )
    return label_by_judge(context, pairs, judge_from(by, folder=context.folder / "judgements"))


def _set_aside(keys: Sequence[str], share: float) -> set[str]:
    """Keys are hashes: their order is random, and the same in every run."""
    distinct = sorted(set(keys))
    return set(distinct[: math.floor(share * len(distinct))])


def reward(context: StageContext) -> Result:
    """The reward model, trained on the labels of all rounds so far."""
    if context.inputs["scorer"] is not None:
        return {"policy": os.path.expanduser(context.inputs["scorer"][0])}
    parts = _mixed(context)
    table = concatenate_datasets([part for part in parts.values() if len(part)])
    if context.inputs.get("stage"):
        return dict(load_named(context.inputs["stage"], "reward:")(context, table) or {})
    settings = dict(context.inputs["settings"])
    args = RewardConfig(**arguments(context, settings))
    model = context.start if context.inputs["init"] == "base" else _reward_start(context)
    trainer, cost = trained(
        context, lambda: RewardTrainer(model, args, train_dataset=table, **adapter(context, "scorer"))
    )
    return {**_saved(context, trainer, cost, merge=False), "rows": {name: len(part) for name, part in parts.items()}}


def _reward_start(context: StageContext) -> str:
    if context.inputs["init"] == "previous":
        return context.policy_at("previous") if "previous" in context.task.needs else context.start
    return os.path.expanduser(context.inputs["init"][0])


def _mixed(context: StageContext) -> dict[str, Dataset]:
    """The pairs by where they are from, each as often as its weight says."""
    mix, number = context.inputs["mix"], context.round
    columns = ("prompt", "chosen", "rejected", "grade", "margin")
    groups: dict[str, Iterable[Any]] = {}
    if mix["open"]:
        groups["open"] = context.rows.train
    for role, task in context.task.needs.items():
        if role.startswith("labels "):
            groups[role] = jsonl.read(task.folder(context.out) / LABELS)
    made = {}
    for name, group in groups.items():
        weight = mix["open"] if name == "open" else mix["new" if name == f"labels {number}" else "old"]
        kept = _weighted(
            [{c: row[c] for c in columns if row.get(c) is not None} for row in group],
            weight,
            f"{context.stream} {name}",
        )
        made[name] = kept
    grades = all("grade" in row for part in made.values() for row in part)
    common = [c for c in columns if c != "grade" or grades]
    if not grades and context.inputs["settings"].get("margin") in ("small", "large"):
        without = {name: sum("grade" not in row for row in part) for name, part in made.items()}
        raise DataError(
            f"reward: margin={context.inputs['settings']['margin']} is by grade, and rows have none: {without}"
        )
    return {
        name: Dataset.from_list([{c: row[c] for c in common if c in row} for row in part])
        for name, part in made.items()
    }


def _weighted(rows: list[Any], weight: float, stream: str) -> list[Any]:
    """All rows as often as the whole part of the weight says, and a random share of them once more."""
    whole, share = int(weight), weight - int(weight)
    extra = random.Random(f"mix {stream}").sample(rows, round(share * len(rows)))
    return rows * whole + extra


def rank(context: StageContext) -> Result:
    """How many held-out pairs the reward model ranks right: of the plan's test rows, and of each round's labels."""
    scorer = context.scorer()
    found: Result = {}
    groups: dict[str, Any] = {"test": context.held_out.pairs}
    for role, task in context.task.needs.items():
        if role.startswith("labels "):
            rows = list(jsonl.read(task.folder(context.out) / HELD_OUT))
            groups[role] = Dataset.from_list(rows) if rows else None
    for name, pairs in groups.items():
        if pairs is not None and len(pairs):
            table = scored_pairs(scorer, pairs)
            records.write(context.folder / f"{name.replace(' ', '-')}.parquet", table)
            correct = table["correct"].to_numpy()
            found[name] = {"pairs": len(correct), "accuracy": float(correct.mean()), "error": _error(correct)}
    return {"accuracy": found}


def _error(values: np.ndarray) -> float | None:
    return standard_error(values) if len(values) > 1 else None


def search(context: StageContext) -> Result:
    """The temperature whose best of K scores highest, with the temperatures that may be as good."""
    policy = context.policy(context.policy_at("policy"))
    found = search_temperatures(
        policy,
        context.tokenizer,
        context.rows.validation[: context.inputs["prompts"]],
        context.scorer(),
        SamplingArguments(**context.inputs["sampling"]),
        temperatures=context.inputs["temperatures"],
        folder=context.folder / "search",
        version=policy_fingerprint(policy, context.tokenizer),
        seed=context.stream,
        max_truncated=context.inputs["max_truncated"],
    )
    return {"best": found.best, "plausible": list(found.plausible)}


def generate(context: StageContext) -> Result:
    """K responses to each prompt of the round."""
    policy = context.policy(context.policy_at("policy"))
    searched = context.task.needs["search"].result(context.out) if "search" in context.task.needs else None
    sampling = SamplingArguments(**context.inputs["sampling"])
    temperature = sampling.temperature if searched is None else searched["best"]
    version = policy_fingerprint(policy, context.tokenizer)
    origin = Origin(version, context.plan_seed, context.round, 0, temperature)
    asked = _prompts(context, "sample")
    generate_into(Pool(context.folder / POOL), policy, context.tokenizer, asked, sampling, origin)
    return {"prompts": len(asked), "policy": version, "temperature": temperature}


def score(context: StageContext) -> Result:
    """The candidates of all rounds under the newest reward model."""
    pool = context.joined_pool()
    scorer = context.scorer()
    pool.score(scorer)
    newest = [row for row in pool.scored(scorer) if row.candidate.round == context.round]
    return {"scorer": scorer.fingerprint, **({"sampled": describe(newest)} if newest else {})}


def select(context: StageContext) -> Result:
    """The rows to train on, with where the best of them were sampled."""
    inputs = context.inputs
    scored, cut = context.scored(), inputs["include_truncated"]
    groups = by_prompt(scored, prior_top_n=inputs["prior_top_n"], include_truncated=cut)
    if inputs.get("stage"):
        rows = list(load_named(inputs["stage"], "select:")(context, groups))
    else:
        rows = rows_for(inputs["responses"], groups, inputs["score_threshold"])
    if not rows:
        raise DataError(_nothing(context, groups))
    write_rows(context.folder / SELECTED, rows)
    rounds = Counter(f"v{group[0].candidate.round}" for group in groups)
    return {"rows": len(rows), "prompts": len(groups), "best from": dict(sorted(rounds.items()))}


def _nothing(context: StageContext, groups: Sequence[Sequence[Scored]]) -> str:
    every = list(context.scored())
    cut = sum(not row.candidate.finished for row in every)
    blank = sum(not row.candidate.response.strip() for row in every)
    return (
        f"select: no row to train on from {len(every)} candidates: {cut} were cut off, {blank} say nothing; "
        f"{len(groups)} prompts have responses to select from; score_threshold={context.inputs['score_threshold']}"
    )


def train(context: StageContext) -> Result:
    """A training of the round; the policy is written into `model`."""
    stage = training_stage(context.inputs["given"], context.inputs["training"], "train")
    if context.inputs.get("stage"):
        return dict(load_named(context.inputs["stage"], "train:")(context, stage) or {})
    more: dict[str, Any] = {"train_dataset": _training_rows(context), **adapter(context, stage.trains)}
    if stage.on_policy:
        more["scorer"] = context.scorer()
    if "ref_model" in context.task.needs:
        more["ref_model"] = context.policy_at("ref_model")
    if stage.spec is not None and stage.settings.get("ptx_coef"):
        more["ptx_dataset"] = context.rows.demonstrations
    model = context.policy_at("policy")
    trainer, cost = trained(context, lambda: make_trainer(stage, model, arguments(context, {}), **more))
    history = trainer.state.log_history
    jsonl.replace(context.folder / "log.jsonl", history)
    lineage = {"init": context.task.needs["policy"].key, "rows": len(more["train_dataset"])}
    if "ref_model" in context.task.needs:
        lineage["reference"] = context.task.needs["ref_model"].key
    first = next((entry["loss"] for entry in history if "loss" in entry), None)
    return {**_saved(context, trainer, cost), **lineage, "first loss": first}


def _training_rows(context: StageContext) -> Dataset:
    if (folder := context.folder_of("selected")) is not None:
        return Dataset.from_list(list(jsonl.read(folder / SELECTED)))
    if "prompts" in context.task.needs:
        return Dataset.from_list([{"prompt": prompt} for prompt in _prompts(context, "sample")])
    labels = [
        row
        for role, task in context.task.needs.items()
        if role.startswith("labels ")
        for row in jsonl.read(task.folder(context.out) / LABELS)
    ]
    return Dataset.from_list([{name: row[name] for name in GIVEN if name in row} for row in labels])


def _saved(context: StageContext, trainer: Any, cost: Any, merge: bool = True) -> Result:
    """Save what was trained, an adapter merged into the policy: the next round may have an adapter of its own."""
    if merge and getattr(trainer.model, "peft_config", None):
        trainer.model = merge_adapter(trainer.model)
    trainer.save_model(str(context.folder / MODEL))
    return {"cost": cost}


# ---- how good it is --------------------------------------------------------------------------------------------------


def evaluate(context: StageContext) -> Result:
    """Responses to held-out prompts, with their divergence from v0 and from the version before."""
    sizes = context.inputs["evaluation"]
    policy = context.policy(context.policy_at("policy"))
    evaluator = context.evaluator(sizes, STREAM, None)
    held = context.held_out
    found = evaluator.evaluate(policy, held.prompts, k=sizes["responses_per_prompt"], seed=context.plan_seed)
    records.write(context.folder / "responses.parquet", found)
    if context.inputs["choices"]:
        questions = read_questions(*(path for path, *_ in context.inputs["choices"]))
        choices = measure_choices(policy, context.tokenizer, questions, shots=sizes["shots"])
        records.write(context.folder / "choices.parquet", choices)
    return {"kl_previous": context.divergence_from_previous(evaluator, policy, found)}


def rescore(context: StageContext) -> Result:
    """The scores of a version's held-out responses under a reward model, one for each."""
    folder = context.folder_of("evaluated")
    assert folder is not None
    found = records.read(folder / "responses.parquet")
    assert found is not None
    by_key = {prompt_key(prompt): prompt for prompt in context.held_out.prompts}
    asked = [by_key[key] for key in found["prompt_key"]]
    scores = context.scorer().score(asked, list(found["response"]), [bool(x) for x in found["finished"]])
    found["score"] = np.array(scores, dtype=np.float64)
    records.write(context.folder / "responses.parquet", found)
    means = found.groupby("prompt_key")["score"].mean().to_numpy()
    return {"score": float(means.mean()), "error": _error(means)}


STAGES = (rows, held_out, start, prompts, candidates, ask, label, reward, rank, search, generate, score, select, train)
STAGE_FUNCTIONS: dict[str, Callable[[StageContext], Result]] = {
    function.__name__: function for function in (*STAGES, evaluate, rescore)
}


def run(task: Task, out: Path) -> Result:
    """Do the work of one stage."""
    return STAGE_FUNCTIONS[task.kind](StageContext(task, out))
