"""Rows of token ids are taken as they are; the loss over them is that of a model given their labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from prefopt import SFTConfig, SFTTrainer
from prefopt.data import DataError, load
from tests.helpers.models import tiny_llama

X = -100
IDS = [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("row", "prompt", "responses", "mask"),
    [
        ({"input_ids": IDS, "labels": [X, X, 7, 8, 9]}, [5, 6], [[7, 8, 9]], None),
        ({"input_ids": IDS, "labels": [X, 6, X, X, 9]}, [5], [[6, 7, 8, 9]], [[1, 0, 0, 1]]),
        ({"input_ids": IDS, "labels": IDS}, [5], [[6, 7, 8, 9]], None),
        ({"input_ids": IDS, "labels": [X, X, 7, X, X]}, [5, 6], [[7]], None),
        ({"input_ids": IDS, "labels": [X, X, 7, 8, X], "attention_mask": [1, 1, 1, 1, 0]}, [5, 6], [[7, 8]], None),
        (
            {"input_ids": [0, *IDS], "labels": [X, X, X, 7, 8, 9], "attention_mask": [0, 1, 1, 1, 1, 1]},
            [5, 6],
            [[7, 8, 9]],
            None,
        ),
        ({"input_ids": IDS, "completion_mask": [0, 0, 0, 1, 1]}, [5, 6, 7], [[8, 9]], None),
        ({"input_ids": IDS, "assistant_masks": [0, 1, 0, 1, 1]}, [5], [[6, 7, 8, 9]], [[1, 0, 1, 1]]),
        ({"prompt_ids": [5], "completion_ids": [6, 7]}, [5], [[6, 7]], None),
        ({"prompt_ids": [5], "chosen_ids": [6, 7], "rejected_ids": [8]}, [5], [[6, 7], [8]], None),
        ({"prompt_input_ids": [5], "chosen_input_ids": [6], "rejected_input_ids": [8]}, [5], [[6], [8]], None),
        ({"input_ids_chosen": [5, 6, 7], "input_ids_rejected": [5, 6, 8, 9]}, [5, 6], [[7], [8, 9]], None),
        ({"chosen_ids": [5, 6], "rejected_ids": [5, 6, 8]}, [5], [[6], [6, 8]], None),
        ({"prompt_ids": [5], "response_ids": [[6], [7]], "loss_mask": [[1], [1]]}, [5], [[6], [7]], [[1], [1]]),
    ],
)
def test_a_row_of_ids(row: dict[str, Any], prompt: list[int], responses: list[list[int]], mask: Any) -> None:
    encoded, report = load([{**row, "id": "x"}], "any")
    assert report.adapter == "token ids" and report.unread == {"id": 1}
    assert encoded[0] == {"prompt_ids": prompt, "response_ids": responses, **({"loss_mask": mask} if mask else {})}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_ids": IDS}, "which tokens the loss is over"),
        ({"input_ids": IDS, "labels": [X] * 5}, "no token to learn"),
        ({"input_ids": IDS, "labels": [5, X, X, X, X]}, "no token to learn"),
        ({"input_ids": IDS, "labels": [6, 7, 8, 9, X]}, "unshifted"),
        ({"input_ids": IDS, "labels": [X, 6]}, "another length"),
        ({"input_ids": IDS, "labels": IDS, "attention_mask": [1]}, "attention_mask"),
        ({"input_ids": [*IDS[:4], -1], "labels": IDS}, "none below 0"),
        ({"chosen_ids": [5], "rejected_ids": [6]}, "share no token"),
        ({"completion_ids": [5]}, "without a prompt"),
    ],
)
def test_ids_that_do_not_fit_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load([row], "any")


def test_the_loss_is_that_of_the_labels(tmp_path: Path, plain: Any) -> None:
    """PyTorch's cross entropy of the same ids and labels in float64, a mean over tokens; rows are taken one by one."""
    rows = [
        {"input_ids": IDS, "labels": [X, 6, X, X, 9]},
        {"input_ids": [9, 8, 7], "labels": [9, 8, 7]},
        {"input_ids": [4, 4, 4, 6], "labels": [X, X, X, 6]},
    ]
    model = tiny_llama(len(plain), dtype=torch.float64)
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[], per_device_eval_batch_size=1)
    trainer = SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), eval_dataset=rows, processing_class=plain)
    losses, tokens = [], []
    with torch.no_grad():
        for row in rows:
            ids, labels = (torch.tensor(row[name]) for name in ("input_ids", "labels"))
            logits = model(input_ids=ids[None]).logits[0, :-1]
            tokens.append(int((labels[1:] != X).sum()))
            losses.append(float(torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=X, reduction="sum")))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(sum(losses) / sum(tokens), rel=1e-9)


@pytest.mark.parametrize("name", ["one.jsonl", "one.json"])
def test_a_file_of_one_row(name: str, tmp_path: Path) -> None:
    """All fields of this row are lists, and so are those of a table that is written column by column."""
    (tmp_path / name).write_text('{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}\n')
    assert load(tmp_path / name, "any")[0].to_list() == [{"prompt_ids": [5], "response_ids": [[6, 7]]}]
