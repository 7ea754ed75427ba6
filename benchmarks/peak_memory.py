"""The peak of memory that a training says before its first step, beside the one that is measured.

    python benchmarks/peak_memory.py                                    # a small random Llama: no file needed
    python benchmarks/peak_memory.py --model MODEL --lengths 256 768 --output_dir out/memory
    python benchmarks/peak_memory.py --model MODEL --cases "dpo, copy" "reward"

Every case is a process of its own with one thread, whose allocator gives back what is freed. It trains for two steps on
rows that are all of one length, half of them prompt. Measured is the largest resident memory less what was resident
before the model was loaded, libraries included: a model of a hundred thousand weights has gone through the same before.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
from pathlib import Path
from typing import Any

from measuring import Results, in_own_process, peak_mib, report

MIB = 2**20
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""One arena, and what is freed is given back: as glibc comes, it keeps up to as much again for later."""
CASES: dict[str, dict[str, Any]] = {
    "dpo, copy": {"kind": "DPO"},
    "dpo, copy, checkpointing": {"kind": "DPO", "gradient_checkpointing": True},
    "dpo, copy in bfloat16": {"kind": "DPO", "reference_dtype": "bfloat16"},
    "dpo, lora": {"kind": "DPO", "lora": True},
    "dpo, lora, checkpointing": {"kind": "DPO", "lora": True, "gradient_checkpointing": True},
    "dpo, lora on 4 bits, checkpointing": {"kind": "DPO", "lora": True, "bits": 4, "gradient_checkpointing": True},
    "sft": {"kind": "SFT"},
    "sft, bf16": {"kind": "SFT", "bf16": True},
    "sft, accumulated": {"kind": "SFT", "gradient_accumulation_steps": 2},
    "reward": {"kind": "Reward"},
}


def main() -> int:
    args = parsed()
    if args.child:
        return child(args)
    os.environ |= ALLOCATOR
    from material import small_model

    folder = args.output_dir.resolve()
    model = args.model.expanduser().resolve() if args.model else small_model(folder / "small-llama")
    results, failed = Results(folder / "results.jsonl"), 0
    print("| training | tokens of a row | predicted MiB | measured MiB | ratio |\n|---|---|---|---|---|", flush=True)
    for name in args.cases:
        for length in args.lengths:
            key = {"case": name, "length": length, "model": model.name, "batch": args.batch}
            found = next((record for record in results.read() if key.items() <= record.items()), None)
            try:
                found = found or in_own_process(Path(__file__), "--child", name, *_again(args, model, length))
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed = 1
                continue
            if not results.has(key):
                results.append(key | found)
            print(
                f"| {name} | {length} | {found['predicted']} | {found['measured']} | {found['ratio']:.2f} |", flush=True
            )
    return failed


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, help="folder of a causal language model; a small random one by default")
    add("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help="by default all")
    add("--lengths", nargs="+", type=int, default=[256, 768], help="tokens of a prompt and one response")
    add("--batch", type=int, default=4, help="rows a batch")
    add("--output_dir", type=Path, default=Path("out/memory"))
    add("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _again(args: argparse.Namespace, model: Path, length: int) -> list[str]:
    return ["--model", str(model), "--lengths", str(length), "--batch", str(args.batch)]


def child(args: argparse.Namespace) -> int:
    """In a process of its own: train, and report both peaks."""
    import torch

    torch.set_num_threads(1)
    train(args, tiny(args.model), 8)  # so that all libraries are there
    gc.collect()
    forget_peak()
    before = resident_mib()
    found = train(args, args.model, args.lengths[0]).memory.predicted
    predicted, measured = found.total / MIB, peak_mib() - before
    parts = {name: round(size / MIB) for name, size in found.parts.items() if size}
    report({"predicted": round(predicted), "measured": round(measured), "ratio": predicted / measured, "parts": parts})
    return 0


def tiny(model: Path) -> Path:
    """A model of two narrow layers with the tokenizer of `model`, in the current folder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(model)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes, **ends)).save_pretrained("tiny")
    tokenizer.save_pretrained("tiny")
    return Path("tiny")


def train(args: argparse.Namespace, model: Path, length: int) -> Any:
    """Train a model for two steps on rows of one length, as the case says; the trainer."""
    from datasets import Dataset

    import prefopt

    settings = dict(CASES[args.child])
    kind, lora, bits = settings.pop("kind"), settings.pop("lora", False), settings.pop("bits", None)
    response = [5] * (length // 2)
    responses = [response] if kind == "SFT" else [response, [6] * len(response)]
    row = {"prompt_ids": [4] * (length - len(response)), "response_ids": responses}
    rows = Dataset.from_list([row] * 4 * args.batch)
    given = adapter(kind) if lora else {}
    if bits:
        from transformers import BitsAndBytesConfig

        given["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    exact = {"bf16": False, "gradient_checkpointing": False, "max_length": None, "save_strategy": "no", "max_steps": 2}
    common = {"output_dir": f"out-{model.name}", "use_cpu": True, "report_to": [], "disable_tqdm": True}
    config, trainer = getattr(prefopt, f"{kind}Config"), getattr(prefopt, f"{kind}Trainer")
    arguments = config(per_device_train_batch_size=args.batch, **{**common, **exact, **settings})
    run = trainer(str(model), args=arguments, train_dataset=rows, **given)
    run.train()
    return run


def adapter(kind: str) -> dict[str, Any]:
    from peft import LoraConfig

    task = "SEQ_CLS" if kind == "Reward" else "CAUSAL_LM"
    return {"peft_config": LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type=task)}


def forget_peak() -> None:
    """Let the largest resident memory be what is resident now, where the kernel can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_mib() -> float:
    """What this process has in memory now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    sys.exit(main())
