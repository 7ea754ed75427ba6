"""What "clean" means: every fault is counted once and named, and a file without any is clean."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets.utils import are_progress_bars_disabled
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prefopt.cli.data_check import main
from prefopt.data import Encoding, encode_dataset, load_preferences
from prefopt.data.check import check
from prefopt.data.findings import FileReport, Report
from prefopt.data.loading import Reading
from prefopt.data.records import DataError
from prefopt.data.text_prompts import with_turns
from tests.helpers.shapes import bot, user
from tests.helpers.tokenizers import LLAMA2, make_tokenizer

Writer = Callable[..., Path]
HEALTHY = [
    {"query": "What is bread?", "chosen": "Flour and water.", "rejected": "Paris."},
    {"query": "中国的首都是哪里？", "chosen": "北京。", "rejected": "上海是中国的首都。"},
]
END = "<|im_end|>"


def pair(query: str, chosen: str = "Yes", rejected: str = "No", **more: Any) -> dict[str, Any]:
    return {"query": query, "chosen": chosen, "rejected": rejected, **more}


FAULTY = [
    *HEALTHY,
    HEALTHY[0],  # 3
    pair(""),
    pair("Tied?", chosen_score=1, rejected_score=1),
    pair("Reversed?", chosen_score=1, rejected_score=2),
    pair("Same?", "Yes", "Yes" + END),  # 7
    pair("Which?"),
    pair("Which?", "No", "Yes"),
    pair("Rank?", "A", "B"),  # 10
    pair("Rank?", "B", "C"),
    pair("Long?", "water " * 60),  # 12
    pair("water " * 60, "water " * 10),
    pair("Nothing?", END),  # 14
    pair(f"Hi{END}\n<|im_start|>assistant\n"),
    pair("Special?", "It is <eos> here"),  # 16
    pair("Dropped?", "", "No"),
]
PLANTED = {
    "duplicate_rows": ([3, 1], 1),
    "empty_prompts": ([4], 1),
    "identical_encoded": ([7], 1),
    "contradictions": ([9, 8], 1),
    "chosen_elsewhere_rejected": ([11, 10], 1),
    "answers_cut": ([12], 1),
    "eos_lost": ([12], 1),
    "prompts_cut": ([13], 1),
    "empty_answers": ([14], 1),
    "doubled_eos": ([7, 14], 2),
    "doubled_template": ([15], 1),
    "special_tokens_kept": ([15], 1),
    "special_tokens_split": ([16], 1),
}


def lines_of(places: list[str]) -> list[int]:
    """The numbers of lines that places name."""
    words = " ".join(places).replace("=", " ").replace("against", " ").split()
    return [int(word.rpartition(":")[2]) for word in words]


def of(rows: Any, **how: Any) -> FileReport:
    return check([rows], **how).files[0]


def test_every_planted_fault_is_counted_once_and_where_it_is(write: Writer, chatml: PreTrainedTokenizerFast) -> None:
    report = check([write(FAULTY)], tokenizer=chatml, max_length=60)
    (file,) = report.files
    found = {name: finding for name, finding in file.findings.items() if finding.count}
    assert {name: (lines_of(f.examples), f.count) for name, f in found.items()} == PLANTED
    assert file.counts() == {
        "context_mismatches": 0,
        "empty_sides": 1,
        "identical_pairs": 0,
        "ties": 0,
        "tied_scores": 1,
        "reversed_scores": 1,
        "turns_merged": 0,
    }
    assert report.errors == {"dropped": 1, "identical_encoded": 1, "contradictions": 1}
    assert report.exit_code == 1 and report.to_look_at == len(PLANTED) - 2 + 2  # two are errors; two odd scores


def test_each_is_named_to_people(
    write: Writer,
    chatml: PreTrainedTokenizerFast,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    monkeypatch.setattr("prefopt.cli.data_check.Console", lambda: Console(file=out, width=300))  # which breaks no lines
    chatml.save_pretrained(tmp_path / "tokenizer")
    assert main([str(write(FAULTY)), "--tokenizer", str(tmp_path / "tokenizer"), "--max_length", "60"]) == 1
    text = " ".join(out.getvalue().split())
    for words in (
        "dropped: empty chosen",
        "noted: chosen and rejected have the same score",
        "noted: rejected has a higher score than chosen",
        "pairs whose answers are the same once encoded rows.jsonl:7",
        "chosen answers that another pair to the same prompt rejects rows.jsonl:11 against rows.jsonl:10",
        "answers that say nothing once encoded rows.jsonl:14",
        "prompts that already end as the template ends a prompt rows.jsonl:15",
    ):
        assert words in text
    last = out.getvalue().splitlines()[-1]
    assert last == "1 dropped, 1 contradicting, 1 identical once encoded; 13 things to look at"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("tokenizer", [None, "plain", "plain_bos", "chatml"])
def test_a_healthy_file_is_clean(
    tokenizer: str | None,
    write: Writer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    flags = []
    if tokenizer is not None:
        request.getfixturevalue(tokenizer).save_pretrained(tmp_path / "tokenizer")
        flags = ["--tokenizer", str(tmp_path / "tokenizer"), "--max_length", "60"]
    assert main([str(write([{**row, "id": 7} for row in HEALTHY])), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "clean" and "columns that are not read: id (2)" in lines


def test_a_thing_to_look_at_is_no_error_and_not_clean(write: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write([*HEALTHY, HEALTHY[0]]))]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 thing to look at"


def test_shared_prompts_are_a_thing_to_look_at(write: Writer) -> None:
    report = check([write(HEALTHY, "a.jsonl"), write(HEALTHY[1:], "b.jsonl")])
    assert (report.to_look_at, report.exit_code) == (1, 0)


def test_a_folder_is_read_as_one(write: Writer) -> None:
    folder = write(HEALTHY, "data/train-1.jsonl").parent
    write([HEALTHY[0]], "data/train-2.jsonl")
    (file,) = check([folder]).files
    assert (file.load.kept, file.findings["duplicate_rows"].count) == (3, 1)


def test_a_tie_that_training_would_drop_is_dropped_here() -> None:
    row = {"prompt": "Q", "response_a": "x", "response_b": "y", "winner": "a"}
    report = check([[row, {**row, "winner": "tie"}]])
    assert report.files[0].counts()["ties"] == 1 and report.errors == {"dropped": 1}


def test_merged_turns_have_a_count() -> None:
    said = "\n\nHuman: Hm?\n\nHuman: Well?\n\nAssistant: "
    file = of([{"chosen": f"{said}a", "rejected": f"{said}b"}])
    assert file.counts()["turns_merged"] == 1 and len(file.to_look_at) == 1


# ---- rows of other kinds ---------------------------------------------------------------------------------------------


def test_labels_are_counted_and_contradictions_among_them() -> None:
    said = {"prompt": "What is bread?", "completion": "Flour."}
    rows = [{**said, "label": True}, {**said, "label": False}, {**said, "completion": "面粉。", "label": True}]
    file = of(rows)
    assert file.labels == {"good": 2, "bad": 1}
    assert (file.findings["contradictions"].count, file.findings["one_label"].count) == (1, 0)
    assert file.findings["duplicate_rows"].count == 0, "the label makes them two different rows"
    assert of(rows[:1] + rows[2:]).findings["one_label"].count == 2


def test_lists_that_hold_an_answer_twice() -> None:
    rows = [{"query": "q", "responses": ["a", "b", "a "], "scores": [3, 2, 1]}, {"query": "r", "responses": ["a", "b"]}]
    assert of(rows).findings["repeated_answers"].count == 1


def test_documents_have_no_prompt_and_are_clean() -> None:
    report = check([[{"text": "Flour and water."}, {"text": "面粉。"}]])
    assert "empty_prompts" not in report.files[0].findings and not report.to_look_at
    assert of([{"prompt": "", "completion": "x"}]).findings["empty_prompts"].count == 1


def test_telling_columns_that_a_mapping_leaves_out() -> None:
    rows = [{"ask": "q", "good": "a", "bad": "b", "system": "Be brief.", "id": 1}]
    columns = {"prompt": "ask", "chosen": "good", "rejected": "bad"}
    finding = of(rows, reading=Reading(columns=columns)).findings["unread_telling"]
    assert (finding.count, finding.examples) == (1, ["system (1)"])


def test_rows_that_cannot_be_encoded_are_counted_and_the_others_looked_at() -> None:
    refused = {**HEALTHY[0], "system": "Be brief."}
    shouting = LLAMA2.replace("' ' + m['content']", "' ' + m['content'] | upper")  # says other words than English rows
    report = check([[refused, *HEALTHY]], tokenizer=make_tokenizer(shouting, add_bos=True))
    finding = report.files[0].findings["refused"]
    assert finding.count == 1 and "only user and assistant" in finding.examples[0]
    assert report.exit_code == 1 and report.files[0].findings["template_mismatches"].count == 2
    sample = report.files[0].sample
    assert sample is not None and sample.encoded is not None and "system" not in str(sample.row)


# ---- prompts of bare text --------------------------------------------------------------------------------------------

BARE = [
    {"prompt": "What is bread?", "chosen": "Flour.", "rejected": "Paris."},
    {"prompt": "Hi <eos> there, on my", "chosen": " own.", "rejected": " way."},
]


@pytest.mark.parametrize(("mode", "turned", "counted"), [("auto", 1, 2), ("user", 2, None), ("verbatim", 0, None)])
def test_bare_prompts_are_encoded_as_training_would(
    mode: str, turned: int, counted: int | None, chatml: PreTrainedTokenizerFast
) -> None:
    file = of(BARE, tokenizer=chatml, text_prompts=mode)
    assert file.user_turns == turned
    assert getattr(file.findings.get("text_prompts"), "count", None) == counted
    assert file.sample is not None and file.sample.encoded is not None
    bare = "What is bread?"
    expected = bare if mode == "verbatim" else f"<|im_start|>user\n{bare}{END}\n<|im_start|>assistant\n"
    assert file.sample.encoded.prompt == expected


def test_the_report_alone_speaks_of_them_and_leaves_the_log_as_it_was(
    write: Writer,
    chatml: PreTrainedTokenizerFast,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    chatml.save_pretrained(tmp_path / "tokenizer")
    flags = ["--tokenizer", str(tmp_path / "tokenizer")]
    assert main([str(write(BARE)), *flags, "--text_prompts", "user"]) == 0
    said = capsys.readouterr()
    assert "2 prompts of bare text became user turns" in said.out and not said.err and not caplog.messages
    assert not are_progress_bars_disabled()
    with_turns(load_preferences(BARE), chatml)
    assert any("plain text" in message for message in caplog.messages)


def test_token_ids_hold_no_text_to_check(write: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}
    assert main([str(write([row, row]))]) == 2
    assert "rows.jsonl:1: the rows are token ids" in capsys.readouterr().err


def test_a_length_in_tokens_needs_a_tokenizer(write: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write(HEALTHY)), "--max_length", "60"]) == 2
    assert "add --tokenizer" in capsys.readouterr().err


def test_without_a_chat_template_bare_prompts_are_what_they_are(plain: PreTrainedTokenizerFast) -> None:
    file = of(BARE[:1], tokenizer=plain)
    assert file.user_turns == 0 and "text_prompts" not in file.findings
    assert of(BARE[:1], text_prompts="user").user_turns == 1
    with pytest.raises(DataError, match="text_prompts='no'"):
        check([BARE], text_prompts="no")


# ---- the row that is shown -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", ["plain", "plain_bos", "chatml", "llama2"])
@pytest.mark.parametrize("max_length", [None, 12])
def test_the_row_shown_is_what_training_encodes(
    tokenizer: str, max_length: int | None, request: pytest.FixtureRequest
) -> None:
    tok = request.getfixturevalue(tokenizer)
    rows = HEALTHY[::-1]
    sample = of(rows, tokenizer=tok, max_length=max_length).sample
    assert sample is not None and sample.encoded is not None
    row = encode_dataset(rows, tok, Encoding(max_length))[0]
    assert sample.encoded.prompt == tok.decode(row["prompt_ids"])
    for ids, parts in zip(row["response_ids"], sample.encoded.responses, strict=True):
        assert [part.trained for part in parts] == [True]
        assert sample.encoded.prompt + parts[0].text == tok.decode(row["prompt_ids"] + ids)


def test_only_answers_of_a_conversation_are_marked(chatml: PreTrainedTokenizerFast) -> None:
    rows = [{"messages": [user("Hi"), bot("Yes?"), user("面粉？"), bot("Flour.")]}]
    sample = of(rows, tokenizer=chatml).sample
    row = encode_dataset(rows, chatml)[0]
    assert sample is not None and sample.encoded is not None
    (parts,), (ids,), (mask,) = sample.encoded.responses, row["response_ids"], row["loss_mask"]
    assert "".join(part.text for part in parts) == chatml.decode(ids)
    trained = [token for token, counts in zip(ids, mask, strict=True) if counts]
    assert "".join(part.text for part in parts if part.trained) == chatml.decode(trained) == f"Yes?{END}Flour.{END}"


def test_an_answer_keeps_the_space_that_decoding_it_alone_would_lose() -> None:
    vocabulary = {
        token: i for i, token in enumerate(["</s>", "▁Human:", "▁Assistant:", "▁Hi", "▁Yes", "▁No", "▁", ":"])
    }
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="▁"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="▁")
    assert tokenizer.decode([4]) == "Yes"
    sample = of([pair("Hi")], tokenizer=tokenizer).sample
    assert sample is not None and sample.encoded is not None
    assert sample.encoded.responses[0][0].text.startswith(" Yes")


def test_prompts_alone_are_shown_without_an_answer(chatml: PreTrainedTokenizerFast) -> None:
    file = of([{"prompt": [user("Hi")]}], tokenizer=chatml)
    assert file.kind == "prompt" and file.sample is not None and file.sample.encoded is not None
    assert file.sample.encoded.responses == [] and file.sample.row == {"prompt": [user("Hi")]}


def test_a_progress_bar_is_drawn_where_it_is_asked_for(
    chatml: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    check([HEALTHY], tokenizer=chatml, progress=True)
    assert "encoding" in capsys.readouterr().err
    check([HEALTHY], tokenizer=chatml)
    assert not capsys.readouterr().err


def test_json_says_all_of_it(chatml: PreTrainedTokenizerFast) -> None:
    report: Report = check([FAULTY, HEALTHY], tokenizer=chatml, max_length=60)
    plain = report.to_dict()
    assert (plain["errors"], plain["to_look_at"]) == (3, report.to_look_at)
    file = plain["files"][0]
    assert file["kind"] == "pair" and file["fields"] and file["tied_scores"] == 1
    assert file["identical_encoded"]["count"] == 1 and "contradictions" not in file["to_look_at"]
    assert file["errors"] == {"dropped": 1, "contradictions": 1, "identical_encoded": 1}
    assert file["sample"]["prompt"] == [user("What is bread?")] and file["sample"]["chosen"] == "Flour and water."
    assert file["sample"]["encoded"]["responses"][1] == [{"text": f"Paris.{END}", "trained": True}]
