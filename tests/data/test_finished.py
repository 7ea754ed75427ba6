"""Responses that were cut off: no stop token is made up for them, wherever they come from."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from prefopt.data import DataError, Encoding, encode_dataset, load_preferences, load_sft
from prefopt.data.check import check
from prefopt.data.row_encoder import NOTES, Encoder
from tests.helpers.tokenizers import CHATML, make_tokenizer

Tokenizer = PreTrainedTokenizerFast
ASKED = [{"role": "user", "content": "中国的首都是哪里？"}]
SAID = ["What is bread?", "Flour and water.", "Then?", "Wait"]
MESSAGES = [{"role": ("user", "assistant")[i % 2], "content": said} for i, said in enumerate(SAID)]
TOKENIZERS = ["plain", "plain_bos", "chatml", "llama2"]


def decoded(row: dict[str, Any], tokenizer: Tokenizer) -> list[str]:
    return [str(tokenizer.decode(ids, skip_special_tokens=False)).strip() for ids in row["response_ids"]]


def ending(tokenizer: Tokenizer) -> str:
    """What ends an answer: the stop token, and the space that the template writes before it, if it does."""
    if not tokenizer.chat_template:
        return str(tokenizer.eos_token)
    said = str(tokenizer.apply_chat_template([*ASKED, {"role": "assistant", "content": "!!"}], tokenize=False))
    return said.partition("!!")[2].rstrip()


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def test_an_unfinished_response_gets_no_stop_token(tokenizer: Tokenizer) -> None:
    """All else of it stays as it is."""
    rows = [{"prompt": ASKED, "response": "北京是中国的首", "finished": ended} for ended in (True, False, [False])]
    whole, *cut = encode_dataset(rows, tokenizer)
    assert decoded(whole, tokenizer) == [f"北京是中国的首{ending(tokenizer)}"]
    end = 2 if ending(tokenizer).startswith(" ") else 1
    for row in cut:
        assert row["prompt_ids"] == whole["prompt_ids"] and row["response_ids"] == [whole["response_ids"][0][:-end]]


def test_each_response_has_its_own_end(tokenizer: Tokenizer) -> None:
    end = ending(tokenizer)
    pair = {"prompt": ASKED, "chosen": "北京。", "rejected": "我不知", "finished": [True, False]}
    assert decoded(encode_dataset([pair], tokenizer)[0], tokenizer) == [f"北京。{end}", "我不知"]
    assert decoded(encode_dataset([{**pair, "finished": [False, True]}], tokenizer)[0], tokenizer)[0] == "北京。"
    scored = {"query": "x", "responses": ["b", "a", "c"], "scores": [1, 2, 0], "finished": [False, True, True]}
    assert decoded(encode_dataset([scored], tokenizer)[0], tokenizer) == [f"a{end}", "b", f"c{end}"]


def test_what_is_said_of_all_or_of_none_changes_nothing(tokenizer: Tokenizer) -> None:
    pair = {"prompt": ASKED, "chosen": "北京。", "rejected": "上海。"}
    expected = encode_dataset([pair, pair], tokenizer).to_list()
    for finished in ([True, True], None):
        assert encode_dataset([{**pair, "finished": finished}, pair], tokenizer).to_list() == expected


def test_bare_text_can_be_unfinished_too(tokenizer: Tokenizer) -> None:
    row = {"prompt": "The sky is", "completion": " blue and", "finished": False}
    assert decoded(encode_dataset([row], tokenizer)[0], tokenizer) == ["blue and"]


@pytest.mark.parametrize("splits", [True, False])
def test_a_stop_token_that_the_text_brings_goes_too(splits: bool) -> None:
    """Also where a tokenizer cannot read it as ordinary text."""
    encoder = Encoder(make_tokenizer(CHATML, eos="<|im_end|>"), Encoding())
    encoder.special_tokens.can_split = splits  # type: ignore[misc]
    responses = ["北京<|im_end|>", "北京<|im_end|> \n", "北京<|im_end|><|im_end|>"]
    batch = {"prompt": [ASKED], "responses": [responses], "finished": [[False] * 3]}
    ids = encoder(batch, [0])["response_ids"][0]
    assert not any(encoder.renderer.stop in response for response in ids)
    assert ids[0] == ids[1] == encoder.tokenise(["北京"])[0]


@pytest.mark.parametrize(
    ("reasons", "flags"),
    [
        (["stop", "length"], [True, False]),
        (["length", "stop"], [False, True]),
        (["stop_string", "other_stop"], [False, False]),
        (["stop", "stop"], [True, True]),
    ],
)
def test_finish_reason_says_the_same_as_finished(reasons: list[str], flags: list[bool], tokenizer: Tokenizer) -> None:
    """The policy drew no stop token of its own where a stop string, another token or the limit ended a response."""
    rows = {
        "trl": {"prompt": ASKED, "chosen": "北京。", "rejected": "我不知"},
        "query": {"query": "x", "chosen": "北京。", "rejected": "我不知"},
        "list": {"query": "x", "responses": ["我不知", "北京。"], "scores": [1, 2]},
    }
    for row in rows.values():
        expected = encode_dataset([{**row, "finished": flags}], tokenizer).to_list()
        assert encode_dataset([{**row, "finish_reason": reasons}], tokenizer).to_list() == expected
        assert encode_dataset([{**row, "finish_reason": reasons, "finished": flags}], tokenizer).to_list() == expected


@pytest.mark.parametrize("bare", [True, False])
def test_a_single_response_may_say_its_reason_without_a_list(bare: bool, chatml: Tokenizer) -> None:
    rows = [{"prompt": ASKED, "response": "北京", "finish_reason": r if bare else [r]} for r in ("stop", "length")]
    for given in (rows, Dataset.from_list(rows), load_sft(rows)):
        assert [decoded(row, chatml) for row in encode_dataset(given, chatml)] == [["北京<|im_end|>"], ["北京"]]
    assert load_sft(rows)["finished"][:] == [[True], [False]]


@pytest.mark.parametrize(
    ("finished", "reason"),
    [([True, True], ["stop", "length"]), ([False, True], ["stop", "stop"]), ([True, False], ["stop_string", "length"])],
)
def test_columns_that_contradict_each_other_are_an_error_that_names_the_row(
    finished: list[bool], reason: list[str], write: Callable[..., Path]
) -> None:
    row = {"prompt": ASKED, "chosen": "北京", "rejected": "上海"}
    path = write([row, {**row, "finished": finished, "finish_reason": reason}])
    with pytest.raises(DataError, match=rf"{path}:2: finished is \[.*\] and finish_reason \[.*contradict each other"):
        load_preferences(path)
    table = Dataset.from_list([{**row, "finished": finished, "finish_reason": reason}])
    with pytest.raises(DataError, match="row 0: finished is.*contradict each other"):
        encode_dataset(table, make_tokenizer())


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        (["stop", "eos"], "'eos' is not one of stop, other_stop, stop_string, length"),
        (["stop"], "holds 1 values for 2 responses"),
        (["stop", None], "its list holds null, expected one of stop, .* for each response"),
        ("stop", "is text, expected a list"),
        ([True, True], "its list holds true or false"),
    ],
)
def test_a_reason_that_nobody_knows_drops_the_row(reason: Any, why: str) -> None:
    row = {"prompt": ASKED, "chosen": "北京", "rejected": "上海"}
    with pytest.raises(DataError, match=f"row 0: field 'finish_reason': {why}"):
        load_preferences([{**row, "finish_reason": reason}], strict=True)


# Several answers


def answers_of(row: dict[str, Any], tokenizer: Tokenizer) -> str:
    ids, mask = row["response_ids"][0], row["loss_mask"][0]
    assert len(ids) == len(mask)
    trained = [i for i, m in zip(ids, mask, strict=True) if m]
    return str(tokenizer.decode(trained)).replace(" Flour", "Flour").replace(" Wait", "Wait")


def test_of_several_answers_the_last_alone_was_cut_off(tokenizer: Tokenizer) -> None:
    row = {"prompt": MESSAGES[:1], "response": SAID[1], "later_turns": MESSAGES[2:], "finished": False}
    end = ending(tokenizer)
    whole, cut = encode_dataset([{**row, "finished": [True]}, row], tokenizer)
    assert answers_of(whole, tokenizer) == f"Flour and water.{end}Wait{end}"
    assert answers_of(cut, tokenizer) == f"Flour and water.{end}Wait"
    assert cut["response_ids"][0] == whole["response_ids"][0][: -2 if end.startswith(" ") else -1]


def test_an_answer_that_stays_in_place_of_the_one_cut_off_keeps_its_stop_token() -> None:
    """The template rewrites the first answer, so the second is dropped; the first was not cut off."""
    rewriting = make_tokenizer(
        CHATML.replace("m['content']", "(m['content'] if loop.last else 'gone')"), eos="<|im_end|>"
    )
    row = {"prompt": MESSAGES[:1], "response": SAID[1], "later_turns": MESSAGES[2:], "finished": [False]}
    assert decoded(encode_dataset([row], rewriting)[0], rewriting) == ["Flour and water.<|im_end|>"]


# Truncation


@pytest.mark.parametrize(
    ("mode", "limit", "cut", "lost"),
    [(None, 40, 2, 1), ("keep_start", 40, 2, 1), ("keep_end", 20, 2, 0), (None, None, 0, 0)],
)
def test_what_has_no_stop_token_loses_none(mode: str | None, limit: int | None, cut: int, lost: int) -> None:
    tokenizer = make_tokenizer(CHATML, eos="<|im_end|>")
    batch = {"prompt": [ASKED], "responses": [["water " * 60, "water " * 60]], "finished": [[True, False]]}
    row = {name: values[0] for name, values in Encoder(tokenizer, Encoding(limit, None, mode))(batch, [0]).items()}
    assert (row["_responses_cut"], row["_stops_lost"]) == (cut, lost)
    assert [ids[-1:] == [4] for ids in row["response_ids"]] == [lost == 0, False]
    assert set(NOTES) <= set(row)


def test_a_response_that_just_fits_is_not_cut_for_a_stop_token_it_does_not_have(chatml: Tokenizer) -> None:
    row = {"prompt": ASKED, "response": "北京是中国的首", "finished": [False]}
    whole = encode_dataset([row], chatml)[0]
    limit = len(whole["prompt_ids"]) + len(whole["response_ids"][0])
    assert encode_dataset([row], chatml, Encoding(limit))[0] == whole
    assert encode_dataset([{**row, "finished": [True]}], chatml, Encoding(limit))[0] != whole


def test_the_check_counts_stop_tokens_that_were_there(chatml: Tokenizer) -> None:
    row = {"prompt": ASKED, "chosen": "water " * 60, "rejected": "bread " * 60}
    rows = [row, {**row, "finished": [False, True]}, {**row, "finished": [False, False]}]
    found = check([rows], tokenizer=chatml, max_length=40).files[0].findings
    assert found["eos_lost"].count == 2 + 1 and found["doubled_eos"].count == 0


# What cannot be


def test_nothing_is_left_to_train_on(tokenizer: Tokenizer) -> None:
    """A raw row with an empty response is dropped as ever; a loaded one may have it, if it has a stop token."""
    for empty in ("", " \n", tokenizer.eos_token * 2):
        table = load_sft([{"prompt": ASKED, "response": "x", "finished": flag} for flag in (True, False)])
        rows = [{**row, "response": said} for row, said in zip(table, ("北京", empty), strict=True)]
        with pytest.raises(DataError, match="row 1: a response is empty and finished is false.*leave it out"):
            encode_dataset(Dataset.from_list(rows, features=table.features), tokenizer)
        rows[1]["finished"] = [True]
        ids = encode_dataset(Dataset.from_list(rows, features=table.features), tokenizer)[1]["response_ids"][0]
        assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("given", [[], [True], [True, False, True], [True, None]])
def test_a_table_that_says_it_of_too_few_names_its_row(given: list[Any], chatml: Tokenizer) -> None:
    row = {"prompt": ASKED, "chosen": "北京", "rejected": "上海"}
    table = Dataset.from_list([{**row, "finished": [True, False]}, {**row, "finished": given}])
    with pytest.raises(DataError, match=r"row 1: finished is \[.*\] for 2 responses; give true or false for each"):
        encode_dataset(table, chatml)


# Every way in


@pytest.mark.parametrize("bare", [True, False])
def test_a_dataset_may_say_it_without_a_list(bare: bool, chatml: Tokenizer) -> None:
    """A column of true and false is no column of lists, so an adapter has to read it."""
    rows = [{"prompt": ASKED, "response": "北京", "finished": flag if bare else [flag]} for flag in (True, False)]
    found = encode_dataset(Dataset.from_list(rows), chatml)
    assert [decoded(row, chatml) for row in found] == [["北京<|im_end|>"], ["北京"]]


@pytest.mark.parametrize("load", [load_preferences, load_sft])
def test_written_loaded_and_encoded_it_stays(
    load: Callable[..., Dataset], tmp_path: Path, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Raw, loaded, loaded twice, and from disk; beside rows that do not say it."""
    tokenizer = make_tokenizer(CHATML, eos="<|im_end|>")
    rows = [{"prompt": ASKED, "chosen": f"北京{i}", "rejected": f"上海{i}"} for i in range(3)]
    path = write([rows[0], {**rows[1], "finished": [False, True]}, {**rows[2], "finished": [True, False]}])
    with caplog.at_level(logging.WARNING, "prefopt"):
        once = load(path)
    once.save_to_disk(tmp_path / "saved")
    ways = [once, load(once), load(tmp_path / "saved"), load([json.loads(json.dumps(row)) for row in once])]
    expected = [["北京0<|im_end|>", "上海0<|im_end|>"], ["北京1", "上海1<|im_end|>"], ["北京2<|im_end|>", "上海2"]]
    for way in [*ways, *([path] if load is load_preferences else [])]:
        found = [decoded(row, tokenizer) for row in encode_dataset(way, tokenizer)]
        assert found == (expected if load is load_preferences else [texts[:1] for texts in expected])
    assert not caplog.messages
