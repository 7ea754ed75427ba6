"""The list of all checks, and what they find of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import of_learning, of_policy, of_reward_model, of_rows, of_sampling
from .run import Figures, Run
from .words import JOINT, said

Check = Callable[[Run], Figures | None]
"""A run -> the figures that make it sick; None where it is not, or where what must be known is not."""

AT_START: tuple[Check, ...] = (*of_rows.CHECKS, *of_learning.AT_START)
"""What can be known before the first step."""
AT_END: tuple[Check, ...] = (
    *of_learning.CHECKS,
    *of_policy.CHECKS,
    *of_reward_model.CHECKS,
    *of_sampling.CHECKS,
)
CHECKS: Mapping[str, Check] = {check.__name__: check for check in (*AT_START, *AT_END)}
"""Name -> check, those first that are known first."""


@dataclass(frozen=True)
class Sickness:
    """What a check has found.

    Args:
        name: of the check.
        figures: what the texts name.
    """

    name: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    def text(self, lang: str = "en") -> str:
        """What is wrong and what to do, in one line.

        Raises:
            ValueError: no such language.
        """
        wrong, advice = self.parts(lang)
        return f"{wrong}{JOINT[lang]}{advice}"

    def parts(self, lang: str = "en") -> tuple[str, str]:
        """What is wrong, and what to do.

        Raises:
            ValueError: no such language.
        """
        return said(self.name, self.figures, lang)


def diagnose(run: Run, checks: tuple[Check, ...] = (*AT_START, *AT_END)) -> list[Sickness]:
    """What is wrong with a run, in the order of the checks; nothing of a healthy one."""
    found = [(check.__name__, check(run)) for check in checks]
    return [Sickness(name, figures) for name, figures in found if figures is not None]
