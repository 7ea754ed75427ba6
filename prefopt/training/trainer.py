"""The one trainer: any objective, over transformers' Trainer, whose loop it leaves as it is.

Each override hands over to one of the objects that a trainer has, which is where to read on:

    step         what a step computes: losses as sums with units, a frozen reference, steps that are not finite
    batching     which rows form a batch
    source       where rows come from: they are there, are generated in iterations, or are PPO's rollouts
    health       what is noted of the run for the doctor, and said of it at its start and end
    trained      what is optimized and saved: one model, or a policy and its critic
    checkpoints  what is written, whole or absent, and which run it belongs to
"""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import EvalLoopOutput

from ..batch import Batch
from ..data.collate import collate
from ..models.checkpoint_names import conversions_of
from ..models.reference import FrozenModel, PolicyBeforeTraining, Reference, SyncReference
from ..models.sharding import keep_sharded, shard, shard_policy
from ..models.weights import spot_check
from ..models.whole_weights import load_whole_weights, whole_weights
from ..models.wrappers import unwrap_parallel
from ..objectives.base import Objective
from ..objectives.checks import checked_objective
from ..scoring.combine import reward_models
from ..utils.signals import listener, listening
from . import trackers
from .build import build, note_precision
from .built import Built
from .checkpointing import Checkpoints, ended
from .config import AUTO, PreferenceConfig
from .content import deciding_rows, weights_hash
from .dataloaders import Batching
from .evaluation import Evaluation
from .final_model import scratch
from .fitting import listed, remedies
from .given_rows import given_rows, purpose_of
from .health import Health, check_models
from .interruption import asked_by_any, told
from .launch import check_engine, check_launch, check_lengths, launch_in_words
from .lineage import Lineage, names_given
from .log_lines import make_readable
from .memory import MemoryForecast
from .metrics import MetricsAccumulator, encoding_metrics
from .nonfinite import NonFiniteGuard
from .out_of_memory import StepRecovery, room_for_steps
from .output_folder import check_apart
from .parts import source_for, trained_by
from .places import check_places
from .prepared_rows import as_rows, prepare_dataset
from .reference_logps import ReferencePass
from .result_files import write_metrics, write_state
from .sharded_optimizer import FOLDER, load_optimizer, save_optimizer
from .source import eval_loader
from .step import StepRunner
from .summary import summary_of
from .unreadable import named

logger = logging.getLogger(__name__)


class PreferenceTrainer(Trainer):
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
        scorer: for objectives that generate responses: the path, hub id or model of a reward model, a function of
            (prompts, responses), or a scorer. The rows then give prompts, and answers where the objective asks for
            them.
        critic: for objectives that train one: the path, hub id or model of a reward model to start it from; by default
            the scorer's, or a new head on the policy's backbone where that is none or has another tokenizer.
        ptx_dataset: good answers for objectives that mix them in; by default the best ones of `train_dataset`.
        compute_metrics: receives `EvalPrediction(predictions=(logps, rewards))`, each [N, K].
        callbacks, optimizers, optimizer_cls_and_kwargs: as Trainer's.

    Raises:
        ValueError: a combination that would train something else than was meant; the message says what to pass.
    """

    args: PreferenceConfig
    model: Any
    train_dataset: Any
    eval_dataset: Any

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
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
    ):
        check_places(
            type(self),
            {
                "model": model,
                "objective": objective,
                "args": args,
                "train_dataset": train_dataset,
                "eval_dataset": eval_dataset,
                "processing_class": processing_class,
                "ref_model": ref_model,
                "peft_config": peft_config,
                "scorer": scorer,
                "critic": critic,
                "ptx_dataset": ptx_dataset,
                "callbacks": callbacks,
            },
        )
        args = PreferenceConfig(output_dir="prefopt-output") if args is None else args
        if not isinstance(args, PreferenceConfig):
            raise TypeError(f"{type(self).__name__} takes args of type PreferenceConfig, not {type(args).__name__}")
        if args.n_gpu > 1:
            logger.warning("one process uses one GPU: launch with torchrun to use all %d", args.n_gpu)
            args._n_gpu = 1  # Trainer would split batches with DataParallel, which cannot split a loss with units
        check_apart(
            Path(str(args.output_dir)), {"model": model, "ref_model": ref_model, "critic": critic, "scorer": scorer}
        )
        check_launch(args)
        trackers.check_installed(cast(list[str], args.report_to))
        listener().meet()
        names = names_given(model, ref_model, scorer, train_dataset, eval_dataset)
        objective = checked_objective(objective)
        train_dataset, eval_dataset = given_rows(train_dataset, eval_dataset, args, purpose_of(objective))
        built = build(
            model,
            objective,
            args,
            processing_class,
            ref_model=ref_model,
            peft_config=peft_config,
            quantization_config=quantization_config,
            scorer=scorer,
            critic=critic,
            demonstrations=ptx_dataset,
            rows=train_dataset,
            held_out=eval_dataset,
            unused=(compute_metrics, optimizers, optimizer_cls_and_kwargs),
        )
        self.objective: Objective = built.objective
        self.scorer = built.scorer
        self.prepare_rows = partial(as_rows if built.scorer else prepare_dataset, built=built, args=args)
        encoding: Counter[str] = Counter()
        noting = self.prepare_rows if built.scorer else partial(self.prepare_rows, counts=encoding)
        self.batching = Batching(args, partial(collate, pad_to_multiple_of=cast(Any, args.pad_to_multiple_of)))
        super().__init__(
            model=built.model,
            args=args,
            data_collator=self.batching.collate,
            train_dataset=noting(train_dataset),
            eval_dataset=self.prepare_rows(eval_dataset),
            processing_class=built.tokenizer,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )
        make_readable(self)
        check_engine(self.accelerator, built.objective)
        # The loss arrives divided by the units of the whole step: Trainer must not divide it again.
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True
        guard = NonFiniteGuard(args.max_skipped_steps, skips=not self.is_deepspeed_enabled)
        self.step = StepRunner(built.objective, built.reference, self.accelerator, MetricsAccumulator(), guard)
        self.step.remedy = lambda: listed(self._remedies())
        self.recovery = StepRecovery(
            self.step,
            room_for_steps(self.accelerator, args),
            lambda: self.model.zero_grad(set_to_none=True),
            lambda: f"step {self.state.global_step + 1}",
            self.step.remedy,
        )
        self.memory = MemoryForecast(self, built.scorer)
        self.trained = trained_by(lambda: self.model, args, self.step)
        note_precision(self.model, objective, args, self.trained.rates(), optimizers[0] or optimizer_cls_and_kwargs)
        self.source = source_for(self, built)
        self._saved_at: int | None = None
        """The step of the last checkpoint of this call of train()."""
        spread = self.is_fsdp_enabled or self.is_deepspeed_enabled
        check_lengths(self.model, self.train_dataset, self.eval_dataset, spread)
        self._to_device(built)
        check_models(self.model, built.reference, built.scorer)
        check = self._watch_reference(given=ref_model is not None)
        self.lineage = Lineage(self, names)
        self.checkpoints = Checkpoints(
            args, self.trained, self.step, built.tokenizer, check, self._own_rows, self.lineage, self._description
        )
        self._precompute_reference()
        self.health = Health(args, self.step, lambda: self.model, built.tokenizer, encoding)

    @property
    def reference(self) -> Reference | None:
        """What log-ratios are taken against; None where there is none, or its log-probs are precomputed."""
        return self.step.reference

    @property
    def launch(self) -> str:
        """What the run is trained on, for people: processes, engine, rows of a step, precision, where weights are."""
        return launch_in_words(self.accelerator, self.args, self.get_total_train_batch_size(self.args), self.model)

    def _remedies(self) -> list[str]:
        own = isinstance(self.reference, FrozenModel)
        return remedies(self.args, self.model, self.objective, own_reference=own) or ["a smaller model"]

    def _to_device(self, built: Built) -> None:
        """Move what Trainer does not know to the device."""
        for scorer in reward_models(built.scorer):
            scorer.to(self.args.device)
            shard(scorer.model, self.accelerator)
        if isinstance(built.reference, FrozenModel):
            shard(built.reference.model.to(self.args.device), self.accelerator)
        if isinstance(built.reference, PolicyBeforeTraining):
            # Trainer leaves this to later where weights will be spread over devices.
            shard_policy(self.model.to(self.args.device), self.accelerator)
        keep_sharded(self.model, self.accelerator)

    def _watch_reference(self, given: bool) -> dict[str, str | None]:
        """Let the reference follow the policy, if asked for; else what its weights are known by.

        Of one that was given that is all of them; another one is made of the policy, whose weights are known.
        """
        args, reference = self.args, self.reference
        if reference is None:
            return {"reference": None}
        if not args.sync_ref_model:
            frozen = reference.model if given and isinstance(reference, FrozenModel) else None
            more = {} if frozen is None else {"reference weights": weights_hash(frozen)}
            return {"reference": spot_check(reference.weights(self.model)), **more}
        self.add_callback(SyncReference(reference, args.ref_model_mixup_alpha, args.ref_model_sync_steps))
        return {"reference": None}

    def _precompute_reference(self) -> None:
        """Run the reference over the data, and release it, if that is asked for."""
        if not self.args.precompute_ref_log_probs or self.reference is None:
            return
        reference = ReferencePass(self.step, self.model, cast(Any, self.processing_class), self.args)
        self.train_dataset, self.eval_dataset = reference.run(self.train_dataset, self.eval_dataset)
        self.step.reference = None  # its memory is the point of computing it once

    # ---- a training ------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; `True` resumes from the newest checkpoint that is complete, or goes on with the iterations.

        "auto" does so where there is something to go on with, and begins where there is nothing. SIGTERM, SIGHUP and
        Ctrl-C end it with a checkpoint of the step that they come in, see `signal_grace`.

        Raises:
            Interrupted: a signal has ended it; Ctrl-C's is a KeyboardInterrupt too.
            FileNotFoundError: nothing complete to resume from.
            ValueError: the checkpoint, or what is in `output_dir`, belongs to another run; another program writes
                there; or the objective cannot be trained on these rows by these arguments.
        """
        per_step = self.get_total_train_batch_size(self.args)
        if self.args.max_tokens_per_batch != AUTO:
            logger.info("%s", self.launch)
        if not self.recovery.room.recovers:
            logger.info(
                "a step that memory has no room for ends this run: it is computed in parts by one process alone"
            )
        with (
            self.checkpoints.claimed(resume_from_checkpoint) as wanted,
            listening(self.args.signal_grace, lambda ending: logger.warning("%s", ending)),
            told(lambda: self.source.standing()),
            listener().deferred(),
        ):
            self.health.begin(self.train_dataset, self.eval_dataset, per_step, bool(wanted))
            with self.health.watching(lambda: self.state):
                result = self.source.train(lambda wanted: self._train(wanted, *args, **kwargs), wanted)
            self.health.end(self.state)
        return result

    def _train(self, resume_from: str | bool | None, *args: Any, **kwargs: Any) -> Any:
        if self.args.max_tokens_per_batch == AUTO:
            self.memory.settle(resume_from)
            logger.info("%s", self.launch)
        self.memory.tell(self._remedies)
        folder = self.checkpoints.to_resume(resume_from)
        self.source.resumes(None if folder is None else Path(folder))
        self.step.guard.start()
        self._saved_at = None
        result = super().train(folder, *args, **kwargs)
        if math.isnan(result.training_loss):
            result.metrics.pop("train_loss", None)  # no step was left, or none was learnt from
        result.metrics.update(encoding_metrics(self.health.encoding) | self.recovery.metrics())
        return result

    def _own_rows(self) -> Any:
        """The rows to train on, without the reference's log-probs where these were computed here."""
        return self._less_computed(self.train_dataset)

    def _less_computed(self, rows: Any) -> Any:
        computed = self.args.precompute_ref_log_probs and "ref_logps" in getattr(rows, "column_names", ())
        return rows.remove_columns("ref_logps") if computed else rows

    def _description(self) -> dict[str, Any]:
        """What must be the same to go on, beside what the checkpoints know."""
        return {**self.source.description(), **deciding_rows(self.args, self.eval_dataset, self._less_computed)}

    def get_train_dataloader(self) -> Any:
        """The batches of a run: rows by number or by tokens, of a dataset, of iterations or of rollouts."""
        self.memory.settle(None)
        return self.source.train_loader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """This rank's share of the rows; every row is in exactly one rank's share."""
        return eval_loader(self, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return self.get_eval_dataloader(test_dataset)

    @property
    def train_batch_size(self) -> int:
        """Rows of a batch on a device, as Trainer may have lowered them to fit into memory."""
        return self._train_batch_size

    def get_total_train_batch_size(self, args: Any) -> int:
        """Rows of an optimizer step, from which Trainer derives its speed."""
        return self.batching.rows_per_step(super().get_total_train_batch_size(args), self._train_batch_size)

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> tuple[int, int]:
        epochs, batches_to_skip = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)  # a checkpoint's state brings when its run was to log and save
        own = self.lr_scheduler is not None and not self._created_lr_scheduler
        self.health.go_on_from(self.state.global_step, max_steps, own)
        begun = self.source.begun(batches_to_skip)
        if not ended(self.state):
            return epochs, begun
        logger.info("the run had ended after step %d: no further one is trained", self.state.global_step)
        return sys.maxsize, begun  # beyond the last epoch

    # ---- one optimizer step ----------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one optimizer step, ready for the loss, and how many units they hold together."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self.recovery.begin()
        batches, units, tokens = self.step.prepare(self.model_wrapped, batches)
        self.state.num_input_tokens_seen += tokens
        return batches, units

    def compute_loss(  # type: ignore[override]
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one micro-batch, scaled so that those of the step and its ranks add up to the step's loss."""
        loss, outputs = self.step.loss(model, inputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None
    ) -> Tensor:
        """One micro-batch: its loss by the units of the whole step, and the gradient."""
        own = super().training_step
        return self.recovery.run(
            model, inputs, lambda part: self.step.backpropagated(own(model, part, num_items_in_batch))
        )

    def create_optimizer(self, model: Any = None) -> Any:
        begun = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if not begun:
            self.trained.group(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = cast(Any, self.trained.schedule(optimizer, num_training_steps))
            self._created_lr_scheduler = self.lr_scheduler is not None
        return super().create_scheduler(num_training_steps, optimizer)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = self.trained.clip()
        return super()._clip_grad_norm(model) if norm is None else norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm that all ranks agree on; if it is not finite, nothing is learnt from this step."""
        self.trained.note_rates(self.optimizer)
        norm = super()._get_grad_norm(model, grad_norm)
        if not self.step.accept(norm, self.state.global_step + 1):
            # An optimizer leaves weights without a gradient, and their moments, alone.
            model.zero_grad(set_to_none=True)
        return norm

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        # Trainer adds what was not yet logged from rank 0 alone, but a rank's loss is only its share of the step's. It
        # also divides by all steps, those included that were skipped and added nothing.
        trained = self.state.global_step > self._initial_global_step
        share = self.step.guard.share_taken if trained else 0.0
        share = share or math.nan
        self._tr_loss = self.accelerator.reduce(self._tr_loss, "mean") / share
        self._total_loss_scalar /= share
        return super()._finalize_training(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if math.isnan(logs.get("train_loss", 0.0)):
            del logs["train_loss"]
        if "loss" in logs:
            logs["loss"] = math.nan  # unless a step of this window counted, which the metrics know
            logs |= self.step.metrics.read() | {"num_tokens": float(self.state.num_input_tokens_seen)}
            if self.step.guard.skipped:
                logs["skipped_steps"] = float(self.step.guard.skipped)
        self.source.complete(logs)
        self.trained.complete(logs)
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

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Exact means over rows; with a scorer, means over generated responses, one to each prompt of the rows."""
        return self.source.evaluate(super().evaluate, eval_dataset, ignore_keys, metric_key_prefix)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, on rows; a trainer that generates has no rows to predict."""
        return self.source.predict(super().predict, test_dataset, *args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Exact sums over rows: the result does not depend on batch size, ranks or the order of rows."""
        model, metrics = self.model_wrapped, self.compute_metrics
        return Evaluation(self.step, model, dataloader, metrics, self._progressed).run(metric_key_prefix)

    def _progressed(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    # ---- on disk ---------------------------------------------------------------------------------------------------

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if asked := asked_by_any(self.accelerator):
            self.control.should_save |= self._saved_at != self.state.global_step
        self.health.stepped(self.state.global_step)
        self.source.before_saving()
        super()._maybe_log_save_evaluate(*args, **kwargs)
        listener().check(asked and self._saved_at == self.state.global_step)

    def _get_output_dir(self, trial: Any) -> str:
        return self.checkpoints.output_dir(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir, save = Path(self._get_output_dir(trial)), partial(super()._save_checkpoint, model, trial)
        self.checkpoints.write(save, self.source.save, run_dir, self.state, self.optimizer)
        self._saved_at = self.state.global_step
        self.source.saved()

    def save_state(self) -> None:
        """Write the run's state, whole or not at all."""
        if self.args.should_save:
            write_state(self._output, self.state)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write metrics of a split, and those of all together, whole or not at all."""
        if self.is_world_process_zero():
            write_metrics(self._output, split, metrics, combined)
            self.lineage.refresh(self.trained.saved(self._output))

    @property
    def _output(self) -> Path:
        return Path(str(self.args.output_dir))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's, in a folder that `from_pretrained` loads, also where FSDP spreads weights over processes."""
        if not self.is_fsdp_enabled:
            return super().save_model(output_dir, _internal_call)
        folder = Path(output_dir or self._output)
        own, beside = scratch(folder), scratch(folder / "beside")
        with whole_weights(self.model, own) as weights, self.trained.whole_beside(beside):
            self._save(str(folder), state_dict=weights)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """The model as plain transformers or PEFT loads it; see `Checkpoints.save_model`."""
        folder = Path(output_dir or str(self.args.output_dir))
        self.checkpoints.save_model(partial(super()._save, state_dict=state_dict), folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load = partial(super()._load_from_checkpoint, model=model)
        if self._loads_by_own_names:
            load = partial(self._load_whole, model)
        self.checkpoints.load(load, Path(resume_from_checkpoint))

    @property
    def _loads_by_own_names(self) -> bool:
        """Whether the model holds its weights in parts, or otherwise than its files do, which Trainer does not know."""
        inner = unwrap_parallel(self.model)
        return self.is_fsdp_enabled or bool(conversions_of(inner))

    def _load_whole(self, model: nn.Module | None, folder: str) -> None:
        load_whole_weights(self.model if model is None else model, Path(folder))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        # Trainer's would keep the weights once more, in parts; the whole ones that are there are loaded by parts.
        save_optimizer(self.model, cast(Any, self.optimizer), Path(output_dir))
        if self.args.should_save:
            torch.save(cast(Any, self.lr_scheduler).state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with named(checkpoint, "optimizer.*", "scheduler.pt"):
            if checkpoint is not None and self.is_fsdp_enabled:
                return self._load_sharded(Path(checkpoint))
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.is_deepspeed_enabled:
            self.checkpoints.load_extras(Path(checkpoint))

    def _load_sharded(self, checkpoint: Path) -> None:
        """Load optimizer and schedule, if the checkpoint has them."""
        if (checkpoint / FOLDER).is_dir():
            load_optimizer(self.model, cast(Any, self.optimizer), checkpoint)
            schedule = torch.load(checkpoint / SCHEDULER_NAME, weights_only=True)
            cast(Any, self.lr_scheduler).load_state_dict(schedule)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with named(checkpoint, "rng_state*.pth"):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        if not self.source.trusts_best:
            return
        if self.trained.loads_alone and not self._loads_by_own_names:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(cast(str, self.state.best_model_checkpoint))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        self.checkpoints.check_loaded(load_result)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card of the model that is pushed to the hub: `training/card.py` wrote it as the model was saved."""
        if self.is_world_process_zero():
            self.lineage.refresh(self.trained.saved(self._output))

    def summary(self) -> str:
        """What was learnt and where it is, and how to load, use, measure and go on with it: `print(trainer.summary())`.

        The same stands at the end of a training command.
        """
        return summary_of(self)

    # ---- for its source --------------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the step that was done last."""
        self._save_checkpoint(self.model_wrapped, None)

    def load_checkpoint(self, name: str) -> None:
        """Take the weights and the objective's state of a checkpoint of this run."""
        self._load_from_checkpoint(str(Path(str(self.args.output_dir)) / name))

    def keep_checkpoint(self, name: str | None) -> None:
        """Never delete this checkpoint for its age."""
        self.checkpoints.kept = name

    def trainer_on(self, rows: Any, args: PreferenceConfig, callbacks: list[TrainerCallback]) -> PreferenceTrainer:
        """A trainer of this model by what trains on rows once they are there."""
        tokenizer = cast(Any, self.processing_class)
        return PreferenceTrainer(self.model, self.objective.offline, args, rows, None, tokenizer, callbacks=callbacks)

    def save_policy(self, folder: str) -> None:
        """As `save_model`, and never to the hub."""
        self.save_model(folder, _internal_call=True)

    def load_policy(self, folder: str) -> None:
        """Take the weights of a model that was saved."""
        self._load_from_checkpoint(folder)
