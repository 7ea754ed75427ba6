"""What a run of iterations has on disk beside its pool: which iterations are done, and what each came to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...candidates.report import Report, write_rewards
from ...candidates.selection import write_rows
from ...data.records import DataError
from ...utils import jsonl
from ...utils.hashing import hash_of_file
from .. import checkpoint
from ..unwritten import not_written

logger = logging.getLogger(__name__)

Row = dict[str, Any]
ROWS, REPORT = "selection.jsonl", "report.json"


class RunFolder:
    """The folder of a run; an iteration is done once its policy is there, whole."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def place(self, number: int) -> Path:
        return self.folder / f"iteration-{number:03d}"

    def policy(self, number: int) -> Path:
        return self.place(number) / "policy"

    def done(self, iterations: int) -> int:
        """How many iterations are done, of so many; says which policy is there and damaged, and made anew.

        Raises:
            DataError: the rows or the report of one that is done are not what was written.
        """
        for number in range(iterations):
            problem = checkpoint.problem_with(self.policy(number), thorough=True)
            if problem is not None:
                if self.policy(number).is_dir():
                    logger.warning("%s: %s; this iteration is done again", self.policy(number), problem)
                return number
            self._check_beside(number)
        return iterations

    def _check_beside(self, number: int) -> None:
        for name, known in checkpoint.described(self.policy(number)).get("beside", {}).items():
            path = self.place(number) / name
            if not path.is_file() or hash_of_file(path) != known:
                raise DataError(f"{path} is damaged, it is not what was written: restore it, or begin anew elsewhere")

    def newest_checkpoint(self, number: int) -> str | None:
        """What a kill left of an iteration's training."""
        try:
            return str(checkpoint.newest(self.place(number)))
        except FileNotFoundError:
            return None

    def keep_rows(self, number: int, rows: Sequence[Row]) -> None:
        """Write the rows that an iteration trains on, or make sure that it goes on with the same.

        Raises:
            ValueError: others are there.
        """
        path = self.place(number) / ROWS
        there = [_less_no_ids(row) for row in jsonl.read(path)]
        if there not in ([], [_less_no_ids(row) for row in rows]):
            raise DataError(
                f"{path} was selected from other candidates or scores, and this iteration may have trained on it: give "
                f"the scorer that it was selected by, or delete {path.parent} to train it again"
            )
        write_rows(path, rows)

    def reports(self, count: int) -> list[Report]:
        return [report for i in range(count) for report in jsonl.read(self.place(i) / REPORT)]

    def keep_report(self, report: Report) -> None:
        """Write an iteration's report, and plot the rewards of all until then."""
        number = report["iteration"]
        jsonl.replace(self.place(number) / REPORT, [report])
        write_rewards(self.folder / "rewards.png", self.reports(number + 1))

    def publish(self, number: int, staged: Path) -> None:
        """A saved policy as the iteration's, which is done with it.

        Raises:
            OSError: a file could not be written; the message names it, and how much room there is.
        """
        beside = {name: hash_of_file(self.place(number) / name) for name in (ROWS, REPORT)}
        try:
            checkpoint.publish(staged, self.policy(number), {"iteration": number, "beside": beside})
        except OSError as error:
            raise OSError(not_written(error, self.policy(number), staged)) from error


def _less_no_ids(row: Row) -> Row:
    """A row without the columns of sampled ids, if it has none: versions that kept text alone wrote it so."""
    return row if row.get("sampled_by") else {name: row[name] for name in row if not name.startswith("sampled_")}
