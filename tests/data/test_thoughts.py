"""Thoughts before answers, and which call a tool's turn answers: given to templates that read them, else named."""

import io
import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from prefopt.cli.data_report import show
from prefopt.data import DataError, Encoding, encode_dataset, encode_prompt, load, load_preferences, load_sft
from prefopt.data.check import check
from prefopt.generation.prompts import encode_prompts
from tests.helpers.models import tiny_llama
from tests.helpers.shapes import bot, user
from tests.helpers.tokenizers import CHATML, TOOLS, make_tokenizer

Q = user("北京现在几点？")
THOUGHT, ANSWER = "先看表。", "九点。"
CALL = {"id": "call12345", "type": "function", "function": {"name": "clock", "arguments": {"zone": "北京"}}}
TOLD = {"role": "tool", "content": "9:00", "tool_call_id": "call12345", "name": "clock"}
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + (':' + m.name if m.name else '') + '\n' }}"
    "{% if m.role == 'tool' %}{{ m.tool_call_id + '\n' }}{% endif %}"
    "{% if m.KEY and m.role == 'assistant' and loop.last %}{{ '<think>' + m.KEY + '</think>' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Writes the last answer's thought, as Qwen3's does, and of tools' turns the call's id and the tool's name."""
UNUSED = "1 rows: tools, tool calls, reasoning_content or chat_template_kwargs that the chat template does not use"


def thoughtful(content: str, thought: str = THOUGHT, key: str = "reasoning_content") -> dict[str, str]:
    return {**bot(content), key: thought}


def thinking(key: str = "reasoning_content") -> PreTrainedTokenizerFast:
    return make_tokenizer(THINKING.replace("KEY", key), eos="<|im_end|>")


def said(row: dict[str, Any], tokenizer: Any) -> list[str]:
    return [tokenizer.decode(row["prompt_ids"] + ids) for ids in row["response_ids"]]


def trained(row: dict[str, Any], tokenizer: Any) -> str:
    ids = row["response_ids"][0]
    mask = (row.get("loss_mask") or [[1] * len(ids)])[0]
    return str(tokenizer.decode([i for i, counted in zip(ids, mask, strict=True) if counted]))


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("read", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_is_trained_as_the_template_writes_it_whatever_it_is_called(key: str, read: str) -> None:
    tokenizer = thinking(read)
    rows, report = load([{"messages": [Q, thoughtful(ANSWER, key=key)]}], "sft")
    row = encode_dataset(rows, tokenizer)[0]
    whole = tokenizer.apply_chat_template([Q, thoughtful(ANSWER, key=read)], tokenize=False)
    assert said(row, tokenizer)[0] + "\n" == whole
    assert trained(row, tokenizer) == f"<think>{THOUGHT}</think>{ANSWER}<|im_end|>"
    assert row["prompt_ids"] == encode_prompt(rows[0]["prompt"], tokenizer) and not report.unread


@pytest.mark.parametrize(
    "name", ["qwen3", "qwen3_training", "qwen3_5_think", "glm4moe", "lfm2_2_5_v2", "nemotron_3_nano"]
)
def test_published_templates_write_the_same(name: str) -> None:
    found = find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("TRL is a test-only dependency and is not installed")
    template = (Path(found.origin).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8")
    tokenizer = make_tokenizer(template, eos="<|im_end|>")
    messages = [Q, thoughtful(ANSWER)]
    row = encode_dataset([{"messages": messages}], tokenizer, Encoding(None))[0]
    whole = str(tokenizer.apply_chat_template(messages, tokenize=False)).rstrip()
    assert THOUGHT in whole
    assert said(row, tokenizer)[0].removesuffix("<|im_end|>") == whole.removesuffix("<|im_end|>")


def test_pairs_and_labelled_answers_have_them_and_are_read_again_as_they_were_saved() -> None:
    tokenizer = thinking()
    pair = {"prompt": [Q], "chosen": [thoughtful(ANSWER)], "rejected": [bot("不知道。")]}
    rows = load_preferences([pair])
    assert rows[0]["chosen"] == ANSWER and rows[0]["reasoning_content"] == [THOUGHT, None]
    encoded = encode_dataset(rows, tokenizer)[0]
    texts = [tokenizer.decode(ids) for ids in encoded["response_ids"]]
    assert texts == [f"<think>{THOUGHT}</think>{ANSWER}<|im_end|>", "不知道。<|im_end|>"]
    assert load_preferences(rows.to_list()).to_list() == rows.to_list()
    labelled = load([{"messages": [Q, thoughtful(ANSWER)], "label": False}], "unpaired")[0]
    assert labelled[0]["reasoning_content"] == [THOUGHT] and labelled[0]["label"] is False
    assert load(labelled.to_list(), "unpaired")[0].to_list() == labelled.to_list()


def test_pairs_may_differ_in_their_thoughts_alone() -> None:
    pair = {"prompt": [Q], "chosen": [thoughtful(ANSWER)], "rejected": [thoughtful(ANSWER, "不看表。")]}
    assert check([[pair]], tokenizer=thinking()).exit_code == 0
    assert check([[pair]], tokenizer=make_tokenizer(CHATML)).errors == {"identical_encoded": 1}


def test_earlier_thoughts_that_the_template_leaves_out_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = thinking()
    messages = [Q, thoughtful(ANSWER), user("真的？"), thoughtful("真的。", "再看一次。")]
    with caplog.at_level(logging.WARNING, "prefopt.data"):
        row = encode_dataset([{"messages": messages}], tokenizer)[0]
    assert trained(row, tokenizer) == f"{ANSWER}<|im_end|><think>再看一次。</think>真的。<|im_end|>"
    assert said(row, tokenizer)[0] + "\n" == tokenizer.apply_chat_template(messages, tokenize=False)
    assert UNUSED in caplog.text


@pytest.mark.parametrize("template", [None, CHATML])
def test_where_the_template_writes_no_thoughts_they_are_named(
    template: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = make_tokenizer(template)
    rows = [{"messages": [Q, thoughtful(ANSWER)]}, {"messages": [Q, bot(ANSWER)]}]
    with caplog.at_level(logging.WARNING, "prefopt.data"):
        ids = encode_dataset(rows, tokenizer)["response_ids"]
    assert ids[0] == ids[1] and UNUSED in caplog.text
    found = check([rows], tokenizer=tokenizer).files[0].findings["template_inputs_unread"]
    assert found.count == 1 and found.examples


def test_an_opening_that_shuts_thoughts_off_leaves_them_out() -> None:
    """The prompt ends on an empty thought then, and the answer follows it."""
    template = THINKING.replace("assistant\n{%", "assistant\n<think></think>{%").replace("KEY", "reasoning_content")
    tokenizer = make_tokenizer(template, eos="<|im_end|>")
    report = check([[{"messages": [Q, thoughtful(ANSWER)]}]], tokenizer=tokenizer).files[0]
    row = encode_dataset([{"messages": [Q, thoughtful(ANSWER)]}], tokenizer)[0]
    assert said(row, tokenizer)[0].endswith(f"<think></think>{ANSWER}<|im_end|>")
    assert report.findings["template_inputs_unread"].count == 1


def test_the_check_shows_thoughts() -> None:
    page = io.StringIO()
    show(check([[{"messages": [Q, thoughtful(ANSWER)]}]], tokenizer=thinking()), Console(file=page, width=300))
    assert f"⟦<think>{THOUGHT}</think>{ANSWER}<|im_end|>⟧" in page.getvalue() and "clean" in page.getvalue()


def test_tools_turns_have_their_call_and_name() -> None:
    tokenizer = thinking()
    before = [Q, {**bot(""), "tool_calls": [CALL]}, TOLD]
    rows, report = load([{"prompt": before, "chosen": ANSWER, "rejected": "不知道。"}])
    encoded = encode_dataset(rows, tokenizer)[0]
    wanted = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(encoded["prompt_ids"]) == wanted and "tool:clock\ncall12345\n9:00" in str(wanted)
    assert encode_prompt(rows[0]["prompt"], tokenizer) == encoded["prompt_ids"]
    assert not report.unread and load(rows.to_list())[0].to_list() == rows.to_list()


def test_a_template_that_does_not_read_them_is_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = make_tokenizer(TOOLS, eos="<|im_end|>")
    messages = [Q, {**bot(""), "tool_calls": [CALL]}, TOLD, bot(ANSWER)]
    bare = [*messages[:2], {"role": "tool", "content": "9:00"}, messages[3]]
    with caplog.at_level(logging.INFO, "prefopt"):
        ids = encode_dataset([{"messages": messages}, {"messages": bare}], tokenizer)["response_ids"]
        encode_prompts([load_sft([{"messages": messages}])[0]["prompt"], messages[:3]], tokenizer, tiny_llama(), 1)
    told = {record.getMessage(): record.levelname for record in caplog.records}
    what = "tools' turns with a tool_call_id or name that the chat template does not read"
    assert ids[0] == ids[1] and told[f"1 rows: {what}"] == told[f"1 of 2 prompts: {what}"] == "INFO"
    report = check([[{"messages": messages}]], tokenizer=tokenizer)
    assert report.to_look_at == report.exit_code == 0 and report.files[0].findings["tool_keys_unread"].count == 1


def test_a_template_that_looks_a_tool_up_by_its_call_reads_the_id() -> None:
    found = find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("TRL is a test-only dependency and is not installed")
    template = (Path(found.origin).parent / "chat_templates" / "gemma4_v5.jinja").read_text("utf-8")
    report = check(
        [[{"messages": [Q, {**bot(""), "tool_calls": [CALL]}, {**TOLD, "name": None}, bot(ANSWER)]}]],
        tokenizer=make_tokenizer(template, eos="<|im_end|>"),
    )
    assert report.files[0].findings["tool_keys_unread"].count == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [Q, {**thoughtful("a"), "thinking": "b"}]},
            "reasoning_content and thinking of a turn are two different thoughts",
        ),
        ({"prompt": [Q], "chosen": [thoughtful("")], "rejected": "b"}, "empty chosen"),
        (
            {"query": "x", "responses": [[thoughtful("a")], "b"], "scores": [1, 2]},
            "has reasoning_content, which are not",
        ),
    ],
)
def test_what_is_no_thought_drops_its_row(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load([row], "any")


def test_what_is_no_text_or_of_another_speaker_is_named() -> None:
    turns = [{**Q, "reasoning": "x", "name": "me"}, {**bot("a"), "reasoning": ["x"], "tool_call_id": "1"}]
    assert load([{"messages": turns}], "sft")[1].unread == {
        "messages[].name": 1,
        "messages[].reasoning": 1,
        "messages[].tool_call_id": 1,
    }
    assert load([{"messages": [Q, {**bot("a"), "reasoning": ""}]}], "sft")[1].unread == {}


def test_turns_of_one_speaker_keep_their_thoughts() -> None:
    row = load_sft([{"messages": [Q, thoughtful("a", "x"), thoughtful("b", "y"), bot("c")]}])[0]
    assert (row["response"], row["reasoning_content"]) == ("a\n\nb\n\nc", ["x\n\ny"])


def test_a_call_keeps_its_thought() -> None:
    template = TOOLS.replace(
        "{{- m.content }}", "{{- '<think>' + m.thinking + '</think>' if m.thinking else '' }}{{- m.content }}"
    )
    tokenizer = make_tokenizer(template, eos="<|im_end|>")
    row = encode_dataset([{"messages": [Q, {**thoughtful(""), "tool_calls": [CALL]}]}], tokenizer)[0]
    arguments = json.dumps(CALL["function"]["arguments"], ensure_ascii=False)  # type: ignore[index]
    assert trained(row, tokenizer) == f"<think>{THOUGHT}</think><call>clock {arguments}</call><|im_end|>"
