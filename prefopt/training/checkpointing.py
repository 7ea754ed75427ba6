"""What a run writes into its checkpoints and saved models: both models, the objective's state, and no secret.

The files of a checkpoint are `checkpoint.py`'s matter; what Trainer itself saves and loads is passed in as a function.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..models.auxiliary import policy_only
from ..models.heads import auxiliary_state, save_normalization
from ..models.peft_adapters import AUXILIARY_ADAPTERS, preserved_adapter_state, saving_policy_only
from ..models.reference import FrozenModel
from ..models.wrappers import unwrap
from . import checkpoint
from .config import PreferenceConfig
from .identity import FORMAT, objective_description
from .one_model import OneModel
from .step import StepRunner

logger = logging.getLogger(__name__)

EXTRAS = "prefopt_state.safetensors"


class Checkpoints:
    """The checkpoints of a run.

    Args:
        args: where the run is written, and how many checkpoints stay.
        trained: what is saved, under which names.
        step: whose state is saved with it.
        tokenizer: saved beside each model.
        reference_check: of the reference's weights, None where it moves or there is none.
        describe: what must be the same for a checkpoint to go on, beside what is so for every run.
    """

    def __init__(
        self,
        args: PreferenceConfig,
        trained: OneModel,
        step: StepRunner,
        tokenizer: Any,
        reference_check: str | None,
        describe: Callable[[], Mapping[str, Any]],
    ):
        self.args, self.trained, self.step, self.tokenizer = args, trained, step, tokenizer
        self.reference_check, self.describe = reference_check, describe
        self.accelerator: Accelerator = step.accelerator
        self.kept: str | None = None
        """A checkpoint that must stay beside the best and the newest."""
        self._staging = False

    # ---- which run -------------------------------------------------------------------------------------------------

    def to_resume(self, wanted: str | bool | None, rows: int | None) -> str | None:
        """The folder to go on from: the one that is named, or for `True` the newest that is complete.

        Args:
            rows: of the training data.

        Raises:
            FileNotFoundError: nothing complete to resume from.
            ValueError: the checkpoint belongs to another model or another step size.
        """
        if not wanted:
            return None
        folder = checkpoint.newest(str(self.args.output_dir)) if wanted is True else Path(wanted)
        checkpoint.check_resumable(folder, self.run(rows))
        logger.info("resuming from %s", folder)
        return str(folder)

    def run(self, rows: int | None) -> dict[str, Any]:
        """What must be the same for a checkpoint to go on in this run."""
        model, args = self._unwrapped(), self.args
        return {
            "format": FORMAT,
            "model": type(unwrap(model)).__name__,
            "adapter": sorted(config.peft_type.value for config in _adapters(model)),
            "trained weights": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "objective": objective_description(self.step.objective),
            "rows": rows,
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "max_tokens_per_batch": args.max_tokens_per_batch,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "processes": args.world_size,
            "sync_ref_model": args.sync_ref_model,
            "reference": self.reference_check,
            "seed": args.seed,
            "data_seed": args.data_seed,
            "train_sampling_strategy": args.train_sampling_strategy,
            **self.describe(),
        }

    def _unwrapped(self) -> Any:
        return self.accelerator.unwrap_model(self.trained.model)

    # ---- writing ---------------------------------------------------------------------------------------------------

    def output_dir(self, folder: str) -> str:
        """Where Trainer is to write what it means for this folder."""
        return str(Path(folder) / checkpoint.STAGING) if self._staging else folder

    def write(self, save: Callable[[], None], run_dir: Path, state: TrainerState, rows: int | None) -> None:
        """One more checkpoint in `run_dir`: of what `save` writes below `output_dir`, and of what it does not know.

        Raises:
            OSError: it could not be written; earlier checkpoints are untouched.
        """
        name = f"checkpoint-{state.global_step}"
        staged = run_dir / checkpoint.STAGING / name
        self._clear(run_dir)  # a run that was killed while saving this step may have left files that are not ours
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            save()
            self._point_at_best(state, run_dir, staged)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                save_file(self._extras(), staged / EXTRAS)
                checkpoint.publish(staged, run_dir / name, self.run(rows))
                checkpoint.rotate(run_dir, self.args.save_total_limit, (state.best_model_checkpoint, self.kept))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise OSError(f"could not write {run_dir / name} ({error}): earlier checkpoints are untouched") from error
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
        """The model as plain transformers or PEFT loads it: no adapter of the reference, and no token.

        What trains beside it has a folder of its own.
        """
        policy = self.trained.policy_folder(folder)
        with saving_policy_only(self.trained.model), _without_token(self.args):
            save(str(policy))
        if self.args.should_save:
            save_normalization(self._unwrapped(), policy)
            self.trained.save_beside(folder, self.tokenizer)

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
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in flat.items()}

    def _moving_reference(self) -> nn.Module | None:
        reference = self.step.reference
        return reference.model if self.args.sync_ref_model and isinstance(reference, FrozenModel) else None

    # ---- reading ---------------------------------------------------------------------------------------------------

    def load(self, load: Callable[[str], None], folder: Path) -> None:
        """Into the model, and what trains with it, what `save_model` and `write` have left in a folder."""
        inner = self._unwrapped()
        with policy_only(inner), preserved_adapter_state(inner):
            load(str(self.trained.policy_folder(folder)))
        self.trained.load_beside(folder)
        path = folder / EXTRAS
        if path.is_file():
            # safetensors does not know the device "cpu:0", which a rank on the CPU has.
            self._restore({name: tensor.to(self.args.device) for name, tensor in load_file(path).items()})

    def without_tied(self, load_result: Any) -> Any:
        """Weights that are another's by name, such as a head tied to the embeddings, are not missing."""
        tied = getattr(self._unwrapped(), "_tied_weights_keys", None) or ()
        return load_result._replace(missing_keys=[key for key in load_result.missing_keys if key not in tied])

    def _restore(self, flat: dict[str, Tensor]) -> None:
        groups: dict[str, dict[str, Tensor]] = {"objective": {}, "auxiliary": {}, "reference": {}, "guard": {}}
        for name, tensor in flat.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        self.step.state = self.step.state | groups["objective"]
        if groups["auxiliary"]:
            self._unwrapped().load_state_dict(groups["auxiliary"], strict=False)
        if (reference := self._moving_reference()) is not None:
            reference.load_state_dict(groups["reference"])
        self.step.guard.skipped = int(groups["guard"].get("skipped_steps", 0))


def _adapters(model: nn.Module) -> list[Any]:
    return [config for name, config in getattr(model, "peft_config", {}).items() if name not in AUXILIARY_ADAPTERS]


@contextmanager
def _without_token(args: Any) -> Iterator[None]:
    """Hide the hub token: Trainer pickles its arguments, in clear, into every folder it saves."""
    token, args.hub_token = args.hub_token, None
    try:
        yield
    finally:
        args.hub_token = token
