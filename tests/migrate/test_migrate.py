"""Scripts for TRL 0.7 to 1.16 and files of LLaMA-Factory, in their style: migrated, and run.

The first lines of an input say whether what comes of it runs, and what is left to do by hand: by line of a script, by
key of a file.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from prefopt import testbed
from prefopt.cli.commands import all_commands
from prefopt.cli.train import _parser, _trainer_of
from prefopt.migrate import Note, migrated_file, migrated_script
from prefopt.migrate.edits import Source
from prefopt.migrate.llama_factory import OTHERWISE, RENAMES
from prefopt.testbed.model import build_tokenizer
from tests.helpers.commands import error_of, run
from tests.helpers.models import untrained

INPUTS = Path(__file__).with_name("inputs")
SCRIPTS, FILES = sorted(INPUTS.glob("*.py")), sorted(INPUTS.glob("*.yaml"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, rows of each kind, and LLaMA-Factory's account of them."""
    folder = tmp_path_factory.mktemp("world")
    tokenizer = build_tokenizer()
    untrained(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    testbed.write_jsonl(folder / "pairs.jsonl", map(testbed.hh_rlhf, testbed.preference_rows(8, 0)))
    testbed.write_jsonl(folder / "sft.jsonl", testbed.sft_rows(8, 0))
    labelled = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i % 2 == 0} for i in range(8)]
    testbed.write_jsonl(folder / "labelled.jsonl", labelled)
    (folder / "data").mkdir()
    info: dict[str, dict[str, str]] = {name: {"file_name": f"../{name}.jsonl"} for name in ("pairs", "labelled")}
    info |= {"demonstrations": {"file_name": "../sft.jsonl"}, "on_the_hub": {"hf_hub_url": "owner/rows"}}
    (folder / "data/dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, in which that world is."""
    for path in world.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def by_hand(notes: tuple[Note, ...]) -> list[int]:
    return [note.line for note in notes if note.by_hand]


# ---- scripts ---------------------------------------------------------------------------------------------------------


def test_there_are_inputs_of_every_age() -> None:
    ages = {path.name.split("_")[0] for path in [*SCRIPTS, *FILES]}
    assert len(SCRIPTS) + len(FILES) >= 25
    assert ages == {"trl07", "trl08", "trl09", "trl12", "trl16", "trl19", "trl24", "trl29", "trl100", "trl116", "lf"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_migrated(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = path.read_text(encoding="utf-8")
    first = old.splitlines()[0]
    found = migrated_script(old)
    tree = ast.parse(found.text)
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert not [module for module in modules if module.split(".")[0] == "trl"]
    assert by_hand(found.notes) == [int(line) for line in re.findall(r"\d+", first.partition("to do")[2])], found.notes
    assert {line for line in old.splitlines() if line.lstrip().startswith("#")} <= set(found.text.splitlines())
    if "runs" in first:
        exec(compile(found.text, str(path), "exec"), {"__name__": "__main__"})


def test_what_is_left_to_do_is_said_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = INPUTS / "trl07_ppo.py"
    assert run("migrate", path) == 1
    said = capsys.readouterr().err
    assert f"{path}:9: TO DO: lines 9 to 12 go: PPOTrainer generates, scores and learns by itself" in said
    assert f"{path}:6: TO DO: AutoModelForCausalLMWithValueHead goes: PPOTrainer makes the critic itself" in said
    assert run("migrate", INPUTS / "trl09_cpo.py") == 0
    assert capsys.readouterr().out.startswith(
        "# TRL 0.9; runs\nfrom datasets import load_dataset\nfrom prefopt import "
    )


def test_nothing_else_of_a_script_changes() -> None:
    old = (
        "from trl import DPOConfig, DPOTrainer\n\n"
        "配置 = DPOConfig(  # 设置\n    'out',\n    beta = .1,\n    warmup_ratio = 0.1,   # 预热\n)\n"
        "t = DPOTrainer('模型', args=配置, tokenizer=分词器, train_dataset=rows)\n"
    )
    new = old.replace("from trl", "from prefopt").replace("warmup_ratio =", "warmup_steps =")
    assert migrated_script(old).text == new.replace("tokenizer=分词器", "processing_class=分词器")


@pytest.mark.parametrize(
    ("call", "removed", "left"),
    [
        ("f(a, b=1, c=2)", "b", "f(a, c=2)"),
        ("f(a, b=1)", "b", "f(a)"),
        ("f(a, b=1, c=2)", "bc", "f(a)"),
        ("f(\n    a,\n    b=1, c=2,\n)", "bc", "f(\n    a,\n)"),
        ("f(b=1)", "b", "f()"),
        ("f(\n    a,\n    b=1,\n    c=2,\n)", "b", "f(\n    a,\n    c=2,\n)"),
        ("f(\n    a,\n    b=1\n)", "b", "f(\n    a,\n)"),
        ("f(\n    a, b=1,\n    c=2,\n)", "b", "f(\n    a, \n    c=2,\n)"),
    ],
)
def test_an_argument_goes_with_its_comma(call: str, removed: str, left: str) -> None:
    source = Source(call)
    node = source.tree.body[0].value  # type: ignore[attr-defined]
    for keyword in node.keywords:
        if keyword.arg in removed:
            source.remove_argument(node, keyword)
    assert source.edited().replace(" \n", "\n") == left.replace(" \n", "\n")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", "x = (", "a.py: line 1: no Python"),
        ("a.py", "import torch\n", "a.py: nothing is imported from trl"),
        ("a.yaml", "a: [", "a.yaml: not YAML"),
        ("a.yaml", "- 1\n", "a file of LLaMA-Factory has `key: value` lines"),
        ("a.yaml", "stage: pt\n", "a.yaml: stage: 'pt' is none that prefopt trains; known are sft, rm, dpo, kto, ppo"),
    ],
)
def test_what_is_neither_is_refused(name: str, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text(text)
    assert said in error_of(capsys, "migrate", name)
    assert "no such file" in error_of(capsys, "migrate", "nowhere.py").lower()


# ---- files of LLaMA-Factory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_a_command(path: Path) -> None:
    here = Path(path.name)
    here.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    found = migrated_file(here)
    todo = re.search(r"to do: (.*)", here.read_text(encoding="utf-8"))
    keys = [note.text.split(":")[0] for note in found.notes if note.by_hand]
    assert sorted(keys) == sorted(todo[1].split(", ") if todo else []), found.notes
    words = shlex.split(found.text.replace("\\\n", " "))
    assert words[0] == "prefopt"
    command = all_commands()[words[1]]
    if "runs" in here.read_text(encoding="utf-8").splitlines()[0] or "### model; runs" in path.read_text():
        assert run(*words[1:], "--disable_tqdm", "true", "--use_cpu", "true", "--bf16", "false") == 0
        assert Path("out/prefopt.json").is_file()
    else:
        _parser(_trainer_of(command), "prefopt").parse_args_and_config(words[2:])


def test_defaults_that_differ_are_written_out() -> None:
    Path("a.yaml").write_text("stage: dpo\nmodel_name_or_path: m\ndataset: on_the_hub\noutput_dir: out\n")
    text = migrated_file(Path("a.yaml")).text
    written = ("lora_r 8", "lora_alpha 16", "lora_dropout 0.0", "lora_target_modules all-linear", "max_length 2048")
    for option in written:
        assert f"--{option}" in text
    assert "--dataset_name owner/rows" in text and "--beta 0.1" in text


def test_every_key_has_one_answer() -> None:
    assert not RENAMES.keys() & OTHERWISE.keys()


HEAD = "from trl import DPOTrainer, ORPOTrainer, SFTTrainer\n"
CALLS = {
    "several at the end go": "DPOTrainer(model, ref, beta=0.2, train_dataset=d, max_length=9, max_prompt_length=5)",
    "a comment at the end": "SFTTrainer(model, train_dataset=d,\n  max_seq_length=512,\n  packing=False  # pack\n)",
    "all of them go": "DPOTrainer(model, beta=0.2)",
    "by name alone": "DPOTrainer(model=model, train_dataset=d, beta=0.2)",
    "a line each": "DPOTrainer(\n    model,  # policy\n    ref,\n    beta=0.2,\n    train_dataset=d,\n)",
    "the first by name goes": "DPOTrainer(\n    beta=0.2,\n    model=model,\n)",
}


@pytest.mark.parametrize("case", CALLS)
def test_what_moves_into_a_config_leaves_python(case: str) -> None:
    found = migrated_script(HEAD + f"t = {CALLS[case]}\n")
    (call,) = [node for node in ast.walk(ast.parse(found.text)) if isinstance(node, ast.Call) and _is_trainer(node)]
    names = [keyword.arg for keyword in call.keywords]
    assert "args" in names and not {"beta", "max_length", "max_seq_length"} & set(names)
    (config,) = [keyword.value for keyword in call.keywords if keyword.arg == "args"]
    assert isinstance(config, ast.Call) and {k.arg for k in config.keywords} & {"beta", "max_length"}


def _is_trainer(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id.endswith("Trainer")


@pytest.mark.parametrize("call", ["DPOTrainer(model, ref, args, beta=0.2)", "ORPOTrainer(model, args)"])
def test_arguments_without_a_name_are_left_to_people(call: str) -> None:
    found = migrated_script(HEAD + f"t = {call}\n")
    assert not found.whole and any("name the arguments" in note.text for note in found.notes)


def test_a_line_before_a_statement_that_does_not_begin_one() -> None:
    source = Source("if a: t = f(1)\n")
    source.insert_before(source.tree.body[0].body[0], ["b = 2"])  # type: ignore[attr-defined]
    assert source.edited() == "if a: b = 2; t = f(1)\n"
