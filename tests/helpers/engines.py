"""The engines that `examples/accelerate` has configs of, on two processes of CPUs.

A config is read by accelerate's own launcher, and what this would put into the environment is put there. Real are
accelerate's wrappers, torch's sharding, its collectives by gloo, and all that is written. One thing is emulated:
accelerate shards by FSDP only where it finds GPUs, so processes of CPUs are counted as such to it. What only a GPU has
(its streams, overlap of computation and communication, NCCL) is not tried.
"""

from __future__ import annotations

import os
from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

CONFIGS = Path(__file__).parents[2] / "examples/accelerate"
OF_LAUNCHER = ("MASTER_", "ACCELERATE_MIXED_PRECISION", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
"""What the tests decide: addresses, float32, threads."""


def environment(engine: str, world: int = 2) -> dict[str, str]:
    """What accelerate's launcher puts into the environment of a process, by a config."""
    given = ["--config_file", str(CONFIGS / f"{engine}.yaml"), "--num_processes", str(world), "program.py"]
    args = launch_command_parser().parse_args(given)
    args, defaults, _ = _validate_launch_command(args)
    args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config if defaults else ())
    found = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    new = {name: value for name, value in found.items() if os.environ.get(name) != value}
    return {name: value for name, value in new.items() if not name.startswith(OF_LAUNCHER)}


def use(engine: str | None) -> None:
    """Be one of the processes of an engine; None is one process, or DDP without a config."""
    if engine is None:
        return
    os.environ.update(environment(engine))
    if engine.startswith("fsdp"):
        _count_as(DistributedType.MULTI_GPU)
    elif engine.startswith("zero"):
        _count_as(DistributedType.DEEPSPEED)


def _count_as(kind: DistributedType) -> None:
    own = PartialState.__init__

    def begin(state: PartialState, *args: object, **kwargs: object) -> None:
        fresh = PartialState._shared_state == {}
        own(state, *args, **kwargs)
        if fresh and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = kind
            os.environ["ACCELERATE_USE_CPU"] = "false"

    PartialState.__init__ = begin  # type: ignore[method-assign]
