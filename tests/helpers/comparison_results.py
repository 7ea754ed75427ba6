"""Experiments with planted effects, without a model: what cells leave behind, drawn from normal distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from prefopt.compare.records import CHOICES, JUDGEMENTS, PAIRS, RESPONSES, Cell, Experiment, table

BASELINE = "sft"
GRADES = ("better", "significantly", "negligibly")
COST = {"flops": {"training": 1e12}, "shared": {"sft": 5e11}, "tokens": {"training": 1000}, "seconds": 2.0, "steps": 10}


def experiment(
    effects: Mapping[str, float],
    *,
    seeds: int = 5,
    prompts: int = 60,
    k: int = 2,
    pairs: int = 40,
    questions: int = 20,
    noise: float = 0.5,
    **changed: Any,
) -> Experiment:
    """Methods that are better than the first by so much gold and score; seeds, prompts and responses vary.

    Args:
        noise: standard deviation of a response's gold.
        changed: fields of `Experiment`.
    """
    keys = [f"p{number:03d}" for number in range(prompts)]
    names = list(effects)
    cells = [
        cell(name, seed, effects[name], keys, k, pairs=pairs, questions=questions, noise=noise)
        for name in names
        for seed in range(seeds)
    ]
    given = {
        "title": "Planted",
        "baseline": names[0],
        "names": names,
        "seeds": list(range(seeds)),
        "prompts": {key: [{"role": "user", "content": f"What is {key}?"}] for key in keys},
        "cells": [judged(each, cells, names[0]) for each in cells],
        "judges": {"gold": "gold"},
        "provenance": {"command": "prefopt compare plan.yaml"},
    }
    return Experiment(**{**given, **changed})


def cell(
    name: str, seed: int, effect: float, keys: Sequence[str], k: int, *, pairs: int, questions: int, noise: float
) -> Cell:
    """The seed moves all methods alike, and each a little; so do the prompts."""
    rng, common = np.random.default_rng([seed, *name.encode()]), np.random.default_rng(seed)
    worth = np.random.default_rng(99).normal(size=(len(keys), 1))
    gold = common.normal() + 0.05 * rng.normal() + worth + effect + noise * rng.normal(size=(len(keys), k))
    right = rng.random(questions) < 0.5
    return Cell(
        name,
        BASELINE if name == BASELINE else "dpo",
        seed,
        settings={"beta": 0.1},
        cost=COST,
        responses=responses(keys, gold, score=gold + 0.1 * rng.normal(size=gold.shape), name=f"{name} {seed}"),
        pairs=pair_table(rng.normal(1.0, 1.0, size=pairs)),
        choices=table(
            [
                {
                    "file": "b.csv" if n % 2 else "a.csv",
                    "question": n,
                    "picked": int(r),
                    "answer": 1,
                    "correct": float(r),
                }
                for n, r in enumerate(right)
            ],
            CHOICES,
        ),
    )


def responses(
    keys: Sequence[str],
    gold: Any,
    *,
    score: Any = None,
    kl: Any = 1.0,
    length: Any = 10,
    perplexity: Any = 4.0,
    finished: bool = True,
    degenerate: bool = False,
    name: str = "",
) -> pd.DataFrame:
    """gold and the others: [prompts, k], or one number for all."""
    gold = np.asarray(gold, dtype=float)
    columns = {
        column: np.broadcast_to(math.nan if each is None else each, gold.shape)
        for column, each in {"gold": gold, "score": score, "kl": kl, "length": length, "perplexity": perplexity}.items()
    }
    rows = [
        {
            "prompt_key": key,
            "k": k,
            "response": f"{name} says {key} number {k}.",
            "finished": finished,
            "degenerate": degenerate,
            **{column: each[p, k] for column, each in columns.items()},
        }
        for p, key in enumerate(keys)
        for k in range(gold.shape[1])
    ]
    return table(rows, RESPONSES)


def pair_table(margins: Sequence[float], grades: Sequence[str] = GRADES) -> pd.DataFrame:
    rows = [
        {
            "pair": n,
            "grade": grades[n % len(grades)] if grades else "",
            "chosen_logp": -40.0 + margin,
            "rejected_logp": -40.0,
            "margin": margin,
            "correct": float(np.heaviside(margin, 0.5)),
        }
        for n, margin in enumerate(margins)
    ]
    return table(rows, PAIRS)


def judgements(keys: Sequence[str], outcomes: Sequence[float], longer_by: Any = 0.0, **orders: Any) -> pd.DataFrame:
    rows = [
        {
            "prompt_key": key,
            "outcome": outcome,
            "longer_by": float(np.broadcast_to(longer_by, len(keys))[n]),
            "error": "no answer" if math.isnan(outcome) else "",
            **{order: each[n] for order, each in orders.items()},
        }
        for n, (key, outcome) in enumerate(zip(keys, outcomes, strict=True))
    ]
    return table(rows, JUDGEMENTS)


def judged(cell: Cell, cells: Sequence[Cell], baseline: str) -> Cell:
    """By the gold reward of the first responses."""
    other = next(each for each in cells if (each.name, each.seed) == (baseline, cell.seed))
    if cell is other or cell.responses is None or other.responses is None:
        return cell
    ours, theirs = (each.responses[each.responses["k"] == 0] for each in (cell, other))
    ahead = ours["gold"].to_numpy() - theirs["gold"].to_numpy()
    outcomes = np.heaviside(ahead, 0.5)
    return replace(cell, judgements={"gold": judgements(list(ours["prompt_key"]), outcomes.tolist())})


def changed(given: Experiment, name: str, seed: int | None = None, /, **fields: Any) -> Experiment:
    """The same with other fields of one cell, or of all cells of this name."""
    cells = [
        replace(each, **fields) if each.name == name and seed in (None, each.seed) else each for each in given.cells
    ]
    return replace(given, cells=cells)


def column(given: Experiment, name: str, seed: int | None = None, /, **values: Any) -> Experiment:
    """The same with other columns of responses."""
    cells = [
        replace(each, responses=each.responses.assign(**values))
        if each.name == name and seed in (None, each.seed) and each.responses is not None
        else each
        for each in given.cells
    ]
    return replace(given, cells=cells)
