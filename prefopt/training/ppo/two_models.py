"""Policy and critic under one optimizer: learning rates, schedules, gradient norms and folders of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments

from ...models.critic import critic_of, critic_weights, load_critic, parameter_groups, save_critic
from ...models.shared_critic import SharedCritic
from ...models.weights import full_weight
from ...models.whole_weights import gathered_weights
from ...objectives.base import Metric
from ..config import PreferenceConfig
from ..one_model import OneModel
from ..schedule import Schedule, schedule_of
from ..step import StepRunner

logger = logging.getLogger(__name__)

POLICY_FOLDER, CRITIC_FOLDER = "policy", "critic"
FULL = 1.65e-6
FASTER = FULL / 5e-7
"""The critic's learning rate, and by the policy's, in arXiv:2307.04964."""
ONE = torch.tensor(1)

Groups = Mapping[str, list[nn.Parameter]]
"""The weights of "policy" and "critic"."""


def split(optimizer: Optimizer, groups: Groups, rates: Mapping[str, float]) -> None:
    """Give each model groups of its own in an optimizer that has not begun, with its learning rate."""
    owners = {weight: name for name, weights in groups.items() for weight in weights}
    parts = []
    for group in optimizer.param_groups:
        for name in groups:
            own = [weight for weight in group["params"] if owners[weight] == name]
            if own:
                parts.append({**group, "params": own, "model": name, "lr": rates[name]})
    optimizer.param_groups[:] = parts


def schedules(
    optimizer: Optimizer, args: TrainingArguments, steps: int, policy_start: Callable[[], int | None]
) -> LambdaLR:
    """The schedule that `args` ask for: the critic's from the first step, the policy's from the one it begins to learn.

    Each warms up at its own beginning and has decayed at step number `steps`. Until the policy begins, its rate is 0.

    Args:
        policy_start: that step, None while it is not known.

    Raises:
        ValueError: a schedule that follows the loss and not the number of steps.
    """
    rates = {group["model"]: group["lr"] for group in optimizer.param_groups}
    shape = cache(lambda length, model: _shape(args, length, rates[model]))

    def policy(step: int) -> float:
        start = policy_start()
        return 0.0 if start is None else shape(max(1, steps - start), "policy")(step - start)

    of = {"policy": policy, "critic": shape(steps, "critic")}
    return LambdaLR(optimizer, [of[group["model"]] for group in optimizer.param_groups])


def _shape(args: TrainingArguments, steps: int, rate: float) -> Schedule:
    schedule = schedule_of(args, steps, rate)
    if schedule is None:
        raise ValueError(
            f"lr_scheduler_type={args.lr_scheduler_type}: policy and critic have schedules of their own, which must be "
            "functions of the step, such as linear, cosine or inverse_sqrt"
        )
    return schedule


def clip(groups: Groups, limit: float) -> dict[str, Tensor]:
    """Scale the gradients of each model so that their norm is at most `limit`; the norms before that.

    Together, the critic's large gradients at the beginning would leave the policy nothing of its own.
    """
    return {name: full_weight(nn.utils.clip_grad_norm_(weights, limit)) for name, weights in groups.items()}


def together(norms: Mapping[str, Tensor]) -> Tensor:
    """The norm of all gradients, from those of each model."""
    return torch.stack(list(norms.values())).norm()


def refresh(schedule: LambdaLR) -> None:
    """Set the learning rates of this step anew, after what a schedule depends on has changed."""
    groups = schedule.optimizer.param_groups
    for group, base, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * factor(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in groups]


class PolicyAndCritic(OneModel):
    """Policy and critic: rates, schedules and clipping of their own, under one optimizer; each in a folder of its own.

    Args:
        step: of whose objective the settings and the policy's first step are.
    """

    loads_alone = False

    def __init__(self, model: Callable[[], Any], args: PreferenceConfig, step: StepRunner):
        super().__init__(model, args)
        self.step = step
        self.objective: Any = step.objective
        self._rates: dict[str, float] = {}
        """Learning rates of the step that is logged."""
        self._whole: Mapping[str, Tensor] | None = None
        """The critic's weights, while a model is saved of which each process has a part."""

    def rates(self) -> dict[str, float]:
        return {"policy": self.args.learning_rate, "critic": self._critic_rate}

    def group(self, optimizer: Optimizer) -> None:
        split(optimizer, parameter_groups(self.model), self.rates())

    @cached_property
    def _critic_rate(self) -> float:
        own = self.objective.critic_learning_rate
        adapted = [isinstance(model, PeftModel | SharedCritic) for model in (self.model, critic_of(self.model))]
        if own is None and adapted == [True, False]:
            logger.warning(
                "the policy trains by an adapter and the critic in full: its learning rate is %g unless you give "
                "critic_learning_rate; share_critic=True needs no second model",
                FULL,
            )
            return FULL
        return FASTER * self.args.learning_rate if own is None else own

    def schedule(self, optimizer: Optimizer, steps: int) -> LambdaLR:
        return schedules(optimizer, self.args, steps, self._policy_start)

    def _policy_start(self) -> int | None:
        start = int(self.step.state["policy_start"])
        return None if start < 0 else start

    def note_rates(self, optimizer: Any) -> None:
        self._rates = {group["model"]: group["lr"] for group in optimizer.param_groups}

    def clip(self) -> Tensor:
        self.step.accelerator.unscale_gradients()
        norms = clip(parameter_groups(self.model), self.args.max_grad_norm)
        finite = {f"{name}/grad_norm": Metric(norm, ONE) for name, norm in norms.items() if norm.isfinite()}
        self.step.metrics.add(finite)
        return together(norms)

    def complete(self, logs: MutableMapping[str, float]) -> None:
        if "learning_rate" in logs and "critic" in self._rates:
            logs["critic_learning_rate"] = self._rates["critic"]

    # ---- on disk ---------------------------------------------------------------------------------------------------

    def policy_folder(self, folder: Path) -> Path:
        return folder / POLICY_FOLDER

    @contextmanager
    def whole_beside(self, folder: Path) -> Iterator[None]:
        with gathered_weights(critic_weights(self.model), folder) as self._whole:
            yield
        self._whole = None

    def saved(self, folder: Path) -> dict[Path, str]:
        return {folder / POLICY_FOLDER: "policy", folder / CRITIC_FOLDER: "critic"}

    def save_beside(self, folder: Path, tokenizer: Any) -> None:
        save_critic(self.model, folder / CRITIC_FOLDER, self._whole)
        tokenizer.save_pretrained(folder / CRITIC_FOLDER)

    def load_beside(self, folder: Path) -> None:
        load_critic(self.model, folder / CRITIC_FOLDER)
