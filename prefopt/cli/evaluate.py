"""`prefopt evaluate`: measures policies that there are on held-out prompts, or reward models on held-out pairs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from .command import Command

ABOUT = """\
Let every policy respond to the same held-out prompts, and write the report of `prefopt compare` over them: score,
win rate against the first policy, KL to it, length, accuracy on held-out pairs, multiple choice, each with its
interval. Nothing is trained. Policies may be of different families; each reads and writes by its own tokenizer and
template. What is done is not done again: run the same command with further policies to add them.
Of reward models (folders, hub ids, services' URLs, module:function) it is the share of held-out pairs that each ranks
right, by category where --by names a column: RewardBench's rows have `subset`.
"""
EXAMPLE = """\
  prefopt evaluate base=HuggingFaceTB/SmolLM2-135M-Instruct out/rlhf-v1/policy out/rlhf-v2/policy \\
      --data test.jsonl --reward_model out/rm
  prefopt evaluate out/rm-v1 out/rm-v2 --data reward_bench.jsonl --by subset

exit code: 0 all is done, 1 something failed and is said in the report, 2 nothing could be begun
"""
SIZES = ("prompts", "pairs", "responses_per_prompt", "temperature", "max_new_tokens", "batch_size", "shots")


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, evaluate, print; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    from rich.console import Console

    from ..compare.report import print_summary
    from ..compare.run import compare

    console = Console()
    if ranks(args.policies):
        return _rank(args, console)
    if args.by is not None:
        raise ValueError("--by divides the pairs of reward models, and these are policies: leave it out")
    findings = compare(plan_of(args), args.output_dir, jobs=args.jobs, lang=args.lang, console=console)
    print_summary(findings, console, args.lang)
    console.print(f"{args.output_dir}/report/report.html", soft_wrap=True, highlight=False, markup=False)
    return 1 if findings.failures else 0


def ranks(given: Sequence[str]) -> bool:
    """Whether these are reward models, which rank pairs, and no policies.

    Raises:
        ValueError: some are, and some are not.
    """
    from ..models.critic import has_reward_head
    from ..scoring.http import is_service
    from ..utils.extensions import is_named
    from .models import check_place

    named = named_policies(given)
    for path in named.values():
        if not is_service(path) and not is_named(path):
            check_place("policies:", path)
    are = {
        name: is_service(path) or is_named(path) or has_reward_head(os.path.expanduser(path))
        for name, path in named.items()
    }
    if len(set(are.values())) > 1:
        kinds = "; ".join(f"{name} is a {'reward model' if it_is else 'policy'}" for name, it_is in are.items())
        raise ValueError(f"policies respond and reward models rank pairs: evaluate them apart ({kinds})")
    return all(are.values())


def _rank(args: argparse.Namespace, console: Any) -> int:
    """Rank the held-out pairs by each reward model, and print and write the accuracies."""
    from ..compare.measure import by_category, reward_accuracies
    from ..compare.report import accuracy_table, print_table, write_accuracies
    from ..training.arguments import ScorerArguments
    from .scorer import check_scorer, load_scorer

    reading = {} if args.adapter is None else {"adapter": args.adapter}
    rows = by_category(args.data, args.by, **reading)
    dtype = {} if args.dtype is None else {"scorer_dtype": args.dtype}
    scorers = {name: ScorerArguments(scorer=path, **dtype) for name, path in named_policies(args.policies).items()}
    for scorer in scorers.values():
        check_scorer(scorer)
    found = reward_accuracies(
        ((name, cast(Any, load_scorer(scorer))) for name, scorer in scorers.items()), rows, args.by
    )
    page = write_accuracies(found, Path(args.output_dir) / "report", args.lang)
    print_table(accuracy_table(found, args.lang), console)
    console.print(str(page), soft_wrap=True, highlight=False, markup=False)
    return 0


def plan_of(args: argparse.Namespace) -> dict[str, Any]:
    """The plan of a comparison that trains nothing: the first policy is the baseline, the others are checkpoints.

    Raises:
        ValueError: two policies have one name.
    """
    (baseline, first), *others = named_policies(args.policies).items()
    testbed = args.data == "testbed"
    data = {"train": "testbed"} if testbed else {"test": args.data, "text_prompts": args.text_prompts}
    data |= {"choices": list(args.choices), **({} if args.adapter is None else {"adapter": args.adapter})}
    judges = args.judges or [*(["gold"] if testbed else []), *(["score"] if args.reward_model else [])]
    sizes = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    return {
        "title": args.title,
        "policy": first,
        "baseline": baseline,
        "data": data,
        "reward": args.reward_model,
        "methods": {name: {"method": "checkpoint", "policy": path} for name, path in others},
        "judges": judges,
        "seeds": [args.seed],
        "evaluation": {"curve_points": 0, **sizes},
        "training": {} if args.max_length is None else {"max_length": args.max_length},
        "model": {} if args.dtype is None else {"dtype": args.dtype},
    }


def named_policies(given: Sequence[str]) -> Mapping[str, str]:
    """Name -> path or hub id: NAME=PATH has its own, others are named by as much of their end as tells them apart.

    Raises:
        ValueError: two have one name, or are one.
    """
    pairs = [(text.partition("=")[::2] if "=" in text and not Path(text).exists() else ("", text)) for text in given]
    parts = [Path(path).expanduser().parts[::-1] for _, path in pairs]
    named: dict[str, str] = {}
    for place, (name, path) in enumerate(pairs):
        own = name or _ending(parts[place], [other for i, other in enumerate(parts) if i != place])
        if own in named:
            raise ValueError(f"{own}: two policies have this name: give one as NAME={path}")
        named[own] = path
    return named


def _ending(parts: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    """The last parts of a path that no other path ends with."""
    for count in range(1, len(parts) + 1):
        if all(other[:count] != parts[:count] for other in others):
            return "/".join(parts[:count][::-1]).strip("/")
    return "/".join(parts[::-1])


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=ABOUT, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("policies", nargs="+", metavar="[NAME=]POLICY", help="folders or hub ids; the first is the baseline")
    add("--data", required=True, metavar="FILE", help="held-out rows in any format, or testbed")
    add("--reward_model", help="a reward model's folder or hub id, or a service's URL, that scores the responses")
    add("--judges", nargs="+", default=[], help="what compares with the baseline: score, module:function, a model")
    add("--by", metavar="COLUMN", help="of reward models: the column that says a pair's category")
    add("--choices", nargs="+", default=[], metavar="FILE", help="files of multiple-choice questions")
    add("--output_dir", default="evaluate-output", help="where everything goes (%(default)s)")
    add("--title", default="Evaluation", help="of the report (%(default)s)")
    add("--seed", type=int, default=0, help="of sampling (%(default)s)")
    add("--prompts", type=int, help="how many distinct prompts at most (256)")
    add("--pairs", type=int, help="how many held-out pairs at most (all)")
    add("--responses_per_prompt", type=int, help="(4)")
    add("--temperature", type=float, help="of sampling; KL is estimated at 1 only (1)")
    add("--max_new_tokens", type=int, help="the length limit of a response (128)")
    add("--batch_size", type=int, help="how many responses are generated at once (128)")
    add("--shots", type=int, help="how many multiple-choice questions are shown with their answers (0)")
    add("--max_length", type=int, help="of prompts and pairs in tokens, beyond which they are cut")
    add("--text_prompts", choices=["user", "verbatim"], default="verbatim", help="what prompts in plain text are")
    add("--adapter", help="the format of the rows, where it is not recognised")
    add("--dtype", help="of the policies' weights")
    add("--jobs", type=int, help="processes at a time (one for each GPU)")
    add("--lang", choices=["en", "zh"], default="en", help="language of the report (%(default)s)")
    return parser
