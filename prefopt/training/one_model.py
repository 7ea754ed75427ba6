"""What a run trains, where that is one model: transformers' Trainer knows how to optimize, save and load it.

`PreferenceTrainer` asks this object wherever the answer depends on how many models train; policy and critic, which
train together, are in `ppo/two_models.py`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .config import PreferenceConfig


class OneModel:
    """One model under one optimizer, in one folder.

    Args:
        model: gives the model as the trainer has it now.
    """

    loads_alone = True
    """Whether Trainer, which knows one model, can load all of it."""

    def __init__(self, model: Callable[[], Any], args: PreferenceConfig):
        self._model, self.args = model, args

    @property
    def model(self) -> Any:
        return self._model()

    def rates(self) -> dict[str, float]:
        """The highest learning rate of each model that trains, by its name in `parameter_groups`."""
        return {"policy": self.args.learning_rate}

    def group(self, optimizer: Optimizer) -> None:
        """Give models that train at other rates parameter groups of their own, in an optimizer that has not begun."""

    def schedule(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """The schedule of all learning rates over so many steps; None leaves it to Trainer."""
        return None

    def note_rates(self, optimizer: Any) -> None:
        """Remember the learning rates of the step that is about to be taken."""

    def clip(self) -> Tensor | None:
        """Clip the gradients, and return the norm of all of them before that; None leaves it to Trainer."""
        return None

    def complete(self, logs: MutableMapping[str, float]) -> None:
        """Add to what is logged the learning rates that Trainer does not know."""

    # ---- on disk ---------------------------------------------------------------------------------------------------

    def policy_folder(self, folder: Path) -> Path:
        """Where the trained model is in a folder that was saved."""
        return folder

    def whole_beside(self, folder: Path) -> AbstractContextManager[Any]:
        """Have whole, for `save_beside` inside the block, what trains beside the policy and processes share.

        Args:
            folder: for files that are gone afterwards.
        """
        return nullcontext()

    def saved(self, folder: Path) -> dict[Path, str]:
        """The folders of the models that are saved into `folder` -> which part each is."""
        return {folder: "policy"}

    def save_beside(self, folder: Path, tokenizer: Any) -> None:
        """Save what trains beside the policy."""

    def load_beside(self, folder: Path) -> None:
        """Load what trains beside the policy."""
