"""Run by itself: of two ranks one gets SIGTERM at a stage of a run; prints how both ended, and how they go on.

python -m tests.helpers.programs.signalled_ranks '{"folder": "ranks"}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from datasets import Dataset
from transformers import TrainerCallback

from prefopt import PreferenceConfig, PreferenceTrainer, RejectionSamplingTrainer, testbed
from prefopt.cli.train import train_and_save
from prefopt.objectives.dpo import DPO
from prefopt.testbed.model import build_tokenizer
from prefopt.training import checkpoint, final_model, output_folder
from prefopt.training import trainer as room
from prefopt.training.output_folder import AUTO
from tests.helpers import iterations, ppo
from tests.helpers.checkpoints import BASE, ROWS
from tests.helpers.kills import Attempt, Run, said
from tests.helpers.models import tiny_llama, untrained
from tests.helpers.programs.killed_runs import prepare
from tests.helpers.training import quiet


def strike() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Strikes(TrainerCallback):
    """A signal at a moment of the training, in one rank."""

    def __init__(self, moment: str, step: int = 0):
        self.step = step
        setattr(self, moment, self._strike)

    def _strike(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            strike()


def offline(folder: Path, callback: TrainerCallback | None = None, moment: str = "") -> None:
    config = PreferenceConfig(**quiet(folder, **BASE | {"per_device_train_batch_size": 1, "max_steps": 4}))
    if moment == "before they have met":
        strike()
    trainer = PreferenceTrainer(
        tiny_llama(), DPO(), config, ROWS, None, build_tokenizer(), callbacks=[callback or TrainerCallback()]
    )
    if moment == "between set-up and training":
        strike()
    train_and_save(trainer, AUTO)


def struck_before(owner: Any, name: str) -> Any:
    """A patch by which a signal comes right before a function runs."""
    own = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        strike()
        return own(*args, **kwargs)

    return mock.patch.object(owner, name, call)


def patched(owner: Any, name: str) -> Callable[[Path], None]:
    def call(folder: Path) -> None:
        with struck_before(owner, name):
            offline(folder)

    return call


STRUCK: list[bool] = []
"""Not empty in the rank that the scorer gives a signal to; a scorer is known by its code, which has to be the same."""


def judge(prompts: Any, responses: Any) -> list[float]:
    """Scores by vowels."""
    if STRUCK:
        strike()
    return iterations.vowels(prompts, responses)


def pairs() -> Dataset:
    return Dataset.from_list(testbed.preference_rows(16, seed=3))


def struck_by_the_scorer(call: Callable[[Path], None]) -> Callable[[Path], None]:
    def struck(folder: Path) -> None:
        STRUCK.append(True)
        call(folder)

    return struck


def sampled(folder: Path) -> None:
    tokenizer = build_tokenizer()
    args = iterations.config(folder, iterations=1, max_steps=2, save_strategy="steps", save_steps=1)
    more: dict[str, Any] = {"train_dataset": pairs(), "processing_class": tokenizer, "scorer": judge}
    train_and_save(RejectionSamplingTrainer(untrained(tokenizer), args, **more), AUTO)


def on_policy(folder: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer = ppo.trainer_of(folder, build_tokenizer(), pairs(), scorer=judge, **saving)
    train_and_save(trainer, AUTO)


Call = Callable[[Path], None]
STAGES: dict[str, tuple[int, Call, Call]] = {
    "before they have met": (1, lambda folder: offline(folder, moment="before they have met"), offline),
    "in set-up": (0, patched(room, "build"), offline),
    "between set-up and training": (1, lambda folder: offline(folder, moment="between set-up and training"), offline),
    "before the first step": (1, lambda folder: offline(folder, Strikes("on_train_begin")), offline),
    "in a step": (1, lambda folder: offline(folder, Strikes("on_step_begin", 2)), offline),
    "while saving": (0, patched(checkpoint, "publish"), offline),
    "while saving the end": (0, patched(final_model, "write_whole"), offline),
    "at the end": (1, lambda folder: offline(folder, Strikes("on_train_end", 4)), offline),
    "while scoring": (0, struck_by_the_scorer(sampled), sampled),
    "in a rollout": (0, struck_by_the_scorer(on_policy), on_policy),
}
"""Stage -> the rank that gets the signal, what it does then, and what all others do."""


def ended(folder: Path, stage: str) -> dict[str, Any]:
    struck, one, others = STAGES[stage]

    def call(place: Path) -> None:
        (one if int(os.environ["RANK"]) == struck else others)(place)

    statuses = Attempt(Run(call, dict, ranks=2), folder).end()
    words = said(folder)
    again = Attempt(Run(others, dict, ranks=2), folder).end()
    left = output_folder.contents(folder / "run")
    return {"statuses": statuses, **words, "again": again, "whole": "a final model" in left or "run.json" in left}


def main(folder: str, stages: list[str] | None = None) -> None:
    prepare()
    print("RESULT " + json.dumps({stage: ended(Path(folder) / stage, stage) for stage in stages or STAGES}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
