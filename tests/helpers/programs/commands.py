"""Commands one after the other in a process of their own, each with its standard input; prints what each has said."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from prefopt.cli import main


def said(argv: list[str], given: str) -> dict[str, Any]:
    """The status, standard output and standard error of a command to which `given` comes through a pipe."""
    out, err = io.StringIO(), io.StringIO()
    sys.stdin = io.StringIO(given)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as ending:
            status = int(ending.code or 0)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    commands = json.loads(sys.argv[1])["commands"]
    print("RESULT " + json.dumps([said(each["argv"], each.get("given", "")) for each in commands]))
