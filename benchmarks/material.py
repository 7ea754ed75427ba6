"""What is trained and on what: encoded pairs that all methods share, the model, the tokenizer.

Pairs are encoded once, by prefopt, shuffled with seed 0 and written as token ids; every library trains on those ids.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import torch
from measuring import Setting

Row = dict[str, Any]
SMALL: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "vocab_size": 8000}
RESPONSES = 4  # of a prompt, for RRHF
POOL = 5  # repeats whose pairs are grouped by length together


def small_model(folder: Path) -> Path:
    """A random Llama with the built-in world's tokenizer, for a benchmark that needs no file."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from prefopt.testbed.model import build_tokenizer

    if not (folder / "config.json").exists():
        tokenizer = build_tokenizer()
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**SMALL, **ends, num_attention_heads=4)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def encoded_rows(data: Path | None, model: Path, max_length: int, folder: Path, count: int) -> Path:
    """A file of shuffled pairs as token ids: of `data`, else `count` pairs of the built-in world."""
    from datasets import Dataset

    from prefopt import load_preferences
    from prefopt.data import Encoding, encode_dataset
    from prefopt.testbed import preference_rows

    source = load_preferences(data) if data else Dataset.from_list(preference_rows(count, seed=0))
    encoded = encode_dataset(source, tokenizer_of(str(model)), Encoding(max_length))
    rows = [{name: row[name] for name in ("prompt_ids", "response_ids")} for row in encoded]
    random.Random(0).shuffle(rows)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = folder / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:8]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(
    setting: Setting, repeat: int, path: Path | None = None, *, grouped: bool = False
) -> tuple[list[Row], list[Row]]:
    """The warm-up batch and the timed pairs: pairs number repeat * pairs to (repeat + 1) * pairs, or `by_length`.

    Raises:
        ValueError: the file has too few pairs.
    """
    lines = (path or Path(setting.rows)).read_text(encoding="utf-8").splitlines()
    first, last = (repeat // POOL * POOL, (repeat // POOL + 1) * POOL) if grouped else (repeat, repeat + 1)
    first, last = first * setting.pairs, last * setting.pairs
    if last + setting.batch > len(lines):
        raise ValueError(f"repeat {repeat} needs {last + setting.batch} pairs and there are {len(lines)}")
    rows = [json.loads(line) for line in lines]
    if setting.work == "rrhf":
        rows = ranked(rows, setting.max_length)
    timed = rows[first:last]
    return rows[-setting.batch :], by_length(timed, setting.batch, repeat % POOL) if grouped else timed


def by_length(rows: list[Row], batch: int, share: int) -> list[Row]:
    """One share of a pool's batches of similar lengths, every POOL-th from long to short.

    Within one repeat there are too few pairs to find others like them: transformers' group_by_length sorts 50 batches
    at a time. So the pairs of POOL repeats are sorted together, and together the shares are those very pairs.
    """
    ordered = sorted(rows, key=tokens_of, reverse=True)
    batches = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
    return [row for part in batches[share::POOL] for row in part]


def ranked(rows: list[Row], max_length: int) -> list[Row]:
    """Four ranked responses to each prompt: its own two and those of the next row, whose lengths are as real."""
    found = []
    for row, following in zip(rows, [*rows[1:], rows[0]], strict=True):
        room = max(1, max_length - len(row["prompt_ids"]))
        responses = [ids[:room] for ids in (*row["response_ids"], *following["response_ids"])]
        assert len(responses) == RESPONSES
        found.append({"prompt_ids": row["prompt_ids"], "response_ids": responses})
    return found


def tokens_of(row: Row) -> int:
    """The longer of a pair's two sequences, by which TRL's rows are grouped."""
    return len(row["prompt_ids"]) + max(map(len, row["response_ids"]))


def tokenizer_of(model: str) -> Any:
    """The model's tokenizer with a pad token that ends nothing, or TRL's reward model would read the wrong token."""
    from prefopt.data.encode import stop_token_ids
    from prefopt.models.load import load_tokenizer

    tokenizer = load_tokenizer(model)
    ends = {tokenizer.eos_token_id, *stop_token_ids(tokenizer)}
    if tokenizer.pad_token_id in ends:
        free = next(i for i in sorted(tokenizer.all_special_ids) if i not in ends)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(free)
    return tokenizer


def load_model(setting: Setting) -> Any:
    """The policy, or for `reward` a scorer with a seeded head, in float32."""
    from prefopt.models.load import load_policy, load_scorer

    torch.manual_seed(0)
    load = load_scorer if setting.work == "reward" else load_policy
    return load(setting.model, dtype="float32")


@torch.no_grad()
def perturb(model: torch.nn.Module, size: float = 0.05) -> torch.nn.Module:
    """Seeded noise of a twentieth of each weight's mean magnitude: a policy that differs from its reference."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise * parameter.abs().mean() * size)
    return model
