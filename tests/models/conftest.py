"""What the tests of models share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _float64_all_the_way(float64_all_the_way: None) -> None:
    """Every test of a model computes in the model's own dtype."""
