"""The checkup: what it finds, how it exits, and that it reads well at 80 columns."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from prefopt.cli.data_check import main, show
from prefopt.data.check import check
from tests.helpers.tokenizers import CHATML, THINKING, make_tokenizer

Writer = Callable[..., Path]
SICK = [
    {"query": "What is bread?", "chosen": "Flour and water.", "rejected": "Paris."},
    {"query": "What is bread?", "chosen": "Flour and water.", "rejected": "Paris."},
    {"query": "Same?", "chosen": "Yes", "rejected": "Yes"},
    {"query": "Empty?", "chosen": "", "rejected": "Yes"},
    {"query": "Number?", "chosen": 3, "rejected": "Yes"},
    {"query": "Long?", "chosen": "water " * 60 + "<eos>", "rejected": "No"},
]
HEALTHY = [{"query": f"Question {i}?", "chosen": "Yes" * i, "rejected": "No"} for i in range(1, 6)]


def test_what_it_finds_in_a_file(write: Writer, plain_bos: PreTrainedTokenizerFast) -> None:
    path = write(SICK)
    report = check([path], tokenizer=plain_bos, max_length=40).to_dict()
    file = report["files"][0]
    assert report["exit_code"] == 1 and (file["rows"], file["kept"]) == (6, 3)
    assert file["dropped"] == {
        "identical answers": 1,
        "empty chosen": 1,
        "field 'chosen': is a number, expected text": 1,
    }
    assert (file["context_mismatches"], file["empty_sides"], file["identical_pairs"]) == (0, 1, 1)
    assert file["examples"]["empty chosen"] == [f"{path}:4"]
    assert file["duplicate_rows"] == {"count": 1, "examples": [f"{path}:2 = {path}:1"]}
    assert file["eos_lost"] == {"count": 1, "examples": [f"{path}:6"]}
    assert file["doubled_eos"] == {"count": 1, "examples": [f"{path}:6"]}
    assert file["boundary_merges"]["count"] == file["doubled_bos"]["count"] == file["template_mismatches"]["count"] == 0


def test_context_mismatches_have_their_own_count(write: Writer) -> None:
    row = {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: y\n\nAssistant: b"}
    good = {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: x\n\nAssistant: b"}
    assert check([write([good, row])]).files[0].counts()["context_mismatches"] == 1


def test_merging_boundaries_and_doubled_bos(plain_bos: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "<bos>The capital of Fra", "chosen": "nce", "rejected": " Paris"}]
    found = check([rows], tokenizer=plain_bos).files[0].findings
    assert plain_bos.tokenize(" France") == ["ĠFrance"]  # one token, so the boundary falls inside it
    assert (found["boundary_merges"].count, found["doubled_bos"].count) == (1, 1)


def test_a_template_that_renders_otherwise_is_counted(llama2: PreTrainedTokenizerFast) -> None:
    assert check([HEALTHY], tokenizer=llama2).files[0].findings["template_mismatches"].count == 0
    thinking = make_tokenizer(THINKING, eos="<|im_end|>")
    assert check([HEALTHY], tokenizer=thinking).files[0].findings["template_mismatches"].count == 10


def test_prompts_that_two_files_share(write: Writer) -> None:
    first, second = write(HEALTHY, "train.jsonl"), write(HEALTHY[3:] + SICK[:1], "test.jsonl")
    ((names, finding),) = check([first, second]).shared.items()
    assert names == (str(first), str(second)) and finding.count == 2
    assert finding.examples[0] == f"{first}:4 = {second}:1"


def test_length_bias_by_hand() -> None:
    rows = [{"query": f"q{i}", "chosen": "aaaa" if i < 3 else "a", "rejected": "bb"} for i in range(4)]
    bias = check([[*rows, {"query": "equal", "chosen": "aa", "rejected": "bb"}]]).files[0].length
    assert bias is not None and (bias.pairs, bias.share) == (4, 0.75)
    # Clopper-Pearson for 3 of 4; lengths 4 4 4 1 2 | 2 2 2 2 2 have means 3 and 2, variance 1.05
    assert (bias.low, bias.high) == (pytest.approx(0.1941, abs=1e-4), pytest.approx(0.9937, abs=1e-4))
    assert bias.correlation == pytest.approx(0.5 / 1.05**0.5)


def test_no_length_bias_without_pairs_of_unequal_length() -> None:
    assert check([[{"query": "x", "chosen": "a", "rejected": "b"}]]).files[0].length is None
    assert check([[{"text": "x"}]]).files[0].length is None


@pytest.mark.parametrize(
    ("rows", "flags", "code"),
    [
        (HEALTHY, [], 0),
        (SICK, [], 1),
        (HEALTHY, ["--strict"], 0),
        (SICK, ["--strict"], 2),
        (HEALTHY, ["--adapter", "moss"], 1),
    ],
)
def test_exit_codes(
    rows: list[Any], flags: list[str], code: int, write: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(write(rows)), *flags]) == code
    assert capsys.readouterr().out or code == 2


@pytest.mark.parametrize("flags", [["missing.jsonl"], ["--adapter", "nonsense"], ["--tokenizer", "./nowhere"]])
def test_what_cannot_be_read_is_told_on_stderr(
    flags: list[str], write: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(write(HEALTHY)), *flags]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and flags[-1] in said.err and not said.out


def test_json_is_json_for_good_and_for_bad(write: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(SICK))
    assert main([path, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["files"][0]["dropped"]["empty chosen"] == 1
    assert main(["missing.jsonl", "--json"]) == 2
    assert "missing.jsonl: no such file" in json.loads(capsys.readouterr().out)["error"]


def test_a_tokenizer_from_a_folder(write: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    flags = ["--tokenizer", str(tmp_path / "tokenizer"), "--max_length", "40", "--json"]
    assert main([str(write(SICK)), *flags]) == 1
    assert json.loads(capsys.readouterr().out)["files"][0]["eos_lost"]["count"] == 1


@pytest.mark.parametrize("ends", [[2], [2, 4]])
def test_responses_end_as_the_generation_config_beside_the_tokenizer_says(ends: list[int], tmp_path: Path) -> None:
    make_tokenizer(CHATML).save_pretrained(
        tmp_path
    )  # its EOS is <eos> = 2, its template ends turns with <|im_end|> = 4
    GenerationConfig(eos_token_id=ends).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    found = check([HEALTHY], tokenizer=tokenizer).files[0].findings
    assert found["template_mismatches"].count == (0 if 4 in ends else 10)


def test_a_broken_generation_config_is_told(write: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "generation_config.json").write_text("{")
    assert main([str(write(HEALTHY)), "--tokenizer", str(tmp_path / "tokenizer")]) == 2
    assert "generation_config.json: cannot be read" in capsys.readouterr().err


def test_it_reads_well_at_80_columns(write: Writer, plain: PreTrainedTokenizerFast) -> None:
    out = io.StringIO()
    paths = [write(SICK, "training_pairs.jsonl"), write(HEALTHY + SICK[:1], "held_out.jsonl")]
    show(check(paths, tokenizer=plain, max_length=40), Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "training_pairs.jsonl read as query-chosen-rejected"
    assert any(line.split() == ["1", "dropped:", "empty", "chosen", "training_pairs.jsonl:4"] for line in lines)
    assert "The chosen answer is the longer one in 100.0% of 3 pairs" in out.getvalue()
    assert lines[-1] == "3 dropped; 5 things to look at"
