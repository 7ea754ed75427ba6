"""Generates a policy's responses to held-out prompts, and measures each: score, gold reward, KL, perplexity.

KL(policy || reference) of a response that the policy sampled, with r_t = pi_ref / pi at its tokens, summed over them
(Schulman, "Approximating KL divergence", 2020):

    k1 = sum -log r_t            unbiased; single responses may be negative
    k2 = (sum -log r_t)^2 / 2    biased: right for small differences only
    k3 = sum r_t - 1 - log r_t   unbiased, and never negative: each token's own divergence after what was sampled
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...batch import Batch
from ...candidates.best_response import best_of
from ...candidates.candidate import prompt_key
from ...candidates.diversity import degenerate
from ...data.batching import split_by_tokens
from ...data.collate import collate
from ...data.records import Messages
from ...generation.sampling import Sample, sample
from ...models.forward import forward
from ...models.modes import evaluating
from ...scoring.scorer import Scorer
from ...utils.tensors import masked_sum
from ..records import RESPONSES, table

STREAM = (-2,)
"""Sets the random numbers apart from those of training and of its evaluation."""
TOKENS = 16384
"""How many tokens a forward pass takes at once."""
LOGPS = frozenset({"logps"})
DIVERGENCES = ("kl", "kl_k2", "kl_k3", "perplexity")
Gold = Callable[[Sequence[Messages], Sequence[str], Sequence[bool]], list[float] | None]


@dataclass(frozen=True)
class ResponseEvaluator:
    """Generates and measures responses, the same way for all methods.

    Args:
        reference: the policy that KL is measured to, on the device of the evaluated policy; None leaves KL unknown.
        scorer: a reward model; None leaves scores unknown.
        gold: see `plan.dataset_sources.DatasetSource`.
        stream: what else sets the random numbers apart.
        serve: the evaluated policy -> what is sampled from, which is itself by default.
    """

    tokenizer: PreTrainedTokenizerBase
    reference: Any
    scorer: Scorer | None
    gold: Gold
    temperature: float = 1.0
    max_new_tokens: int = 128
    batch_size: int = 128
    stream: tuple[int, ...] = STREAM
    serve: Callable[[Any], AbstractContextManager[Any]] = nullcontext

    def sample(self, policy: Any, prompts: Sequence[Messages], k: int, seed: int) -> list[list[Sample]]:
        """`k` responses to each prompt; two policies answer with the same random numbers."""
        with self.serve(policy) as served:
            return sample(
                served,
                self.tokenizer,
                prompts,
                k=k,
                temperature=self.temperature,
                max_new_tokens=self.max_new_tokens,
                seed=seed,
                stream=self.stream,
                keys=[prompt_key(prompt) for prompt in prompts],
                batch_size=self.batch_size,
            )

    def score(self, prompts: Sequence[Messages], samples: Sequence[Sequence[Sample]]) -> np.ndarray:
        """Scores of all responses, one prompt's after the other's; NaN without a scorer: [responses]."""
        repeated, responses = _flat(prompts, samples)
        if self.scorer is None:
            return np.full(len(responses), np.nan)
        texts, finished = [response.text for response in responses], [response.finished for response in responses]
        return np.array(self.scorer.score(repeated, texts, finished))

    def evaluate(self, policy: Any, prompts: Sequence[Messages], *, k: int, seed: int) -> pd.DataFrame:
        """Evaluate a policy by `k` responses to each prompt: rows with the columns of `records.RESPONSES`."""
        samples = self.sample(policy, prompts, k, seed)
        columns = self._divergences(policy, samples)
        if self.temperature != 1:  # the responses are no samples of the policy itself: no estimate of its divergence
            columns |= dict.fromkeys(("kl", "kl_k2", "kl_k3"), np.full(k * len(prompts), np.nan))
        return self._table(prompts, samples, self.score(prompts, samples), columns)

    def evaluate_best_of_n(
        self, policy: Any, prompts: Sequence[Messages], *, n: int, k: int, seed: int
    ) -> pd.DataFrame:
        """Evaluate best-of-n: a row for the response with the highest score of `n`, `k` times to each prompt."""
        # A stream of its own: with the baseline's, one of the n were the baseline's own response, and could never lose.
        samples = replace(self, stream=(*self.stream, n)).sample(policy, prompts, n * k, seed)
        scores = self.score(prompts, samples).reshape(len(prompts), k, n)
        groups = [[row[start : start + n] for start in range(0, n * k, n)] for row in samples]
        picks = [[best_of(group, scores[i, j].tolist()) for j, group in enumerate(row)] for i, row in enumerate(groups)]
        chosen = [[group[p] for group, p in zip(*both, strict=True)] for both in zip(groups, picks, strict=True)]
        columns = self._divergences(policy, chosen)
        # Best-of-n is no policy whose log-probs are known; its divergence is at most this (Beirami et al.,
        # arXiv:2401.01879).
        columns["kl"] = np.full(len(prompts) * k, np.log(n) - (n - 1) / n)
        columns |= dict.fromkeys(("kl_k2", "kl_k3"), np.full(len(prompts) * k, np.nan))
        best = np.take_along_axis(scores, np.array(picks)[:, :, None], axis=2)
        return self._table(prompts, chosen, best.ravel(), columns)

    def _divergences(self, policy: Any, samples: Sequence[Sequence[Sample]]) -> dict[str, np.ndarray]:
        if self.reference is None:
            return {name: np.full(len(samples) * len(samples[0]), np.nan) for name in DIVERGENCES}
        return divergences(policy, self.reference, samples)

    def _table(
        self,
        prompts: Sequence[Messages],
        samples: Sequence[Sequence[Sample]],
        scores: np.ndarray,
        columns: dict[str, np.ndarray],
    ) -> pd.DataFrame:
        repeated, responses = _flat(prompts, samples)
        gold = self.gold(
            repeated, [response.text for response in responses], [response.finished for response in responses]
        )
        places = [
            (prompt_key(prompt), k) for prompt, row in zip(prompts, samples, strict=True) for k in range(len(row))
        ]
        rows = [
            {
                "prompt_key": places[i][0],
                "k": places[i][1],
                "response": response.text,
                "finished": response.finished,
                "length": len(response.ids),
                "score": float(scores[i]),
                "degenerate": degenerate(response.text),
                **({} if gold is None else {"gold": gold[i]}),
                **{name: float(values[i]) for name, values in columns.items()},
            }
            for i, response in enumerate(responses)
        ]
        return table(rows, RESPONSES)


def _flat(prompts: Sequence[Messages], samples: Sequence[Sequence[Sample]]) -> tuple[list[Messages], list[Sample]]:
    """All responses, one prompt's after the other's, and the prompt of each."""
    repeated = [prompt for prompt, row in zip(prompts, samples, strict=True) for _ in row]
    return repeated, [response for row in samples for response in row]


def divergences(policy: Any, reference: Any, samples: Sequence[Sequence[Sample]]) -> dict[str, np.ndarray]:
    """Of each response: "kl", "kl_k2", "kl_k3" to the reference, and its "perplexity" under it; [responses] each.

    Args:
        samples: equally many to each prompt. An empty one has a divergence of 0 and no perplexity (NaN).

    Raises:
        ValueError: a log-probability that is not finite.
    """
    rows: list[dict[str, Any]] = [
        {"prompt_ids": row[0].prompt_ids, "response_ids": [response.ids for response in row]} for row in samples
    ]
    estimates = {name: np.zeros((len(rows), len(samples[0]))) for name in DIVERGENCES}
    sizes = torch.tensor([len(row["prompt_ids"]) + sum(map(len, row["response_ids"])) for row in rows])
    for numbers in split_by_tokens(torch.argsort(sizes, descending=True, stable=True).tolist(), sizes, TOKENS):
        batch = [rows[number] for number in numbers]
        ours, mask = token_logps(policy, batch)
        theirs, _ = token_logps(reference, batch)
        for name, values in _estimates(ours, theirs, mask).items():
            estimates[name][numbers] = values.cpu().numpy()
    if not np.isfinite(estimates["kl"]).all():
        broken = int((~np.isfinite(estimates["kl"])).sum())
        raise ValueError(
            f"{broken} of {estimates['kl'].size} responses have no finite log-probability: training diverged"
        )
    return {name: values.ravel() for name, values in estimates.items()}


def token_logps(model: Any, rows: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Log-probs of encoded rows' responses, token by token, and where they count: [G, K, R] each."""
    batch = Batch({name: column.to(model.device) for name, column in collate(rows).items()})
    with torch.no_grad(), evaluating(model):
        return forward(model, batch, LOGPS).required("logps").double(), batch.loss_mask


def _estimates(ours: Tensor, theirs: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """[G, K, R] each -> [G, K] each."""
    ratio = (ours - theirs).masked_fill(~mask, 0.0)
    mean = masked_sum(theirs, mask) / mask.sum(-1)  # NaN of an empty response
    k1, k3 = ratio.sum(-1), (torch.expm1(-ratio) + ratio).sum(-1)
    return {"kl": k1, "kl_k2": k1.square() / 2, "kl_k3": k3, "perplexity": (-mean).exp()}
