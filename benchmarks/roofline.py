"""How much of what one thread can multiply is used: FLOPs that a pair needs, over its CPU seconds, over the GEMM rate.

    python benchmarks/roofline.py --output_dir out/speed                  # after train_speed.py with the built-in model
    python benchmarks/roofline.py --output_dir out/speed --model MODEL    # after train_speed.py --model MODEL
    python benchmarks/roofline.py --output_dir out/speed --model MODEL --precision bf16   # for --precision defaults

First it measures the rate of this machine: matrices of the model's own layers, forward and both products of the
backward pass, with as many rows as a packed step has tokens. Then it counts, for the very pairs of each result:

needed   no padding, a prompt once for both answers, logits of response tokens only
padded   what TRL lays out: two rows a pair, as long as the longest of the batch; logits of response tokens only

as 2 FLOPs a weight and token, attention over the tokens that a query may see, three times that where a weight is
trained (two under an adapter), and once more for the reference. Work that is redone or never needed (recomputed
activations, padding, logits of prompts) takes time and counts for nothing: `used` says what is left to gain.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from material import Row, rows_of, tokens_of
from measuring import Results, Setting
from tables import by_method, settings_of

FORWARDS = {("dpo", False): 4, ("dpo", True): 3, ("reward", False): 3, ("reward", True): 2}
"""Work and adapter -> how many forward passes a step's arithmetic is worth, the reference's included."""
HEAD = (
    "| work | needed GFLOP/pair | needed GFLOP/s | used | padded GFLOP/pair | used, padding counted |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: |"
)


@dataclass(frozen=True)
class Shape:
    """What FLOPs depend on in a model."""

    linears: list[tuple[int, int]]  # (out, in) of every linear layer of the backbone
    layers: int
    width: int  # of all heads together
    head: tuple[int, int]

    @staticmethod
    def of(folder: Path) -> Shape:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        found = [m for m in model.base_model.modules() if isinstance(m, torch.nn.Linear)]
        heads = config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        sizes = [(m.out_features, m.in_features) for m in found]
        return Shape(sizes, config.num_hidden_layers, width, (config.vocab_size, config.hidden_size))


@dataclass(frozen=True)
class Count:
    """Of one pair (or a mean over pairs): tokens fed, (query, key) pairs attended, tokens whose logits are needed."""

    tokens: float
    seen: float
    predicted: float

    def flops(self, shape: Shape, *, head: bool) -> float:
        """Of one forward pass."""
        weights = sum(out * into for out, into in shape.linears)
        logits = 2 * shape.head[0] * shape.head[1] * self.predicted if head else 0
        return 2 * weights * self.tokens + 4 * shape.width * shape.layers * self.seen + logits


def needed(rows: Iterable[Row], *, whole: bool) -> Count:
    """Mean over rows; the last token of a response is fed only if it is read (`whole`), as a reward head does."""
    counts = []
    for row in rows:
        prompt, responses = len(row["prompt_ids"]), [len(ids) for ids in row["response_ids"]]
        fed = responses if whole else [n - 1 for n in responses]
        seen = causal(prompt) + sum(causal(n) + n * prompt for n in fed)
        counts.append((prompt + sum(fed), seen, sum(responses)))
    return Count(*(mean(column) for column in zip(*counts, strict=True)))


def padded(rows: list[Row], batch: int) -> Count:
    """Mean over rows, laid out in batches in the order given."""
    tokens = seen = 0.0
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        longest = max(map(tokens_of, part))
        tokens += sum(len(row["response_ids"]) for row in part) * longest
        seen += sum(len(row["response_ids"]) for row in part) * causal(longest)
    predicted = sum(len(ids) for row in rows for ids in row["response_ids"])
    return Count(tokens / len(rows), seen / len(rows), predicted / len(rows))


def causal(tokens: int) -> float:
    """(query, key) pairs of a sequence."""
    return tokens * (tokens + 1) / 2


def gemm_rate(shape: Shape, tokens: int, predicted: int, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """GFLOP/s of one thread for each size of layer, and `all`: for a whole training step's products together."""
    sizes = {size: shape.linears.count(size) for size in shape.linears}
    rates, flops, spent = {}, 0.0, 0.0
    for (out, into), times, rows in [(s, n, tokens) for s, n in sizes.items()] + [(shape.head, 1, predicted)]:
        took = best_time(products(out, into, rows, dtype), seconds)
        rates[f"{rows}x{into}x{out}"] = 6e-9 * out * into * rows / took
        flops += 6e-9 * out * into * rows * times
        spent += took * times
    return {**rates, "all": flops / spent}


def products(out: int, into: int, rows: int, dtype: torch.dtype) -> Callable[[], None]:
    """A linear layer's three products: forward, and the gradients of its input and its weight."""
    x, weight, grad = (torch.randn(size, dtype=dtype) for size in ((rows, into), (out, into), (rows, out)))

    def run() -> None:
        x @ weight.t()
        grad @ weight
        grad.t() @ x

    return run


def best_time(run: Callable[[], None], seconds: float) -> float:
    """Of as many runs as fit in `seconds`, at least three, the shortest CPU time."""
    times: list[float] = []
    begin = time.perf_counter()
    run()
    while len(times) < 3 or time.perf_counter() - begin < seconds:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def lines(
    folder: Path, records: list[dict[str, Any]], settings: list[dict[str, Any]], shape: Shape, rate: float
) -> list[str]:
    """One line of the table for each method of each setting."""
    return [
        line(folder, setting, method, runs, shape, rate)
        for setting in settings
        for method, runs in by_method(records, setting).items()
    ]


def line(folder: Path, setting: dict[str, Any], method: str, runs: Mapping[int, Any], shape: Shape, rate: float) -> str:
    counts = [both(folder, setting, method, repeat, shape) for repeat in runs]
    seconds = [run["cpu_s"] for run in runs.values()]
    least, most = (mean(column) for column in zip(*counts, strict=True))
    reached, with_padding = (
        median(flops[i] / spent for flops, spent in zip(counts, seconds, strict=True)) for i in (0, 1)
    )
    own = [f"{most:.1f}", f"{with_padding / rate:.0%}"] if method.startswith("trl") else ["-", "-"]
    name = f"{setting['work']}, batch {setting['batch']}{', LoRA' if setting['lora'] else ''}: {method}"
    cells = [name, f"{least:.1f}", f"{reached:.1f}", f"{reached / rate:.0%}", *own]
    return "| " + " | ".join(cells) + " |"


def both(folder: Path, setting: dict[str, Any], method: str, repeat: int, shape: Shape) -> tuple[float, float]:
    """GFLOPs that a pair of this repeat needs, and those of padded rows."""
    path, grouped = folder / f"{setting['rows']}.jsonl", method == "trl-grouped"
    rows = rows_of(Setting(**setting), repeat, path, grouped=grouped)[1]
    scorer = setting["work"] == "reward"
    times = FORWARDS[setting["work"], setting["lora"]] / 1e9
    least, most = needed(rows, whole=scorer), padded(rows, setting["batch"])
    return times * least.flops(shape, head=not scorer), times * most.flops(shape, head=not scorer)


def token_line(path: Path, batch: int) -> str:
    """Tokens of a pair, in each layout, over all pairs of a file."""
    rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    counts = {
        "padded": padded(rows, batch).tokens,
        "padded and grouped by length": padded(sorted(rows, key=tokens_of), batch).tokens,
        "real": mean(2 * len(row["prompt_ids"]) + sum(map(len, row["response_ids"])) for row in rows),
        "prompt once": needed(rows, whole=True).tokens,
    }
    shown = ", ".join(f"{name} {count:.0f}" for name, count in counts.items())
    return f"tokens a pair ({len(rows)} pairs, batch {batch}): {shown}"


def measured_rate(folder: Path, setting: dict[str, Any], shape: Shape, dtype: torch.dtype, seconds: float) -> float:
    """The rate for matrices as large as a packed step of this setting makes them; printed size by size."""
    rows = rows_of(Setting(**setting), 0, folder / f"{setting['rows']}.jsonl")[1]
    step, batch = needed(rows, whole=False), setting["batch"]
    rates = gemm_rate(shape, round(step.tokens * batch), round(step.predicted * batch), dtype, seconds)
    shown = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    print(f"GFLOP/s of one thread, {dtype}: {shown}\n")
    return rates["all"]


def main() -> None:
    args = parsed()
    torch.set_num_threads(1)
    model = args.model.expanduser().resolve() if args.model else args.output_dir / "small-llama"
    records = Results(args.output_dir / "results.jsonl").read()
    wanted = {"model": model.name, "precision": "fp32" if args.precision == "fp32" else "defaults"}
    settings = [s for s in settings_of(records) if wanted.items() <= s.items() and (s["work"], s["lora"]) in FORWARDS]
    if not settings:
        raise SystemExit(f"no results with {wanted} in {args.output_dir}: run train_speed.py first")
    for setting in {(s["rows"], s["batch"]): s for s in settings}.values():
        print(token_line(args.output_dir / f"{setting['rows']}.jsonl", setting["batch"]))
    shape, dtype = Shape.of(model), torch.float32 if args.precision == "fp32" else torch.bfloat16
    rate = measured_rate(args.output_dir, settings[0], shape, dtype, args.seconds)
    print("\n".join([HEAD, *lines(args.output_dir, records, settings, shape, rate)]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/speed"), help="that of train_speed.py")
    parser.add_argument("--model", type=Path, help="the folder that train_speed.py was given")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each size of matrix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
