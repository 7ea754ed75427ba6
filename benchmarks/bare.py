"""Bare training loops around prefopt's engine: what a step costs without a trainer, and what each idea saves.

A variant says how a model is run on a batch; the loop, the optimizer and the loss are the same for all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from material import Row, load_model, rows_of
from measuring import Measurement, Stopwatch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.rnn import pad_sequence

from prefopt.batch import Batch, Outputs
from prefopt.data.collate import collate
from prefopt.models.forward import forward
from prefopt.objectives.base import Loss, Objective, Term
from prefopt.objectives.dpo import DPO
from prefopt.utils.tensors import masked_mean

LOGPS = frozenset({"logps"})
MAX_TOKENS = 1024  # of a micro-batch, unless told otherwise


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compute log-probs; the defaults are prefopt's own way."""

    naive: bool = False  # the model called on padded rows, logits of every position
    layout: str = "auto"
    share: bool = True  # a prompt's responses share it
    micro_batches: bool = False  # of similar lengths, as many pairs as a token budget holds
    bf16: bool = False  # autocast


PADDED, PACKED, SHARED = Variant(layout="padded"), Variant(share=False), Variant()
VARIANTS: dict[str, dict[str, Variant]] = {
    "rrhf": {"padded": PADDED, "packed": PACKED, "shared": SHARED},
    "overhead": {"bare": SHARED},
    "ablation": {
        "naive": Variant(naive=True),
        "response-only": PADDED,
        "packed": PACKED,
        "shared": SHARED,
        "token-budget": Variant(micro_batches=True),
        "bf16": Variant(micro_batches=True, bf16=True),
    },
}


@dataclass(frozen=True, kw_only=True)
class Ranked(Objective):
    """RRHF (arXiv:2304.05302): a better answer should be likelier per token, and the best is imitated."""

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        mean = masked_mean(out.required("logps"), batch.loss_mask)
        pairs = combinations(range(mean.shape[1]), 2)
        rank = torch.stack([relu(mean[:, worse] - mean[:, better]) for better, worse in pairs]).sum()
        return Loss({"rank": Term(rank, "prompts"), "imitation": Term(-mean[:, 0].sum(), "prompts")})


def measure_bare(run: Measurement) -> dict[str, float]:
    """Train on one repeat's pairs in a bare loop and say what a pair cost."""
    warm_up, timed = rows_of(run.setting, run.repeat)
    watch = Stopwatch()
    watch.count_tokens()
    loop = Loop(run, load_model(run.setting))
    loop.step(warm_up)
    watch.start()
    for first in range(0, len(timed), run.setting.batch):
        loop.step(timed[first : first + run.setting.batch])
    watch.lap()
    return watch.per_pair(len(timed), len(warm_up + timed))


class Loop:
    """A model, its frozen copy where the loss needs one, and AdamW."""

    def __init__(self, run: Measurement, model: nn.Module, reference: nn.Module | None = None):
        self.variant = VARIANTS[run.setting.work][run.method]
        self.objective: Objective = Ranked() if run.setting.work == "rrhf" else DPO()
        self.max_tokens = int(run.options.get("max_tokens_per_batch", MAX_TOKENS))
        self.model = model.train()
        self.reference = None
        if "reference" in self.objective.needs:
            self.reference = (reference or copy.deepcopy(model)).requires_grad_(False).eval()
        for each in (self.model, self.reference):
            if each is not None and self.variant.layout != "auto":
                choose_layout(each, self.variant.layout)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(self, rows: list[Row]) -> float:
        """One optimizer step; returns its loss."""
        loss = self.backward(rows)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def backward(self, rows: list[Row]) -> float:
        """The loss of a step, its gradient added up over micro-batches."""
        units = self.objective.sizes(collate(rows))
        total = 0.0
        for part in budgeted(rows, self.max_tokens) if self.variant.micro_batches else [rows]:
            batch = collate(part)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.variant.bf16):
                if self.reference is not None:
                    with torch.no_grad():
                        batch = batch.with_columns(ref_logps=log_probs(self.variant, self.reference, batch))
                out = Outputs(logps=log_probs(self.variant, self.model, batch))
            loss = self.objective.loss(out, batch).reduced(units)
            loss.backward()
            total += loss.item()
        return total


def choose_layout(model: nn.Module, layout: str) -> None:
    from prefopt.models.layout_selection import request_layout

    request_layout(model, layout)


def budgeted(rows: list[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows from long to short, in parts of at most `max_tokens` tokens, a prompt counted once."""
    sizes = {id(row): len(row["prompt_ids"]) + sum(map(len, row["response_ids"])) for row in rows}
    part: list[Row] = []
    for row in sorted(rows, key=lambda row: -sizes[id(row)]):
        if part and sum(sizes[id(each)] for each in [*part, row]) > max_tokens:
            yield part
            part = []
        part.append(row)
    yield part


def log_probs(variant: Variant, model: Any, batch: Batch) -> Tensor:
    """[G, K, R]: response log-probs, computed the variant's way."""
    if variant.naive:
        return naive_log_probs(model, batch)
    if variant.share:
        return forward(model, batch, LOGPS).required("logps")
    return forward(model, unshared(batch), LOGPS).required("logps").view(batch.response_mask.shape)


def unshared(batch: Batch) -> Batch:
    """[G, K] responses as [G * K, 1]: every response has a prompt of its own."""
    k = batch.response_ids.shape[1]
    prompts = {name: batch[name].repeat_interleave(k, 0) for name in ("prompt_ids", "prompt_mask", "index")}
    responses = {name: batch[name].flatten(0, 1)[:, None] for name in ("response_ids", "response_mask", "loss_mask")}
    return Batch({**prompts, **responses})


def naive_log_probs(model: Any, batch: Batch) -> Tensor:
    """As a first script would do it: padded rows, logits and log-probs of every position, then those that count."""
    g, k, r = batch.response_mask.shape
    prompts = [ids[mask] for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    responses = [ids[mask] for ids, mask in zip(*(batch[n].flatten(0, 1) for n in ("response_ids", "response_mask")))]  # noqa: B905
    rows = [torch.cat([prompts[i // k], response]) for i, response in enumerate(responses)]
    ids = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    every = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    starts = [len(prompts[i // k]) - 1 for i in range(g * k)]
    found = [every[i, start : start + len(responses[i])] for i, start in enumerate(starts)]
    padded = pad_sequence([*found, every.new_zeros(r)], batch_first=True)[:-1]
    return padded.view(g, k, r)
