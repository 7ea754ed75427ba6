"""What a chat model becomes that is trained on plain text prompts: verbatim, or each as a user's turn.

    python benchmarks/text_prompts.py --model CHAT_MODEL --data hh.jsonl                  # a few SFT, then DPO steps
    python benchmarks/text_prompts.py --model CHAT_MODEL --data hh.jsonl --sft_steps 0

The first questions of the data's conversations are kept as text, as many files keep theirs. The same rows, seed and
steps are trained on with text_prompts=verbatim and =user; then each policy answers held-out questions, given in the
form that it was trained on. Printed are the share of empty responses and the mean length in tokens, before and after.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from datasets import Dataset

from prefopt import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer, load_preferences
from prefopt.data.text_prompts import with_turns
from prefopt.generation import sample
from prefopt.models import load_policy, load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a small chat model: a folder or hub id")
    parser.add_argument("--data", required=True, help="preference rows")
    parser.add_argument("--sft_steps", type=int, default=4)
    parser.add_argument("--dpo_steps", type=int, default=6)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--questions", type=int, default=40)
    args = parser.parse_args()
    rows, held_out = text_rows(args.data, args.batch_size * max(args.sft_steps, args.dpo_steps), args.questions)
    print("| prompts | steps | empty responses | mean tokens |\n| --- | --- | ---: | ---: |")
    for mode in ("verbatim", "user"):
        policy, tokenizer = load_policy(args.model), load_tokenizer(args.model)
        report(mode, "none", policy, tokenizer, held_out)
        policy = trained(policy, tokenizer, rows, mode, args)
        report(mode, f"{args.sft_steps} SFT, {args.dpo_steps} DPO", policy, tokenizer, held_out)


def text_rows(data: str, count: int, questions: int) -> tuple[Dataset, Dataset]:
    """Rows of one exchange with their prompts as text: to train on, and to ask."""
    pairs = [row for row in load_preferences(data) if len(row["prompt"]) == 1]
    rows = [
        {"prompt": row["prompt"][0]["content"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in pairs
    ]
    if len(rows) < count + questions:
        raise SystemExit(f"{data} has {len(rows)} rows of one exchange, and {count + questions} are needed")
    return Dataset.from_list(rows[:count]), load_preferences(Dataset.from_list(rows[count : count + questions]))


def trained(policy: Any, tokenizer: Any, rows: Dataset, mode: str, args: argparse.Namespace) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            **{"output_dir": folder, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "bf16": False},
            **{
                "text_prompts": mode,
                "per_device_train_batch_size": args.batch_size,
                "use_cpu": True,
                "max_length": 384,
            },
        }
        if args.sft_steps:
            config = SFTConfig(**common, max_steps=args.sft_steps, learning_rate=2e-5)
            SFTTrainer(policy, config, train_dataset=rows, processing_class=tokenizer).train()
        if args.dpo_steps:
            dpo = DPOConfig(**common, max_steps=args.dpo_steps, learning_rate=1e-5)
            DPOTrainer(policy, None, dpo, train_dataset=rows, processing_class=tokenizer).train()
    return policy


def report(mode: str, steps: str, policy: Any, tokenizer: Any, held_out: Dataset) -> None:
    prompts = with_turns(held_out, tokenizer, mode)["prompt"]
    responses = [row[0] for row in sample(policy.eval(), tokenizer, list(prompts), k=1, max_new_tokens=64, seed=0)]
    empty = sum(not response.text.strip() for response in responses)
    length = sum(len(response.ids) for response in responses) / len(responses)
    print(f"| {mode} | {steps} | {empty} of {len(responses)} | {length:.1f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
