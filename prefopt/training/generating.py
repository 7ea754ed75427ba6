"""What all methods share whose responses the policy generates: prompts in, and evaluation by generating too."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..candidates.dataset_answers import prompts_of
from ..candidates.evaluate import METRICS, REWARD, Evaluated, evaluate_policy
from ..generation.samplers import sampler_from
from ..models.sharding import shard
from ..objectives.base import Objective
from ..objectives.sampling_arguments import IterationArguments
from ..scoring.scorer import Scorer
from ..utils.distributed import on_first, rank
from .config import PreferenceConfig
from .launch import check_sampling
from .source import Evaluate, Host, Source

TO_SAMPLE = "policy-to-sample"
"""The folder of a run that holds the policy while an engine samples from it."""


def check_unscored(objective: Objective) -> None:
    """Refuse settings of generating where there is no scorer to generate for."""
    if not isinstance(objective, IterationArguments) or "scorer" in objective.needs:
        return
    plain: Any = type(objective)()
    names = [field.name for field in fields(IterationArguments)]
    for name in (name for name in names if getattr(objective, name) != getattr(plain, name)):
        setting = f"{name}={getattr(objective, name)!r}"
        raise ValueError(f"{setting} means nothing without a scorer, for which responses are generated: pass one")


def check_generating(args: PreferenceConfig, compute_metrics: Any, optimizers: Any, optimizer_cls: Any) -> None:
    """Refuse, where responses are generated, what would have no effect or another than was meant."""
    passed = {
        "optimizers": any(optimizer is not None for optimizer in optimizers),
        "optimizer_cls_and_kwargs": optimizer_cls is not None,
        "compute_metrics": compute_metrics is not None,
    }
    for name in (name for name, there in passed.items() if there):
        raise ValueError(
            f"{name} cannot be used with a scorer: optimizers are made for each iteration and model, and scores are "
            "the metrics"
        )
    if args.push_to_hub:
        raise ValueError(
            "push_to_hub would publish the responses that were generated with the model: leave it off, and call "
            "trainer.model.push_to_hub after training"
        )


class GeneratingSource(Source):
    """Prompts, to which the policy generates the rows.

    Args:
        scorer: what the responses are worth.
    """

    metrics: tuple[str, ...] = METRICS
    """What evaluation tells, beside standard errors."""

    def __init__(self, host: Host, scorer: Scorer):
        super().__init__(host)
        self.scorer = scorer
        self.objective: Any = host.step.objective
        self.sampler = sampler_from(self.objective)
        self.sampler.check(host.model, trains=True)
        check_sampling(host, self.objective)
        shard(host.model, host.accelerator, trains=True)  # before it trains for the first time, it generates

    def evaluate(self, evaluate: Evaluate, dataset: Any, ignore_keys: Any, prefix: str) -> dict[str, float]:
        """Means over generated responses, one to each prompt of the rows."""
        host = self.host
        if isinstance(dataset, str) and isinstance(host.eval_dataset, dict):
            rows = host.eval_dataset[dataset]
        else:
            rows = host.eval_dataset if dataset is None else host.prepare_rows(dataset)
        if isinstance(rows, dict):
            parts = [host.evaluate(part, metric_key_prefix=f"{prefix}_{name}") for name, part in rows.items()]
            return {name: value for part in parts for name, value in part.items()}
        with self.sampler.serving(host.model, self.policy_folder) as policy:
            evaluated = evaluate_policy(
                policy, host.processing_class, prompts_of(rows), self.scorer, self.objective, host.args.seed
            )
        metrics = {f"{prefix}_{name}": value for name, value in self.metrics_of(evaluated).items()}
        host.log(metrics)
        host.control = host.callback_handler.on_evaluate(host.args, host.state, host.control, metrics)
        return metrics

    @contextmanager
    def policy_folder(self) -> Iterator[str]:
        """A folder with the policy as it is, for an engine that loads it from there."""
        folder = Path(str(self.host.args.output_dir)) / TO_SAMPLE
        self.host.save_policy(str(folder))
        on_first(lambda: None)  # by then it is whole, for the other processes too
        try:
            yield str(folder)
        finally:
            if rank() == 0:
                shutil.rmtree(folder, ignore_errors=True)

    def metrics_of(self, evaluated: Evaluated) -> dict[str, float]:
        """What evaluation tells of responses to held-out prompts."""
        return evaluated.metrics()

    def predict(self, predict: Callable[..., Any], dataset: Any, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("a trainer with a scorer generates: use evaluate, or prefopt.best_of_n for texts")

    def check_training(self) -> None:
        """What can be known before anything is generated.

        Raises:
            ValueError: there are no rows, or none to compare policies on.
        """
        if self.host.train_dataset is None:
            raise ValueError("training needs a train_dataset: pass one to the trainer")
        if self.host.args.load_best_model_at_end:
            self._check_best(self.host.args)

    def _check_best(self, args: PreferenceConfig) -> None:
        held_out = self.host.eval_dataset
        if held_out is None:
            raise ValueError("load_best_model_at_end compares policies on held-out prompts: pass an eval_dataset")
        parts = [f"{name}_" for name in held_out] if isinstance(held_out, dict) else [""]
        known = [f"{part}{metric}" for part in parts for metric in self.metrics]
        wanted = (args.metric_for_best_model or "loss").removeprefix("eval_")
        if wanted not in known and (wanted != "loss" or parts != [""]):
            raise ValueError(f"metric_for_best_model={wanted!r}: generated responses give {', '.join(known)}")
        if wanted == "loss":  # what transformers takes where nothing is said
            args.metric_for_best_model, args.greater_is_better = REWARD, True
