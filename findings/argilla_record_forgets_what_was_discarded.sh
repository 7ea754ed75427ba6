#!/usr/bin/env bash
# argilla 2.8.0: a record that is exported and read again has every answer that its annotators took back.
#
# Guess: `Record.from_dict(record.to_dict())`, which `records.to_json` and `from_json` go through, is the same record: who
#        answered what, and whether it was submitted, a draft or discarded.
# Seen: each answer keeps its value and its annotator and loses its status. A discarded vote and a draft stand beside the
#       submitted one, and nothing tells them apart; the export's own "status" is the record's.
# argilla 2.8.0 imports requests without asking for it, so that it is installed here by name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet argilla==2.8.0 requests==2.34.2
cd "$folder"
venv/bin/python - 2>/dev/null <<'PYTHON'
import json
from importlib.metadata import version
from uuid import UUID

import argilla as rg

print("argilla", version("argilla"))
STATUSES = ["submitted", "discarded", "draft"]
answers = [
    rg.Response("better", value, user_id=UUID(int=number), status=status)
    for number, (value, status) in enumerate(zip(["left", "right", "right"], STATUSES))
]
record = rg.Record(id="pair-1", fields={"left": "Blue.", "right": "Green."}, responses=answers)
print("given   ", [(answer.value, str(answer.status.value)) for answer in record.responses])
exported = json.loads(json.dumps(record.to_dict()))
print("exported", exported["responses"]["better"], "record:", exported["status"])
back = rg.Record.from_dict(exported)
print("read    ", [(answer.value, answer.status) for answer in back.responses])
assert [answer.status.value for answer in record.responses] == STATUSES
assert all(set(answer) == {"value", "user_id"} for answer in exported["responses"]["better"])
assert [(answer.value, answer.status) for answer in back.responses] == [("left", None), ("right", None), ("right", None)]
print("as described")
PYTHON
