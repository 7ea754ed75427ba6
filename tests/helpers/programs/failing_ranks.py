"""Run by torchrun: work that the processes share, of which the last process fails; prints what each was told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from prefopt.candidates.evaluate import evaluate_policy
from prefopt.candidates.generate import Origin, generate_into
from prefopt.candidates.pool import Pool
from prefopt.objectives.sampling_arguments import SamplingArguments
from prefopt.scoring import CallableScorer
from prefopt.testbed import preference_rows, prompt_rows
from prefopt.testbed.model import build_tokenizer
from prefopt.utils.distributed import gathered, rank, world_size
from tests.helpers.models import untrained
from tests.helpers.ppo import trainer_of

SAMPLING = SamplingArguments(responses_per_prompt=2, max_new_tokens=4, sampling_batch_size=2)


def vowels(prompts: list[Any], responses: list[str]) -> list[float]:
    return [float(sum(map(response.count, "aeiou"))) for response in responses]


def broken(prompts: list[Any], responses: list[str]) -> list[float]:
    if rank() == world_size() - 1:
        raise OSError("the reward server is away")
    return vowels(prompts, responses)


def break_down(*_: Any) -> None:
    broken([], [])


def failures(folder: Path) -> dict[str, list[str]]:
    """What each process was told of each piece of work."""
    tokenizer = build_tokenizer()
    prompts = [row["prompt"] for row in prompt_rows(8, seed=0, unique=True)]
    pool = Pool(folder / "pool")
    policy = untrained(tokenizer).eval()
    generate_into(pool, policy, tokenizer, prompts, SAMPLING, Origin("v", seed=0))
    lame = untrained(tokenizer).eval()
    lame.get_input_embeddings().register_forward_pre_hook(break_down)
    scorer = CallableScorer(broken)
    rows = Dataset.from_list(preference_rows(8, seed=0))
    ppo = trainer_of(folder, tokenizer, rows, scorer=broken, per_device_train_batch_size=2)
    work: dict[str, Callable[[], Any]] = {
        "generate": lambda: generate_into(
            Pool(folder / "other"), lame, tokenizer, prompts, SAMPLING, Origin("v", seed=0)
        ),
        "score": lambda: pool.score(scorer, chunk=2),
        "evaluate": lambda: evaluate_policy(policy, tokenizer, prompts, scorer, SAMPLING, seed=0),
        "rollout": ppo.train,
    }
    return {name: gathered(told(one)) for name, one in work.items()}


def told(work: Callable[[], Any]) -> str:
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    result = failures(Path(json.loads(sys.argv[1])["folder"]))
    if rank() == 0:
        print("RESULT " + json.dumps(result))
    torch.distributed.destroy_process_group()
