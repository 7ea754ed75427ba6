"""Rollouts of a run: drawn, judged, measured by every model, rewarded, and recorded. Knows no loss and no optimizer.

    rollouts.jsonl   what each rollout came to (`rollout/trace.py`)
    rollouts.png     the same, drawn

Every process draws its share of a rollout's prompts; then all of them hold the whole rollout.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...batch import Batch, join
from ...candidates.diversity import degenerate, distinct
from ...data.collate import Rows, collate
from ...data.records import Messages
from ...generation.stopping import Sample
from ...models.forward import forward
from ...models.modes import training, without_dropout
from ...objectives.base import Metric
from ...objectives.ppo_losses import derived
from ...objectives.sampling_arguments import PLAIN
from ...scoring.scorer import Scorer
from ...utils.distributed import gathered, on_first, rank, world_size
from ...utils.shuffle import turns
from ...utils.tensors import masked_sum, wide
from .collapse import Suspicion, suspicion
from .loader import RolloutLoader
from .log import FILE, Example, Record, Trace
from .plot import draw_trace
from .rollout import as_batch, rollout

if TYPE_CHECKING:
    from .trainer import OnPolicy

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
MEASURED = frozenset({"logps", "values"})
SHOWN = 4
"""Responses of a rollout that its record holds."""
APART = 1 << 32
"""Sets the order of demonstrations apart from that of prompts."""


class Experience:
    """What a trainer's policy learns from: its own responses, as it gives them at the time.

    Args:
        trainer: its model is the policy all along.
        prompts: each distinct one of the dataset.
        demonstrations: encoded rows, one to go with each prompt of a rollout; None where the objective mixes none in.
    """

    def __init__(self, trainer: OnPolicy, scorer: Scorer, prompts: Sequence[Messages], demonstrations: Any = None):
        self.trainer, self.scorer, self.prompts = trainer, scorer, prompts
        self.demonstrations = None if demonstrations is None else Rows(demonstrations)
        self.objective: Any = trainer.objective
        self.tokenizer: Any = trainer.processing_class
        self.trace = Trace(Path(str(trainer.args.output_dir)) / FILE)
        self.records: list[Record] = []
        """Of all rollouts so far, in the process that writes them."""
        self.suspicion: Suspicion | None = None
        self._warned = False
        args, settings = trainer.args, cast(Any, trainer.objective)
        self.loader = RolloutLoader(
            self.make,
            prompts=len(prompts),
            done=lambda: trainer.state.global_step,
            epochs=settings.num_ppo_epochs,
            mini_batches=settings.num_mini_batches,
            micro_batch=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            seed=args.seed,
            rank=rank(),
            world_size=world_size(),
        )

    def begin(self) -> None:
        """Forget what a killed run recorded of the rollouts that are about to be made.

        Raises:
            ValueError: the run is to go on within a rollout.
        """
        on_first(self._begin)
        settings = self.objective
        if settings.temperature != 1 or settings.shape != PLAIN:
            logger.warning(
                "responses are drawn at temperature %g with %s, and log-probs are the policy's own: their KL to the "
                "reference is no estimate of the policy's, and may be negative",
                settings.temperature,
                ", ".join(f"{name}={value:g}" for name, value in settings.shape.items()),
            )

    def _begin(self) -> None:
        self.trace.begin(self.loader.first)
        self.records = self.trace.read()

    def make(self, number: int) -> list[Batch]:
        """All rows of a rollout, and the demonstrations that go with them; the objective's state is then the next.

        Raises:
            ScoreError: the scorer did not give one finite number per response.
            ValueError: a log-prob or value that is not finite.
        """
        batch, samples = self._drawn(number)
        batch, state, metrics = self._rewarded(batch)
        self._record(number, batch, samples, metrics)
        self._judge()
        self.trainer.objective_state = state
        return [batch, *self._mixed_in(number, batch)]

    # ---- responses -------------------------------------------------------------------------------------------------

    def _drawn(self, number: int) -> tuple[Batch, list[list[Sample]]]:
        """The responses to a rollout's prompts, each in its place, with what every model says of them."""
        size, seed = self.loader.size, self.trainer.args.seed
        places = range(number * size, (number + 1) * size)[rank() :: world_size()]
        index = turns(places, len(self.prompts), seed)
        mine = rollout(
            self.trainer.model,
            self.tokenizer,
            [self.prompts[each] for each in index],
            self.scorer,
            self.objective,
            seed=seed,
            keys=places,
            index=index,
        )
        return _in_turn(measured(self.trainer, mine.batch, MEASURED), mine.samples, self.trainer.args.device)

    def _mixed_in(self, number: int, batch: Batch) -> list[Batch]:
        """As many demonstrations as the rollout has prompts, none while only the critic learns."""
        rows, size = self.demonstrations, self.loader.size
        if rows is None or "frozen_policy" in batch:
            return []
        chosen = turns(range(number * size, (number + 1) * size), len(rows), self.trainer.args.seed + APART)
        found = collate([rows[each] for each in chosen])
        return [found.with_columns(ptx=torch.ones(size, dtype=torch.bool)).to(self.trainer.args.device)]

    # ---- rewards ---------------------------------------------------------------------------------------------------

    def _rewarded(self, batch: Batch) -> tuple[Batch, State, dict[str, float]]:
        """The rollout with advantages and returns, the state in which it is learnt from, and what it came to."""
        objective, state = self.objective, self.trainer.objective_state
        if state["policy_start"] < 0:
            batch = batch.with_columns(frozen_policy=batch.index)
        state = objective.update(objective.observe_rollout(batch), state)
        batch = batch.with_columns(**objective.experience(batch, state))
        found = objective.rollout_metrics(batch, state)
        self.trainer.meter.add(found)
        metrics = _means(found)
        metrics |= derived(metrics)
        if not batch.finished.any():
            self._warn_of_cuts()
        progress = self.trainer.state
        explained = metrics["val/explained_variance"]
        state = objective.begun(state, explained, progress.global_step, progress.max_steps)
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

    # ---- records ---------------------------------------------------------------------------------------------------

    def _record(
        self, number: int, batch: Batch, samples: Sequence[Sequence[Sample]], metrics: Mapping[str, float]
    ) -> None:
        texts = [one.text for row in samples for one in row]
        said = {f"distinct_{n}": distinct(texts, n) for n in (1, 2)}
        said["degenerate"] = sum(map(degenerate, texts)) / len(texts)
        said["critic_alone"] = float("frozen_policy" in batch)
        shown = [self._example(batch, samples, row) for row in range(min(SHOWN, len(samples)))]
        step, scores = self.trainer.state.global_step, batch.score[batch.present].tolist()
        record = Record(number, step, {**metrics, **said}, scores, shown)
        on_first(partial(self._add, record))

    def _add(self, record: Record) -> None:
        self.trace.add(record)
        self.records.append(record)

    def _example(self, batch: Batch, samples: Sequence[Sequence[Sample]], row: int) -> Example:
        prompt, one = self.prompts[int(batch.index[row])], samples[row][0]
        score = float(batch.score[row, 0])
        return Example(prompt=prompt[-1]["content"], response=one.text, score=score, finished=one.finished)

    def _judge(self) -> None:
        """Tell the trainer when a collapse shows for the first time."""
        if self.suspicion is None:
            self.suspicion = on_first(lambda: suspicion(self.records))
            if self.suspicion is not None:
                self.trainer.collapsed(self.suspicion)

    def draw(self) -> None:
        """Draw what is recorded so far."""
        found = self.suspicion
        if rank() == 0:
            draw_trace(self.records, self.trace.path.with_suffix(".png"), last_good=found.last_good if found else None)


def measured(trainer: OnPolicy, batch: Batch, outputs: frozenset[str]) -> Batch:
    """The batch with what policy and critic (`old_logps`, `old_values`) and the reference say of it now."""
    size = trainer.args.per_device_eval_batch_size
    rows = torch.arange(len(batch.index)).split(size)
    return join([_measured(trainer, batch.rows(some).trimmed(), outputs) for some in rows])


@torch.no_grad()
def _measured(trainer: OnPolicy, batch: Batch, outputs: frozenset[str]) -> Batch:
    model = trainer.model_wrapped
    # Quantised layers compute differently in the two modes, and ratios compare with training's.
    with training(model), without_dropout(model), trainer.accelerator.autocast():
        batch = trainer.annotated(batch)
        out = forward(model, batch, outputs)
    return batch.with_columns(**{f"old_{name}": out.required(name) for name in outputs})


def log_ratios(trainer: OnPolicy, samples: Sequence[Sample]) -> list[float]:
    """log pi - log pi_ref of responses that the policy has drawn, whose mean estimates KL(pi || pi_ref) in nats.

    Processes share the responses, each as many, since all of them have to run the model equally often.
    """
    each, last = -(-len(samples) // world_size()), len(samples) - 1
    mine = [min(rank() + world_size() * turn, last) for turn in range(each)]
    batch = measured(trainer, as_batch([[samples[number]] for number in mine], mine), frozenset({"logps"}))
    ratios = masked_sum(wide(batch.old_logps) - wide(batch.ref_logps), batch.loss_mask)[:, 0].tolist()
    found = {number: ratio for part in gathered(list(zip(mine, ratios, strict=True))) for number, ratio in part}
    return [found[number] for number in range(len(samples))]


def _in_turn(batch: Batch, samples: list[list[Sample]], device: torch.device) -> tuple[Batch, list[list[Sample]]]:
    """What the processes have of a rollout, all of it in each of them: they had its places in turn."""
    batches, lists = zip(*gathered((batch.to(torch.device("cpu")), samples)), strict=True)
    whole = join(batches)
    order = torch.arange(len(whole.index)).view(len(batches), -1).T.flatten()
    ordered = [one for turn in zip(*lists, strict=True) for one in turn]
    return whole.rows(order).to(device), ordered


def _means(metrics: Mapping[str, Metric]) -> dict[str, float]:
    return {name: float(metric.total / metric.count.clamp(min=1)) for name, metric in metrics.items()}
