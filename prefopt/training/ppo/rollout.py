"""One rollout: prompts in, responses with their scores out, as a batch. Knows a policy and a scorer, no other model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ...batch import Batch
from ...data.collate import collate
from ...data.records import Messages
from ...generation.sampling import sample
from ...generation.stopping import Sample
from ...objectives.sampling_arguments import SamplingArguments
from ...scoring.scorer import Scorer, checked


class Rollout(NamedTuple):
    """Responses as a batch for a model, and as they were drawn: a list for each prompt."""

    batch: Batch
    samples: list[list[Sample]]


def rollout(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    scorer: Scorer,
    settings: SamplingArguments,
    *,
    seed: int,
    keys: Sequence[int],
    index: Sequence[int],
) -> Rollout:
    """`responses_per_prompt` responses to each prompt, drawn by the policy as it is, and what the scorer gives them.

    The batch has the columns of `Batch`, with the very ids that were drawn.

    Args:
        keys: a number for each prompt that decides its random numbers, another one each time it is answered.
        index: the prompts' rows in the dataset.

    Raises:
        ValueError: a prompt that leaves no room for a response; the message has its number.
        ScoreError: the scorer did not give one finite number per response.
    """
    chance: dict[str, Any] = {"seed": seed, "keys": keys, **settings.shape}
    k, temperature = settings.responses_per_prompt, settings.temperature
    drawn = sample(policy, tokenizer, prompts, k=k, temperature=temperature, **chance, **settings.limits)
    score = torch.tensor(_scores(scorer, prompts, drawn)).view(len(drawn), k)
    return Rollout(as_batch(drawn, index).with_columns(score=score), drawn)


def as_batch(drawn: Sequence[Sequence[Sample]], index: Sequence[int]) -> Batch:
    """The responses to each prompt as a batch, with the column `finished`."""
    rows = [
        {"prompt_ids": row[0].prompt_ids, "response_ids": [one.ids for one in row], "index": place}
        for place, row in zip(index, drawn, strict=True)
    ]
    return collate(rows).with_columns(finished=torch.tensor([[one.finished for one in row] for row in drawn]))


def _scores(scorer: Scorer, prompts: Sequence[Messages], drawn: Sequence[Sequence[Sample]]) -> list[float]:
    """Of all responses, prompt after prompt."""
    asked = [prompt for prompt, row in zip(prompts, drawn, strict=True) for _ in row]
    samples = [one for row in drawn for one in row]
    texts, finished = [one.text for one in samples], [one.finished for one in samples]
    return checked(scorer.name, scorer.score(asked, texts, finished), asked, texts)
