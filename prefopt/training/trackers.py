"""Where `report_to` sends what is logged: refused before anything is loaded where it is misspelt or not installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..utils.names import hint

PACKAGES = {
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet_ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""Tracker -> the package that it needs, where the package has a module of that name."""


def check_names(names: Sequence[str]) -> None:
    """Refuse a tracker that there is not.

    Raises:
        ValueError: the message names the nearest, or all.
    """
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"report_to={name!r}: no such tracker{hint(name, [*INTEGRATION_TO_CALLBACK, 'none'])}")


def check_installed(names: Sequence[str]) -> None:
    """Refuse a tracker whose package is not there.

    Raises:
        ValueError: the message says how to install it.
    """
    for name in names:
        package = PACKAGES.get(name)
        found = package is None or find_spec(package) or (name == "tensorboard" and find_spec("tensorboardX"))
        if not found:
            raise ValueError(f"report_to={name!r} needs a package: pip install {str(package).replace('_', '-')}")
