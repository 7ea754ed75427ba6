"""Where modules were before 0.2, for one release: an old path imports the module in its new place, with a warning.

The module is the same object under both names, so that what one of them changes the other sees. To be deleted, with its
line in `__init__.py`, in 0.3.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import MutableSequence, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

MOVED = {
    "arguments": "training.arguments",
    "checkpoint": "training.checkpoint",
    "compare.checks": "compare.statistics.checks",
    "compare.claims": "compare.statistics.claims",
    "compare.evaluation": "compare.measure",
    "compare.evaluation.asked": "compare.measure.row_results",
    "compare.evaluation.choices": "compare.measure.choices",
    "compare.evaluation.endpoint": "compare.measure.endpoint",
    "compare.evaluation.judges": "compare.measure.judges",
    "compare.evaluation.pairs": "compare.measure.pairs",
    "compare.evaluation.questions": "compare.measure.questions",
    "compare.evaluation.responses": "compare.measure.responses",
    "compare.evaluation.verdict": "compare.measure.judge_prompt",
    "compare.evaluation.versus": "compare.measure.pairwise_judges",
    "compare.experiment": "compare.run",
    "compare.experiment.collect": "compare.run.collected_results",
    "compare.experiment.cost": "compare.run.cost",
    "compare.experiment.grid": "compare.run.hyperparameter_grid",
    "compare.experiment.job": "compare.run.task_context",
    "compare.experiment.plan": "compare.plan.plan",
    "compare.experiment.progress": "tasks.progress",
    "compare.experiment.schedule": "tasks.schedule",
    "compare.experiment.sections": "compare.plan.sections",
    "compare.experiment.tasks": "compare.run.tasks",
    "compare.experiment.watch": "compare.run.validation_curve",
    "compare.experiment.ways": "compare.plan.method_spec",
    "compare.experiment.work": "compare.run.task_functions",
    "compare.experiment.worker": "tasks.worker",
    "compare.experiment.worlds": "compare.plan.dataset_sources",
    "compare.frontier": "compare.statistics.pareto_frontier",
    "compare.methods": "compare.statistics.methods",
    "compare.power": "compare.statistics.power_analysis",
    "compare.report.figures.answers": "compare.report.figures.responses",
    "compare.report.figures.plane": "compare.report.figures.reward_and_kl",
    "compare.report.figures.standing": "compare.report.figures.methods",
    "compare.report.numbers.whole": "compare.report.numbers.assemble",
    "compare.report.numerals": "compare.report.number_format",
    "compare.resampling": "compare.statistics.resampling",
    "compare.stats": "compare.statistics.paired_tests",
    "compare.wins": "compare.statistics.wins",
    "config": "training.config",
    "coupling": "training.cross_batch",
    "data.doctor": "data.check",
    "data.doctor_cli": "cli.data_check",
    "data.encoder": "data.row_encoder",
    "data.order": "data.batching",
    "data.readers": "data.reading",
    "data.specials": "data.special_tokens",
    "drawing": "training.iterative.source",
    "evaluation": "training.evaluation",
    "experience": "training.ppo.collect",
    "guard": "training.nonfinite",
    "iterations": "training.iterative.loop",
    "loading": "training.dataloaders",
    "meter": "training.metrics",
    "models.adapters": "models.peft_adapters",
    "models.beside": "models.auxiliary",
    "models.choice": "models.layout_selection",
    "models.logits": "models._logits",
    "models.recompute": "models._activation_checkpointing",
    "models.work": "models.flops",
    "models.wrapped": "models.wrappers",
    "objectives.actor_critic": "objectives.ppo_losses",
    "objectives.best_of": "objectives.sft",
    "on_policy": "training.ppo.source",
    "optimization": "training.ppo.two_models",
    "persistence": "training.checkpointing",
    "precompute": "training.reference_logps",
    "rollout.beam": "generation.beams",
    "rollout.best_of": "candidates.order_statistics",
    "rollout.best_of_n": "candidates.best_response",
    "rollout.candidate": "candidates.candidate",
    "rollout.collapse": "training.ppo.collapse",
    "rollout.combine": "scoring.combine",
    "rollout.comparison": "candidates.temperature_comparison",
    "rollout.decode": "generation._engine",
    "rollout.diversity": "candidates.diversity",
    "rollout.draw": "generation._token_sampling",
    "rollout.fill": "candidates.generate",
    "rollout.folder": "training.iterative.run_folder",
    "rollout.given": "candidates.dataset_answers",
    "rollout.groups": "generation._beam_groups",
    "rollout.held": "generation._kv_cache",
    "rollout.identity": "utils.fingerprint",
    "rollout.jsonl": "utils.jsonl",
    "rollout.judge": "candidates.evaluate",
    "rollout.loader": "training.ppo.minibatches",
    "rollout.picture": "candidates.plot",
    "rollout.pool": "candidates.pool",
    "rollout.prompts": "generation.prompts",
    "rollout.ranks": "utils.distributed",
    "rollout.report": "candidates.report",
    "rollout.response": "generation.stopping",
    "rollout.reward_model": "scoring.reward_model",
    "rollout.rollout": "training.ppo.rollout",
    "rollout.sample": "generation.sampling",
    "rollout.score": "scoring.scorer",
    "rollout.selection": "candidates.selection",
    "rollout.temperature": "candidates.temperature_search",
    "rollout.trace": "training.ppo.log",
    "rollout.trace_picture": "training.ppo.plot",
    "rollout.trial": "generation._compatibility",
    "rollout.turns": "utils.shuffle",
    "rollout.vllm": "generation.vllm",
    "sampling": "objectives.sampling_arguments",
    "setup": "training.build",
    "tally": "utils.flop_counter",
    "tensors": "utils.tensors",
    "testbed.people": "testbed.annotators",
    "testbed.world": "testbed.prompts",
    "trainer": "training.trainer",
    "trainers": "training.trainers",
}
"""Old module -> new module, both below `prefopt`."""

ROLLOUT = {
    "beam_search": "generation",
    "Draw": "candidates",
    "fill": "candidates",
    "search": "candidates",
    "sample": "generation",
    "Sample": "generation",
    "CallableScorer": "scoring",
    "CombinedScorer": "scoring",
    "RewardModelScorer": "scoring",
    "SafetyFirst": "scoring",
    "ScoreError": "scoring",
    "Scorer": "scoring",
    "WeightedSum": "scoring",
    "scorer_from": "scoring",
    "whiten": "scoring",
    "Record": "training.ppo",
    "Suspicion": "training.ppo",
    "Trace": "training.ppo",
    "draw_trace": "training.ppo",
    "suspicion": "training.ppo",
}
"""Names of the old package `rollout` -> the package that has them now; all its others are in `candidates`."""


class _Rollout(ModuleType):
    """The old package `prefopt.rollout`, of which other packages have become."""

    __path__: MutableSequence[str] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(f"prefopt.{ROLLOUT.get(name, 'candidates')}"), name)

    def __setattr__(self, name: str, value: object) -> None:
        # `import prefopt.rollout.sample` sets the module here, which must not hide the function.
        if name not in ROLLOUT and name not in import_module("prefopt.candidates").__all__:
            super().__setattr__(name, value)


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        old = fullname.removeprefix("prefopt.")
        if old == fullname or not (old in MOVED or old == "rollout"):
            return None
        return spec_from_loader(fullname, self, is_package=old == "rollout")

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        old = spec.name.removeprefix("prefopt.")
        new = MOVED.get(old, "generation, prefopt.scoring and prefopt.candidates")
        warnings.warn(f"{spec.name} is now prefopt.{new}; the old path goes in 0.3", FutureWarning, stacklevel=2)
        return _Rollout(spec.name) if old == "rollout" else _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if not isinstance(module, _Rollout):
            old = module.__name__.removeprefix("prefopt.")
            sys.modules[module.__name__] = import_module(f"prefopt.{MOVED[old]}")


class _Alias(ModuleType):
    """Stands in for a module until its new place is imported."""


def install() -> None:
    """Let Python find the old paths, before it looks for real modules.

    An old package is the new one under another name, in whose folder Python would find the new one's modules: it would
    load `prefopt.compare.evaluation.judges` a second time, from the file of `prefopt.compare.measure.judges`.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
