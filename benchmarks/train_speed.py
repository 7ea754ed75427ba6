"""Training speed on preference pairs: prefopt beside TRL 1.16, CPU seconds a pair and peak memory.

    python benchmarks/train_speed.py                      # built-in pairs, a small random Llama: no file needed
    python benchmarks/train_speed.py --work dpo --model MODEL --data hh.jsonl --output_dir out/speed
    python benchmarks/train_speed.py --work dpo --model MODEL --data hh.jsonl --output_dir out/speed --batch 16
    python benchmarks/train_speed.py --work reward ... --precision defaults
    python benchmarks/train_speed.py --work dpo ... --lora --methods trl prefopt
    python benchmarks/train_speed.py --work dpo ... --methods prefopt --prefopt_args precompute_ref_log_probs=true
    python benchmarks/train_speed.py --work rrhf|overhead|ablation ...
    python benchmarks/train_speed.py --work dpo ... --gate            # only check that all compute the same
    python benchmarks/train_speed.py --output_dir out/speed --table   # only print what was measured

Every measurement is a process of its own with one thread. Repeat r trains on pairs r*N to (r+1)*N of a shuffle with
seed 0, after one warm-up step on another batch, which is not counted; each method does so before the next repeat
begins. A pass of the reference before training (precompute_ref_log_probs) is counted: its seconds over all its pairs.
Results are appended to results.jsonl in the output folder as they come, and a rerun measures only what is missing.
Ratios are taken within a repeat: the median over repeats, and the range.

dpo       trl as it comes; with its reference precomputed; with log-probs of response tokens only (which TRL does on
          GPUs); with pairs of similar lengths in a batch; prefopt. As group_by_length sorts 50 batches at a time, the
          pairs of five repeats are sorted together and every fifth batch is a repeat's: there the ratio of the totals
          over five repeats is what compares the same pairs
reward    the same, where it applies
rrhf      four ranked responses to a prompt: padded, packed, and packed with the prompt shared
overhead  prefopt's trainer beside a bare loop around the same engine (DPO)
ablation  DPO in a bare loop, each method the one before it and one idea more

The pairs are encoded once, by prefopt; all methods train on the same token ids. Before anything is measured a gate
checks that all methods have the same loss and gradient; without that the numbers mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from measuring import Measurement, Results, Setting, in_own_process, machine, report
from tables import markdown, settings_of, summary, write_summary

METHODS = {
    "dpo": ["trl", "trl-precomputed", "trl-response-head", "trl-grouped", "prefopt"],
    "reward": ["trl", "trl-grouped", "prefopt"],
    "rrhf": ["padded", "packed", "shared"],
    "overhead": ["prefopt", "bare"],
    "ablation": ["naive", "response-only", "packed", "shared", "token-budget", "bf16"],
}
TAKES_OPTIONS = {"prefopt", "token-budget", "bf16"}


def main() -> int:
    args = parsed()
    if args.child:
        return child(Measurement.parse(args.child), gate=args.gate, methods=args.methods)
    results = Results(args.output_dir / "results.jsonl")
    if args.table:
        return show(results)
    setting = prepare(args)
    methods = args.methods or METHODS[args.work]
    if not passes(results, setting, methods, args):
        return 1
    return 0 if args.gate else max(run_all(results, setting, methods, args), show(results, setting))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", choices=sorted(METHODS), default="dpo")
    add("--methods", nargs="+", help="of those of the work; all of them by default")
    add("--model", type=Path, help="folder of a causal language model; a small random one by default")
    add("--data", type=Path, help="preference pairs in any format that prefopt reads; built-in ones by default")
    add("--output_dir", type=Path, default=Path("out/speed"))
    add("--batch", type=int, default=4, help="pairs a step")
    add("--pairs", type=int, help="timed pairs a repeat; 16 by default, at least two batches")
    add("--repeats", type=int, default=5)
    add("--max_length", type=int, default=512)
    add("--precision", choices=["fp32", "defaults"], default="fp32", help="defaults: each library's own")
    add("--lora", action="store_true", help="rank 16 on all linear layers")
    add("--prefopt_args", nargs="+", default=[], metavar="KEY=VALUE", help="for PreferenceConfig")
    add("--gate", action="store_true", help="only check that the methods agree")
    add("--table", action="store_true", help="only print what was measured")
    add("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    wrong = set(args.methods or ()) - set(METHODS[args.work])
    if wrong:
        parser.error(f"{args.work} has the methods {', '.join(METHODS[args.work])}, not {', '.join(sorted(wrong))}")
    if args.work not in ("dpo", "reward") and (args.lora or args.precision != "fp32"):
        parser.error(f"{args.work} is measured in fp32 without an adapter")
    args.pairs = args.pairs or max(16, 2 * args.batch)
    if args.pairs % args.batch:
        parser.error(f"--pairs {args.pairs} is not a multiple of --batch {args.batch}")
    return args


def child(run: Measurement, *, gate: bool, methods: list[str]) -> int:
    """In a process of its own: one measurement, or the gate."""
    import torch

    torch.set_num_threads(1)
    if gate:
        from gate import compare

        report(compare(run, methods))
    elif run.method.startswith("trl") or run.method == "prefopt":
        from contenders import measure_trainer

        report(measure_trainer(run) | {"machine": machine()})
    else:
        from bare import measure_bare

        report(measure_bare(run) | {"machine": machine()})
    return 0


def prepare(args: argparse.Namespace) -> Setting:
    """The model and the encoded pairs on disk, and the setting that names them."""
    from datasets import disable_progress_bars
    from material import encoded_rows, small_model
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_progress_bar()
    folder = args.output_dir.resolve()
    model = args.model.expanduser().resolve() if args.model else small_model(folder / "small-llama")
    wanted = args.repeats * args.pairs + args.batch
    count = -(-wanted // 512) * 512  # in steps, as another number would be another set of rows
    rows = encoded_rows(args.data, model, args.max_length, folder, count)
    same = {name: getattr(args, name) for name in ("work", "batch", "pairs", "max_length", "precision", "lora")}
    return Setting(model=str(model), rows=str(rows), **same)


def options(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """`--prefopt_args` as a dict, for the methods that take them."""
    import yaml

    pairs = [text.partition("=") for text in args.prefopt_args]
    return {key: yaml.safe_load(value) for key, _, value in pairs} if method in TAKES_OPTIONS else {}


def passes(results: Results, setting: Setting, methods: list[str], args: argparse.Namespace) -> bool:
    """Whether the methods agree on loss and gradient; asked once for each engine, model and set of rows."""
    key = {name: setting.key()[name] for name in ("work", "model", "rows", "max_length")}
    key |= {"options": args.prefopt_args, "passed": True}
    before = [record for record in results.read() if "gate" in record and key.items() <= record.items()]
    if not args.gate and any(set(methods) <= set(record["gate"]) for record in before):
        return True
    run = Measurement(setting=setting, method="gate", options=options(args, "prefopt"))
    found = in_own_process(Path(__file__), "--child", run.dump(), "--work", args.work, "--gate", "--methods", *methods)
    results.append({**key, "gate": methods, **found, "machine": machine()})
    for method, apart in found["deviations"].items():
        numbers = f"loss {apart['loss']:.1e}, gradient {apart['gradient']:.1e} (most in {apart['most']})"
        print(f"gate: {method} against {found['against']} (loss {found['loss']:.6f}): {numbers}", flush=True)
    if not found["passed"]:
        print("gate: the methods do not compute the same, so nothing was measured", file=sys.stderr)
    return found["passed"]


def run_all(results: Results, setting: Setting, methods: list[str], args: argparse.Namespace) -> int:
    """Measure what is missing, one method after the other within each repeat; returns 1 if something failed."""
    failed = 0
    for repeat in range(args.repeats):
        for method in methods if repeat % 2 == 0 else reversed(methods):
            run = Measurement(setting=setting, method=method, repeat=repeat, options=options(args, method))
            if results.has(run.key()):
                continue
            try:
                found = in_own_process(Path(__file__), "--child", run.dump(), "--work", args.work)
            except RuntimeError as error:
                print(f"{run.label}, repeat {repeat}: {error}", file=sys.stderr, flush=True)
                failed = 1
                continue
            results.append({**run.key(), **found})
            print(f"{run.label}, repeat {repeat}: {found['cpu_s']:.3f} s, {found['peak_mib']} MiB", flush=True)
    return failed


def show(results: Results, setting: Setting | None = None) -> int:
    """Print the tables, of one setting or of all, and write summary.json."""
    records = results.read()
    for each in settings_of(records):
        if setting is None or each == setting.key():
            print("\n" + markdown(summary(records, each)), end="")
    results.path.with_name("summary.json").write_text(write_summary(records), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
