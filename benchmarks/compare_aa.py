"""How often does a comparison of two equally good methods say that they differ? Simulated, for each test.

    python benchmarks/compare_aa.py --trials 1000 --seeds 5 --prompts 256

Draws differences d[s, p] = effect + a_s + b_p + e_sp of two methods with S seeds at the same P prompts. An A/A
comparison is the same method twice, retrained with other seeds: effect 0, and no prompt is better for one of them, so
that b = 0. Two different methods may be equally good and good at different prompts: then b is not 0.

The standard deviations are of the small world (`prefopt.testbed`). seed .25: a method's gain varied by .1 to .4 from
seed to seed. A gain's standard error over 256 prompts was about .15 with one seed, so that a prompt's difference varies
by .15 * 16 = 2.4; of that variance the first two seeds of benchmarks/ppo.py gave 0 to .3 to the prompt's own, b: with
.2 for it, prompt is 1.1 and residual 2.1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from prefopt.compare import FEWEST_SEEDS, Claim, Design, Spread, resampled_means, who_beats_whom
from prefopt.compare.statistics import Part, margin, parts

LEVEL = 0.95
LOT = 2**22
"""Simulated rewards held at once."""
SEEDS_QUOTED = (2, 3, 5, 8)
console = Console(width=120)
Test = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]
"""Differences [trials, seeds, prompts] and a level -> intervals, low and high: [trials] each."""


def about(differences: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = differences.mean((-1, -2))
    return mean - half, mean + half


def one_seed(differences: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """What most comparisons do: one run of each method, a paired t test over prompts."""
    first = differences[:, :1]
    return about(first, margin(parts([first], Claim.CHECKPOINTS), level))


def pooled(differences: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Seeds times prompts taken as so many independent rows."""
    rows = differences.reshape(len(differences), 1, -1)
    return about(rows, margin(parts([rows], Claim.CHECKPOINTS), level))


def by_claim(claim: Claim) -> Test:
    return lambda differences, level: about(differences, margin(parts([differences], claim), level))


def satterthwaite(differences: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The usual approximation for crossed random effects: the variances added, with mixed degrees of freedom."""
    seeds, prompts = parts([differences], Claim.METHODS)
    variance = seeds.variance + prompts.variance
    df = variance**2 / (seeds.variance**2 / seeds.df + prompts.variance**2 / prompts.df)
    return about(differences, margin([Part(variance, df)], level))


def bootstrap(crossed: bool, resamples: int) -> Test:
    def interval(differences: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        means = resampled_means(differences, crossed=crossed, resamples=resamples)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=-1)
        return low, high

    return interval


def all_tests(resamples: int) -> dict[str, Test]:
    return {
        "prompts, one seed": one_seed,
        "prompts, seeds pooled": pooled,
        "prompts, seeds averaged": by_claim(Claim.CHECKPOINTS),
        "seed as the unit (t)": by_claim(Claim.SEEDS),
        "seeds and prompts (decides)": by_claim(Claim.METHODS),
        "seeds and prompts, Satterthwaite": satterthwaite,
        "hierarchical bootstrap": bootstrap(False, resamples),
        "crossed bootstrap": bootstrap(True, resamples),
    }


LUCK: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "skewed": lambda rng, shape: rng.exponential(size=shape) - 1,
    "collapse": lambda rng, shape: (0.2 - (rng.random(shape) < 0.2)) / 0.4,
}
"""What a seed does to a difference, with mean 0 and variance 1. "collapse": one in five falls by 2, the others rise."""


def simulated(
    spread: Spread, seeds: int, prompts: int, trials: int, effect: float, seed: int, luck: str = "normal"
) -> Iterator[np.ndarray]:
    """[some trials, seeds, prompts] at a time, `trials` in all."""
    rng, most = np.random.default_rng(seed), max(1, LOT // (seeds * prompts))
    for start in range(0, trials, most):
        count = min(most, trials - start)
        lucky = spread.seed * LUCK[luck](rng, (count, seeds, 1))
        suited = spread.prompt * rng.standard_normal((count, 1, prompts))
        yield effect + lucky + suited + spread.residual * rng.standard_normal((count, seeds, prompts))


def rates(lots: Iterator[np.ndarray], tests: dict[str, Test], truth: float, level: float) -> dict[str, np.ndarray]:
    """For each test the shares of trials declared different, and of intervals with the truth in them: [2]."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in tests}
    for differences in lots:
        for name, test in tests.items():
            low, high = test(differences, level)
            found[name].append(np.stack([(low > 0) | (high < 0), (low <= truth) & (truth <= high)]))
    return {name: np.concatenate(each, axis=1).mean(1) for name, each in found.items()}


def with_error(share: float, trials: int) -> str:
    """In per cent, with the binomial standard error (of one trial more at either end, so that 0 has one too)."""
    smoothed = (share * trials + 1) / (trials + 2)
    return f"{share:.1%} ± {np.sqrt(smoothed * (1 - smoothed) / trials):.1%}"


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def one_size(args: argparse.Namespace, spread: Spread) -> None:
    """A table of all tests for the seeds asked for."""
    tests, same = all_tests(args.resamples), Spread(spread.seed, 0.0, spread.residual)
    columns = []
    for drawn, effect in ((same, 0.0), (spread, 0.0), (spread, args.effect)):
        lots = simulated(drawn, args.seeds, args.prompts, args.trials, effect, args.seed, args.luck)
        columns.append(rates(lots, tests, effect, LEVEL))
    cells = [(name, *(c[name][0] for c in columns), columns[2][name][1]) for name in tests]
    rows = [[name, *(with_error(float(share), args.trials) for share in shares)] for name, *shares in cells]
    title = f"{args.trials} trials, {args.seeds} seeds, {args.prompts} prompts: declared different at 5 %"
    show(title, ["test", "A/A", "equally good", f"effect {args.effect:g}", "interval covers"], rows)
    for claim in (Claim.SEEDS, Claim.METHODS):
        design = Design(spread, args.seeds, args.prompts, claim)
        said = f"computed power at {args.effect:g}: {design.power(args.effect):.1%}"
        console.print(f"{claim}: {said}; with 80 % power it sees {design.detectable():.2f}", highlight=False)


def sizes(args: argparse.Namespace, spread: Spread) -> None:
    """Error and power of the test that decides, and of its rivals, for several numbers of seeds."""
    tests = {name: test for name, test in all_tests(args.resamples).items() if name in QUOTED}
    rows = []
    for seeds in SEEDS_QUOTED:
        null, planted = (
            rates(
                simulated(spread, seeds, args.prompts, args.trials, effect, args.seed + seeds, args.luck),
                tests,
                effect,
                LEVEL,
            )
            for effect in (0.0, args.effect)
        )
        design = Design(spread, seeds, args.prompts)
        wrong = [with_error(float(null[name][0]), args.trials) for name in tests]
        seen = with_error(float(planted[DECIDES][0]), args.trials)
        rows.append([str(seeds), *wrong, seen, f"{design.power(args.effect):.1%}", f"{design.detectable():.2f}"])
    head = ["seeds", *QUOTED.values(), f"sees {args.effect:g}", "computed", "80 % sees"]
    show("Equally good methods declared different, by the number of seeds; what the deciding test sees", head, rows)


DECIDES = "seeds and prompts (decides)"
QUOTED = {
    "prompts, seeds averaged": "prompts",
    "seed as the unit (t)": "seeds",
    DECIDES: "both (decides)",
    "hierarchical bootstrap": "bootstrap",
}


def small_levels(args: argparse.Namespace, spread: Spread) -> None:
    """Where a Holm correction goes: .005 is the first step of ten pairs, five methods."""
    names = ("seeds and prompts (decides)", "seeds and prompts, Satterthwaite")
    tests = {name: test for name, test in all_tests(args.resamples).items() if name in names}
    rows = []
    for alpha in (0.05, 0.01, 0.005):
        lots = simulated(spread, args.seeds, args.prompts, 10 * args.trials, 0.0, args.seed + 100, args.luck)
        found = rates(lots, tests, 0.0, 1 - alpha)
        rows.append([f"{alpha:g}", *(with_error(float(found[name][0]), 10 * args.trials) for name in names)])
    show(f"{10 * args.trials} trials at smaller levels, equally good methods", ["level", *names], rows)


def families(args: argparse.Namespace, spread: Spread, methods: int = 5) -> str:
    """How often a whole report is wrong about anything: methods that are equally good, every pair compared."""
    rng, wrong, count = np.random.default_rng(args.seed), 0, max(1, args.trials // 4)
    half = 0.5**0.5  # a difference of two methods has the variance of both
    for _ in range(count):
        lots = simulated(spread, args.seeds, args.prompts, methods, 0.0, int(rng.integers(2**31)), args.luck)
        each = np.concatenate(list(lots)) * half
        found = who_beats_whom({str(name): table for name, table in enumerate(each)}, resamples=1)
        wrong += any(p < 1 - LEVEL for p in found.p.values())
    said = "one beats another" if args.seeds >= FEWEST_SEEDS else "two sets of checkpoints differ"
    return f"{count} reports on {methods} equally good methods: {with_error(wrong / count, count)} say that {said}"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--trials", type=int, default=1000)
    add("--seeds", type=int, default=5)
    add("--prompts", type=int, default=256)
    add("--effect", type=float, default=0.5, help="planted difference, in points of gold reward")
    add("--seed_sd", type=float, default=0.25, help="how much the difference of two methods varies with the seed")
    add("--prompt_sd", type=float, default=1.1, help="with the prompt, whatever the seed")
    add("--residual_sd", type=float, default=2.1, help="with all else")
    add(
        "--luck",
        choices=list(LUCK),
        default="normal",
        help="how seeds are distributed; the power is computed for normal",
    )
    add("--resamples", type=int, default=1000, help="of the bootstraps")
    add("--seed", type=int, default=0, help="of the simulation")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    spread = Spread(args.seed_sd, args.prompt_sd, args.residual_sd)
    if args.seeds < 2 or args.prompts < 2 or args.trials < 1:
        raise SystemExit("two or more seeds and prompts, and one or more trials are needed")
    one_size(args, spread)
    sizes(args, spread)
    small_levels(args, spread)
    console.print(families(args, spread), highlight=False)


if __name__ == "__main__":
    main()
