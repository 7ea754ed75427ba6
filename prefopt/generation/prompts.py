"""What every way of responding begins with: prompts as ids, checks of them and of the policy, and a bar.

Knows nothing of how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.records import DataError, Messages
from ..data.row_encoder import Encoder
from ..data.truncation import Encoding
from .stopping import Row


def encoded(
    prompts: Sequence[Messages], tokenizer: PreTrainedTokenizerBase, policy: Any, max_new_tokens: int
) -> list[list[int]]:
    """The ids of each prompt, those that training has before a response.

    Raises:
        ValueError: a prompt that cannot be encoded, or that leaves no room for `max_new_tokens` in the policy's
            context; the message has its number.
    """
    encoder = Encoder(tokenizer, Encoding())
    ids = [_encode(number, prompt, encoder) for number, prompt in enumerate(prompts)]
    limit = getattr(policy.config.get_text_config(decoder=True), "max_position_embeddings", None)
    for number, prompt in enumerate(ids):
        if limit and len(prompt) + max_new_tokens > limit:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens, which with max_new_tokens={max_new_tokens} is more than "
                f"the model's {limit} positions: shorten it or ask for fewer tokens"
            )
    return ids


def _encode(number: int, prompt: Messages, encoder: Encoder) -> list[int]:
    try:
        return encoder.encode_prompt([dict(turn) for turn in prompt])
    except DataError as error:
        raise DataError(f"prompt {number}: {error}") from error


def padded(rows: list[Row], device: torch.device) -> dict[str, Tensor]:
    """The prompts of the rows, padded on the left: [R, P] each."""
    width = max(len(row.prompt_ids) for row in rows)
    padding = [width - len(row.prompt_ids) for row in rows]
    ids = [[0] * gap + row.prompt_ids for gap, row in zip(padding, rows, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) for gap in padding]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def check_numbers(k: int, max_new_tokens: int, batch_size: int) -> None:
    """Raise ValueError if one of them is below 1."""
    if min(k, max_new_tokens, batch_size) < 1:
        raise ValueError(f"k={k}, max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1")


def check_policy(policy: Any) -> None:
    """Virtual tokens stand before the padding and peft drops position ids: a response would depend on its batch."""
    if isinstance(policy, PeftModel) and policy.active_peft_config.is_prompt_learning:
        kind = policy.active_peft_config.peft_type.value
        raise ValueError(f"{kind} changes the prompt, not the layers: use an adapter such as LoRA")


@contextmanager
def progress_bar(total: int, progress: bool) -> Iterator[Callable[[list[Row]], None]]:
    """Shows responses and tokens per second."""
    tokens = 0
    with tqdm(total=total, desc="sampling", unit="response", disable=not progress) as bar:

        def show(ended: list[Row]) -> None:
            nonlocal tokens
            tokens += sum(len(row.ids) for row in ended)
            bar.update(len(ended))
            if progress and ended:
                bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):.0f} tokens/s", refresh=False)

        yield show
