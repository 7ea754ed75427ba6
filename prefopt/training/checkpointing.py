"""What a run writes into its checkpoints and saved models: both models, the objective's state, and no secret.

The files of a checkpoint are `checkpoint.py`'s matter; what Trainer itself saves and loads is passed in as a function.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..models.auxiliary import policy_only
from ..models.heads import auxiliary_state, save_normalization
from ..models.peft_adapters import AUXILIARY_ADAPTERS, preserved_adapter_state, saving_policy_only
from ..models.reference import FrozenModel
from ..models.saved_adapter import differing_names
from ..models.sharding import load_whole
from ..models.weights import full_shape, full_weight
from ..models.wrappers import unwrap
from ..utils.distributed import on_first
from . import checkpoint, final_model
from .config import PreferenceConfig
from .content import config_of, rows_hash, settings_of, tokenizer_description, weights_hash
from .identity import FORMAT, objective_description
from .lineage import Lineage
from .one_model import OneModel
from .output_folder import claim, locked
from .step import StepRunner
from .unwritten import is_of_writing, not_written

logger = logging.getLogger(__name__)

EXTRAS = "prefopt_state.safetensors"


class Checkpoints:
    """The checkpoints of a run.

    Args:
        args: where the run is written, and how many checkpoints stay.
        trained: what is saved, under which names.
        step: whose state is saved with it.
        tokenizer: saved beside each model.
        reference: what the reference's weights are known by.
        rows: gives the rows that are trained on, without what is computed from them.
        lineage: writes where a model comes from into its folder.
        describe: what must be the same for a checkpoint to go on, beside what is so for every run.
    """

    def __init__(
        self,
        args: PreferenceConfig,
        trained: OneModel,
        step: StepRunner,
        tokenizer: Any,
        reference: Mapping[str, str | None],
        rows: Callable[[], Any],
        lineage: Lineage,
        describe: Callable[[], Mapping[str, Any]],
    ):
        self.args, self.trained, self.step, self.tokenizer = args, trained, step, tokenizer
        self.reference, self.rows, self.describe = reference, rows, describe
        self.lineage = lineage
        self.accelerator: Accelerator = step.accelerator
        self.kept: str | None = None
        """A checkpoint that must stay beside the best and the newest."""
        self.run: Mapping[str, Any] = {}
        """What must be the same for a checkpoint to go on, once a training has begun."""
        self._staging = False
        self._initial_weights: str | None = None

    # ---- which run -------------------------------------------------------------------------------------------------

    @contextmanager
    def claimed(self, wanted: str | bool | None) -> Iterator[str | bool | None]:
        """Have the output folder to this run alone; what to go on from, without "auto".

        Raises:
            ValueError: another run is there, or is being written.
        """
        folder = Path(str(self.args.output_dir))
        with locked(folder):
            yield on_first(lambda: claim(folder, wanted, self.args.overwrite_output_dir))

    def to_resume(self, wanted: str | bool | None) -> str | None:
        """The folder to go on from: the one that is named, or for `True` the newest that is complete.

        Every process has to call it; the first one looks, and reads the files to see whether they are whole.

        Raises:
            FileNotFoundError: nothing complete to resume from.
            ValueError: the checkpoint is damaged, or belongs to another run.
        """
        run = self.describe_anew()
        if not wanted:
            return None

        def found() -> str:
            folder = checkpoint.newest(str(self.args.output_dir)) if wanted is True else Path(wanted)
            checkpoint.check_resumable(folder, run, self.args.resume_with_changes or ())
            return str(folder)

        folder = on_first(found)
        logger.info("resuming from %s", folder)
        return folder

    def describe_anew(self) -> dict[str, Any]:
        """Describe the run that is about to begin or to go on: `run`, from now on."""
        self.run = self._described()
        return self.run

    def _described(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to go on in this run."""
        model, args, rows = self._unwrapped(), self.args, self.rows()
        if self._initial_weights is None:  # a later training of this trainer goes on from what came of the first
            self._initial_weights = weights_hash(model)
        return {
            "format": FORMAT,
            "model": type(unwrap(model)).__name__,
            "adapter": sorted(config.peft_type.value for config in _adapters(model)),
            "trained weights": sum(math.prod(full_shape(p)) for p in model.parameters() if p.requires_grad),
            **config_of(model),
            "initial weights": self._initial_weights,
            **self.reference,
            "tokenizer": tokenizer_description(self.tokenizer),
            "rows": None if rows is None else len(rows),
            "data": rows_hash(rows),
            "objective": objective_description(self.step.objective),
            "processes": args.world_size,
            **settings_of(args),
            **self.describe(),
        }

    def _unwrapped(self) -> Any:
        return self.accelerator.unwrap_model(self.trained.model)

    # ---- writing ---------------------------------------------------------------------------------------------------

    def output_dir(self, folder: str) -> str:
        """Where Trainer is to write what it means for this folder."""
        return str(Path(folder) / checkpoint.STAGING) if self._staging else folder

    def write(
        self, save: Callable[[], None], save_more: Callable[[Path], None], run_dir: Path, state: Any, optimizer: Any
    ) -> None:
        """One more checkpoint in `run_dir`: of what `save` writes below `output_dir`, and of what it does not know.

        Args:
            save_more: puts into the folder what else belongs there.
            optimizer: by whose state it is known how much room is needed.

        Raises:
            OSError: it could not be written; earlier checkpoints are untouched.
        """
        if not self.run:
            self.describe_anew()
        name = f"checkpoint-{state.global_step}"
        staged = run_dir / checkpoint.STAGING / name
        self._clear(run_dir)  # a run that was killed while saving this step may have left files that are not ours
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            save()
            save_more(staged)
            self._point_at_best(state, run_dir, staged)
            self.accelerator.wait_for_everyone()
            extras = self._extras()
            if self.args.should_save:
                save_file(extras, staged / EXTRAS)
                checkpoint.publish(staged, run_dir / name, dict(self.run))
                checkpoint.rotate(run_dir, self.args.save_total_limit, (state.best_model_checkpoint, self.kept))
        except Exception as error:
            if not is_of_writing(error):
                raise
            needed = self._trained_bytes() + _optimizer_bytes(optimizer)
            message = not_written(error, run_dir / name, staged, needed)
            raise OSError(f"{message}; earlier checkpoints are untouched") from error
        finally:
            self._staging = False
            self._clear(run_dir)
        self.accelerator.wait_for_everyone()

    def _clear(self, run_dir: Path) -> None:
        if self.args.should_save:
            shutil.rmtree(run_dir / checkpoint.STAGING, ignore_errors=True)

    def _point_at_best(self, state: TrainerState, run_dir: Path, staged: Path) -> None:
        """The best checkpoint under the name it has, or is about to have, and not the staged one."""
        step = state.best_global_step
        if not step:
            return
        best = run_dir / f"checkpoint-{step}"
        if step == state.global_step or best.is_dir():
            state.best_model_checkpoint = str(best)
        if self.args.should_save:
            state.save_to_json(str(staged / TRAINER_STATE_NAME))

    def save_model(self, save: Callable[[str], None], folder: Path) -> None:
        """The model as plain transformers or PEFT loads it: no adapter of the reference.

        What trains beside it has a folder of its own.
        """
        if self._staging or not self.args.should_save:
            return self._save_into(save, folder)  # of a checkpoint, or on behalf of the process that writes
        try:
            with locked(folder, take=lambda lock: lock()) if self._is_output(folder) else nullcontext():
                final_model.write_whole(partial(self._save_into, save), folder)
        except Exception as error:
            if not is_of_writing(error):
                raise
            message = not_written(error, folder, final_model.staged(folder), self._trained_bytes())
            final_model.discard(folder)
            raise OSError(f"{message}; what was there is untouched") from error

    def _save_into(self, save: Callable[[str], None], folder: Path) -> None:
        policy = self.trained.policy_folder(folder)
        with saving_policy_only(self.trained.model):
            save(str(policy))
        if self.args.should_save:
            save_normalization(self._unwrapped(), policy)
            self.trained.save_beside(folder, self.tokenizer)
            for place, part in self.trained.saved(folder).items():
                self.lineage.write(place, metrics=not self._staging, part=part)

    def _is_output(self, folder: Path) -> bool:
        return folder.resolve() == Path(str(self.args.output_dir)).resolve()

    def _trained_bytes(self) -> int:
        """What the weights that train take on a disk."""
        weights = (p for p in self._unwrapped().parameters() if p.requires_grad)
        return sum(p.numel() * p.element_size() for p in weights)

    def _extras(self) -> dict[str, Tensor]:
        """What Trainer does not know to save: the objective's state, auxiliary heads, a reference that moves."""
        moving = self._moving_reference()
        groups: dict[str, Mapping[str, Tensor]] = {
            "objective": self.step.state,
            "auxiliary": auxiliary_state(self._unwrapped()),
            "reference": {} if moving is None else moving.state_dict(),
            "guard": {"skipped_steps": torch.tensor(self.step.guard.skipped)},
        }
        flat = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
        return {name: full_weight(tensor).cpu().clone().contiguous() for name, tensor in flat.items()}

    def _moving_reference(self) -> nn.Module | None:
        reference = self.step.reference
        return reference.model if self.args.sync_ref_model and isinstance(reference, FrozenModel) else None

    # ---- reading ---------------------------------------------------------------------------------------------------

    def load(self, load: Callable[[str], None], folder: Path) -> None:
        """Into the model, and what trains with it, what `save_model` and `write` have left in a folder."""
        inner = self._unwrapped()
        policy = self.trained.policy_folder(folder)
        _check_adapter(inner, policy / SAFETENSORS_WEIGHTS_NAME)
        with policy_only(inner), preserved_adapter_state(inner):
            load(str(policy))
        self.trained.load_beside(folder)
        self.load_extras(folder)

    def load_extras(self, folder: Path) -> None:
        """What Trainer does not know, and DeepSpeed, which loads the model and the optimizer by itself."""
        path = folder / EXTRAS
        if path.is_file():
            # safetensors does not know the device "cpu:0", which a rank on the CPU has.
            self._restore({name: tensor.to(self.args.device) for name, tensor in load_file(path).items()})

    def check_loaded(self, load_result: Any) -> None:
        """Refuse weights that do not fit the model: those without a weight would stay untrained.

        Weights that are another's by name, such as a head tied to the embeddings, are not missing.

        Raises:
            ValueError: some are missing, or are not the model's.
        """
        model = self._unwrapped()
        weights = model.state_dict(keep_vars=True)
        loaded = {tensor.data_ptr() for name, tensor in weights.items() if name not in load_result.missing_keys}
        missing = [
            name
            for name in load_result.missing_keys
            if name not in (model._keys_to_ignore_on_save or ())
            and not (name in weights and weights[name].data_ptr() in loaded)
        ]
        if missing or load_result.unexpected_keys:
            raise ValueError(
                f"the checkpoint's weights are not this model's: missing {missing or 'none'}, unexpected "
                f"{list(load_result.unexpected_keys) or 'none'}: take another checkpoint"
            )

    def _restore(self, flat: dict[str, Tensor]) -> None:
        groups: dict[str, dict[str, Tensor]] = {"objective": {}, "auxiliary": {}, "reference": {}, "guard": {}}
        for name, tensor in flat.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        self.step.state = self.step.state | groups["objective"]
        if groups["auxiliary"]:
            self._unwrapped().load_state_dict(groups["auxiliary"], strict=False)
        if (reference := self._moving_reference()) is not None:
            load_whole(reference, groups["reference"])
        self.step.guard.skipped = int(groups["guard"].get("skipped_steps", 0))


def ended(state: TrainerState) -> bool:
    """Whether a run that this was saved of had no step left, or had been stopped early, for want of improvement."""
    if state.global_step >= state.max_steps > 0:
        return True
    callbacks: Any = state.stateful_callbacks or {}
    saved = callbacks.get("EarlyStoppingCallback", {})
    each = saved[-1] if isinstance(saved, list) else saved
    waited = each.get("attributes", {}).get("early_stopping_patience_counter", 0)
    return waited > 0 and waited >= each.get("args", {}).get("early_stopping_patience", math.inf)


def _check_adapter(model: Any, path: Path) -> None:
    """Refuse an adapter's file with too few or other weights: PEFT would leave its own as they are, with a warning.

    Raises:
        ValueError: a weight of the adapter is missing, or one is neither the adapter's nor, as embeddings that PEFT
            saves with it may be, the model's.
    """
    if not isinstance(model, PeftModel) or not path.is_file():
        return
    with safe_open(path, framework="pt") as file:
        found = set(file.keys())
    missing, unexpected = differing_names(model, found)
    if missing or unexpected:
        raise ValueError(
            f"{path} holds another adapter than this model's: missing {missing or 'none'}, unexpected "
            f"{unexpected or 'none'}: take another checkpoint"
        )


def _optimizer_bytes(optimizer: Any) -> int:
    states = getattr(optimizer, "state", {}).values()
    tensors = (value for state in states for value in state.values() if isinstance(value, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _adapters(model: nn.Module) -> list[Any]:
    return [config for name, config in getattr(model, "peft_config", {}).items() if name not in AUXILIARY_ADAPTERS]
