"""What a person reads of a training's log: a line of the terminal's width, with the most telling numbers first.

All numbers are in `trainer_state.json` and go to trackers as they are.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

FIRST: Mapping[str, str] = {
    "loss": "loss",
    "accuracy": "accuracy",
    "rewards/accuracies": "accuracy",
    "margin": "margin",
    "rewards/margins": "margin",
    "mean_token_accuracy": "tokens right",
    "objective/scores": "score",
    "objective/kl": "KL",
    "response_length": "length",
    "unfinished": "cut off",
    "skipped_steps": "skipped",
    "grad_norm": "gradient",
    "learning_rate": "rate",
    "mean_reward": "score",
}
"""Name in the log -> what a line calls it, in the order of the line; the method's other metrics follow."""
LEFT_OUT = ("epoch", "num_tokens", "total_flos", "num_input_tokens_seen", "critic_alone", "count/")
TIMING = ("runtime", "_per_second", "_jit_compilation_time")
EVALUATED, TRAINED = "eval_", "train_"
WIDEST = 120


def line_of(logs: Mapping[str, Any], step: int, steps: int, width: int = 80) -> str:
    """The line of what was logged after `step` of `steps`; at most `width` columns, the first number always.

    Args:
        logs: as Trainer logs them: of training, of an evaluation, or of a whole training at its end.
    """
    if "train_runtime" in logs:
        return _ended(logs, step)
    evaluated = any(name.startswith(EVALUATED) for name in logs)
    line = f"step {step:>{len(str(steps))}}/{steps}" + ("  held out" if evaluated else "")
    parts = list(_parts(logs))
    for number, part in enumerate(parts):
        if number and len(line) + 2 + len(part) > width:
            break
        line = f"{line}  {part}"
    return line


def _ended(logs: Mapping[str, Any], step: int) -> str:
    loss = f", mean loss {logs['train_loss']:.4g}" if "train_loss" in logs else ""
    return f"trained to step {step} in {logs['train_runtime']:,.1f} s{loss}"


def _parts(logs: Mapping[str, Any]) -> Iterator[str]:
    """Each number with its name, the most telling first."""
    plain = {name.removeprefix(EVALUATED): value for name, value in logs.items()}
    numbers = {
        name: value
        for name, value in plain.items()
        if isinstance(value, int | float) and not name.startswith(LEFT_OUT) and not name.endswith(TIMING)
    }
    for name in [*(name for name in FIRST if name in numbers), *(name for name in numbers if name not in FIRST)]:
        yield f"{FIRST.get(name, name)} {_number(numbers[name])}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _width() -> int:
    if not sys.stdout.isatty():
        return sys.maxsize  # a file keeps all numbers
    return min(shutil.get_terminal_size().columns, WIDEST) - 1


class ShortRun(TrainerCallback):
    """Has a run log its end where it is too short to have logged anything."""

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        logged = any("loss" in logs for logs in state.log_history)
        if args.logging_strategy == IntervalStrategy.STEPS and state.global_step >= state.max_steps and not logged:
            control.should_log = True


class LogBar(ProgressCallback):
    """Trainer's bar with readable lines above it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs:
            line = line_of(logs, state.global_step, state.max_steps, _width())
            # Writing above a bar draws it again, of which a file would keep every copy.
            self.training_bar.write(line) if sys.stderr.isatty() else print(line, flush=True)


class LogPrinter(PrinterCallback):
    """Readable lines, without a bar."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if state.is_world_process_zero and logs:
            print(line_of(logs, state.global_step, state.max_steps, _width()), flush=True)


def make_readable(trainer: Trainer) -> None:
    """Put readable lines in the place of those that Trainer prints; a user's own callback, or a notebook's, stays."""
    ours: dict[type, type[TrainerCallback]] = {ProgressCallback: LogBar, PrinterCallback: LogPrinter}
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback) in ours:
            trainer.remove_callback(callback)
            trainer.add_callback(ours[type(callback)])
    trainer.add_callback(ShortRun)
