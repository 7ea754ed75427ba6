"""Draw, score, select, train, and again: methods whose rows the policy makes. Knows no loss and no scorer's inside.

    run.json                        what the run was started with
    pool/                           every candidate and its scores (`rollout/pool.py`)
    temperatures-000/               the search before an iteration, if one was asked for
    iteration-000/selection.jsonl   the rows that are trained on
    iteration-000/report.json       what was drawn and selected, and what the policy is worth on held-out prompts
    iteration-000/policy/           the policy, once it is trained: whole or absent
    rewards.png                     rewards against the number of responses, for every iteration

An iteration trains on `selection.jsonl` as any offline run does, in a trainer of its own with a new optimizer and
schedule. To go on with a run is to do it all again: what is on disk is not done twice.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers.trainer_utils import TrainOutput

from ...candidates.dataset_answers import Given
from ...candidates.generate import Draw, fill
from ...candidates.pool import Pool
from ...candidates.report import Report, best_iteration, report_of, summary_of
from ...candidates.selection import by_prompt, rows_for
from ...candidates.temperature_search import search
from ...data.records import DataError, Messages
from ...generation.prompts import encoded
from ...models.reference import version_of
from ...models.weights import Snapshot, restore, snapshot
from ...objectives.sampling_arguments import IterationArguments
from ...scoring.scorer import Scorer
from ...utils.distributed import on_first
from ...utils.fingerprint import digest
from .. import checkpoint
from .run_folder import Row, RunFolder

if TYPE_CHECKING:
    from .trainer import Drawing

logger = logging.getLogger(__name__)

FREE = ("iterations", "sampling_batch_size")
"""Settings that may change when a run goes on: how far it goes, and what memory there is."""
RECIPE = ("learning_rate", "num_train_epochs", "max_steps", "lr_scheduler_type", "warmup_steps", "optim", "max_length")
"""Arguments of training that may not: all iterations train alike."""


class Iterations:
    """A run of iterations for a trainer whose objective draws: the trainer's model is the policy all along."""

    def __init__(self, trainer: Drawing, settings: IterationArguments, scorer: Scorer):
        self.trainer, self.model, self.settings, self.scorer = trainer, trainer.model, settings, scorer
        self.tokenizer: Any = trainer.processing_class
        self.folder = RunFolder(str(trainer.args.output_dir))
        self.pool = Pool(self.folder.folder / "pool")
        self.given = Given(trainer.train_dataset)
        again = settings.init == "base" and settings.iterations > 1
        self.base: Snapshot | None = snapshot(self.model) if again else None
        self.loss = math.nan  # of the last training that this process did

    def run(self, resume: bool) -> TrainOutput:
        """All iterations that are not done; after it the trainer's model is the last one's policy, or the best.

        Raises:
            ValueError: the folder holds a run, and not to go on with or not this one; a prompt that cannot be answered;
                or nothing can be selected.
        """
        began = time.monotonic()
        self._begin(resume)
        done = on_first(partial(self.folder.done, self.settings.iterations))
        if done:
            logger.info("going on after iteration %d of %d", done, self.settings.iterations)
            self._load(done - 1)
        for number in range(done, self.settings.iterations):
            self._iterate(number)
        return self._result(time.monotonic() - began)

    def _begin(self, resume: bool) -> None:
        """Claim the folder, after what can be checked before anything is drawn."""
        prompts = encoded(self.given.prompts, self.tokenizer, self.model, self.settings.max_new_tokens)
        self._warn_of_cuts([len(ids) + self.settings.max_new_tokens for ids in prompts])
        if self.settings.temperatures:
            self._held_out()
        on_first(partial(checkpoint.begin, self.folder.folder, self._description(), resume))

    def _warn_of_cuts(self, lengths: list[int]) -> None:
        limit = self.trainer.args.max_length
        cut = sum(limit is not None and length > limit for length in lengths)
        if cut:
            logger.warning(
                "%d of %d prompts with a response may exceed max_length=%d: responses are drawn to the whole prompt "
                "and trained on with a shorter one; raise max_length to train on what was drawn",
                cut,
                len(lengths),
                limit,
            )

    def _description(self) -> dict[str, Any]:
        """What must be the same to go on."""
        args, drawn = self.trainer.args, {k: v for k, v in asdict(self.settings).items() if k not in FREE}
        policy = {"policy": version_of(self.model, self.tokenizer), "seed": args.seed}
        answers = self.given.answers if self.settings.dataset_responses else list(self.given.answers)
        rows = {"distinct prompts": len(self.given.prompts), "prompts": digest(answers)}
        return {"objective": type(self.settings).__name__, **drawn, **policy, **rows} | {
            name: str(getattr(args, name)) for name in RECIPE
        }

    def _load(self, number: int) -> None:
        self.trainer._load_from_checkpoint(str(self.folder.policy(number)))

    # ---- one iteration ---------------------------------------------------------------------------------------------

    def _iterate(self, number: int) -> None:
        version = version_of(self.model, self.tokenizer)
        draw = Draw(version, self.trainer.args.seed, iteration=number, temperature=self._temperature(number, version))
        prompts = self.given.turn(number, self.settings.prompts_per_iteration, self.trainer.args.seed)
        fill(self.pool, self.model, self.tokenizer, prompts, self.settings, draw, progress=self._shows)
        if self.settings.dataset_responses:
            given = self.given.candidates(prompts, number, self.settings.responses_per_prompt)
            on_first(lambda: self.pool.append(given))
        self.pool.score(self.scorer)
        rows, report = self._selected(number)
        if self.base is not None:
            restore(self.model, self.base)
        trained = self._train(number, rows)
        self._finish({"policy": version, **report, "steps": trained.global_step})

    @property
    def _shows(self) -> bool:
        return not self.trainer.args.disable_tqdm

    def _temperature(self, number: int, version: str) -> float | None:
        """The best of those to search, None for the settings' own."""
        if not self.settings.temperatures:
            return None
        found = search(
            self.model,
            self.tokenizer,
            self._held_out(),
            self.scorer,
            self.settings,
            temperatures=self.settings.temperatures,
            folder=self.folder.folder / f"temperatures-{number:03d}",
            version=version,
            seed=self.trainer.args.seed,
            halving=self.settings.search_budget is not None,
            budget=self.settings.search_budget,
            progress=self._shows,
        )
        return found.best

    def _held_out(self) -> list[Messages]:
        """The evaluation prompts, each once."""
        rows = self.trainer.eval_dataset
        if rows is None:
            raise ValueError("temperatures are searched on held-out prompts: pass an eval_dataset to the trainer")
        parts = rows.values() if isinstance(rows, dict) else [rows]
        return Given(row for part in parts for row in part).prompts

    def _selected(self, number: int) -> tuple[list[Row], Report]:
        """The rows to train on, which are on disk, and what they were selected from."""
        groups = by_prompt(self.pool.scored(self.scorer), prior_top_n=self.settings.prior_top_n)
        rows = rows_for(self.trainer.objective.offline.responses, groups, self.settings.score_threshold)
        if not rows:
            raise DataError(self._nothing(number))
        on_first(partial(self.folder.keep_rows, number, rows))
        return rows, {**report_of(self.pool, self.scorer, number, groups), "rows": len(rows)}

    def _nothing(self, number: int) -> str:
        drawn = list(self.pool.candidates())
        cut, blank = sum(not one.finished for one in drawn), sum(not one.response.strip() for one in drawn)
        wanted = "two that differ" if self.trainer.objective.offline.responses != 1 else "one"
        least = self.settings.score_threshold
        return (
            f"iteration {number}: no row to train on from {len(drawn)} candidates, of which {cut} were cut off at "
            f"max_new_tokens={self.settings.max_new_tokens} and {blank} say nothing: a prompt needs {wanted}"
            + ("" if least is None else f", the best with a score of at least score_threshold={least}")
        )

    def _train(self, number: int, rows: list[Row]) -> TrainOutput:
        """A fresh offline run on the trainer's own model, or what a kill left of it."""
        trainer = self.trainer.offline(Dataset.from_list(rows), number, self.folder.place(number))
        trained = trainer.train(resume_from_checkpoint=self.folder.newest_checkpoint(number))
        trainer.save_state()
        self.loss = trained.training_loss
        self.trainer.state.global_step += trained.global_step
        return trained

    def _finish(self, report: Report) -> None:
        """Measure the policy and put it on disk; with that the iteration is done."""
        trainer, number = self.trainer, report["iteration"]
        wanted = trainer.eval_dataset is not None and trainer.args.eval_strategy != "no"
        evaluated = trainer.evaluate() if wanted else {}
        report["evaluation"] = {name.removeprefix("eval_"): value for name, value in evaluated.items()}
        on_first(partial(self.folder.keep_report, report))
        staged = Path(f"{self.folder.policy(number)}{checkpoint.STAGING}")
        trainer.save_model(str(staged), _internal_call=True)
        on_first(partial(self.folder.publish, number, staged))
        logger.info("%s, loss %.3g", summary_of(report), self.loss)

    def _result(self, seconds: float) -> TrainOutput:
        args, reports = self.trainer.args, self.folder.reports(self.settings.iterations)
        if args.load_best_model_at_end:
            self._load(best_iteration(reports, args.metric_for_best_model, args.greater_is_better))
        self.trainer.state.global_step = sum(report["steps"] for report in reports)
        known = {} if math.isnan(self.loss) else {"train_loss": self.loss}  # nothing was left to train
        return TrainOutput(self.trainer.state.global_step, self.loss, {"train_runtime": seconds, **known})
