"""`VLLM`: a policy that vLLM serves, with what `sample` asks of it and what becomes of the answers.

Only `sample` sends the requests. vLLM is optional (`pip install prefopt[vllm]`) and imported when a `VLLM` is made.
This was written after the sources of vLLM 0.20 and 0.33 and was run only against a stand-in with the same interface,
never against vLLM itself.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from peft import PeftConfig
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.utils import find_adapter_config_file

from ..models.flops import FlopsModel, flops_model_of
from ..models.peft_adapters import base_of
from ._token_sampling import Distribution, uniform_stream
from .stopping import SequenceState, StoppingRules

MIN_TEMPERATURE = 0.01
"""vLLM raises any temperature between 0 and this one to it (`_MAX_TEMP` in its sampling_params.py)."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters, which vLLM makes room for in these sizes (`MaxLoRARanks` in its config/lora.py)."""


class VLLM:
    """A policy for `sample`, served by vLLM: `sample(VLLM("folder"), tokenizer, prompts, k=8)`.

    Responses are sampled from the policy's own distribution and end by the same rules, but are not those that `sample`
    gives for the loaded model: vLLM has random numbers of its own. Each response has its own seed, derived from what
    `sample` derives random numbers from, so that it does not depend on the order of the prompts or on k. The last
    digits of a logit depend on what vLLM computes beside it, and can decide between two tokens; VLLM_BATCH_INVARIANT=1
    in the environment prevents that, on hardware that vLLM names. Log-probs are vLLM's, in its precision.

    vLLM batches by itself, and hands over all responses at once: `batch_size` has no effect, and a progress bar stands
    still until then.

    Args:
        model: the folder or hub id of a model, with its tokenizer, or of a LoRA adapter, served on top of its base.
        engine_arguments: for `vllm.LLM`, such as `gpu_memory_utilization`, `max_model_len` and `dtype`. Without a
            `dtype`, vLLM computes a float32 model in float16.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: an adapter that is not LoRA, or does not say what its base is.
    """

    def __init__(self, model: str | Path, **engine_arguments: Any):
        self.vllm = _imported()
        adapter = _adapter_config(str(model))
        base = str(model) if adapter is None else base_of(str(model))
        lora = {} if adapter is None else {"enable_lora": True, "max_lora_rank": _lora_rank(adapter)}
        self.generation_config = _generation_config(base, engine_arguments)
        self._base = base, _for_hub(engine_arguments)
        # "vllm" leaves the checkpoint's penalties and cuts out, and raw log-probs are those before a request's own.
        self.engine = self.vllm.LLM(
            model=base, generation_config="vllm", logprobs_mode="raw_logprobs", **lora | engine_arguments
        )
        self.adapter = None if adapter is None else _adapter_request(str(model))
        limit = self.engine.llm_engine.model_config.max_model_len
        # Of a configuration, sampling reads only how long a prompt and its response may be: here, as the engine has it.
        self.config = PreTrainedConfig(max_position_embeddings=limit)  # type: ignore[call-arg]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"VLLM has no {name!r}: it responds by `sample`, until it is closed; load the model for anything else"
        )

    @cached_property
    def work(self) -> FlopsModel:
        """What the model costs by its config; an adapter's own matrices, which are small, are left out."""
        base, known = self._base
        with torch.device("meta"):
            return flops_model_of(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, **known)))

    def close(self) -> None:
        """Stop the engine and free its memory; the policy responds no more."""
        engine = vars(self).pop("engine", None)
        if engine is not None:
            engine.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()  # an engine in this very process holds tensors in cycles
        torch.cuda.empty_cache()

    def __enter__(self) -> VLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def requests(
        self, sequences: Sequence[SequenceState], distribution: Distribution, rules: StoppingRules
    ) -> dict[str, Any]:
        """What to ask so that each sequence goes on from where it is: arguments for `generate` of the engine.

        Raises:
            ValueError: a temperature that vLLM would change.
        """
        if 0 < distribution.temperature < MIN_TEMPERATURE:
            raise ValueError(
                f"temperature={distribution.temperature}: vLLM samples at {MIN_TEMPERATURE} at least; 0 takes the "
                "likeliest token"
            )
        return {
            "prompts": [{"prompt_token_ids": sequence.prompt_ids + sequence.ids} for sequence in sequences],
            "sampling_params": [self._sampling_params(sequence, distribution, rules) for sequence in sequences],
            "lora_request": self.adapter,
            "use_tqdm": False,
        }

    def _sampling_params(self, sequence: SequenceState, distribution: Distribution, rules: StoppingRules) -> Any:
        return self.vllm.SamplingParams(
            temperature=distribution.temperature,
            top_k=distribution.top_k,
            top_p=distribution.top_p,
            repetition_penalty=distribution.repetition_penalty,
            seed=int(uniform_stream(1, *sequence.stream, len(sequence.ids)) * 2**53),
            max_tokens=rules.max_new_tokens - len(sequence.ids),
            ignore_eos=True,  # the stop tokens are ours alone, not what the engine finds in files
            stop_token_ids=list(rules.stop_tokens),
            stop=list(rules.stop_strings),
            detokenize=bool(rules.stop_strings),
            logprobs=0,  # of the sampled token alone
        )


def add_answers(sequences: Sequence[SequenceState], answers: Sequence[Any], rules: StoppingRules) -> None:
    """Add to each sequence the tokens that it was answered with, up to where it ends by our rules.

    A sequence may not be at its end after that: vLLM decodes as it goes, and can see a stop string that the text of the
    whole response does not have, such as one that begins with a space before the first word.

    Raises:
        RuntimeError: answers are missing, or one was not finished or has no log-probs.
    """
    outputs = [output for answer in answers for output in answer.outputs]
    if len(outputs) != len(sequences):
        raise RuntimeError(f"vLLM gave {len(outputs)} responses to {len(sequences)} requests: see its log")
    for sequence, output in zip(sequences, outputs, strict=True):
        _check_answer(sequence, output)
        for token, logps in zip(output.token_ids, output.logprobs, strict=False):
            if sequence.append(int(token), float(logps[token].logprob), rules):
                break
        else:
            _check_going_on(sequence, output)


def _check_answer(sequence: SequenceState, output: Any) -> None:
    where = f"response {sequence.response_number} to prompt {sequence.prompt_number}"
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended {where} with {output.finish_reason!r}: see its log, and sample again")
    if len(output.logprobs or ()) < len(output.token_ids):
        raise RuntimeError(f"vLLM gave {where} without its log-probs: see its log")


def _check_going_on(sequence: SequenceState, output: Any) -> None:
    """Only after a stop string that is none by our rules is there more to ask for."""
    if not (output.token_ids and isinstance(output.stop_reason, str)):
        raise RuntimeError(
            f"vLLM ended response {sequence.response_number} to prompt {sequence.prompt_number} after "
            f"{len(sequence.ids)} tokens with {output.finish_reason!r} (stop_reason={output.stop_reason!r}), where "
            "nothing ends it: see its log"
        )


def _imported() -> ModuleType:
    try:
        import vllm
    except ModuleNotFoundError as error:
        if error.name != "vllm":  # it is there, and something that it needs is not
            raise
        raise ImportError(
            "vLLM is not installed: pip install prefopt[vllm], or pass `sample` a loaded model"
        ) from error
    return vllm


def _adapter_config(model: str) -> Any:
    """None for a model that is no adapter."""
    if find_adapter_config_file(model) is None:
        return None
    config = PeftConfig.from_pretrained(model)
    if config.peft_type != "LORA" or not config.base_model_name_or_path:
        raise ValueError(
            f"{model} is an adapter of type {config.peft_type}, base_model_name_or_path="
            f"{config.base_model_name_or_path!r}: vLLM serves LoRA on a base that it can load; merge it and save that"
        )
    return config


def _adapter_request(model: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=model, lora_int_id=1, lora_path=model)


def _lora_rank(adapter: Any) -> int:
    """The size that vLLM has to make room for: that of the largest of the adapter's ranks."""
    largest = max([adapter.r, *adapter.rank_pattern.values()])
    return next((size for size in LORA_RANKS if size >= largest), largest)


def _for_hub(engine_arguments: dict[str, Any]) -> dict[str, Any]:
    """Which of a repository's versions is meant."""
    return {name: engine_arguments[name] for name in ("revision", "trust_remote_code") if name in engine_arguments}


def _generation_config(model: str, engine_arguments: dict[str, Any]) -> GenerationConfig:
    """The one that loading the model would give it."""
    known = _for_hub(engine_arguments)
    try:
        return GenerationConfig.from_pretrained(model, **known)
    except OSError:  # it has no such file
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(model, **known))
