"""A temperature search that samples from a model, small enough for seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefopt.candidates.temperature_comparison import TemperatureSearch
from prefopt.candidates.temperature_search import search_temperatures
from prefopt.objectives.sampling_arguments import IterationArguments

PROMPTS = [({"role": "user", "content": f"第{i}个问题: what is {i}?"},) for i in range(40)]


def small(folder: Path, policy: Any, tokenizer: Any, scorer: Any, **changes: Any) -> TemperatureSearch:
    """A search on nine prompts that samples from the policy."""
    settings = IterationArguments(responses_per_prompt=2, max_new_tokens=12, sampling_batch_size=4)
    given = {"temperatures": [0.7, 1.0, 1.5], "folder": folder, "version": "tiny", "seed": 3} | changes
    return search_temperatures(policy, tokenizer, PROMPTS[:9], scorer, settings, max_degenerate=0.5, **given)


def letters(prompts: Any, responses: Sequence[str]) -> list[float]:
    """A scorer that likes letters."""
    return [float(sum(character.isalpha() for character in response)) for response in responses]
