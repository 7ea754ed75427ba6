"""Old names of an objective's methods and flags, which go on working for one release, with a warning."""

from __future__ import annotations

import warnings
from typing import Any

RENAMED = {
    "couples": "cross_batch",
    "observes_outputs": "statistics_need_outputs",
    "observe": "gather_statistics",
    "couple": "apply_statistics",
}
"""Old name -> new name, of members of every objective."""
RENAMED_ON_POLICY = {
    "observe_rollout": "rollout_statistics",
    "update": "update_state",
    "experience": "compute_advantages",
    "begun": "start_policy",
}
"""Old name -> new name, of members that objectives which learn from rollouts have beside those."""
TO_CLASS_STATEMENT, TO_ACCESS = 5, 3
"""How many frames there are from a warning to the code that it is about."""


class _OldName:
    """Gives the member of a class under its old name, with a warning.

    Args:
        member: what the class has under the new name.
    """

    def __init__(self, old: str, new: str, member: Any):
        self.old, self.new, self.member = old, new, member

    def __get__(self, instance: Any, owner: type) -> Any:
        _warn(owner, self.old, self.new, TO_ACCESS)
        bind = getattr(type(self.member), "__get__", None)
        return self.member if bind is None else bind(self.member, instance, owner)


def keep_old_names(cls: Any) -> None:
    """Let a class that defines members under old names work under the new ones, and the other way round.

    A subclass may thus override an old name and call `super()` by it, wherever its base class has the new name.
    """
    members = vars(cls)
    for old, new in (RENAMED | (RENAMED_ON_POLICY if cls.on_policy else {})).items():
        if new in members:
            setattr(cls, old, _OldName(old, new, members[new]))
        elif old in members:
            _warn(cls, old, new, TO_CLASS_STATEMENT)
            setattr(cls, new, members[old])


def _warn(cls: type, old: str, new: str, stacklevel: int) -> None:
    message = f"{cls.__name__}.{old} is now called {new}; the old name goes in 0.3"
    warnings.warn(message, FutureWarning, stacklevel=stacklevel)
