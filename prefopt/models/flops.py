"""The FLOPs of a pass through a model, by a formula over its weights and its config.

A token costs 2 FLOPs for every weight of a matrix that it is multiplied with, and a pair of tokens that one layer's
attention compares 2 for each dimension of its queries and of its values (Kaplan et al., arXiv:2001.08361, Table 1).
Backward passes cost as much again for the gradient of what went into a matrix, and once more for that of the matrix,
where either is needed: 3 times the forward pass where all weights train, about 2 times where only adapters do. Norms,
activations and softmax are left out, being few.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from ..utils.flop_counter import add
from ._logits import LOGITS_KEPT
from .auxiliary import CRITIC, policy_only
from .heads import HEAD_NAMES, LM_HEAD, is_scorer
from .layout_selection import backbone
from .peft_adapters import adapter_layers

LOOKED_UP = "lora_embedding_A"
"""An adapter's matrix of which rows are looked up, as in the embedding that it adapts, and none multiplied."""
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""What configs call the number of experts in a layer."""


@dataclass(frozen=True)
class FlopsModel:
    """Gives the FLOPs of a pass from how many tokens are fed and how many pairs of tokens attend to one another.

    Args:
        token: FLOPs of each token that is fed, in the matrices of the backbone.
        language, reward: FLOPs at each position at which the language-model head, or the reward head, is applied.
        pair: FLOPs of a token and one that it attends to, itself too, in one layer.
        windows: how many tokens, itself too, a token attends to at most -> how many layers have this limit.
        trains: a backward pass is included.
    """

    token: float
    language: float
    reward: float
    pair: float
    windows: Mapping[float, int]
    trains: bool = False

    def flops(self, tokens: int, pairs: Callable[[float], float], language: int = 0, reward: int = 0) -> float:
        """Count a pass.

        Args:
            tokens: how many are fed.
            pairs: a window -> how many pairs of tokens attend in a layer that has this window.
            language, reward: at how many positions each head is applied.
        """
        attention = sum(layers * self.pair * pairs(window) for window, layers in self.windows.items())
        return self.token * tokens + attention + self.language * language + self.reward * reward


def flops_model_of(
    inner: Any, *, reward_head: nn.Module | None = None, grad: bool = False, logits_recomputed: bool = False
) -> FlopsModel:
    """Work out what passes through a model cost, with the adapters that are active now.

    Every weight of the text backbone counts once, embeddings not at all, and of experts the share that a token is sent
    to. What an architecture does that neither its weights nor its config tells is not known here: layers that are run
    several times count once, experts whose number the config does not give count whole, and a state that a layer
    without attention carries along costs nothing beside its weights.

    Args:
        inner: the model without its wrappers.
        reward_head: the one that is applied, if any.
        grad: the pass keeps what a backward pass needs. Layers that are checkpointed then run once more, and are
            counted whole, though torch stops before what nothing is kept of: the last matrix of a layer.
        logits_recomputed: the language-model head computes its logits once more in the backward pass.
    """
    config, matrices = inner.config.get_text_config(), _MatrixSum(inner, grad)
    with policy_only(inner):
        part = backbone(inner)
        body = inner if part is None else part.get_decoder()
        checkpointed = grad and _is_checkpointed(body)
        token = matrices.flops_of([body], checkpointed)
        backward_share = (2 + checkpointed) * matrices.backward / max(matrices.forward, 1.0)
        language = 0.0 if part is None else matrices.flops_of(_language_head(inner, part), logits_recomputed)
        reward = 0.0 if reward_head is None else matrices.flops_of([reward_head], False)
    pair = _pair(config) * (1 + backward_share)
    return FlopsModel(token, language, reward, pair, _windows(config), matrices.any_trained)


class _MatrixSum:
    """Adds up matrices in the order in which they are registered, which is about that in which they are computed.

    Gradients of inputs are computed from the first weight on that trains: none is asked for what lies before it.
    """

    def __init__(self, inner: Any, grad: bool):
        self.idle = {id(weight) for layer in adapter_layers(inner) for weight in _idle(layer)}
        self.grad, self.any_trained = grad, False
        self.forward = self.backward = 0.0
        """FLOPs of a forward pass so far, and those of them that a backward pass goes through."""
        config = inner.config.get_text_config()
        self.active = getattr(config, "num_experts_per_tok", None)
        self.experts = next((n for name in EXPERTS if (n := getattr(config, name, None))), None)

    def flops_of(self, modules: Iterable[nn.Module], recomputed: bool) -> float:
        """FLOPs of a token in these modules.

        Args:
            recomputed: what has a backward pass is computed a second time for it.
        """
        total = 0.0
        for path, module, name, weight in _weights(modules):
            if id(weight) in self.idle:
                continue
            trained = self.grad and weight.requires_grad
            if _multiplies(path, module, name, weight):
                size, has_backward = 2 * self._size(path, module, weight), self.any_trained or trained
                self.forward += size
                self.backward += size * has_backward
                total += size * (1 + self.any_trained + trained + (recomputed and has_backward))
            self.any_trained |= trained
        return total

    def _size(self, path: str, module: nn.Module, weight: Tensor) -> float:
        """How many weights a token is multiplied with."""
        # Of quantised layers, whose tensors are packed, the sizes that they stand for.
        size = module.in_features * module.out_features if isinstance(module, nn.Linear) else weight.numel()
        if self.active is None:
            return size
        if weight.dim() == 3 and not isinstance(module, nn.Conv1d):  # the experts of a layer in one tensor
            return size * self.active / weight.shape[0]
        of_expert = self.experts is not None and "experts" in path.split(".")
        return size * self.active / self.experts if of_expert else size


def _weights(modules: Iterable[nn.Module]) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """(path, module, name, weight) of every weight."""
    for root in modules:
        for path, module in root.named_modules():
            yield from ((path, module, name, w) for name, w in module._parameters.items() if w is not None)


def _multiplies(path: str, module: nn.Module, name: str, weight: Tensor) -> bool:
    looked_up = isinstance(module, nn.Embedding) or LOOKED_UP in (name, *path.split("."))
    return weight.dim() > 1 and not looked_up and not name.endswith("bias")


def _idle(layer: Any) -> Iterator[nn.Parameter]:
    """The weights of a layer with adapters that are not in use now."""
    off = layer.disable_adapters or bool(layer.merged_adapters)
    names = set() if off else set(layer.active_adapters)
    replaced = isinstance(layer, ModulesToSaveWrapper) and bool(names & layer._adapters)
    for path, weight in layer.named_parameters():
        part, *rest = path.split(".")
        is_base = part in ("base_layer", "original_module")
        if replaced if is_base else not names & set(rest):
            yield weight


def _language_head(inner: Any, part: nn.Module) -> list[nn.Module]:
    """What turns states of the backbone into logits."""
    if is_scorer(inner):
        return [inner._modules[LM_HEAD]] if LM_HEAD in inner._modules else []
    return [child for name, child in inner.named_children() if child is not part and name not in (*HEAD_NAMES, CRITIC)]


def _is_checkpointed(body: nn.Module) -> bool:
    """Whether layers are checkpointed: by transformers, in training mode alone, or by torch's `checkpoint_wrapper`."""
    return any(
        (module.training and getattr(module, "gradient_checkpointing", False)) or "checkpoint_fn" in module.__dict__
        for module in body.modules()
    )


def _pair(config: Any) -> float:
    """FLOPs of a query with one key and one value, all heads of a layer."""
    heads = getattr(config, "num_attention_heads", None) or 0
    usual = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    key, value = (getattr(config, name, None) or usual for name in ("qk_head_dim", "v_head_dim"))  # DeepSeek has both
    return 2.0 * heads * (key + value)


def _windows(config: Any) -> Counter[float]:
    """How many layers with attention have each limit; a layer of a kind that is not known has none."""
    sliding, chunk = getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None)
    limits = {"sliding_attention": sliding or math.inf, "chunked_attention": chunk or math.inf}
    slides = sliding is not None and getattr(config, "use_sliding_window", True)
    all_alike = ["sliding_attention" if slides else "full_attention"] * (
        getattr(config, "num_hidden_layers", None) or 0
    )
    kinds = getattr(config, "layer_types", None) or all_alike
    return Counter(limits.get(kind, math.inf) for kind in kinds if "attention" in kind and "linear" not in kind)


# ---- reports to the FLOP counters ----------------------------------------------------------------------------------


def count_forward(
    inner: Any,
    positions: Tensor,
    language: int,
    reward: int,
    reward_head: nn.Module | None,
    *,
    kept: int = LOGITS_KEPT,
) -> None:
    """Report one call of the backbone, with its backward pass if it keeps what one needs.

    Attention is counted by what a token may see, though a kernel that masks computes the rest too.

    Args:
        inner: the model without its wrappers.
        positions: position ids of all tokens that were fed; padding has the position of a token next to it.
        language, reward: at how many positions each head was applied.
        reward_head: the one that was applied, if any.
        kept: logits beyond which they are computed again for the backward pass.
    """
    config = inner.config.get_text_config()
    recomputed = language * config.vocab_size > kept or bool(getattr(config, "final_logit_softcapping", None))
    model = flops_model_of(inner, reward_head=reward_head, grad=torch.is_grad_enabled(), logits_recomputed=recomputed)
    visible = positions + 1

    def pairs(window: float) -> float:
        return float((visible if window == math.inf else visible.clamp(max=int(window))).sum())

    tokens = positions.numel()
    add("training" if model.trains else "other", model.flops(tokens, pairs, language, reward), tokens)


def count_generation(model: FlopsModel, spans: Iterable[tuple[int, int]], sampled: int) -> None:
    """Report tokens that were fed one after the other to a KV cache, without padding.

    Args:
        model: of the policy that generates.
        spans: how many tokens, itself too, the first and the last of a run of tokens attend to.
        sampled: how often logits were computed.
    """
    spans = list(spans)

    def pairs(window: float) -> float:
        return float(sum(_causal_pairs(last, window) - _causal_pairs(first - 1, window) for first, last in spans))

    tokens = sum(last - first + 1 for first, last in spans)
    add("generation", model.flops(tokens, pairs, sampled), tokens)


def _causal_pairs(length: int, window: float) -> int:
    """How many pairs of tokens attend in a causal sequence."""
    free = int(min(length, window))
    return free * (free + 1) // 2 + (length - free) * free
