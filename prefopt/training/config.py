"""What every training run can be told, whatever its objective: transformers' arguments plus data, model and reference.

A method's own hyperparameters stand beside its loss (`objectives/`) and are added to these in `trainers.py`.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar, cast

from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available

from ..data.encode import Encoding
from ..models.layout_selection import LAYOUTS
from ..objectives.base import Objective
from ..utils import secrets
from ..utils.options import option, worded
from . import trackers
from .setting_names import check_known
from .trl_settings import check_settings, not_here

AUTO = "auto"
REFERENCE_DTYPES = ("bfloat16", "float16", "float32")
Kind = TypeVar("Kind", bound=Objective)


@dataclass
class PreferenceConfig(TrainingArguments):
    """transformers' `TrainingArguments` with the defaults of preference optimization, and what it lacks for it."""

    objective_type: ClassVar[type[Objective] | None] = None
    """The objective whose hyperparameters these are, of arguments that have those of one."""
    _VALID_DICT_FIELDS = [
        *TrainingArguments._VALID_DICT_FIELDS,
        "model_init_kwargs",
        "chat_template_kwargs",
    ]

    # transformers' settings whose help texts are said shorter here; their defaults are transformers'.
    num_train_epochs: float = worded(TrainingArguments, "num_train_epochs", "How often each row is trained on.")
    max_steps: int = worded(TrainingArguments, "max_steps", "Optimizer steps in all, instead of num_train_epochs.")
    per_device_train_batch_size: int = worded(
        TrainingArguments, "per_device_train_batch_size", "Rows that a device processes at a time."
    )
    gradient_accumulation_steps: int = worded(
        TrainingArguments,
        "gradient_accumulation_steps",
        "Batches of each device that one optimizer step adds up.",
    )
    save_steps: float = worded(
        TrainingArguments, "save_steps", "Write a checkpoint every so many steps; below 1, a share of them."
    )

    learning_rate: float = option(1e-6, "The initial learning rate.")
    logging_steps: float = option(10, "Log every so many updates; below 1, a share of them.")
    gradient_checkpointing: bool | None = option(
        True, "Recompute activations in the backward pass: less memory, about 20%% slower."
    )
    bf16: bool | None = option(  # type: ignore[assignment]
        None, "Mixed precision in bfloat16; on where it can be. Losses stay in float32."
    )
    remove_unused_columns: bool = option(
        False, "Accepted for compatibility: encoding rows keeps the columns that losses need, and no others."
    )
    logging_nan_inf_filter: bool = option(
        False, "Accepted for compatibility: a loss that is not finite is never hidden. See max_skipped_steps."
    )

    overwrite_output_dir: bool = option(
        False, "Begin a new run in an output_dir that holds one, which is moved aside whole, to output_dir.1 or so."
    )
    resume_with_changes: list[str] | None = option(
        None,
        "Go on with a run though these differ from what it was begun with: names such as learning_rate, as the message "
        "has them that refuses it.",
    )

    use_liger_kernel: bool = not_here("use_liger_kernel")
    label_smoothing_factor: float = not_here("label_smoothing_factor")

    max_length: int | None = option(1024, "Longest prompt plus response, in tokens; None never truncates.")
    max_prompt_length: int | None = option(
        None, "How much of a prompt survives truncation; None is half of max_length."
    )
    truncation_mode: str | None = option(
        None,
        "None cuts the prompt first, keeping its end, then the response (the original DPO code); "
        "`keep_start` and `keep_end` cut the whole sequence.",
    )
    model_init_kwargs: dict[str, Any] | str | None = option(
        None, "Arguments for from_pretrained when the model is given by name."
    )
    float32_weights: bool = option(
        True,
        "Train a model object with 16-bit weights in float32, cast in place (of one with an adapter, the adapter "
        "alone). Off trains them as they are, with a warning of how many cannot move. A model given by name has the "
        "dtype that from_pretrained is asked for, float32 by default.",
    )
    trust_remote_code: bool = option(False, "Run code that comes with the model.")
    chat_template_path: str | None = option(None, "A Jinja chat template file, or a model whose template to use.")
    chat_template_kwargs: dict[str, Any] | str | None = option(
        None,
        'Values of variables that the chat template reads, such as {"enable_thinking": false}, in training, sampling '
        "and evaluation. They become defaults in the template that is saved with the model. A column of this name wins "
        "over them in its row.",
    )
    eos_token: str | None = option(None, "Use this token as the end of a response.")
    pad_token: str | None = option(None, "Use this token as padding.")
    text_prompts: str = option(
        "auto",
        "What a prompt in plain text is: user (the user's turn, in the chat template), verbatim (text that the answer "
        "goes on with, as in TRL), or auto: user where the tokenizer has a chat template.",
    )
    dataset_num_proc: int | None = option(None, "Processes for tokenising the dataset.")
    max_tokens_per_batch: int | str | None = option(
        None,
        "Instead of per_device_train_batch_size rows, which is then ignored, a training batch on a device "
        "holds as many rows of similar length as fit in so many tokens, prompts counted once. Also for "
        "precompute_ref_log_probs. A longer row is a batch of its own. `auto` is what per_device_train_batch_size "
        "rows have on average, or less where memory has no room for it.",
    )
    predict_memory: bool = option(
        True,
        "Before the first step, say what memory its peak will need; in one process, of rows that are there. Three "
        "passes over 144 tokens.",
    )
    pad_to_multiple_of: int | str | None = option(
        None, "Round padded lengths up to a multiple of it; `auto` and None do not."
    )
    layout: str = option(
        "auto",
        "How responses lie in the model's input: auto packs them without padding, each prompt once, if a "
        "trial on the model shows that it may; padded always works; segments and dense force a packed attention.",
        choices=list(LAYOUTS),
    )
    disable_dropout: bool = option(True, "Set the dropout of policy and reference to zero.")
    reference_dtype: str | None = option(
        None,
        "Data type of the reference's weights, where it has its own: a copy of the policy, or a ref_model given by "
        "name. None is the policy's, or model_init_kwargs'. bfloat16 takes half of float32's memory, and moves the "
        "reference by rounding; log-probs stay in float32.",
        choices=list(REFERENCE_DTYPES),
    )
    precompute_ref_log_probs: bool = option(
        False, "Run the reference once over the data before training, and cache the result."
    )
    precompute_ref_batch_size: int | None = option(
        None, "Batch size of that pass; None is max_tokens_per_batch if given, else the evaluation's."
    )
    sync_ref_model: bool = option(False, "Let the reference follow the policy (TR-DPO, arXiv:2404.09656).")
    ref_model_mixup_alpha: float = option(0.6, "Weight of the policy at each such step.")
    ref_model_sync_steps: int = option(512, "Optimizer steps between them.")
    max_skipped_steps: int = option(3, "A step whose gradient is not finite is skipped; so many in a row stop the run.")

    signal_grace: float = option(
        30.0,
        "On SIGTERM, SIGHUP and Ctrl-C the step is finished and a checkpoint saved, within so many seconds at most; "
        "the exit status is 143, 129 or 130. A second signal ends the run at once.",
    )
    enable_jit_checkpoint: bool = option(False, "Accepted for compatibility: signals save a checkpoint anyway.")

    def __new__(cls, *args: Any, **given: Any) -> PreferenceConfig:
        if "__dataclass_fields__" in vars(cls):  # one that a subclass makes by itself may take what it likes
            check_known(cls, given)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if not self.signal_grace > 0:
            raise ValueError(f"signal_grace={self.signal_grace}: give the seconds that a signal waits for a checkpoint")
        self.enable_jit_checkpoint = False  # which would end the run as if it were done
        if self.bf16 is None:  # transformers refuses bf16 on a machine that has no GPU for it and was not told so
            self.bf16 = not self.fp16 and (self.use_cpu or is_torch_bf16_gpu_available())
        if self.bf16_full_eval or self.fp16_full_eval:
            raise ValueError(
                "full half-precision evaluation rounds log-probs beyond use: leave it off, bf16=True is enough"
            )
        check_settings(self)
        # What it would mean to Trainer is done when rows are encoded, after which it would drop what losses need.
        self.remove_unused_columns = False
        self.logging_nan_inf_filter = False
        self.pad_to_multiple_of = _multiple(self.pad_to_multiple_of)
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy={self.train_sampling_strategy!r}: rows are read in `random` or `sequential` "
                "order; max_tokens_per_batch puts rows of similar length together"
            )
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r}: choose one of {', '.join(LAYOUTS)}")
        if self.reference_dtype not in (None, *REFERENCE_DTYPES):
            raise ValueError(
                f"reference_dtype={self.reference_dtype!r}: choose one of {', '.join(REFERENCE_DTYPES)}, or None for "
                "the policy's"
            )
        if self.sync_ref_model and self.reference_dtype in ("bfloat16", "float16"):
            raise ValueError(
                f"sync_ref_model moves the reference by shares of a difference, which {self.reference_dtype} would "
                "round away: leave reference_dtype out, or set it to float32"
            )
        self.max_tokens_per_batch = _budget(self.max_tokens_per_batch)
        if self.max_tokens_per_batch is not None and self.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size changes a number of rows, which max_tokens_per_batch ignores: drop one"
            )
        if self.sync_ref_model and self.precompute_ref_log_probs:
            raise ValueError(
                "sync_ref_model changes the reference during training, so its log-probs cannot be precomputed"
            )
        with warnings.catch_warnings():
            # transformers deprecates the name that its own older versions, and TRL, still need.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated")
            super().__post_init__()
        self._without_selective()
        trackers.check_names(cast(list[str], self.report_to))
        _check_sizes(self)
        if self.objective_type is not None:
            objective_from(self, self.objective_type)  # which refuses hyperparameters out of their range
        secrets.remember(self)

    # ---- no secret leaves them -------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds, such as the training_args.bin in every folder that Trainer saves: no secret."""
        return {name: _kept(name, value) for name, value in vars(self).items()}

    def __copy__(self) -> PreferenceConfig:
        """A copy within the process, which has the secrets."""
        return self._filled(vars(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> PreferenceConfig:
        return self._filled(copy.deepcopy(vars(self), memo))

    def _filled(self, values: dict[str, Any]) -> PreferenceConfig:
        made = object.__new__(type(self))
        vars(made).update(values)
        return made

    def to_dict(self) -> dict[str, Any]:
        """As transformers', which trackers show, without secrets at any depth."""
        return cast(dict[str, Any], secrets.without_secrets(super().to_dict()))

    def __str__(self) -> str:
        return secrets.redacted(super().__str__())

    __repr__ = __str__

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.__repr__ = PreferenceConfig.__str__  # type: ignore[assignment]  # or @dataclass would write one

    def _without_selective(self) -> None:
        """Take out what TRL reads from these arguments of a checkpoint, and torch does not know."""
        kwargs: dict[str, Any] = dict(self.gradient_checkpointing_kwargs or {})  # type: ignore[arg-type]
        if kwargs.pop("selective", False):
            raise ValueError(
                "gradient_checkpointing_kwargs: selective=True is not offered: leave it out, and whole layers are "
                "recomputed, or set gradient_checkpointing=False, and none are"
            )
        if self.gradient_checkpointing_kwargs:
            self.gradient_checkpointing_kwargs = self.activation_checkpointing_kwargs = kwargs

    @property
    def encoding(self) -> Encoding:
        """The truncation rule that these arguments ask for."""
        return Encoding(
            max_length=self.max_length,
            max_prompt_length=self.max_prompt_length,
            truncation_mode=self.truncation_mode,
        )

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """What goes to `from_pretrained`, with old names replaced."""
        kwargs = {"trust_remote_code": self.trust_remote_code, **(self.model_init_kwargs or {})}  # type: ignore[dict-item]
        if "torch_dtype" in kwargs:
            warnings.warn("model_init_kwargs: `torch_dtype` is now `dtype`", FutureWarning, stacklevel=3)
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        return kwargs


def objective_from(config: Any, kind: type[Kind]) -> Kind:
    """The objective whose hyperparameters a config carries.

    Raises:
        ValueError: one of them is out of its range.
    """
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def _check_sizes(args: PreferenceConfig) -> None:
    """Refuse sizes with which nothing can be trained."""
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name}={getattr(args, name)} must be at least 1")
    if args.learning_rate < 0:
        raise ValueError(f"learning_rate={args.learning_rate} must not be below 0")
    if args.num_train_epochs <= 0 and args.max_steps <= 0:
        raise ValueError(
            f"num_train_epochs={args.num_train_epochs:g} trains nothing: give a number above 0, or max_steps"
        )


def _kept(name: str, value: Any) -> Any:
    """An argument as a file may hold it: one that is lacking is taken from the environment again, or not at all."""
    if type(value) is str:
        return None if secrets.is_secret_name(name) else secrets.redacted(value)
    return secrets.without_named(value) if isinstance(value, dict) else value


def _multiple(given: int | str | None) -> int | None:
    """`pad_to_multiple_of` as a number; a command line and TRL's default have it as text."""
    if given is None or str(given).lower() in ("auto", "none", "null"):
        return None
    if not str(given).isdecimal() or int(given) < 1:
        raise ValueError(f"pad_to_multiple_of={given!r}: give a number of tokens, at least 1, or `auto` for none")
    return int(given)


def _budget(given: int | str | None) -> int | str | None:
    """`max_tokens_per_batch` as a number, None or AUTO; a command line has it as text."""
    if given is None or str(given).lower() in ("none", "null"):
        return None
    if str(given).lower() == AUTO:
        return AUTO
    if not str(given).isdecimal() or int(given) < 1:
        raise ValueError(
            f"max_tokens_per_batch={given!r}: a batch holds at least one token, so give a number, or `{AUTO}`"
        )
    return int(given)
