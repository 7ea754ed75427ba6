#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.13.0: `accelerate launch` of one process ends at SIGTERM, and the training it started does not.
#
# Guess: what stops a job (SIGTERM to the command that was started) reaches the training script, as it does under torchrun.
# Seen: the launcher is gone at once; the script hears nothing, saves nothing, and goes on without a parent. torchrun with
#       one process passes the signal on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet accelerate==1.15.0 torch==2.13.0 numpy
cd "$folder"
cat > train.py <<'PYTHON'
import pathlib
import signal
import sys
import time

told = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (told.write_text("saved"), sys.exit(0)))
pathlib.Path(f"{told}.began").write_text("")
for _ in range(300):  # half a minute of steps
    time.sleep(0.1)
pathlib.Path(f"{told}.finished").write_text("")
PYTHON
try() {
    local name=$1
    shift
    HF_HOME="$folder/cache" "$@" train.py "$name" > "$name.log" 2>&1 &
    local launcher=$!
    for _ in $(seq 600); do [ -e "$name.began" ] && break; sleep 0.1; done
    [ -e "$name.began" ]
    kill -TERM "$launcher"
    wait "$launcher" || true
    sleep 3
}
venv/bin/python -c "import accelerate, torch; print('accelerate', accelerate.__version__, 'torch', torch.__version__)"
try torchrun venv/bin/torchrun --standalone --nproc_per_node 1
try accelerate venv/bin/accelerate launch --cpu --num_processes 1
[ -e torchrun ] && echo "torchrun: the script heard of SIGTERM and saved"
[ ! -e accelerate ] && echo "accelerate launch: the launcher has ended, and the script has not heard"
sleep 35
[ -e accelerate.finished ] && echo "accelerate launch: the script went on to its end, half a minute later"
echo "as described"
