"""From what a user passes to a trainer to what training needs: model, tokenizer, reference and scorer."""

from __future__ import annotations

import logging
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from transformers import PreTrainedTokenizerBase, ProcessorMixin, set_seed

from ..data.template_variables import set_template_defaults
from ..models.critic import attach_critic, detach_critic, new_critic, parameter_groups
from ..models.layout_selection import request_layout
from ..models.load import load_policy, load_scorer
from ..models.modes import disable_dropout, is_quantized, keep_differentiable, make_trainable, stop_rescaling
from ..models.new_adapter import add_adapter, check_trains, warn_of_start
from ..models.precision import train_in_float32, warn_of_half_precision, warn_of_reference
from ..models.reference import FrozenModel, Reference, reference_for
from ..models.rotary import restore_frequencies
from ..models.shared_critic import share_critic
from ..models.tokenizers import load_tokenizer
from ..models.wrappers import check_adapter, unwrap
from ..objectives.base import Objective
from ..objectives.checks import checked_objective
from ..objectives.sampling_arguments import SamplingArguments
from ..scoring.load import scorer_from
from ..scoring.reward_model import RewardModelScorer
from ..scoring.scorer import Scorer
from .built import Built, models_of
from .config import PreferenceConfig
from .generating import check_generating
from .given_rows import check_rows
from .prepared_rows import prepare_demonstrations

logger = logging.getLogger(__name__)

BALANCING = ("router_aux_loss_coef", "aux_loss_coef")
"""What configs call the weight of a loss that balances experts; the latter is JetMoe's."""
STEP_IS_RATE = frozenset(
    f"{paged}{name}"
    for paged in ("", "paged_")
    for name in (
        *("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused"),
        *("adamw_torch_4bit", "adamw_torch_8bit", "adamw_bnb_8bit", "adamw_8bit", "adamw_32bit"),
        *("lion_8bit", "lion_32bit"),
    )
)
"""Names, in TrainingArguments' `optim`, of optimizers whose step is about the learning rate, whatever the gradient."""


def build(
    model: Any,
    objective: str | Objective,
    args: PreferenceConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    ref_model: Any = None,
    peft_config: PeftConfig | None = None,
    quantization_config: Any = None,
    scorer: Any = None,
    critic: Any = None,
    demonstrations: Any = None,
    rows: Any = None,
    held_out: Any = None,
    unused: tuple[Any, Any, Any] = (None, (), None),
) -> Built:
    """Load what is given by name, add the adapter, and freeze the reference before anything trains.

    Args:
        demonstrations: raw rows of good answers to mix in; by default the best answers of `rows`, the training data.
        held_out: the rows to evaluate on.
        unused: `compute_metrics`, `optimizers` and `optimizer_cls_and_kwargs`, which make no sense where responses are
            generated.
    """
    set_seed(args.seed)  # a new reward head or adapter starts the same whatever ran before
    objective = checked_objective(objective)
    _check_arguments(objective, args)
    _check_models(objective, tokenizer, ref_model, peft_config, critic)
    scorer = scorer_for(objective, scorer)
    if scorer is not None:
        check_generating(args, *unused)
    else:
        check_rows(objective, rows, held_out)
    tokenizer = tokenizer_for(model, args, tokenizer)
    loaded = _load(model, objective, args, tokenizer, quantization_config)
    _note_balancing(loaded, args)
    _allow_unused(loaded, args)
    detach_critic(loaded)  # of an earlier training
    if is_quantized(loaded):
        keep_differentiable(loaded)
    if peft_config is not None:
        loaded = add_adapter(loaded, peft_config, gradient_checkpointing=bool(args.gradient_checkpointing))
        if objective.trains != "scorer":
            warn_of_start(loaded)
    check_trains(loaded)
    make_trainable(loaded)
    if args.float32_weights and not isinstance(model, str):
        train_in_float32(loaded)
    if args.disable_dropout:
        disable_dropout(loaded)
    reference = _reference(loaded, objective, args, ref_model, fresh=peft_config is not None)
    if objective.trains == "actor-critic":
        _add_critic(loaded, objective, args, tokenizer, _critic_source(critic, scorer, tokenizer))
    for each in models_of(loaded, reference):
        request_layout(unwrap(each), args.layout)
    built = Built(objective, loaded, tokenizer, reference, scorer)
    return replace(built, demonstrations=prepare_demonstrations(demonstrations, rows, built, args))


def scorer_for(objective: Objective, scorer: Any) -> Scorer | None:
    """The scorer that an objective generates for, None where it trains on the rows as they are.

    Raises:
        ValueError: it needs one that is missing, or has no use for the one that is given.
    """
    name = type(objective).__name__
    if scorer is not None and not isinstance(objective, SamplingArguments):
        raise ValueError(
            f"{name} generates no responses: leave scorer out, or take rejection-sampling, rrhf or ppo-max"
        )
    if scorer is None and "scorer" in objective.needs:
        raise ValueError(
            f"{name} generates responses and nothing scores them: pass scorer=, a reward model (path, hub id or model) "
            "or a function of (prompts, responses)"
        )
    return None if scorer is None else scorer_from(scorer)


def _critic_source(critic: Any, scorer: Scorer | None, tokenizer: PreTrainedTokenizerBase) -> Any:
    """What a critic starts from: what was given, the scorer's reward model if it reads the policy's ids, or nothing."""
    if critic is not None or scorer is None:
        return critic
    if isinstance(scorer, RewardModelScorer) and scorer.reads(tokenizer):
        return scorer.model
    why = "has another tokenizer than the policy" if isinstance(scorer, RewardModelScorer) else "is no reward model"
    logger.warning(
        "scorer %r %s: the critic starts from the policy and says 0; pass critic= to start it from a reward model",
        scorer.name,
        why,
    )
    return None


def _add_critic(
    model: Any, objective: Objective, args: PreferenceConfig, tokenizer: PreTrainedTokenizerBase, source: Any
) -> None:
    """Put a critic beside the policy, or on its backbone."""
    if getattr(objective, "share_critic", False):
        share_critic(model, scorer=source)
    else:
        # In the precision in which the policy trains, not in that of the base under its adapter.
        kwargs = {k: v for k, v in args.init_kwargs.items() if k != "dtype"} if isinstance(source, str) else {}
        attach_critic(model, new_critic(source, model, tokenizer, **kwargs), tokenizer)
    if args.disable_dropout:
        disable_dropout(model)
    if getattr(objective, "critic_pretrain_steps", 0) and args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = True  # the policy's, while the critic learns alone


def note_precision(model: Any, objective: Objective, args: PreferenceConfig, rates: dict[str, float], own: Any) -> None:
    """Say how many weights cannot move at the learning rates of this run.

    Args:
        rates: the highest learning rate of each of `parameter_groups`.
        own: an optimizer that was handed in, None for the one that the arguments name.
    """
    name = str(getattr(args.optim, "value", args.optim))
    known = name if name in STEP_IS_RATE and own is None else None
    for what, parameters in parameter_groups(model).items():
        if what in rates:
            described = "reward model" if objective.trains == "scorer" else what
            warn_of_half_precision(described, parameters, rates[what], known)


def _check_arguments(objective: Objective, args: PreferenceConfig) -> None:
    """Refuse arguments that would be taken and then have no effect."""
    own: set[str] = {field.name for field in fields(objective)} if is_dataclass(objective) else set()
    knobs = own & {field.name for field in fields(args)}
    asked = type(objective)(**{name: getattr(args, name) for name in knobs}) if knobs else objective
    differ = [name for name in sorted(knobs) if getattr(asked, name) != getattr(objective, name)]
    if differ:
        raise ValueError(
            f"{type(args).__name__} has its own {', '.join(differ)}, and the objective differs: use the trainer that "
            "belongs to these arguments, or pass a PreferenceConfig"
        )
    if objective.on_policy and args.precompute_ref_log_probs:
        raise ValueError("precompute_ref_log_probs=True, but responses are generated as training goes: leave it off")
    for name in ("precompute_ref_log_probs", "sync_ref_model"):
        if getattr(args, name) and "reference" not in objective.needs:
            raise ValueError(f"{name}=True, but {objective!r} uses no reference")
    if args.reference_dtype and "reference" not in objective.needs:
        raise ValueError(f"reference_dtype={args.reference_dtype!r}, but {objective!r} uses no reference: leave it out")


def _check_models(
    objective: Objective, tokenizer: Any, ref_model: Any, peft_config: PeftConfig | None, critic: Any
) -> None:
    """Refuse models and what belongs to them where they would not be used, or cannot."""
    if ref_model is not None and "reference" not in objective.needs:
        raise ValueError(f"{objective!r} uses no reference: leave ref_model out")
    if critic is not None and objective.trains != "actor-critic":
        raise ValueError(f"{type(objective).__name__} trains no critic: leave critic out")
    if isinstance(tokenizer, ProcessorMixin):
        raise ValueError(
            f"processing_class is a {type(tokenizer).__name__}, for more than text: models of text are trained here, "
            "pass its tokenizer"
        )
    if peft_config is not None:
        check_adapter(peft_config)


def tokenizer_for(
    model: Any, args: PreferenceConfig, tokenizer: PreTrainedTokenizerBase | None = None
) -> PreTrainedTokenizerBase:
    """The one given, or the model's own, with the template and the tokens that the arguments ask for."""
    if tokenizer is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        if not name:
            raise ValueError("this model has no name to load a tokenizer from: pass processing_class=tokenizer")
        shared = {key: args.init_kwargs[key] for key in ("trust_remote_code", "revision") if key in args.init_kwargs}
        tokenizer = load_tokenizer(name, **shared)
    if args.chat_template_path:
        path = Path(args.chat_template_path)
        tokenizer.chat_template = path.read_text() if path.is_file() else load_tokenizer(str(path)).chat_template
    set_template_defaults(tokenizer, args.chat_template_kwargs)
    for kind in ("eos_token", "pad_token"):
        _set_token(tokenizer, kind, getattr(args, kind))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _set_token(tokenizer: PreTrainedTokenizerBase, kind: str, token: str | None) -> None:
    if token is None:
        return
    if token not in tokenizer.get_vocab():
        raise ValueError(f"{kind}={token!r} is not in the vocabulary of this tokenizer")
    setattr(tokenizer, kind, token)


def _load(model: Any, objective: Objective, args: PreferenceConfig, tokenizer: Any, quantization_config: Any) -> Any:
    kwargs = args.init_kwargs if isinstance(model, str) else {}
    if objective.trains != "scorer":
        return load_policy(model, quantization_config=quantization_config, **kwargs)
    lm_head = "logps" in objective.outputs
    return load_scorer(model, tokenizer, quantization_config=quantization_config, lm_head=lm_head, **kwargs)


def _note_balancing(model: Any, args: PreferenceConfig) -> None:
    """Say so where a model of experts asks for a loss that balances them, and nobody said to go without.

    It is no sum over rows, but a product of two means over the tokens of a batch: what a row adds would depend on the
    rows, the padding and the shared prompts beside it.
    """
    config = model.config.get_text_config()
    found = {name: value for name in BALANCING if (value := getattr(config, name, None))}
    if found and getattr(args, "router_aux_loss_coef", None) is None:
        name, coefficient = next(iter(found.items()))
        logger.warning(
            "this model's config has %s=%s%s, and no load-balancing loss is added here: it is a product of means over "
            "a batch, so that what a row adds would depend on its batch. Set router_aux_loss_coef=0.0 in the "
            "arguments, which is the same, to be told no more",
            name,
            coefficient,
            " and output_router_logits=True" if getattr(config, "output_router_logits", False) else "",
        )


def _allow_unused(model: Any, args: PreferenceConfig) -> None:
    """Tell DDP that what reads images gets no gradient from text, or it would wait for one."""
    if model.config.get_text_config() is not model.config and args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = True


def _reference(
    model: Any, objective: Objective, args: PreferenceConfig, ref_model: Any, *, fresh: bool
) -> Reference | None:
    """Only what the objective needs: SimPO and its like never hold a second model."""
    if "reference" not in objective.needs:
        return None
    asked = args.reference_dtype
    if isinstance(ref_model, str):
        ref_model = load_policy(ref_model, **args.init_kwargs | ({} if asked is None else {"dtype": asked}))
    elif ref_model is not None:
        restore_frequencies(ref_model)
        stop_rescaling(ref_model)
    before_training = args.precompute_ref_log_probs
    dtype = None if asked is None else getattr(torch, asked)
    reference = reference_for(model, ref_model, fresh_adapter=fresh, before_training=before_training, dtype=dtype)
    if isinstance(reference, FrozenModel):
        warn_of_reference(model, reference.model)
    if args.sync_ref_model:
        reference.blend(model, 0.0)  # if it cannot, it raises now rather than after ref_model_sync_steps
    return reference
