"""The part of a trainer for methods that draw their rows from the policy. Knows no loss and no sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from transformers import Trainer

from .config import PreferenceConfig
from .iterations import Iterations
from .objectives.base import Objective
from .rollout.given import prompts_of
from .rollout.judge import judge
from .rollout.score import Scorer, scorer_from
from .sampling import IterationArguments


def scorer_for(objective: Objective, scorer: Any) -> Scorer | None:
    """The scorer that an objective draws with, None where it trains on the rows as they are.

    Raises:
        ValueError: it needs one that is missing, or has no use for the one that is given.
    """
    name = type(objective).__name__
    if scorer is None:
        if "scorer" in objective.needs:
            raise ValueError(
                f"{name} draws responses and has none to judge them: pass scorer=, a reward model (path, hub id or "
                "model) or a function of (prompts, responses)"
            )
        return None
    if not isinstance(objective, IterationArguments):
        raise ValueError(f"{name} draws no responses: leave scorer out, or take rejection-sampling or rrhf")
    return scorer_from(scorer)


class Drawing(Trainer):
    """Trains in iterations on drawn responses, where there is a scorer; else as the trainer does without it."""

    args: PreferenceConfig
    model: Any
    train_dataset: Any  # rows of text where there is a scorer
    eval_dataset: Any  # the same, or a dict of them
    objective: Objective
    scorer: Scorer | None
    _prepare: Callable[[Any], Any]
    _offline: Callable[..., Trainer]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; `True` resumes from the newest complete checkpoint, or goes on with the run in `output_dir`.

        Raises:
            ValueError: what is there belongs to another run.
        """
        if self.scorer is None:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset: pass one to the trainer")
        if isinstance(resume_from_checkpoint, str):
            raise ValueError(
                f"resume_from_checkpoint={resume_from_checkpoint!r}: iterations go on in their output_dir, pass True"
            )
        return Iterations(self, cast(IterationArguments, self.objective), self.scorer).run(
            resume=bool(resume_from_checkpoint)
        )

    def offline(self, rows: Any, args: PreferenceConfig) -> Trainer:
        """A trainer of this model on rows that are there, with an optimizer and a schedule of its own."""
        return self._offline(args=args, train_dataset=rows, processing_class=self.processing_class)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Sums over rows; with a scorer, means over drawn responses, one to each prompt of the rows."""
        if self.scorer is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        rows = self.eval_dataset if eval_dataset is None else self._prepare(eval_dataset)
        if isinstance(rows, dict):
            parts = [self.evaluate(part, None, f"{metric_key_prefix}_{name}") for name, part in rows.items()]
            return {name: value for part in parts for name, value in part.items()}
        settings, tokenizer = cast(IterationArguments, self.objective), cast(Any, self.processing_class)
        found = judge(self.model, tokenizer, prompts_of(rows), self.scorer, settings, self.args.seed)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.metrics().items()}
        self.log(metrics)
        return metrics
