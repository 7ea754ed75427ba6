"""Draw, score, select, train, and again: methods whose rows the policy makes. Knows no loss and no scorer's inside.

    run.json                        what the run was started with
    pool/                           every candidate and its scores (`rollout/pool.py`)
    temperatures-000/               the search before an iteration, if one was asked for
    iteration-000/selection.jsonl   the rows that are trained on
    iteration-000/report.json       what was drawn, selected and learnt
    iteration-000/policy/           the policy, once it is trained: whole or absent
    rewards.png                     rewards against the number of responses, for every iteration

An iteration trains on `selection.jsonl` as any offline run does, in a trainer of its own with a new optimizer and
schedule. To go on with a run is to do it all again: what is on disk is not done twice.
"""

from __future__ import annotations

import copy
import logging
import math
import random
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers.trainer_utils import TrainOutput

from . import checkpoint
from .data.records import DataError
from .models.reference import fingerprint
from .models.weights import Snapshot, restore, snapshot
from .rollout import jsonl
from .rollout.fill import Draw, fill
from .rollout.given import Given
from .rollout.identity import digest
from .rollout.pool import Pool
from .rollout.ranks import on_first
from .rollout.report import Report, best_iteration, report_of, summary_of, write_rewards
from .rollout.score import Messages, Scorer
from .rollout.selection import Group, by_prompt, rows_for, write_rows
from .rollout.temperature import search
from .sampling import IterationArguments

if TYPE_CHECKING:
    from .drawing import Drawing

logger = logging.getLogger(__name__)

Row = dict[str, Any]


class Iterations:
    """A run of iterations for a trainer whose objective draws: the trainer's model is the policy all along."""

    def __init__(self, trainer: Drawing, settings: IterationArguments, scorer: Scorer):
        self.trainer, self.model, self.settings, self.scorer = trainer, trainer.model, settings, scorer
        self.folder = Path(str(trainer.args.output_dir))
        self.pool = Pool(self.folder / "pool")
        self.given = Given(trainer.train_dataset)
        self.loss = math.nan  # of the last training that this process did

    def run(self, resume: bool) -> TrainOutput:
        """All iterations that are not done; after it the trainer's model is the last one's policy.

        Raises:
            ValueError: the folder holds a run, and not to go on with or not this one; or nothing can be selected.
        """
        began = time.monotonic()
        base = snapshot(self.model)
        description, whole = self._description(), self.settings.iterations
        on_first(partial(checkpoint.begin, self.folder, description, resume))
        done = on_first(lambda: next((number for number in range(whole) if not self._is_done(number)), whole))
        if done:
            logger.info("going on after iteration %d of %d", done, whole)
            self._load(done - 1)
        for number in range(done, whole):
            self._iterate(number, base)
        return self._result(time.monotonic() - began)

    def _description(self) -> dict[str, Any]:
        """What must be the same to go on. More iterations may be asked for."""
        drawn = {name: value for name, value in asdict(self.settings).items() if name != "iterations"}
        policy = {"policy": self._version(), "seed": self.trainer.args.seed}
        return {
            "objective": type(self.settings).__name__,
            **drawn,
            **policy,
            "prompts": digest(list(self.given.answers)),
        }

    def _version(self) -> str:
        return fingerprint(dict(self.model.named_parameters()), self.trainer.processing_class, ())

    def _place(self, number: int) -> Path:
        return self.folder / f"iteration-{number:03d}"

    def _is_done(self, number: int) -> bool:
        return checkpoint.problem_with(self._place(number) / "policy") is None

    def _load(self, number: int) -> None:
        self.trainer._load_from_checkpoint(str(self._place(number) / "policy"))

    # ---- one iteration ---------------------------------------------------------------------------------------------

    def _iterate(self, number: int, base: Snapshot) -> None:
        draw = self._draw(number)
        fill(self.pool, self.model, self._tokenizer, self._prompts(number), self.settings, draw, progress=self._shows)
        on_first(partial(self._judge, number))
        groups = by_prompt(self.pool.scored(self.scorer), prior_top_n=self.settings.prior_top_n)
        rows = self._selected(number, groups)
        if self.settings.init == "base":
            restore(self.model, base)
        trained = self._train(number, rows)
        self._finish(number, draw, groups, rows, trained)

    @property
    def _tokenizer(self) -> Any:
        return self.trainer.processing_class

    @property
    def _shows(self) -> bool:
        return not self.trainer.args.disable_tqdm

    def _draw(self, number: int) -> Draw:
        draw = Draw(self._version(), self.trainer.args.seed, iteration=number)
        if not self.settings.temperatures:
            return draw
        found = search(
            self.model,
            self._tokenizer,
            self._held_out(),
            self.scorer,
            self.settings,
            temperatures=self.settings.temperatures,
            folder=self.folder / f"temperatures-{number:03d}",
            version=draw.version,
            seed=draw.seed,
            halving=self.settings.search_budget is not None,
            budget=self.settings.search_budget,
            progress=self._shows,
        )
        return Draw(draw.version, draw.seed, iteration=number, temperature=found.best)

    def _held_out(self) -> list[Messages]:
        """The evaluation prompts, each once."""
        rows = self.trainer.eval_dataset
        if rows is None:
            raise ValueError("temperatures are searched on held-out prompts: pass an eval_dataset to the trainer")
        parts = rows.values() if isinstance(rows, dict) else [rows]
        return Given(row for part in parts for row in part).prompts

    def _prompts(self, number: int) -> list[Messages]:
        """Those of this iteration: all, or the next ones of a shuffle that begins anew when all had their turn."""
        prompts = self.given.prompts
        size = self.settings.prompts_per_iteration or len(prompts)
        if size >= len(prompts):
            return prompts
        places = range(number * size, (number + 1) * size)
        orders = {epoch: self._shuffled(epoch, len(prompts)) for epoch in {place // len(prompts) for place in places}}
        chosen = dict.fromkeys(orders[place // len(prompts)][place % len(prompts)] for place in places)
        return [prompts[each] for each in sorted(chosen)]

    def _shuffled(self, epoch: int, count: int) -> list[int]:
        order = list(range(count))
        random.Random(f"{self.trainer.args.seed} {epoch}").shuffle(order)
        return order

    def _judge(self, number: int) -> None:
        """Give every candidate its score; the dataset's own answers are candidates of every iteration."""
        if self.settings.dataset_responses:
            self.pool.append(self.given.candidates(self._prompts(number), number, self.settings.responses_per_prompt))
        self.pool.score(self.scorer)

    def _selected(self, number: int, groups: list[Group]) -> list[Row]:
        """The rows to train on, on disk."""
        rows = rows_for(self.trainer.objective.offline.responses, groups, self.settings.score_threshold)
        if not rows:
            raise DataError(self._nothing(number))
        on_first(partial(_keep, self._place(number) / "selection.jsonl", rows))
        return rows

    def _nothing(self, number: int) -> str:
        drawn = list(self.pool.candidates())
        cut, limit = sum(not one.finished for one in drawn), self.settings.max_new_tokens
        threshold = self.settings.score_threshold
        wanted = "" if threshold is None else f", and score_threshold={threshold} may leave out the others"
        return (
            f"iteration {number}: none of {len(drawn)} candidates gives a row to train on: {cut} were cut off at "
            f"max_new_tokens={limit}{wanted}"
        )

    def _train(self, number: int, rows: list[Row]) -> TrainOutput:
        """A fresh offline run on the trainer's own model, or what a kill left of it."""
        trainer = self.trainer.offline(Dataset.from_list(rows), self._arguments(number))
        try:
            return trainer.train(resume_from_checkpoint=str(checkpoint.newest(self._place(number))))
        except FileNotFoundError:
            return trainer.train()

    def _arguments(self, number: int) -> Any:
        args = copy.copy(self.trainer.args)
        args.output_dir, args.seed = str(self._place(number)), args.seed + number
        args.eval_strategy, args.load_best_model_at_end = "no", False  # which are about iterations, not about steps
        if args.run_name:
            args.run_name = f"{args.run_name}-iteration-{number}"
        return args

    # ---- what is left of it ----------------------------------------------------------------------------------------

    def _finish(self, number: int, draw: Draw, groups: list[Group], rows: list[Row], trained: TrainOutput) -> None:
        """Measure the policy and put it on disk; with that the iteration is done."""
        trainer = self.trainer
        evaluated = (
            trainer.evaluate() if trainer.eval_dataset is not None and trainer.args.eval_strategy != "no" else {}
        )
        report = {"iteration": number, "policy": draw.version, **report_of(self.pool, self.scorer, number, groups)}
        report |= {"rows": len(rows), "steps": trained.global_step}
        report["evaluation"] = {name.removeprefix("eval_"): value for name, value in evaluated.items()}
        on_first(partial(self._write, number, report))
        self._publish(number)
        self.loss = trained.training_loss
        logger.info("%s, loss %.3g", summary_of(report), self.loss)

    def _write(self, number: int, report: Report) -> None:
        jsonl.replace(self._place(number) / "report.json", [report])
        write_rewards(self.folder / "rewards.png", self._reports(number + 1))

    def _publish(self, number: int) -> None:
        final = self._place(number) / "policy"
        staged = final.with_name(f"policy{checkpoint.STAGING}")
        self.trainer.save_model(str(staged))
        on_first(partial(checkpoint.publish, staged, final, {"iteration": number}))

    def _reports(self, count: int) -> list[dict[str, Any]]:
        return [report for i in range(count) for report in jsonl.read(self._place(i) / "report.json")]

    def _result(self, seconds: float) -> TrainOutput:
        reports = self._reports(self.settings.iterations)
        if self.trainer.args.load_best_model_at_end:
            self._load(best_iteration(reports))
        self.trainer.state.global_step = sum(report["steps"] for report in reports)
        self.trainer.state.log_history += reports
        known = {} if math.isnan(self.loss) else {"train_loss": self.loss}  # nothing was left to train
        return TrainOutput(self.trainer.state.global_step, self.loss, {"train_runtime": seconds, **known})


def _keep(path: Path, rows: list[Row]) -> None:
    """Write the rows that an iteration trains on, or make sure that it goes on with the same."""
    if list(jsonl.read(path)) not in ([], rows):
        raise ValueError(
            f"{path} was selected from other candidates or scores, and this iteration may have trained on it: give "
            f"the scorer that it was selected by, or delete {path.parent} to train it again"
        )
    write_rows(path, rows)
