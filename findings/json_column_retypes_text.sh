#!/usr/bin/env bash
# datasets 5.2.0, pyarrow 26.0.1, pandas 3.1.1: one answer that is a number retypes the other answers of a JSON file.
#
# Guess: in {"answer": 7} beside {"answer": "8"} and {"answer": "true"} each row keeps what it says, or reading fails.
# Seen: the column becomes `Json`; text that spells JSON is parsed, in rows that were text all along: "8" -> 8,
#       "true" -> True, "null" -> None, "[1]" -> [1]. Without the one number all of them stay text. Written as parquet
#       and read by pandas, the answer fine is "fine" with its quotes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import datasets
import pandas
import pyarrow

datasets.disable_progress_bars()
print("datasets", datasets.__version__, "pyarrow", pyarrow.__version__, "pandas", pandas.__version__)


def loaded(name, answers):
    Path(name).write_text("".join(json.dumps({"answer": answer}) + "\n" for answer in answers))
    return datasets.load_dataset("json", data_files=name, split="train")


texts = ["fine", "8", "true", "null", "[1]"]
alone, beside = loaded("texts.jsonl", texts), loaded("mixed.jsonl", [*texts, 7])
print("texts alone:    ", alone["answer"][:])
print("beside a number:", beside["answer"][:])
beside.to_parquet("mixed.parquet")
parquet = pandas.read_parquet("mixed.parquet")["answer"].tolist()
print("in parquet:     ", parquet)

assert alone["answer"][:] == texts
assert beside["answer"][:] == ["fine", 8, True, None, [1], 7]
assert parquet == ['"fine"', "8", "true", "null", "[1]", "7"]
print("as described")
PYTHON
