"""Settings of methods that train on responses sampled from the policy: values, help texts, ranges. Samples nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..utils.options import option
from .engine_arguments import EngineArguments

SOURCES = ("sampling", "diverse-beam", "mixed")
STARTS = ("base", "previous")
PLAIN = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
"""What changes nothing."""


def _check_finite(arguments: Any, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name}={value} is not a number to compute with")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(known)}")


@dataclass(kw_only=True)
class SamplingArguments:
    """How responses are sampled. The names are those of `generation.sample`, which says what each does."""

    responses_per_prompt: int = option(8, "How many responses are sampled to each prompt: K of the best of K.")
    temperature: float = option(1.0, "Divides the logits before sampling; 0 takes the likeliest token.")
    top_p: float = option(1.0, "Sample from the fewest likeliest tokens that together reach this probability.")
    top_k: int = option(0, "Sample from this many likeliest tokens; 0 samples from all.")
    repetition_penalty: float = option(1.0, "Makes tokens that the prompt or response has less likely; 1 does not.")
    max_new_tokens: int = option(128, "Longest response, in tokens. One that is truncated there is not trained on.")
    stop_strings: list[str] | None = option(None, "A response also ends with the first of these texts.")
    source: str = option(
        "sampling",
        "`sampling`; `diverse-beam`, a beam search of responses_per_prompt groups that avoid one another's tokens "
        "(arXiv:1610.02424), without chance; or `mixed`, half of each.",
        choices=list(SOURCES),
    )
    diversity_penalty: float = option(1.0, "How much less likely a token is for each group that has just taken it.")
    sampling_batch_size: int = option(128, "Responses generated at a time: more are faster and need more memory.")

    def check_sampling(self) -> None:
        """Raise ValueError for a setting outside its range."""
        _check_choice("source", self.source, SOURCES)
        for name in ("responses_per_prompt", "max_new_tokens", "sampling_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        _check_finite(self, "temperature", "repetition_penalty", "diversity_penalty")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.repetition_penalty <= 0:
            raise ValueError(
                f"temperature={self.temperature} and top_k={self.top_k} must not be negative, top_p={self.top_p} must "
                f"lie in (0, 1], repetition_penalty={self.repetition_penalty} above 0"
            )
        changed = [name for name, value in self.shape.items() if value != PLAIN[name]]
        if self.source == "diverse-beam" and changed:
            raise ValueError(f"source='diverse-beam' searches and does not sample: leave out {', '.join(changed)}")
        if self.source != "sampling" and not self.temperature:
            raise ValueError(f"source={self.source!r} wants a temperature above 0, by which it divides the logits")
        if self.source == "mixed" and self.responses_per_prompt < 2:
            raise ValueError("source='mixed' needs at least 2 responses_per_prompt, one of each kind")

    @property
    def searched(self) -> int:
        """How many of the responses to a prompt come from the beam search."""
        return {"sampling": 0, "mixed": self.responses_per_prompt // 2}.get(self.source, self.responses_per_prompt)

    @property
    def shape(self) -> dict[str, Any]:
        """What shapes the distribution beside its temperature, as `sample` takes it."""
        return {name: getattr(self, name) for name in PLAIN}

    @property
    def limits(self) -> dict[str, Any]:
        """What ends responses, and how many are generated at a time, as every source takes it."""
        ends = {"max_new_tokens": self.max_new_tokens, "stop_strings": self.stop_strings or ()}
        return {**ends, "batch_size": self.sampling_batch_size}


@dataclass(kw_only=True)
class IterationArguments(EngineArguments, SamplingArguments):
    """How often responses are sampled, scored, selected and trained on. In effect where a scorer is given."""

    iterations: int = option(3, "How often responses are sampled, scored, selected and trained on.")
    init: str = option(
        "base",
        "Where the training of an iteration starts: `base` is the model as it was given, `previous` the last "
        "iteration's. Responses are always sampled from the last iteration's.",
        choices=list(STARTS),
    )
    prompts_per_iteration: int | None = option(
        None, "Prompts that an iteration samples responses to, others in each until all had their turn; None is all."
    )
    prior_top_n: int | None = option(
        None, "How many responses to a prompt stay of each earlier iteration: None keeps all, 0 none."
    )
    score_threshold: float | None = option(None, "Leave out prompts whose best response scores less.")
    dataset_responses: bool = option(False, "Let the dataset's own answers join the candidates.")
    temperatures: list[float] | None = option(
        None, "Before each iteration, search these temperatures for the best best-of-K on the evaluation prompts."
    )
    search_budget: int | None = option(
        None,
        "The most responses that such a search samples, by successive halving; None samples 2 K to every prompt at "
        "every temperature.",
    )

    def check_iterations(self) -> None:
        """Raise ValueError for a setting outside its range, or two that do not go together."""
        self.check_sampling()
        self.check_vllm(self.source, (self.temperature, *(self.temperatures or ())))
        _check_choice("init", self.init, STARTS)
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} must be at least 1")
        if self.prompts_per_iteration is not None and self.prompts_per_iteration < 1:
            raise ValueError(f"prompts_per_iteration={self.prompts_per_iteration} must be at least 1, or None for all")
        if self.prior_top_n is not None and self.prior_top_n < 0:
            raise ValueError(f"prior_top_n={self.prior_top_n} must be at least 0, or None for all")
        _check_finite(self, "score_threshold")
        if self.source != "sampling" and self.temperatures:
            raise ValueError(f"source={self.source!r} is not sampled: temperatures have nothing to search")
        if self.temperatures is not None and not self.temperatures:
            raise ValueError("temperatures=[]: name the temperatures to search, or leave it out")
        if self.search_budget is not None and not self.temperatures:
            raise ValueError(f"search_budget={self.search_budget} means nothing without temperatures to search")
