"""Do the tests guard what README.md and docs/ promise? Each mutant breaks one promise in a copy; a test has to fail.

    python -m tests.mutants                     # all of them: a table, and status 1 unless every one is caught
    python -m tests.mutants --only gae-lambda   # one, or several
    python -m tests.mutants --check             # the tests that are to catch them, on the code as it is: all must pass
    python -m tests.mutants --root FOLDER       # of another checkout

`mutants.toml` beside this file says of each which text of which file becomes which other, and who should notice. The
checkout itself is never written to. A mutant is caught if a test fails; it survives if none does. It is stale, which is
as bad, if its text is not there exactly once, or if what fails is only that the changed code cannot be run: after a
renaming that is to be mended here.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out", "shared")
LIMIT = 300
"""Seconds that the tests of one mutant may take."""
HEAVY = ("torch", "transformers", "datasets", "peft", "accelerate", "trl", "scipy.stats", "transformers.trainer")
ELSEWHERE = 97
"""An exit status that pytest does not have."""
UNRUNNABLE = re.compile(r"^E\s+(NameError|ImportError|ModuleNotFoundError|UnboundLocalError|SyntaxError)\b.*", re.M)
FAILED = re.compile(r"^FAILED (.+?)(?: - (.*))?$", re.M)
CAUGHT, SURVIVED, STALE = "caught", "SURVIVED", "STALE"


@dataclass(frozen=True)
class Mutant:
    """A promise of the README or of a page of docs/, the change that breaks it, and the tests that must fail then."""

    name: str
    promise: str
    file: str
    old: str
    new: str
    tests: list[str]

    def apply(self, root: Path) -> str:
        """Change the file; the text that it had.

        Raises:
            ValueError: there is nothing to change, or no telling what.
        """
        path = root / self.file
        before = path.read_text("utf-8") if path.is_file() else ""
        if (count := before.count(self.old)) != 1 or self.old == self.new:
            raise ValueError(f"{self.file} has the text {count} times")
        after = before.replace(self.old, self.new)
        try:
            compile(after, self.file, "exec")
        except SyntaxError as error:
            raise ValueError(f"the changed {self.file} is no Python: {error}") from error
        path.write_text(after, "utf-8")
        return before


def mutants(only: Sequence[str] = ()) -> list[Mutant]:
    """Those of the file, or the named ones of them.

    Raises:
        ValueError: two of one name, or a name that none has.
    """
    found = [Mutant(**each) for each in tomllib.loads((HERE / "mutants.toml").read_text("utf-8"))["mutant"]]
    names = [each.name for each in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two mutants are called {', '.join(sorted(twice))}")
    if unknown := set(only) - set(names):
        raise ValueError(f"no mutant is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return [each for each in found if not only or each.name in only]


def preload() -> None:
    """Import once what takes long, and nothing of the project: each run of tests is a fork of this process."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PYTHONDONTWRITEBYTECODE="1", COLUMNS="250")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # A mutant of the same size, written within the same second, would else be taken for the compiled file before it.
    sys.dont_write_bytecode = True
    for name in HEAVY:
        with suppress(ImportError):
            importlib.import_module(name)


def run_tests(root: Path, *words: str, limit: float = math.inf) -> tuple[int, str]:
    """pytest's exit status and what it printed, in a process that has the copy first on its path.

    Raises:
        TimeoutError: it took more than `limit` seconds.
    """
    log, end = root.with_name("log.txt"), time.monotonic() + limit
    child = os.fork()
    if child == 0:
        os._exit(_test(root, log, words))
    try:
        while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                raise TimeoutError(f"its tests took more than {limit:.0f} s")
            time.sleep(0.05)
    except BaseException:  # a keyboard interrupt too
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    return os.waitstatus_to_exitcode(done[1]), log.read_text("utf-8", "replace")


def _test(root: Path, log: Path, words: Sequence[str]) -> int:
    """What the forked process does: pytest's exit status, or `ELSEWHERE` if it is not the copy that would be tested."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(root)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["PYTHONPATH"] = str(root)  # of what the tests start
    sys.path.insert(0, str(root))
    for name in [name for name in sys.modules if name.partition(".")[0] == __spec__.name.partition(".")[0]]:
        del sys.modules[name]  # ours: the copy has a package of this name
    try:
        import prefopt

        if not Path(prefopt.__file__).resolve().is_relative_to(root):
            return ELSEWHERE
        return int(pytest.main(["-p", "no:cacheprovider", "-q", "--tb=short", "-rf", *words]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def judge(mutant: Mutant, root: Path) -> tuple[str, str]:
    """What became of a mutant, and why."""
    try:
        before = mutant.apply(root)
    except ValueError as error:
        return STALE, str(error)
    try:
        status, said = run_tests(root, "-x", *mutant.tests, limit=LIMIT)
    except TimeoutError as error:
        return STALE, str(error)
    finally:
        (root / mutant.file).write_text(before, "utf-8")
    if status == 0:
        return SURVIVED, mutant.promise
    failed, unrunnable = FAILED.search(said), UNRUNNABLE.search(said)
    if status != 1 or failed is None:
        last = (said.strip().splitlines() or [""])[-1]
        return STALE, f"pytest ended with {status}: {last}"
    if unrunnable:
        return STALE, unrunnable[0].removeprefix("E").strip()
    return CAUGHT, f"{failed[1].rpartition('/')[2]}: {failed[2] or ''}"


def check(chosen: Sequence[Mutant], root: Path) -> bool:
    """Whether all tests that are to catch a mutant pass without any; the time each took is shown."""
    tests = list(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    status, said = run_tests(root, "--durations=15", *tests)
    print(said)
    return status == 0


def judge_all(chosen: Sequence[Mutant], root: Path) -> bool:
    """Whether all are caught; a line for each, and a table of them at the end."""
    rows = []
    for mutant in chosen:
        began = time.monotonic()
        outcome, why = judge(mutant, root)
        rows.append((mutant.name, outcome, time.monotonic() - began, why))
        print(f"{mutant.name}: {outcome}, {why}"[:200], file=sys.stderr, flush=True)
    width = max(len(name) for name, *_ in rows)
    for name, outcome, seconds, why in rows:
        print(f"{name:{width}}  {outcome:8}  {seconds:5.1f} s  {why[:140]}")
    caught, total = sum(outcome == CAUGHT for _, outcome, *_ in rows), sum(seconds for *_, seconds, _ in rows)
    print(f"{caught} of {len(rows)} mutants are caught, in {total:.0f} s")
    return caught == len(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=HERE.parents[1], help="the checkout to copy; by default this one")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these mutants alone")
    parser.add_argument("--check", action="store_true", help="run the tests on the code as it is")
    args = parser.parse_args()
    chosen = mutants(args.only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else what it started would go on
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder).resolve() / "copy"
        shutil.copytree(args.root, root, ignore=LEFT_OUT)
        preload()
        return 0 if (check if args.check else judge_all)(chosen, root) else 1


if __name__ == "__main__":
    sys.exit(main())
