"""Where a saved model comes from: its base, data, method, arguments and versions, in a file beside it.

`prefopt.json` is what programs read, `README.md` (`card.py`) what people and the hub do. Neither holds a secret, nor a
path that the user did not give.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel

from ..models.wrappers import unwrap_parallel
from ..utils import files, jsonl, secrets
from .card import CARD, card_of, is_ours
from .config import PreferenceConfig
from .declarations import DECLARATIONS
from .identity import objective_description, plain

FILE = "prefopt.json"
FORMAT = 1
PACKAGES = ("prefopt", "torch", "transformers", "peft", "accelerate", "datasets")
PLACES = ("output_dir", "resume_from_checkpoint", "resume_with_changes", "overwrite_output_dir", "run_name")
"""Arguments that say where a run was written, not what it is."""
RESOLVED = (
    "accelerator_config",
    "activation_checkpointing",
    "dataloader_pin_memory",
    "debug",
    "disable_tqdm",
    "hub_token",
    "report_to",
)
"""Those that transformers fills in, or that decide nothing of the model."""
LEFT_OUT = frozenset(PLACES + RESOLVED)
TIMING = ("runtime", "per_second", "total_flos", "compilation_time")
IN_PYTHON = "rows passed in Python"


class Lineage:
    """Writes where a trainer's models come from.

    Args:
        trainer: whose they are.
        names: "model", "train", "eval", "scorer", "reference" -> what its user calls it; what has no name is left out.
    """

    def __init__(self, trainer: Any, names: Mapping[str, str | None]):
        self.trainer = trainer
        self.names = {what: name for what, name in names.items() if name}

    def record(self, metrics: bool = True, part: str = "policy") -> dict[str, Any]:
        """What is written.

        Args:
            metrics: with what was measured last.
            part: which of the models that train: "policy", "critic" or "reward model".
        """
        trainer, kind = self.trainer, type(self.trainer)
        command = next(
            (name for name, each in DECLARATIONS.items() if each.trainer.endswith(f":{kind.__name__}")), None
        )
        objective = objective_description(trainer.objective)
        record = {
            "format": FORMAT,
            "model": "reward model" if trainer.objective.trains == "scorer" else part,
            "method": kind.__name__.removesuffix("Trainer") if command else objective["name"],
            "command": command,
            "objective": objective,
            **{name: _short(value) for name, value in _named(self.names).items()},
            "rows": _count(trainer.train_dataset),
            "held_out_rows": _count(trainer.eval_dataset),
            "adapter": _adapter(trainer),
            "steps": trainer.state.global_step,
            "epochs": round(trainer.state.epoch or 0.0, 4),
            "trained_by": trainer.launch,
            "metrics": _metrics(trainer.state.log_history) if metrics else {},
            "arguments": _changed(trainer.args),
            "versions": versions(),
        }
        return json.loads(secrets.redacted(json.dumps(secrets.without_secrets(plain(record)))))

    def write(self, folder: Path, metrics: bool = True, part: str = "policy") -> None:
        """Write both files into a folder that a model was saved in; a page that a user has edited stays."""
        record = self.record(metrics, part)
        files.replace(folder / FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        card = folder / CARD
        if not card.is_file() or is_ours(card.read_text(encoding="utf-8", errors="replace")):
            files.replace(card, card_of(record))

    def refresh(self, folders: Mapping[Path, str]) -> None:
        """Write anew what stands beside saved models, as when more was measured of them.

        Args:
            folders: of the models -> which part each is.
        """
        for folder, part in folders.items():
            if (folder / FILE).is_file():
                self.write(folder, part=part)


def read_record(folder: Path) -> dict[str, Any]:
    """The record beside a model, an empty one where there is none.

    Raises:
        ValueError: it is damaged.
    """
    return jsonl.read_object(folder / FILE, "delete it, it only describes the model")


def versions() -> dict[str, str]:
    """Installed versions of what decides a training's numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree that is not installed
            continue
    return found


def names_given(model: Any, reference: Any, scorer: Any, train: Any, held_out: Any) -> dict[str, str | None]:
    """What a record calls that which a trainer was given."""
    return {
        "model": name_of_model(model),
        "reference": name_of_model(reference),
        "scorer": None if scorer is None else name_of_scorer(scorer),
        "train": name_of_rows(train),
        "eval": name_of_rows(held_out),
    }


def name_of_rows(rows: Any) -> str | None:
    """What a user calls rows: the file, folder or hub id; None where there are none."""
    if rows is None:
        return None
    if isinstance(rows, str | Path):
        return str(rows)
    if isinstance(rows, Dataset) and rows.info.download_checksums:
        place = next(iter(rows.info.download_checksums))
        if place.startswith("hf://datasets/"):
            return "/".join(place.removeprefix("hf://datasets/").split("@")[0].split("/")[:2])
    return IN_PYTHON


def name_of_model(model: Any) -> str | None:
    """What a user calls a model: the name that it was given by, or loaded by."""
    if model is None or isinstance(model, str | Path):
        return None if model is None else str(model)
    config = getattr(unwrap_parallel(model), "config", None)
    return getattr(config, "_name_or_path", None) or f"a {type(model).__name__} made in Python"


def name_of_scorer(scorer: Any) -> str:
    """What a user calls a scorer: a path or a URL, a function's name, or what the scorer calls itself."""
    if isinstance(scorer, Mapping):
        return str(scorer.get("url", "a service"))
    for name in ("name", "__qualname__"):
        if isinstance(found := getattr(scorer, name, None), str):
            return found
    return scorer if isinstance(scorer, str) else str(name_of_model(scorer))


def _named(names: Mapping[str, str]) -> dict[str, str]:
    of = {"model": "base_model", "train": "data", "eval": "held_out_data"}
    return {of.get(what, what): name for what, name in names.items()}


def _short(name: str) -> str:
    """A path in the home folder as people write it, which does not say whose home it is."""
    home = str(Path.home())
    return f"~{name.removeprefix(home)}" if len(home) > 1 and name.startswith(f"{home}/") else name


def _count(rows: Any) -> Any:
    if isinstance(rows, Mapping):
        return {name: len(part) for name, part in rows.items()}
    return None if rows is None else len(rows)


def _adapter(trainer: Any) -> dict[str, Any] | None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not isinstance(model, PeftModel):
        return None
    config: Any = model.active_peft_config
    names = ("r", "lora_alpha", "target_modules", "modules_to_save")
    return {"kind": config.peft_type.value, **{name: getattr(config, name) for name in names if hasattr(config, name)}}


def _metrics(history: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What was logged last of training, of the whole of it, and of held-out rows."""
    found: dict[str, dict[str, float]] = {}
    for logs in history:
        held_out = any(name.startswith("eval_") for name in logs)
        split = "held_out" if held_out else "training" if "train_runtime" in logs else "last_steps"
        kept = {name: value for name, value in logs.items() if not any(word in name for word in TIMING)}
        if split == "held_out":
            kept = {name.removeprefix("eval_"): value for name, value in kept.items() if name.startswith("eval_")}
        found[split] = {name: value for name, value in kept.items() if isinstance(value, int | float)}
    return found


def _changed(args: PreferenceConfig) -> dict[str, Any]:
    """The arguments that are not at their defaults."""
    given = args.to_dict()
    changed = {}
    for field in fields(args):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = plain(given.get(field.name))
        unset = not value and not default or value == f"<{field.name.upper()}>"  # as transformers hides a token
        if field.init and field.name not in LEFT_OUT and not unset and value != plain(default):
            changed[field.name] = value
    return changed
