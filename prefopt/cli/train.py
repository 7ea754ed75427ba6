"""A training command from its settings to its closing summary. Knows no method: its trainer does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..objectives.sampling_arguments import IterationArguments, SamplingArguments
from ..training import trainers
from ..training.arguments import (
    ModelConfig,
    ScorerArguments,
    ScriptArguments,
    get_peft_config,
    get_quantization_config,
    loading,
)
from ..training.checkpoint import newest
from ..training.declarations import Declaration
from ..training.interruption import asked_by_any
from ..training.launch import check_launch
from ..training.output_folder import AUTO, contents, locked
from ..training.summary import summary_of
from ..training.trackers import check_installed
from ..utils.signals import Interrupted, interrupted, listener, name_of
from .command import HELP_ALL, Command
from .console import is_first, quiet_libraries, set_up_logging
from .help_page import Page
from .help_pages import NEEDED, SHORT, Pages, asked_for, names_of, training_groups
from .models import ADAPTER, FOUR_BITS, check_place, check_without, named
from .parsing import TrlParser
from .rows import Rows, load_rows
from .scorer import check_scorer, load_scorer

YES, NO = ("true", "yes"), ("false", "no", "none")
TASK = {"policy": "CAUSAL_LM", "scorer": "SEQ_CLS", "actor-critic": "CAUSAL_LM"}


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, train, evaluate, save; returns the exit code."""
    if asked_for(argv):
        print(help_page(command, prog, HELP_ALL in argv).text(), end="")
        return 0
    trainer_type = _trainer_of(command)
    args, model_args, data_args, *scoring = _parser(trainer_type, prog).parse_args_and_config(argv)
    scorer_args = scoring[0] if scoring else ScorerArguments()
    check_launch(args)
    check_installed(args.report_to)
    listener().meet()
    check(model_args, data_args, TASK[trainer_type.objective_type.trains])
    check_scorer(scorer_args, needed=_needs_scorer(trainer_type))
    if scoring and not scorer_args.scorer:
        check_without("scorer", args, names_of(IterationArguments))
    trainers.objective_from(args, trainer_type.objective_type)  # complains of its settings before anything is loaded
    iterates = bool(scorer_args.scorer) and not trainer_type.objective_type.on_policy
    resume = resumption(args, iterates)
    set_up_logging()
    quiet_libraries()
    rows = load_rows(data_args, args, "any" if scorer_args.scorer else _declared(command).purpose)
    return _train(build(trainer_type, args, model_args, data_args, rows, load_scorer(scorer_args)), rows, resume)


def help_page(command: Command, prog: str, whole: bool) -> Page:
    """The page that `--help` shows, or the `whole` one."""
    trainer_type = _trainer_of(command)
    options, title = _parser(trainer_type, prog).options, trainer_type.config.__name__.removesuffix("Config")
    scored = _needs_scorer(trainer_type)
    needed = (*NEEDED, "scorer") if scored else NEEDED
    more = " --scorer reward-model --output_dir out" if scored else " --output_dir out --use_peft"
    pages = Pages(command, prog, options, needed, _declared(command).data, more, trainer_type.presets)
    return (
        pages.all(title, training_groups(trainer_type.config, options, title)) if whole else pages.short(title, SHORT)
    )


def _declared(command: Command) -> Declaration:
    assert command.trainer is not None, "this module runs commands of named trainers alone"
    return command.trainer


def _trainer_of(command: Command) -> Any:
    return _declared(command).load()


def _parser(trainer_type: Any, prog: str) -> TrlParser:
    samples, iterates = (issubclass(trainer_type.config, kind) for kind in (SamplingArguments, IterationArguments))
    kinds = (trainer_type.config, ModelConfig, ScriptArguments, *([ScorerArguments] if samples else []))
    parser = TrlParser(kinds, prog=prog, add_help=False, presets=trainer_type.presets)
    parser.describe(
        "output_dir", "Folder for the model, the checkpoints and the metrics.", f"{prog.split()[-1]}-output"
    )
    more = " Where responses are sampled, true goes on with the run there." if iterates else ""
    parser.describe(
        "resume_from_checkpoint",
        f"A checkpoint, true for the newest one in output_dir, or auto: that where there is one, else begin.{more}",
        None,
    )
    return parser


def _needs_scorer(trainer_type: Any) -> bool:
    return "scorer" in trainer_type.objective_type().needs


def check(model_args: ModelConfig, data_args: ScriptArguments, task: str) -> None:
    """Refuse what is missing, or would quietly do something else than was meant."""
    name = named("model_name_or_path", model_args.model_name_or_path)
    named("dataset_name", data_args.dataset_name)
    check_place("--model_name_or_path", name)
    quantised = next((bits for bits in ("load_in_4bit", "load_in_8bit") if getattr(model_args, bits)), None)
    if quantised and not model_args.use_peft and not (Path(name).expanduser() / "adapter_config.json").is_file():
        raise ValueError(f"--{quantised} needs --use_peft: quantised weights cannot be trained, an adapter on them can")
    for switch, names in (("use_peft", ADAPTER), ("load_in_4bit", FOUR_BITS)):
        if not getattr(model_args, switch):
            check_without(switch, model_args, names)
    if model_args.lora_task_type not in (None, task):
        raise ValueError(f"--lora_task_type {model_args.lora_task_type} does not fit: this command trains with {task}")


def build(
    trainer_type: Any, args: Any, model_args: ModelConfig, data_args: ScriptArguments, rows: Rows, scorer: Any = None
) -> Any:
    """The trainer that the arguments describe."""
    args.model_init_kwargs = loading(model_args) | (args.model_init_kwargs or {})
    trainer = trainer_type(
        model=os.path.expanduser(str(model_args.model_name_or_path)),
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.evaluation,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args, TASK[trainer_type.objective_type.trains]),
        scorer=scorer,
    )
    trainer.lineage.names |= {"model": model_args.model_name_or_path, "train": data_args.dataset_name}
    if rows.evaluation is not None:
        share = f"{data_args.eval_ratio:.0%} of {data_args.dataset_name}" if data_args.eval_ratio else None
        trainer.lineage.names["eval"] = share or data_args.eval_dataset or data_args.dataset_name
    return trainer


def _train(trainer: Any, rows: Rows, resume: str | bool) -> int:
    with locked(Path(str(trainer.args.output_dir))):  # until all is saved
        return _run(trainer, rows, resume)


def _run(trainer: Any, rows: Rows, resume: str | bool) -> int:
    try:
        metrics = train_and_save(trainer, resume)
        if rows.evaluation is not None:
            evaluated = trainer.evaluate()
            trainer.save_metrics("eval", evaluated)
            metrics |= evaluated
            trainer.health.examine(trainer.state)
        if trainer.args.push_to_hub:
            trainer.push_to_hub()
    except Interrupted as ending:
        raise ending if ending.message else interrupted(ending.signum, _after(trainer, ending)) from None
    if trainer.is_world_process_zero():
        print(summary_of(trainer, metrics, rows.report.dropped.total()))
    trainer.accelerator.end_training()
    return 0


def train_and_save(trainer: Any, resume: str | bool) -> dict[str, Any]:
    """Train and save; the metrics of it. A signal waits until the model is saved, once it is trained, in every rank."""
    with listener().deferred():
        metrics = trainer.train(resume_from_checkpoint=resume or None).metrics
        trainer.save_model()
        trainer.save_state()
        trainer.save_metrics("train", metrics)
        listener().check(asked_by_any(trainer.accelerator))
    return metrics


def _after(trainer: Any, ending: Interrupted) -> str:
    return (
        f"Interrupted by {name_of(ending.signum)} after the training: the model is in {trainer.args.output_dir}; "
        "what comes after that, as its evaluation, is missing"
    )


def resumption(args: Any, iterates: bool) -> str | bool:
    """What `resume_from_checkpoint` asks to go on with: a folder, True for the run in output_dir, "auto", or False.

    Raises:
        FileNotFoundError: nothing complete to go on with.
        ValueError: no such folder; or a run is to begin where one is already.
    """
    asked, args.resume_from_checkpoint = args.resume_from_checkpoint, None
    wanted = (asked or "false").lower()
    if wanted == AUTO:
        return AUTO
    if wanted in NO:
        if not args.overwrite_output_dir:
            _check_unused(Path(args.output_dir))
        return False
    if iterates and wanted not in YES:
        raise ValueError(
            f"--resume_from_checkpoint {wanted}: a run that samples responses goes on in its output_dir, say true"
        )
    if iterates:
        return True
    if wanted in YES:
        newest(args.output_dir, thorough=False)  # before a model is loaded; the trainer reads all of it
        return True
    if not Path(asked).expanduser().is_dir():
        raise ValueError(f"--resume_from_checkpoint {Path(asked).expanduser()}: no such folder")
    return str(Path(asked).expanduser())


def _check_unused(folder: Path) -> None:
    """Refuse, before a model is loaded, a folder that holds a run; the trainer looks again."""
    # The others may look when the first has begun.
    if is_first() and (there := contents(folder)):
        raise ValueError(
            f"--output_dir {folder} holds a run already: add --resume_from_checkpoint true to go on with it, or "
            f"--overwrite_output_dir true to move it aside whole and begin anew, or name another folder. What is "
            f"there: {there}"
        )
