"""The only place that generates: policy and prompts in, responses out.

Each response is drawn with its own stream of uniform numbers, derived from (seed, prompt number, response number): what
is drawn does not depend on how prompts are batched or ordered, and two policies answer with common random numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..data.encode import decode_response, encode_prompt, stop_token_ids
from ..data.records import DataError
from ..models.modes import evaluating

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Sample:
    """One response: its prompt's ids, its own ids (with the stop token if it has one), text, and whether it ended."""

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finished: bool


def sample(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    *,
    k: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> list[list[Sample]]:
    """`k` responses to each prompt, in the order of the prompts. Temperature 0 is greedy.

    Of the policy's `generation_config` only the stop tokens count: what is drawn is the policy's own distribution at
    these settings, without a penalty, a ban or a beam search that a checkpoint brings along.

    Raises:
        ValueError: a setting outside its range, a policy with learnt virtual tokens, or a prompt that cannot be encoded
            or leaves no room for a response.
    """
    _check(k, temperature, top_p, top_k, max_new_tokens, batch_size)
    _check_policy(policy)
    encoded = [_encode(number, prompt, tokenizer) for number, prompt in enumerate(prompts)]
    _check_room(encoded, policy, max_new_tokens)
    order = sorted(((i, j) for i in range(len(prompts)) for j in range(k)), key=lambda pair: len(encoded[pair[0]]))
    found: dict[tuple[int, int], Sample] = {}
    stops = stop_token_ids(tokenizer, policy.generation_config)
    warpers = _warpers(temperature, top_k, top_p)
    config = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=stops[0])
    with torch.no_grad(), evaluating(policy), _generating_by(config, policy):
        for start in tqdm(range(0, len(order), batch_size), desc="sampling", disable=not progress):
            chosen = order[start : start + batch_size]
            uniforms = torch.stack([uniform_stream(max_new_tokens, seed, i, j) for i, j in chosen])
            rows = _generate(
                policy, [encoded[i] for i, _ in chosen], config, warpers, uniforms if temperature else None
            )
            for (i, j), ids in zip(chosen, rows, strict=True):
                finished = ids[-1] in stops
                text = decode_response(ids[:-1] if finished else ids, tokenizer)
                found[i, j] = Sample(encoded[i], ids, text, finished)
    return [[found[i, j] for j in range(k)] for i in range(len(prompts))]


def uniform_stream(length: int, *key: int) -> Tensor:
    """Uniform numbers in [0, 1) that depend on `key` alone: [length], float64."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.rand(length, generator=generator, dtype=torch.float64)


class InverseTransform(LogitsProcessor):
    """Turns greedy decoding into sampling: only the token at each row's quantile of the distribution survives."""

    def __init__(self, uniforms: Tensor, prompt_length: int):
        self.uniforms, self.prompt_length = uniforms, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        quantile = self.uniforms[:, input_ids.shape[1] - self.prompt_length].to(scores.device)
        cumulative = scores.double().softmax(-1).cumsum(-1)
        # Rounding may leave the last sum just under 1; a token without probability is never the first to exceed.
        token = torch.searchsorted(cumulative, (quantile * cumulative[:, -1]).unsqueeze(-1), right=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, token.clamp(max=scores.shape[-1] - 1), 0.0)


@contextmanager
def _generating_by(config: GenerationConfig, policy: nn.Module) -> Iterator[None]:
    """`config` in the place of every `generation_config` in `policy`, each restored after.

    Passing it to `generate` is not enough: what it leaves open is taken from the model's own. An adapter and the model
    below may each have one, and peft writes the one into the other.
    """
    name = "generation_config"
    own = {module: vars(module)[name] for module in policy.modules() if name in vars(module)}
    for module in own:
        module.generation_config = config  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, before in own.items():
            module.generation_config = before


def _generate(
    policy: Any,
    prompts: list[list[int]],
    config: GenerationConfig,
    warpers: list[LogitsProcessor],
    uniforms: Tensor | None,
) -> list[list[int]]:
    """One response to each prompt, up to and with its stop token; greedy without `uniforms`."""
    width = max(map(len, prompts))
    processors = [] if uniforms is None else [*warpers, InverseTransform(uniforms, width)]
    whole = policy.generate(
        input_ids=torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=policy.device),
        attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=policy.device),
        generation_config=config,
        logits_processor=LogitsProcessorList(processors),
    )
    return [_until_stop(row, config.eos_token_id) for row in whole[:, width:].tolist()]


def _warpers(temperature: float, top_k: int, top_p: float) -> list[LogitsProcessor]:
    """What shapes the distribution before a token is drawn from it."""
    warpers: list[LogitsProcessor] = []
    if temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers


def _until_stop(ids: list[int], stops: list[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    return ids if end is None else ids[: end + 1]


def _check(k: int, temperature: float, top_p: float, top_k: int, max_new_tokens: int, batch_size: int) -> None:
    if min(k, max_new_tokens, batch_size) < 1:
        raise ValueError(f"k={k}, max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be a number from 0; 0 is greedy")
    if not 0 < top_p <= 1 or top_k < 0:
        raise ValueError(f"top_p={top_p} must be in (0, 1], top_k={top_k} at least 0; 1 and 0 keep every token")


def _check_policy(policy: Any) -> None:
    """Virtual tokens stand before the padding and peft drops position ids: a response would depend on its batch."""
    if isinstance(policy, PeftModel) and policy.active_peft_config.is_prompt_learning:
        kind = policy.active_peft_config.peft_type.value
        raise ValueError(f"{kind} changes the prompt, not the layers: use an adapter such as LoRA")


def _encode(number: int, prompt: Messages, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    try:
        return encode_prompt(prompt, tokenizer)
    except DataError as error:
        raise DataError(f"prompt {number}: {error}") from error


def _check_room(prompts: list[list[int]], policy: Any, max_new_tokens: int) -> None:
    limit = getattr(policy.config.get_text_config(decoder=True), "max_position_embeddings", None)
    for number, ids in enumerate(prompts):
        if limit and len(ids) + max_new_tokens > limit:
            raise ValueError(
                f"prompt {number} has {len(ids)} tokens, which with max_new_tokens={max_new_tokens} is more than the "
                f"model's {limit} positions: shorten it or ask for fewer tokens"
            )
