"""Tools and tool calls: what the template makes of them, in prompts and answers, and how rows hold them."""

import io
import json
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from prefopt.cli.data_report import show
from prefopt.data import Candidates, DataError, Encoding, Turn, encode_dataset, encode_prompt, load, load_sft
from prefopt.data.check import check
from tests.helpers.tokenizers import CHATML, TOOLS, make_tokenizer

CLOCK = {"type": "function", "function": {"name": "clock", "description": "报时", "parameters": {"zone": "text"}}}
SYSTEM = {"role": "system", "content": "简短。"}
Q = {"role": "user", "content": "北京现在几点？"}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "北京"}}}
TOLD = {"role": "tool", "content": "9:00"}


def calling(*calls: Any, content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls) or [CALL]}


def bot(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(TOOLS, eos="<|im_end|>")


def text_of(messages: Any, tokenizer: Any, **kwargs: Any) -> str:
    """What the tokenizer itself makes of messages with objects in them; content null is no text."""
    plain = [{**message, "content": message["content"] or ""} for message in messages]
    return str(tokenizer.apply_chat_template(plain, tokenize=False, **kwargs))


def decoded(ids: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize("tools", [[CLOCK], json.dumps([CLOCK]), json.dumps([CLOCK], ensure_ascii=False)])
@pytest.mark.parametrize("before", [[], [SYSTEM]])
def test_a_prompt_has_its_tools_in_training_and_sampling(
    tokenizer: PreTrainedTokenizerFast, tools: Any, before: list[Any]
) -> None:
    row = {"prompt": [*before, Q], "chosen": "九点。", "rejected": "Paris.", "tools": tools}
    wanted = tokenizer.apply_chat_template([*before, Q], tools=[CLOCK], add_generation_prompt=True)["input_ids"]
    rows, _ = load([row, {**row, "tools": None}])
    encoded = encode_dataset(rows, tokenizer)
    assert encoded[0]["prompt_ids"] == wanted != encoded[1]["prompt_ids"]
    assert encode_prompt(rows[0]["prompt"], tokenizer) == wanted
    assert encode_prompt([{**(before or [Q])[0], "tools": [CLOCK]}, *([Q] if before else [])], tokenizer) == wanted


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": Q["content"], "chosen": "a", "rejected": "b"},
        {"instruction": Q["content"], "chosen": "a", "rejected": "b"},
        {"chosen": [Q, bot("a")], "rejected": [Q, bot("b")]},
        {"query": Q["content"], "responses": ["a", "b"], "scores": [2, 1]},
        {"prompt": {"messages": [Q], "tools": [CLOCK]}, "chosen": "a", "rejected": "b"},
    ],
)
def test_tools_stand_beside_any_format(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any]) -> None:
    if "tools" not in str(row):
        row = {**row, "tools": [CLOCK]}
    wanted = tokenizer.apply_chat_template([Q], tools=[CLOCK], add_generation_prompt=True)["input_ids"]
    assert encode_dataset([row], tokenizer)[0]["prompt_ids"] == wanted


@pytest.mark.parametrize("as_text", [False, True])
def test_an_answer_that_calls_tools_is_what_the_template_writes(
    tokenizer: PreTrainedTokenizerFast, as_text: bool
) -> None:
    arguments: Any = json.dumps(CALL["function"]["arguments"]) if as_text else CALL["function"]["arguments"]  # type: ignore[index]
    chosen = calling({"id": "1", "type": "function", "function": {"name": "clock", "arguments": arguments}})
    row = {"prompt": [Q], "chosen": [chosen], "rejected": [bot("不知道。")], "tools": [CLOCK]}
    rows, report = load([row])
    encoded = encode_dataset(rows, tokenizer)[0]
    prompt = text_of([Q], tokenizer, tools=[CLOCK], add_generation_prompt=True)
    assert decoded(encoded["prompt_ids"], tokenizer) == prompt
    whole = text_of([Q, calling()], tokenizer, tools=[CLOCK])
    answers = [decoded(ids, tokenizer) for ids in encoded["response_ids"]]
    assert prompt + answers[0] + "\n" == whole and '{"zone": "北京"}' in answers[0]
    assert answers[1] == "不知道。<|im_end|>"
    assert report.kept == 1 and rows[0]["chosen"] == "" and rows[0]["tool_calls"][1] is None


def test_a_conversation_with_calls_is_trained_on_its_answers_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [SYSTEM, Q, calling(content="我看看。"), TOLD, bot("九点。")]
    row = encode_dataset(load_sft([{"messages": messages, "tools": [CLOCK]}]), tokenizer)[0]
    ids, mask = row["response_ids"][0], row["loss_mask"][0]
    whole = text_of(messages, tokenizer, tools=[CLOCK])
    assert decoded([*row["prompt_ids"], *ids], tokenizer) + "\n" == whole
    trained = decoded([i for i, counted in zip(ids, mask, strict=True) if counted], tokenizer)
    assert trained == '我看看。<call>clock {"zone": "北京"}</call><|im_end|>九点。<|im_end|>'


def test_a_prompt_may_have_calls_in_it(tokenizer: PreTrainedTokenizerFast) -> None:
    before = [Q, calling(), TOLD]
    row = {"prompt": before, "chosen": "九点。", "rejected": "不知道。", "tools": [CLOCK]}
    encoded = encode_dataset([row], tokenizer)[0]
    wanted = text_of(before, tokenizer, tools=[CLOCK], add_generation_prompt=True)
    assert decoded(encoded["prompt_ids"], tokenizer) == wanted
    assert decoded(encoded["response_ids"][1], tokenizer) == "不知道。<|im_end|>"


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "function_call": {"name": "clock", "arguments": '{"zone": "北京"}'}},
        {"role": "assistant", "tool_calls": [{"name": "clock", "arguments": {"zone": "北京"}}]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {"from": "gpt", "value": "", "tool_calls": [CALL]},
    ],
)
def test_other_forms_of_a_call(turn: dict[str, Any]) -> None:
    rows = load_sft([{"messages": [Q, turn]}])
    assert [json.loads(calls) for calls in rows[0]["tool_calls"]] == [[CALL]]


def test_nulls_that_a_table_fills_in_are_no_part_of_tools(tokenizer: PreTrainedTokenizerFast) -> None:
    other = {"type": "function", "function": {"name": "weather", "parameters": {"city": "text"}}}
    row = {"prompt": [Q], "chosen": "a", "rejected": "b"}
    table = Dataset.from_list([{**row, "tools": [CLOCK]}, {**row, "tools": [other]}])
    assert "city" in table[0]["tools"][0]["function"]["parameters"]  # null: Arrow has one type for all
    rows, _ = load(table)
    assert [json.loads(prompt[0]["tools"]) for prompt in rows["prompt"]] == [[CLOCK], [other]]
    literal = '[{"name": "clock", "parameters": {"default": null}}]'
    assert json.loads(load([{**row, "tools": literal}])[0][0]["prompt"][0]["tools"]) == json.loads(literal)


def test_turns_of_one_speaker_keep_their_calls() -> None:
    row = load_sft([{"messages": [Q, bot("我看看。"), calling(), calling(CALL, CALL)]}])[0]
    assert row["response"] == "我看看。" and len(json.loads(row["tool_calls"][0])) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [Q, calling({"id": "1"})]}, "field 'messages': a turn's tool_calls are not a list of"),
        ({"messages": [{**Q, "tool_calls": [CALL]}, bot("a")]}, "a turn of 'user' has tool_calls"),
        ({"messages": [Q, {**bot("a"), "tools": [CLOCK]}]}, "a later turn has tools"),
        ({"messages": [Q, bot("a")], "tools": "clock"}, "field 'tools': is text, expected a list of JSON schemas"),
        ({"messages": [Q, bot("a")], "tools": [{"type": "function"}]}, "field 'tools': is a list of something else"),
        ({"messages": [Q, bot("a")], "tool_calls": ["x"]}, "column 'tool_calls' tells what the row means"),
        ({"text": "x", "tools": [CLOCK]}, "field 'tools': cannot stand before a text without a prompt"),
        ({"query": "x", "responses": [[calling()], "b"], "scores": [1, 2]}, "tool_calls, which are not read"),
    ],
)
def test_what_is_no_tool_or_call_drops_its_row(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load([row], "any")


@pytest.mark.parametrize("template", [None, CHATML])
def test_rows_whose_calls_the_template_does_not_write_are_dropped(
    template: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"messages": [Q, calling()]}, {"messages": [Q, bot("九点。")]}]
    tokenizer = make_tokenizer(template)
    with caplog.at_level(logging.WARNING, "prefopt.data"):
        encoded = encode_dataset(load_sft(rows), tokenizer)
    assert len(encoded) == 1 and "九点" in decoded(encoded[0]["response_ids"][0], tokenizer)
    assert "1 rows dropped, as the chat template does not write their tool calls after the prompt" in caplog.text
    with pytest.raises(DataError, match="all 1 rows answer by tool calls that the chat template does not write"):
        encode_dataset(load_sft(rows[:1]), tokenizer)


def test_a_template_that_writes_a_call_elsewhere_drops_the_row(caplog: pytest.LogCaptureFixture) -> None:
    """This one opens every answer by a thought, and calls without one."""
    template = TOOLS.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>")
    rows = [{"messages": [Q, calling()], "tools": [CLOCK]}, {"messages": [Q, bot("九点。")]}]
    with caplog.at_level(logging.WARNING, "prefopt.data"):
        encoded = encode_dataset(load_sft(rows), make_tokenizer(template, eos="<|im_end|>"))
    assert len(encoded) == 1 and "does not write their tool calls after the prompt" in caplog.text


def test_a_call_is_trained_as_it_is_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    """Qwen3's template writes an empty thought before the last answer, and takes it away once others follow."""
    thought = "{%- if loop.last and m.tool_calls %}{{- '<think></think>' }}{%- endif %}"
    call = "{%- for call in m.tool_calls or [] %}"
    thinking = make_tokenizer(TOOLS.replace(call, thought + call), eos="<|im_end|>")
    messages = [Q, calling(), TOLD, bot("九点。")]
    alone, whole = (
        encode_dataset(load_sft([{"messages": part}]), thinking)[0]["response_ids"][0]
        for part in (messages[:2], messages)
    )
    assert decoded(alone, thinking) == '<think></think><call>clock {"zone": "北京"}</call><|im_end|>'
    prompt = text_of([Q], thinking, add_generation_prompt=True)
    assert prompt + decoded(whole, thinking) + "\n" == text_of(messages, tokenizer)


def test_a_template_may_close_no_answer() -> None:
    """GLM-4's leaves it to the next turn's tag."""
    glm = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{{ m.tool_calls | tojson if m.tool_calls }}"
    tokenizer = make_tokenizer(glm + "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}")
    row = encode_dataset(load_sft([{"messages": [Q, calling(), TOLD, bot("九点。")]}]), tokenizer)[0]
    text = json.dumps([CALL], ensure_ascii=False)
    assert decoded(row["response_ids"][0], tokenizer) == f"{text}<eos><tool>9:00<assistant>九点。<eos>"


def test_a_template_may_want_arguments_as_text() -> None:
    """DeepSeek-V3's does."""
    tokenizer = make_tokenizer(TOOLS.replace(" + call.function.arguments | tojson", " + call.function.arguments"))
    prompt = [Turn("user", "几点？"), Turn.of("assistant", "", tool_calls=json.dumps([CALL])), Turn("tool", "9:00")]
    assert '<call>clock {"zone": "北京"}</call>' in decoded(encode_prompt(prompt, tokenizer), tokenizer)


def test_special_tokens_that_the_template_writes_for_a_call_are_real() -> None:
    tokenizer = make_tokenizer(TOOLS.replace("<call>", "<pad>"), eos="<|im_end|>")
    row = encode_dataset(load_sft([{"messages": [Q, calling()]}]), tokenizer)[0]
    assert row["response_ids"][0][0] == tokenizer.pad_token_id


def test_data_check_counts_them(write: Callable[..., Path], tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"messages": [Q, calling()], "tools": [CLOCK]}, {"messages": [Q, bot("九点。")], "tools": [CLOCK]}]
    path = write(rows)
    for used, count in ((tokenizer, 0), (make_tokenizer(CHATML), 1)):
        report = check([path], tokenizer=used)
        found = report.files[0].findings
        assert found["tool_calls_unwritten"].count == found["template_inputs_unread"].count == count
        assert found["tool_calls_unwritten"].examples == [f"{path}:1"][:count] and report.exit_code == count
    pair = {"prompt": [Q], "chosen": [calling()], "rejected": [calling(CALL, CALL)]}
    assert check([[pair]], tokenizer=tokenizer).exit_code == 0
    assert check([[pair]], tokenizer=make_tokenizer(CHATML)).errors == {"tool_calls_unwritten": 1}
    same = {"prompt": [Q], "chosen": "a", "rejected": "b"}
    assert check([[{**same, "tools": [CLOCK]}, same, same]]).files[0].findings["duplicate_rows"].count == 1


def test_data_check_shows_them(tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"messages": [SYSTEM, Q, calling(), TOLD, bot("九点。")], "tools": [CLOCK]}
    page = io.StringIO()
    show(check([[row]], tokenizer=tokenizer), Console(file=page, width=400))
    said = page.getvalue()
    assert f"简短。 {json.dumps([CLOCK], ensure_ascii=False)[:40]}" in said and '"arguments": {"zone": "北京"}' in said
    assert '⟦<call>clock {"zone": "北京"}</call><|im_end|>⟧' in said


def test_an_adapter_of_your_own_may_give_them(tokenizer: PreTrainedTokenizerFast) -> None:
    from prefopt.data.adapters import Adapter

    calls = json.dumps([CALL])
    prompt, answer = Turn.of("user", "几点？", tools=json.dumps([CLOCK])), Turn.of("assistant", "", tool_calls=calls)
    adapter = Adapter("own", "sft", "", lambda row: True, lambda row: Candidates((prompt,), ((answer,),)))
    assert adapter({"a": 1}).responses == ((answer,),)
    assert adapter({"a": 1}).prompt[0].message == {"role": "user", "content": "几点？", "tools": json.dumps([CLOCK])}


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_5_nothink", "lfm2_v2"])
@pytest.mark.parametrize("count", [2, 4])
def test_published_templates_write_the_same(name: str, count: int) -> None:
    """Templates that come with TRL: a conversation is its prompt and response, as far as it is kept as it was said."""
    found = find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("TRL is a test-only dependency and is not installed")
    template = (Path(found.origin).parent / "chat_templates" / f"{name}.jinja").read_text("utf-8")
    tokenizer = make_tokenizer(template, eos="<|im_end|>")
    messages = [SYSTEM, Q, calling(), TOLD, bot("九点。")][: 1 + count]
    row = encode_dataset(load_sft([{"messages": messages, "tools": [CLOCK]}]), tokenizer, Encoding(None))[0]
    said = decoded([*row["prompt_ids"], *row["response_ids"][0]], tokenizer) + "\n"
    whole = text_of(messages, tokenizer, tools=[CLOCK])
    thought = "<think>\n\n</think>\n\n" if name == "qwen3" and count == 4 else ""  # before the last answer alone
    assert said == whole.replace(thought + "九点", "九点")
