"""A training command from its arguments to its closing summary. Knows no method: its trainer does."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import trainers
from ..arguments import ModelConfig, ScriptArguments, get_peft_config, get_quantization_config
from ..checkpoint import newest
from . import INTERRUPTED, is_first
from .help import page
from .parsing import TrlParser
from .rows import Rows, load_rows
from .summary import summary

if TYPE_CHECKING:
    from . import Method

NEEDS = {
    "use_peft": [field.name for field in fields(ModelConfig) if field.name.startswith(("lora_", "use_rs", "use_do"))],
    "load_in_4bit": ["bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"],
}
"""Switch -> what means nothing without it."""
TASK = {"policy": "CAUSAL_LM", "scorer": "SEQ_CLS"}


def main(method: Method, prog: str, argv: Sequence[str]) -> int:
    """Parse, train, evaluate, save; returns the exit code."""
    trainer_type = getattr(trainers, method.trainer)
    parser = TrlParser((trainer_type.config, ModelConfig, ScriptArguments), prog=prog, add_help=False)
    parser.describe(
        "output_dir", "Folder for the model, the checkpoints and the metrics.", f"{prog.split()[-1]}-output"
    )
    parser.describe("resume_from_checkpoint", "A checkpoint, or true for the newest one in output_dir.", None)
    wanted = {"-h", "--help", "--help-all"} & set(argv)
    if wanted:
        print(page(prog, method.summary, trainer_type.config, parser.options, whole="--help-all" in wanted), end="")
        return 0
    args, model_args, data_args = parser.parse_args_and_config(argv)
    check(model_args, data_args, TASK[trainer_type.objective_type.trains])
    trainers.objective_from(args, trainer_type.objective_type)  # complains of its knobs before anything is loaded
    args.resume_from_checkpoint = checkpoint_from(args)
    _set_up_logging()
    rows = load_rows(data_args, args, method.purpose)
    return _train(build(trainer_type, args, model_args, rows), rows)


def check(model_args: ModelConfig, data_args: ScriptArguments, task: str) -> None:
    """Refuse what is missing, or would quietly do something else than was meant."""
    for name, value in (
        ("model_name_or_path", model_args.model_name_or_path),
        ("dataset_name", data_args.dataset_name),
    ):
        if not value:
            raise ValueError(f"--{name} is missing: give a path or a hub id")
    _check_model(str(model_args.model_name_or_path), model_args)
    for switch, names in NEEDS.items():
        given = [name for name in names if getattr(model_args, name) != getattr(ModelConfig(), name)]
        if given and not getattr(model_args, switch):
            raise ValueError(f"--{given[0]} means nothing without --{switch}: add it, or leave --{given[0]} out")
    if model_args.lora_task_type not in (None, task):
        raise ValueError(f"--lora_task_type {model_args.lora_task_type} does not fit: this command trains with {task}")


def _check_model(name: str, model_args: ModelConfig) -> None:
    path = Path(name).expanduser()
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"--model_name_or_path {name}: no such folder")
    if path.exists() and not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ValueError(f"--model_name_or_path {name}: holds no model, which would have a config.json")
    quantised = next((bits for bits in ("load_in_4bit", "load_in_8bit") if getattr(model_args, bits)), None)
    if quantised and not model_args.use_peft and not (path / "adapter_config.json").is_file():
        raise ValueError(f"--{quantised} needs --use_peft: quantised weights cannot be trained, an adapter on them can")


def build(trainer_type: Any, args: Any, model_args: ModelConfig, rows: Rows) -> Any:
    """The trainer that the arguments describe."""
    kwargs: dict[str, Any] = {"dtype": model_args.dtype}
    if model_args.model_revision != "main":
        kwargs["revision"] = model_args.model_revision
    if model_args.attn_implementation:
        kwargs["attn_implementation"] = model_args.attn_implementation
    args.model_init_kwargs = kwargs | (args.model_init_kwargs or {})
    return trainer_type(
        model=os.path.expanduser(str(model_args.model_name_or_path)),
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.evaluation,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args, TASK[trainer_type.objective_type.trains]),
    )


def _train(trainer: Any, rows: Rows) -> int:
    try:
        metrics = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint).metrics
    except KeyboardInterrupt:
        return _interrupted(trainer)
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", metrics)
    if rows.evaluation is not None:
        evaluated = trainer.evaluate()
        trainer.save_metrics("eval", evaluated)
        metrics |= evaluated
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        summary(trainer, rows, metrics)
    trainer.accelerator.end_training()
    return 0


def checkpoint_from(args: Any) -> str | None:
    """The folder to resume from, if `resume_from_checkpoint` asks for it; true means the newest in output_dir."""
    wanted = (args.resume_from_checkpoint or "false").lower()
    if wanted in ("false", "no", "none"):
        return None
    folder = newest(args.output_dir) if wanted in ("true", "yes") else Path(args.resume_from_checkpoint).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--resume_from_checkpoint {folder}: no such folder")
    return str(folder)


def _interrupted(trainer: Any) -> int:
    if trainer.is_world_process_zero():
        print(f"\nInterrupted after step {trainer.state.global_step} of {trainer.state.max_steps}.", file=sys.stderr)
        try:
            print(f"Newest checkpoint: {newest(trainer.args.output_dir)}", file=sys.stderr)
            print("To go on, run the same command with --resume_from_checkpoint true", file=sys.stderr)
        except FileNotFoundError:
            print("No checkpoint was written yet; --save_steps says how often they are.", file=sys.stderr)
    return INTERRUPTED


def _set_up_logging() -> None:
    """prefopt's own notes, from the first process only; what libraries say stays as they set it."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("prefopt").setLevel(logging.INFO if is_first() else logging.ERROR)
    # Deprecations inside libraries are for their authors; those of arguments were shown while parsing.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate|torch)\b")
