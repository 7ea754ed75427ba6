"""The command line, from flags and YAML to files on disk, exit codes and messages."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

import prefopt
from prefopt import testbed
from prefopt.cli import all_commands
from prefopt.cli.help_page import KEPT, kept_page
from prefopt.cli.help_pages import short_pages
from prefopt.cli.rows import hold_out
from prefopt.data import encode_dataset, load_preferences
from prefopt.testbed.model import build_policy, build_tokenizer
from prefopt.training.arguments import DatasetMixtureConfig, ModelConfig, ScriptArguments
from prefopt.utils.settings import read
from tests.helpers.commands import error_of, run, written
from tests.helpers.tokenizers import TOOLS, make_tokenizer

QUICK = ["--bf16", "false", "--disable_tqdm", "true", "--per_device_train_batch_size", "4", "--max_length", "128"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, and data for it in `data`."""
    folder = tmp_path_factory.mktemp("world")
    tokenizer = build_tokenizer()
    build_policy(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for split, size in (("train", 24), ("test", 8)):
        testbed.write_jsonl(folder / f"sft/{split}.jsonl", testbed.sft_rows(size, 0, split))
        pairs = map(testbed.hh_rlhf, testbed.preference_rows(size, 0, split))
        testbed.write_jsonl(folder / f"pairs/{split}.jsonl", pairs)
        lists = map(testbed.rrhf, testbed.candidate_rows(size, 0, split))
        testbed.write_jsonl(folder / f"lists/{split}.jsonl", lists)
    return folder


# ---- what the program says of itself -------------------------------------------------------------------------------


def test_the_overview_is_narrow_and_loads_nothing_heavy() -> None:
    code = "import sys, prefopt.cli as c; c.main(['--help']); c.main(['--version']); print('torch' in sys.modules)"
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-2:] == [f"prefopt {prefopt.__version__}", "False"]
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in all_commands())
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("words", [["--help"], ["dpo", "--help"], ["data", "formats"]])
def test_a_reader_that_goes_away_is_no_error(words: list[str]) -> None:
    code = f"import sys; sys.argv[1:] = {words!r}; from prefopt.cli import main; sys.exit(main())"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1 if "formats" in words else 141, ""), "rich ends with 1"


@pytest.mark.parametrize("flag", ["--help", "--help-all"])
@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("sft", "dataset_text_field"),
        ("reward", "margin"),
        ("dpo", "beta"),
        ("kto", "desirable_weight"),
        ("rrhf", "rrhf_weight"),
        ("rejection-sampling", "iterations"),
    ],
)
def test_help_shows_what_is_required_then_own_arguments_in_80_columns(
    command: str, own: str, flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(command, flag) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    order = ["--model_name_or_path TEXT", "--dataset_name TEXT", "--output_dir TEXT", f"--{own} ", "--lora_r N"]
    places = [page.index(word) for word in (*order, "--eval_ratio X", "--learning_rate X", "--config FILE")]
    assert places == sorted(places)
    assert f"[{command}-output]" in page
    assert ("--ddp_backend" in page) == (flag == "--help-all")


def test_the_short_page_is_short_and_says_how_many_more_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("dpo", "--help") == 0
    short = capsys.readouterr().out
    assert run("dpo", "--help-all") == 0
    whole = capsys.readouterr().out
    flags = {page: re.findall(r"^  (--\S+)", page, re.M) for page in (short, whole)}
    assert len(flags[short]) < 20 and len(set(flags[whole])) == len(flags[whole])
    assert f"All {len(flags[whole])} options: prefopt dpo --help-all" in short
    assert set(flags[short]) <= set(flags[whole])
    last = [whole.index(word) for word in ("--ddp_backend", "--slic_delta", "--rpo_alpha")]
    assert last == sorted(last), "settings of particular losses come after transformers', old names after these"


def test_the_short_pages_that_are_kept_are_those_of_the_settings() -> None:
    """`python -m prefopt.cli.help_pages` writes them anew."""
    assert short_pages() == {name: kept_page(name) for name in short_pages()}
    assert json.loads(KEPT.read_text()).keys() == short_pages().keys()


@pytest.mark.parametrize("words", [[name] for name in all_commands()] + [["data", "check"]], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from prefopt.cli import main\n"
        f"try: main([*{words!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage:") and done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dop"], "unknown command 'dop'; did you mean dpo?"),
        (["data", "chek"], "unknown command 'chek'"),
        (["dpo", "--lora_rnk", "8"], "unknown option --lora_rnk; did you mean --lora_r"),
        (["dpo", "--lora_r", "8.5"], "--lora_r expects an integer, not '8.5'"),
        (["dpo", "--lr_scheduler_type", "cosin"], "--lr_scheduler_type expects one of linear, cosine,"),
        (["dpo", "--gradient_checkpointing_kwargs", "{a: 1}"], "expects a mapping, not '{a: 1}'"),
        (["dpo", "pairs.jsonl"], "every argument has a name, such as --dataset_name pairs.jsonl"),
        (["dpo", "--config"], "--config expects the path of a YAML file"),
        (["dpo", "--config", "none.yaml"], "--config none.yaml: no such file: check the path"),
        (["dpo", "--config", "."], "--config .: this is a folder: name a file in it"),
        (["compare", "missing.yaml"], "missing.yaml: no such file: check the path, which is taken from"),
        (["compare", "."], "this is a folder: name a file in it. A plan is a YAML file with at least `policy`"),
        (["data", "check", "missing.jsonl"], "missing.jsonl: no such file"),
        (["dpo", "--model", "x"], "unknown option --model; did you mean --model_name_or_path?"),
        (["dpo", "--dataset", "x"], "did you mean --dataset_name?"),
        (["dpo", "--data=x"], "did you mean --dataset_name?"),
        (["dpo", "--eval_data", "x"], "did you mean --eval_dataset?"),
        (["dpo", "--lr", "1"], "did you mean --learning_rate?"),
        (["dpo", "--batch-size", "1"], "did you mean --per_device_train_batch_size?"),
        (["dpo", "--epochs", "1"], "did you mean --num_train_epochs?"),
        (["dpo", "--output", "x"], "did you mean --output_dir?"),
        (["dpo", "--ref_model", "x"], "unknown option --ref_model: the reference is the model that training starts"),
        (["ppo", "--reward_model", "x"], "did you mean --scorer?"),
        (["dpo", "--zzz", "x"], "unknown option --zzz; prefopt dpo --help-all lists all options"),
        (["best-of-n", "--n", "4"], "did you mean --responses_per_prompt?"),
        (["dpo", "--dataset_name", "x", "--bf16", "false"], "--model_name_or_path is missing"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(
    argv: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, *argv)
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--dataset_name", "gone.jsonl"], "gone.jsonl: no such file"),
        (["--model_name_or_path", "./gone"], "--model_name_or_path ./gone: no such folder"),
        (["--model_name_or_path", "."], "holds no model"),
        (["--load_in_4bit"], "--load_in_4bit needs --use_peft"),
        (["--load_in_4bit", "--load_in_8bit", "--use_peft"], "choose one"),
        (["--lora_r", "8"], "--lora_r means nothing without --use_peft"),
        (["--use_peft", "--bnb_4bit_quant_type", "fp4"], "means nothing without --load_in_4bit"),
        (["--use_peft", "--lora_task_type", "SEQ_CLS"], "this command trains with CAUSAL_LM"),
        (["--beta", "-1"], "beta=-1.0 must be above 0"),
        (["--resume_from_checkpoint", "true"], "no complete checkpoint in"),
        (["--resume_from_checkpoint", "./gone"], "--resume_from_checkpoint gone: no such folder"),
        (["--eval_strategy", "steps"], "a single file has no test split"),
        (["--eval_ratio", "0.1", "--eval_dataset", "x"], "choose one"),
        (["--dataset_streaming"], "dataset_streaming is not offered"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    flags: Sequence[str], said: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--model_name_or_path", world / "model", "--dataset_name", world / "pairs/train.jsonl"]
    error = error_of(capsys, "dpo", *data, "--output_dir", tmp_path, *QUICK, *flags)
    assert said in error
    assert "PREFOPT_DEBUG" not in error


def test_an_error_from_elsewhere_tells_how_to_see_more(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["dpo", "--model_name_or_path", world / "model", "--dataset_name", world / "pairs/train.jsonl", *QUICK]
    argv += ["--output_dir", tmp_path, "--use_peft", "--lora_target_modules", "nothing"]
    assert "(PREFOPT_DEBUG=1 shows" in error_of(capsys, *argv)
    monkeypatch.setenv("PREFOPT_DEBUG", "1")
    with pytest.raises(ValueError, match="nothing"):
        run(*argv)


def test_of_several_processes_the_first_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert error_of(capsys, "dpo", "--lora_rnk", "8") == ""
    assert error_of(capsys, "dop").startswith("[rank 1] prefopt: error: unknown command")


# ---- flags and YAML ------------------------------------------------------------------------------------------------


def parsed(config: str | dict, flags: Sequence[str], folder: Path) -> tuple:
    file = folder / "run.yaml"
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    parser = prefopt.TrlParser((prefopt.DPOConfig, ModelConfig, ScriptArguments), prog="prefopt dpo")
    return parser.parse_args_and_config(["--config", str(file), "--bf16", "false", *flags])


def test_yaml_gives_defaults_and_flags_win(tmp_path: Path) -> None:
    text = """
        output_dir: here
        learning_rate: 1e-5        # no dot: YAML takes this for text
        eval-strategy: no          # YAML takes this for false
        max_length: null
        loss_type: [sigmoid, sft]
        loss_weights: [1, 0.5]
        gradient_checkpointing_kwargs: {use_reentrant: false}
        model_init_kwargs: {attn_implementation: sdpa}
        chat_template_kwargs: {enable_thinking: false}
        use_peft: true
        lora_r: 8
        lora_target_modules: [all-linear]
        resume_from_checkpoint: null
    """
    args, model, _ = parsed(text, ["--lora_r", "4", "--no_disable_dropout", "--loss_weights", "1", "2"], tmp_path)
    assert (args.output_dir, args.learning_rate, args.eval_strategy, args.max_length) == ("here", 1e-5, "no", None)
    assert (args.loss_type, args.loss_weights) == (["sigmoid", "sft"], [1.0, 2.0])
    assert args.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert args.model_init_kwargs == {"attn_implementation": "sdpa"}
    assert args.chat_template_kwargs == {"enable_thinking": False}
    assert (model.use_peft, model.lora_r, model.lora_target_modules) == (True, 4, "all-linear")
    assert (args.disable_dropout, args.resume_from_checkpoint, model.lora_alpha) == (False, None, 32)


def test_a_flag_can_take_back_what_yaml_says(tmp_path: Path) -> None:
    args, model, _ = parsed(
        {"use_peft": True, "max_length": 64}, ["--use_peft", "false", "--max-length", "none"], tmp_path
    )
    assert (model.use_peft, args.max_length) == (False, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("beta: 0.1\nlora_rnk: 8", "run.yaml:2: unknown key 'lora_rnk'; did you mean lora_r"),
        ("model: x", "run.yaml:1: unknown key 'model'; did you mean model_name_or_path?"),
        ("lr: 1e-5", "run.yaml:1: unknown key 'lr'; did you mean learning_rate?"),
        ("\nbatch-size: 4", "run.yaml:2: unknown key 'batch_size'; did you mean per_device_train_batch_size?"),
        ("ref_model: x", "run.yaml:1: unknown key 'ref_model': the reference is the model that training starts from"),
        ("\nbeta: strong", "run.yaml:2: beta expects a number, not 'strong'"),
        ("max_steps: 1.5", "run.yaml:1: max_steps expects an integer, not 1.5"),
        ("use_peft: 3", "run.yaml:1: use_peft expects true or false, not 3"),
        ("output_dir: {a: 1}", "run.yaml:1: output_dir expects text or none, not {'a': 1}"),
        ("lora_r: null", "run.yaml:1: lora_r expects an integer, not None"),
        ("beta: 0.1\nbeta: 0.2", "run.yaml:2: 'beta' is here again, after"),
        ("beta: [0.1", "run.yaml:1: not valid YAML"),
        ("- beta", "run.yaml: holds no mapping"),
    ],
)
def test_errors_in_yaml_name_the_line(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        parsed(text, [], tmp_path)
    assert ending.value.code == 2
    assert said in capsys.readouterr().err


def test_unknown_arguments_can_be_kept(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("bf16: false\nmine: 3")
    parser = prefopt.TrlParser(prefopt.DPOConfig)
    args, rest = parser.parse_args_and_config([f"--config={file}", "--other", "x"], return_remaining_strings=True)
    assert rest == ["--mine", "3", "--other", "x"]
    (args,) = prefopt.TrlParser(prefopt.DPOConfig).parse_args_and_config(
        [f"--config={file}"], fail_with_unknown_args=False
    )
    assert args.bf16 is False


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("7", int, 7),
        (2, float, 2.0),
        ("yes", bool, True),
        ('{"a": 1}', dict | str, {"a": 1}),
        ("file.json", dict | str, "file.json"),
        ("None", int | None, None),
        ("none", str | None, "none"),
        (["1", 2.5], list[float], [1.0, 2.5]),
        (0.5, list[float], [0.5]),
    ],
)
def test_values_are_read_as_their_types(value: object, kind: object, expected: object) -> None:
    kinds = getattr(kind, "__args__", (kind,)) if not hasattr(kind, "__origin__") else (kind,)
    found = read(value, kinds)
    assert (found, type(found)) == (expected, type(expected))


# ---- whole commands ------------------------------------------------------------------------------------------------


def test_sft_then_reward_then_dpo(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sft, reward, dpo = (tmp_path / name for name in ("sft", "reward", "dpo"))
    command = ["sft", "--model_name_or_path", world / "model", "--dataset_name", world / "sft", "--max_steps", "2"]
    command += ["--output_dir", sft, "--eval_strategy", "epoch", *QUICK]
    done = subprocess.run([sys.executable, "-m", "prefopt", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SFT training is done" in done.stdout
    assert "rows                      24 trained on, 8 held out" in done.stdout
    assert "kernels" not in done.stderr
    assert {"train_loss", "eval_loss", "eval_mean_token_accuracy"} <= set(written(sft / "all_results.json"))

    pairs = ["--model_name_or_path", sft, *QUICK, "--use_peft", "--lora_r", "4", "--dataset_name"]
    shared = [*pairs, world / "pairs/train.jsonl", "--max_steps", "2"]
    assert run("reward", *shared, "--eval_ratio", "0.25", "--output_dir", reward) == 0
    assert written(reward / "adapter_config.json")["task_type"] == "SEQ_CLS"
    assert "eval_accuracy" in written(reward / "all_results.json")

    shared += ["--eval_dataset", world / "pairs/test.jsonl"]
    assert run("dpo", *shared, "--output_dir", dpo, "--loss_type", "sigmoid", "sft") == 0
    adapter = written(dpo / "adapter_config.json")
    assert (adapter["r"], adapter["task_type"], adapter["base_model_name_or_path"]) == (4, "CAUSAL_LM", str(sft))
    assert "eval_rewards/accuracies" in written(dpo / "all_results.json")
    assert f"  adapter                  {dpo}\n" in capsys.readouterr().out


def test_rrhf_on_pairs_and_on_lists(world: Path, tmp_path: Path) -> None:
    for rows in ("pairs", "lists"):
        command = ["rrhf", "--model_name_or_path", world / "model", "--dataset_name", world / rows, *QUICK]
        assert run(*command, "--max_steps", "2", "--eval_strategy", "epoch", "--output_dir", tmp_path / rows) == 0
        results = written(tmp_path / rows / "all_results.json")
        assert {"eval_loss/rank", "eval_loss/likelihood", "eval_rewards/accuracies"} <= set(results)


def test_kto_on_labelled_answers(world: Path, tmp_path: Path) -> None:
    """In English and Chinese; the two answers to a prompt stay on one side of the split."""
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in testbed.preference_rows(24, 0)
        for side in ("chosen", "rejected")
    ]
    testbed.write_jsonl(tmp_path / "labelled.jsonl", rows)
    command = ["kto", "--model_name_or_path", world / "model", "--dataset_name", tmp_path / "labelled.jsonl", *QUICK]
    command += ["--eval_ratio", "0.25", "--max_steps", "2", "--undesirable_weight", "1.3"]
    assert run(*command, "--output_dir", tmp_path / "kto") == 0
    results = written(tmp_path / "kto/all_results.json")
    assert {"train_loss", "eval_loss", "eval_kl", "eval_rewards/margins"} <= set(results)
    assert results["eval_count/chosen"] == results["eval_count/rejected"] > 0


@pytest.mark.parametrize(("signum", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_an_interrupted_run_saves_says_how_to_go_on_and_does(
    signum: str,
    status: int,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["sft", "--model_name_or_path", world / "model", "--dataset_name", world / "sft/train.jsonl", *QUICK]
    command += ["--max_steps", "4", "--save_steps", "2", "--output_dir", tmp_path]
    step = prefopt.SFTTrainer.training_step

    def pressed(trainer: prefopt.SFTTrainer, *args: object, **kwargs: object) -> object:
        if trainer.state.global_step == 2:
            os.kill(os.getpid(), getattr(signal, signum))
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(prefopt.SFTTrainer, "training_step", pressed)
        assert run(*command) == status
    shown, name = capsys.readouterr(), "Ctrl-C" if signum == "SIGINT" else signum
    assert "steps" not in shown.out and not (tmp_path / "model.safetensors").exists()
    said = shown.err
    assert f"Interrupted by {name} after step 3 of 4." in said
    assert f"Newest checkpoint: {tmp_path / 'checkpoint-3'}" in said
    assert "--resume_from_checkpoint true" in said
    assert run(*command, "--resume_from_checkpoint", "true") == 0
    assert written(tmp_path / "trainer_state.json")["global_step"] == 4
    assert written(tmp_path / "checkpoint-4/trainer_state.json")["global_step"] == 4


def test_bare_text_in_another_column(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = testbed.write_jsonl(tmp_path / "text.jsonl", [{"content": "The sky is blue."}] * 4)
    command = ["sft", "--model_name_or_path", world / "model", "--dataset_name", file, "--max_steps", "1", *QUICK]
    assert run(*command, "--output_dir", tmp_path / "out", "--dataset_text_field", "content") == 0
    error = error_of(capsys, *command, "--output_dir", tmp_path / "other", "--dataset_text_field", "body")
    assert f"{file}:1: no field 'body'" in error


def test_data_check_returns_the_doctors_exit_code(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("data", "check", world / "pairs/train.jsonl") == 0
    assert "hh-rlhf" in capsys.readouterr().out
    broken = tmp_path / "broken.jsonl"
    broken.write_text((world / "pairs/test.jsonl").read_text() + "{\n")
    assert run("data", "check", broken) == 1
    assert run("data", "--help") == 0


def test_data_check_counts_with_the_variables_of_the_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tokenizer(TOOLS, eos="<|im_end|>").save_pretrained(tmp_path / "model")
    row = {"query": "中国的首都是哪里？", "response": "北京。"}
    file = testbed.write_jsonl(tmp_path / "rows.jsonl", [row])
    command = ["data", "check", file, "--tokenizer", tmp_path / "model", "--max_length"]
    encoded = encode_dataset([row], make_tokenizer(TOOLS, eos="<|im_end|>"))[0]
    length = len(encoded["prompt_ids"]) + len(encoded["response_ids"][0])
    given, cut = ["--chat_template_kwargs", '{"enable_thinking": false}'], []
    for more in ([], given):
        assert run(*command, length, "--json", *more) == 0
        cut.append(json.loads(capsys.readouterr().out)["files"][0]["prompts_cut"]["count"])
    assert cut == [0, 1]  # the empty thought takes the room
    assert "reads no variable 'x'" in error_of(capsys, *command, 99, "--chat_template_kwargs", '{"x": 1}')
    assert "add --tokenizer, the model that has it" in error_of(capsys, "data", "check", file, *given)


def test_held_out_prompts_are_not_trained_on() -> None:
    rows = [row for row in testbed.preference_rows(12, 0) for _ in range(3)]
    train, held = hold_out(load_preferences(rows), 0.25, seed=0)
    prompts = [{repr(prompt) for prompt in part["prompt"]} for part in (train, held)]
    assert len(train) + len(held) == 36
    assert prompts[0] and prompts[1] and not prompts[0] & prompts[1]
    with pytest.raises(ValueError, match="leaves none to train on"):
        hold_out(load_preferences(rows[:3]), 0.5, seed=0)


# ---- TRL's names for scripts ---------------------------------------------------------------------------------------


def test_a_trl_script_runs_after_changing_its_import(world: Path, tmp_path: Path) -> None:
    from prefopt import DPOConfig, DPOTrainer, TrlParser, get_dataset, get_peft_config, get_quantization_config

    file = tmp_path / "run.yaml"
    sources = [{"path": "json", "data_files": str(world / f"pairs/{split}.jsonl")} for split in ("train", "test")]
    file.write_text(yaml.safe_dump({"datasets": sources, "test_split_size": 0.25, "max_steps": 1}))
    parser = TrlParser((ScriptArguments, DPOConfig, ModelConfig, DatasetMixtureConfig))
    argv = ["--config", file, "--model_name_or_path", world / "model", "--output_dir", tmp_path / "out", *QUICK]
    argv += ["--use_peft", "--lora_r", "4"]
    script_args, training_args, model_args, dataset_args = parser.parse_args_and_config(map(str, argv))
    dataset = get_dataset(dataset_args)
    assert (len(dataset["train"]), len(dataset["test"])) == (24, 8)
    training_args.model_init_kwargs = {"revision": model_args.model_revision, "dtype": model_args.dtype}
    trainer = DPOTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split],
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-3)


def test_adapter_and_quantisation_are_what_the_arguments_say() -> None:
    assert prefopt.get_peft_config(ModelConfig()) is None
    assert prefopt.get_quantization_config(ModelConfig()) is None
    asked = ModelConfig(
        use_peft=True, lora_alpha=8, lora_target_modules=["all-linear"], lora_modules_to_save=["lm_head"]
    )
    lora = prefopt.get_peft_config(asked, "SEQ_CLS")
    assert (lora.r, lora.lora_alpha, lora.target_modules, lora.modules_to_save) == (16, 8, "all-linear", ["lm_head"])
    assert lora.task_type == "SEQ_CLS"
    four = prefopt.get_quantization_config(ModelConfig(load_in_4bit=True, dtype="auto", use_bnb_nested_quant=True))
    assert (four.bnb_4bit_quant_type, str(four.bnb_4bit_compute_dtype)) == ("nf4", "torch.bfloat16")
    assert four.bnb_4bit_use_double_quant
    assert prefopt.get_quantization_config(ModelConfig(load_in_8bit=True)).load_in_8bit


def test_no_dataset_is_named() -> None:
    with pytest.raises(ValueError, match="names no dataset"):
        prefopt.get_dataset(DatasetMixtureConfig())
