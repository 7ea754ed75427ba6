"""Rounds on the small world: what each stage did is what an independent look at its files says."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.candidates import Pool
from prefopt.candidates.candidate import prompt_key
from prefopt.data.tokenizer_identity import tokenizer_fingerprint
from prefopt.rounds import RoundsRun, results_of, rounds_plan_from, run_rounds, status_of
from prefopt.rounds.estimate import estimate
from prefopt.rounds.report import print_rounds, write_rounds_report
from prefopt.rounds.tasks import RoundTasks
from prefopt.tasks import Progress, Schedule, Task, in_order
from prefopt.testbed.gold_reward import gold_of
from prefopt.utils import jsonl
from tests.helpers.rounds import TINY

Run = tuple[Path, RoundTasks, RoundsRun]


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("rounds") / "out"
    run = run_rounds(TINY, out, jobs=1, console=Console(quiet=True))
    return out, RoundTasks(rounds_plan_from(TINY)), run


def result(task: Task | None, out: Path) -> dict[str, Any]:
    assert task is not None
    found = task.result(out)
    assert found is not None, task.failure(out)
    return found


def test_every_version_is_there_and_loads_alone(two_rounds: Run) -> None:
    out, tasks, run = two_rounds
    assert run.failures == {} and run.waits == () and run.versions == (0, 1, 2)
    for number in (1, 2):
        folder = out / f"rlhf-v{number}"
        policy = AutoModelForCausalLM.from_pretrained(folder / "policy")
        trained = AutoModelForCausalLM.from_pretrained(tasks.policy_of(number).folder(out) / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
        for name, weight in trained.state_dict().items():
            assert torch.equal(policy.state_dict()[name], weight), name
        assert tokenizer.decode(tokenizer("Hello")["input_ids"]) == "Hello"
        lineage = json.loads((folder / "lineage.json").read_text("utf-8"))
        assert lineage["policy"] == tasks.policy_of(number).key
        assert lineage["stages"][lineage["policy"]]["needs"]["policy"] == tasks.policy_of(number - 1).key
    first, second = (
        AutoModelForCausalLM.from_pretrained(out / f"rlhf-v{number}/policy").state_dict() for number in (1, 2)
    )
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_dpo_starts_at_ln_2_where_the_reference_is_the_start_and_not_elsewhere(two_rounds: Run) -> None:
    out, tasks, _ = two_rounds
    (first,), (second,) = tasks.trainings(1), tasks.trainings(2)
    assert result(first, out)["first loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(result(second, out)["first loss"] - math.log(2)) > 1e-5  # v1 against v0
    assert result(second, out)["reference"] == tasks.start.key


def test_prompts_are_new_in_each_round_and_none_is_held_out(two_rounds: Run) -> None:
    out, tasks, _ = two_rounds
    keys = [
        {prompt_key(row["prompt"]) for row in jsonl.read(tasks.prompts(number).folder(out) / "prompts.jsonl")}
        for number in (1, 2)
    ]
    assert [len(each) for each in keys] == [18, 18] and not keys[0] & keys[1]
    held_out = {prompt_key(row["prompt"]) for row in jsonl.read(tasks.held_out.folder(out) / "prompts.jsonl")}
    assert not held_out & (keys[0] | keys[1])


def test_labels_are_of_sampled_pairs_and_each_side_knows_where_it_is_from(two_rounds: Run) -> None:
    out, tasks, _ = two_rounds
    pool = Pool(tasks.candidates(2).folder(out) / "pool")
    sampled = {(each.prompt_key, each.response): each for each in pool.candidates()}
    label = tasks.label(2)
    rows = [row for name in ("labels.jsonl", "held_out.jsonl") for row in jsonl.read(label.folder(out) / name)]
    tokenizer = AutoTokenizer.from_pretrained(out / "rlhf-v1/policy")
    assert rows and result(label, out)["labels"] + result(label, out)["held_out"] == len(rows)
    for row in rows:
        key = prompt_key(row["prompt"])
        for side, ids, origin in zip(("chosen", "rejected"), row["sampled_ids"], row["from"], strict=True):
            candidate = sampled[key, row[side]]
            assert ids == list(candidate.trained_ids) and row["sampled_by"] == tokenizer_fingerprint(tokenizer)
            assert origin["policy"] == candidate.policy and origin["temperature"] == candidate.temperature
            assert origin["round"] == 2
    apart = {
        name: {prompt_key(r["prompt"]) for r in jsonl.read(label.folder(out) / name)}
        for name in ("labels.jsonl", "held_out.jsonl")
    }
    assert not apart["labels.jsonl"] & apart["held_out.jsonl"]


def test_the_newest_reward_model_scores_all_rounds_and_the_best_and_worst_are_selected(two_rounds: Run) -> None:
    out, tasks, _ = two_rounds
    score = tasks.score(2)
    scored = list(Pool(score.folder(out) / "pool").scored(result(score, out)["scorer"]))
    assert {each.candidate.round for each in scored} == {1, 2}
    from prefopt.scoring import RewardModelScorer

    scorer = RewardModelScorer(str(out / "rlhf-v2/reward"))
    for row in scored[::5]:
        candidate = row.candidate
        assert scorer.score([list(candidate.prompt)], [candidate.response], [candidate.finished]) == pytest.approx(
            [row.score], abs=1e-5
        )
    by_prompt: dict[str, dict[str, float]] = {}
    for row in scored:
        text = row.candidate.response.strip()
        if not row.candidate.finished:
            text = text.rstrip("\ufffd").strip()  # half a character, which was never sampled as such
        if text:
            by_prompt.setdefault(row.candidate.prompt_key, {}).setdefault(text, row.score)
    expected = {
        key: (max(group, key=lambda t: group[t]), min(group, key=lambda t: group[t]))
        for key, group in by_prompt.items()
        if len(set(group.values())) > 1
    }
    (training,) = tasks.trainings(2)
    rows = list(jsonl.read(training.needs["selected"].folder(out) / "selected.jsonl"))
    assert {prompt_key(row["prompt"]): (row["chosen"].strip(), row["rejected"].strip()) for row in rows} == expected
    assert result(training, out)["rows"] == len(rows)


def test_the_temperature_that_was_searched_is_the_one_that_is_sampled_at(two_rounds: Run) -> None:
    out, tasks, _ = two_rounds
    best = result(tasks.search(1), out)["best"]
    generate = tasks.pool(1)
    assert best in (0.7, 1.0) and result(generate, out)["temperature"] == best
    assert generate is not None
    assert {each.temperature for each in Pool(generate.folder(out) / "pool").candidates()} == {best}
    assert tasks.search(2) is None and result(tasks.pool(2), out)["temperature"] == 1.0


def test_the_report_says_what_the_files_say(two_rounds: Run) -> None:
    out, tasks, _ = two_rounds
    results = results_of(tasks, out)
    assert [version.number for version in results.versions] == [0, 1, 2] and results.primary == "gold"
    first = results.versions[0]
    assert first.kl_first is not None and first.kl_first.mean == 0 and first.kl_previous is None and not first.wins
    from prefopt.compare import records

    frames = [records.read(tasks.evaluate(number).folder(out) / "responses.parquet") for number in (0, 1, 2)]
    prompts = {
        prompt_key(row["prompt"]): row["prompt"] for row in jsonl.read(tasks.held_out.folder(out) / "prompts.jsonl")
    }
    golds = []
    for frame, version in zip(frames, results.versions, strict=True):
        assert frame is not None and version.gold is not None
        gold = [
            gold_of(prompts[k], text, done)
            for k, text, done in zip(frame["prompt_key"], frame["response"], frame["finished"], strict=True)
        ]
        golds.append(
            {
                key: sum(gold[i : i + 2]) / 2
                for i, key in zip(range(0, len(gold), 2), frame["prompt_key"][::2], strict=True)
            }
        )
        assert version.gold.mean == pytest.approx(sum(gold) / len(gold))
    outcomes = [
        1.0 if golds[2][key] > golds[1][key] else 0.5 if golds[2][key] == golds[1][key] else 0.0 for key in golds[1]
    ]
    assert results.versions[2].wins["previous"].mean == pytest.approx(sum(outcomes) / len(outcomes))
    lost = {key: max(golds[0][key], golds[1][key]) - golds[2][key] for key in golds[2]}
    assert [each.reward_then - each.reward_now for each in results.forgotten] == pytest.approx(
        sorted((loss for loss in lost.values() if loss > 0), reverse=True)
    )
    assert set(results.versions[1].reward_model) <= {"test", "labels 1", "labels 2"}
    assert set(results.versions[2].scores) == {1, 2}


@pytest.mark.parametrize(
    ("lang", "said"), [("en", "Every version by every reward model"), ("zh", "各版本在各奖励模型下的得分")]
)
def test_the_report_in_all_its_forms(two_rounds: Run, tmp_path: Path, lang: str, said: str) -> None:
    out, tasks, _ = two_rounds
    results = results_of(tasks, out)
    page = write_rounds_report(results, tmp_path, lang).read_text("utf-8")
    assert said in page and "tiny &lt;b&gt;轮&lt;/b&gt;" in page and "<b>轮" not in page
    assert "http" not in page.split("</style>")[1]
    markdown = (tmp_path / "rounds.md").read_text("utf-8")
    assert said in markdown and "tiny \\<b\\>轮" in markdown
    assert json.loads((tmp_path / "rounds.json").read_text("utf-8"))["best"] == results.best
    console = Console(width=80, record=True, file=io.StringIO())
    print_rounds(results, console, lang)
    assert "v2" in console.export_text()


def test_what_is_done_is_not_done_again_and_a_longer_plan_does_what_is_new(two_rounds: Run) -> None:
    out, tasks, _ = two_rounds
    done = {path: path.stat().st_mtime_ns for path in out.glob("*/*/done.json")}
    again = run_rounds(TINY, out, jobs=1, console=Console(quiet=True))
    assert again.versions == (0, 1, 2)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*/done.json")} == done
    lines = status_of(tasks, out)  # and nothing of what is to come
    assert lines[-1].startswith(f"{len(lines) - 1} of {len(lines) - 1} stages")
    longer = RoundTasks(rounds_plan_from({**TINY, "rounds": [*TINY["rounds"], {}]}))
    to_do = [line for line in status_of(longer, out) if line.endswith((": next", ": to come"))]
    assert to_do and all(line.startswith("v3") or " rank" in line or "by-v3" in line for line in to_do)


def test_what_is_left_is_estimated_by_the_plan_and_by_what_the_stages_took(two_rounds: Run) -> None:
    """By hand: 12 pairs to label, 2 temperatures x 3 responses x 2 prompts to search once, 3 responses to 6 prompts."""
    out, tasks, _ = two_rounds
    begin = estimate(tasks, out / "nothing here")
    per_version = 6 * 2
    assert begin.responses == {
        "to measure versions": 3 * per_version,
        "to be labelled": 2 * 2 * 12,
        "to search temperatures": 2 * 2 * 3,
        "to be selected from": 2 * 6 * 3,
    }
    assert (begin.models, begin.seconds, begin.bytes) == (1 + 2 + 2, 0, 0)
    assert begin.untimed == tuple(sorted({task.kind for task in in_order(tasks.report_tasks())}))
    assert estimate(tasks, out).lines() == []
    longer = RoundTasks(rounds_plan_from({**TINY, "rounds": [*TINY["rounds"], {}]}))
    third = estimate(longer, out)
    assert third.responses["to be selected from"] == 18 and third.models == 2
    assert third.untimed == ("rank",)  # which looks at the labels of all rounds, so that there is none of three
    left = [task for task in in_order(longer.report_tasks()) if task.result(out) is None]
    done = [task for task in in_order(tasks.report_tasks())]
    walls = {kind: [result(task, out)["wall"] for task in done if task.kind == kind] for kind in {t.kind for t in done}}
    assert third.stages == len(left)
    known = [walls[task.kind] for task in left if task.kind != "rank"]
    assert third.seconds == pytest.approx(sum(sum(each) / len(each) for each in known))
    weights = (out / "rlhf-v1/policy/model.safetensors").stat().st_size
    assert third.bytes > 2 * weights
    *_, first, second, warning = status_of(longer, out) + third.lines(free=10)
    assert first.startswith(f"to come: {len(left)} stages, 2 models; responses: ") and "18 to be selected from" in first
    assert (
        second.startswith("time: at least ") and "(10 B free)" in second and warning.startswith("! the disk has less")
    )


def test_models_of_a_kind_that_was_not_trained_yet_are_as_large_as_the_one_that_is_there(tmp_path: Path) -> None:
    """After v0 alone: two models are to come, with a training's checkpoint of one, and Adam's moments."""
    round = {**TINY["round"], "train": {"method": "dpo", "rows": "labels", "max_steps": 1}, "sample": None}
    (tmp_path / "labels.jsonl").write_text('{"prompt": "a row without responses"}\n')
    plan = {**TINY, "round": round, "rounds": [{"label": {"files": [str(tmp_path / "labels.jsonl")]}}]}
    run = run_rounds(plan, tmp_path / "out", jobs=1, console=Console(quiet=True))
    assert run.versions == (0,) and set(run.failures) == {"v1 label"}
    left = estimate(RoundTasks(rounds_plan_from(plan)), tmp_path / "out")
    weights = sum(
        4 * w.numel() for w in AutoModelForCausalLM.from_pretrained(tmp_path / "out/rlhf-v0/policy").parameters()
    )
    assert left.models == 2 and 4.9 * weights < left.bytes < 5.2 * weights


def test_the_weights_of_a_policy_on_disk_are_counted_before_anything_is_done(two_rounds: Run, tmp_path: Path) -> None:
    out, _, _ = two_rounds
    policy = out / "rlhf-v1/policy"
    count = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(policy).parameters())
    plan = {**TINY, "policy": str(policy), "sft": None, "rounds": 1}
    plan["round"] = {**TINY["round"], "prompts": {"label": 12}}
    begin = estimate(RoundTasks(rounds_plan_from(plan)), tmp_path)
    assert begin.models == 3 and begin.bytes == 4 * count * (begin.models + 3)
    assert begin.responses["to be selected from"] is None
    first, second = begin.lines()
    assert "all to be selected from" in first and second.startswith(
        "time: unknown until a stage of each kind is done; disk: about "
    )


def test_a_round_waits_for_people_and_goes_on_with_a_part_of_their_labels(tmp_path: Path) -> None:
    plan = {
        **TINY,
        "round": {
            "prompts": {"label": 6, "sample": 0},
            "label": {
                "by": "people",
                "temperatures": [0.8, 1.2],
                "at_least": 0.5,
                "held_out": 0.0,
                "include_truncated": True,
            },
            "reward": None,
            "sample": None,
            "train": {"method": "dpo", "rows": "labels", "init": "previous", "max_steps": 1},
        },
        "rounds": 1,
    }
    run = run_rounds(plan, tmp_path / "out", jobs=1, console=Console(quiet=True))
    assert run.failures == {} and run.versions == (0,) and len(run.waits) == 1
    tasks = RoundTasks(rounds_plan_from(plan))
    folder = tasks.ask(1).folder(tmp_path / "out")
    assert "0 of" in run.waits[0] and str(folder / "labels") in run.waits[0]
    shown = list(jsonl.read(folder / "annotate/pairs.jsonl"))
    assert not {"policy", "score"} & set(shown[0])
    half = shown[: math.ceil(len(shown) / 2) + 1]
    given = [{"pair_id": row["pair_id"], "choice": "A better", "annotator": "李"} for row in half]
    jsonl.replace(folder / "labels/li.jsonl", given)
    run = run_rounds(plan, tmp_path / "out", jobs=1, console=Console(quiet=True))
    assert run.failures == {} and run.waits == () and run.versions == (0, 1)
    rows = list(jsonl.read(tasks.label(1).folder(tmp_path / "out") / "labels.jsonl"))
    by_prompt = {prompt_key(row["prompt"]): row for row in rows}
    for row in half:
        prompt = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
        if (key := prompt_key(prompt)) in by_prompt:
            assert by_prompt[key]["chosen"].strip() == row["a"].strip()
    assert rows and len(rows) <= len(half)


def test_two_processes_of_a_launcher_train_what_one_trains_on_as_many_rows(tmp_path: Path) -> None:
    """v0 by torchrun with batches of 8 and 8, and by one process with batches of 16; the cost is that of both."""
    weights, costs = [], []
    sft = {"max_steps": 4, "learning_rate": 0.1, "optim": "sgd"}  # Adam makes large steps of what rounding leaves
    two: dict[str, Any] = {"launch": {"sft": "torchrun --nproc_per_node 2"}}
    cases: list[tuple[str, dict[str, Any], int]] = [("one", {}, 16), ("two", two, 8)]
    for name, more, each in cases:
        plan = {**TINY, **more, "sft": {**sft, "per_device_train_batch_size": each}}
        tasks, out = RoundTasks(rounds_plan_from(plan)), tmp_path / name
        with Progress(Console(quiet=True), out, 1) as progress:
            Schedule(out, 1, progress).run([tasks.start])
        costs.append(result(tasks.start, out)["cost"]["cost"])
        policy = AutoModelForCausalLM.from_pretrained(tasks.start.folder(out) / "model")
        weights.append(torch.cat([weight.detach().flatten() for weight in policy.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)
    assert costs[1]["tokens"] == costs[0]["tokens"] and costs[1]["steps"] == costs[0]["steps"] == 4


def test_two_reward_models_score_as_llama_2_combines_them(two_rounds: Run, tmp_path: Path) -> None:
    """Safety prompts by a file; each model learns from its own pairs, and that of safety from half of the others."""
    out, tasks, _ = two_rounds
    labels = list(jsonl.read(tasks.label(1).folder(out) / "labels.jsonl"))
    safe = [row["prompt"] for row in labels[::2]]
    jsonl.replace(tmp_path / "safe.jsonl", [{"prompt": prompt} for prompt in safe])
    reward = {"max_steps": 1, "safety": {"prompts": str(tmp_path / "safe.jsonl"), "helpful": 0.5, "threshold": 0.4}}
    plan = {**TINY, "round": {**TINY["round"], "reward": reward}, "rounds": [{"sample": {"temperatures": []}}]}
    run = run_rounds(plan, tmp_path / "out", jobs=1, console=Console(quiet=True))
    assert run.failures == {} and run.versions == (0, 1)
    tasks, out = RoundTasks(rounds_plan_from(plan)), tmp_path / "out"
    combined = tasks.reward(1)
    assert combined is not None and combined.kind == "combine"
    rows = {part: sum(result(combined.needs[part], out)["rows"].values()) for part in ("helpfulness", "safety")}
    helpful = len(labels) - len(safe)
    assert rows == {"helpfulness": helpful, "safety": len(safe) + round(helpful / 2)}
    from prefopt.scoring import RewardModelScorer

    folders = {"helpfulness": out / "rlhf-v1/reward", "safety": out / "rlhf-v1/reward-safety"}
    models = {part: RewardModelScorer(str(folder), normalized=False) for part, folder in folders.items()}
    score = tasks.score(1)
    scored = list(Pool(score.folder(out) / "pool").scored(result(score, out)["scorer"]))
    keys, from_safety = {prompt_key(prompt) for prompt in safe}, set()
    for row in scored:
        candidate = row.candidate
        given = [list(candidate.prompt)], [candidate.response], [candidate.finished]
        (help_score,), (safe_score,) = (models[part].score(*given) for part in ("helpfulness", "safety"))
        by_safety = candidate.prompt_key in keys or 1 / (1 + math.exp(-safe_score)) < 0.4
        from_safety.add(by_safety)
        assert row.score == pytest.approx(safe_score if by_safety else help_score, abs=1e-5)
    assert from_safety == {True, False}
