"""What turns have beside a role and a text: what is trained on, calls that are spelled out, and keys nobody reads."""

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from prefopt.data import DataError, encode_dataset, load, load_preferences, load_sft
from tests.helpers.shapes import BETTER, MULTI, WORSE, Q, bot, gpt, human, user
from tests.helpers.tokenizers import CHATML, TOOLS, make_tokenizer


def talk(*flags: dict[str, Any]) -> dict[str, Any]:
    """A conversation whose answers are a0, a1, ... and have these keys."""
    return {"messages": [turn for i, flag in enumerate(flags) for turn in (user(f"q{i}"), {**bot(f"a{i} 好"), **flag})]}


def trained(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> str:
    ids = row["response_ids"][0]
    mask = (row.get("loss_mask") or [[1] * len(ids)])[0]
    return str(tokenizer.decode([i for i, counted in zip(ids, mask, strict=True) if counted]))


OFF: list[dict[str, Any]] = [
    {"weight": 0},
    {"weight": 0.0},
    {"loss_weight": 0.0},
    {"loss": False},
    {"train": False},
    {"training": "false"},
    {"loss": "0"},
]
ON: dict[str, Any] = {"loss": True}


@pytest.mark.parametrize("off", OFF, ids=str)
@pytest.mark.parametrize("template", [CHATML, None], ids=["template", "plain"])
def test_an_answer_that_counts_0_is_context_wherever_it_stands(off: dict[str, Any], template: str | None) -> None:
    tokenizer = make_tokenizer(template, eos="<|im_end|>") if template else make_tokenizer()
    end = "<|im_end|>" if template else tokenizer.eos_token
    everything = encode_dataset([talk({}, {}, {})], tokenizer)[0]
    for flags, answers in (
        (({}, off, ON), ["a0 好", "a2 好"]),
        ((off, ON, {}), ["a1 好", "a2 好"]),
        ((ON, {}, off), ["a0 好", "a1 好"]),
        ((off, ON, off), ["a1 好"]),
        ((off, off, {}), ["a2 好"]),
    ):
        row = encode_dataset([talk(*flags)], tokenizer)[0]
        said = trained(row, tokenizer)
        assert [part.strip() for part in said.split(end)] == [*answers, ""]
        texts = [
            tokenizer.decode(each["prompt_ids"] + each["response_ids"][0], skip_special_tokens=True)
            for each in (everything, row)
        ]
        assert texts[0].startswith(texts[1])  # the context is what it is where everything counts


def test_marks_stay_where_rows_are_read_again() -> None:
    dataset, report = load([talk({}, {"train": False}, ON)], "sft")
    assert report.unread == {} and report.repaired == {}
    assert load_sft(dataset.to_list()).to_list() == dataset.to_list()
    assert [turn["loss"] for turn in dataset[0]["later_turns"]] == [None, "false", None, None]


def test_completions_have_marks_too() -> None:
    turns = talk({"weight": 0}, {"weight": 1})["messages"]
    row = load_sft([{"prompt": turns[:1], "completion": turns[1:]}])[0]
    assert [turn["content"] for turn in row["prompt"]] == ["q0", "a0 好", "q1"] and row["response"] == "a1 好"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([{"weight": 0}, {"loss": False}], "no answer is trained on"),
        ([{"weight": 0.5}], "a turn has the weight 0.5, expected 0 or 1, or true or false"),
        ([{"train": "perhaps"}], "a turn has the train 'perhaps'"),
        ([{"train": True, "weight": 0}], "weight and train of a turn contradict each other"),
        ([{"label": False}], "a turn is labelled as a bad answer"),
        ([{"label": "cooking"}], "'label': is 'cooking', which calls the answer neither good nor bad"),
    ],
)
def test_marks_that_leave_nothing_or_say_nothing_are_refused(flags: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_sft([talk(*flags)])


def test_two_answers_in_a_row_of_which_one_counts_are_refused() -> None:
    messages = [user("q"), {**bot("a"), "train": False}, {**bot("b"), "train": True}]
    with pytest.raises(DataError, match="of two answers in a row one is trained on and the other is not"):
        load_sft([{"messages": messages}])


def test_keys_that_nobody_reads_are_named_and_counted() -> None:
    turn = {**bot("a"), "refusal": "hm", "name": "x", "tool_call_id": None}
    dataset, report = load([{"messages": [user(Q), turn], "id": 3}, {"messages": [user(Q), bot("b")]}], "sft")
    assert len(dataset) == 2
    assert report.unread == {"id": 1, "messages[].name": 1, "messages[].refusal": 1}
    pair = {"prompt": [{**user(Q), "thinking": "x"}], "chosen": {**bot(BETTER), "a": "hm"}, "rejected": [bot(WORSE)]}
    assert load([pair])[1].unread == {"chosen[].a": 1, "prompt[].thinking": 1}
    answers = [{"text": "a", "score": 2, "model": "m", "upvotes": 3}, {"text": "b", "score": 1, "model": "n"}]
    assert load([{"question": Q, "responses": answers}])[1].unread == {
        "responses[].model": 1,
        "responses[].upvotes": 1,
    }


@pytest.mark.parametrize("later", [[], [user("Why?"), bot("So.")]])
def test_a_label_judges_the_last_answer_alone(later: list[dict[str, str]]) -> None:
    messages = [*MULTI, bot(WORSE), *later]
    row = load([{"messages": messages, "label": False}], "unpaired")[0][0]
    assert row == {"prompt": messages[:-1], "response": messages[-1]["content"], "label": False}


def test_a_label_judges_all_that_answers_the_last_question() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]}
    messages = [*MULTI, call, {"role": "tool", "content": "9"}, bot("Nine.")]
    row = load([{"messages": messages, "kto_tag": True}], "unpaired")[0][0]
    assert row["prompt"] == MULTI and row["response"] == "" and row["label"] is True
    assert [turn["content"] for turn in row["later_turns"]] == ["9", "Nine."]


def test_pairs_serve_where_answers_with_a_label_are_wanted() -> None:
    rows = [{"prompt": Q, "chosen": BETTER, "rejected": WORSE}]
    assert load(rows, "unpaired")[0].to_list() == load_preferences(rows).to_list()


# Calls that turns of ShareGPT's form spell out

CALL = {"name": "clock", "arguments": {"zone": "北京"}}


@pytest.mark.parametrize("role", ["function_call", "tool_call"])
@pytest.mark.parametrize(
    ("value", "calls"),
    [
        (json.dumps(CALL), [CALL]),
        (json.dumps([CALL, CALL], ensure_ascii=False), [CALL, CALL]),
        (json.dumps({**CALL, "arguments": json.dumps(CALL["arguments"])}), [CALL]),
        (str(CALL), [CALL]),
    ],
)
def test_a_call_that_is_spelled_out_is_a_tool_call(role: str, value: str, calls: list[Any]) -> None:
    told = {"from": "observation", "value": '{"time": "9:00"}'}
    talk = [human("几点？"), {"from": role, "value": value}, told, gpt("九点。")]
    dataset = load_sft([{"conversations": talk, "tools": json.dumps([{"name": "clock"}])}])
    row = dataset[0]
    assert [call["function"] for call in json.loads(row["tool_calls"][0])] == calls and row["response"] == ""
    assert [turn["content"] for turn in row["later_turns"]] == ['{"time": "9:00"}', "九点。"]
    tokenizer = make_tokenizer(TOOLS, eos="<|im_end|>")
    assert '<call>clock {"zone": "北京"}</call>' in trained(encode_dataset(dataset, tokenizer)[0], tokenizer)


@pytest.mark.parametrize("value", ['{"name": "clock"}', "clock()", '[1, {"name": "x", "arguments": {}}]'])
def test_what_is_no_call_stays_text(value: str) -> None:
    row = load_sft([{"conversations": [human("几点？"), {"from": "function_call", "value": value}]}])[0]
    assert row["response"] == value
