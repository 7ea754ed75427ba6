"""Old names go on working for one release, and say what the new ones are."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

import prefopt.candidates
from prefopt.utils.renamed import renamed_arguments

PLACES = [
    ("prefopt.candidates", "Draw", "Origin"),
    ("prefopt.candidates", "fill", "generate_into"),
    ("prefopt.candidates", "search", "search_temperatures"),
    ("prefopt.candidates.dataset_answers", "Given", "DatasetAnswers"),
    ("prefopt.candidates.generate", "responses", "sample_responses"),
    ("prefopt.generation.prompts", "encoded", "encode_prompts"),
    ("prefopt.utils.fingerprint", "digest", "fingerprint_of_values"),
    ("prefopt.utils.fingerprint", "fingerprint_of", "fingerprint_of_code"),
    ("prefopt.utils.shuffle", "turns", "shuffled"),
]


@pytest.mark.parametrize(("module", "old", "new"), PLACES)
def test_a_renamed_thing_is_found_under_its_old_name(module: str, old: str, new: str) -> None:
    place = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=rf"{module}.{old} is now {new}") as told:
        assert getattr(place, old) is getattr(place, new)
    assert told[0].filename == __file__


def test_only_new_names_are_published() -> None:
    assert not {"Draw", "fill", "search"} & {*prefopt.candidates.__all__, *dir(prefopt.candidates)}
    for module in ("prefopt.candidates", "prefopt.candidates.generate"):
        with pytest.raises(AttributeError, match="no_such"):
            importlib.import_module(module).no_such  # noqa: B018


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("name", "new"), [("Draw", "Origin"), ("fill", "generate_into"), ("search", None)])
def test_the_old_package_has_its_names(name: str, new: str | None) -> None:
    """Also `fill`, which was a function in the package and one of its modules."""
    importlib.import_module("prefopt.rollout.fill")
    found = getattr(sys.modules["prefopt.rollout"], name)
    assert found is getattr(prefopt.candidates, new or "search_temperatures")


def test_renamed_arguments() -> None:
    @renamed_arguments(old="new")
    def double(new: int, other: int = 0) -> int:
        """Twice as much."""
        return 2 * new + other

    assert double(1) == double(new=1) == 2 and double.__doc__ == "Twice as much."
    with pytest.warns(FutureWarning, match="double: old is now new") as told:
        assert double(old=2, other=1) == 5
    assert told[0].filename == __file__
    both: Any = {"old": 1, "new": 2}
    with pytest.raises(TypeError, match="double got old and new, which are one argument: give new"):
        double(**both)
