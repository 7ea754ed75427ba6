"""Commands that draw responses, from flags to files on disk: training on them, the best of N, pairs; and a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import prefopt
from prefopt import testbed
from prefopt.candidates import Pool
from prefopt.candidates.candidate import prompt_key
from prefopt.data import load, load_preferences
from prefopt.testbed.model import build_policy, build_tokenizer
from tests.helpers.commands import TRAINED, asked, error_of, run, written
from tests.helpers.iterations import files_of

DRAWN: list[object] = ["--responses_per_prompt", "4", "--max_new_tokens", "12", "--sampling_batch_size", "8"]
QUICK = [*DRAWN, *TRAINED, "--save_strategy", "no"]

pytestmark = pytest.mark.usefixtures("in_sampling_folder")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open()]


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("command", ["best-of-n", "self-rejected"])
def test_help_shows_what_is_required_first_in_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(command, "--help") == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    words = (
        "--dataset_name T",
        "--output_dir T",
        "--responses_per_prompt N",
        "--temperature X",
        "--dtype",
        "--config F",
    )
    places = [page.index(word) for word in words]
    assert places == sorted(places)
    assert f"[{command}-output]" in page and "--help-all" in page and "--lora_r" not in page


# ---- training on drawn responses -----------------------------------------------------------------------------------


def test_a_reward_model_with_another_vocabulary_judges(
    sampling_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = build_tokenizer(seed=5)
    assert other.get_vocab() != build_tokenizer().get_vocab()
    build_policy(other).save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    reward = ["reward", "--model_name_or_path", tmp_path / "other", "--dataset_name", "pairs.jsonl", *TRAINED]
    assert run(*reward, "--max_steps", "1", "--output_dir", tmp_path / "judge") == 0
    out = tmp_path / "out"
    command = asked("rejection-sampling", out, "--scorer", tmp_path / "judge", "--iterations", "1", *QUICK)
    capsys.readouterr()
    assert run(*command, "--eval_ratio", "0.25", "--scorer_dtype", "bfloat16") == 0
    said = capsys.readouterr().out
    results = written(out / "all_results.json")
    assert {"train_loss", "train_runtime", "eval_objective/rlhf_reward"} <= set(results)
    assert list(Pool(out / "pool").scorers().values()) == ["judge"]
    places = dict(line.split(maxsplit=1) for line in said.splitlines() if line.startswith("  "))
    assert places["rows"].endswith("read for prompts, 3 held out")
    assert (places["responses"], places["iterations"]) == (f"{out}/pool", f"{out}/iteration-* (1)")
    assert ("picture" in places) == (out / "rewards.png").is_file()
    assert (out / "model.safetensors").is_file()


def test_killed_while_it_draws_a_run_ends_the_same(
    sampling_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--scorer", "judges:vowels", "--iterations", "2", "--max_steps", "2", *QUICK]
    killed = asked("rejection-sampling", tmp_path / "killed", *more)
    words = [sys.executable, "-m", "prefopt", *map(str, killed)]
    # The folder that a program is started in is not on an installed one's path; its modules are found all the same.
    file = tmp_path / "killed/pool/candidates-000-00001.jsonl"
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "WAITS_BESIDE": str(file)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not file.exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    assert (tmp_path / "killed/iteration-000/policy").is_dir()
    assert not (tmp_path / "killed/iteration-001/policy").is_dir()

    error = error_of(capsys, *killed)
    assert "holds a run already: add --resume_from_checkpoint true" in error and "Traceback" not in error
    assert run(*killed, "--resume_from_checkpoint", "true") == 0
    assert run(*asked("rejection-sampling", tmp_path / "whole", *more)) == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert "4 in" in capsys.readouterr().out  # steps

    assert run(*killed, "--resume_from_checkpoint", "true") == 0  # all is done: nothing to train, nothing to say of it
    assert "train_loss" not in written(tmp_path / "killed/train_results.json")


def test_rows_of_any_kind_keep_their_answers(sampling_folder: Path) -> None:
    assert set(load("pairs.jsonl", "any")[0].column_names) == {"prompt", "chosen", "rejected"}
    assert load("prompts.jsonl", "any")[0].column_names == ["prompt"]


def test_rrhf_ranks_responses_to_bare_prompts(sampling_folder: Path, tmp_path: Path) -> None:
    more = ["--scorer", "judges:vowels", "--max_steps", "2", *QUICK]
    assert run(*asked("rrhf", tmp_path / "out", *more, rows="prompts.jsonl")) == 0
    rows = lines(tmp_path / "out/iteration-000/selection.jsonl")
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in rows)


def test_an_interrupted_run_says_how_to_go_on(
    sampling_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*args: object, **kwargs: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(prefopt.PreferenceTrainer, "training_step", pressed)
    assert run(*asked("rejection-sampling", tmp_path, "--scorer", "judges:vowels", *QUICK)) == 130
    said = capsys.readouterr().err
    assert "Interrupted by Ctrl-C after 0 of 3 iterations." in said
    assert f"What is sampled, scored and trained is in {tmp_path}" in said
    assert "--resume_from_checkpoint true" in said


# ---- the best of N -------------------------------------------------------------------------------------------------


def test_best_of_n_goes_on_where_it_was(
    sampling_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = asked("best-of-n", tmp_path, "--scorer", "judges:vowels", *DRAWN, rows="prompts.jsonl")
    assert run(*command) == 0
    said, first = capsys.readouterr().out, bytes_in(tmp_path)
    prompts = {prompt_key(row["prompt"]) for row in lines(sampling_folder / "prompts.jsonl")}
    assert f"{4 * len(prompts)} responses to {len(prompts)} prompts, {4 * len(prompts)} of them new" in said
    assert "N" in said and "median" in said and f"{tmp_path}/responses.jsonl" in said
    report, rows = written(tmp_path / "report.json"), lines(tmp_path / "responses.jsonl")
    assert len(rows) == report["rows"] == report["prompts"] - report["unanswered"]
    assert report["rewards"]["4"]["max"][0] > report["rewards"]["1"]["max"][0]
    scored = list(Pool(tmp_path / "pool").scored(next(iter(Pool(tmp_path / "pool").scorers()))))
    tops = {one.candidate.prompt_key: 0.0 for one in scored}
    usable = [one for one in scored if one.candidate.finished and one.candidate.response]
    tops = {key: max((o.score for o in usable if o.candidate.prompt_key == key), default=None) for key in tops}
    assert {prompt_key(row["prompt"]): row["score"] for row in rows} == {k: v for k, v in tops.items() if v is not None}

    assert run(*command) == 0
    assert "0 of them new" in capsys.readouterr().out
    assert bytes_in(tmp_path) == first

    kept = (tmp_path / "pool/candidates-000-00000.jsonl").read_bytes()
    assert run(*command, "--responses_per_prompt", "6", "--select", "best-worst") == 0  # more: the others stay
    assert f"{2 * len(prompts)} of them new" in capsys.readouterr().out
    assert (tmp_path / "pool/candidates-000-00000.jsonl").read_bytes().startswith(kept)
    assert {"chosen", "rejected", "finished"} <= set(lines(tmp_path / "responses.jsonl")[0])

    assert run(*command) == 0  # and fewer look at the first of them alone
    assert {name: data for name, data in bytes_in(tmp_path).items() if not name.startswith("pool")} == {
        name: data for name, data in first.items() if not name.startswith("pool")
    }
    error = error_of(capsys, *command, "--top_p", "0.5")
    assert "belongs to another run: top_p: 1.0 -> 0.5" in error and "PREFOPT_DEBUG" not in error


@pytest.mark.parametrize("select", ["ranked", "best-random", "above"])
def test_best_of_n_selects(
    select: str, sampling_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = asked("best-of-n", tmp_path, "--scorer", "judges:vowels", "--select", select, *DRAWN)
    if select == "above":
        assert "--select above needs --score_threshold" in error_of(capsys, *command)
        assert "none of 48 responses gives a row" in error_of(capsys, *command, "--score_threshold", "1e6")
        command += ["--score_threshold", "0.5"]
    assert run(*command) == 0
    rows = lines(tmp_path / "responses.jsonl")
    if select == "above":
        assert min(row["score"] for row in rows) >= 0.5
    assert {"ranked": "responses", "best-random": "rejected", "above": "response"}[select] in rows[0]


# ---- pairs of a dataset's answers and the policy's -------------------------------------------------------------------


def test_self_rejected_makes_pairs_that_dpo_takes(
    sampling_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = asked("self-rejected", tmp_path / "out", *DRAWN)
    assert run(*command) == 0
    first = bytes_in(tmp_path / "out")
    pairs = lines(tmp_path / "out/pairs.jsonl")
    answers = {(prompt_key(row["prompt"]), row["chosen"]) for row in load_preferences("pairs.jsonl")}
    assert {(prompt_key(pair["prompt"]), pair["chosen"]) for pair in pairs} <= answers
    assert all(pair["finished"] == [True, True] for pair in pairs)
    assert f"{len(pairs)} pairs" in capsys.readouterr().out
    assert run(*command) == 0
    assert bytes_in(tmp_path / "out") == first
    dpo = asked("dpo", tmp_path / "dpo", *TRAINED, "--max_steps", "1", rows=str(tmp_path / "out/pairs.jsonl"))
    assert run(*dpo) == 0
    assert "belongs to another run: objective: 'self-rejected'" in error_of(
        capsys, *asked("best-of-n", tmp_path / "out", "--scorer", "judges:vowels", *DRAWN)
    )


# ---- what is wrong is said -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("rejection-sampling", [], "--scorer is missing: give a reward model (a folder or a hub id), the URL of"),
        ("best-of-n", [], "--scorer is missing: give a reward model"),
        ("best-of-n", ["--scorer", "nowhere:vowels"], "--scorer nowhere:vowels: cannot import nowhere"),
        (
            "best-of-n",
            ["--scorer", "judges:vowel"],
            "judges has no vowel; did you mean vowels? it has vowels, few, sick, limit",
        ),
        ("rrhf", ["--scorer", "judges:limit"], "this is 3: name a function of (prompts, responses)"),
        ("rrhf", ["--scorer", "./gone"], "--scorer ./gone: no such folder"),
        ("rrhf", ["--scorer", "."], "--scorer .: holds no model, which would have a config.json"),
        ("rrhf", ["--scorer", "model"], "model has no reward head"),
        ("rrhf", ["--temperature", "0.5"], "--temperature means nothing without --scorer"),
        ("rrhf", ["--scorer", "judges:few", "--scorer_dtype", "float16"], "--scorer_dtype is for a reward model"),
        ("rrhf", ["--scorer", "judges:few", "--resume_from_checkpoint", "x"], "goes on in its output_dir, say true"),
        ("dpo", ["--scorer", "judges:few"], "unknown option --scorer"),
        ("self-rejected", ["--scorer", "judges:few"], "unknown option --scorer"),
        ("self-rejected", ["--temperature", "-1"], "temperature=-1.0"),
        ("self-rejected", ["--model_name_or_path", "./gone"], "--model_name_or_path ./gone: no such folder"),
        ("self-rejected", ["--dataset_name", "prompts.jsonl"], "use another load function"),
        ("best-of-n", ["--scorer", "judges:few", "--bnb_4bit_quant_type", "fp4"], "means nothing without"),
        ("best-of-n", ["--scorer", "judges:few", "--dataset_name", "empty.jsonl"], "empty.jsonl: holds no row at all"),
        ("best-of-n", ["--scorer", "judges:few", "--dataset_name", "long.jsonl"], "prompt 1 has"),
    ],
)
def test_what_cannot_be_done_is_said(
    command: str,
    flags: Sequence[str],
    said: str,
    sampling_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (sampling_folder / "empty.jsonl").write_text("")
    long = [{"prompt": "Hello"}, {"prompt": "word " * 400}]
    testbed.write_jsonl(sampling_folder / "long.jsonl", long)
    trained = TRAINED if command in ("dpo", "rrhf", "rejection-sampling") else []
    error = error_of(capsys, *asked(command, tmp_path, *trained, *flags))
    assert said in error
    assert "Traceback" not in error and "PREFOPT_DEBUG" not in error
    assert not list(tmp_path.glob("pool/*"))


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        ("few", "scorer 'few' returned 1 scores for 48 responses: the first without one is row 1 (prompt"),
        ("sick", "scorer 'sick' gave nan to row 2 (prompt"),
    ],
)
@pytest.mark.parametrize("command", ["rejection-sampling", "best-of-n"])
def test_a_scorer_that_fails_loses_nothing(
    command: str, scorer: str, said: str, sampling_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = TRAINED if command == "rejection-sampling" else []
    error = error_of(capsys, *asked(command, tmp_path, "--scorer", f"judges:{scorer}", *DRAWN, *trained))
    assert said in error and "PREFOPT_DEBUG" not in error
    assert len(list(Pool(tmp_path / "pool").candidates())) == 48


def test_best_of_n_keeps_tools_and_sets_variables_of_the_template(
    sampling_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% if tools %}{{ tools | tojson }}{% endif %}{{ mode }}" + str(tokenizer.chat_template)
    tokenizer.save_pretrained(tmp_path / "model")
    build_policy(tokenizer).save_pretrained(tmp_path / "model")
    row = {**lines(sampling_folder / "prompts.jsonl")[0], "tools": [{"name": "时钟"}]}
    file = testbed.write_jsonl(tmp_path / "rows.jsonl", [row, {**row, "tools": None}])
    command = ["best-of-n", "--model_name_or_path", tmp_path / "model", "--dataset_name", file, *DRAWN]
    command += ["--scorer", "judges:vowels", "--stop_strings", "a", "e", "--output_dir", tmp_path / "out"]
    assert run(*command, "--chat_template_kwargs", '{"mode": "慢"}') == 0
    prompts = {candidate.prompt_key: candidate.prompt for candidate in Pool(tmp_path / "out/pool").candidates()}
    assert [prompt[0].get("tools") for prompt in prompts.values()] == ['[{"name": "时钟"}]', None]
    rows, _ = load(tmp_path / "out/responses.jsonl", "any")
    assert {prompt_key(prompt) for prompt in rows["prompt"]} == prompts.keys()
    assert "belongs to another run: policy: " in error_of(capsys, *command)  # without the variable it is another
    said = error_of(capsys, *command, "--chat_template_kwargs", '{"mod": "慢"}')
    assert "the chat template reads no variable 'mod'; did you mean mode?" in said
