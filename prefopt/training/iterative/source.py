"""The trainer's side of iterations: what is checked before, and how one trains on its rows. The loop is `loop.py`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

from transformers import DefaultFlowCallback, EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import TrainOutput

from ..generating import GeneratingSource
from ..interruption import iterations_done
from ..source import Train
from .loop import IterationLoop, Training


class IterationSource(GeneratingSource):
    """Rows that are selected, in iterations, from what the policy has generated."""

    loop: IterationLoop | None = None
    """Of the training that goes on, or was the last."""

    def train(self, train: Train, resume_from: Any) -> TrainOutput:
        """All iterations; `True` goes on with the run in `output_dir`.

        Raises:
            ValueError: what is there belongs to another run.
        """
        self._check_run(resume_from)
        host = self.host
        training = Training(self._train_on, self._evaluation, host.save_policy, host.load_policy, self.policy_folder)
        self.loop = IterationLoop(
            training,
            host.model,
            host.processing_class,
            self.scorer,
            self.sampler,
            self.objective,
            host.args,
            host.train_dataset,
            host.eval_dataset,
        )
        result = self.loop.run(resume=bool(resume_from))
        host.state.global_step = result.global_step
        return result

    def standing(self) -> str:
        return iterations_done(str(self.host.args.output_dir), self.objective.iterations)

    def _check_run(self, resume_from: Any) -> None:
        """What can be known before anything is generated."""
        host = self.host
        if isinstance(resume_from, str):
            raise ValueError(f"resume_from_checkpoint={resume_from!r}: iterations go on in their output_dir, pass True")
        if self.loop is not None:
            raise ValueError("this trainer's model has been trained: build a new trainer to go on, or for a new run")
        self.check_training()
        if any(isinstance(callback, EarlyStoppingCallback) for callback in host.callback_handler.callbacks):
            raise ValueError("EarlyStoppingCallback watches evaluations between steps, and iterations have none")

    def _train_on(self, rows: Any, number: int, folder: Path, resume_from: str | None) -> TrainOutput:
        """A run on the rows of an iteration, with an optimizer and a schedule of its own."""
        args = copy.copy(self.host.args)
        args.output_dir, args.seed, args.overwrite_output_dir = str(folder), args.seed + number, False
        # These are about iterations, not about the steps of one.
        args.eval_strategy, args.load_best_model_at_end, args.eval_on_start = "no", False, False
        if args.run_name:
            args.run_name = f"{args.run_name}-iteration-{number}"
        trainer = self.host.trainer_on(rows, args, self._added_callbacks())
        trained = trainer.train(resume_from_checkpoint=resume_from)
        trainer.save_state()
        before = sum(report["steps"] for report in cast(IterationLoop, self.loop).folder.reports(number))
        self.host.state.global_step = before + trained.global_step
        return trained

    def _added_callbacks(self) -> list[TrainerCallback]:
        """Those that the user passed or added: a trainer brings the others by itself."""
        own = (DefaultFlowCallback, PrinterCallback, ProgressCallback)
        own += tuple(get_reporting_integration_callbacks(self.host.args.report_to))
        return [callback for callback in self.host.callback_handler.callbacks if not isinstance(callback, own)]

    def _evaluation(self) -> dict[str, float]:
        wanted = self.host.eval_dataset is not None and self.host.args.eval_strategy != "no"
        return self.host.evaluate() if wanted else {}
