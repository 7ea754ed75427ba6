"""Variables of the chat template: defaults for a run, values of a row, and what the template does not read."""

import json
import logging
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from prefopt.data import DataError, encode_dataset, encode_prompt, load, set_template_defaults
from prefopt.data.template_variables import variables
from tests.helpers.tokenizers import CHATML, TOOLS, make_tokenizer

Q = {"role": "user", "content": "中国的首都是哪里？"}
ROW = {"prompt": [Q], "chosen": "北京。", "rejected": "Paris."}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(TOOLS, eos="<|im_end|>")


def expected(tokenizer: Any, messages: Any = (Q,), **kwargs: Any) -> list[int]:
    """The ids that a tokenizer which nobody changed gives by itself."""
    fresh: Any = make_tokenizer(TOOLS, eos="<|im_end|>")
    return list(fresh.apply_chat_template(list(messages), add_generation_prompt=True, **kwargs)["input_ids"])


def prompt_ids(rows: Any, tokenizer: Any) -> list[list[int]]:
    return [list(ids) for ids in encode_dataset(rows, tokenizer)["prompt_ids"]]


@pytest.mark.parametrize("given", [{"enable_thinking": False}, '{"enable_thinking": false}'])
def test_a_default_is_in_training_and_sampling(tokenizer: PreTrainedTokenizerFast, given: Any) -> None:
    wanted = expected(tokenizer, enable_thinking=False)
    assert wanted != expected(tokenizer)
    set_template_defaults(tokenizer, given)
    assert prompt_ids([ROW], tokenizer) == [wanted]
    assert encode_prompt([Q], tokenizer) == wanted


def test_a_row_has_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    set_template_defaults(tokenizer, {"enable_thinking": False})
    rows = [{**ROW, "chat_template_kwargs": {"enable_thinking": True}}, ROW, {**ROW, "chat_template_kwargs": "{}"}]
    off, on = expected(tokenizer, enable_thinking=False), expected(tokenizer, enable_thinking=True)
    assert prompt_ids(rows, tokenizer) == [on, off, off]


def test_rows_without_any_are_as_before(tokenizer: PreTrainedTokenizerFast) -> None:
    dataset, _ = load([ROW])
    assert dataset.features["prompt"].feature.keys() == {"role", "content"}
    assert prompt_ids([ROW], tokenizer) == [expected(tokenizer)]


@pytest.mark.parametrize(
    "value", [True, None, -1, 1e-07, "a%}}}\"中😀\n'\\", [1, "b", None], {"deep": {"er": [False, None]}, "二": 2}]
)
@pytest.mark.parametrize("template", ["{{ x | tojson }}", "\n  {% if true %}\n y{{ x | tojson }}{% endif %}\n"])
def test_a_default_is_the_value_to_the_letter(value: Any, template: str) -> None:
    """Also where the template begins with space, of which Jinja takes some away."""
    messages = [{"role": "user", "content": "x"}]
    tokenizer = make_tokenizer(template)
    given: Any = tokenizer.apply_chat_template(messages, tokenize=False, x=value)
    set_template_defaults(tokenizer, {"x": value})
    assert tokenizer.apply_chat_template(messages, tokenize=False) == given


def test_the_last_default_counts_and_the_text_does_not_grow(tokenizer: PreTrainedTokenizerFast) -> None:
    set_template_defaults(tokenizer, {"enable_thinking": True})
    set_template_defaults(tokenizer, {"enable_thinking": False})
    once = make_tokenizer(TOOLS, eos="<|im_end|>")
    set_template_defaults(once, {"enable_thinking": False})
    assert tokenizer.chat_template == once.chat_template


def test_it_is_saved_with_the_tokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Any) -> None:
    set_template_defaults(tokenizer, {"enable_thinking": False})
    tokenizer.save_pretrained(tmp_path)
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert encode_prompt([Q], saved) == expected(tokenizer, enable_thinking=False)


def test_each_of_several_templates_has_it(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = {"default": CHATML, "tool_use": TOOLS}  # type: ignore[assignment]
    set_template_defaults(tokenizer, {"enable_thinking": False})
    assert encode_prompt([Q], tokenizer) == expected(tokenizer)
    with_tools = [{**Q, "tools": '[{"name": "clock"}]'}]
    assert encode_prompt(with_tools, tokenizer) == expected(tokenizer, tools=[{"name": "clock"}], enable_thinking=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"enable_thinkin": False}, "reads no variable 'enable_thinkin'; did you mean enable_thinking"),
        ({"tokenize": True}, "has 'tokenize', which is decided with every conversation"),
        ({"bos_token": "x"}, "has 'bos_token'"),
        ({"enable_thinking": {1, 2}}, "no plain value"),
        ({"enable_thinking": float("nan")}, "no plain value"),
        ("[1]", "chat_template_kwargs is a list, expected an object"),
        ("思考", "chat_template_kwargs is '思考', expected an object, or JSON text"),
    ],
)
def test_a_default_that_nothing_reads_is_an_error(tokenizer: PreTrainedTokenizerFast, given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        set_template_defaults(tokenizer, given)


def test_without_a_template_it_is_an_error() -> None:
    with pytest.raises(DataError, match="no chat template, which would read them: give one by chat_template_path"):
        set_template_defaults(make_tokenizer(), {"enable_thinking": False})
    with pytest.raises(DataError, match="it reads none but the conversation"):
        set_template_defaults(make_tokenizer(CHATML), {"enable_thinking": False})


@pytest.mark.parametrize("template", [None, CHATML, TOOLS])
def test_what_the_template_does_not_read_of_a_row_is_counted(
    template: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**ROW, "chat_template_kwargs": {"budget": 3}}, ROW]
    with caplog.at_level(logging.WARNING, "prefopt.data"):
        ids = prompt_ids(rows, make_tokenizer(template))
    assert ids[0] == ids[1]
    assert (
        "1 rows: tools, tool calls, reasoning_content or chat_template_kwargs that the chat template does not use"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "chat_template_kwargs": "on"}, "field 'chat_template_kwargs': is text, expected an object"),
        ({**ROW, "chat_template_kwargs": [1]}, "field 'chat_template_kwargs': is a list, expected an object"),
        ({"text": "x", "chat_template_kwargs": {"a": 1}}, "cannot stand before a text without a prompt"),
        (
            {**ROW, "prompt": [{**Q, "chat_template_kwargs": {"a": 1}}], "chat_template_kwargs": {"a": 2}},
            "two different values of 'chat_template_kwargs'",
        ),
    ],
)
def test_a_column_of_something_else_drops_its_row(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load([row], "any")


def test_names_that_are_taken_are_refused_in_a_row_too(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="row 0: chat_template_kwargs has 'add_generation_prompt'"):
        prompt_ids([{**ROW, "chat_template_kwargs": {"add_generation_prompt": False}}], tokenizer)


def test_variables_are_those_that_a_template_does_not_make_itself() -> None:
    """In the forms that published templates write."""
    made = "{% set mode = mode if mode is defined else 1 %}{% if not think is defined %}{% set think = 2 %}{% endif %}"
    macro = "{% macro f(y) %}{{ y }}{{ depth }}{% endmacro %}"
    loop = "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% if m %}{% break %}{% endif %}"
    assert variables(made + macro + loop + "{% endfor %}{{ f(1) }}{# unused #}") == {
        "mode",
        "think",
        "depth",
        "messages",
    }
    with pytest.raises(DataError, match="not valid Jinja: line 2"):
        variables("\n{% if %}")


def test_the_values_are_json_text_in_the_first_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{**ROW, "chat_template_kwargs": {"名": "值", "none": None}}, ROW]
    first, second = load(rows)[0]["prompt"]
    assert json.loads(first[0]["chat_template_kwargs"]) == {"名": "值"} and "名" in first[0]["chat_template_kwargs"]
    assert second[0]["chat_template_kwargs"] is None
