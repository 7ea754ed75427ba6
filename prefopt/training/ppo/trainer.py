"""The part of a trainer for objectives that learn from what the policy has just drawn. Knows no formula.

Trainer's own loop runs it: rollouts are its data (`experience.py`), and saving and evaluating wait for the end of one,
so that nothing of a rollout has to be kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ...batch import Batch
from ...candidates.dataset_answers import Given
from ...candidates.evaluate import METRICS, REWARD, Judged
from ...generation.prompts import encoded
from ...objectives.base import Objective
from ...objectives.ppo_losses import derived
from ...utils.distributed import of_first
from .. import checkpoint
from ..config import PreferenceConfig
from ..iterative.trainer import Drawing
from ..metrics import Meter
from ..nonfinite import StepGuard
from ..optimizers import refresh
from .collapse import Suspicion
from .collect import Experience, log_ratios

logger = logging.getLogger(__name__)

SUMMANDS = ("nll/policy", "nll/reference", "val/squared_returns", "val/squared_error")
"""Means of which other metrics are made."""
KL = "objective/kl"


class Collapse(Exception):
    """The policy exploits its reward model, and the run is to end."""


class OnPolicy(Drawing):
    """Trains on rollouts, where the objective is on-policy; else as the trainer does without it."""

    args: PreferenceConfig
    model: Any
    objective: Objective
    objective_state: dict[str, Tensor]
    meter: Meter
    guard: StepGuard
    _kept: str | None
    annotated: Callable[[Batch], Batch]
    initial_state: Callable[[], dict[str, Tensor]]
    demonstrations: Any
    """Encoded rows to mix in, or none."""
    experience: Experience | None = None
    _waiting = (False, False)
    """Whether a checkpoint and an evaluation are due at the end of this rollout."""
    _saved: list[int] = []
    """Steps of this run's checkpoints."""
    _collapsed = False
    _scored_by = ""
    """The scorer's fingerprint."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, on rollouts.

        Raises:
            ValueError: what cannot be trained on rollouts, a prompt that leaves no room for a response, or a number of
                steps that ends within a rollout.
        """
        if self.objective.on_policy:
            self._check_on_policy()
            self.experience = self._experience()
            self._check_steps(self.experience)
            self._begin()
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.experience is not None:
            self.experience.draw()
        return result

    def _begin(self) -> None:
        """Forget what an earlier training left; a checkpoint brings its own state."""
        self.objective_state = self.initial_state()
        self._waiting, self._saved, self._collapsed = (False, False), [], False
        self._scored_by = cast(Any, self.scorer).fingerprint  # a reward model of its size is read to make it

    def _check_on_policy(self) -> None:
        """What can be known before anything is drawn."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset: pass one to the trainer")
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if sharded or any(isinstance(module, FSDPModule) for module in self.model.modules()):
            raise ValueError(
                "the policy draws its responses between steps, for which every process needs all of it: train without "
                "FSDP and DeepSpeed; an adapter on the policy and share_critic save memory"
            )
        if self.args.max_tokens_per_batch is not None:
            raise ValueError("max_tokens_per_batch is for rows that are there: set per_device_train_batch_size")
        self.evaluated = (*METRICS, KL)
        self._check_best()

    def _experience(self) -> Experience:
        settings: Any = self.objective
        prompts = Given(self.train_dataset).prompts
        ids = encoded(prompts, cast(Any, self.processing_class), self.model, settings.max_new_tokens)
        longest, limit = max(map(len, ids)) + settings.max_new_tokens, self.args.max_length
        if limit is not None and longest > limit:
            logger.warning(
                "a prompt with a response may have %d tokens: max_length=%d cuts rows that are there, and nothing of "
                "what is drawn; leave long prompts out, or lower max_new_tokens, to save memory",
                longest,
                limit,
            )
        return Experience(self, cast(Any, self.scorer), prompts, self.demonstrations)

    def _check_steps(self, experience: Experience) -> None:
        loader, args = experience.loader, self.args
        passes = len(loader) // args.gradient_accumulation_steps
        steps = args.max_steps if args.max_steps > 0 else -(-args.num_train_epochs * passes // 1)
        if steps % loader.steps:
            name = "max_steps" if args.max_steps > 0 else "num_train_epochs"
            near = int(steps // loader.steps) * loader.steps
            raise ValueError(
                f"{name}={getattr(args, name)} ends within a rollout, from which {loader.steps} steps are learnt: take "
                f"max_steps={near or loader.steps} or {near + loader.steps}"
            )
        alone = self.objective.critic_pretrain_steps  # type: ignore[attr-defined]
        if alone > steps / 2:
            logger.warning(
                "critic_pretrain_steps=%d of %d steps: the policy learns from half of them at least", alone, steps
            )

    # ---- the data of Trainer's loop --------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        return super().get_train_dataloader() if self.experience is None else self.experience.loader

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        epochs, steps = super()._init_training_state(*args, **kwargs)
        if self.experience is None:
            return epochs, steps
        self.experience.begin()
        there = of_first(checkpoint.steps_of(Path(str(self.args.output_dir))))
        self._saved = [step for step in there if step <= self.state.global_step]  # none unless a run goes on
        return epochs, 0  # steps to skip: the loader begins where the run goes on

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        try:
            found = super().get_batch_samples(epoch_iterator, num_batches, device)
        except Collapse:
            self.control.should_training_stop = True
            return [], None
        if self.experience is not None:
            refresh(cast(Any, self.lr_scheduler))  # the policy may be about to begin
        return found

    # ---- collapse --------------------------------------------------------------------------------------------------

    def collapsed(self, suspicion: Suspicion) -> None:
        """Say that the policy seems to exploit its reward model, keep it as it is, and do as `collapse_action` says.

        Raises:
            Collapse: training is to stop.
        """
        logger.warning("%s", suspicion.message)
        limit = suspicion.last_good * cast(Experience, self.experience).loader.steps
        there = of_first(checkpoint.steps_of(Path(str(self.args.output_dir))))
        good = max((step for step in self._saved if step in there and step <= limit), default=None)
        self._kept = None if good is None else f"checkpoint-{good}"
        if self.state.global_step not in self._saved:
            self._save_checkpoint(self.model_wrapped, None)
        action = self.objective.collapse_action  # type: ignore[attr-defined]
        if action == "warn":
            return
        if action == "restore":
            self._go_back()
        logger.warning("training stops here; to go on all the same, resume with collapse_action='warn'")
        self._collapsed = True
        raise Collapse

    def _go_back(self) -> None:
        """Take the weights of the last good checkpoint of this run."""
        if self._kept is None:
            return logger.warning("there is no earlier checkpoint to go back to, and the policy stays as it is")
        logger.warning("going back to %s", self._kept)
        skipped = self.guard.skipped
        self._load_from_checkpoint(str(Path(str(self.args.output_dir)) / self._kept))
        self.guard.skipped = skipped

    def _load_best_model(self) -> None:
        """After a collapse nothing counts as best that the reward model has chosen."""
        if not self._collapsed:
            super()._load_best_model()

    # ---- what a run is ---------------------------------------------------------------------------------------------

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        alone = getattr(self.objective, "critic_pretrain_steps", 0)
        if alone and self.args.ddp_find_unused_parameters is None:
            self.args.ddp_find_unused_parameters = True  # the policy's, while the critic learns alone
        return super()._build_accelerator_args(**kwargs)

    def _run(self) -> dict[str, Any]:
        """With what judges the responses, of which a checkpoint's data is made."""
        return super()._run() | ({"scorer": self._scored_by} if self.objective.on_policy else {})  # type: ignore[misc]

    # ---- between rollouts ------------------------------------------------------------------------------------------

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.experience is not None:
            self._wait(self.experience.loader)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _wait(self, loader: Any) -> None:
        """Put off saving and evaluating to the end of the rollout."""
        control, step = self.control, self.state.global_step
        self.state.epoch = step * self.args.gradient_accumulation_steps / len(loader)  # Trainer counts from a resume
        save, evaluate = self._waiting
        due = (save or control.should_save, evaluate or control.should_evaluate)
        ended = step % loader.steps == 0
        kept = ended and not self._collapsed  # what was there at the collapse is saved already
        control.should_save, control.should_evaluate = due if kept else (False, False)
        self._waiting = (False, False) if ended else due

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.experience is not None:
            self._saved.append(self.state.global_step)
            self.experience.draw()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if SUMMANDS[0] in logs:
            logs |= derived(logs)
            for name in SUMMANDS:
                logs.pop(name, None)
        super().log(logs, start_time)

    def _judged(self, found: Judged) -> dict[str, float]:
        """With how far the policy has gone from the reference, and the reward less what that and unfinished ones cost.

        The KL's weight is kl_coef, whether it adapts or not: so policies of one run can be compared.
        """
        metrics, settings = super()._judged(found), cast(Any, self.objective)
        if not self.objective.on_policy:
            return metrics
        ratios = log_ratios(self, found.samples)
        kl = sum(ratios) / len(ratios)
        paid = settings.kl_coef * kl + (settings.missing_eos_penalty or 0.0) * metrics["unfinished"]
        return metrics | {KL: kl, REWARD: metrics[REWARD] - paid}
