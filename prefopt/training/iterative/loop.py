"""Sample, score, select, train, evaluate, and again: the loop of methods whose rows the policy makes.

    run.json                        what the run was started with
    pool/                           every candidate and its scores (`candidates/pool.py`)
    temperatures-000/               the search before an iteration, if one was asked for
    iteration-000/selection.jsonl   the rows that are trained on
    iteration-000/report.json       what was sampled and selected, and what the policy is worth on held-out prompts
    iteration-000/policy/           the policy, once it is trained: whole or absent
    rewards.png                     rewards against the number of responses, for every iteration

An iteration trains on `selection.jsonl` as any run on rows does, in a trainer of its own with a new optimizer and
schedule. To go on with a run is to do it all again: what is on disk is not done twice.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers.trainer_utils import TrainOutput

from ...candidates.dataset_answers import DatasetAnswers
from ...candidates.generate import Origin, generate_into
from ...candidates.pool import Pool
from ...candidates.report import Report, best_iteration, report_of, summary_of
from ...candidates.selection import by_prompt, left_out, rows_for
from ...candidates.temperature_search import search_temperatures
from ...data.records import DataError, Messages
from ...generation.prompts import EncodedPrompts, encode_prompts
from ...generation.samplers import Folder, Sampler, version_of
from ...models.reference import policy_fingerprint
from ...models.weights import Snapshot, restore, snapshot
from ...objectives.engine_arguments import EngineArguments
from ...objectives.sampling_arguments import IterationArguments
from ...scoring.scorer import Scorer
from ...utils.distributed import on_first
from ...utils.fingerprint import fingerprint_of_values
from ...utils.signals import listener
from .. import checkpoint
from ..config import PreferenceConfig
from ..content import deciding_rows, settings_of
from ..identity import FORMAT
from ..metrics import encoding_counts, encoding_metrics
from .run_folder import Row, RunFolder

logger = logging.getLogger(__name__)

FREE = ("iterations", "sampling_batch_size", *(field.name for field in fields(EngineArguments)))
"""Settings that may change when a run goes on: how far it goes, what memory there is, and where an engine is."""
FEWEST = 0.1
"""Of the prompts, those with a response to select: less is the few questions that have short answers."""


@dataclass(frozen=True)
class Training:
    """What the loop needs of whoever trains the policy; it knows no trainer.

    Args:
        train: rows, the iteration's number, its folder and a checkpoint to go on from -> what came of training on them.
        evaluate: metrics of the policy on held-out prompts; none where they are not asked for.
        save: the policy, to a folder.
        load: the policy, from a folder.
        folder: brings a folder with the policy as it is, to be sampled from.
    """

    train: Callable[[Dataset, int, Path, str | None], TrainOutput]
    evaluate: Callable[[], dict[str, float]]
    save: Callable[[str], None]
    load: Callable[[str], None]
    folder: Folder


@dataclass
class IterationLoop:
    """A run of iterations of one policy.

    Args:
        training: trains, evaluates, saves and loads the policy.
        policy: the model, the same object all along.
        sampler: who samples from it.
        settings: the objective, which says how responses are generated, how often and what is selected.
        args: where the run is written, and how it trains.
        rows: rows of text, which bring the prompts.
        held_out: held-out rows of text, or several parts of them, to search temperatures on.
    """

    training: Training
    policy: Any
    tokenizer: Any
    scorer: Scorer
    sampler: Sampler
    settings: IterationArguments
    args: PreferenceConfig
    rows: Iterable[Any]
    held_out: Any = None
    loss: float = field(default=math.nan, init=False)
    """Of the last training that this process did."""
    prompts: EncodedPrompts = field(init=False)
    """Each distinct one of the rows, encoded once for all iterations."""

    def __post_init__(self) -> None:
        self.objective: Any = self.settings
        self.folder = RunFolder(str(self.args.output_dir))
        self.pool = Pool(self.folder.folder / "pool")
        self.dataset = DatasetAnswers(self.rows)
        again = self.settings.init == "base" and self.settings.iterations > 1
        self.base: Snapshot | None = snapshot(self.policy) if again else None

    def run(self, resume: bool) -> TrainOutput:
        """All iterations that are not done; after it the policy is the last one's, or the best.

        Raises:
            ValueError: the folder holds a run, and not to go on with or not this one; a prompt that cannot be answered;
                or nothing can be selected.
        """
        began = time.monotonic()
        for number in range(self._begin(resume), self.settings.iterations):
            version = version_of(self.policy, self.tokenizer, self.sampler)
            with listener().at_once():
                self.sample(number, version)
                self.score()
            rows, report = self.select(number)
            trained = self.train(number, rows)
            counts = encoding_counts(trained.metrics)
            self.evaluate({"policy": version, **report, "steps": trained.global_step, "encoding": counts})
        return self._result(time.monotonic() - began)

    # ---- one iteration ---------------------------------------------------------------------------------------------

    def sample(self, number: int, version: str) -> None:
        """Responses of the policy to the iteration's prompts, and the dataset's own if asked for, into the pool."""
        prompts = self.prompts.at(self.dataset.numbers_of(number, self.settings.prompts_per_iteration, self.args.seed))
        with self.sampler.serving(self.policy, self.training.folder) as policy:
            temperature = self._temperature(policy, number, version)
            origin = Origin(version, self.args.seed, iteration=number, temperature=temperature)
            generate_into(self.pool, policy, self.tokenizer, prompts, self.settings, origin, progress=self._shows)
        if self.settings.dataset_responses:
            answers = self.dataset.candidates(prompts, number, self.settings.responses_per_prompt)
            on_first(lambda: self.pool.append(answers))

    def score(self) -> None:
        """Whatever of the pool this scorer has not scored."""
        self.pool.score(self.scorer)

    def select(self, number: int) -> tuple[list[Row], Report]:
        """The rows to train on, which are on disk, and what they were selected from."""
        # An iteration that is done again, for want of its policy, knows nothing of those that came after it.
        scored = (row for row in self.pool.scored(self.scorer) if row.candidate.iteration <= number)
        groups = by_prompt(scored, prior_top_n=self.settings.prior_top_n)
        rows = rows_for(self.objective.offline.responses, groups, self.settings.score_threshold)
        left = left_out(candidate for candidate in self.pool.candidates() if candidate.iteration <= number)
        if len(groups) < FEWEST * left["prompts"] or not rows:
            raise DataError(self._too_few(number, len(rows), left))
        on_first(partial(self.folder.keep_rows, number, rows))
        return rows, {**report_of(self.pool, self.scorer, number, groups), "rows": len(rows), "left_out": left}

    def train(self, number: int, rows: list[Row]) -> TrainOutput:
        """A run on these rows from the base model, or from the last policy; or what a kill left of it."""
        if self.base is not None:
            restore(self.policy, self.base)
        left = self.folder.newest_checkpoint(number)
        read = [{name: value for name, value in row.items() if name != "score"} for row in rows]  # of the one answer
        trained = self.training.train(Dataset.from_list(read), number, self.folder.place(number), left)
        self.loss = trained.training_loss
        return trained

    def evaluate(self, report: Report) -> None:
        """Measure the policy and put it on disk; with that the iteration is done."""
        number = report["iteration"]
        metrics = self.training.evaluate()
        report["evaluation"] = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        on_first(partial(self.folder.keep_report, report))
        staged = Path(f"{self.folder.policy(number)}{checkpoint.STAGING}")
        self.training.save(str(staged))
        on_first(partial(self.folder.publish, number, staged))
        logger.info("%s, loss %.3g", summary_of(report), self.loss)

    # ---- before and after ------------------------------------------------------------------------------------------

    def _begin(self, resume: bool) -> int:
        """Claim the folder, after what can be checked before anything is sampled; how many iterations are done."""
        new = self.settings.max_new_tokens
        self.prompts = encode_prompts(self.dataset.prompts, self.tokenizer, self.policy, new)
        self._warn_of_cuts([length + new for length in self.prompts.lengths])
        if self.settings.temperatures:
            self._held_out_prompts()
        changes = self.args.resume_with_changes or ()
        on_first(partial(checkpoint.begin, self.folder.folder, self._description(), resume, changes))
        done = on_first(partial(self.folder.done, self.settings.iterations))
        if done:
            logger.info("going on after iteration %d of %d", done, self.settings.iterations)
            self._load(done - 1)
        return done

    def _warn_of_cuts(self, lengths: list[int]) -> None:
        limit = self.args.max_length
        cut = sum(limit is not None and length > limit for length in lengths)
        if cut:
            logger.warning(
                "%d of %d prompts with a response may exceed max_length=%d: responses are sampled to the whole prompt "
                "and trained on with a shorter one; raise max_length to train on what was sampled",
                cut,
                len(lengths),
                limit,
            )

    def _description(self) -> dict[str, Any]:
        """What must be the same to go on."""
        sampled = {name: value for name, value in asdict(self.settings).items() if name not in FREE}
        policy = {"policy": policy_fingerprint(self.policy, self.tokenizer), "seed": self.args.seed}
        policy |= {"engine": self.sampler.identity(self.policy)}
        answers = self.dataset.answers if self.settings.dataset_responses else list(self.dataset.answers)
        rows = {"distinct prompts": len(self.dataset.prompts), "prompts": fingerprint_of_values(answers)}
        held_out = deciding_rows(self.args, self.held_out, lambda rows: rows)
        if self.settings.temperatures:
            held_out["held-out prompts"] = fingerprint_of_values(self._held_out_prompts())
        return {
            **settings_of(self.args),
            **held_out,
            "format": FORMAT,
            "objective": type(self.settings).__name__,
            **sampled,
            **policy,
            **rows,
            "scorer": self.scorer.fingerprint,
        }

    def _load(self, number: int) -> None:
        self.training.load(str(self.folder.policy(number)))

    @property
    def _shows(self) -> bool:
        return not self.args.disable_tqdm

    def _temperature(self, policy: Any, number: int, version: str) -> float | None:
        """The best of those to search, None for the settings' own."""
        if not self.settings.temperatures:
            return None
        return search_temperatures(
            policy,
            self.tokenizer,
            self._held_out_prompts(),
            self.scorer,
            self.settings,
            temperatures=self.settings.temperatures,
            folder=self.folder.folder / f"temperatures-{number:03d}",
            version=version,
            seed=self.args.seed,
            halving=self.settings.search_budget is not None,
            budget=self.settings.search_budget,
            progress=self._shows,
        ).best

    def _held_out_prompts(self) -> list[Messages]:
        """The evaluation prompts, each once."""
        if self.held_out is None:
            raise ValueError("temperatures are searched on held-out prompts: pass an eval_dataset to the trainer")
        parts = self.held_out.values() if isinstance(self.held_out, dict) else [self.held_out]
        return DatasetAnswers(row for part in parts for row in part).prompts

    def _too_few(self, number: int, rows: int, left: Mapping[str, int]) -> str:
        wanted = "two that differ" if self.objective.offline.responses != 1 else "one"
        least = self.settings.score_threshold
        found = "no row" if not rows else f"only {rows} row{'s' * (rows > 1)}"
        return (
            f"iteration {number}: {found} to train on from {left['candidates']} candidates, to {left['prompts']} "
            f"prompts, of which {left['cut']} were cut off at max_new_tokens={self.settings.max_new_tokens} and "
            f"{left['blank']} say nothing: a prompt needs {wanted}"
            + ("" if least is None else f", the best with a score of at least score_threshold={least}")
            + f", and a policy is not trained on less than {FEWEST:.0%} of the prompts: raise max_new_tokens, or start "
            "from a policy that ends its responses"
        )

    def _result(self, seconds: float) -> TrainOutput:
        reports = self.folder.reports(self.settings.iterations)
        if self.args.load_best_model_at_end:
            self._load(best_iteration(reports, self.args.metric_for_best_model, self.args.greater_is_better))
        steps = sum(report["steps"] for report in reports)
        known = {} if math.isnan(self.loss) else {"train_loss": self.loss}  # nothing was left to train
        counts = sum((Counter(report.get("encoding", {})) for report in reports), Counter[str]())
        return TrainOutput(steps, self.loss, {"train_runtime": seconds, **known, **encoding_metrics(counts)})
