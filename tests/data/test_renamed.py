"""Names of earlier versions go on working, with a warning."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("prefopt.data.batching", "Order", "RowSampler"),
        ("prefopt.data.batching", "cut", "split_by_tokens"),
        ("prefopt.data.special_tokens", "Specials", "SpecialTokens"),
    ],
)
def test_an_old_name_is_the_new_one(module: str, old: str, new: str) -> None:
    home = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=f"{module}.{old} is now {new}"):
        assert getattr(home, old) is getattr(home, new)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = home.nonsense


def test_the_encoder_has_its_old_path() -> None:
    with pytest.warns(FutureWarning, match="prefopt.data.encoder is now prefopt.data.row_encoder"):
        old = importlib.import_module("prefopt.data.encoder")
    assert old is importlib.import_module("prefopt.data.row_encoder")
    assert {"Encoder", "Encoding", "truncate", "NOTES"} <= set(vars(old))
