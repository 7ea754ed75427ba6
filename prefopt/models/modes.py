"""Switches of a whole model: training or evaluation mode, dropout on or off, frozen or trainable."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import nn

logger = logging.getLogger(__name__)

NEFTUNE = "neftune_noise_alpha"
"""The attribute by which transformers marks embeddings that get noise in training (NEFTune, arXiv:2310.05914)."""
NOISE = frozenset((NEFTUNE, "jitter_noise", "input_jitter_noise", "moe_jitter_eps"))
"""Attributes of modules that add noise in training mode: NEFTune's embeddings, and routers of experts. Nothing else of
these modules depends on their own mode."""


def freeze(model: nn.Module) -> nn.Module:
    """Put a model into evaluation mode and let no weight take gradients; returns the model."""
    return model.eval().requires_grad_(False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block; each module's own mode is restored after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Put a model into training mode inside the block; each module's own mode is restored after it."""
    evaluated = [module for module in model.modules() if not module.training]
    model.train()
    try:
        yield
    finally:
        for module in evaluated:
            module.training = False


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout rate to zero: log-ratios compare two passes, which must not differ by chance."""
    for module, name, _ in _dropouts(model):
        setattr(module, name, 0.0)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Take dropout and all other noise of training out of a model inside the block, in whatever mode the modules are.

    Evaluation mode would do the same for a plain model, but quantised layers compute differently in the two modes, so
    a reference on the policy's own layers has to run in the policy's mode.
    """
    rates = _dropouts(model)
    noisy = [module for module in model.modules() if module.training and not NOISE.isdisjoint(vars(module))]
    disable_dropout(model)
    for module in noisy:
        module.training = False
    try:
        yield
    finally:
        for module, name, rate in rates:
            setattr(module, name, rate)
        for module in noisy:
            module.training = True


@contextmanager
def computing_like(other: nn.Module, model: nn.Module) -> Iterator[None]:
    """Let a quantised model, without dropout, compute inside the block as it does in the mode that another model is in.

    8-bit layers of bitsandbytes on the CPU quantise their inputs in evaluation mode only (0.50), so that a model in one
    mode is not its copy in the other.
    """
    if is_quantized(model) and other.training:
        with training(model), without_dropout(model):
            yield
    else:
        yield


def batch_dependent_threshold(model: nn.Module) -> float:
    """The `llm_int8_threshold` of a model's 8-bit layers; 0 where what they say of a row depends on that row alone.

    Above 0, a column in which any token of a batch reaches the threshold is left out of the quantisation of all of its
    tokens (LLM.int8, arXiv:2208.07339): what else is in a batch changes the log-probs of a row.
    """
    thresholds = (getattr(getattr(module, "state", None), "threshold", 0.0) for module in model.modules())
    return max(thresholds, default=0.0)


def _dropouts(model: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """(module, attribute, rate): of dropout modules, and of attention layers that keep their rate as a number."""
    rates = []
    for module in model.modules():
        for name, value in vars(module).items():
            # attention_dropout, attn_pdrop, layerdrop: every family has its own names
            if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(module, nn.Dropout))):
                rates.append((module, name, value))
    return rates


def is_quantized(model: nn.Module) -> bool:
    """Whether the model's weights are quantised, as bitsandbytes' 4-bit and 8-bit weights are."""
    return getattr(model, "is_quantized", False) or getattr(model, "quantization_method", None) is not None


def keep_differentiable(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on the CPU.

    On processors with AVX-512 BF16 a 4-bit layer repacks its weights the first time it runs in evaluation mode, for
    good, and the packed kernel has no gradient (bitsandbytes 0.50): after one evaluation, training would stand still.

    Raises:
        ValueError: a layer was packed already.
    """
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            weight: Any = module.weight
            if getattr(weight.quant_state, "packing_format_for_cpu", False):
                raise ValueError(
                    f"{name} was packed for inference by running it in evaluation mode: load the model anew"
                )


def stop_rescaling(model: nn.Module) -> None:
    """Let a model's weights be the same in both modes.

    In evaluation mode RWKV (transformers 5.23) divides its weights in place by powers of two, against overflow in
    float16, and multiplies them back in training mode: what is saved or loaded in between is another model.
    """
    for module in model.modules():
        if getattr(getattr(module, "config", None), "rescale_every", 0) and hasattr(module, "layers_are_rescaled"):
            rescaled: Any = module
            with training(module):
                rescaled._rescale_layers()  # to what they are in training mode
            rescaled.config.rescale_every = 0
            logger.info("rescale_every of %s is 0 from now on: it changes weights in place", type(module).__name__)


def make_trainable(model: nn.Module) -> None:
    """Check that training this model trains what was meant, and unfreeze a plain model whose weights are all frozen.

    That is how `merge_adapter` leaves them; such a model is trained in full.

    Raises:
        ValueError: an adapter that is frozen, that transformers and not PEFT put on the model, or quantised weights
            without an adapter.
    """
    frozen = not any(parameter.requires_grad for parameter in model.parameters())
    if isinstance(model, PeftModel):
        if frozen:
            raise ValueError("the adapter is frozen: load it with PeftModel.from_pretrained(..., is_trainable=True)")
    elif getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "transformers loaded an adapter into this model, which hides it from PEFT: load it with "
            "PeftModel.from_pretrained(base, adapter, is_trainable=True), or give its name instead of the model"
        )
    elif is_quantized(model):
        raise ValueError("a quantised model trains through an adapter only: pass a peft_config, such as LoraConfig()")
    elif frozen:
        logger.info("no weight of this model takes gradients, as after merging an adapter: training all of them")
        model.requires_grad_(True)
