"""Token ids that came with the rows: one that the model has no embedding for is named with its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from prefopt import PreferenceTrainer
from prefopt.data import DataError
from prefopt.data.token_ids import check_ids
from prefopt.training.config import PreferenceConfig
from tests.helpers.checkpoints import build

ROWS = {"prompt_ids": [[1, 2], [3], [4]], "response_ids": [[[5], [6, 7]], [[8], []], [[9], [2]]]}


def test_ids_within_the_vocabulary_pass() -> None:
    check_ids(Dataset.from_dict(ROWS), 10)
    check_ids(Dataset.from_dict({"prompt_ids": [[]], "response_ids": [[[]]]}), 1)


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (9, "row 2: response_ids hold the id 9, and the model's vocabulary ends at 8"),
        (8, "row 1: response_ids hold the id 8,"),
        (4, "row 2: prompt_ids hold the id 4,"),
    ],
)
def test_the_first_row_beyond_it_is_named(vocabulary: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_ids(Dataset.from_dict(ROWS), vocabulary)


def test_a_selection_is_checked_for_what_is_in_it() -> None:
    check_ids(Dataset.from_dict(ROWS).select([1, 0]), 9)
    with pytest.raises(DataError, match="row 0: response_ids hold the id 9"):
        check_ids(Dataset.from_dict(ROWS).select([2, 0]), 9)


def test_a_trainer_refuses_them_before_it_begins(tmp_path: Path) -> None:
    trainer: Any = build(tmp_path)
    size = trainer.model.get_input_embeddings().num_embeddings
    rows = Dataset.from_dict({"prompt_ids": [[1], [1]], "response_ids": [[[2], [3]], [[2], [size]]]})
    args = PreferenceConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none", bf16=False)
    with pytest.raises(DataError, match=f"row 1: response_ids hold the id {size:,}"):
        PreferenceTrainer(trainer.model, "dpo", args, rows, processing_class=trainer.processing_class)
