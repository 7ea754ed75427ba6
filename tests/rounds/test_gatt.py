"""Ghost Attention as the training of a round: what is sampled, what is trained on, and what a kill leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prefopt.compare.plan import PlanError
from prefopt.rounds import rounds_plan_from, run_rounds
from prefopt.rounds.stages.ghost_attention import CHUNK, _written_down
from prefopt.rounds.tasks import RoundTasks
from prefopt.testbed.dialogues import sample_dialogues
from prefopt.utils import jsonl
from tests.helpers.rounds import TINY


def plan(source: Path, **changes: Any) -> dict[str, Any]:
    training = {
        "method": "gatt",
        "languages": ["en"],
        "kinds": ["language"],
        "keep": False,
        "max_steps": 1,
        "learning_rate": 1e-3,
        **changes,
    }
    return {
        **TINY,
        "sft": {"max_steps": 60, "learning_rate": 3e-3, "per_device_train_batch_size": 16},
        "training": {**TINY["training"], "max_length": 256, "max_new_tokens": 40},
        "round": {
            "prompts": {"source": str(source), "sample": 5},
            "reward": None,
            "sample": None,
            "train": training,
        },
        "rounds": 1,
    }


def test_an_instruction_of_every_turn_is_trained_on_in_the_first_alone(tmp_path: Path) -> None:
    source = tmp_path / "dialogues.jsonl"
    jsonl.replace(source, [{"prompt": dialogue} for dialogue in sample_dialogues(5, 0, turns=2)])
    run = run_rounds(plan(source), tmp_path / "out", jobs=1, console=Console(quiet=True))
    assert run.failures == {} and run.versions == (0, 1)
    tasks = RoundTasks(rounds_plan_from(plan(source)))
    (training,) = tasks.trainings(1)
    made = training.needs["selected"]
    came, replies = made.result(tmp_path / "out"), list(jsonl.read(made.folder(tmp_path / "out") / "replies.jsonl"))
    assert came is not None and came["conversations"] == 5 and [len(each["replies"]) for each in replies] == [5, 5]
    rows = list(jsonl.read(made.folder(tmp_path / "out") / "selected.jsonl"))
    assert rows and came["rows"] == len(rows) == 10 - sum(came["left_out"].values())
    given = {tuple(t["content"] for t in d if t["role"] == "user") for d in (r["prompt"] for r in jsonl.read(source))}
    for row in rows:
        users = [turn["content"] for turn in row["prompt"] if turn["role"] == "user"]
        instruction, _, first = users[0].partition("\n\n")
        assert instruction and all("\n\n" not in user for user in users[1:])
        assert any(tuple([first, *users[1:]]) == each[: len(users)] for each in given)
    result = training.result(tmp_path / "out")
    assert result is not None and result["rows"] == len(rows) and result["init"] == tasks.start.key


def test_what_was_sampled_before_a_kill_is_not_sampled_again(tmp_path: Path) -> None:
    class Said:
        def __init__(self, text: str):
            self.text, self.finished = text, True

    calls: list[int] = []

    def respond(prompts: Any, number: int) -> list[Said]:
        calls.append(number)
        if number == 2:
            raise KeyboardInterrupt
        return [Said(f"{number} {prompt}") for prompt in prompts]

    prompts: Any = list(range(CHUNK + 1))
    first = _written_down(tmp_path / "replies.jsonl", respond)
    assert [reply.text for reply in first(prompts)] == [*(f"0 {n}" for n in range(CHUNK)), f"1 {CHUNK}"]
    with pytest.raises(KeyboardInterrupt):
        first(prompts)
    calls.clear()
    again = _written_down(tmp_path / "replies.jsonl", respond)
    assert len(again(prompts)) == CHUNK + 1 and calls == []


def test_conversations_of_one_turn_and_unknown_instructions_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "single.jsonl"
    jsonl.replace(source, [{"prompt": dialogue} for dialogue in sample_dialogues(5, 0, turns=1)])
    run = run_rounds({**plan(source), "sft": TINY["sft"]}, tmp_path / "out", jobs=1, console=Console(quiet=True))
    (reason,) = run.failures.values()
    assert "none of 5 prompts has a second turn of the user" in reason and "source: dialogues.jsonl" in reason
    with pytest.raises(PlanError, match=r"rounds: 1: train: \['hobbies'\]: give one or more of hobby, language"):
        len(rounds_plan_from(plan(source, kinds=["hobbies"])).each)
    with pytest.raises(PlanError, match="there is no setting 'kind'"):
        len(rounds_plan_from(plan(source, kind="hobby")).each)
