"""A policy's responses to held-out prompts, and all that is measured of each. Knows no method and no statistics.

KL(policy || reference) of a response that the policy drew, with r_t = pi_ref / pi at its tokens, summed over them
(Schulman, "Approximating KL divergence", 2020):

    k1 = sum -log r_t            unbiased; single responses may be negative
    k2 = (sum -log r_t)^2 / 2    biased: right for small differences only
    k3 = sum r_t - 1 - log r_t   unbiased, and never negative: each token's own divergence after what was drawn
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
"""Run at once."""
LOGPS = frozenset({"logps"})
Gold = Callable[[Sequence[Messages], Sequence[str], Sequence[bool]], list[float] | None]


@dataclass(frozen=True)
class Measure:
    """How responses are drawn and judged, the same for all methods.

    Args:
        reference: where KL is taken from, on the device of the policy.
        scorer: a reward model; None leaves scores unknown.
        gold: see `experiment.worlds.World`.
        stream: what else makes the random numbers new.
    """

    tokenizer: PreTrainedTokenizerBase
    reference: Any
    scorer: Scorer | None
    gold: Gold
    temperature: float = 1.0
    max_new_tokens: int = 128
    batch_size: int = 128
    stream: tuple[int, ...] = STREAM

    def draw(self, policy: Any, prompts: Sequence[Messages], k: int, seed: int) -> list[list[Sample]]:
        """`k` responses to each prompt; two policies answer with the same random numbers."""
        return sample(
            policy,
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

    def judged(self, prompts: Sequence[Messages], drawn: Sequence[Sequence[Sample]]) -> np.ndarray:
        """Scores of all responses, one prompt's after the other's; NaN without a scorer: [responses]."""
        asked, flat = _flat(prompts, drawn)
        if self.scorer is None:
            return np.full(len(flat), np.nan)
        return np.array(self.scorer.score(asked, [one.text for one in flat], [one.finished for one in flat]))

    def table(self, policy: Any, prompts: Sequence[Messages], *, k: int, seed: int) -> pd.DataFrame:
        """A row for each of `k` responses to each prompt, with the columns of `records.RESPONSES`."""
        drawn = self.draw(policy, prompts, k, seed)
        found = divergences(policy, self.reference, drawn)
        if self.temperature != 1:  # the responses are not the policy's own draws: no estimate of its divergence
            found |= dict.fromkeys(("kl", "kl_k2", "kl_k3"), np.full(k * len(prompts), np.nan))
        return self._rows(prompts, drawn, self.judged(prompts, drawn), found)

    def best_of_n(self, policy: Any, prompts: Sequence[Messages], *, n: int, k: int, seed: int) -> pd.DataFrame:
        """The same of the response with the highest score of `n`, `k` times with responses of their own."""
        # A stream of its own: with the baseline's, one of the n were the baseline's own response, and could never lose.
        drawn = replace(self, stream=(*self.stream, n)).draw(policy, prompts, n * k, seed)
        scores = self.judged(prompts, drawn).reshape(len(prompts), k, n)
        groups = [[row[start : start + n] for start in range(0, n * k, n)] for row in drawn]
        picks = [[best_of(group, scores[i, j].tolist()) for j, group in enumerate(row)] for i, row in enumerate(groups)]
        chosen = [[group[p] for group, p in zip(*both, strict=True)] for both in zip(groups, picks, strict=True)]
        found = divergences(policy, self.reference, chosen)
        # What best-of-n draws is no policy whose log-probs are known; its divergence is at most this (Beirami et al.,
        # arXiv:2401.01879).
        found["kl"] = np.full(len(prompts) * k, np.log(n) - (n - 1) / n)
        found |= dict.fromkeys(("kl_k2", "kl_k3"), np.full(len(prompts) * k, np.nan))
        best = np.take_along_axis(scores, np.array(picks)[:, :, None], axis=2)
        return self._rows(prompts, chosen, best.ravel(), found)

    def _rows(
        self,
        prompts: Sequence[Messages],
        drawn: Sequence[Sequence[Sample]],
        scores: np.ndarray,
        found: dict[str, np.ndarray],
    ) -> pd.DataFrame:
        asked, flat = _flat(prompts, drawn)
        golds = self.gold(asked, [one.text for one in flat], [one.finished for one in flat])
        place = [(prompt_key(prompt), k) for prompt, row in zip(prompts, drawn, strict=True) for k in range(len(row))]
        rows = [
            {
                "prompt_key": place[i][0],
                "k": place[i][1],
                "response": one.text,
                "finished": one.finished,
                "length": len(one.ids),
                "score": float(scores[i]),
                "degenerate": degenerate(one.text),
                **({} if golds is None else {"gold": golds[i]}),
                **{name: float(values[i]) for name, values in found.items()},
            }
            for i, one in enumerate(flat)
        ]
        return table(rows, RESPONSES)


def _flat(prompts: Sequence[Messages], drawn: Sequence[Sequence[Sample]]) -> tuple[list[Messages], list[Sample]]:
    asked = [prompt for prompt, row in zip(prompts, drawn, strict=True) for _ in row]
    return asked, [one for row in drawn for one in row]


def divergences(policy: Any, reference: Any, drawn: Sequence[Sequence[Sample]]) -> dict[str, np.ndarray]:
    """Of each response: "kl", "kl_k2", "kl_k3" to the reference, and its "perplexity" under it; [responses] each.

    Args:
        drawn: equally many to each prompt. An empty one has a divergence of 0 and no perplexity (NaN).

    Raises:
        ValueError: a log-probability that is not finite.
    """
    rows: list[dict[str, Any]] = [
        {"prompt_ids": row[0].prompt_ids, "response_ids": [one.ids for one in row]} for row in drawn
    ]
    found = {name: np.zeros((len(rows), len(drawn[0]))) for name in ("kl", "kl_k2", "kl_k3", "perplexity")}
    sizes = torch.tensor([len(row["prompt_ids"]) + sum(map(len, row["response_ids"])) for row in rows])
    for numbers in split_by_tokens(torch.argsort(sizes, descending=True, stable=True).tolist(), sizes, TOKENS):
        batch = [rows[number] for number in numbers]
        ours, mask = token_logps(policy, batch)
        theirs, _ = token_logps(reference, batch)
        for name, values in _estimates(ours, theirs, mask).items():
            found[name][numbers] = values.cpu().numpy()
    if not np.isfinite(found["kl"]).all():
        broken = int((~np.isfinite(found["kl"])).sum())
        raise ValueError(f"{broken} of {found['kl'].size} responses have no finite log-probability: training diverged")
    return {name: values.ravel() for name, values in found.items()}


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
