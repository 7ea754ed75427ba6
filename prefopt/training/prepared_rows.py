"""From raw rows to rows that an objective and its models can use: encoded, or of text where responses are generated."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import GenerationConfig

from ..data.batching import sequence_lengths
from ..data.encode import as_text, encode_dataset, split_pairs, with_mismatched
from ..data.text_prompts import with_turns
from ..data.token_ids import check_ids
from ..models.positions import check_lengths, position_limit
from ..models.wrappers import unwrap
from ..objectives.base import Objective
from ..objectives.sft import SFT
from .built import Built, models_of
from .config import PreferenceConfig
from .given_rows import check_responses, purpose_of

ANSWERS = frozenset(("chosen", "response", "responses", "response_ids"))
"""Columns in which a row has answers, as text or as token ids."""
TOO_LONG = "--max_length {limit} truncates rows to that (those that come encoded: prefopt.data.encode.encode_dataset)"
"""What to do about rows that are longer than a model's positions."""


def prepare_dataset(dataset: Any, built: Built, args: PreferenceConfig, counts: Counter[str] | None = None) -> Any:
    """Raw rows -> encoded rows that the objective can use; a dict of datasets is prepared one by one.

    Args:
        counts: what encoding did to the rows is added to it, see `encode_dataset`.
    """
    if dataset is None:
        return None
    if isinstance(dataset, dict):
        return {name: prepare_dataset(part, built, args, counts) for name, part in dataset.items()}
    generation = _generation_config(built.model)
    given = getattr(dataset, "column_names", ())
    if "prompt_ids" not in given:
        dataset = with_turns(as_text(dataset, purpose_of(built.objective)), built.tokenizer, args.text_prompts)
    encoded = encode_dataset(dataset, built.tokenizer, args.encoding, args.dataset_num_proc, generation, counts)
    encoded = _with_responses(encoded, built.objective)
    lengths = sequence_lengths(encoded)
    backbones = [unwrap(model) for model in models_of(built.model, built.reference)]
    if "prompt_ids" in given:
        check_ids(encoded, min(_vocabulary(model) for model in backbones))
    for model in {(type(model), position_limit(model)): model for model in backbones}.values():  # each kind once
        check_lengths(model, lengths, TOO_LONG)
    return with_mismatched(encoded, args.max_length) if "mismatched" in built.objective.needs else encoded


def _vocabulary(model: Any) -> int:
    """How many embeddings a model has."""
    return int(getattr(model.get_input_embeddings(), "num_embeddings", sys.maxsize))


def prepare_demonstrations(dataset: Any, rows: Any, built: Built, args: PreferenceConfig) -> Any:
    """Encoded rows of good answers, where the objective mixes them in: of `dataset`, or else of the training rows.

    Raises:
        ValueError: there are none, or nothing would be done with them.
    """
    weight = getattr(built.objective, "ptx_coef", 0.0)
    if not weight:
        if dataset is not None:
            raise ValueError(f"ptx_dataset is mixed in with ptx_coef, which {built.objective!r} has not above 0")
        return None
    source = rows if dataset is None else dataset
    encoded = "prompt_ids" in getattr(source, "column_names", ())
    if source is not None and not encoded and ANSWERS.isdisjoint(as_text(source).column_names):
        raise ValueError("ptx_coef needs answers to learn, and these rows are prompts: pass ptx_dataset with answers")
    return prepare_dataset(source, replace(built, objective=SFT()), args)


def as_rows(dataset: Any, built: Built, args: PreferenceConfig) -> Any:
    """Raw rows -> rows of text, for a trainer that generates; a dict of datasets is prepared one by one."""
    if dataset is None:
        return None
    if isinstance(dataset, dict):
        return {name: as_rows(part, built, args) for name, part in dataset.items()}
    if "prompt_ids" in getattr(dataset, "column_names", ()):
        raise ValueError("these rows are encoded, and generating responses needs their text: pass the rows of text")
    return with_turns(as_text(dataset), built.tokenizer, args.text_prompts)


def _generation_config(model: Any) -> Any:
    """What sampling from this model may stop on; a reward model's is that of the policy it came from."""
    own = getattr(model, "generation_config", None)
    folder = Path(model.config._name_or_path or ".")
    if own is not None or not (folder / "generation_config.json").is_file():
        return own
    return GenerationConfig.from_pretrained(folder)


def _with_responses(dataset: Dataset, objective: Objective) -> Dataset:
    """Rows with as many responses as the objective learns from: pairs are split for one that learns from labels.

    One response means the best, so the rest go.
    """
    check_responses(objective, dataset)
    if "label" in dataset.column_names:
        return dataset
    if "label" in objective.needs:
        return split_pairs(dataset)
    if objective.responses != 1:
        return dataset
    columns = [c for c in ("response_ids", "loss_mask", "score", "ref_logps") if c in dataset.column_names]
    return dataset.map(lambda row: {name: row[name][:1] for name in columns}, desc="Keeping the best response")
