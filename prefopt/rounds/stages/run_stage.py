"""Does the work of each stage of a round, in the process that runs it.

Every function reads the results of the tasks that its own needs, writes files into its task's folder, and returns what
is to be kept beside these files, in plain values. A function's name is the kind of its tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...tasks import Task
from ..context import StageContext
from .files import Result
from .ghost_attention import gatt
from .labels import ask, candidates, label
from .measure import evaluate, rescore
from .reward_model import combine, rank, reward, safety
from .round_prompts import held_out, prompts, rows
from .sampling import generate, score, search, select
from .training import start, train

BEFORE = (rows, held_out, start, safety)
ROUND = (prompts, candidates, ask, label, reward, combine, rank, search, generate, score, select, gatt, train)
STAGE_FUNCTIONS: dict[str, Callable[[StageContext], Result]] = {
    function.__name__: function for function in (*BEFORE, *ROUND, evaluate, rescore)
}


def run(task: Task, out: Path) -> Result:
    """Do the work of one stage."""
    return STAGE_FUNCTIONS[task.kind](StageContext(task, out))
