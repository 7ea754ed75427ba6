"""Writes the task's rows as files in published formats: JSON lines, UTF-8, characters unescaped."""

import json
from collections.abc import Iterable
from pathlib import Path

from ..utils import files
from .prompts import Message, find_prompt
from .recipe import Recipe
from .rows import Row, candidate_rows, preference_rows, prompt_rows, sft_rows

TAGS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}


def transcript(messages: Iterable[Message]) -> str:
    """Anthropic's text form of a conversation: every turn opens with two newlines, its speaker and one space."""
    return "".join(TAGS[m["role"]] + m["content"] for m in messages)


def hh_rlhf(row: Row) -> Row:
    """Anthropic/hh-rlhf: two whole transcripts {chosen, rejected} with the conversation in common."""
    return {
        side: transcript([*row["prompt"], {"role": "assistant", "content": row[side]}])
        for side in ("chosen", "rejected")
    }


def rm_static(row: Row) -> Row:
    """Dahoas/rm-static: the prompt ends on "Assistant:" and a response begins with the space after it."""
    prompt = transcript(row["prompt"]) + TAGS["assistant"].rstrip(" ")
    chosen, rejected = " " + row["chosen"], " " + row["rejected"]
    return {"prompt": prompt, "response": chosen, "chosen": chosen, "rejected": rejected}


def rrhf(row: Row) -> Row:
    """RRHF's ranked responses: {query, responses, scores}, the query a transcript up to "Assistant:"."""
    query = transcript(row["prompt"]) + TAGS["assistant"].rstrip(" ")
    return {"query": query, "responses": row["responses"], "scores": row["scores"]}


def conversation(row: Row) -> Row:
    """An SFT row as {messages}: the whole conversation with its response as the last turn."""
    return {"messages": [*row["prompt"], {"role": "assistant", "content": row["response"]}]}


def of_language(rows: Iterable[Row], language: str) -> list[Row]:
    return [row for row in rows if find_prompt(row["prompt"]).language == language]


def write_jsonl(path: str | Path, rows: Iterable[Row]) -> Path:
    """One row a line; the folder is made when it is missing."""
    path = Path(path)
    files.replace(path, ((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8") for row in rows))
    return path


def write_all(folder: str | Path, seed: int = 0, sizes: Recipe | None = None) -> list[Path]:
    """Every kind of file, for training (`train`) and held out (`test`), into `folder`; their paths."""
    sizes = sizes or Recipe()
    return [
        *write_split(folder, "train", seed, sft=sizes.sft_rows, preferences=sizes.preference_rows),
        *write_split(folder, "test", seed, sft=sizes.held_out_pairs, preferences=sizes.held_out_pairs),
    ]


def write_split(folder: str | Path, split: str, seed: int, *, sft: int, preferences: int) -> list[Path]:
    """The files of one split: `sft` demonstrations; `preferences` pairs, candidate lists and prompts."""
    pairs = preference_rows(preferences, seed, split)
    files = {
        "sft": sft_rows(sft, seed, split),
        "sft-messages": map(conversation, sft_rows(sft, seed, split)),
        "preferences": pairs,
        "hh-rlhf": map(hh_rlhf, pairs),
        "rm-static-en": map(rm_static, of_language(pairs, "en")),
        "rm-static-zh": map(rm_static, of_language(pairs, "zh")),
        "candidates": map(rrhf, candidate_rows(preferences, seed, split)),
        "prompts": prompt_rows(preferences, seed, split),
    }
    return [write_jsonl(Path(folder) / f"{name}.{split}.jsonl", rows) for name, rows in files.items()]
