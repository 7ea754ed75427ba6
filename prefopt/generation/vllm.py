"""`VLLM`: a policy that vLLM serves, with what `sample` asks of it and what becomes of the answers.

Only `sample` sends the requests. The engine runs in a process of its own (`_vllm_process.py`), or is a server
(`_vllm_server.py`). What vLLM 0.32 cannot serve, or would serve otherwise than asked, is refused before it starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftConfig
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.utils import find_adapter_config_file

from ..models.flops import FlopsModel, flops_model_of
from ..models.peft_adapters import base_of
from ..objectives.engine_arguments import check_temperature
from ._token_sampling import Distribution, uniform_stream
from ._vllm_process import EngineError, EngineProcess
from ._vllm_server import EngineServer
from .stopping import SequenceState, StoppingRules

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters, which vLLM makes room for in these sizes (`MaxLoRARanks` in its config/lora.py)."""
UNSERVED = {
    "use_dora": "weights that DoRA decomposes",
    "modules_to_save": "modules of its own beside the low-rank ones (modules_to_save)",
    "lora_bias": "biases of its own (lora_bias)",
    "trainable_token_indices": "embeddings of its own (trainable_token_indices)",
    "layer_replication": "layers twice (layer_replication)",
    "target_parameters": "low-rank parameters that are no linear layers (target_parameters)",
}
"""Setting of a LoRA adapter -> what an adapter has by it that vLLM refuses at the first request."""
STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""How a LoRA adapter may begin so that it is saved as one on the model that it began on."""


class Engine(Protocol):
    """What samples: a process of its own, or a server."""

    limit: int

    def respond(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]: ...

    def close(self) -> None: ...


class VLLM:
    """A policy for `sample`, served by vLLM: `sample(VLLM("folder", python="vllm/bin/python"), tokenizer, prompts)`.

    Responses are sampled from the policy's own distribution and end by the same rules, but are not those that `sample`
    gives for the loaded model: vLLM has random numbers of its own. Each response has its own seed, derived from what
    `sample` derives random numbers from, so that it does not depend on the order of the prompts or on k. The last
    digits of a logit depend on what vLLM computes beside it: in float32 that has changed no response that was looked
    at, in 16 bits it changes many (docs/vllm.md). Log-probs are vLLM's, in its precision.

    The engine starts when the first responses are asked for, and ends with `close`, or with this process, however that
    ends. vLLM batches by itself, and hands over all responses at once: `batch_size` has no effect, and a progress bar
    stands still until then.

    Args:
        model: the folder or hub id of a model, with its tokenizer, or of a LoRA adapter, served on top of its base.
        python: of an environment that has vLLM; by default the Python that runs this.
        url: of a server that has the model, or an adapter's base; then no engine is started.
        engine_arguments: for `vllm.LLM`, such as `gpu_memory_utilization`, `max_model_len` and `dtype`, which is the
            model's own unless given.

    Raises:
        ValueError: an adapter that vLLM cannot serve, or that does not say what its base is.
    """

    def __init__(
        self, model: str | Path, *, python: str | None = None, url: str | None = None, **engine_arguments: Any
    ):
        adapter = _adapter_config(str(model))
        self._model, self._python, self._url = str(model), python, url
        self._base = str(model) if adapter is None else base_of(str(model))
        self._rank = 0 if adapter is None else _lora_rank(adapter)
        known = _for_hub(engine_arguments)
        config = AutoConfig.from_pretrained(self._base, **known)
        self._arguments = {"dtype": _dtype_of(config), **engine_arguments}
        if self._rank:
            self._arguments = {"enable_lora": True, "max_lora_rank": self._rank, **self._arguments}
        self.generation_config = _generation_config(self._base, config, known)
        limit = _least(_positions(config), engine_arguments.get("max_model_len"))
        # Of a configuration, sampling reads only how long a prompt and its response may be.
        self.config = PreTrainedConfig(max_position_embeddings=limit)  # type: ignore[call-arg]
        self._engine: Engine | None = None
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"VLLM has no {name!r}: it responds by `sample`, until it is closed; load the model for anything else"
        )

    @property
    def engine(self) -> Engine:
        """What samples, started when it is first needed.

        Raises:
            MissingExtra: there is no vLLM; the message says what to install or to pass.
            ValueError: vLLM cannot serve the model, or it was closed.
            EngineError: it did not start; the message quotes the last that it said.
        """
        if self._closed:
            raise ValueError("this VLLM is closed: make another one")
        if self._engine is None:
            adapter = self._model if self._rank else None
            if self._url is not None:
                self._engine = EngineServer(self._url, self._base, adapter, self._rank)
            else:
                self._engine = EngineProcess(self._python, self._base, adapter, self._arguments)
            limit = _least(self.config.max_position_embeddings, self._engine.limit)
            self.config = PreTrainedConfig(max_position_embeddings=limit)  # type: ignore[call-arg]
        return self._engine

    @cached_property
    def work(self) -> FlopsModel:
        """What the model costs by its config; an adapter's own matrices, which are small, are left out."""
        config = AutoConfig.from_pretrained(self._base, **_for_hub(self._arguments))
        with torch.device("meta"):
            return flops_model_of(AutoModelForCausalLM.from_config(config))

    def close(self) -> None:
        """Stop the engine and free its memory; the policy responds no more."""
        self._closed = True
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def __enter__(self) -> VLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answers(
        self, sequences: Sequence[SequenceState], distribution: Distribution, rules: StoppingRules
    ) -> list[dict[str, Any]]:
        """What vLLM says to each sequence, going on from where it is, for `add_answers`.

        Raises:
            ValueError: a temperature that vLLM would change, or a sequence that would be cut off at the engine's limit.
            EngineError: the engine failed.
        """
        check_temperature(distribution.temperature)
        requests = [self._request(sequence, distribution, rules) for sequence in sequences]
        if not requests:
            return []
        engine = self.engine
        for sequence in sequences:
            longest = len(sequence.prompt_ids) + rules.max_new_tokens
            if longest > engine.limit:
                raise ValueError(
                    f"prompt {sequence.prompt_number} has {len(sequence.prompt_ids)} tokens, which with "
                    f"max_new_tokens={rules.max_new_tokens} is more than the {engine.limit} positions that vLLM has "
                    "room for, where it would cut the response off: raise vllm_max_model_length (of a server, "
                    "--max-model-len), or ask for fewer tokens"
                )
        return engine.respond(requests)

    @staticmethod
    def _request(sequence: SequenceState, distribution: Distribution, rules: StoppingRules) -> dict[str, Any]:
        return {
            "prompt_token_ids": sequence.prompt_ids + sequence.ids,
            "temperature": distribution.temperature,
            "top_k": distribution.top_k,
            "top_p": distribution.top_p,
            "repetition_penalty": distribution.repetition_penalty,
            "seed": int(uniform_stream(1, *sequence.stream, len(sequence.ids)) * 2**53),
            "max_tokens": rules.max_new_tokens - len(sequence.ids),
            "ignore_eos": True,  # the stop tokens are ours alone, not what the engine finds in files
            "stop_token_ids": list(rules.stop_tokens),
            "stop": list(rules.stop_strings),
            "detokenize": bool(rules.stop_strings),
            "logprobs": 0,  # of the sampled token alone
        }


def add_answers(sequences: Sequence[SequenceState], answers: Sequence[Mapping[str, Any]], rules: StoppingRules) -> None:
    """Add to each sequence the tokens that it was answered with, up to where it ends by our rules.

    A sequence may not be at its end after that: vLLM decodes as it goes, and can see a stop string that the text of the
    whole response does not have, such as one that begins with a space before the first word.

    Raises:
        EngineError: answers are missing, or one was not finished or has no log-probs.
    """
    if len(answers) != len(sequences):
        raise EngineError(f"vLLM gave {len(answers)} responses to {len(sequences)} requests: see its log")
    for sequence, answer in zip(sequences, answers, strict=True):
        _check_answer(sequence, answer)
        for token, logp in zip(answer["ids"], answer["logps"], strict=False):
            if sequence.append(int(token), float(logp), rules):
                break
        else:
            _check_going_on(sequence, answer)


def _check_answer(sequence: SequenceState, answer: Mapping[str, Any]) -> None:
    where = f"response {sequence.response_number} to prompt {sequence.prompt_number}"
    if answer["finish_reason"] not in ("stop", "length"):
        raise EngineError(f"vLLM ended {where} with {answer['finish_reason']!r}: see its log, and sample again")
    if len(answer["logps"]) < len(answer["ids"]):
        raise EngineError(f"vLLM gave {where} without its log-probs: see its log")


def _check_going_on(sequence: SequenceState, answer: Mapping[str, Any]) -> None:
    """Only after a stop string that is none by our rules is there more to ask for."""
    if not (answer["ids"] and isinstance(answer["stop_reason"], str)):
        raise EngineError(
            f"vLLM ended response {sequence.response_number} to prompt {sequence.prompt_number} after "
            f"{len(sequence.ids)} tokens with {answer['finish_reason']!r} (stop_reason={answer['stop_reason']!r}), "
            "where nothing ends it: see its log"
        )


def check_served(config: Any, where: str) -> None:
    """Refuse an adapter that vLLM does not serve, or would serve as another one.

    Raises:
        ValueError: it is one; the message says why.
    """
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA":
        raise ValueError(f"{where} is an adapter of type {kind}, and vLLM serves LoRA: leave out use_vllm, or merge it")
    problems = [what for name, what in UNSERVED.items() if getattr(config, name, None)]
    if getattr(config, "bias", "none") != "none":
        problems.append(f"biases of the base model (bias={config.bias!r})")
    if (start := getattr(config, "init_lora_weights", True)) not in STARTS:
        problems.append(f"another base than it is saved with (init_lora_weights={start!r})")
    if problems:
        raise ValueError(
            f"{where} is an adapter with {' and '.join(problems)}, which vLLM does not serve: leave out use_vllm, or "
            "train a plain LoRA"
        )


def _adapter_config(model: str) -> Any:
    """None for a model that is no adapter."""
    if find_adapter_config_file(model) is None:
        return None
    config = PeftConfig.from_pretrained(model)
    check_served(config, model)
    return config


def _lora_rank(adapter: Any) -> int:
    """The size that vLLM has to make room for: that of the largest of the adapter's ranks."""
    largest = max([adapter.r, *adapter.rank_pattern.values()])
    return next((size for size in LORA_RANKS if size >= largest), largest)


def _dtype_of(config: Any) -> str:
    return str(getattr(config.get_text_config(decoder=True), "dtype", None) or torch.float32).removeprefix("torch.")


def _positions(config: Any) -> int | None:
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit), default=None)


def _for_hub(engine_arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Which of a repository's versions is meant."""
    return {name: engine_arguments[name] for name in ("revision", "trust_remote_code") if name in engine_arguments}


def _generation_config(model: str, config: Any, known: Mapping[str, Any]) -> GenerationConfig:
    """The one that loading the model would give it."""
    try:
        return GenerationConfig.from_pretrained(model, **known)
    except OSError:  # it has no such file
        return GenerationConfig.from_model_config(config)
