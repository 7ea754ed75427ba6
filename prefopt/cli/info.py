"""`prefopt info`: what is installed and on what, for reports of faults; and what a folder holds. Changes nothing."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..utils.visible import visible
from .command import Command

ABOUT = """\
Without FOLDER: the versions of prefopt and of what it uses, and the devices that torch finds, to go with the report of
a fault. With FOLDER: what it holds (a model, a run that is finished or not, a pool of responses, a comparison, rounds),
what it came to, and how to go on with it. Nothing is loaded that takes long, and nothing is changed.
"""
PACKAGES = (
    *("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "bitsandbytes", "safetensors", "numpy"),
    *("pandas", "matplotlib", "vllm", "deepspeed", "flash-attn", "triton", "trl", "tensorboard", "wandb", "trackio"),
)
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "PREFOPT_DEBUG", "TOKENIZERS_PARALLELISM"),
    *("WORLD_SIZE", "ATEN_CPU_CAPABILITY", "DS_ACCELERATOR"),
)
"""Of the environment, what changes how a run goes, and holds no secret."""


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, look, print; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    if args.folder is None:
        lines = environment()
    else:
        from .folders import described

        lines = described(Path(args.folder).expanduser())
    if args.json:
        print(json.dumps(_by_name(lines), indent=2, ensure_ascii=False))
        return 0
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {visible(value)}")
    return 0


def _by_name(lines: Sequence[tuple[str, str]]) -> dict[str, str | list[str]]:
    """The lines by their names; of a name that several have, a list."""
    found: dict[str, list[str]] = {}
    for name, value in lines:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def environment() -> list[tuple[str, str]]:
    """Versions, devices, and what of the environment matters."""
    import torch

    from .. import __version__

    packages = {name: found for name in PACKAGES if (found := _version(name))}
    lines = [
        ("prefopt", __version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *packages.items(),
        (
            "cpu",
            f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        ),
        ("devices", "; ".join(_devices(torch)) or "none but the CPU"),
    ]
    lines += [("cuda", str(torch.version.cuda))] if torch.version.cuda else []
    lines += [(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    return lines


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices(torch: Any) -> list[str]:
    found = []
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        found.append(f"{device.name}, {device.total_memory / 2**30:.0f} GiB")
    if sys.platform == "darwin" and torch.backends.mps.is_available():
        found.append("mps")
    return found


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=ABOUT)
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="of a model, a run, a pool, a comparison or rounds")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    return parser
