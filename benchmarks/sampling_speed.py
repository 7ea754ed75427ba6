"""Sampling speed: K responses to each prompt by prefopt beside transformers' `generate`, tokens per CPU second.

    python benchmarks/sampling_speed.py                                    # built-in prompts, a small random Llama
    python benchmarks/sampling_speed.py --model MODEL --data hh.jsonl --output_dir out/sampling
    python benchmarks/sampling_speed.py --model MODEL --data hh.jsonl --batch_sizes 32 64 128 256 --repeats 5
    python benchmarks/sampling_speed.py --model MODEL --data hh.jsonl --profile      # where a step's time goes
    python benchmarks/sampling_speed.py --model MODEL --data hh.jsonl --divergence   # what float32 rounding changes
    python benchmarks/sampling_speed.py --output_dir out/sampling --table            # only print what was measured

Every measurement is a process of its own with one thread; repeat r takes prompts r*N to (r+1)*N of a shuffle with seed
0, and the methods alternate. A batch is that many responses at a time. Temperature 1, the whole vocabulary. Tokens are
counted up to a response's stop token, for both methods: what `generate` computes for finished rows is no token.

generate  model.generate(num_return_sequences=K, do_sample=True), prompts in their order, left padded
sorted    the same with the prompts sorted by length
prefopt   prefopt.generation.sampling

--divergence samples the same prompts at each batch size in float32 and says what share of responses differs from those
at the first one, and at which share of tokens a difference begins.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from material import small_model, tokenizer_of
from measuring import Results, cpu_seconds, in_own_process, machine, peak_mib, report

METHODS = ["generate", "sorted", "prefopt"]
HEAD = "| method | batch | tokens per CPU second | over generate | tokens per second | peak MiB | tokens | repeats |"


def main() -> None:
    args = parsed()
    if args.child:
        return report(child(json.loads(args.child)))
    results = Results(args.output_dir / "results.jsonl")
    setting = settled(args)
    if args.profile or args.divergence:
        kind = "profile" if args.profile else "divergence"
        sizes = args.batch_sizes[-1:] if args.profile else args.batch_sizes
        return print(
            in_own_process(Path(__file__), "--child", json.dumps({**setting, "kind": kind, "sizes": sizes}))["text"]
        )
    for repeat in range(0 if args.table else args.repeats):
        for batch in args.batch_sizes:
            for method in args.methods:
                measure(results, {**setting, "repeat": repeat, "batch": batch, "method": method})
    print(table(results.read()))


def measure(results: Results, run: dict[str, Any]) -> None:
    key = run | {"model": Path(run["model"]).name, "data": Path(run["data"]).stem}
    if not results.has(key):
        found = in_own_process(Path(__file__), "--child", json.dumps({**run, "kind": "speed"}))
        results.append(key | found | {"machine": machine()})
        print(f"{run['method']}, batch {run['batch']}, repeat {run['repeat']}: {rate(found):.0f} tokens per CPU second")


def settled(args: argparse.Namespace) -> dict[str, Any]:
    """What all measurements share; paths are absolute, since each process runs in a folder of its own."""
    model = args.model.expanduser().resolve() if args.model else small_model(args.output_dir / "small-llama").resolve()
    data = args.data.expanduser().resolve() if args.data else ""
    return {"model": str(model), "data": str(data), "prompts": args.prompts, "k": args.k, "limit": args.max_new_tokens}


# ---- in the measured process ---------------------------------------------------------------------------------------


def child(run: dict[str, Any]) -> dict[str, Any]:
    from prefopt.models.load import load_policy

    torch.set_num_threads(1)
    policy, tokenizer = load_policy(run["model"], dtype="float32").eval(), tokenizer_of(run["model"])
    start = run.get("repeat", 0) * run["prompts"]
    prompts = prompts_of(run["data"])[start : start + run["prompts"]]
    if run["kind"] == "profile":
        return {"text": profile(policy, tokenizer, prompts, run)}
    if run["kind"] == "divergence":
        return {"text": divergence(policy, tokenizer, prompts, run)}
    list(responses(policy, tokenizer, prompts[:1], run | {"limit": 2}))  # what happens once is not counted
    cpu, wall = cpu_seconds(), time.perf_counter()
    tokens = sum(len(ids) for ids in responses(policy, tokenizer, prompts, run))
    return {
        "tokens": tokens,
        "cpu_s": cpu_seconds() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mib": round(peak_mib()),
    }


def prompts_of(data: str) -> list[Any]:
    """Shuffled prompts of a file of pairs, else of the built-in world."""
    from datasets import Dataset

    from prefopt import load_preferences
    from prefopt.testbed import preference_rows

    rows = load_preferences(data or Dataset.from_list(preference_rows(512, seed=0)))
    prompts = [row["prompt"] for row in rows]
    random.Random(0).shuffle(prompts)
    return prompts


def responses(policy: Any, tokenizer: Any, prompts: list[Any], run: dict[str, Any]) -> Iterator[list[int]]:
    """Ids of all responses, each up to its stop token."""
    if run["method"] == "prefopt":
        yield from (one.ids for row in ours(policy, tokenizer, prompts, run, run["batch"]) for one in row)
    else:
        yield from theirs(policy, tokenizer, prompts, run)


def ours(policy: Any, tokenizer: Any, prompts: list[Any], run: dict[str, Any], batch: int) -> list[list[Any]]:
    from prefopt.generation import sample

    return sample(policy, tokenizer, prompts, k=run["k"], max_new_tokens=run["limit"], batch_size=batch)


@torch.no_grad()
def theirs(policy: Any, tokenizer: Any, prompts: list[Any], run: dict[str, Any]) -> Iterator[list[int]]:
    from prefopt.data.encode import encode_prompt, stop_token_ids

    encoded = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    encoded = sorted(encoded, key=len, reverse=True) if run["method"] == "sorted" else encoded
    stops = list(stop_token_ids(tokenizer, policy.generation_config))
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": run["k"]}
    settings |= {"max_new_tokens": run["limit"], "eos_token_id": stops, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    size = max(1, run["batch"] // run["k"])
    for start in range(0, len(encoded), size):
        part = encoded[start : start + size]
        width = max(map(len, part))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in part])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
        for row in policy.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:].tolist():
            end = next((i for i, token in enumerate(row) if token in stops), len(row) - 1)
            yield row[: end + 1]


def profile(policy: Any, tokenizer: Any, prompts: list[Any], run: dict[str, Any]) -> str:
    """Self time of the operators that take the most, over a whole run of the last batch size."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    (batch,) = run["sizes"]
    ours(policy, tokenizer, prompts[:1], run | {"limit": 2}, batch)
    with profiled(activities=[ProfilerActivity.CPU]) as found:
        ours(policy, tokenizer, prompts, run, batch)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    lines = [f"| {e.key} | {e.count} | {e.self_cpu_time_total / total:.1%} |" for e in events[:20]]
    return "\n".join(["| operator | calls | share of time |", "| --- | ---: | ---: |", *lines])


def divergence(policy: Any, tokenizer: Any, prompts: list[Any], run: dict[str, Any]) -> str:
    """How many responses differ from those of the first batch size, and how many tokens were drawn up to there."""
    first, *others = [(size, ours(policy, tokenizer, prompts, run, size)) for size in run["sizes"]]
    lines = []
    for size, found in others:
        pairs = [(a.ids, b.ids) for x, y in zip(first[1], found, strict=True) for a, b in zip(x, y, strict=True)]
        differ = sum(a != b for a, b in pairs)
        drawn = sum(same(a, b) + (a != b) for a, b in pairs)
        lines.append(
            f"batch {size} against {first[0]}: {differ} of {len(pairs)} responses differ, "
            f"one in {drawn / max(differ, 1):.0f} tokens of {drawn}"
        )
    return "\n".join(lines)


def same(a: list[int], b: list[int]) -> int:
    """How many tokens two responses begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# ---- the table -----------------------------------------------------------------------------------------------------


def rate(record: dict[str, Any]) -> float:
    return record["tokens"] / record["cpu_s"]


def table(records: list[dict[str, Any]]) -> str:
    """One line for each method and batch size of each setting; ratios are within a repeat, median and range."""
    keys = ("model", "data", "prompts", "k", "limit")
    lines = []
    for setting in sorted({tuple(r[name] for name in keys) for r in records}):
        runs = [r for r in records if tuple(r[name] for name in keys) == setting]
        described = ", ".join(f"{name} {value}" for name, value in zip(keys, setting, strict=True) if value)
        lines += [described, "", HEAD, "| --- " + "| ---: " * 7 + "|"]
        lines += [line(runs, method, batch) for batch, method in sorted({(r["batch"], r["method"]) for r in runs})]
    return "\n".join(lines)


def line(runs: list[dict[str, Any]], method: str, batch: int) -> str:
    own = {r["repeat"]: r for r in runs if (r["method"], r["batch"]) == (method, batch)}
    base = {r["repeat"]: r for r in runs if (r["method"], r["batch"]) == ("generate", batch)}
    ratios = [rate(own[i]) / rate(base[i]) for i in own.keys() & base.keys()]
    over = f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"
    found = own.values()
    cpu, wall = median(map(rate, found)), median(r["tokens"] / r["wall_s"] for r in found)
    peak, tokens = median(r["peak_mib"] for r in found), sum(r["tokens"] for r in found)
    return f"| {method} | {batch} | {cpu:.0f} | {over} | {wall:.0f} | {peak:.0f} | {tokens} | {len(own)} |"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; by default a small random Llama")
    parser.add_argument("--data", type=Path, help="a file of preference pairs; by default the built-in world")
    parser.add_argument("--output_dir", type=Path, default=Path("out/sampling"))
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["generate", "prefopt"])
    for flag in ("--profile", "--divergence", "--table"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
