"""Where the rows of a run come from, and what follows from that for the run: rows that are there, to begin with.

`PreferenceTrainer` asks its source wherever the answer depends on this. The other sources are rollouts
(`ppo/source.py`) and iterations (`iterative/source.py`); a run over rows that are there carries nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import TrainOutput

from .config import PreferenceConfig
from .dataloaders import Batching
from .interruption import steps_done
from .step import StepRunner

Train = Callable[[Any], TrainOutput]
"""Trainer's own loop over `train_loader`: what to resume from -> what came of it."""
Evaluate = Callable[..., dict[str, float]]


class Host(Protocol):
    """What a source may use of the trainer that it serves."""

    args: PreferenceConfig
    model: Any
    """Without what the trainer wraps around it."""
    model_wrapped: nn.Module
    processing_class: Any
    train_dataset: Any
    eval_dataset: Any
    state: TrainerState
    control: TrainerControl
    accelerator: Accelerator
    callback_handler: CallbackHandler
    lr_scheduler: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    step: StepRunner
    batching: Batching

    @property
    def train_batch_size(self) -> int: ...

    def prepare_rows(self, dataset: Any) -> Any:
        """Raw rows as this trainer reads them."""
        ...

    def log(self, logs: dict[str, float]) -> None: ...

    def save_checkpoint(self) -> None:
        """Of the step that was done last."""
        ...

    def load_checkpoint(self, name: str) -> None:
        """Take the weights and the objective's state of a checkpoint of this run."""
        ...

    def keep_checkpoint(self, name: str | None) -> None:
        """Never delete this checkpoint for its age."""
        ...

    def trainer_on(self, rows: Any, args: PreferenceConfig, callbacks: list[TrainerCallback]) -> Any:
        """A trainer of the same model, on rows that are there."""
        ...

    def save_policy(self, folder: str) -> None: ...

    def load_policy(self, folder: str) -> None: ...

    def evaluate(self, eval_dataset: Any = None, *, metric_key_prefix: str = "eval") -> dict[str, float]: ...


class Source:
    """Rows that are there, encoded: Trainer does all the rest."""

    trusts_best = True
    """Whether the checkpoint that evaluation found the best may be loaded at the end."""

    def __init__(self, host: Host):
        self.host = host

    def train(self, train: Train, resume_from: Any) -> TrainOutput:
        """A whole training."""
        return train(resume_from)

    def train_loader(self) -> Any:
        """What Trainer's loop iterates over."""
        host = self.host
        loader = host.batching.train_loader(
            host.train_dataset, host.train_batch_size, lambda: int(host.state.epoch or 0)
        )
        return host.accelerator.prepare(loader)

    def resumes(self, checkpoint: Path | None) -> None:
        """Trainer is about to go on from this folder, or to begin."""

    def begun(self, batches_to_skip: int) -> int:
        """Trainer knows at which step it begins. How many batches of the epoch it is to skip."""
        return batches_to_skip

    def before_saving(self) -> None:
        """Trainer is about to look at `control`, after a step, for what it is to log, save and evaluate."""

    def save(self, checkpoint: Path) -> None:
        """Put into a checkpoint that is being written what Trainer does not know."""

    def saved(self) -> None:
        """A checkpoint is on disk."""

    def standing(self) -> str:
        """How far the training has come, and how to go on with it."""
        state = self.host.state
        return steps_done(state.global_step, state.max_steps, str(self.host.args.output_dir))

    def complete(self, logs: MutableMapping[str, float]) -> None:
        """Add to what is logged what follows from it."""

    def description(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to go on, beside what is so for every run."""
        return {}

    def evaluate(self, evaluate: Evaluate, dataset: Any, ignore_keys: Any, prefix: str) -> dict[str, float]:
        """Metrics of held-out rows."""
        return evaluate(dataset, ignore_keys, prefix)

    def predict(self, predict: Callable[..., Any], dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Log-probs and rewards of rows."""
        return predict(dataset, *args, **kwargs)


def eval_loader(host: Host, dataset: Any) -> DataLoader:
    """Of the trainer's own held-out rows, of those with this name, or of these."""
    chosen = host.eval_dataset if dataset is None else dataset
    if chosen is None:
        raise ValueError("evaluation needs an eval_dataset: pass one to the trainer or to evaluate()")
    if isinstance(chosen, str):
        chosen = host.eval_dataset[chosen]
    elif chosen is not host.eval_dataset and chosen is not host.train_dataset:  # which are prepared
        chosen = host.prepare_rows(chosen)
    return host.batching.eval_loader(chosen)
