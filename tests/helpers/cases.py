"""One small training of each kind, whose numbers must not depend on how rows are batched or split over ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from prefopt import PreferenceConfig, PreferenceTrainer
from prefopt.grades import GRADES
from prefopt.objectives.base import Objective
from prefopt.objectives.dpo import DPO
from prefopt.objectives.kto import KTO
from prefopt.objectives.reward import BradleyTerry
from prefopt.objectives.rrhf import RRHF
from prefopt.objectives.sft import SFT
from tests.helpers.models import tiny_llama
from tests.helpers.rows import ragged_pairs
from tests.helpers.training import quiet


def multi_turn(n: int) -> Dataset:
    """Rows of which some tokens belong to later user turns."""
    rows = ragged_pairs(n, seed=3, k=1)
    masks = [[[int(t % 3 != 1 or t == 0) for t in range(len(ids))] for ids in row] for row in rows["response_ids"]]
    return rows.add_column("loss_mask", masks)


def graded(n: int) -> Dataset:
    """Pairs with grades and margins."""
    return ragged_pairs(n, seed=5, grade=lambda rng: rng.choice(GRADES), margin=lambda rng: rng.random())


def ranked(n: int) -> Dataset:
    """Rows of two to four responses with scores, among them ties and a best that is not the first."""
    rows = ragged_pairs(n, seed=7, k=4).to_list()
    for i, row in enumerate(rows):
        row["response_ids"] = row["response_ids"][: 2 + i % 3]
        row["score"] = [float((5 * i + 3 * k) % 4) for k in range(2 + i % 3)]
    return Dataset.from_list(rows)


def unpaired(n: int) -> Dataset:
    """Rows of one response and a label, more of them good than bad."""
    return ragged_pairs(n, seed=11, k=1, label=lambda rng: rng.random() < 0.6)


@dataclass(frozen=True)
class Case:
    """What is trained: an objective on rows, in full or through an adapter that is fresh or that the model carries."""

    objective: Objective
    rows: Dataset
    adapter: Literal["fresh", "carried"] | None = None
    args: dict[str, Any] = field(default_factory=dict)


CASES = {
    "dpo": Case(DPO(), ragged_pairs(13)),
    "dpo + sft": Case(DPO(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.7]), ragged_pairs(13)),
    "reward + lm": Case(BradleyTerry(lm_coefficient=0.5, center_rewards_coefficient=0.01), graded(13)),
    "multi-turn sft": Case(SFT(), multi_turn(13)),
    "rrhf": Case(RRHF(), ranked(13)),
    "rrhf, code": Case(RRHF(mode="code"), ranked(13)),
    "aot (cross-batch)": Case(DPO(loss_type=["aot"]), ragged_pairs(13)),
    "kto (cross-batch)": Case(DPO(loss_type=["kto"]), ragged_pairs(13)),
    "bco (cross-batch, with state)": Case(DPO(loss_type=["bco_pair"]), ragged_pairs(13)),
    "kto, unpaired (cross-batch)": Case(KTO(desirable_weight=0.7), unpaired(13)),
    "bco, unpaired (cross-batch, with state)": Case(DPO(loss_type="bco_pair", undesirable_weight=1.4), unpaired(13)),
    "kto, unpaired, adapter switched off": Case(KTO(), unpaired(13), "fresh"),
    "kto, unpaired, precomputed": Case(DPO(loss_type="kto"), unpaired(13), args={"precompute_ref_log_probs": True}),
    "apo_zero, of pairs split": Case(KTO(loss_type="apo_zero_unpaired"), ragged_pairs(7)),
    "dpo, adapter switched off": Case(DPO(), ragged_pairs(13), "fresh"),
    "bco, adapter copied": Case(DPO(loss_type=["bco_pair"]), ragged_pairs(13), "carried"),
    "dpo, precomputed": Case(DPO(), ragged_pairs(13), args={"precompute_ref_log_probs": True}),
}

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "lm_head"], task_type="CAUSAL_LM")


def build(
    name: str, tmp_path: Path, tokenizer: Any, dtype: torch.dtype = torch.float64, **args: Any
) -> PreferenceTrainer:
    case = CASES[name]
    model: Any = tiny_llama(dtype=dtype)
    other = "reference" in case.objective.needs and case.adapter is None
    if case.adapter == "carried":
        model = get_peft_model(model, LORA)
        torch.nn.init.constant_(model.base_model.model.lm_head.lora_B["default"].weight, 0.01)
    return PreferenceTrainer(
        model,
        case.objective,
        PreferenceConfig(**quiet(tmp_path, **case.args | args)),
        case.rows,
        case.rows,
        tokenizer,
        ref_model=tiny_llama(seed=9, dtype=dtype) if other else None,
        peft_config=LORA if case.adapter == "fresh" else None,
    )


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics without those that tell of time."""
    timing = ("runtime", "per_second", "epoch")
    return {name: value for name, value in metrics.items() if not name.endswith(timing)}
