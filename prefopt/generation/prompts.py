"""Prompts on their way to a policy: as ids (`encode_prompts`), and checked, along with the policy and the numbers.

Every way of generating begins here, so that a prompt is encoded once, however many of them it goes through.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, overload

import torch
from peft import PeftModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.records import DataError, Messages
from ..data.row_encoder import UNREAD, UNREAD_KEYS, Encoder
from ..data.truncation import Encoding
from ..models.rope_lengths import length_rules
from ..models.wrappers import unwrap
from ..utils.renamed import renamed
from .stopping import SequenceState

logger = logging.getLogger(__name__)


class EncodedPrompts(Sequence[Messages]):
    """Prompts, with their ids beside them: whoever takes prompts takes these, and need not encode them again.

    Args:
        messages: the prompts.
        ids: the ids of each, those that training has before a response.
        tokenizer: what the ids are of.
    """

    def __init__(self, messages: Sequence[Messages], ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase):
        self.messages, self.tokenizer = messages, tokenizer
        self.ids = [array("i", prompt_ids) for prompt_ids in ids]  # a ninth of a list's memory, for all of a dataset

    def __len__(self) -> int:
        return len(self.messages)

    @overload
    def __getitem__(self, number: int) -> Messages: ...
    @overload
    def __getitem__(self, number: slice) -> EncodedPrompts: ...
    def __getitem__(self, number: int | slice) -> Messages | EncodedPrompts:
        if isinstance(number, slice):
            return EncodedPrompts(self.messages[number], self.ids[number], self.tokenizer)
        return self.messages[number]

    def at(self, numbers: Iterable[int]) -> EncodedPrompts:
        """The prompts of these numbers, in this order."""
        numbers = list(numbers)
        return EncodedPrompts(
            [self.messages[number] for number in numbers], [self.ids[number] for number in numbers], self.tokenizer
        )

    @property
    def lengths(self) -> list[int]:
        """How many tokens each prompt has."""
        return [len(prompt_ids) for prompt_ids in self.ids]


def encode_prompts(
    prompts: Sequence[Messages], tokenizer: PreTrainedTokenizerBase, policy: Any, max_new_tokens: int
) -> EncodedPrompts:
    """The prompts with their ids, which are those that training has before a response.

    Prompts that this tokenizer has encoded already are only checked.

    Raises:
        ValueError: a prompt that cannot be encoded, or that leaves no room for `max_new_tokens` in the policy's
            context or before a length at which its rotary frequencies change; the message has its number.
    """
    encoded = prompts
    if not isinstance(encoded, EncodedPrompts) or encoded.tokenizer is not tokenizer:
        encoder = Encoder(tokenizer, Encoding())
        ids = [_encode(number, prompt, encoder) for number, prompt in enumerate(prompts)]
        encoded = EncodedPrompts(prompts, ids, tokenizer)
        if unread := sum(encoder.renderer.leaves_out(prompt) for prompt in prompts):
            logger.warning("%s of %s prompts: %s", f"{unread:,}", f"{len(prompts):,}", UNREAD)
        if unread := sum(map(encoder.renderer.leaves_keys_out, prompts)):
            logger.info("%s of %s prompts: %s", f"{unread:,}", f"{len(prompts):,}", UNREAD_KEYS)
    limit = getattr(policy.config.get_text_config(decoder=True), "max_position_embeddings", None)
    for number, length in enumerate(encoded.lengths):
        if limit and length + max_new_tokens > limit:
            raise ValueError(
                f"prompt {number} has {length} tokens, which with max_new_tokens={max_new_tokens} is more than "
                f"the model's {limit} positions: shorten it or ask for fewer tokens"
            )
    if isinstance(policy, nn.Module):
        _check_frequencies(unwrap(policy), encoded.lengths, max_new_tokens)
    return encoded


def _check_frequencies(inner: nn.Module, lengths: Sequence[int], max_new_tokens: int) -> None:
    """Refuse responses on whose way the rotary frequencies would change, which are one set for a whole row."""
    for rule in length_rules(inner):
        for number, length in enumerate(lengths):
            if length <= rule.limit < length + max_new_tokens:
                raise ValueError(
                    f"prompt {number} has {length} tokens, and with max_new_tokens={max_new_tokens} its response may "
                    f"grow beyond {rule.limit} tokens, where this model's rotary frequencies ({rule.kind}) change: "
                    "it would be sampled by two models and trained on by one of them. Ask for at most "
                    f"{rule.limit - length} tokens, or sample to shorter prompts"
                )


def _encode(number: int, prompt: Messages, encoder: Encoder) -> list[int]:
    try:
        return encoder.encode_prompt([dict(turn) for turn in prompt])
    except DataError as error:
        raise DataError(f"prompt {number}: {error}") from error


def padded(sequences: list[SequenceState], device: torch.device) -> dict[str, Tensor]:
    """The prompts of the sequences, padded on the left, as the model takes them: [R, P] each."""
    width = max(len(sequence.prompt_ids) for sequence in sequences)
    padding = [width - len(sequence.prompt_ids) for sequence in sequences]
    ids = [[0] * gap + sequence.prompt_ids for gap, sequence in zip(padding, sequences, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) for gap in padding]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


def check_numbers(k: int, max_new_tokens: int, batch_size: int) -> None:
    """Raise ValueError if one of them is below 1."""
    if min(k, max_new_tokens, batch_size) < 1:
        raise ValueError(f"k={k}, max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1")


def check_policy(policy: Any) -> None:
    """Raise ValueError for a policy with learnt virtual tokens, whose responses would depend on their batch.

    Virtual tokens stand before the padding, and peft drops position ids.
    """
    if isinstance(policy, PeftModel) and policy.active_peft_config.is_prompt_learning:
        kind = policy.active_peft_config.peft_type.value
        raise ValueError(f"{kind} changes the prompt, not the layers: use an adapter such as LoRA")


@contextmanager
def progress_bar(total: int, progress: bool) -> Iterator[Callable[[list[SequenceState]], None]]:
    """Shows responses and tokens per second; it is told of sequences as they end."""
    tokens = 0
    with tqdm(total=total, desc="sampling", unit="response", disable=not progress) as bar:

        def show(ended: list[SequenceState]) -> None:
            nonlocal tokens
            tokens += sum(len(sequence.ids) for sequence in ended)
            bar.update(len(ended))
            if progress and ended:
                bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):.0f} tokens/s", refresh=False)

        yield show


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"encoded": "encode_prompts"})
