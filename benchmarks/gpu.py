"""What can only be seen on a GPU, in one script: is it the same, how fast, how much memory. No file is downloaded.

    python benchmarks/gpu.py --output_dir out/gpu                      # under 8 minutes on one H200
    python benchmarks/gpu.py --output_dir out/gpu --parts dpo peak     # some of the parts
    python benchmarks/gpu.py --output_dir out/gpu --tiny               # as far as CPUs go, in a minute

A random Llama of 0.9 billion weights trains in float32 and computes in bfloat16, on rows of a prompt and two responses
of 256 tokens each. Every part is a process of its own, so that what one breaks is its own. Each prints a line of JSON;
all are in results.jsonl, and in a table at the end.

layouts   log-probs and gradients on packed rows beside those on padded rows, in float32
dpo       tokens a second and the share of an H200's peak (790 TFLOP/s in dense bfloat16), the reference in bfloat16
reward    the same for a reward model
budget    DPO in batches of 8, 16 and 32 thousand tokens
peak      the predicted peak of memory beside torch's, in full, checkpointed, and by an adapter
recovery  a run that has three quarters of the memory it needs: the same loss, in parts
fsdp2     DPO under FSDP2 on one GPU
sampling  prefopt beside transformers' `generate`
ppo       one rollout of PPO-max and the steps that learn from it
trl       TRL's DPO on the same rows, where it is installed
vllm      the same prompts by vLLM, where it is installed
flash     DPO with flash_attention_2 on padded rows, where flash-attn is installed
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measuring import Results

PEAK_FLOPS = 790e12
GIB = 2**30
LIMIT_S = 100
"""Seconds of a part, which is given up after that."""
FULL = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 16, "num_attention_heads": 16}
FULL |= {"num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 512}
Found = dict[str, Any]


class Skipped(Exception):
    """A part that cannot be done here; the message says why."""


@dataclass(frozen=True)
class Bench:
    """The sizes of everything, and where it runs."""

    tiny: bool
    folder: Path
    attention: str = "sdpa"

    @property
    def gpu(self) -> bool:
        return torch.cuda.is_available() and not self.tiny

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"

    @property
    def length(self) -> int:
        """Tokens of a prompt, and of a response."""
        return 16 if self.tiny else 256

    def model(self, dtype: torch.dtype = torch.float32) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
        with torch.device(self.device):
            model = LlamaForCausalLM(LlamaConfig(**(TINY if self.tiny else FULL), **ends)).to(dtype)
        model.set_attn_implementation(self.attention)
        return model

    def rows(self, count: int, responses: int = 2) -> Any:
        """Random ids; every third row is half as long."""
        from datasets import Dataset

        generator = torch.Generator().manual_seed(0)

        def ids(length: int) -> list[int]:
            return torch.randint(4, 1000, (length,), generator=generator).tolist()

        lengths = [self.length // 2 if number % 3 == 0 else self.length for number in range(count)]
        return Dataset.from_list(
            [{"prompt_ids": ids(n), "response_ids": [ids(n) for _ in range(responses)]} for n in lengths]
        )

    def arguments(self, **changes: Any) -> dict[str, Any]:
        common = {"output_dir": str(self.folder / "run"), "save_strategy": "no", "report_to": [], "disable_tqdm": True}
        common |= {"per_device_train_batch_size": 4 if self.tiny else 16, "max_steps": 3 if self.tiny else 8}
        common |= {"logging_steps": 1, "learning_rate": 1e-6, "max_length": None, "overwrite_output_dir": True}
        return {**common, "gradient_checkpointing": False, "use_cpu": not self.gpu, "bf16": self.gpu, **changes}

    def trained(self, kind: str, *, lora: bool = False, callbacks: Any = None, **changes: Any) -> Any:
        """A trainer that has trained for some steps."""
        from peft import LoraConfig

        import prefopt
        from prefopt.testbed.model import build_tokenizer

        args = getattr(prefopt, f"{kind}Config")(**self.arguments(**changes))
        rows = self.rows(args.per_device_train_batch_size * 10)
        given = {"peft_config": LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")} if lora else {}
        trainer = getattr(prefopt, f"{kind}Trainer")(
            self.model(),
            args=args,
            train_dataset=rows,
            processing_class=build_tokenizer(),
            callbacks=callbacks,
            **given,
        )
        trainer.train()
        return trainer

    def now(self) -> float:
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


def timed(bench: Bench, kind: str, **changes: Any) -> Found:
    """Tokens and FLOPs a second of all steps but the first two, which warm up."""
    from transformers import TrainerCallback

    from prefopt.utils.flop_counter import count_flops

    marks: list[tuple[float, float, int]] = []
    with count_flops() as counter:

        class Clock(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                marks.append((bench.now(), counter.total, state.num_input_tokens_seen))

        trainer = bench.trained(kind, callbacks=[Clock()], **changes)
    (begin, flops, tokens), (end, all_flops, all_tokens) = marks[min(1, len(marks) - 2)], marks[-1]
    rate = (all_flops - flops) / (end - begin)
    peak = torch.cuda.max_memory_allocated() / GIB if bench.gpu else None
    found = {"tokens_per_s": (all_tokens - tokens) / (end - begin), "tflop_per_s": rate / 1e12, "peak_gib": peak}
    share = {"share_of_peak": rate / PEAK_FLOPS} if bench.gpu else {}
    return found | share | {"loss": trainer.state.log_history[0]["loss"], "steps": len(marks)}


# ---- the parts -----------------------------------------------------------------------------------------------------


def layouts(bench: Bench) -> Found:
    from prefopt.data.collate import collate
    from prefopt.models.forward import forward
    from prefopt.models.layout_selection import request_layout

    batch = collate(list(bench.rows(6))).to(torch.device(bench.device))
    model, found = bench.model(), []
    for layout in ("padded", "segments"):
        request_layout(model, layout)
        model.zero_grad(set_to_none=True)
        logps = forward(model, batch, frozenset({"logps"})).required("logps")
        logps.sum().backward()
        found.append((logps.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (padded, gradient), (packed, other) = found
    apart = {"logps": float((padded - packed).abs().max())}
    apart["gradient"] = float((gradient - other).norm() / gradient.norm())
    return {**apart, "passed": apart["logps"] < 1e-2 and apart["gradient"] < 1e-3}


def dpo(bench: Bench) -> Found:
    return timed(bench, "DPO", reference_dtype="bfloat16")


def reward(bench: Bench) -> Found:
    return timed(bench, "Reward")


def budget(bench: Bench) -> Found:
    sizes = (200, 400) if bench.tiny else (8192, 16384, 32768)
    steps = {"max_steps": 3 if bench.tiny else 5, "per_device_train_batch_size": 16}
    return {str(size): timed(bench, "DPO", max_tokens_per_batch=size, **steps)["tokens_per_s"] for size in sizes}


def peak(bench: Bench) -> Found:
    cases: dict[str, dict[str, Any]] = {
        "full": {},
        "checkpointing": {"gradient_checkpointing": True},
        "lora": {"lora": True},
    }
    found: Found = {}
    for name, changes in cases.items():
        if bench.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        trainer = bench.trained("DPO", max_steps=3, **changes)
        found[f"{name}: predicted GiB"] = predicted = trainer.memory.predicted.total / GIB
        if bench.gpu:
            found[f"{name}: measured GiB"] = measured = torch.cuda.max_memory_allocated() / GIB
            found[f"{name}: ratio"] = predicted / measured
        del trainer
    return found


def recovery(bench: Bench) -> Found:
    if not bench.gpu:
        raise Skipped("memory can be limited on a GPU only")
    whole = bench.trained("DPO", max_steps=3)
    losses, needed = _losses(whole), torch.cuda.max_memory_allocated()
    there = whole.memory.predicted
    held = there.total - there.activations
    del whole
    torch.cuda.empty_cache()
    limit = held + 0.6 * (needed - held)
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    limited = bench.trained("DPO", max_steps=3)
    apart = max(abs(a - b) for a, b in zip(losses, _losses(limited), strict=True))
    count = limited.recovery.room.split
    return {"limit_gib": limit / GIB, "in_parts": count, "losses_apart": apart, "passed": count > 0 and apart < 1e-2}


def _losses(trainer: Any) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def fsdp2(bench: Bench) -> Found:
    if not bench.gpu:
        raise Skipped("accelerate applies FSDP where it finds a GPU")
    settings = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    settings |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    command = [*torchrun, str(Path(__file__).resolve()), "--part", "dpo", "--output_dir", str(bench.folder / "fsdp2")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, timeout=LIMIT_S)
    return _reported(done)["found"]


def sampling(bench: Bench) -> Found:
    from prefopt.generation import sample
    from prefopt.testbed.model import build_tokenizer

    model, tokenizer = bench.model(torch.bfloat16 if bench.gpu else torch.float32).eval(), build_tokenizer()
    count, new = (4, 8) if bench.tiny else (64, 128)
    model.generation_config.eos_token_id = [1]
    prompts = [[{"role": "user", "content": f"What is {n} times {n}?"}] for n in range(count)]
    found: Found = {}

    def ours() -> int:
        return sum(len(s.ids) for row in sample(model, tokenizer, prompts, max_new_tokens=new) for s in row)

    def theirs() -> int:
        texts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(bench.device)
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        ids = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=new, pad_token_id=0)
        fresh = ids[:, inputs["input_ids"].shape[1] :]
        return int((fresh != 0).sum())

    for name, run in {"prefopt": ours, "generate": theirs}.items():
        run()
        begin = bench.now()
        tokens = run()
        found[f"{name}: tokens_per_s"] = tokens / (bench.now() - begin)
    return found


def ppo(bench: Bench) -> Found:
    from datasets import Dataset

    import prefopt
    from prefopt.testbed.model import build_tokenizer

    size = {"max_new_tokens": 8} if bench.tiny else {"max_new_tokens": 128}
    args = prefopt.PPOConfig(**bench.arguments(**size, num_mini_batches=2, critic_pretrain_steps=0, max_steps=2))
    count = args.per_device_train_batch_size * 2
    rows = Dataset.from_list([{"prompt": f"What is {n} times {n}?"} for n in range(count)])
    begin = bench.now()
    trainer = prefopt.PPOTrainer(
        bench.model(), args, train_dataset=rows, processing_class=build_tokenizer(), scorer=letters
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    finite = all(math.isfinite(log["loss"]) for log in logs)
    return {"seconds": bench.now() - begin, "steps": len(logs), "passed": finite and len(logs) == 2}


def letters(prompts: list[Any], responses: list[str]) -> list[float]:
    """A score of text without a model."""
    return [len(set(response)) / 10 for response in responses]


def trl(bench: Bench) -> Found:
    _needs("trl")
    import trl as library
    from datasets import Dataset
    from transformers import TrainerCallback

    from prefopt.testbed.model import build_tokenizer

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **more: Any) -> None:
            marks.append(bench.now())

    class Encoded(library.DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
            return dataset

    args = {name: value for name, value in bench.arguments().items() if name != "overwrite_output_dir"}
    rows = list(bench.rows(args["per_device_train_batch_size"] * 10))
    sides = [("chosen_ids", 0), ("rejected_ids", 1)]
    data = [{"prompt_ids": r["prompt_ids"], **{side: r["response_ids"][i] for side, i in sides}} for r in rows]
    per_row = sum(len(r["prompt_ids"]) + sum(map(len, r["response_ids"])) for r in rows) / len(rows)
    model = bench.model()
    trainer = Encoded(
        model,
        bench.model(),
        args=library.DPOConfig(**args),
        train_dataset=Dataset.from_list(data),
        processing_class=build_tokenizer(),
        callbacks=[Clock()],
    )
    trainer.train()
    begin, steps = marks[min(1, len(marks) - 2)], len(marks) - 1 - min(1, len(marks) - 2)
    rate = steps * args["per_device_train_batch_size"] * per_row / (marks[-1] - begin)
    return {"tokens_per_s": rate, "peak_gib": torch.cuda.max_memory_allocated() / GIB if bench.gpu else None}


def vllm(bench: Bench) -> Found:
    _needs("vllm")
    if not bench.gpu:
        raise Skipped("a GPU is needed")
    from vllm import LLM, SamplingParams

    from prefopt.testbed.model import build_tokenizer

    folder = str(bench.folder / "model")
    bench.model(torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    torch.cuda.empty_cache()
    engine = LLM(folder, gpu_memory_utilization=0.5, max_model_len=1024)
    texts = [f"What is {n} times {n}?" for n in range(64)]
    settings = SamplingParams(max_tokens=128, temperature=1.0)
    engine.generate(texts, settings)
    begin = bench.now()
    tokens = sum(len(out.outputs[0].token_ids) for out in engine.generate(texts, settings))
    return {"tokens_per_s": tokens / (bench.now() - begin)}


def flash(bench: Bench) -> Found:
    _needs("flash_attn")
    if not bench.gpu:
        raise Skipped("a GPU is needed")
    return timed(replace(bench, attention="flash_attention_2"), "DPO", layout="padded")


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Skipped(f"{package} is not installed")


PARTS: dict[str, Callable[[Bench], Found]] = {
    each.__name__: each
    for each in (layouts, dpo, reward, budget, peak, recovery, fsdp2, sampling, ppo, trl, vllm, flash)
}


# ---- one after the other -------------------------------------------------------------------------------------------


def main() -> int:
    args = parsed()
    folder = args.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.tiny, folder)
    if args.part:
        print(json.dumps(attempted(args.part, bench)), flush=True)
        return 0
    results, records = Results(folder / "results.jsonl"), []
    for name in args.parts:
        record = attempted(name, bench) if args.tiny else _in_own_process(name, folder)
        records.append(record)
        results.append(record)
        print(json.dumps(record), flush=True)
    print(table(records))
    return int(any(record["status"] == "failed" for record in records))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help="by default all")
    add("--tiny", action="store_true", help="a model of a hundred thousand weights on the CPU, in one process")
    add("--output_dir", type=Path, default=Path("out/gpu"))
    add("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def attempted(name: str, bench: Bench) -> Found:
    """What a part found, or why it did not."""
    begin = time.perf_counter()
    try:
        found = PARTS[name](bench)
        record: Found = {"status": "ok" if found.get("passed", True) else "failed", "found": found}
    except Skipped as reason:
        record = {"status": "skipped", "why": str(reason)}
    except Exception as error:  # the other parts are to be seen all the same
        where = traceback.format_exc().splitlines()[-6:]
        record = {"status": "failed", "why": f"{type(error).__name__}: {error}"[:500], "where": where}
    device = torch.cuda.get_device_name() if bench.gpu else "cpu"
    return {"part": name, **record, "seconds": round(time.perf_counter() - begin, 1), "device": device}


def _in_own_process(name: str, folder: Path) -> Found:
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--output_dir", str(folder / name)]
    try:
        return _reported(subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S))
    except subprocess.TimeoutExpired:
        return {"part": name, "status": "failed", "why": f"not done after {LIMIT_S} s", "seconds": LIMIT_S}
    except RuntimeError as error:
        return {"part": name, "status": "failed", "why": str(error), "seconds": None}


def _reported(done: subprocess.CompletedProcess[str]) -> Found:
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"part"')]
    if not lines:
        raise RuntimeError(f"ended with status {done.returncode}: {(done.stderr or done.stdout)[-800:]}")
    record = json.loads(lines[-1])
    if record["status"] == "failed" and "found" not in record:
        raise RuntimeError(record["why"])
    return record


def table(records: list[Found]) -> str:
    """A row for each part."""
    lines = ["| part | status | seconds | found |", "|---|---|---|---|"]
    for record in records:
        found = ", ".join(f"{name} {_short(value)}" for name, value in record.get("found", {}).items())
        lines.append(
            f"| {record['part']} | {record['status']} | {record['seconds']} | {found or record.get('why', '')} |"
        )
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
