"""What a trainer's checkpoints and saved models hold, as overrides of Trainer's methods. Knows no loss and no data."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME

from ..models.auxiliary import alone
from ..models.critic import critic_of, load_critic, save_critic
from ..models.heads import auxiliary_state, save_normalization
from ..models.peft_adapters import BESIDE, same_gradients, saved_alone
from ..models.reference import FrozenModel, Reference
from ..models.unwrap import bare
from ..objectives.base import Objective
from . import checkpoint
from .config import PreferenceConfig
from .nonfinite import StepGuard

logger = logging.getLogger(__name__)

EXTRAS = "prefopt_state.safetensors"
POLICY_FOLDER, CRITIC_FOLDER = "policy", "critic"


class Persistence(Trainer):
    """Trainer with whole-or-absent checkpoints that carry all that a resumed run needs, and no secret."""

    # What PreferenceTrainer sets; declared where they are first used.
    args: PreferenceConfig
    model: Any
    train_dataset: Any
    eval_dataset: Any
    objective: Objective
    objective_state: dict[str, Tensor]
    reference: Reference | None
    guard: StepGuard
    reference_check: str | None

    _staging = False
    _kept: str | None = None
    """A checkpoint that must stay beside the best and the newest."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; `True` resumes from the newest checkpoint that is complete.

        Raises:
            FileNotFoundError: nothing complete to resume from.
            ValueError: the checkpoint belongs to another model or another step size.
        """
        if resume_from_checkpoint:
            named = None if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            folder = named or checkpoint.newest(str(self.args.output_dir))
            checkpoint.check_resumable(folder, self._run())
            logger.info("resuming from %s", folder)
            resume_from_checkpoint = str(folder)
        self.guard.start()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _run(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to go on in this run."""
        model = self.accelerator.unwrap_model(self.model)
        return {
            "model": type(bare(model)).__name__,
            "adapter": sorted(config.peft_type.value for config in _adapters(model)),
            "trained weights": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "objective": _description(self.objective),
            "rows": len(self.train_dataset) if self.train_dataset is not None else None,
            "per_device_train_batch_size": self.args.per_device_train_batch_size,
            "max_tokens_per_batch": self.args.max_tokens_per_batch,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "processes": self.args.world_size,
            "sync_ref_model": self.args.sync_ref_model,
            "reference": self.reference_check,
            "seed": self.args.seed,
            "data_seed": self.args.data_seed,
            "train_sampling_strategy": self.args.train_sampling_strategy,
        }

    # ---- writing ---------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, checkpoint.STAGING) if self._staging else run_dir

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        staged = run_dir / checkpoint.STAGING / name
        self._clear(run_dir)  # a run that was killed while saving this step may have left files that are not ours
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
            self._point_at_best(run_dir, staged)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                save_file(self._extras(), staged / EXTRAS)
                checkpoint.publish(staged, run_dir / name, self._run())
                kept = (self.state.best_model_checkpoint, self._kept)
                checkpoint.rotate(run_dir, self.args.save_total_limit, kept)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise OSError(f"could not write {run_dir / name} ({error}): earlier checkpoints are untouched") from error
        finally:
            self._staging = False
            self._clear(run_dir)
        self.accelerator.wait_for_everyone()

    def _clear(self, run_dir: Path) -> None:
        if self.args.should_save:
            shutil.rmtree(run_dir / checkpoint.STAGING, ignore_errors=True)

    def _point_at_best(self, run_dir: Path, staged: Path) -> None:
        """The best checkpoint under the name it has, or is about to have, and not the staged one."""
        step = self.state.best_global_step
        if not step:
            return
        best = run_dir / f"checkpoint-{step}"
        if step == self.state.global_step or best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            self.state.save_to_json(str(staged / TRAINER_STATE_NAME))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """The model as plain transformers or PEFT loads it: no adapter of the reference, and no token.

        Two models, where there is a critic, in folders of their own.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        with saved_alone(self.model), _without_token(self.args):
            super()._save(str(self._policy_folder(folder)), state_dict)
        if not self.args.should_save:
            return
        save_normalization(self.accelerator.unwrap_model(self.model), self._policy_folder(folder))
        if critic_of(self.model) is not None:
            save_critic(self.model, folder / CRITIC_FOLDER)
            cast(Any, self.processing_class).save_pretrained(folder / CRITIC_FOLDER)

    def _policy_folder(self, folder: Path) -> Path:
        """Where the trained model is in a folder that was saved."""
        return folder if critic_of(self.model) is None else folder / POLICY_FOLDER

    def _extras(self) -> dict[str, Tensor]:
        """What Trainer does not know to save: the objective's state, auxiliary heads, a reference that moves."""
        moving = self._moving_reference()
        groups: dict[str, Mapping[str, Tensor]] = {
            "objective": self.objective_state,
            "auxiliary": auxiliary_state(self.accelerator.unwrap_model(self.model)),
            "reference": {} if moving is None else moving.state_dict(),
            "guard": {"skipped_steps": torch.tensor(self.guard.skipped)},
        }
        flat = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in flat.items()}

    def _moving_reference(self) -> nn.Module | None:
        moves = self.args.sync_ref_model and isinstance(self.reference, FrozenModel)
        return self.reference.model if moves else None  # type: ignore[union-attr]

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        inner = self.accelerator.unwrap_model(self.model)
        folder = Path(resume_from_checkpoint)
        with_critic, weights = critic_of(self.model) is not None, str(self._policy_folder(folder))
        with alone(inner), same_gradients(inner):
            super()._load_from_checkpoint(weights, model)
        if with_critic:
            load_critic(self.model, folder / CRITIC_FOLDER)
        path = folder / EXTRAS
        if path.is_file():
            # safetensors does not know the device "cpu:0", which a rank on the CPU has.
            self._restore({name: tensor.to(self.args.device) for name, tensor in load_file(path).items()})

    def _load_best_model(self) -> None:
        if critic_of(self.model) is None:
            return super()._load_best_model()
        self._load_from_checkpoint(cast(str, self.state.best_model_checkpoint))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that are another's by name, such as a head tied to the embeddings, are not missing."""
        tied = getattr(self.accelerator.unwrap_model(self.model), "_tied_weights_keys", None) or ()
        missing = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _restore(self, flat: dict[str, Tensor]) -> None:
        groups: dict[str, dict[str, Tensor]] = {"objective": {}, "auxiliary": {}, "reference": {}, "guard": {}}
        for name, tensor in flat.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        self.objective_state = self.objective_state | groups["objective"]
        if groups["auxiliary"]:
            self.accelerator.unwrap_model(self.model).load_state_dict(groups["auxiliary"], strict=False)
        if (reference := self._moving_reference()) is not None:
            reference.load_state_dict(groups["reference"])
        self.guard.skipped = int(groups["guard"].get("skipped_steps", 0))


def _description(objective: Objective) -> str:
    """The objective, but for what may be another when a run goes on."""
    if objective.free:
        usual = {field.name: field.default for field in fields(cast(Any, objective)) if field.name in objective.free}
        objective = replace(cast(Any, objective), **usual)
    # A stranger's objective may print itself with its address, which is another in every process.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(objective))


def _adapters(model: nn.Module) -> list[Any]:
    return [config for name, config in getattr(model, "peft_config", {}).items() if name not in BESIDE]


@contextmanager
def _without_token(args: Any) -> Iterator[None]:
    """Hide the hub token: Trainer pickles its arguments, in clear, into every folder it saves."""
    token, args.hub_token = args.hub_token, None
    try:
        yield
    finally:
        args.hub_token = token
