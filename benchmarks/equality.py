"""Do two versions of this library compute the same? Records what one computes, and names every difference to another.

    python benchmarks/equality.py record out/before
    python benchmarks/equality.py record out/after             # with the other version on the path
    python benchmarks/equality.py compare out/before out/after --renamed old_key=new_key

    python benchmarks/equality.py interrupt out/killed         # runs that are killed with SIGKILL
    python benchmarks/equality.py resume out/killed            # with the other version on the path
    python benchmarks/equality.py compare out/before out/killed

`record` runs every method in the built-in small world, with fixed seeds and at small sizes, through the Python names
and through the command line: SFT, a reward model, DPO in three ways, RRHF, rejection sampling with a search for its
temperature, PPO-max, the best of N and a comparison. The folder holds one folder for each run, with all that the run
wrote, its log and what an evaluation at its end says.

`interrupt` begins some of these runs with the same settings and kills them: DPO and PPO-max between a checkpoint and
their end, rejection sampling and the best of N while they draw, a comparison within its second training. `resume`
finishes them as a user would and makes sure that each went on and did not begin anew. What comes out must equal the
recording of an undisturbed run. Paths are relative to the folder, but a comparison notes where it lies: resume a folder
at the place where it was made, and a copy of it that was put there with its dates (`cp -a`).

`compare` goes through the files of every run: tensors must be equal bit by bit, numbers exactly, and rows in their
order, with their texts; files of a pool must have the same bytes. Left out are times, paths, versions and pictures. The
exit status is 1 if there is any difference, or nothing to compare. `nudge` copies a recording and changes one bit, to
see that this is found.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from datasets import disable_progress_bars
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar

import prefopt

SEED = 3
RECORDING, RESUMED, INTERRUPTED = "recording.json", "resumed.json", "interrupted.json"
DATA, JOURNAL = "data", "journal"
DRAWN = {"max_new_tokens": 40, "sampling_batch_size": 16}
SIZES = {"sft": 1600, "pairs": 480, "held_out": 96, "prompts": 64}

# ---- inputs ----------------------------------------------------------------------------------------------------------


def write_inputs() -> None:
    """The rows of all runs, as files in the current folder."""
    from prefopt import testbed

    pairs = testbed.preference_rows(SIZES["pairs"], SEED)
    held_out = testbed.preference_rows(SIZES["held_out"], SEED, "test")
    rows: dict[str, Any] = {
        "sft": testbed.sft_rows(SIZES["sft"], SEED),
        "sft_held_out": testbed.sft_rows(SIZES["held_out"], SEED, "test"),
        "pairs": pairs,
        "held_out": held_out,
        "hh": map(testbed.hh_rlhf, pairs),
        "hh_held_out": map(testbed.hh_rlhf, held_out),
        "candidates": map(testbed.rrhf, testbed.candidate_rows(SIZES["pairs"], SEED)),
        "prompts": testbed.prompt_rows(SIZES["prompts"], SEED, unique=True),
    }
    for name, some in rows.items():
        testbed.write_jsonl(f"{DATA}/{name}.jsonl", some)


def pairs(count: int | None = None) -> dict[str, Any]:
    """The first pairs to learn from, and those held out."""
    some, held_out = (prefopt.load_preferences(f"{DATA}/{name}.jsonl") for name in ("pairs", "held_out"))
    return {"train_dataset": some if count is None else some.select(range(count)), "eval_dataset": held_out}


def settings(name: str, **more: Any) -> dict[str, Any]:
    """What every training is told, and this one's own."""
    return {
        "output_dir": name,
        "seed": SEED,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "max_grad_norm": 1.0,
        "max_length": 256,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "learning_rate": 5e-4,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        **more,
    }


SAVED = {"save_strategy": "steps", "save_steps": 4}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 4, **SAVED}
PLAN = {
    "title": "Two methods",
    "policy": "testbed",
    "data": {"train": "testbed", "train_rows": 320},
    "sft": {"max_steps": 100, "per_device_train_batch_size": 16, "learning_rate": 3e-3},
    "reward": {"num_train_epochs": 1, "per_device_train_batch_size": 32, "learning_rate": 1.5e-3},
    "methods": {
        "dpo": {"learning_rate": 5e-4, "num_train_epochs": 1, "beta": 0.1, **SAVED},
        "ppo-max": {
            "learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "kl_coef": 0.1,
            "num_mini_batches": 2,
            "max_steps": 12,
            "critic_pretrain_steps": 4,
            **SAVED,
            "lr_scheduler_type": "constant_with_warmup",
        },
    },
    "training": {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "max_length": 256,
        "max_new_tokens": 40,
        "bf16": False,
        "gradient_checkpointing": False,
    },
    "seeds": [SEED],
    "evaluation": {
        "prompts": 48,
        "pairs": 96,
        "responses_per_prompt": 2,
        "max_new_tokens": 40,
        "curve_points": 3,
        "curve_prompts": 16,
    },
    "judges": ["gold", "score"],
}

# ---- runs ------------------------------------------------------------------------------------------------------------


NOTED = {"step": "step of this process"}
"""What the journal's names are where it stands for a log."""


class Journal(TrainerCallback):
    """Notes every log of every process, and kills its own process at the end of a step where that is wanted."""

    def __init__(self, name: str, kill_at: int | None):
        self.path, self.kill_at = Path(JOURNAL) / f"{name}.jsonl", kill_at

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        append(self.path, {"process": os.getpid(), "step": state.global_step, **(logs or {})})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Going:
    """How a run is gone about: from the beginning or not, and whether it kills itself."""

    resume: bool = False
    kill_at: int | None = None


def train(name: str, trainer: Any, going: Going) -> None:
    """Train, save, evaluate and write down what the run said."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Journal(name, going.kill_at))
    trainer.train(resume_from_checkpoint=going.resume or None)
    trainer.save_model()
    metrics = trainer.evaluate()
    write(Path(name) / "metrics.json", metrics)
    log = trainer.state.log_history
    if any(Path(name).glob("iteration-*")):  # then every training has a log of its own, which the journal joins
        journal = entries(Path(JOURNAL) / f"{name}.jsonl")
        log = [{NOTED.get(key, key): value for key, value in row.items() if key != "process"} for row in journal]
    for row in log:
        append(Path(name) / "log.jsonl", row)


def sft(name: str, going: Going) -> None:
    from prefopt.testbed.model import build_policy, build_tokenizer

    tokenizer = build_tokenizer()
    args = prefopt.SFTConfig(**settings(name, learning_rate=3e-3, num_train_epochs=2))
    some, held_out = (prefopt.load_sft(f"{DATA}/{each}.jsonl") for each in ("sft", "sft_held_out"))
    given = {"train_dataset": some, "eval_dataset": held_out, "processing_class": tokenizer}
    train(name, prefopt.SFTTrainer(build_policy(tokenizer, SEED), args, **given), going)


def reward(name: str, going: Going) -> None:
    args = prefopt.RewardConfig(**settings(name, learning_rate=1.5e-3, num_train_epochs=2, normalize_scores=True))
    train(name, prefopt.RewardTrainer("sft", args, **pairs()), going)


def dpo(name: str, going: Going) -> None:
    args = prefopt.DPOConfig(**settings(name, gradient_accumulation_steps=2, **EVALUATED))
    train(name, prefopt.DPOTrainer("sft", None, args, **pairs(320)), going)


def dpo_lora(name: str, going: Going) -> None:
    from peft import LoraConfig

    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
    args = prefopt.DPOConfig(**settings(name, learning_rate=2e-3, disable_dropout=False))
    train(name, prefopt.DPOTrainer("sft", None, args, peft_config=lora, **pairs(160)), going)


def dpo_precomputed(name: str, going: Going) -> None:
    """In batches of so many tokens, and with two losses."""
    losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}
    args = prefopt.DPOConfig(**settings(name, precompute_ref_log_probs=True, max_tokens_per_batch=1200, **losses))
    train(name, prefopt.DPOTrainer("sft", None, args, **pairs(160)), going)


def rrhf(name: str, going: Going) -> None:
    """The dataset's own responses, by their scores."""
    rows = prefopt.load_preferences(f"{DATA}/candidates.jsonl").select(range(160))
    held_out = prefopt.load_preferences(f"{DATA}/held_out.jsonl")
    train(name, prefopt.RRHFTrainer("sft", prefopt.RRHFConfig(**settings(name)), None, rows, held_out), going)


def rrhf_drawn(name: str, going: Going) -> None:
    args = prefopt.RRHFConfig(**settings(name, responses_per_prompt=3, **DRAWN))
    train(name, prefopt.RRHFTrainer("sft", args, scorer="reward", **pairs(64)), going)


def rejection_sampling(name: str, going: Going) -> None:
    """Two iterations, each of which searches its temperature first."""
    search = {"temperatures": [0.7, 1.0, 1.3], "search_budget": 200}
    args = prefopt.RejectionSamplingConfig(
        **settings(name, iterations=2, responses_per_prompt=4, eval_strategy="epoch", **DRAWN, **search)
    )
    given = pairs(128) | {"eval_dataset": prefopt.load_preferences(f"{DATA}/held_out.jsonl").select(range(24))}
    train(name, prefopt.RejectionSamplingTrainer("sft", args, scorer="reward", **given), going)


def ppo(name: str, going: Going) -> None:
    """Five rollouts of two steps, in the first of which the critic learns alone."""
    own = {"learning_rate": 1e-3, "critic_learning_rate": 1e-3, "lr_scheduler_type": "constant_with_warmup"}
    own |= {"num_mini_batches": 2, "max_steps": 10, "critic_pretrain_steps": 4, "kl_coef": 0.1}
    more = {"missing_eos_penalty": 1.0, **EVALUATED, **DRAWN}
    args = prefopt.PPOConfig.from_preset("ppo-max", **settings(name, **own, **more))
    given = pairs() | {"eval_dataset": prefopt.load_preferences(f"{DATA}/held_out.jsonl").select(range(24))}
    train(name, prefopt.PPOTrainer("sft", args, scorer="reward", **given), going)


def best_of_n(name: str, going: Going) -> None:
    """In memory, from Python."""
    policy, tokenizer = AutoModelForCausalLM.from_pretrained("sft"), AutoTokenizer.from_pretrained("sft")
    prompts = [row["prompt"] for row in prefopt.load_prompts(f"{DATA}/prompts.jsonl")][:24]
    how: Any = prefopt.RejectionSamplingConfig(**settings(name, responses_per_prompt=4, top_p=0.9, **DRAWN))
    for one in prefopt.best_of_n(policy, tokenizer, prompts, "reward", how, seed=SEED):
        chosen = {"ids": list(one.sample.ids), "text": one.sample.text, "finished": one.sample.finished}
        append(Path(name) / "chosen.jsonl", {**chosen, "score": one.score, "scores": one.scores})


def command_dpo(name: str, going: Going) -> None:
    """From a YAML file, with one argument on the command line."""
    own = {"model_name_or_path": "sft", "dataset_name": f"{DATA}/hh.jsonl", "eval_dataset": f"{DATA}/hh_held_out.jsonl"}
    given = settings(name, **own, eval_strategy="epoch", max_steps=8)
    Path(f"{name}.yaml").write_text(yaml.safe_dump(given | {"report_to": "none"}))
    asked("dpo", "--config", f"{name}.yaml", "--loss_type", "ipo")


def best_of_n_words(name: str) -> list[str]:
    drawn = {"responses_per_prompt": 6, **DRAWN, "seed": SEED, "select": "ranked", "output_dir": name}
    given = {"model_name_or_path": "sft", "dataset_name": f"{DATA}/prompts.jsonl", "scorer": "reward", **drawn}
    return ["best-of-n", *(word for key, value in given.items() for word in (f"--{key}", str(value)))]


def command_best_of_n(name: str, going: Going) -> None:
    asked(*best_of_n_words(name))


def comparison_words(name: str) -> list[str]:
    Path(f"{name}.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    jobs = str(os.cpu_count() or 1)  # as many as there are cores have one thread each
    return ["compare", f"{name}.yaml", "--output_dir", name, "--jobs", jobs]


def comparison(name: str, going: Going) -> None:
    asked(*comparison_words(name))


RUNS: dict[str, Callable[[str, Going], None]] = {
    "sft": sft,
    "reward": reward,
    "dpo": dpo,
    "dpo-lora": dpo_lora,
    "dpo-precomputed": dpo_precomputed,
    "rrhf": rrhf,
    "rrhf-drawn": rrhf_drawn,
    "rejection-sampling": rejection_sampling,
    "ppo": ppo,
    "best-of-n": best_of_n,
    "command-dpo": command_dpo,
    "command-best-of-n": command_best_of_n,
    "comparison": comparison,
}
"""Each works in the current folder and has a folder of its name in it; the first two are what the others start from."""
STAGES = ("sft", "reward")
UNTRAINED = {"best-of-n", "command-best-of-n", DATA}
"""These leave no weights behind."""

# ---- processes -------------------------------------------------------------------------------------------------------


def enter(folder: Path) -> None:
    """Work in this folder, alike on every machine."""
    os.chdir(folder)
    os.environ.update(environment(folder))
    torch.set_num_threads(1)
    disable_progress_bars()
    disable_progress_bar()


def environment(folder: Path) -> dict[str, str]:
    """For other processes: the same library, and a cache in the folder."""
    place = str(Path(str(prefopt.__file__)).resolve().parents[1])
    paths = [place, *(each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each not in ("", place))]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "PREFOPT_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }


def asked(*words: str) -> None:
    """A `prefopt` command, in the current folder; what it prints goes to a file."""
    with open(f"{words[0]}.txt", "ab") as out:
        code = subprocess.run([sys.executable, "-m", "prefopt", *words], stdout=out, stderr=out).returncode
    if code:
        raise SystemExit(f"prefopt {' '.join(words)}: exit status {code}; see {out.name}")


def one(name: str, *words: str) -> subprocess.Popen[bytes]:
    """A run of this program in a process of its own."""
    with open(f"{name}.txt", "ab") as out:
        command = [sys.executable, str(Path(__file__).resolve()), "one", name, ".", *words]
        return subprocess.Popen(command, stdout=out, stderr=out)


def record(folder: Path) -> None:
    """All runs, undisturbed."""
    begin(folder)
    for name in RUNS:
        timed(name, Going())
    write(Path(RECORDING), {"runs": [DATA, *RUNS], "packages": packages()})


def begin(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"prefopt {prefopt.__version__} of {Path(str(prefopt.__file__)).parent}", flush=True)
    enter(folder)
    write_inputs()


def timed(name: str, going: Going) -> None:
    start, before = time.monotonic(), os.times()
    with open(f"{name}.txt", "a") as out, redirect_stdout(out):
        RUNS[name](name, going)
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    print(f"{name}: {time.monotonic() - start:.0f} s, {cpu:.0f} s of the CPU", flush=True)


def packages() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "accelerate", "peft", "datasets", "numpy")}


# ---- killed ----------------------------------------------------------------------------------------------------------


def interrupt(folder: Path) -> None:
    """Begin some of the runs and kill them."""
    begin(folder)
    for name in STAGES:
        timed(name, Going())
    left = {name: kill(name) for name, kill in KILLS.items()}
    write(Path(INTERRUPTED), {"runs": left, "packages": packages()})


def kill_at_step(name: str, step: int) -> str:
    """A training that kills itself after a checkpoint, and before its end."""
    code = one(name, "--kill-at", str(step)).wait()
    if code != -signal.SIGKILL:
        raise SystemExit(f"{name} ended with exit status {code} before it could be killed; see {name}.txt")
    newest = newest_checkpoint(name)
    logged = max(row["step"] for row in entries(Path(JOURNAL) / f"{name}.jsonl"))
    if not 0 < newest < step:
        raise SystemExit(f"{name}: killed in step {step} with a checkpoint of step {newest}")
    return said(name, f"killed at step {step}, logged up to step {logged}, newest checkpoint of step {newest}")


def kill_rejection_sampling(name: str) -> str:
    file, whole = Path(name, "pool/candidates-000-00001.jsonl"), Path(name, "pool/candidates-000-00000.jsonl")
    kill_when(one(name), name, lambda: lines(file) > 0)
    if not 0 < lines(file) < lines(whole) or list(Path(name).glob("iteration-001/policy")):
        raise SystemExit(f"{name}: {lines(file)} of {lines(whole)} responses were drawn when it was killed")
    return said(name, f"killed after {lines(file)} of {lines(whole)} responses of its second iteration")


def kill_best_of_n(name: str) -> str:
    file, wanted = Path(name, "pool/candidates-000-00000.jsonl"), SIZES["prompts"] * 6
    kill_when(command(name, best_of_n_words(name)), name, lambda: lines(file) > wanted // 4)
    if not 0 < lines(file) < wanted:
        raise SystemExit(f"{name}: {lines(file)} of {wanted} responses were drawn when it was killed")
    return said(name, f"killed after {lines(file)} of {wanted} responses")


def kill_comparison(name: str) -> str:
    """Once a training is done and another has left a checkpoint."""

    def far() -> bool:
        return bool(trainings(name, done=True)) and any(map(checkpoints, trainings(name, done=False)))

    kill_when(command(name, comparison_words(name)), name, far)
    done, begun = (trainings(name, done=each) for each in (True, False))
    if not (done and any(map(checkpoints, begun))):
        raise SystemExit(f"{name}: {len(done)} trainings were done when it was killed, and {len(begun)} begun")
    places = ", ".join(place.name for place in begun)
    return said(name, f"killed with {len(list(Path(name).glob('*/*/done.json')))} tasks done, within {places}")


KILLS: dict[str, Callable[[str], str]] = {
    "dpo": lambda name: kill_at_step(name, 7),
    "ppo": lambda name: kill_at_step(name, 7),
    "rejection-sampling": kill_rejection_sampling,
    "command-best-of-n": kill_best_of_n,
    "comparison": kill_comparison,
}


def command(name: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A `prefopt` command, with the processes that it begins in a group of its own."""
    with open(f"{words[0]}.txt", "ab") as out:
        whole = [sys.executable, "-m", "prefopt", *words]
        return subprocess.Popen(whole, stdout=out, stderr=out, start_new_session=True)


def kill_when(process: subprocess.Popen[bytes], name: str, far: Callable[[], bool]) -> None:
    """Kill a process, and its group if it leads one, as soon as it is so far."""
    while process.poll() is None and not far():
        time.sleep(0.005)
    if process.poll() is not None:
        raise SystemExit(f"{name} ended with exit status {process.returncode} before it could be killed")
    if os.getpgid(process.pid) == process.pid:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    time.sleep(1)  # a process of its group may still be dying


def said(name: str, what: str) -> str:
    print(f"{name}: {what}", flush=True)
    return what


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def checkpoints(folder: Path) -> list[int]:
    """Steps of the complete ones."""
    found = folder.glob("**/checkpoint-*/prefopt_manifest.json")
    return sorted(int(each.parent.name.rpartition("-")[2]) for each in found if ".staging" not in str(each))


def newest_checkpoint(name: str) -> int:
    return max(checkpoints(Path(name)), default=0)


def trainings(name: str, done: bool) -> list[Path]:
    return [place for place in Path(name).glob("train/*") if (place / "done.json").is_file() is done]


# ---- resumed ---------------------------------------------------------------------------------------------------------


def resume(folder: Path) -> None:
    """Finish what was killed, and make sure that it went on."""
    if not (folder / INTERRUPTED).is_file() or (folder / RESUMED).is_file():
        raise SystemExit(f"{folder} has nothing to resume: take an untouched copy of what `interrupt` made")
    print(f"prefopt {prefopt.__version__} of {Path(str(prefopt.__file__)).parent}", flush=True)
    enter(folder)
    proofs = {name: finish(name) for name, finish in FINISHES.items()}
    write(Path(RESUMED), proofs)
    write(Path(RECORDING), {"runs": [DATA, *STAGES, *proofs], "packages": packages()})


def finish_training(name: str) -> str:
    """The first step that is logged must be the one after the newest checkpoint's."""
    newest, before = newest_checkpoint(name), len(entries(Path(JOURNAL) / f"{name}.jsonl"))
    ended(name, one(name, "--resume").wait())
    first = entries(Path(JOURNAL) / f"{name}.jsonl")[before]["step"]
    if first != newest + 1:
        raise SystemExit(f"{name}: it began at step {first}, and not after the checkpoint of step {newest}")
    return said(name, f"went on after step {newest}")


def finish_rejection_sampling(name: str) -> str:
    return with_pool(name, lambda: ended(name, one(name, "--resume").wait()), {"iteration-000/policy"})


def finish_best_of_n(name: str) -> str:
    return with_pool(name, lambda: asked(*best_of_n_words(name)), set())


def with_pool(name: str, go_on: Callable[[], None], kept: set[str]) -> str:
    """What a pool held must stay in the very same files, and more must follow; what is done is not touched."""
    files = sorted(Path(name).glob("**/pool/**/*.jsonl"))
    held = {file: (file.read_bytes(), file.stat().st_ino) for file in files}
    stood = {file: stamp(file) for folder in kept for file in Path(name, folder).rglob("*") if file.is_file()}
    go_on()
    for file, (data, number) in held.items():
        whole = data[: data.rfind(b"\n") + 1]
        if file.stat().st_ino != number or not file.read_bytes().startswith(whole):
            raise SystemExit(f"{name}: {file} was made anew")
    grown = [file for file, (data, _) in held.items() if file.stat().st_size > len(data)]
    if not grown or (kept and not stood) or any(stamp(file) != then for file, then in stood.items()):
        raise SystemExit(f"{name}: of its pool {len(grown)} files have grown, or what was done was done again")
    rows = sum(data.count(b"\n") for data, _ in held.values())
    return said(name, f"kept {rows} lines of {len(held)} files of its pool, of which {len(grown)} have grown")


def finish_comparison(name: str) -> str:
    """Done tasks must stay as they are, and the training that was begun must go on from its checkpoint."""
    done = {file: stamp(file) for file in Path(name).glob("*/*/done.json")}
    begun = {place: (place / "log.txt").stat().st_size for place in trainings(name, done=False) if checkpoints(place)}
    asked(*comparison_words(name))
    if again := [str(file) for file, then in done.items() if stamp(file) != then]:
        raise SystemExit(f"{name}: done again was {', '.join(again)}")
    for place, size in begun.items():
        text = (place / "log.txt").read_bytes()[size:].decode()
        if not (place / "done.json").is_file() or "resuming from" not in text:
            raise SystemExit(f"{name}: {place} was not gone on with from its checkpoint")
    if not any(file.parts[-3] == "train" for file in done) or not begun:
        raise SystemExit(f"{name}: no training was done before, or none was begun")
    return said(name, f"kept {len(done)} tasks, and went on with {', '.join(place.name for place in begun)}")


FINISHES: dict[str, Callable[[str], str]] = {
    "dpo": finish_training,
    "ppo": finish_training,
    "rejection-sampling": finish_rejection_sampling,
    "command-best-of-n": finish_best_of_n,
    "comparison": finish_comparison,
}


def ended(name: str, code: int) -> None:
    if code:
        raise SystemExit(f"{name}: exit status {code}; see {name}.txt")


def stamp(file: Path) -> tuple[bytes, int]:
    return file.read_bytes(), file.stat().st_mtime_ns


# ---- comparing -------------------------------------------------------------------------------------------------------

READ = (".safetensors", ".npy", ".jsonl", ".json", ".parquet")
NOT_READ = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|generation_config|adapter_config|prefopt_manifest|run|spent|"
    r"progress|dataset_info|state)\.json"
)
"""Files that say how to go on, or are another library's."""
ASIDE = {
    *(f"{part}_{what}" for part in ("train", "eval") for what in ("runtime", "samples_per_second", "steps_per_second")),
    *("seconds", "cpu_seconds", "peak_memory", "wall", "time"),
    *("packages", "provenance", "command", "transformers_version", "prefopt_version", "version", "versions"),
    *("_name_or_path", "output_dir", "best_model_checkpoint", "path"),
}
"""Times, paths and versions, wherever they are."""
LAST_PROCESS = {"train_loss", *NOTED.values()}
"""Of a run that was resumed: the losses and steps of the last process alone are added up."""
HASH = re.compile(r"-[0-9a-f]{10}$")
POOLED = re.compile(r"(^|/)pool/|selection\.jsonl$")


@dataclass
class Found:
    """What is in a run's files, by place, and how much it is."""

    leaves: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


@dataclass
class Reader:
    """Reads a run's folder.

    Args:
        renamed: names of keys, columns, tensors and parts of paths, and what they are called now.
        aside: keys to leave out.
    """

    renamed: Mapping[str, str]
    aside: set[str]

    def read(self, folder: Path) -> Found:
        found = Found()
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in READ and not NOT_READ.fullmatch(path.name):
                name = self.name(path.relative_to(folder))
                while name in found.files:
                    name += "'"
                found.files[name] = path
                for place, value in getattr(self, path.suffix[1:])(path, found, name):
                    found.leaves[f"{name}: {place}"] = value
        return found

    def name(self, path: Path) -> str:
        """Where a file lies; the hash of a comparison's task is no part of it."""
        return "/".join(self.renamed.get(part, part) for part in (HASH.sub("", part) for part in path.parts))

    def safetensors(self, path: Path, found: Found, name: str) -> Iterator[tuple[str, Any]]:
        for key, tensor in load_file(path).items():
            yield self.renamed.get(key, key), tensor

    def npy(self, path: Path, found: Found, name: str) -> Iterator[tuple[str, Any]]:
        yield "array", torch.from_numpy(np.load(path))

    def json(self, path: Path, found: Found, name: str) -> Iterator[tuple[str, Any]]:
        value = json.loads(path.read_text("utf-8"))
        if isinstance(value, dict):
            found.rows[name] = len(value.get("log_history", ()))
        yield from self.leaves(value)

    def jsonl(self, path: Path, found: Found, name: str) -> Iterator[tuple[str, Any]]:
        rows = entries(path)
        found.rows[name] = len(rows)
        yield from self.leaves(rows)

    def parquet(self, path: Path, found: Found, name: str) -> Iterator[tuple[str, Any]]:
        table = pd.read_parquet(path)
        found.rows[name] = len(table)
        yield "columns", sorted(self.renamed.get(each, each) for each in table.columns)
        for column in table.columns:
            for row, value in enumerate(table[column].tolist()):
                yield f"{row}/{self.renamed.get(column, column)}", value

    def leaves(self, value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
        """Numbers and texts of nested values, and the places of empty ones."""
        parts: Any = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, each in parts:
            key = self.renamed.get(key, key)
            if key in self.aside:
                continue
            if isinstance(each, Mapping | list) and each:
                yield from self.leaves(each, f"{place}{key}/")
            else:
                yield f"{place}{key}", each


@dataclass
class Counts:
    """What was compared of a run, and what is not the same."""

    tensors: int = 0
    numbers: int = 0
    rows: int = 0
    files: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        return not (self.tensors or self.numbers or self.rows)


def compare(a: Path, b: Path, renamed: Mapping[str, str], most: int) -> int:
    """Print every difference, and what was compared; the exit status."""
    for folder in (a, b):
        if not (folder / RECORDING).is_file():
            raise SystemExit(f"{folder} holds no recording: it has no {RECORDING}")
    ours, theirs = (json.loads((folder / RECORDING).read_text()) for folder in (a, b))
    resumed = set().union(*(json.loads(p.read_text()) for p in (a / RESUMED, b / RESUMED) if p.is_file()))
    wrong = 0
    if ours["packages"] != theirs["packages"]:
        print(f"note: other packages: {ours['packages']}, {theirs['packages']}")
    both = [name for name in ours["runs"] if name in theirs["runs"]]
    partial = any((folder / RESUMED).is_file() for folder in (a, b))  # which has fewer runs
    wanted = {*FINISHES} if partial else {*ours["runs"], *theirs["runs"]}
    if lacking := sorted(wanted - {*both}):
        print(f"runs that are not in both: {', '.join(lacking)}")
        wrong += 1
    print(f"{'run':20} {'files':>7} {'tensors':>8} {'numbers':>8} {'rows':>7} {'differences':>12}")
    total = Counts()
    for name in both:
        found = compared(a / name, b / name, renamed, ASIDE | (LAST_PROCESS if name in resumed else set()))
        if found.nothing or not (found.tensors or name in UNTRAINED):
            found.differences.append("nothing to compare" if found.nothing else "no weights to compare")
        print(row_of(name, found))
        for each in found.differences[: most or None]:
            print(f"    {name}/{each}")
        if most and len(found.differences) > most:
            print(f"    and {len(found.differences) - most} more: --most 0 shows all")
        for key in ("tensors", "numbers", "rows", "files"):
            setattr(total, key, getattr(total, key) + getattr(found, key))
        total.differences += found.differences
    print(row_of("all", total))
    if total.nothing:
        print("nothing was compared")
    wrong += len(total.differences) + total.nothing
    print("EQUAL" if not wrong else f"DIFFERENT: {wrong} differences")
    return 1 if wrong else 0


def row_of(name: str, found: Counts) -> str:
    numbers = f"{found.files:7,} {found.tensors:8,} {found.numbers:8,} {found.rows:7,} {len(found.differences):12,}"
    return f"{name:20} {numbers}"


def compared(a: Path, b: Path, renamed: Mapping[str, str], aside: set[str]) -> Counts:
    """Two folders of one run."""
    reader = Reader(renamed, {renamed.get(key, key) for key in aside} | aside)
    ours, theirs = reader.read(a), Reader({}, reader.aside).read(b)
    counts = Counts(files=len(ours.files.keys() & theirs.files.keys()))
    for name in sorted({*ours.files} ^ {*theirs.files}):
        counts.differences.append(f"{name}: only in {a.parent if name in ours.files else b.parent}")
    for name in (name for name in ours.files if name in theirs.files):
        counts.rows += min(ours.rows.get(name, 0), theirs.rows.get(name, 0))
        if ours.rows.get(name) != theirs.rows.get(name):
            counts.differences.append(f"{name}: {ours.rows.get(name)} rows and {theirs.rows.get(name)}")
    for place in {**ours.leaves, **theirs.leaves}:
        if place.split(": ")[0] in ours.files.keys() & theirs.files.keys():
            compare_leaf(place, ours, theirs, counts)
    told = {each.split(": ")[0] for each in counts.differences}
    for name in (name for name in ours.files if name in theirs.files and POOLED.search(name) and name not in told):
        if not renamed and ours.files[name].read_bytes() != theirs.files[name].read_bytes():
            counts.differences.append(f"{name}: equal rows in other bytes")
    return counts


def compare_leaf(place: str, ours: Found, theirs: Found, counts: Counts) -> None:
    if place not in ours.leaves or place not in theirs.leaves:
        return counts.differences.append(f"{place}: only in the {'first' if place in ours.leaves else 'second'}")
    a, b = ours.leaves[place], theirs.leaves[place]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        counts.tensors += 1
        if what := tensors_apart(a, b):
            counts.differences.append(f"{place}: {what}")
        return
    counts.numbers += is_number(a) and is_number(b)
    if not same(a, b):
        counts.differences.append(f"{place}: {shortened(a)} and {shortened(b)}")


def tensors_apart(a: torch.Tensor, b: torch.Tensor) -> str:
    """How two tensors differ; "" if every bit is the same."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
    bits = [each.contiguous().reshape(-1).view(torch.uint8).view(each.numel(), -1) for each in (a, b) if each.numel()]
    if not bits or torch.equal(*bits):
        return ""
    apart = int((bits[0] != bits[1]).any(-1).sum())
    most = (a.double() - b.double()).abs().max().item()
    return f"{apart} of {a.numel()} elements differ, by up to {most:.3g}"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(a: Any, b: Any) -> bool:
    if is_number(a) and is_number(b):
        return a == b or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b


def shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- files -----------------------------------------------------------------------------------------------------------


def entries(path: Path) -> list[dict[str, Any]]:
    """Of a file of JSON lines; none if there is no file."""
    return [json.loads(line) for line in path.open("r", encoding="utf-8")] if path.is_file() else []


def append(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), "utf-8")


def nudge(source: Path, target: Path) -> None:
    """Copy a recording and change the last bit of one weight of one run in it, which `compare` must find."""
    shutil.copytree(source, target)
    path = target / "dpo/model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    flat = weights[name].clone().reshape(-1)
    flat[0] = torch.nextafter(flat[0], torch.tensor(math.inf))
    save_file(weights | {name: flat.view_as(weights[name])}, path, {"format": "pt"})
    print(f"changed: the first element of {name} in {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("record", "run everything"), ("interrupt", "begin and kill"), ("resume", "finish the killed")):
        commands.add_parser(name, help=what).add_argument("folder", type=Path)
    comparing = commands.add_parser("compare", help="name every difference of two recordings")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    comparing.add_argument("--renamed", nargs="+", default=[], metavar="OLD=NEW", help="names of keys, columns, parts")
    comparing.add_argument("--most", type=int, default=0, help="differences of a run to print; 0 for all")
    nudging = commands.add_parser("nudge", help="copy a recording and change one bit, which compare must find")
    nudging.add_argument("a", type=Path)
    nudging.add_argument("b", type=Path)
    alone = commands.add_parser("one", help="one run, as `interrupt` and `resume` call it")
    alone.add_argument("name", choices=RUNS)
    alone.add_argument("folder", type=Path)
    alone.add_argument("--resume", action="store_true")
    alone.add_argument("--kill-at", type=int)
    args = parser.parse_args()
    if args.command == "compare":
        sys.exit(compare(args.a, args.b, dict(each.split("=", 1) for each in args.renamed), args.most))
    if args.command == "nudge":
        return nudge(args.a, args.b)
    folder = args.folder.resolve()
    if args.command == "one":
        enter(folder)
        return RUNS[args.name](args.name, Going(args.resume, args.kill_at))
    {"record": record, "interrupt": interrupt, "resume": resume}[args.command](folder)


if __name__ == "__main__":
    main()
