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
        ({"prompt_ids": [5], "completion_ids": [6], "label": "maybe"}, "'maybe', which calls the answer neither"),
        ({"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7], "label": True}, "not read beside 2 answers"),
        ({"prompt_ids": [5], "response_ids": [[6], [7]], "scores": [1.0]}, "1 values for 2 responses"),
        ({"prompt_ids": [5], "completion_ids": [6, 7], "completion_mask": [0, 0]}, "no token to learn"),
        ({"prompt_ids": [5], "completion_ids": [6, 7], "completion_mask": [1]}, "another length than its labels"),
        (
            {"chosen_ids": [5, 6], "rejected_ids": [4, 7], "chosen_labels": [X, 6], "rejected_labels": [X, 7]},
            "leave out prompts that differ",
        ),
    ],
)
def test_ids_that_do_not_fit_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load([row], "any")


BESIDE: list[tuple[dict[str, Any], dict[str, Any]]] = [  # a row -> what it is besides its ids
    ({"prompt_ids": [5], "completion_ids": [6, 7], "label": False}, {"label": False}),
    ({"prompt_ids": [5], "completion_ids": [6, 7], "kto_tag": "true"}, {"label": True}),
    ({"input_ids": IDS, "labels": [X, X, 7, 8, 9], "label": 1}, {"label": True}),
    ({"prompt_ids": [5], "completion_ids": [6, 7], "completion_mask": [0, 1]}, {"loss_mask": [[0, 1]]}),
    ({"prompt_ids": [5], "completion_ids": [6, 7], "completion_mask": [0, 0, 1]}, {"loss_mask": [[0, 1]]}),
    ({"prompt_ids": [5], "completion_ids": [6, 7], "completion_labels": [X, 7]}, {"loss_mask": [[0, 1]]}),
    (
        {"prompt_ids": [5], "chosen_ids": [6, 7], "rejected_ids": [8], "chosen_labels": [6, X]},
        {"loss_mask": [[1, 0], [1]]},
    ),
    (
        {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7], "score_chosen": 2, "score_rejected": "1"},
        {"score": [2.0, 1.0]},
    ),
    (
        {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7], "margin": 1.5, "grade": "slightly better"},
        {"margin": 1.5, "grade": "slightly"},
    ),
    ({"prompt_ids": [5], "response_ids": [[6], [7], [8]], "scores": [3, 2, 1]}, {"score": [3.0, 2.0, 1.0]}),
    ({"prompt_ids": [5], "response_ids": [[6], [7]], "score": [float("nan")] * 2}, {}),
]


@pytest.mark.parametrize(("row", "beside"), BESIDE)
def test_what_stands_beside_ids_is_read(row: dict[str, Any], beside: dict[str, Any]) -> None:
    encoded, report = load([row], "any")
    assert not report.unread and len(encoded) == 1
    assert {name: value for name, value in encoded[0].items() if name not in ("prompt_ids", "response_ids")} == beside


@pytest.mark.parametrize(
    "names", [("chosen_input_ids", "rejected_input_ids"), ("input_ids_chosen", "input_ids_rejected")]
)
def test_padding_beside_the_answers_of_a_pair_is_left_out(names: tuple[str, str]) -> None:
    masks = [name.replace("input_ids", "attention_mask") for name in names]
    row = {"prompt_input_ids": [0, 5], "prompt_attention_mask": [0, 1], names[0]: [6, 0], names[1]: [7, 8]}
    encoded, report = load([row | dict(zip(masks, ([1, 0], [1, 1]), strict=True))], "any")
    assert encoded.to_list() == [{"prompt_ids": [5], "response_ids": [[6], [7, 8]]}] and not report.unread


WHOLE = [
    {"prompt_input_ids": [5, 6], "chosen_input_ids": [5, 6, 7], "rejected_input_ids": [5, 6, 8, 9]},
    {"prompt_input_ids": [6], "chosen_input_ids": [6, 6], "rejected_input_ids": [6, 9]},
]
APART = {"prompt_input_ids": [5, 6], "chosen_input_ids": [7], "rejected_input_ids": [8, 9]}


def test_answers_that_repeat_their_prompt_are_whole_sequences() -> None:
    encoded, report = load(WHOLE, "any")
    assert encoded["prompt_ids"] == [[5, 6], [6]] and encoded["response_ids"] == [[[7], [8, 9]], [[6], [9]]]
    assert [(count, "whole sequences" in why) for why, count in report.repaired.items()] == [(2, True)]
    ones = [{"prompt_ids": [5, 6], "completion_ids": [5, 6, 7], "completion_mask": [0, 0, 1]}]
    assert load(ones, "any")[0].to_list() == [{"prompt_ids": [5, 6], "response_ids": [[7]], "loss_mask": [[1]]}]


def test_whether_they_repeat_it_is_decided_over_all_rows() -> None:
    encoded, report = load([*WHOLE, APART], "any")
    assert len(encoded) == 2 and report.dropped.total() == 1
    encoded, report = load([WHOLE[1], APART, APART], "any")
    assert encoded["response_ids"][0] == [[6, 6], [6, 9]] and report.noted.total() == 1 and not report.dropped


def test_a_bad_answer_is_no_demonstration_and_a_row_without_a_label_no_unpaired_one() -> None:
    rows = [{"prompt_ids": [5], "completion_ids": [6], "label": good} for good in (True, False)]
    assert load(rows, "any")[0]["label"] == [True, False]
    assert load(rows, "sft")[0]["response_ids"] == [[[6]]]
    encoded, report = load([*rows, {"prompt_ids": [5], "completion_ids": [7]}], "any")
    assert len(encoded) == 2 and dict(report.dropped) == {"no label, which other rows have": 1}


@pytest.mark.parametrize("ties", ["keep", "drop"])
def test_reversed_scores_beside_ids_are_counted_and_dropped_if_asked(ties: str) -> None:
    row = {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7], "score_rejected": 2.0}
    encoded, report = load([row | {"score_chosen": score} for score in (3.0, 1.0)], "any", ties=ties)
    assert (len(encoded), report.noted.total(), report.dropped.total()) == ((2, 1, 0) if ties == "keep" else (1, 0, 1))


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
