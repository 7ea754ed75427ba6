"""What a folder holds, told from its files alone: a run, a model, a pool, a comparison, rounds. Writes nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from ..utils import jsonl

Lines = list[tuple[str, str]]
STATE, LOCK = "trainer_state.json", ".lock"
TASKS = {"done.json": "done", "failed.json": "failed"}
SHOWN = ("loss", "accuracy", "rewards/accuracies", "margin", "rewards/margins", "objective/scores", "objective/kl")
LOCKS = Path("/proc/locks")
"""Where Linux lists the locks that programs hold."""


def described(folder: Path) -> Lines:
    """What is in a folder, as names and values.

    Raises:
        ValueError: there is no such folder, or nothing of prefopt's in it; or a file is damaged.
    """
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file: `prefopt data check {folder}` says what rows it holds; give a folder here"
        )
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    for holds in (_rounds, _comparison, _run, _model, _pool):
        if lines := holds(folder):
            return [*lines, *_program(folder)]
    raise ValueError(
        f"{folder}: nothing that prefopt has written, and no model; it has "
        f"{', '.join(sorted(path.name for path in folder.iterdir())[:8]) or 'no files'}"
    )


# ---- runs and models -------------------------------------------------------------------------------------------------


def _run(folder: Path) -> Lines:
    """A training's output folder: what was trained, how far it is, what came of it, how to go on."""
    from ..training.checkpoint import steps_of

    steps, iterations = steps_of(folder), sorted(folder.glob("iteration-*"))
    if not steps and not iterations and not (folder / STATE).is_file() and not (folder / "doctor.json").is_file():
        return []
    finished = _model_places(folder)
    record, kind = _record(folder), "a finished training" if finished else "a training that is not finished"
    lines = [("folder", f"{folder}: {kind}"), *_told(record)] if record else [("folder", f"{folder}: {kind}")]
    lines += [] if record else _objective(folder)
    lines += _progress(folder, steps)
    if iterations:
        done = len(list(folder.glob("iteration-*/policy")))
        lines.append(("iterations", f"{done} done of {len(iterations)} begun"))
    lines += [("model", str(place)) for place in finished]
    lines += [("checkpoints", ", ".join(f"checkpoint-{step}" for step in steps))] if steps else []
    if (folder / "pool").is_dir():
        lines += _pool(folder)[1:]
    how = "--resume_from_checkpoint true" + ("" if finished else " (the same command)")
    lines += [("go on", f"the training command with {how}")] if steps or iterations else []
    return [*lines, ("look for faults", f"prefopt doctor {quote(str(folder))}")]


def _progress(folder: Path, steps: list[int]) -> Lines:
    """How many steps are done of how many, and what was logged last."""
    places = [folder / STATE, *(folder / f"checkpoint-{step}" / STATE for step in steps[-1:])]
    state = max(map(jsonl.read_object, places), key=lambda each: each.get("global_step", -1))
    logs = jsonl.read_object(folder / "doctor.json").get("logs") or state.get("log_history") or []
    lines = []
    if state:
        lines.append(("steps", f"{state.get('global_step', 0):,} of {state.get('max_steps', 0):,}"))
    for split, prefix in (("last logged", ""), ("held out", "eval_")):
        last: dict[str, Any] = next(
            (row for row in reversed(logs) if f"{prefix}loss" in row or f"{prefix}{SHOWN[-2]}" in row), {}
        )
        shown = [f"{name} {last[prefix + name]:.4g}" for name in SHOWN if _is_number(last.get(prefix + name))]
        lines += [(split, ", ".join(shown))] if shown else []
    return lines


def _objective(folder: Path) -> Lines:
    objective = (jsonl.read_object(folder / "doctor.json").get("facts") or {}).get("objective") or {}
    return [("method", str(objective["name"]))] if "name" in objective else []


def _model(folder: Path) -> Lines:
    """A saved model alone."""
    if not (places := _model_places(folder)):
        return []
    adapter = jsonl.read_object(folder / "adapter_config.json")
    kind = f"an adapter ({adapter.get('peft_type')})" if adapter else "a model"
    config = jsonl.read_object(folder / "config.json")
    lines = [("folder", f"{folder}: {kind}")]
    lines += [("base model", str(adapter.get("base_model_name_or_path")))] if adapter else []
    lines += (
        [("architecture", ", ".join(config.get("architectures") or [config.get("model_type", "")]))] if config else []
    )
    record = _record(folder)
    return [*lines, *_told(record), *([] if folder in places else [("model", str(each)) for each in places])]


def _told(record: Mapping[str, Any]) -> Lines:
    """What a model's record says."""
    if not record:
        return []
    named = {
        "trained": f"{record.get('method')}, a {record.get('model')}, with prefopt {_version(record)}",
        "base model": record.get("base_model"),
        "merged from": record.get("merged_from"),
        "data": f"{record.get('data')} ({record.get('rows')} rows)",
        "held out": record.get("held_out_data") and f"{record['held_out_data']} ({record.get('held_out_rows')} rows)",
        "scorer": record.get("scorer"),
        "adapter": record.get("adapter") and record["adapter"].get("kind"),
        "steps at saving": record.get("steps"),
        "arguments": ", ".join(f"{name}={value}" for name, value in (record.get("arguments") or {}).items()),
    }
    return [(name, str(value)) for name, value in named.items() if value]


def _version(record: Mapping[str, Any]) -> str:
    return str((record.get("versions") or {}).get("prefopt", "of an unknown version"))


def _record(folder: Path) -> dict[str, Any]:
    return next(
        (found for place in (folder, folder / "policy") if (found := jsonl.read_object(place / "prefopt.json"))), {}
    )


def _model_places(folder: Path) -> list[Path]:
    files = ("config.json", "adapter_config.json")
    places = (folder, folder / "policy", folder / "critic")
    return [place for place in places if any((place / file).is_file() for file in files)]


# ---- pools, comparisons, rounds --------------------------------------------------------------------------------------


def _pool(folder: Path) -> Lines:
    """Sampled responses and who scored them."""
    place = next((each for each in (folder, folder / "pool") if any(each.glob("candidates-*.jsonl"))), None)
    if place is None:
        return []
    from ..candidates.pool import Pool

    pool, prompts, ends = Pool(place), set(), Counter[str]()
    policies: Counter[str] = Counter()
    for candidate in pool.candidates():
        prompts.add(candidate.prompt_key)
        policies[candidate.policy] += 1
        ends["cut off" if candidate.finish_reason == "length" else "ended"] += 1
    cut = f", {ends['cut off']:,} cut off" if ends["cut off"] else ""
    return [
        ("folder", f"{folder}: a pool of responses"),
        ("responses", f"{ends.total():,} to {len(prompts):,} prompts, by {len(policies)} policies{cut}"),
        ("scored by", ", ".join(pool.scorers()) or "nobody yet"),
    ]


def _comparison(folder: Path) -> Lines:
    """The output folder of `prefopt compare` or `prefopt evaluate`."""
    plan = _plan(folder)
    if not plan or "methods" not in plan:
        return []
    seeds = ", ".join(map(str, plan.get("seeds") or []))
    return [
        ("folder", f"{folder}: a comparison"),
        ("title", str(plan.get("title", ""))),
        ("policy", str(plan.get("policy"))),
        ("methods", ", ".join(plan["methods"])),
        ("seeds", seeds),
        *_stages(folder),
        *_report(folder, "report.html"),
        ("go on", f"prefopt compare PLAN.yaml --output_dir {quote(str(folder))}: what is done is not done again"),
    ]


def _rounds(folder: Path) -> Lines:
    """The output folder of `prefopt rounds`."""
    plan = _plan(folder)
    if not plan or "rounds" not in plan:
        return []
    versions = sorted(path.name for path in folder.glob("rlhf-v*"))
    return [
        ("folder", f"{folder}: rounds"),
        ("policy", str(plan.get("policy"))),
        ("versions", ", ".join(versions) or "none yet"),
        *_stages(folder),
        *_report(folder, "rounds.html"),
        ("status", f"prefopt rounds PLAN.yaml --output_dir {quote(str(folder))} --status"),
    ]


def _stages(folder: Path) -> Lines:
    """How many stages are done, and why others failed or wait."""
    states: Counter[str] = Counter()
    reasons: list[str] = []
    for name, state in TASKS.items():
        for path in sorted(folder.rglob(name)):
            if state == "failed" and (path.parent / "done.json").is_file():
                continue
            states[state] += 1
            if state == "failed":
                reasons += [f"{path.parent.name}: {row.get('reason')}" for row in jsonl.read(path)][:1]
    counted = ", ".join(f"{count:,} {state}" for state, count in states.items() if count)
    return [("stages", counted or "none is done yet"), *(("failed", reason) for reason in reasons)]


def _report(folder: Path, name: str) -> Lines:
    page = next(iter(sorted((folder / "report").glob("*.html"))), folder / "report" / name)
    return [("report", str(page))] if page.is_file() else []


def _plan(folder: Path) -> dict[str, Any]:
    import yaml

    path = folder / "plan.yaml"
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({error}): restore the file") from error
    return found if isinstance(found, dict) else {}


# ---- small things ----------------------------------------------------------------------------------------------------


def _program(folder: Path) -> Lines:
    """Whether a program writes in the folder now, where the system tells."""
    path = folder / LOCK
    if not path.is_file():
        return []
    held = _holds(path)
    unknown = f"{path} is there: a program writes here, or was killed"
    return [
        (
            "now",
            "a program writes here" if held else unknown if held is None else "no program on this machine writes here",
        )
    ]


def _holds(path: Path) -> bool | None:
    """Whether a program holds a lock; None where the system does not tell."""
    if not LOCKS.is_file():
        return None
    node = path.stat()
    place = f"{os.major(node.st_dev):02x}:{os.minor(node.st_dev):02x}:{node.st_ino}"
    return any(place in line.split() for line in LOCKS.read_text().splitlines())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
