"""Run by itself, on two ranks: every method is trained for three steps under an engine; rank 0 prints what came of it.

The weights and the saved folder of each case are left in the folder, for whoever compares engines; and for the same
program with `resume`, which goes on from the second step's checkpoint, in processes of its own.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

import prefopt.generation.sampling as sampling_module
from prefopt import PPOTrainer, PreferenceConfig, PreferenceTrainer, RejectionSamplingTrainer
from prefopt.models.auxiliary import CRITIC
from prefopt.models.checkpoint_names import weights_in
from prefopt.models.heads import scorer_from_policy
from prefopt.models.reference import FrozenModel
from prefopt.models.weights import full_weight
from prefopt.models.wrappers import unwrap_parallel
from prefopt.objectives.base import Objective
from prefopt.objectives.dpo import DPO
from prefopt.objectives.reward import BradleyTerry
from prefopt.objectives.rrhf import RRHF
from prefopt.objectives.sft import SFT
from prefopt.scoring import RewardModelScorer
from prefopt.testbed import preference_rows
from prefopt.testbed.model import build_tokenizer
from prefopt.utils import jsonl
from tests.helpers import engines, iterations, ppo
from tests.helpers.models import tiny_llama, tiny_mixtral, untrained
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
STEPS = {
    **{"max_steps": 3, "learning_rate": 1e-3, "gradient_accumulation_steps": 2},
    **{"save_strategy": "steps", "save_steps": 2},
}


@dataclass(frozen=True)
class Case:
    """A method, with what it is given."""

    objective: Callable[[], Objective]
    args: dict[str, Any] = field(default_factory=dict)
    k: int = 2
    columns: dict[str, Any] = field(default_factory=dict)
    adapter: LoraConfig | None = None
    reference: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    broken: int | None = None
    by_path: bool = False
    experts: bool = False
    named: str = ""


SCORES = {"scores": lambda rng: [rng.random(), rng.random()]}
REFERENCES = {"dpo, by path": {}, "dpo, precomputed, by path": {"precompute_ref_log_probs": True}}
"""What needs a whole model by path, which ZeRO-3 has not."""
CASES = {
    "reward": Case(BradleyTerry),  # the first, before transformers is told to make models in parts
    "sft": Case(SFT, k=1),
    "sft, tied": Case(SFT, k=1, model={"tie_word_embeddings": True}),
    "dpo": Case(DPO),
    "dpo, tied": Case(DPO, model={"tie_word_embeddings": True}),
    "dpo, ref_model": Case(DPO, reference=True),
    "dpo, precomputed": Case(DPO, {"precompute_ref_log_probs": True}),
    "dpo, lora": Case(DPO, adapter=LORA),
    "dpo, checkpointed": Case(DPO, {"gradient_checkpointing": True}),
    "dpo, by tokens": Case(DPO, {"max_tokens_per_batch": 64}),
    "dpo, moving reference": Case(DPO, {"sync_ref_model": True, "ref_model_sync_steps": 1}),
    "rrhf": Case(RRHF, columns=SCORES),
    "dpo, lora of another name": Case(DPO, {"precompute_ref_log_probs": True}, named="mine"),
    "sft, experts": Case(SFT, k=1, experts=True),
    "sft, by path": Case(SFT, k=1, by_path=True),
    "reward, by path": Case(BradleyTerry, by_path=True),
    "rrhf, by path": Case(RRHF, columns=SCORES, by_path=True),
    "dpo, lora, by path": Case(DPO, adapter=LORA, by_path=True),
    **{name: Case(DPO, args, by_path=True) for name, args in REFERENCES.items()},
}
BROKEN = {"reward, a broken row": Case(BradleyTerry, {"train_sampling_strategy": "sequential"}, broken=5)}
"""With a row of which nothing can be learnt."""


def sampling(folder: Path, **changes: Any) -> Any:
    """Two iterations, of prompts that are no multiple of what the processes sample at a time."""
    tokenizer = build_tokenizer()
    rows = {name: Dataset.from_list(preference_rows(n, seed=3, split=name)) for name, n in (("train", 13), ("test", 5))}
    given = {name: changes.pop(name) for name in ("peft_config",) if name in changes}
    steps = {"max_steps": 3, "learning_rate": 1e-4, "per_device_train_batch_size": 4 // world()}
    return RejectionSamplingTrainer(
        untrained(tokenizer).double(),
        iterations.config(folder, iterations=2, **steps, **changes),
        train_dataset=rows["train"],
        eval_dataset=rows["test"],
        processing_class=tokenizer,
        scorer=RewardModelScorer(ppo.reward_model(tokenizer).double(), tokenizer),
        **given,
    )


def by_generate(folder: Path) -> Any:
    """Of a model that the fast loop cannot decode."""
    sampling_module.is_supported = lambda *_: False  # type: ignore[assignment]
    return sampling(folder)


def on_policy(folder: Path, **changes: Any) -> Any:
    """Two rollouts, of two mini-batches each."""
    tokenizer = build_tokenizer()
    rows = {name: Dataset.from_list(preference_rows(n, seed=3, split=name)) for name, n in (("train", 13), ("test", 5))}
    saving = {"save_strategy": "steps", "save_steps": 2}
    given = {"max_steps": 4, "per_device_train_batch_size": 4 // world(), **saving, **changes}
    own = {name: given.pop(name) for name in ("peft_config",) if name in given}
    return PPOTrainer(
        untrained(tokenizer).double(),
        ppo.config(folder, **given),
        train_dataset=rows["train"],
        eval_dataset=rows["test"],
        processing_class=tokenizer,
        scorer=RewardModelScorer(ppo.reward_model(tokenizer).double(), tokenizer),
        **own,
    )


GENERATING: dict[str, Callable[[Path], Any]] = {
    "rejection sampling": sampling,
    "rejection sampling, lora": partial(sampling, peft_config=LORA),
    "rejection sampling, from base": partial(sampling, init="base", dataset_responses=True),
}
ON_POLICY = {
    "ppo": on_policy,
    "ppo, lora": partial(on_policy, peft_config=LORA),
    "ppo, shared critic": partial(on_policy, peft_config=LORA, share_critic=True),
    "ppo, critic first": partial(on_policy, critic_pretrain_steps=2),
}
BY_GENERATE = {"rejection sampling, by generate": by_generate}
"""What FSDP cannot do."""


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def offline(case: Case, folder: Path) -> Any:
    os.environ["PREFOPT_CACHE"] = str(folder / "cache")
    learnt = case.objective()
    model = str(saved_at(folder.parent, learnt)) if case.by_path else made(case, learnt)
    if case.named:
        model = get_peft_model(model, LORA, adapter_name=case.named)
    args = {**STEPS, "per_device_train_batch_size": 4 // world(), "per_device_eval_batch_size": 2, **case.args}
    rows = ragged_pairs(26, k=case.k, **case.columns)
    if case.broken is not None:
        rows = rows.add_column("margin", [math.nan if number == case.broken else 0.1 for number in range(len(rows))])
    return PreferenceTrainer(
        model,
        learnt,
        PreferenceConfig(**quiet(folder, **args)),
        rows,
        ragged_pairs(5, seed=1, k=case.k, **case.columns),
        build_tokenizer(),
        peft_config=case.adapter,
        ref_model=tiny_llama(seed=7, dtype=torch.float64) if case.reference else None,
    )


def made(case: Case, learnt: Objective) -> Any:
    model = tiny_mixtral() if case.experts else tiny_llama(dtype=torch.float64, **case.model)
    return scorer_from_policy(model) if learnt.trains == "scorer" else model


def saved_at(folder: Path, learnt: Objective) -> Path:
    return folder / "models" / learnt.trains


def save_models(folder: Path, cases: Iterable[Case]) -> None:
    """Save what is loaded by its path: before any trainer is made, when no engine has to do with it."""
    for case in cases:
        learnt = case.objective()
        place = saved_at(folder, learnt)
        if int(os.environ.get("RANK", "0")) == 0 and not place.is_dir():
            staged = place.with_suffix(".staged")
            made(case, learnt).save_pretrained(staged)
            build_tokenizer().save_pretrained(staged)
            staged.rename(place)
        while not place.is_dir():
            time.sleep(0.05)


def trained(make: Callable[[Path], Any], folder: Path) -> dict[str, Any]:
    """Train, evaluate and save; the numbers."""
    trainer = make(folder)
    held = Held(trainer)
    trainer.add_callback(held)
    trainer.train()
    evaluated = trainer.evaluate()
    trainer.save_model()
    weights = whole(trainer.model)
    if trainer.args.should_save:
        save_file(weights, folder / "weights.safetensors")
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return {
        "world": trainer.args.world_size,
        "wrapper": type(trainer.model_wrapped).__name__,
        "losses": [log["loss"] for log in logs],
        "norms": [log["grad_norm"] for log in logs],
        "evaluated": {name: value for name, value in evaluated.items() if not name.endswith(("runtime", "second"))},
        "pool": pool_of(folder),
        "held": held.bytes,
        "launch": trainer.launch,
        "skipped": trainer.step.guard.skipped,
        "saved otherwise": saved_otherwise(folder / "run", weights, trainer.model) if trainer.args.should_save else [],
    }


class Held(TrainerCallback):
    """The bytes that this process holds of each kind of number, before the optimizer's last step."""

    def __init__(self, trainer: Any):
        self.trainer, self.bytes = trainer, dict[str, int]()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        reference, optimizer = self.trainer.reference, self.trainer.optimizer
        if optimizer is None:  # iterations train by trainers of their own
            return
        moments = [each for state in optimizer.state.values() for each in state.values() if isinstance(each, Tensor)]
        self.bytes = {
            "weights": _bytes(model.parameters()),
            "gradients": _bytes(p.grad for p in model.parameters() if p.grad is not None),
            "optimizer": _bytes(each for each in moments if each.numel() > 1),
            "reference": _bytes(reference.model.parameters()) if isinstance(reference, FrozenModel) else 0,
        }


def _bytes(tensors: Iterable[Tensor]) -> int:
    own = (each.to_local() if isinstance(each, DTensor) else each for each in tensors)
    return sum(each.numel() * each.element_size() for each in own)


def whole(model: nn.Module) -> dict[str, Tensor]:
    """All weights that train, under the names of an unwrapped model."""
    weights = {name: full_weight(p).clone() for name, p in model.named_parameters() if p.requires_grad}
    return {name.removeprefix("module."): weight for name, weight in weights.items()}


def saved_otherwise(run: Path, weights: dict[str, Tensor], model: nn.Module) -> list[str]:
    """Which of the weights are not in the saved folder, bit by bit."""
    found = [path for path in run.rglob("*model.safetensors") if "-" not in str(path.relative_to(run))]
    saved = {
        (path.parent.name == "critic", name): weight
        for path in found
        for name, weight in weights_in([path], unwrap_parallel(model))
    }
    held = {(CRITIC in name.split("."), called(name)): weight for name, weight in weights.items()}
    return sorted(name for name, weight in held.items() if not torch.equal(saved.get(name, torch.empty(0)), weight))


def called(name: str) -> str:
    """What a file calls a weight."""
    separate = name.partition(f"{CRITIC}.model.")[2]
    if separate:
        return separate
    for adapter in ("default", "mine", CRITIC):
        name = name.replace(f".{adapter}.", ".")
    return name


def resumed(make: Callable[[Path], Any], folder: Path) -> dict[str, Any]:
    """Go on from the second of three steps; which of the weights are others than without that, bit by bit."""
    weights, trainer = load_file(folder / "weights.safetensors"), make(folder)
    trainer.train(resume_from_checkpoint=str(folder / "run/checkpoint-2"))
    again = whole(trainer.model)
    return {"otherwise": sorted(name for name, weight in weights.items() if not torch.equal(again[name], weight))}


def pool_of(folder: Path) -> list[Any]:
    """What was sampled, and its scores."""
    files = sorted(folder.glob("run/**/pool/candidates-*.jsonl"))
    return [row for path in files for row in jsonl.read(path)]


def main(folder: str, engine: str | None = None, cases: list[str] | None = None, resume: bool = False) -> None:
    torch.set_num_threads(1)
    engines.use(engine)
    found: dict[str, Any] = {}
    save_models(Path(folder), (case for name, case in CASES.items() if case.by_path and name in (cases or CASES)))
    makers = {name: partial(offline, case) for name, case in (CASES | BROKEN).items()}
    makers |= GENERATING | ON_POLICY | BY_GENERATE
    for name in cases or makers:
        there = Path(folder) / name.replace(", ", "-").replace(" ", "-")
        try:
            found[name] = (resumed if resume else trained)(makers[name], there)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}", "details": traceback.format_exc()[-4000:]}
    if int(os.environ.get("RANK", "0")) == 0:
        print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
