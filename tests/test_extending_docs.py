"""The page on extending is true: each of its files, as it stands there, trains, reads, scores, judges or is a stage."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

from prefopt import Batch, Outputs, PreferenceConfig, PreferenceTrainer, load_preferences, testbed
from prefopt.candidates import Pool
from prefopt.candidates.candidate import prompt_key
from prefopt.compare import plan_from
from prefopt.compare.measure import judge_from
from prefopt.compare.plan import objective_of
from prefopt.data.adapters.base import REGISTRY
from prefopt.objectives import load
from prefopt.rounds import rounds_plan_from, run_rounds
from prefopt.rounds.tasks import RoundTasks
from prefopt.scoring import ScoreError, scorer_from
from prefopt.scoring.scorer import score_samples
from prefopt.testbed.model import build_policy
from prefopt.utils import jsonl
from tests.helpers.rounds import TINY
from tests.helpers.training import quiet

ROOT = Path(__file__).parent.parent
PAGES = ("extending.md", "extending.zh.md")
FILE = re.compile(r"```python\n# (\w+)\.py\n(.*?)```", re.S)
MODULES = ["my_dpop", "my_forum", "my_format", "my_scorer", "my_judge", "my_stage"]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


@pytest.fixture(params=PAGES)
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's files, which is the current one."""
    found = FILE.findall(page(request.param))
    assert [name for name, _ in found] == MODULES
    for name, text in found:
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = dict(REGISTRY)
    yield tmp_path
    REGISTRY.clear()
    REGISTRY.update(known)
    for name in MODULES:
        sys.modules.pop(name, None)


def module(name: str) -> ModuleType:
    return import_module(name)


def test_the_objective_trains_from_ln_2_and_reports_its_metric(files: Path, tokenizer: Any) -> None:
    rows = load_preferences(testbed.preference_rows(24, 0))
    config = PreferenceConfig(**quiet(files, max_steps=4, per_device_train_batch_size=6, learning_rate=1e-2))
    trainer = PreferenceTrainer(build_policy(tokenizer, 0), "my_dpop:dpop", config, rows, None, tokenizer)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert logged[0]["chosen/fallen"] == 0
    assert all(entry["loss"] != logged[0]["loss"] for entry in logged[1:])


def test_the_objective_is_the_formula_above_it(files: Path) -> None:
    """By plain numbers: a pair whose chosen answer has fallen, one whose has risen, and a row that fills the batch."""
    mask = torch.ones(3, 2, 2, dtype=torch.bool)
    mask[2] = False
    logps = torch.tensor([[[-2.0, -1.0], [-1.0, -1.0]], [[-0.5, -0.5], [-3.0, -3.0]], [[9.0, 9.0], [9.0, 9.0]]])
    batch = Batch(
        prompt_ids=torch.zeros(3, 1, dtype=torch.long),
        response_ids=torch.zeros(3, 2, 2, dtype=torch.long),
        response_mask=mask,
        loss_mask=mask,
        ref_logps=torch.full((3, 2, 2), -1.0) * mask,
    )
    loss = load("my_dpop:dpop").loss(Outputs(logps=logps), batch)
    first = 0.1 * (-1.0 - 0.0 - 5.0 * 1.0)  # chosen -3 for -2, rejected as it was
    second = 0.1 * (1.0 - -4.0)
    expected = sum(math.log(1 + math.exp(-logit)) for logit in (first, second))
    assert loss.terms["dpop"].total.item() == pytest.approx(expected, rel=1e-6)
    assert loss.terms["dpop"].unit == "prompts" and batch.present.any(-1).sum() == 2
    assert loss.metrics["chosen/fallen"].total == 1 and loss.metrics["chosen/fallen"].count == 2


def test_the_objective_is_a_method_of_a_plan(files: Path) -> None:
    plan = plan_from({"policy": "testbed", "data": "testbed", "sft": {}, **settings("extending.md", "methods:")})
    assert objective_of(plan.method_specs["mine"]) == module("my_dpop").DPOP(penalty=50.0)


def settings(name: str, first: str) -> dict[str, Any]:
    """The block of YAML on the page that begins so."""
    (block,) = re.findall(rf"```yaml\n({first}.*?)```", page(name), re.S)
    return dict(yaml.safe_load(block.replace("5e-7", "5.0e-7")))


ROW = {"title": "Which tea?", "accepted": "Green.", "other": "None.", "board": "Be brief."}


def test_the_adapter_reads_rows_and_counts_what_it_drops(files: Path) -> None:
    jsonl.replace(files / "forum.jsonl", [ROW, {**ROW, "board": None}, {**ROW, "accepted": None}])
    rows = load_preferences("forum.jsonl", adapter="my_forum:my_rows")
    assert [[turn["role"] for turn in row["prompt"]] for row in rows] == [["system", "user"], ["user"]]
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("Green.", "None.")] * 2


def test_the_registered_format_is_recognised(files: Path) -> None:
    rows = [{name: ROW[name] for name in ("title", "accepted", "other")}]
    assert "my-forum" not in REGISTRY
    module("my_format")
    (row,) = load_preferences(rows)
    assert row["prompt"][-1]["content"] == "Which tea?" and (row["chosen"], row["rejected"]) == ("Green.", "None.")


def test_the_scorers_score(files: Path) -> None:
    turns = [[{"role": "user", "content": "?"}]] * 3
    scorer = scorer_from(module("my_scorer").brevity)
    assert scorer.score(turns, ["ab", "abcd", ""], [True, True, False]) == [-2.0, -4.0, -1000.0]
    (files / "words.txt").write_text("tea 茶", "utf-8")
    first = scorer_from(module("my_scorer").Keywords())
    assert first.score(turns, ["tea and tea", "茶", "no"]) == [2.0, 1.0, 0.0]
    (files / "words.txt").write_text("coffee", "utf-8")
    assert module("my_scorer").Keywords().fingerprint != first.fingerprint
    with pytest.raises(ScoreError, match="2 scores for 3"):
        score_samples(type("Short", (), {"name": "short", "score": lambda *_: [1.0, 2.0]})(), turns, samples(3))


def samples(count: int) -> list[list[Any]]:
    return [[type("Sample", (), {"text": "a", "finished": True})()] for _ in range(count)]


def test_the_judge_is_asked_in_both_orders(files: Path) -> None:
    judge = judge_from("my_judge:shorter", folder=files)
    prompts = {key: [{"role": "user", "content": key}] for key in ("a", "b", "c")}
    ours, theirs = (
        responses(prompts, texts) for texts in (["short", "as long as", "equal"], ["longer than", "one", "equal"])
    )
    judged = judge.judge(prompts, ours, theirs)
    assert judged["outcome"].tolist() == [1.0, 0.0, 0.5]
    assert judged["shown_first"].tolist() == judged["shown_second"].tolist()  # it has no favourite place


def responses(prompts: dict[str, Any], texts: list[str]) -> pd.DataFrame:
    columns = {"prompt_key": list(prompts), "response": texts, "length": [len(text) for text in texts]}
    return pd.DataFrame({**columns, "k": 0, "finished": True})


@pytest.mark.parametrize("files", PAGES[:1], indirect=True)
def test_the_stage_selects_pairs_in_a_round(files: Path) -> None:
    """One round of the smallest plan: sampled, scored by a function, selected by the page's stage, trained by DPO."""
    (files / "vowels.py").write_text("def count(prompts, responses):\n    return [t.count('e') for t in responses]\n")
    select = {**settings("extending.md", "round:")["round"]["select"], "include_truncated": True}
    stages = {"label": None, "reward": {"scorer": "vowels:count"}, "select": select, "prompts": {"sample": 6}}
    plan = {**TINY, "round": {**TINY["round"], **stages, "sample": {"responses_per_prompt": 6}}, "rounds": [{}]}
    run = run_rounds(plan, files / "out", jobs=1, console=Console(quiet=True))
    assert run.failures == {} and run.versions == (0, 1)
    tasks = RoundTasks(rounds_plan_from(plan))
    (training,) = tasks.trainings(1)
    rows = list(jsonl.read(training.needs["selected"].folder(files / "out") / "selected.jsonl"))
    groups: dict[str, list[int]] = {}
    for candidate in Pool(tasks.score(1).folder(files / "out") / "pool").candidates():
        groups.setdefault(candidate.prompt_key, []).append(candidate.response.count("e"))
    apart = {key: sorted(set(counts))[-2:] for key, counts in groups.items() if len(set(counts)) > 1}
    assert apart and {prompt_key(row["prompt"]) for row in rows} == set(apart)
    for row in rows:
        assert [row["rejected"].count("e"), row["chosen"].count("e")] == apart[prompt_key(row["prompt"])]
    sys.modules.pop("vowels", None)
