"""How many prompts of raw HH-RLHF run into the answer: TRL's split by characters against prefopt's split by turns.

    python benchmarks/prompt_split.py harmless-base/test.jsonl

The file holds rows `{"chosen": transcript, "rejected": transcript}` as published. TRL has to be installed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trl.data_utils import maybe_extract_prompt

from prefopt.data import load

END = "\n\nAssistant:"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    prompts = [maybe_extract_prompt(dict(row))["prompt"] for row in rows]
    wrong = sum(not prompt.rstrip(" ").endswith(END) for prompt in prompts)
    print(f"TRL: {wrong} of {len(rows)} prompts ({wrong / len(rows):.1%}) do not end where the answer begins")
    ours, report = load(file, adapter="hh-rlhf")
    wrong = sum(prompt[-1]["role"] != "user" for prompt in ours["prompt"])
    print(f"prefopt: {wrong} of {len(ours)}; dropped {dict(report.dropped)}, repaired {dict(report.repaired)}")


if __name__ == "__main__":
    main()
