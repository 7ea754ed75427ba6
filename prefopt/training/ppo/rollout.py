"""A rollout, and what it is made of: responses as a batch, and what policy, critic and reference say of them now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ...batch import Batch, join
from ...data.collate import collate
from ...data.records import Messages
from ...generation.sampling import sample
from ...generation.stopping import Sample
from ...models.forward import forward
from ...models.modes import training, without_dropout
from ...objectives.base import Metric
from ...objectives.sampling_arguments import SamplingArguments
from ...scoring.scorer import Scorer, score_samples
from ...utils.distributed import gathered, rank, world_size
from ...utils.tensors import masked_sum, upcast
from ..step import StepRunner
from .log import Record


@dataclass(frozen=True)
class Rollout:
    """What the policy is about to learn from.

    Args:
        batches: the rows of all processes, with what every model says of them, advantages and returns; and the
            demonstrations that go with them, row by row, if the objective mixes any in.
        state: the objective's, in which the rollout is learnt from.
        metrics: sums over its responses.
        record: what is kept of it on disk.
    """

    batches: list[Batch]
    state: dict[str, Tensor]
    metrics: Mapping[str, Metric]
    record: Record


def sample_and_score(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    scorer: Scorer,
    settings: SamplingArguments,
    *,
    seed: int,
    keys: Sequence[int],
    index: Sequence[int],
) -> tuple[Batch, list[list[Sample]]]:
    """`responses_per_prompt` responses to each prompt: as a batch with the column `score`, and as they were sampled.

    Args:
        policy: as it is now.
        keys: a number for each prompt that decides its random numbers, another one each time it is answered.
        index: the prompts' rows in the dataset.

    Raises:
        ValueError: a prompt that leaves no room for a response; the message has its number.
        ScoreError: the scorer did not give one finite number per response.
    """
    chance: dict[str, Any] = {"seed": seed, "keys": keys, **settings.shape}
    k, temperature = settings.responses_per_prompt, settings.temperature
    samples = sample(policy, tokenizer, prompts, k=k, temperature=temperature, **chance, **settings.limits)
    scores = torch.tensor(score_samples(scorer, prompts, samples)).view(len(samples), k)
    return as_batch(samples, index).with_columns(score=scores), samples


def as_batch(samples: Sequence[Sequence[Sample]], index: Sequence[int]) -> Batch:
    """The responses to each prompt as a batch, with the very ids that were sampled and the column `finished`.

    Args:
        index: the prompts' rows in the dataset.
    """
    rows = [
        {"prompt_ids": row[0].prompt_ids, "response_ids": [sample.ids for sample in row], "index": place}
        for place, row in zip(index, samples, strict=True)
    ]
    finished = torch.tensor([[sample.finished for sample in row] for row in samples])
    return collate(rows).with_columns(finished=finished)


def measured(step: StepRunner, model: nn.Module, batch: Batch, outputs: frozenset[str], size: int) -> Batch:
    """The batch with what policy and critic (`old_logps`, `old_values`) and the reference say of it now.

    Args:
        model: as the trainer wraps it.
        size: prompts at a time.
    """
    rows = torch.arange(len(batch.index)).split(size)
    return join([_measured(step, model, batch.rows(part).trimmed(), outputs) for part in rows])


@torch.no_grad()
def _measured(step: StepRunner, model: nn.Module, batch: Batch, outputs: frozenset[str]) -> Batch:
    # Quantised layers compute differently in the two modes, and ratios compare with training's.
    with training(model), without_dropout(model), step.accelerator.autocast():
        batch = step.annotate(model, batch)
        out = forward(model, batch, outputs)
    return batch.with_columns(**{f"old_{name}": out.required(name) for name in outputs})


def log_ratios(step: StepRunner, model: nn.Module, samples: Sequence[Sample], size: int) -> list[float]:
    """log pi - log pi_ref of responses that the policy has given, whose mean estimates KL(pi || pi_ref) in nats.

    Processes share the responses, each as many, since all of them have to run the model equally often.
    """
    share, last = -(-len(samples) // world_size()), len(samples) - 1
    own = [min(rank() + world_size() * turn, last) for turn in range(share)]
    batch = measured(step, model, as_batch([[samples[number]] for number in own], own), frozenset({"logps"}), size)
    ratios = masked_sum(upcast(batch.old_logps) - upcast(batch.ref_logps), batch.loss_mask)[:, 0].tolist()
    shares = gathered(list(zip(own, ratios, strict=True)))
    by_number = {number: ratio for part in shares for number, ratio in part}
    return [by_number[number] for number in range(len(samples))]
