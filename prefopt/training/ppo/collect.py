"""Collects a rollout: responses are sampled, scored, measured by every model, and rewarded. Changes nothing.

Every process samples its share of a rollout's prompts; then all of them hold the whole rollout.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...batch import Batch, join
from ...candidates.diversity import degenerate, distinct
from ...data.collate import Rows, collate
from ...generation.prompts import EncodedPrompts
from ...generation.stopping import Sample
from ...objectives.base import Metric
from ...objectives.ppo_losses import derived_metrics
from ...scoring.scorer import Scorer
from ...utils.distributed import gathered, or_all_stop, rank, world_size
from ...utils.shuffle import shuffled
from ..step import State, StepRunner
from .log import Example, Record
from .rollout import Rollout, measured, sample_and_score

logger = logging.getLogger(__name__)

MEASURED = frozenset({"logps", "values"})
SHOWN = 4
"""Responses of a rollout that its record holds."""
APART = 1 << 32
"""Sets the order of demonstrations apart from that of prompts."""


@dataclass
class RolloutCollector:
    """What the policy learns from: its own responses, as it gives them at the time.

    Args:
        step: runs the models; its state is the objective's before the rollout.
        policy: without what a trainer wraps around it.
        prompts: each distinct one of the dataset.
        size: prompts of a rollout.
        seed: of the order of prompts and of what is sampled.
        measured_at_once: prompts of a batch where no gradient is computed.
        demonstrations: encoded rows, one to go with each prompt of a rollout; None where the objective mixes none in.
    """

    step: StepRunner
    policy: nn.Module
    tokenizer: Any
    scorer: Scorer
    prompts: EncodedPrompts
    size: int
    seed: int
    measured_at_once: int
    demonstrations: Any = None

    def __post_init__(self) -> None:
        self.objective: Any = self.step.objective
        self.device = self.step.accelerator.device
        self._rows = None if self.demonstrations is None else Rows(self.demonstrations)
        self._warned = False

    def collect(self, number: int, model: nn.Module, global_step: int, max_steps: int) -> Rollout:
        """Rollout `number` of the policy as it is now.

        Args:
            model: the policy, with its critic, as the trainer wraps it.
            global_step, max_steps: optimizer steps done, and in all.

        Raises:
            ScoreError: the scorer did not give one finite number per response.
            ValueError: a log-prob or value that is not finite, or a prompt that leaves no room for a response.
        """
        batch, samples = self._sampled(number, model)
        batch, state, metrics = self._rewarded(batch, global_step, max_steps)
        record = Record(number, global_step, *self._description(batch, samples, metrics))
        return Rollout([batch, *self._mixed_in(number, batch)], state, metrics, record)

    # ---- responses -------------------------------------------------------------------------------------------------

    def _sampled(self, number: int, model: nn.Module) -> tuple[Batch, list[list[Sample]]]:
        """The responses to a rollout's prompts, each in its place, with what every model says of them."""
        places = range(number * self.size, (number + 1) * self.size)[rank() :: world_size()]
        index = shuffled(places, len(self.prompts), self.seed)
        batch, samples = or_all_stop(
            lambda: sample_and_score(
                self.policy,
                self.tokenizer,
                self.prompts.at(index),
                self.scorer,
                self.objective,
                seed=self.seed,
                keys=places,
                index=index,
            )
        )
        batch = measured(self.step, model, batch, MEASURED, self.measured_at_once)
        return _in_turn(batch, samples, self.device)

    def _mixed_in(self, number: int, batch: Batch) -> list[Batch]:
        """As many demonstrations as the rollout has prompts, none while only the critic learns."""
        if self._rows is None or "frozen_policy" in batch:
            return []
        places = range(number * self.size, (number + 1) * self.size)
        demonstrations = collate([self._rows[row] for row in shuffled(places, len(self._rows), self.seed + APART)])
        return [demonstrations.with_columns(ptx=torch.ones(self.size, dtype=torch.bool)).to(self.device)]

    # ---- rewards ---------------------------------------------------------------------------------------------------

    def _rewarded(self, batch: Batch, global_step: int, max_steps: int) -> tuple[Batch, State, Mapping[str, Metric]]:
        """The rollout with advantages and returns, the state in which it is learnt from, and sums over it."""
        objective, state = self.objective, self.step.state
        if state["policy_start"] < 0:
            batch = batch.with_columns(frozen_policy=batch.index)
        state = objective.update_state(objective.rollout_statistics(batch), state)
        batch = batch.with_columns(**objective.compute_advantages(batch, state))
        metrics = objective.rollout_metrics(batch, state)
        if not batch.finished.any():
            self._warn_of_cuts()
        state = objective.start_policy(state, means(metrics)["val/explained_variance"], global_step, max_steps)
        if state["policy_start"] >= 0:
            batch = Batch({name: column for name, column in batch.items() if name != "frozen_policy"})
        return batch, state, metrics

    def _warn_of_cuts(self) -> None:
        if not self._warned:
            logger.warning(
                "none of the responses ended by itself within max_new_tokens=%d: raise it, or let each cost something "
                "by missing_eos_penalty; a policy that never stops has often not learnt its stop token",
                self.objective.max_new_tokens,
            )
        self._warned = True

    # ---- the record ------------------------------------------------------------------------------------------------

    def _description(
        self, batch: Batch, samples: Sequence[Sequence[Sample]], metrics: Mapping[str, Metric]
    ) -> tuple[dict[str, float], list[float], list[Example]]:
        """Means over the rollout, the score of every response, and a few responses."""
        texts = [response.text for row in samples for response in row]
        text_metrics = {f"distinct_{n}": distinct(texts, n) for n in (1, 2)}
        text_metrics["degenerate"] = sum(map(degenerate, texts)) / len(texts)
        text_metrics["critic_alone"] = float("frozen_policy" in batch)
        shown = [self._example(batch, samples, row) for row in range(min(SHOWN, len(samples)))]
        return {**means(metrics), **text_metrics}, batch.score[batch.present].tolist(), shown

    def _example(self, batch: Batch, samples: Sequence[Sequence[Sample]], row: int) -> Example:
        prompt, response = self.prompts[int(batch.index[row])], samples[row][0]
        score = float(batch.score[row, 0])
        return Example(prompt=prompt[-1]["content"], response=response.text, score=score, finished=response.finished)


def means(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Of sums over a rollout, and what follows from them."""
    values = {name: float(metric.total / metric.count.clamp(min=1)) for name, metric in metrics.items()}
    return values | derived_metrics(values)


def _in_turn(batch: Batch, samples: list[list[Sample]], device: torch.device) -> tuple[Batch, list[list[Sample]]]:
    """What the processes have of a rollout, all of it in each of them: they had its places in turn."""
    batches, lists = zip(*gathered((batch.to(torch.device("cpu")), samples)), strict=True)
    whole = join(batches)
    order = torch.arange(len(whole.index)).view(len(batches), -1).T.flatten()
    ordered = [row for turn in zip(*lists, strict=True) for row in turn]
    return whole.rows(order).to(device), ordered
