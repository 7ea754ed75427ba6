"""`prefopt ppo` from flags to files on disk: presets, an adapter, resuming, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from prefopt.models.load import load_scorer
from prefopt.training.ppo.log import RolloutLog
from tests.helpers.commands import TRAINED, asked, error_of, run, written

QUICK = ["--max_new_tokens", "10", "--num_mini_batches", "2", "--max_steps", "4", "--learning_rate", "1e-4", *TRAINED]
JUDGED = ["--scorer", "judges:vowels"]

pytestmark = pytest.mark.usefixtures("in_sampling_folder")


def test_help_begins_with_what_is_required_and_the_presets_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("ppo", "--help") == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    places = [page.index(word) for word in ("--scorer T", "--preset {", "--kl_coef X", "--use_peft", "--learning_r")]
    assert places == sorted(places)
    assert "--response_length" not in page


def test_a_run_writes_policy_critic_and_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(*asked("ppo", out, *JUDGED, *QUICK, "--save_steps", "2", "--eval_ratio", "0.25")) == 0
    said = capsys.readouterr().out
    for name in ("policy", "critic", "rollouts.jsonl", "rollouts.png"):
        assert str(out / name) in said and (out / name).exists()
    assert {"eval_objective/kl", "eval_objective/scores", "train_loss"} <= set(written(out / "all_results.json"))
    AutoModelForCausalLM.from_pretrained(out / "policy")
    load_scorer(str(out / "critic"))
    longer = asked("ppo", out, *JUDGED, *QUICK, "--save_steps", "2", "--max_steps", "6", "--eval_ratio", "0.25")
    # Its learning rates warm up over a share of all steps.
    assert run(*longer, "--resume_from_checkpoint", "true", "--resume_with_changes", "max_steps") == 0
    assert [record.rollout for record in RolloutLog(out / "rollouts.jsonl").read()] == [0, 1, 2]


def test_prompts_alone_are_enough(tmp_path: Path) -> None:
    assert run(*asked("ppo", tmp_path / "out", *JUDGED, *QUICK, rows="prompts.jsonl")) == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ("norm", 0.05)),
        (["--preset", "ppo"], ("none", 0.0)),
        (["--kl_coef", "0.05", "--preset=ppo"], ("none", 0.05)),
        (["--config", "vanilla.yaml"], ("scale", 0.0)),
        (["--config", "vanilla.yaml", "--preset", "ppo-max"], ("scale", 0.05)),
    ],
)
def test_a_preset_stands_behind_the_file_and_the_flags(
    flags: list[str],
    expected: tuple[str, float],
    sampling_folder: Path,
    tmp_path: Path,
) -> None:
    (sampling_folder / "vanilla.yaml").write_text("preset: ppo\nreward_norm: scale\n")
    few = [*QUICK, "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "2"]
    assert run(*asked("ppo", tmp_path / "out", *JUDGED, *few, *flags)) == 0
    said = json.loads((tmp_path / "out" / "checkpoint-2" / "prefopt_manifest.json").read_text())["run"]["objective"]
    norm, weight = expected
    assert (said["reward_norm"], said["kl_coef"]) == (norm, weight)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--scorer is missing"),
        ([*JUDGED, "--preset", "vanilla"], "--preset vanilla: choose one of ppo-max, ppo, ppo-moss"),
        ([*JUDGED, "--kl_coef", "-1"], "kl_coef=-1.0 must be at least 0"),
        ([*JUDGED, "--share_critic"], "share_critic needs an adapter on the policy"),
        ([*JUDGED, "--source", "mixed", "--responses_per_prompt", "2"], "source='mixed' must be sampling"),
        ([*JUDGED, "--max_steps", "3"], "max_steps=3 ends within a rollout"),
        (["--scorer", "judges:sick"], "scorer 'sick' gave nan to row 2"),
    ],
)
def test_what_cannot_be_done_is_one_message(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in error_of(capsys, *asked("ppo", tmp_path / "out", *QUICK, *flags))
