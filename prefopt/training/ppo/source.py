"""The trainer's side of PPO: what is checked before, what is logged of each rollout, and what a collapse leads to.

    rollouts.jsonl   what each rollout came to (`log.py`); a checkpoint carries those before it
    rollouts.png     the same as a picture: once a minute with a checkpoint, and at the end

The loop itself is in `loop.py`. Saving and evaluating wait for the end of a rollout, so that nothing of a rollout has
to be kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

from transformers.trainer_utils import TrainOutput

from ...candidates.dataset_answers import DatasetAnswers
from ...candidates.evaluate import METRICS, REWARD, Evaluated
from ...generation.prompts import EncodedPrompts, encode_prompts
from ...objectives.ppo_losses import derived_metrics
from ...objectives.sampling_arguments import PLAIN
from ...scoring.scorer import Scorer
from ...utils.distributed import of_first, on_first, rank, world_size
from ...utils.signals import Interrupted, listener
from .. import checkpoint
from ..content import rows_hash
from ..generating import GeneratingSource
from ..interruption import asked_by_any
from ..schedule import schedule_of
from ..source import Host, Train
from .collapse import Alarm, alarm_of
from .collect import RolloutCollector
from .log import FILE, Record, RolloutLog
from .loop import RolloutLoop
from .minibatches import Minibatches
from .plot import plot_rollouts
from .rollout import Rollout, log_ratios
from .two_models import refresh

logger = logging.getLogger(__name__)

SUMMANDS = ("nll/policy", "nll/reference", "val/squared_returns", "val/squared_error")
"""Means of which other metrics are made."""
KL = "objective/kl"
BETWEEN_PICTURES = 60.0
"""Seconds: a picture takes one, and a small policy is saved more often than people look."""


class RolloutSource(GeneratingSource):
    """Rollouts of the policy as it is when their first step asks for them.

    Args:
        demonstrations: encoded rows to mix in; None where the objective mixes none in.
    """

    metrics = (*METRICS, KL)

    def __init__(self, host: Host, scorer: Scorer, demonstrations: Any = None):
        super().__init__(host, scorer)
        self.demonstrations = demonstrations
        self.path = Path(str(host.args.output_dir)) / FILE
        self.rollout_log = RolloutLog(self.path)
        self.records: list[Record] = []
        """Of all rollouts so far, in the process that writes them."""
        self.alarm: Alarm | None = None
        self.loop: RolloutLoop | None = None
        """Of the training that goes on, or was the last."""
        self._resumed_from: Path | None = None
        self._waiting = (False, False)
        """Whether a checkpoint and an evaluation are due at the end of this rollout."""
        self._saved: list[int] = []
        """Steps of this run's checkpoints."""
        self._collapsed = False
        self._scored_by = ""
        """The scorer's fingerprint."""
        self._plotted = 0.0
        """When there was last a picture, or the training began; seconds of `time.monotonic`."""

    # ---- a training ------------------------------------------------------------------------------------------------

    def train(self, train: Train, resume_from: Any) -> TrainOutput:
        """As Trainer's, on rollouts.

        Raises:
            ValueError: what cannot be trained on rollouts, a prompt that leaves no room for a response, or a number of
                steps that ends within a rollout.
        """
        self.check_training()
        self.loop = self._new_loop()
        self._check_steps(self.loop)
        self.alarm = None
        self.host.step.state = self.host.step.initial_state()  # a checkpoint brings its own
        self._waiting, self._saved, self._collapsed = (False, False), [], False
        self._plotted = time.monotonic()
        self._scored_by = self.scorer.fingerprint  # a reward model of its size is read to make it
        try:
            result = train(resume_from)
        except Interrupted:
            self._plot()
            raise
        self._plot()
        return result

    def check_training(self) -> None:
        super().check_training()
        if self.host.args.max_tokens_per_batch is not None:
            raise ValueError("max_tokens_per_batch is for rows that are there: set per_device_train_batch_size")

    def _new_loop(self) -> RolloutLoop:
        host, settings = self.host, self.objective
        prompts = self._encoded(DatasetAnswers(host.train_dataset).prompts)
        minibatches = Minibatches(
            prompts=len(prompts),
            done=lambda: host.state.global_step,
            epochs=settings.num_ppo_epochs,
            mini_batches=settings.num_mini_batches,
            micro_batch=host.args.per_device_train_batch_size,
            accumulation=host.args.gradient_accumulation_steps,
            seed=host.args.seed,
            rank=rank(),
            world_size=world_size(),
        )
        collector = RolloutCollector(
            host.step,
            host.model,
            host.processing_class,
            self.scorer,
            prompts,
            minibatches.size,
            host.args.seed,
            host.args.per_device_eval_batch_size,
            self.demonstrations,
        )

        def collect(number: int) -> Rollout:
            return collector.collect(number, host.model_wrapped, host.state.global_step, host.state.max_steps)

        return RolloutLoop(minibatches, lambda number: self._unless_interrupted(partial(collect, number)), self._log)

    def _unless_interrupted(self, collect: Callable[[], Rollout]) -> Rollout:
        """A rollout; on a signal none, and a checkpoint of the step before it, to which nothing is lost."""
        try:
            with listener().at_once(world_size() == 1):  # ranks would wait for one that is gone
                rollout = collect()
            listener().check(asked_by_any(self.host.accelerator))
        except Interrupted:
            if self.host.state.global_step not in (0, *self._saved):
                self.host.save_checkpoint()
            raise
        return rollout

    def _encoded(self, prompts: Any) -> EncodedPrompts:
        """The prompts with their ids; a warning if one with its response is longer than rows may be."""
        host, new = self.host, self.objective.max_new_tokens
        encoded = encode_prompts(prompts, host.processing_class, host.model, new)
        longest, limit = max(encoded.lengths) + new, host.args.max_length
        if limit is not None and longest > limit:
            logger.warning(
                "a prompt with a response may have %d tokens: max_length=%d cuts rows that are there, and nothing of "
                "what is generated; leave long prompts out, or lower max_new_tokens, to save memory",
                longest,
                limit,
            )
        return encoded

    def _check_steps(self, loop: RolloutLoop) -> None:
        args, per_rollout = self.host.args, loop.minibatches.steps
        passes = len(loop) // args.gradient_accumulation_steps
        steps = args.max_steps if args.max_steps > 0 else -(-args.num_train_epochs * passes // 1)
        if steps % per_rollout:
            name = "max_steps" if args.max_steps > 0 else "num_train_epochs"
            near = int(steps // per_rollout) * per_rollout
            raise ValueError(
                f"{name}={getattr(args, name)} ends within a rollout, from which {per_rollout} steps are learnt: take "
                f"max_steps={near or per_rollout} or {near + per_rollout}"
            )
        wanted, alone = self.objective.critic_pretrain_steps, self.objective.critic_alone(steps)
        self._check_rate(int(steps), int(steps) - alone)
        if alone < wanted:
            logger.warning(
                "critic_pretrain_steps=%d is more than half of %d steps: the critic learns alone in %d of them "
                "at most, whole rollouts of %d steps, and the policy in %d at least",
                *(wanted, steps, alone, per_rollout, steps - alone),
            )

    def _check_rate(self, steps: int, learning: int) -> None:
        """Refuse a run whose policy would be what it was, as the few steps that it learns in only begin to warm up."""
        args = self.host.args
        rate = schedule_of(args, learning, args.learning_rate)
        if args.learning_rate and rate is not None and not any(rate(step) > 0 for step in range(learning)):
            raise ValueError(
                f"the policy may learn in only {learning} of {steps} steps, in which warmup_steps="
                f"{args.warmup_steps:g} leaves its learning rate at 0: set warmup_steps=0, critic_pretrain_steps=0, or "
                "train for more steps"
            )

    def train_loader(self) -> Any:
        return self.loop

    def resumes(self, checkpoint: Path | None) -> None:
        self._resumed_from = checkpoint

    def begun(self, batches_to_skip: int) -> int:
        """Forget what a killed run recorded of the rollouts that are about to be made; no batch is skipped for them."""
        on_first(self._begin_log)
        settings = self.objective
        if settings.temperature != 1 or settings.shape != PLAIN:
            logger.warning(
                "responses are sampled at temperature %g with %s, and log-probs are the policy's own: their KL to the "
                "reference is no estimate of the policy's, and may be negative",
                settings.temperature,
                ", ".join(f"{name}={value:g}" for name, value in settings.shape.items()),
            )
        self._saved = [step for step in self._steps_on_disk() if step <= self.host.state.global_step]
        return 0  # the loop begins where the run goes on

    def _begin_log(self) -> None:
        assert self.loop is not None
        self.rollout_log.begin(self.loop.minibatches.first, self._resumed_from)
        self.records = self.rollout_log.read()

    # ---- a rollout -------------------------------------------------------------------------------------------------

    def _log(self, rollout: Rollout) -> bool:
        """Write a rollout down, look for a collapse, and take its state; whether training goes on."""
        step = self.host.step
        step.metrics.add(rollout.metrics)
        on_first(partial(self._record, rollout.record))
        if self.alarm is None:
            self.alarm = on_first(lambda: alarm_of(self.records))
            if self.alarm is not None and not self._goes_on_after(self.alarm):
                self.host.control.should_training_stop = True
                return False
        step.state = rollout.state
        refresh(self.host.lr_scheduler)  # the policy may be about to begin
        return True

    def _record(self, record: Record) -> None:
        self.rollout_log.add(record)
        self.records.append(record)

    def _goes_on_after(self, alarm: Alarm) -> bool:
        """Say that the policy seems to exploit its reward model, keep it as it is, and do as `collapse_action` says."""
        assert self.loop is not None
        logger.warning("%s", alarm.message)
        limit = alarm.last_good * self.loop.minibatches.steps
        on_disk = self._steps_on_disk()
        good = max((step for step in self._saved if step in on_disk and step <= limit), default=None)
        good_name = None if good is None else f"checkpoint-{good}"
        self.host.keep_checkpoint(good_name)
        if self.host.state.global_step not in self._saved:
            self.host.save_checkpoint()
        if self.objective.collapse_action == "warn":
            return True
        if self.objective.collapse_action == "restore":
            self._go_back(good_name)
        logger.warning("training stops here; to go on all the same, resume with collapse_action='warn'")
        self._collapsed = True
        return False

    def _go_back(self, name: str | None) -> None:
        """Take the weights of the last good checkpoint of this run."""
        if name is None:
            return logger.warning("there is no earlier checkpoint to go back to, and the policy stays as it is")
        logger.warning("going back to %s", name)
        guard = self.host.step.guard
        skipped = guard.skipped
        self.host.load_checkpoint(name)
        guard.skipped = skipped

    @property
    def trusts_best(self) -> bool:  # type: ignore[override]
        """After a collapse nothing counts as best that the reward model has chosen."""
        return not self._collapsed

    # ---- between rollouts ------------------------------------------------------------------------------------------

    def before_saving(self) -> None:
        """Put off saving and evaluating to the end of the rollout."""
        assert self.loop is not None
        control, state = self.host.control, self.host.state
        # Trainer counts the epochs from where the run was resumed.
        state.epoch = state.global_step * self.host.args.gradient_accumulation_steps / len(self.loop)
        save, evaluate = self._waiting
        due = (save or control.should_save, evaluate or control.should_evaluate)
        ended = state.global_step % self.loop.minibatches.steps == 0
        kept = ended and not self._collapsed  # what was there at the collapse is saved already
        control.should_save, control.should_evaluate = due if kept else (False, False)
        self._waiting = (False, False) if ended else due

    def save(self, checkpoint: Path) -> None:
        if rank() == 0:
            self.rollout_log.keep(checkpoint)

    def saved(self) -> None:
        self._saved.append(self.host.state.global_step)
        if time.monotonic() - self._plotted > BETWEEN_PICTURES:
            self._plot()

    def _steps_on_disk(self) -> list[int]:
        return of_first(checkpoint.steps_of(self.path.parent))

    def _plot(self) -> None:
        """Of what is recorded so far."""
        last_good = self.alarm.last_good if self.alarm else None
        if rank() == 0:
            plot_rollouts(self.records, self.path.with_suffix(".png"), last_good=last_good)
        self._plotted = time.monotonic()

    # ---- what is told ----------------------------------------------------------------------------------------------

    def complete(self, logs: MutableMapping[str, float]) -> None:
        if SUMMANDS[0] in logs:
            logs.update(derived_metrics(logs))
            for name in SUMMANDS:
                logs.pop(name, None)

    def description(self) -> dict[str, Any]:
        """What scores the responses, of which a checkpoint's data is made, and what is mixed in."""
        return {"scorer": self._scored_by, "demonstrations": rows_hash(self.demonstrations)}

    def metrics_of(self, evaluated: Evaluated) -> dict[str, float]:
        """With how far the policy has gone from the reference, and the reward less what that and cut responses cost.

        The KL's weight is kl_coef, whether it adapts or not: so policies of one run can be compared.
        """
        metrics, settings, host = super().metrics_of(evaluated), self.objective, self.host
        size = host.args.per_device_eval_batch_size
        ratios = log_ratios(host.step, host.model_wrapped, evaluated.samples, size)
        kl = sum(ratios) / len(ratios)
        paid = settings.kl_coef * kl + (settings.missing_eos_penalty or 0.0) * metrics["unfinished"]
        return metrics | {KL: kl, REWARD: metrics[REWARD] - paid}
