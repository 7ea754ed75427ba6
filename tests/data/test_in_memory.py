"""Tables and records of pandas, numpy and pyarrow are read as the same rows in JSON are."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from prefopt.data import DataError, load, load_preferences

NAN = float("nan")
ROWS: list[dict[str, Any]] = [
    {"prompt": "你好", "chosen": "您好！", "rejected": "no", "score_chosen": 2.0, "score_rejected": 1.0},
    {"prompt": "Hm?", "chosen": "Ha.", "rejected": "x", "system": "Be brief."},
]
TURNS = {
    "prompt": [{"role": "user", "content": "Hm?"}],
    "chosen": [{"role": "assistant", "content": "Ha."}],
    "rejected": [{"role": "assistant", "content": "x"}],
}


@pytest.mark.parametrize(
    "made",
    [
        lambda: pd.DataFrame(ROWS),
        lambda: pd.DataFrame(ROWS).to_dict("records"),
        lambda: pd.DataFrame(ROWS).convert_dtypes().to_dict("records"),
        lambda: pa.Table.from_pylist([{name: row.get(name) for name in ROWS[0] | ROWS[1]} for row in ROWS]),
    ],
    ids=["frame", "records", "records with NA", "arrow"],
)
def test_a_table_gives_the_rows_that_it_was_made_from(made: Any) -> None:
    """Both scores and the system turn are missing in one row each, for which pandas has NaN or NA."""
    assert load_preferences(made()).to_list() == load_preferences(ROWS).to_list()


def test_nan_in_json_is_null(tmp_path: Any) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c", "system": NaN, "margin": NaN}\n')
    assert load_preferences(path).to_list() == [
        {"prompt": [{"role": "text", "content": "a"}], "chosen": "b", "rejected": "c"}
    ]


def test_nan_among_several_scores_is_no_score() -> None:
    row = {"prompt": "a", "responses": ["b", "c"], "scores": np.array([1.0, NAN])}
    with pytest.raises(DataError, match="field 'scores': is nan, expected a finite number"):
        load_preferences([row])


@pytest.mark.parametrize(
    ("cells", "plain"),
    [
        ({name: np.array(turns, dtype=object) for name, turns in TURNS.items()}, TURNS),
        (
            {"prompt": "a", "responses": np.array(["b", "c"], dtype=object), "scores": np.array([1.0, 2.0])},
            {"prompt": "a", "responses": ["b", "c"], "scores": [1.0, 2.0]},
        ),
        (
            {**ROWS[0], "chosen": np.str_("您好！"), "score_chosen": np.float32(2), "score_rejected": np.int64(1)},
            ROWS[0],
        ),
        (
            {"prompt": "a", "completion": "b", "label": np.bool_(True)},
            {"prompt": "a", "completion": "b", "label": True},
        ),
        (
            {"input_ids": np.array([5, 6, 7]), "labels": np.array([-100, 6, 7])},
            {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
        ),
    ],
    ids=["turns", "scores", "scalars", "label", "token ids"],
)
def test_cells_of_numpy_are_what_they_say(cells: dict[str, Any], plain: dict[str, Any]) -> None:
    assert load([cells], "own")[0].to_list() == load([plain], "own")[0].to_list()


def test_a_table_with_two_columns_of_one_name_is_refused() -> None:
    frame = pd.DataFrame([["a", "b", "c"]], columns=["prompt", "chosen", "chosen"])
    with pytest.raises(DataError, match="more than one column 'chosen'"):
        load_preferences(frame)
