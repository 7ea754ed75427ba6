"""The one training loop: any objective, over transformers' Trainer. Knows batches, outputs and sums, no method.

What Trainer cannot know is added here: losses as sums with units, counted over the whole optimizer step and all ranks;
metrics as sums with counts; a frozen reference; a step that is skipped when its gradient is not finite.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from ..batch import Batch, Outputs
from ..data.collate import collate
from ..models.forward import forward
from ..models.modes import without_dropout
from ..models.reference import AsHandedIn, FrozenModel, SyncReference
from ..models.weights import spot_check
from ..objectives.base import Loss, Metric, Objective
from .build import as_rows, prepare_dataset, prepare_demonstrations, prepare_model, reward_models
from .checkpointing import Persistence
from .config import PreferenceConfig
from .cross_batch import DONE, couple
from .dataloaders import Loading
from .evaluation import Evaluation
from .iterative.trainer import check_drawing
from .metrics import Meter, exact, term_metrics
from .nonfinite import StepGuard
from .optimizers import TwoModels
from .ppo.trainer import OnPolicy
from .reference_logps import with_ref_logps

logger = logging.getLogger(__name__)


class PreferenceTrainer(OnPolicy, TwoModels, Loading, Persistence, Trainer):
    """Trains a policy or a reward model by an objective.

    Args:
        model: a path or hub id, a transformers model, or one that carries an adapter.
        objective: a name that `prefopt.objectives.load` knows, or an objective.
        args: a `PreferenceConfig`.
        train_dataset, eval_dataset: raw rows in any format that an adapter recognises, what `load_preferences`
            returns, or rows already encoded; `eval_dataset` may be a dict of them.
        processing_class: the tokenizer; taken from the model's name if not given.
        ref_model: the reference, where the default (see `models/reference.py`) is not what you want.
        peft_config: put a fresh adapter on the model.
        quantization_config: load the model quantised.
        scorer: for objectives that draw responses: the path, hub id or model of a reward model, a function of (prompts,
            responses), or a scorer. The rows then give prompts, and answers where the objective asks for them.
        critic: for objectives that train one: the path, hub id or model of a reward model to start it from; by default
            the scorer's, or a new head on the policy's backbone where that is none or has another tokenizer.
        ptx_dataset: good answers for objectives that mix them in; by default the best ones of `train_dataset`.
        compute_metrics: receives `EvalPrediction(predictions=(logps, rewards))`, each [N, K].

    Raises:
        ValueError: a combination that would train something else than was meant; the message says what to pass.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        objective: str | Objective = "dpo",
        args: PreferenceConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        ref_model: str | PreTrainedModel | None = None,
        peft_config: PeftConfig | None = None,
        quantization_config: Any = None,
        scorer: Any = None,
        critic: Any = None,
        ptx_dataset: Any = None,
        compute_metrics: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ):
        args = args or PreferenceConfig(output_dir="prefopt-output")
        if args.n_gpu > 1:
            logger.warning("one process uses one GPU: launch with torchrun to use all %d", args.n_gpu)
            args._n_gpu = 1  # Trainer would split batches with DataParallel, which cannot split a loss with units
        setup = prepare_model(
            model,
            objective,
            args,
            processing_class,
            ref_model=ref_model,
            peft_config=peft_config,
            quantization_config=quantization_config,
            scorer=scorer,
            critic=critic,
        )
        self.objective: Objective = setup.objective
        self.reference = setup.reference
        self.objective_state = self.objective.init_state()
        self.meter = Meter()
        self.guard = StepGuard(args.max_skipped_steps)
        self._step_loss = 0.0
        self._state_before = self.objective_state
        self.scorer = setup.scorer
        check_drawing(self.scorer, args, compute_metrics, optimizers)
        self._prepare = as_rows if self.scorer else partial(prepare_dataset, setup=setup, args=args)
        self.demonstrations = prepare_demonstrations(ptx_dataset, train_dataset, setup, args)
        super().__init__(
            model=setup.model,
            args=args,
            data_collator=partial(collate, pad_to_multiple_of=args.pad_to_multiple_of),
            train_dataset=self._prepare(train_dataset),
            eval_dataset=self._prepare(eval_dataset),
            processing_class=setup.tokenizer,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # The loss arrives divided by the units of the whole step: Trainer must not divide it again.
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True
        self._place()

    def fresh(self, args: PreferenceConfig, train_dataset: Any, callbacks: Any) -> PreferenceTrainer:  # type: ignore[override]
        """A trainer of this model, by what trains on rows once they are there."""
        objective, tokenizer = self.objective.offline, cast(Any, self.processing_class)
        return PreferenceTrainer(self.model, objective, args, train_dataset, None, tokenizer, callbacks=callbacks)

    def _place(self) -> None:
        """Move what Trainer does not know to the device, and run the reference over the data if that is asked for."""
        device = self.args.device
        self.objective_state = self.initial_state()
        for scorer in reward_models(self.scorer):
            scorer.to(device)
        if isinstance(self.reference, FrozenModel):
            self.reference.model.to(device)
        if isinstance(self.reference, AsHandedIn):
            self.model.to(device)  # which Trainer leaves to later where weights will be spread over devices
        fixed = self.reference is not None and not self.args.sync_ref_model
        self.reference_check = spot_check(self.reference.weights(self.model)) if fixed else None  # type: ignore[union-attr]
        if self.args.sync_ref_model and self.reference is not None:
            self.add_callback(
                SyncReference(self.reference, self.args.ref_model_mixup_alpha, self.args.ref_model_sync_steps)
            )
        if self.args.precompute_ref_log_probs and self.reference is not None:
            self.train_dataset = with_ref_logps(self, self.train_dataset)
            self.eval_dataset = with_ref_logps(self, self.eval_dataset)
            self.reference = None  # its memory is the point of computing it once

    def initial_state(self) -> dict[str, Tensor]:
        """The objective's, where training is."""
        return {name: tensor.to(self.args.device) for name, tensor in self.objective.init_state().items()}

    # ---- one optimizer step ----------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one optimizer step, ready for the loss, and how many units they hold together."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self._state_before = self.objective_state
        self.model_wrapped.train()  # Trainer does so later, but quantised layers compute differently in the two modes
        batches = [self.annotated(batch) for batch in batches]
        if self.objective.couples and len(batches) > 1:
            batches, self.objective_state = self.coupled(batches)
        return batches, self.units(batches)

    def annotated(self, batch: Batch) -> Batch:
        """The batch, on the right device, with what frozen models say of it."""
        batch = cast(Batch, self._prepare_inputs(batch))
        if "reference" not in self.objective.needs or "ref_logps" in batch:
            return batch
        if self.reference is None:
            raise ValueError(
                "these rows have no precomputed ref_logps and the reference was released after precomputing: pass "
                "ref_model to the trainer, give it this dataset as eval_dataset, or set precompute_ref_log_probs=False"
            )
        with self.accelerator.autocast():
            out = self.reference(self.model_wrapped, batch, frozenset({"logps"}))
        return batch.with_columns(ref_logps=out.required("logps"))

    def coupled(self, batches: list[Batch], outs: list[Outputs] | None = None) -> tuple[list[Batch], dict[str, Tensor]]:
        """The batches of a step with what each row must know of the others, and the objective's next state."""
        if outs is None:
            outs = [self._quietly(batch) if self.objective.observes_outputs else Outputs() for batch in batches]
        return couple(self.objective, self.objective_state, batches, outs)

    def run(self, model: nn.Module, batch: Batch) -> Outputs:
        """What the objective reads of the model on this batch."""
        with self.accelerator.autocast():
            return forward(model, batch, self.objective.outputs_on(batch))

    @torch.no_grad()
    def _quietly(self, batch: Batch) -> Outputs:
        # Dropout would draw random numbers that a resumed run, which restores them after this pass, does not see drawn.
        with without_dropout(self.model_wrapped):
            return self.run(self.model_wrapped, batch)

    def units(self, batches: list[Batch]) -> dict[str, Tensor]:
        """How many of each unit the step holds, as the mean over ranks: DDP averages the gradients of ranks."""
        sizes = [self.objective.sizes(batch) for batch in batches]
        names = sorted(sizes[0])
        attended = [batch.prompt_mask.sum() + batch.response_mask.sum() for batch in batches]
        columns = [[size[name] for size in sizes] for name in names] + [attended]
        counts = exact(torch.stack([torch.stack(column).sum() for column in columns]))
        counts = self.accelerator.reduce(counts, "mean")
        self.state.num_input_tokens_seen += int(counts[-1] * self.args.world_size)
        return dict(zip(names, counts, strict=False))

    def compute_loss(  # type: ignore[override]
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one micro-batch, scaled so that those of the step and its ranks add up to the step's loss."""
        out = self.run(model, inputs)
        if self.objective.couples and DONE not in inputs:
            (inputs,), self.objective_state = self.coupled([inputs], [out])
        units = num_items_in_batch or self.units([inputs])
        loss = self.objective.loss(out, inputs)
        total = loss.reduced(units)
        if torch.isfinite(total):
            self._record(loss, inputs)
        else:  # its metrics would spoil the sums of the steps that are logged with it
            self.guard.suspects += inputs.index.tolist()
            total = total * torch.nan  # an infinite loss may have a finite gradient, by which ranks would not agree
        return (total, out) if return_outputs else total

    def _record(self, loss: Loss, batch: Batch) -> None:
        self.meter.add(loss.metrics)
        if len(loss.terms) > 1:
            sizes = self.objective.sizes(batch)
            self.meter.add({f"loss/{name}": metric for name, metric in term_metrics(loss, sizes).items()})

    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None
    ) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_loss += loss.item()
        # Trainer adds this to a running sum, which one NaN would spoil for good; the step itself is skipped below.
        return torch.where(torch.isfinite(loss), loss, torch.zeros_like(loss))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm that all ranks agree on; if it is not finite, nothing is learnt from this step."""
        norm = super()._get_grad_norm(model, grad_norm)
        searching = self.accelerator.scaler is not None
        if self.guard.rejects(norm, self.state.global_step + 1, searching=searching):
            model.zero_grad(
                set_to_none=True
            )  # an optimizer leaves weights without a gradient, and their moments, alone
            self.objective_state = self._state_before
        else:
            self.meter.add({"loss": Metric(torch.tensor(self._step_loss, dtype=torch.float64), torch.tensor(1))})
        self._step_loss = 0.0
        return norm

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        # Trainer adds what was not yet logged from rank 0 alone, but a rank's loss is only its share of the step's. It
        # also divides by all steps, those included that were skipped and added nothing.
        share = self.guard.share_taken or math.nan
        self._tr_loss = self.accelerator.reduce(self._tr_loss, "mean") / share
        self._total_loss_scalar /= share
        return super()._finalize_training(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["loss"] = math.nan  # unless a step of this window counted, which the meter knows
            logs |= self.meter.read() | {"num_tokens": float(self.state.num_input_tokens_seen)}
            if self.guard.skipped:
                logs["skipped_steps"] = float(self.guard.skipped)
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """6 per weight and token, each prompt once: forward and backward (Kaplan et al., arXiv:2001.08361)."""
        return 6 * int(inputs["prompt_mask"].sum() + inputs["response_mask"].sum()) * self._weights

    @property
    def _weights(self) -> int:
        if not hasattr(self, "_weight_count"):
            self._weight_count = sum(p.numel() for p in self.model.parameters())
        return self._weight_count

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Exact sums over rows: the result does not depend on batch size, ranks or the order of rows."""
        return Evaluation(self, dataloader, description).run(metric_key_prefix)

    def judge(self, logps: Any, rewards: Any) -> dict[str, float]:
        """What the user's `compute_metrics` says of log-probs and rewards, [N, K] each."""
        if self.compute_metrics is None:
            return {}
        return self.compute_metrics(EvalPrediction(predictions=(logps, rewards), label_ids=None))  # type: ignore[arg-type]
