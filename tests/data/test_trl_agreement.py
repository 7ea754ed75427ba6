"""Where this room promises to do as TRL does: `keep_start`, token for token, and bare text."""

import pytest
from transformers import PreTrainedTokenizerFast

from prefopt.data import Encoding, encode_dataset

trl = pytest.importorskip("trl.trainer.dpo_trainer", reason="TRL is a test-only dependency and is not installed")

ROWS = [
    {"prompt": "What is bread?", "chosen": " Flour and water.", "rejected": " Paris."},
    {
        "prompt": "How do I bake bread? " * 4,
        "chosen": " Mix.",
        "rejected": " Mix flour, water, salt and yeast, then wait.",
    },
    {"prompt": "x", "chosen": " y", "rejected": " z"},
]


@pytest.mark.parametrize("max_length", [5, 8, 12, 40, None])
def test_keep_start_leaves_the_same_tokens(max_length: int | None, plain_bos: PreTrainedTokenizerFast) -> None:
    whole = encode_dataset(ROWS, plain_bos, Encoding(None))
    cut = encode_dataset(ROWS, plain_bos, Encoding(max_length, None, "keep_start"))
    collator = trl.DataCollatorForPreference(pad_token_id=0, max_length=max_length)
    for row, ours in zip(whole, cut, strict=True):
        if max_length is not None and len(row["prompt_ids"]) >= max_length:
            assert [len(ids) for ids in ours["response_ids"]] == [1, 1]  # TRL drops the row
            continue
        chosen, rejected = row["response_ids"]
        theirs = collator([{"prompt_ids": row["prompt_ids"], "chosen_ids": chosen, "rejected_ids": rejected}])
        for side in (0, 1):
            kept = theirs["attention_mask"][side].bool()
            assert theirs["input_ids"][side][kept].tolist() == ours["prompt_ids"] + ours["response_ids"][side]
            assert theirs["completion_mask"][side].sum() == len(ours["response_ids"][side])
