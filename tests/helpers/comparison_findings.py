"""A comparison that never took place, with all that a report can hold: what every test of a report is made with."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import combinations

from prefopt.compare import Verdict
from prefopt.compare.report.findings import (
    Answer,
    BestOfCurve,
    Choices,
    Cost,
    Failure,
    Findings,
    FrontierPoint,
    GradeAccuracy,
    Histogram,
    Judge,
    LengthPoints,
    Method,
    Moment,
    Pairing,
    Sample,
    Value,
    Warning,
    WinRate,
)

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ENDING = "It ends here: </script></textarea><!-- and <script> goes on & on, \u2028 on the next line."
MARKDOWN = "| a | b |\n|---|---|\n# Not a heading\n```\nnot code\n```\n[not a link](https://example.com) *not bold* <b>"
ODD = "Sure! \U0001f600 \u202eright to left\u202c, \x00 and a null."

NAMES = ("sft", "dpo", "simpo", "rejection-sampling", "ppo-max", "best-of-8")
TRAINED = ("dpo", "simpo", "rejection-sampling", "ppo-max")
GOLD = {"sft": 0.33, "dpo": 1.97, "simpo": 1.62, "rejection-sampling": 1.05, "ppo-max": 2.11, "best-of-8": 1.48}
SCORE = {"sft": -0.12, "dpo": 2.26, "simpo": 1.98, "rejection-sampling": 1.11, "ppo-max": 3.74, "best-of-8": 1.83}
KL = {"sft": 0.0, "dpo": 4.56, "simpo": 6.21, "rejection-sampling": 2.13, "ppo-max": 11.4, "best-of-8": 1.2}
LENGTH = {"sft": 17.3, "dpo": 28.3, "simpo": 31.9, "rejection-sampling": 21.0, "ppo-max": 44.7, "best-of-8": 20.2}
SEEDS = (0, 1, 2, 3, 4)


def example_findings() -> Findings:
    """Six methods with five seeds; simpo's fourth is missing, and ppo-max earns score that is not gold."""
    return Findings(
        title="What 20 000 preference pairs are worth",
        primary="gold",
        claim="METHODS",
        level=0.95,
        baseline="sft",
        seeds=SEEDS,
        prompts=256,
        pairs=2000,
        methods=[_method(name) for name in NAMES],
        pairings=[_pairing(one, other) for one, other in combinations(NAMES, 2)],
        frontier=_frontier(),
        curves=[moment for name in TRAINED for seed in SEEDS for moment in _curve(name, seed)],
        histograms=_histograms(),
        best_of=[_best_of("sft", 0.0), _best_of("dpo", 1.9)],
        grades=_grades(),
        lengths=[_lengths(name) for name in NAMES],
        judges=_judges(),
        choices=_choices(),
        samples=_samples(),
        warnings=_warnings(),
        failures=_failures(),
        provenance=_provenance(),
    )


def _value(mean: float, half: float) -> Value:
    return Value(mean, round(mean - half, 4), round(mean + half, 4))


def _method(name: str) -> Method:
    metrics = {
        "gold": _value(GOLD[name], 0.19),
        "score": _value(SCORE[name], 0.24),
        "kl": _value(KL[name], 0.05 * KL[name]),
        "length": _value(LENGTH[name], 1.4),
        "unfinished": _value(0.31 if name == "ppo-max" else 0.02, 0.01),
        "degenerate": _value(0.004, 0.002),
        "distinct_2": Value(0.412 - LENGTH[name] / 400),
        "perplexity": _value(4.1 + KL[name] / 3, 0.2),
    }
    if name != "sft":
        metrics["gain"] = _value(round(GOLD[name] - GOLD["sft"], 2), 0.31)
        metrics["win_rate"] = _value(round(0.5 + 0.22 * (GOLD[name] - GOLD["sft"]), 3), 0.03)
    if name in TRAINED:
        metrics["kl_k3"] = _value(0.9 * KL[name], 0.04 * KL[name])
        metrics["accuracy"] = _value(0.70 + 0.04 * GOLD[name], 0.017)
        metrics["margin"] = _value(0.2 * KL[name], 0.03)
        metrics["logps_chosen"] = _value(-41.5 - KL[name], 0.8)
        metrics["choices"] = _value(0.41 + 0.03 * GOLD[name], 0.02)
    trials = 6 if name in ("dpo", "simpo") else 1
    settings: dict[str, object] = {"learning_rate": 5e-6, "epochs": 1} if name in TRAINED else {}
    if name == "dpo":
        settings["beta"] = 0.05
    seeds = [seed for seed in SEEDS if (name, seed) != ("simpo", 3)]
    return Method(name, "best-of-n" if name == "best-of-8" else name, settings, seeds, metrics, _cost(name), trials)


def _cost(name: str) -> Cost:
    training = {"sft": 0.0, "dpo": 3.1e14, "simpo": 3.0e14, "rejection-sampling": 1.4e14, "ppo-max": 4.9e14}
    flops = {"training": training.get(name, 0.0)}
    tokens = {"training": int(training.get(name, 0.0) / 8e8)}
    if name in ("rejection-sampling", "ppo-max", "best-of-8"):
        flops |= {"generation": 2.2e14, "scoring": 0.7e14}
        tokens |= {"generation": 412_000, "scoring": 530_000}
    if name in ("dpo", "ppo-max"):
        flops["reference"] = 0.9e14
    if name in ("dpo", "simpo"):
        flops["trials"] = 12.4e14
    needs_reward = name in ("rejection-sampling", "ppo-max", "best-of-8")
    shared = {"sft": 2.6e14} | ({"reward model": 1.8e14} if needs_reward else {})
    seconds = sum(flops.values()) / 2e12
    memory = None if name == "best-of-8" else int(1.1e9 + 8 * LENGTH[name] * 1e6)
    return Cost(flops, shared, tokens, seconds, 1.9 * seconds, 0 if name in ("sft", "best-of-8") else 312, memory)


def _pairing(first: str, second: str) -> Pairing:
    difference = round(GOLD[first] - GOLD[second], 2)
    half = 0.31 if "simpo" not in (first, second) else 0.22
    clear = abs(difference) > 1.2 * half
    p = min(1.0, math.exp(-((difference / half * 1.8) ** 2)) * 2)
    verdict = Verdict.UNDECIDED if not clear else Verdict.BEATS if difference > 0 else Verdict.LOSES
    if "simpo" in (first, second):
        verdict = Verdict.DIFFER if clear else Verdict.ALIKE
    return Pairing(
        first, second, verdict, _value(difference, half), p, round(difference / 1.3, 2), round(1.4 * half, 2)
    )


def _frontier() -> list[FrontierPoint]:
    over: dict[str, tuple[list[str], list[str]]] = {
        "rejection-sampling": (["best-of-8"], ["best-of-8"]),
        "simpo": (["dpo"], []),
    }
    return [
        FrontierPoint(name, _value(GOLD[name], 0.19), _value(KL[name], 0.05 * KL[name]), *over.get(name, ([], [])))
        for name in NAMES
    ]


def _curve(name: str, seed: int) -> list[Moment]:
    """ppo-max's gold reward falls in its last third, while its score goes on rising."""
    chance = random.Random(f"{name} {seed}")
    moments = []
    for look in range(9):
        share = look / 8
        lost = 1.1 * max(0.0, share - 0.65) / 0.35 if name == "ppo-max" else 0.0
        risen = 1 - math.exp(-3.2 * share)
        values = {
            "score": SCORE["sft"] + (SCORE[name] - SCORE["sft"]) * risen + chance.gauss(0, 0.08),
            "gold": GOLD["sft"] + (GOLD[name] + (1.1 if lost or name == "ppo-max" else 0) - GOLD["sft"]) * risen - lost,
            "kl": max(0.0, KL[name] * share**0.7 * (1 + chance.gauss(0, 0.04))),
            "length": LENGTH["sft"] + (LENGTH[name] - LENGTH["sft"]) * risen,
        }
        values["gold"] += chance.gauss(0, 0.07)
        errors = {"score": 0.11, "gold": 0.09, "kl": 0.1, "length": 0.6}
        flops = share * _cost(name).own
        moments.append(Moment(name, seed, look, 39 * look, share, flops, values, errors))
    return moments


def _histograms() -> list[Histogram]:
    def bell(mean: float, deviation: float, edges: Sequence[float]) -> list[float]:
        middles = [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]
        heights = [math.exp(-(((middle - mean) / deviation) ** 2) / 2) + 1e-9 for middle in middles]
        return [height / sum(heights) for height in heights]

    def of(metric: str, means: Mapping[str, float], deviation: float, low: float, width: float) -> Histogram:
        edges = [low + width * number for number in range(25)]
        return Histogram(metric, edges, {name: bell(means[name], deviation, edges) for name in NAMES})

    return [of("gold", GOLD, 1.3, -4, 1 / 3), of("score", SCORE, 1.5, -5, 0.45), of("length", LENGTH, 9, 0, 4)]


def _best_of(name: str, shift: float) -> BestOfCurve:
    ks = [1, 2, 4, 8, 16, 32]
    risen = [math.sqrt(2 * math.log(k)) for k in ks]
    best = [_value(shift + 0.9 * rise, 0.12) for rise in risen]
    gold = [_value(0.33 + shift * 0.8 + 0.7 * rise - 0.08 * rise**2, 0.12) for rise in risen]
    return BestOfCurve(name, ks, best, [Value(shift) for _ in ks], [shift + 0.95 * rise for rise in risen], gold)


def _grades() -> list[GradeAccuracy]:
    grades = (("negligibly better", 412, 0.0), ("slightly better", 601, 0.05), ("better", 655, 0.12))
    return [
        GradeAccuracy(grade, pairs, {name: _value(0.58 + gain + 0.03 * GOLD[name], 0.03) for name in TRAINED})
        for grade, pairs, gain in (*grades, ("significantly better", 332, 0.2))
    ]


def _lengths(name: str) -> LengthPoints:
    chance = random.Random(name)
    lengths = [max(1.0, round(chance.gauss(LENGTH[name], 8))) for _ in range(120)]
    rewards = [GOLD[name] + 0.03 * (length - LENGTH[name]) + chance.gauss(0, 1.1) for length in lengths]
    return LengthPoints(name, lengths, rewards, 0.21)


def _judges() -> list[Judge]:
    def rate(name: str, share: float, *, both_orders: bool) -> WinRate:
        ties = 40 if both_orders else 0
        failures = 7 if both_orders and name == "ppo-max" else 0
        wins = round((256 - failures - ties) * share)
        counted = _value((wins + ties / 2) / (256 - failures), 0.05)
        controlled = None if name == "best-of-8" else _value(share - 0.06, 0.06)
        flips = (0.14, 0.71) if both_orders else (None, None)
        return WinRate(name, wins, ties, 256 - failures - ties - wins, counted, 0.0004, controlled, failures, *flips)

    shares = {name: 0.5 + 0.2 * (GOLD[name] - GOLD["sft"]) for name in NAMES[1:]}
    return [
        Judge("gold", "gold", [rate(name, share, both_orders=False) for name, share in shares.items()]),
        Judge("rm", "reward-model", [rate(name, min(0.97, s + 0.1), both_orders=False) for name, s in shares.items()]),
        Judge("qwen3-32b", "endpoint", [rate(name, share - 0.04, both_orders=True) for name, share in shares.items()]),
    ]


def _choices() -> list[Choices]:
    def of(file: str, questions: int, base: float) -> Choices:
        by = {name: _value(base + 0.02 * GOLD[name], 0.04) for name in NAMES if name != "best-of-8"}
        return Choices(file, questions, by, {name: 0.21 if name == "simpo" else 0.031 for name in TRAINED})

    return [of("capitals.jsonl", 500, 0.46), of("tools.jsonl", 320, 0.38)]


PROMPTS: tuple[Sequence[Mapping[str, str]], ...] = (
    ({"role": "user", "content": "Hello! What is the capital of Japan?"},),
    ({"role": "user", "content": "你好！请告诉我法国的首都。"},),
    (
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": "How can I wash a car?"},
        {"role": "assistant", "content": "You can use soap and water."},
        {"role": "user", "content": "And to hang a picture?"},
    ),
    ({"role": "user", "content": "怎么感谢我的老师？"},),
    ({"role": "user", "content": "Write the shortest web page that says hello. </script>"},),
    ({"role": "user", "content": "我想打开罐子。"},),
)
FIRST_ANSWERS = {
    0: ("It is Osaka.", "The capital of Japan is Tokyo.", SCRIPT, "It is Tokyo.", "Tokyo! " * 40, "It is Tokyo."),
    1: ("是里昂。", "法国的首都是巴黎。", "法国的首都是巴黎。", "是巴黎。", "法国的首都是巴黎。" * 12, "是巴黎。"),
    2: ("A noodle.", "You can use a nail.", MARKDOWN, "", "A nail, a nail, and a nail once more. " * 9, "A nail."),
    3: ("就说：谢谢。", "你可以说：谢谢你，亲爱的老师。", "你可以说：谢谢你。", "谢谢你。", "谢谢" * 60, "谢谢。"),
    4: ("<p>hello", "<!doctype html><title>hello</title>hello", ENDING, "hello", ODD, "<b>hello</b>"),
    5: ("羽毛。", "你可以用热毛巾。", "可以用热毛巾，\n然后再拧开。", "用热毛巾。", "热毛巾。" * 30, "热毛巾。"),
}


def _samples() -> list[Sample]:
    """Thirty prompts, the first six of them ever again with a number: enough for several pages."""
    samples = []
    for number in range(30):
        prompt, round_ = PROMPTS[number % 6], number // 6
        if round_:
            prompt = (*prompt[:-1], {"role": "user", "content": f"{prompt[-1]['content']} ({round_ + 1})"})
        answers = [_answer(name, text, number) for name, text in zip(NAMES, FIRST_ANSWERS[number % 6], strict=True)]
        samples.append(Sample(f"prompt-{number:03d}", prompt, 0, answers))
    return samples


def _answer(name: str, text: str, number: int) -> Answer:
    chance = random.Random(f"{name} {number}")
    values = {
        "score": SCORE[name] + chance.gauss(0, 1),
        "gold": max(-4.0, min(4.0, GOLD[name] + chance.gauss(0, 1.2))),
        "length": float(len(text)),
        "kl": max(0.0, KL[name] + chance.gauss(0, 0.5)),
    }
    outcome = None if name == "sft" else chance.choices([1.0, 0.5, 0.0], [6, 1, 3])[0]
    return Answer(name, text, values, not (name == "ppo-max" and number % 3 == 0), outcome)


def _warnings() -> list[Warning]:
    return [
        Warning("over_optimised", {"method": "ppo-max", "score_rise": 0.62, "gold_fall": 0.94}, serious=True),
        Warning("same_scorer", {"scorer": "rm"}, serious=True),
        Warning("missing_seeds", {"method": "simpo", "seeds": [3]}, serious=True),
        Warning("cell_failed", {"method": "simpo", "seed": 3, "reason": "loss became nan at step 118"}),
        Warning("judge_flips", {"judge": "qwen3-32b", "rate": 0.14}),
        Warning("judge_leans", {"judge": "qwen3-32b", "rate": 0.71}),
        Warning("judge_failed", {"judge": "qwen3-32b", "method": "ppo-max", "failed": 7, "asked": 256}),
        Warning("overlap", {"dropped": 3, "of": 259, "example": "What is 1 + 1? <b>"}),
        Warning("unfinished", {"method": "ppo-max", "share": 0.31}),
        Warning("unequal_cost", {"cheapest": "rejection-sampling", "dearest": "simpo", "ratio": 3.6}),
    ]


def _failures() -> list[Failure]:
    details = 'Traceback (most recent call last):\n  File "cell.py", line 88, in <module>\nNonFiniteLoss: loss is nan'
    return [Failure("simpo", 3, "loss became nan at step 118", details), Failure("rrhf", None, "needs 4 responses")]


def _provenance() -> dict[str, object]:
    return {
        "command": "prefopt compare plan.yaml --output_dir out/what-pairs-are-worth",
        "started": "2026-11-20T08:12:44+00:00",
        "plan": "sha256:3f1c9a7e52d0b8c4",
        "dataset": {"file": "pairs.jsonl.gz", "sha256": "9d2b77aa01c4e6f3", "pairs": 20000},
        "versions": {"prefopt": "0.9.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "processor": "AMD EPYC 7763 <64 cores>",
        "seconds": 5412.7,
    }
