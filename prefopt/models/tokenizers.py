"""Loads tokenizers from a path or hub id, each with the ids that its own file gives."""

from __future__ import annotations

import logging
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import cached_file

logger = logging.getLogger(__name__)

GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""What a tokenizer_config.json says of a tokenizer that is of no family, all of which is in its tokenizer.json."""
PROBE = "It's  12,345 cafés_x²!\n\n\tdef f(x): 中文，测试 don't"
"""A text on which tokenizers with other rules give other ids."""


def load_tokenizer(source: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    A missing pad token becomes the end-of-sequence token: padding is told by masks here, never by its id.

    Args:
        source: path or hub id.
        kwargs: for `AutoTokenizer.from_pretrained`.
    """
    options = {"trust_remote_code": False} | kwargs
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if get_tokenizer_config(source).get("tokenizer_class") in GENERIC and not _has_files_ids(tokenizer, source):
        logger.warning(
            "%s holds a tokenizer of its own, which AutoTokenizer turns into a %s with other ids because of the model "
            "beside it: it is loaded as it was saved; elsewhere use PreTrainedTokenizerFast.from_pretrained",
            source,
            type(tokenizer).__name__,
        )
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _has_files_ids(tokenizer: Any, source: str) -> bool:
    """Whether a tokenizer gives the ids of the tokenizer.json that it was loaded from."""
    file = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    if file is None or not tokenizer.is_fast or type(tokenizer) is PreTrainedTokenizerFast:
        return True
    saved, loaded = Tokenizer.from_file(file), tokenizer.backend_tokenizer
    words = " ".join(sorted(saved.get_vocab())[:1000])
    return all(
        saved.encode(text, add_special_tokens=False).ids == loaded.encode(text, add_special_tokens=False).ids
        for text in (PROBE, words)
    )
