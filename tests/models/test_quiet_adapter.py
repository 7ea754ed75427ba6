"""A new adapter says nothing that a user could not mend."""

from __future__ import annotations

import warnings

from peft import LoraConfig
from transformers import PreTrainedTokenizerFast

from prefopt.models import add_adapter
from tests.helpers.models import untrained


def test_a_new_adapter_warns_of_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_adapter(untrained(tokenizer), LoraConfig(r=2, task_type="CAUSAL_LM"), gradient_checkpointing=True)
