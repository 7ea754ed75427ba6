"""For how many turns an instruction is kept, with and without Ghost Attention (Llama 2, section 3.3).

    python -m benchmarks.gatt --output_dir out/gatt --seeds 0 1 2
    python -m benchmarks.gatt --output_dir out/gatt --model SmolLM2-135M-Instruct --conversations 50

In the small world made multi-turn, the instruction is to begin every answer with a given word. Each seed trains a
policy that obeys an instruction in the turn that gives it and then forgets it, and from that policy with the same
sampled responses, for the same number of steps:

gatt         the instruction in the first turn only, the loss on the last answer alone
as sampled   the instruction in every turn, as the responses were sampled: what GAtt leaves out is not left out
all answers  the instruction in the first turn only, the loss on the dialogue's earlier answers too, which do not obey

Dialogues of up to TRAINED turns are trained on, and of TURNS measured. With --model a real chat model talks about the
questions of `QUESTIONS`, is trained with LoRA, and its instructions are languages, hobbies and figures.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.small_world import common, set_up
from prefopt import SFTConfig, SFTTrainer
from prefopt.data.gatt import GattRows, Instruction, Respond, Survival, gatt_rows, holds, sample_instructions, survival
from prefopt.data.gatt import with_instruction as instructed
from prefopt.generation import sample
from prefopt.testbed.dialogues import dialogue_sft_rows, instructed_gold, sample_dialogues, sample_openings
from prefopt.testbed.model import build_policy, build_tokenizer
from prefopt.utils import jsonl

TURNS, TRAINED = 6, 4
SFT_ROWS, DIALOGUES, HELD_OUT = 2000, 240, 48
POSITIONS = 512
QUESTIONS = (
    "What should I cook tonight?",
    "How can I sleep better?",
    "What is a good way to learn a language?",
    "Tell me about the sea.",
    "How do plants grow?",
    "What makes a good friend?",
    "Why is the sky blue?",
    "How do I plan a trip?",
)


def responder(policy: Any, tokenizer: Any, seed: int, max_new_tokens: int, temperature: float = 1.0) -> Respond:
    """Samples one response to each prompt, with new random numbers at each call."""
    calls = iter(range(10**9))

    def respond(prompts: list[Any]) -> list[Any]:
        more = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed, "stream": (next(calls),)}
        return [replies[0] for replies in sample(policy, tokenizer, prompts, **more)]

    return respond


def arms(made: GattRows, dialogues: Sequence[Any], instructions: Sequence[Instruction]) -> dict[str, Any]:
    """What each way of training makes of the same responses to dialogues under instructions."""
    rows = made.rows
    every = [
        {"prompt": instructed(dialogues[number], instructions[number].text), "response": row["response"]}
        for row, number in zip(rows, made.sources, strict=True)
    ]
    whole = [{"messages": [*row["prompt"], {"role": "assistant", "content": row["response"]}]} for row in rows]
    return {"gatt": rows, "as sampled": every, "all answers": whole}


def in_the_small_world(seed: int, folder: Path, sizes: Sequence[int] = (SFT_ROWS, DIALOGUES, HELD_OUT)) -> list[Any]:
    """The records of one seed: for each arm and turn how many of how many kept to the instruction, and their gold."""
    tokenizer, args = build_tokenizer(), {"per_device_train_batch_size": 16, **common(folder, seed)}
    policy = build_policy(tokenizer, seed)
    policy.config.max_position_embeddings = POSITIONS  # which a rotary embedding has no weights for

    def train(model: Any, rows: Any, rate: float, epochs: int) -> Any:
        config = SFTConfig(**args, learning_rate=rate, num_train_epochs=epochs)
        SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer).train()
        return model.eval()

    base = train(policy, dialogue_sft_rows(sizes[0], seed, turns=TURNS), 3e-3, 3)
    dialogues = [d for n in range(1, TRAINED + 1) for d in sample_dialogues(sizes[1] // TRAINED, seed, turns=n)]
    instructions = sample_openings(dialogues, seed)
    made = gatt_rows(dialogues, instructions, responder(base, tokenizer, seed, 32), keep=holds)
    test = sample_dialogues(sizes[2], 1000, turns=TURNS, split="test")
    asked = sample_openings(test, 1000)
    records = _records(seed, "base", _survival(base, tokenizer, test, asked), test, asked)
    best = _survival(base, tokenizer, test, asked, every=True)
    records += _records(seed, "base, told every turn", best, test, asked)
    for name, own in arms(made, dialogues, instructions).items():
        trained = train(copy.deepcopy(base), own, 1e-3, 2)
        records += _records(seed, name, _survival(trained, tokenizer, test, asked), test, asked)
    print(f"seed {seed}: {len(made.rows)} of {sizes[1]} responses kept", flush=True)
    return records


def _survival(policy: Any, tokenizer: Any, test: Any, asked: Any, *, every: bool = False) -> Survival:
    return survival(test, asked, responder(policy, tokenizer, 7, 32), every=every)


def _records(seed: int, arm: str, found: Survival, test: Sequence[Any], asked: Sequence[Instruction]) -> list[Any]:
    """A record for each turn; `gold` is of what stands after the opening."""
    alive = np.cumprod(found.held, axis=1)
    golds = [
        [instructed_gold(dialogue[: 2 * t + 1], i, reply)[1] for t, reply in enumerate(replies)]
        for dialogue, i, replies in zip(test, asked, found.replies, strict=True)
    ]
    return [
        {
            "seed": seed,
            "arm": arm,
            "turn": turn + 1,
            "held": found.held[:, turn].tolist(),
            "alive": alive[:, turn].tolist(),
            "gold": float(np.mean([own[turn] for own in golds])),
        }
        for turn in range(found.held.shape[1])
    ]


def table(records: Sequence[Any], name: str = "held") -> str:
    """The share that keeps to the instruction by turn, with 95 % intervals from resampling seeds and conversations."""
    names, turns = list(dict.fromkeys(r["arm"] for r in records)), sorted({r["turn"] for r in records})
    lines = ["| | " + " | ".join(f"turn {turn}" for turn in turns) + " |", "|---" + "|---:" * len(turns) + "|"]
    for arm in names:
        cells = [_cell([r[name] for r in records if r["arm"] == arm and r["turn"] == turn]) for turn in turns]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(seeds: Sequence[Sequence[float]]) -> str:
    values, rng = [np.array(own) for own in seeds], np.random.default_rng(0)
    means = [
        np.mean([rng.choice(values[s], len(values[s])).mean() for s in rng.integers(0, len(values), len(values))])
        for _ in range(1000)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{100 * np.mean([own.mean() for own in values]):.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def with_a_real_model(path: str, conversations: int, folder: Path, turns: int = 6) -> list[Any]:
    """The records of a chat model, before and after GAtt with LoRA."""
    from peft import LoraConfig

    from prefopt.models.load import load_policy, load_tokenizer

    policy, tokenizer = load_policy(path, dtype=torch.float32), load_tokenizer(path)
    rng = np.random.default_rng(0)

    def talks(n: int) -> list[Any]:
        orders = [rng.permutation(len(QUESTIONS))[:turns] for _ in range(n)]
        return [[{"role": "user", "content": QUESTIONS[i]} for i in order] for order in orders]

    test, asked = talks(conversations), sample_instructions(conversations, 1000, languages=("en",))

    def measured(model: Any, arm: str) -> list[Any]:
        found = survival(test, asked, responder(model, tokenizer, 7, 48))
        jsonl.replace(
            folder / f"{arm}.jsonl",
            [{"instruction": i.text, "replies": r} for i, r in zip(asked, found.replies, strict=True)],
        )
        alive = np.cumprod(found.held, axis=1)
        columns = enumerate(zip(found.held.T.tolist(), alive.T.tolist(), strict=True), 1)
        return [{"seed": 0, "arm": arm, "turn": t, "held": h, "alive": a} for t, (h, a) in columns]

    records = measured(policy, "base")
    train, given = talks(2 * conversations), sample_instructions(2 * conversations, 0, languages=("en",))
    made = gatt_rows(train, given, responder(policy, tokenizer, 0, 48), answers="sampled", each_turn=True)
    print(f"{len(made.rows)} rows, left out: {dict(made.dropped)}", flush=True)
    config = SFTConfig(**common(folder, 0), learning_rate=2e-4, num_train_epochs=1, per_device_train_batch_size=8)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(policy, config, train_dataset=made.rows, processing_class=tokenizer, peft_config=lora)
    trainer.train()
    return records + measured(trainer.model.eval(), "gatt")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model")
    parser.add_argument("--conversations", type=int, default=50)
    parser.add_argument("--sizes", type=int, nargs=3, default=(SFT_ROWS, DIALOGUES, HELD_OUT))
    args = parser.parse_args(arguments)
    set_up()
    runs: dict[str, Callable[[Path], list[Any]]] = {
        f"seed-{seed}": lambda folder, seed=seed: in_the_small_world(seed, folder, args.sizes) for seed in args.seeds
    }
    if args.model:
        runs = {Path(args.model).name: lambda folder: with_a_real_model(args.model, args.conversations, folder)}
    records: list[Any] = []
    for name, run in runs.items():
        path = args.output_dir / name / "records.jsonl"
        if not path.is_file():
            jsonl.replace(path, run(args.output_dir / name))
        records += jsonl.read(path)
    print("Share of answers that keep to the instruction, in percent\n\n" + table(records))
    print("\nShare of conversations that kept to it up to there\n\n" + table(records, "alive"))


if __name__ == "__main__":
    main()
