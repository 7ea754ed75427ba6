"""What the pages of the documentation say works and is the same in both languages: links, code, commands, settings."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from prefopt import (
    DPOConfig,
    PPOConfig,
    RejectionSamplingConfig,
    RewardConfig,
    RRHFConfig,
    SFTConfig,
    SFTTrainer,
    load_sft,
    testbed,
)
from prefopt.cli import sampling, train
from prefopt.cli.commands import all_commands
from prefopt.doctor.words_en import TEXTS
from prefopt.objectives import SamplingArguments, dpo, kto, pair_losses
from prefopt.testbed.model import build_policy
from tests.helpers import pages
from tests.helpers.commands import run
from tests.helpers.training import quiet

PAGES = pages.english_pages()
ENGLISH = [pages.READMES[0], *PAGES]
ALL = [page for one in ENGLISH for page in (one, pages.chinese(one))]
CONFIGS = {
    "sft": SFTConfig,
    "reward-models": RewardConfig,
    "dpo": DPOConfig,
    "rejection-sampling": RejectionSamplingConfig,
    "rrhf": RRHFConfig,
    "ppo-max": PPOConfig,
    "sampling": SamplingArguments,
}
"""Page -> whose settings its tables name."""
HUB = ("HuggingFaceTB/SmolLM2-135M-Instruct",)
"""Models of the hub that pages name: folders of these names stand in for them."""
MOST_NOT_RUN = 5


def name_of(page: Path) -> str:
    return page.name


each_page = pytest.mark.parametrize("page", ENGLISH, ids=name_of)
each_text = pytest.mark.parametrize("page", ALL, ids=name_of)


# ---- both languages -------------------------------------------------------------------------------------------------


def test_every_page_is_listed_and_there_in_both_languages() -> None:
    listed = {file for page in PAGES for file in (page, pages.chinese(page))}
    assert all(file.is_file() for file in listed), [file.name for file in listed if not file.is_file()]
    assert set(pages.DOCS.rglob("*.md")) == listed, "a page that mkdocs.yml does not list"
    assert "suffix" in str(pages.settings()["plugins"]), "page.zh.md is no translation to the site otherwise"


@each_page
def test_both_languages_have_the_same_structure(page: Path) -> None:
    other = pages.chinese(page)
    assert [level for level, _ in pages.headings(page)] == [level for level, _ in pages.headings(other)]
    assert list(map(normal, pages.blocks(page))) == list(map(normal, pages.blocks(other)))
    shapes = [[(len(table.head), len(table.rows)) for table in pages.tables(text)] for text in (page, other)]
    assert shapes[0] == shapes[1]
    assert figures(page) == figures(other)


@each_page
def test_both_languages_say_the_same(page: Path) -> None:
    """As far as one can tell without reading: items of lists, names in backticks, and numbers."""
    both = (page, pages.chinese(page))
    items = [sum(token.type == "list_item_open" for token in pages.tokens(text)) for text in both]
    assert items[0] == items[1]
    names = [set(pages.inline_code(text)) for text in both]
    assert names[0] == names[1]
    numbers = [set(re.findall(r"\d+[.,]\d+|\d{3,}", pages.prose(text))) for text in both]
    assert numbers[0] == numbers[1]


def normal(block: pages.Block) -> tuple[str, object]:
    """A block less what a translation may change: comments, and the words of plain text."""
    if block.language == "python":
        return block.language, ast.dump(ast.parse(block.text))
    if block.language == "text":
        return block.language, len(block.text.splitlines())
    return block.language, [line for line in map(pages.uncommented, block.text.splitlines()) if line]


def figures(page: Path) -> list[list[str]]:
    """The numbers of every row of every table."""
    rows = [row for table in pages.tables(page) for row in table.rows]
    return [sorted(re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"`[^`]*`", "", " ".join(row)))) for row in rows]


@pytest.mark.parametrize("page", [pages.chinese(page) for page in ENGLISH], ids=name_of)
def test_chinese_pages_lead_to_chinese_pages(page: Path) -> None:
    inner = [link.split("#")[0] for link in pages.links(page) if not link.startswith(("http", "#"))]
    english = [link for link in inner if link.endswith(".md") and not link.endswith((".zh.md", "README.md"))]
    assert not english


@pytest.mark.parametrize("page", [pages.chinese(page) for page in ENGLISH], ids=name_of)
def test_no_line_ends_between_chinese_characters(page: Path) -> None:
    """It would be shown as a space."""
    found = re.findall(r".{,9}[\u3000-\u9fff\uff00-\uffef]\n[\u3000-\u9fff\uff00-\uffef].{,9}", page.read_text("utf-8"))
    assert not found


def test_the_formats_are_the_same_in_chinese() -> None:
    """The English page is made by a command; a row or a column that it gains has to come to the other one."""
    page, other = pages.DOCS / "formats.md", pages.chinese(pages.DOCS / "formats.md")
    formats = [[table.rows for table in pages.tables(text) if len(table.head) == 4] for text in (page, other)]
    assert len(formats[0]) == 5 and formats[0] == formats[1]
    columns = set(re.findall(r"[a-z]+(?:[-_][a-z]+)+", page.read_text("utf-8"))) - {"half-width"}
    assert columns <= set(re.findall(r"[a-z]+(?:[-_][a-z]+)+", other.read_text("utf-8")))


# ---- links ----------------------------------------------------------------------------------------------------------


@each_text
def test_links_lead_somewhere(page: Path) -> None:
    for link in pages.links(page):
        if link.startswith(("http:", "https:")):
            continue
        file, _, place = link.removesuffix("#only-light").removesuffix("#only-dark").partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not place or place in map(pages.anchor, texts(target)), link


@each_text
def test_headings_differ(page: Path) -> None:
    anchors = [pages.anchor(text) for text in texts(page)]
    assert len(set(anchors)) == len(anchors)


def texts(page: Path) -> list[str]:
    return [text for _, text in pages.headings(page)]


# ---- what is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in ALL if page.name.split(".")[0] in CONFIGS], ids=name_of)
def test_settings_are_there_with_the_defaults_that_are_said(page: Path) -> None:
    config = CONFIGS[page.name.split(".")[0]]
    defaults = {f.name: f.default if f.default is not MISSING else None for f in fields(config)}
    (table,) = [table for table in pages.tables(page) if table.head[0] in ("setting", "设置")]
    for first, said, _ in table.rows:
        names = re.findall(r"`(\w+)`", first)
        assert names and set(names) <= set(defaults), first
        numbers = [part.strip() for part in said.split(", ")]
        for name, number in zip(names, numbers, strict=False):
            if re.fullmatch(r"[\d.]+(e-\d+)?", number):
                assert float(number) == float(defaults[name]), (name, defaults[name])


@each_text
def test_checks_of_the_doctor_are_there(page: Path) -> None:
    known = {name.partition(".")[0] for name in TEXTS}
    rows = [row for table in pages.tables(page) if table.head[0] in ("check", "检查") for row in table.rows]
    named = {name for first, *_ in rows for name in re.findall(r"`(\w+)`", first)}
    assert named <= known
    assert not page.name.startswith("runs.") or named == known, "this page lists them all"


@pytest.mark.parametrize("page", ["dpo.md", "dpo.zh.md"])
def test_every_loss_has_its_row(page: str) -> None:
    pair, mixtures, labels = (
        [row[0].strip("`") for row in table.rows]
        for table in pages.tables(pages.DOCS / page)
        if table.head[0] in ("`loss_type`", "name", "名称")
    )
    assert sorted(pair) == sorted(pair_losses.LOSSES)
    assert sorted(labels) == sorted(kto.LOSSES)
    assert set(mixtures) <= set(dpo.NAMES)
    assert {"cdpo", "dpo", *pair, *mixtures} == {"sft", *dpo.NAMES}


# ---- commands -------------------------------------------------------------------------------------------------------


@each_page
def test_commands_are_understood(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in pages.blocks(page):
        if name := re.match(r"# (\w+\.yaml)", block.text):
            Path(name[1]).write_text(block.text, "utf-8")
    for command in [command for block in pages.blocks(page) for command in block.commands]:
        words = shlex.split(command)
        if "prefopt" in words:
            understand(*words[words.index("prefopt") + 1 :])


def understand(name: str, *rest: str) -> None:
    """Let a command's own parser read its words, which ends the program where it does not know one."""
    command, prog = all_commands()[name], f"prefopt {name}"
    if command.trainer is not None:
        train._parser(command.trainer.load(), prog).parse_args_and_config(rest)
    elif command.tools:
        import_module(command.tools[rest[0]])._parser().parse_args(rest[1:])
    elif name in ("best-of-n", "self-rejected"):
        module = import_module(command.module)
        kinds = module.KINDS if name == "best-of-n" else (module.SelfRejectedArguments,)
        sampling._parser(prog, kinds).parse_args_and_config(list(rest))
    else:
        import_module(command.module)._parser(prog).parse_args(rest)


@each_text
def test_commands_within_the_text_exist(page: Path) -> None:
    commands = [code.split()[1] for code in pages.inline_code(page) if code.startswith("prefopt ")]
    assert set(commands) <= {*all_commands(), "X", "COMMAND"}
    targets = set(re.findall(r"^([a-z-]+):", (pages.ROOT / "Makefile").read_text("utf-8"), re.M))
    made = [code.split()[1] for code in pages.inline_code(page) if code.startswith("make ")]
    assert set(made) <= targets
    modules = [code.split()[2] for code in pages.inline_code(page) if code.startswith("python -m ")]
    for place in (pages.ROOT / module.replace(".", "/") for module in modules):
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), place


# ---- code -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, shared_tokenizer: Any) -> Path:
    """A folder with the models and the files that the pages name, of the small world."""
    folder = tmp_path_factory.mktemp("workshop")
    testbed.write_jsonl(folder / "demonstrations.jsonl", testbed.sft_rows(48, 0))
    testbed.write_jsonl(folder / "pairs.jsonl", testbed.preference_rows(48, 0))
    testbed.write_jsonl(folder / "prompts.jsonl", testbed.prompt_rows(48, 0, unique=True))
    testbed.write_jsonl(folder / "candidates.jsonl", testbed.candidate_rows(24, 0))
    (folder / "forum.csv").write_text("ask,good,bad\nWhich?,This.,That.\n", "utf-8")
    rows = load_sft(testbed.sft_rows(3000, 0))
    args = SFTConfig(**quiet(folder, per_device_train_batch_size=32, num_train_epochs=1, learning_rate=3e-3))
    trainer = SFTTrainer(build_policy(shared_tokenizer, 0), args, train_dataset=rows, processing_class=shared_tokenizer)
    trainer.train()
    for name in ("sft", *HUB):
        trainer.save_model(str(folder / name))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = ["--disable_tqdm", "true", "--num_train_epochs", "1"]
        reward = ["--model_name_or_path", "sft", "--dataset_name", "pairs.jsonl", "--output_dir", "reward"]
        assert run("reward", *reward, *small) == 0
        best = ["--model_name_or_path", "sft", "--dataset_name", "prompts.jsonl", "--scorer", "reward"]
        assert run("best-of-n", *best, "--output_dir", "best-of-16", "--responses_per_prompt", "4") == 0
    return folder


@pytest.mark.parametrize("page", [page for page in ENGLISH if "```python" in page.read_text("utf-8")], ids=name_of)
def test_python_runs(page: Path, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page, one after the other, as one program."""
    place = tmp_path / "place"
    shutil.copytree(workshop, place)
    monkeypatch.chdir(place)
    program = "\n\n".join(block.text for block in python_of(page) if not block.not_run)
    (place / "page.py").write_text(program, "utf-8")
    runpy.run_path(str(place / "page.py"), run_name="page")


@each_text
def test_python_compiles(page: Path) -> None:
    for block in python_of(page):
        compile(block.text, page.name, "exec")


def test_few_blocks_are_not_run() -> None:
    reasons = [block.not_run for page in ENGLISH for block in pages.blocks(page) if block.not_run]
    assert len(reasons) <= MOST_NOT_RUN


def python_of(page: Path) -> Iterator[pages.Block]:
    return (block for block in pages.blocks(page) if block.language == "python")
