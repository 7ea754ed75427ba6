"""The part of a trainer for methods that draw their rows from the policy. Knows no loss and no sampling."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from torch.distributed.fsdp import FSDPModule
from transformers import (
    DefaultFlowCallback,
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
)
from transformers.integrations import get_reporting_integration_callbacks

from ...candidates.dataset_answers import prompts_of
from ...candidates.evaluate import METRICS, REWARD, Judged, judge
from ...objectives.base import Objective
from ...objectives.sampling_arguments import IterationArguments
from ...scoring.scorer import Scorer
from ..config import PreferenceConfig
from .loop import Iterations


def check_unscored(objective: Objective) -> None:
    """Refuse settings of drawing where there is no scorer to draw for."""
    if not isinstance(objective, IterationArguments) or "scorer" in objective.needs:
        return
    plain: Any = type(objective)()
    names = [each.name for each in fields(IterationArguments)]
    for name in (name for name in names if getattr(objective, name) != getattr(plain, name)):
        given = f"{name}={getattr(objective, name)!r}"
        raise ValueError(f"{given} means nothing without a scorer, by which responses are drawn: pass one")


def check_drawing(scorer: Scorer | None, args: PreferenceConfig, compute_metrics: Any, optimizers: Any) -> None:
    """Refuse, where responses are drawn, what would have no effect or another than was meant."""
    if scorer is None:
        return
    given = {"optimizers": any(each is not None for each in optimizers), "compute_metrics": compute_metrics is not None}
    for name in (name for name, there in given.items() if there):
        raise ValueError(
            f"{name} cannot be used with a scorer: optimizers are made for each iteration and model, and scores are "
            "the metrics"
        )
    if args.push_to_hub:
        raise ValueError(
            "push_to_hub would publish the responses that were drawn with the model: leave it off, and call "
            "trainer.model.push_to_hub after training"
        )


class Drawing(Trainer):
    """Trains in iterations on drawn responses, where there is a scorer; else as the trainer does without it."""

    args: PreferenceConfig
    model: Any
    train_dataset: Any  # rows of text where there is a scorer
    eval_dataset: Any  # the same, or a dict of them
    objective: Objective
    scorer: Scorer | None
    fresh: Callable[..., Trainer]
    """A trainer of this model by the offline objective."""
    _prepare: Callable[[Any], Any]
    evaluated: tuple[str, ...] = METRICS
    """What evaluation tells, beside standard errors."""
    _iterations: Iterations | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; `True` resumes from the newest complete checkpoint, or goes on with the run in `output_dir`.

        Raises:
            ValueError: what is there belongs to another run.
        """
        if self.scorer is None or self.objective.on_policy:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        self._check_run(resume_from_checkpoint)
        self._iterations = Iterations(self, cast(IterationArguments, self.objective), self.scorer)
        return self._iterations.run(resume=bool(resume_from_checkpoint))

    def _check_run(self, resume_from_checkpoint: Any) -> None:
        """What can be known before anything is drawn."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset: pass one to the trainer")
        if isinstance(resume_from_checkpoint, str):
            raise ValueError(
                f"resume_from_checkpoint={resume_from_checkpoint!r}: iterations go on in their output_dir, pass True"
            )
        if self._iterations is not None:
            raise ValueError("this trainer's model has been trained: build a new trainer to go on, or for a new run")
        if self.is_fsdp_enabled or any(isinstance(module, FSDPModule) for module in self.model.modules()):
            raise ValueError("the policy's weights are sharded, and ranks draw on their own: load it without FSDP")
        if any(isinstance(each, EarlyStoppingCallback) for each in self.callback_handler.callbacks):
            raise ValueError("EarlyStoppingCallback watches evaluations between steps, and iterations have none")
        self._check_best()

    def _check_best(self) -> None:
        if not self.args.load_best_model_at_end:
            return
        if self.eval_dataset is None:
            raise ValueError("load_best_model_at_end compares policies on held-out prompts: pass an eval_dataset")
        parts = [f"{name}_" for name in self.eval_dataset] if isinstance(self.eval_dataset, dict) else [""]
        known = [f"{part}{metric}" for part in parts for metric in self.evaluated]
        wanted = (self.args.metric_for_best_model or "loss").removeprefix("eval_")
        if wanted not in known and (wanted != "loss" or parts != [""]):
            raise ValueError(f"metric_for_best_model={wanted!r}: drawn responses give {', '.join(known)}")
        if wanted == "loss":  # what transformers takes where nothing is said
            self.args.metric_for_best_model, self.args.greater_is_better = REWARD, True

    def offline(self, rows: Any, number: int, folder: Path) -> Trainer:
        """A trainer of this model on the rows of an iteration, with an optimizer and a schedule of its own."""
        args = copy.copy(self.args)
        args.output_dir, args.seed = str(folder), args.seed + number
        # These are about iterations, not about the steps of one.
        args.eval_strategy, args.load_best_model_at_end, args.eval_on_start = "no", False, False
        if args.run_name:
            args.run_name = f"{args.run_name}-iteration-{number}"
        return self.fresh(args=args, train_dataset=rows, callbacks=self._added_callbacks())

    def _added_callbacks(self) -> list[TrainerCallback]:
        """Those that the user passed or added: a trainer brings the others by itself."""
        own = (DefaultFlowCallback, PrinterCallback, ProgressCallback)
        own += tuple(get_reporting_integration_callbacks(self.args.report_to))
        return [each for each in self.callback_handler.callbacks if not isinstance(each, own)]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Sums over rows; with a scorer, means over drawn responses, one to each prompt of the rows."""
        if self.scorer is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if isinstance(eval_dataset, str) and isinstance(self.eval_dataset, dict):
            rows = self.eval_dataset[eval_dataset]
        else:
            rows = self.eval_dataset if eval_dataset is None else self._prepare(eval_dataset)
        if isinstance(rows, dict):
            parts = [self.evaluate(part, None, f"{metric_key_prefix}_{name}") for name, part in rows.items()]
            return {name: value for part in parts for name, value in part.items()}
        settings, tokenizer = cast(Any, self.objective), cast(Any, self.processing_class)
        found = judge(self.model, tokenizer, prompts_of(rows), self.scorer, settings, self.args.seed)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._judged(found).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _judged(self, found: Judged) -> dict[str, float]:
        """What evaluation tells of responses to held-out prompts."""
        return found.metrics()

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, on rows; a trainer that draws has no rows to predict."""
        if self.scorer is not None:
            raise ValueError("a trainer with a scorer draws responses: use evaluate, or prefopt.best_of_n for texts")
        return super().predict(test_dataset, *args, **kwargs)
