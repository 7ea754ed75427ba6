"""The only place that generates: policy and prompts in, responses out.

Each response is drawn with its own stream of uniform numbers, derived from (seed, prompt number, response number): what
is drawn does not depend on how prompts are batched or ordered, and two policies answer with common random numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..data.encode import decode_response, encode_prompt, stop_token_ids
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

    Raises:
        ValueError: a setting outside its range, or a prompt that leaves no room for a response.
    """
    _check(k, temperature, top_p, max_new_tokens)
    encoded = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    _check_room(encoded, policy, max_new_tokens)
    order = sorted(((i, j) for i in range(len(prompts)) for j in range(k)), key=lambda pair: len(encoded[pair[0]]))
    found: dict[tuple[int, int], Sample] = {}
    stops = stop_token_ids(tokenizer, policy.generation_config)
    settings = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": max_new_tokens}
    with torch.no_grad(), evaluating(policy):
        for start in tqdm(range(0, len(order), batch_size), desc="sampling", disable=not progress):
            chosen = order[start : start + batch_size]
            uniforms = torch.stack([uniform_stream(max_new_tokens, seed, i, j) for i, j in chosen])
            rows = _generate(policy, [encoded[i] for i, _ in chosen], uniforms, stops, settings)
            for (i, j), ids in zip(chosen, rows, strict=True):
                text = decode_response(ids, tokenizer)
                found[i, j] = Sample(encoded[i], ids, text, finished=bool(ids) and ids[-1] in stops)
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


def _generate(
    policy: Any, prompts: list[list[int]], uniforms: Tensor, stops: list[int], settings: dict[str, Any]
) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=policy.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=policy.device)
    whole = policy.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        max_new_tokens=settings["max_new_tokens"],
        eos_token_id=stops,
        pad_token_id=stops[0],
        logits_processor=_processors(uniforms, width, settings),
    )
    return [_until_stop(row, stops) for row in whole[:, width:].tolist()]


def _processors(uniforms: Tensor, width: int, settings: dict[str, Any]) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if settings["temperature"] == 0:
        return processors
    if settings["temperature"] != 1:
        processors.append(TemperatureLogitsWarper(settings["temperature"]))
    if settings["top_k"]:
        processors.append(TopKLogitsWarper(settings["top_k"]))
    if settings["top_p"] < 1:
        processors.append(TopPLogitsWarper(settings["top_p"]))
    processors.append(InverseTransform(uniforms, width))
    return processors


def _until_stop(ids: list[int], stops: list[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    return ids if end is None else ids[: end + 1]


def _check(k: int, temperature: float, top_p: float, max_new_tokens: int) -> None:
    if k < 1 or max_new_tokens < 1:
        raise ValueError(f"k={k} and max_new_tokens={max_new_tokens} must be at least 1")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature={temperature} must be at least 0, top_p={top_p} in (0, 1]")


def _check_room(prompts: list[list[int]], policy: nn.Module, max_new_tokens: int) -> None:
    limit = getattr(policy.config, "max_position_embeddings", None)
    for number, ids in enumerate(prompts):
        if limit and len(ids) + max_new_tokens > limit:
            raise ValueError(
                f"prompt {number} has {len(ids)} tokens, which with max_new_tokens={max_new_tokens} is more than the "
                f"model's {limit} positions: shorten it or ask for fewer tokens"
            )
