"""Every format: what a row means, which adapter recognises it, and why a row is dropped."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.data.adapters import REGISTRY, Drop, by_name, recognise
from prefopt.data.adapters.implicit import WITHIN
from prefopt.data.recognising import ANY
from prefopt.data.records import Candidates, DataError, Turn
from tests.helpers.more_shapes import MORE
from tests.helpers.shapes import READ

USER, BOT = "user", "assistant"
EVERY = frozenset(ANY)


def u(content: str) -> Turn:
    return Turn(USER, content)


def a(content: str) -> Turn:
    return Turn(BOT, content)


def messages(*said: str) -> list[dict[str, str]]:
    return [{"role": (USER, BOT)[i % 2], "content": content} for i, content in enumerate(said)]


def sharegpt(*said: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": content} for i, content in enumerate(said)]


TWICE = "\n\nHuman: x\n\nHuman: y\n\nAssistant: "
HH = "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Name a fruit\n\nAssistant: "
FORMATS: list[tuple[str, dict[str, Any], Candidates]] = [
    (
        "hh-rlhf",
        {"chosen": HH + "An apple.", "rejected": HH + "An axe."},
        Candidates((u("Hello"), a("Hi."), u("Name a fruit")), ("An apple.", "An axe.")),
    ),
    (
        "rm-static",
        {"prompt": HH.rstrip(), "response": " An apple.", "chosen": " An apple.", "rejected": " An axe."},
        Candidates((u("Hello"), a("Hi."), u("Name a fruit")), ("An apple.", "An axe.")),
    ),
    (
        "rm-static-zh",
        {"prompt": "\n\nHuman: 你好\n\nAssistant:", "chosen": " 您好！", "rejected": " 走开"},
        Candidates((u("你好"),), ("您好！", "走开")),
    ),
    (
        "rm-static-zh",
        {"prompt": "人类：你好\n助手：您好。\n人类：说一种水果\n助手：", "chosen": "苹果", "rejected": "斧头"},
        Candidates((u("你好"), a("您好。"), u("说一种水果")), ("苹果", "斧头")),
    ),
    (
        "rm-static-zh",
        {"prompt": "用户: 你好 助理 : 您好。 用户： 再见 助理：", "chosen": "助理：再见！", "rejected": "不"},
        Candidates(
            (u("你好"), a("您好。"), u("再见")), ("再见！", "不"), repairs=("assistant tag removed from an answer",)
        ),
    ),
    (
        "hh-rlhf-cn",
        {
            "context": [{"role": "human", "text": "你好"}],
            "chosen": {"role": BOT, "text": "您好"},
            "rejected": {"role": BOT, "text": "走开"},
        },
        Candidates((u("你好"),), ("您好", "走开")),
    ),
    (
        "query-chosen-rejected",
        {"query": "A fruit?", "chosen": " Apple", "rejected": "Axe"},
        Candidates((u("A fruit?"),), (" Apple", "Axe")),
    ),
    (
        "query-chosen-rejected",
        {"question": "水果？", "chosen": "苹果", "rejected": "斧头"},
        Candidates((u("水果？"),), ("苹果", "斧头")),
    ),
    (
        "query-chosen-rejected",
        {"query": HH.rstrip(), "chosen": "Apple", "rejected": "Axe"},
        Candidates((u("Hello"), a("Hi."), u("Name a fruit")), ("Apple", "Axe")),
    ),
    (
        "trl",
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        Candidates((Turn("text", "The sky is"),), (" blue.", " green.")),
    ),
    (
        "trl",
        {"chosen": "The sky is blue.", "rejected": "The sky is brown."},
        Candidates((Turn("text", "The sky is"),), (" blue.", " brown.")),
    ),
    (
        "trl",
        {"chosen": "天空是蓝色的", "rejected": "天空是绿色的"},
        Candidates((Turn("text", "天空是"),), ("蓝色的", "绿色的"), repairs=(WITHIN,)),
    ),
    (
        "trl",
        {"prompt": messages("Hello"), "chosen": messages("Hello", "Hi.")[1:], "rejected": messages("Hello", "Go.")[1:]},
        Candidates((u("Hello"),), ("Hi.", "Go.")),
    ),
    (
        "trl",
        {"chosen": messages("Hello", "Hi.", "More?", "Yes."), "rejected": messages("Hello", "Hi.", "More?", "No.")},
        Candidates((u("Hello"), a("Hi."), u("More?")), ("Yes.", "No.")),
    ),
    (  # UltraFeedback: the text of the prompt beside whole conversations
        "trl",
        {"prompt": "Hello", "chosen": messages("Hello", "Hi."), "rejected": messages("Hello", "Go.")},
        Candidates((u("Hello"),), ("Hi.", "Go.")),
    ),
    (
        "llamafactory",
        {"instruction": "Translate", "input": "cat", "chosen": "猫", "rejected": "狗", "system": "Be brief."},
        Candidates((Turn("system", "Be brief."), u("Translate\ncat")), ("猫", "狗")),
    ),
    (
        "llamafactory",
        {"instruction": "翻译", "input": "", "output": ["猫", "狗"], "history": [["早", "早上好"]]},
        Candidates((u("早"), a("早上好"), u("翻译")), ("猫", "狗")),
    ),
    (
        "llamafactory",
        {"conversations": sharegpt("Hello"), "chosen": sharegpt("", "Hi.")[1], "rejected": sharegpt("", "Go.")[1]},
        Candidates((u("Hello"),), ("Hi.", "Go.")),
    ),
    (
        "rrhf",
        {"query": "Hello", "responses": ["Go.", "Hi.", "Oh"], "scores": [0.5, 2, -1.0]},
        Candidates((u("Hello"),), ("Hi.", "Go.", "Oh"), (2.0, 0.5, -1.0)),
    ),
    (
        "rrhf",
        {"question": "你好", "responses": [{"text": "走开", "rank_points": -3}, {"text": "您好", "rank_points": 1}]},
        Candidates((u("你好"),), ("您好", "走开"), (1.0, -3.0)),
    ),
    (
        "moss",
        {"chosen": ["早", "早！", "再见", "再见！"], "rejected": ["早", "早！", "再见", "不"]},
        Candidates((u("早"), a("早！"), u("再见")), ("再见！", "不")),
    ),
    (
        "hc3-chinese",
        {"question": "水果？", "human_answers": ["梨"], "chatgpt_answers": ["", "苹果"]},
        Candidates((u("水果？"),), ("苹果",)),
    ),
    (
        "hc3-chinese",
        {"question": "水果？", "human_answers": ["梨"], "chatgpt_answers": []},
        Candidates((u("水果？"),), ("梨",)),
    ),
    (
        "zhihu-kol",
        {"INSTRUCTION": "水果？", "RESPONSE": "苹果", "SOURCE": "Zhihu"},
        Candidates((u("水果？"),), ("苹果",)),
    ),
    (
        "alpaca",
        {"instruction": "Translate", "input": "cat", "output": "猫"},
        Candidates((u("Translate\ncat"),), ("猫",)),
    ),
    ("conversations", {"messages": messages("Hello", "Hi.")}, Candidates((u("Hello"),), ("Hi.",))),
    (
        "conversations",
        {"conversations": sharegpt("早", "早！", "再见", "再见！"), "system": "客气"},
        Candidates((Turn("system", "客气"), u("早")), ((a("早！"), u("再见"), a("再见！")),)),
    ),
    ("prompt-response", {"prompt": "1 + 1 =", "completion": " 2"}, Candidates((Turn("text", "1 + 1 ="),), (" 2",))),
    (
        "prompt-response",
        {"prompt": messages("Hello"), "completion": messages("", "Hi.")[1:]},
        Candidates((u("Hello"),), ("Hi.",)),
    ),
    (
        "prompt-response",
        {"prompt": "\n\nHuman: Hello\n\nAssistant:", "response": " Hi."},
        Candidates((u("Hello"),), ("Hi.",)),
    ),
    ("query-response", {"query": "Hello", "response": "Hi."}, Candidates((u("Hello"),), ("Hi.",))),
    ("text", {"text": " Once upon a time"}, Candidates((Turn("text", ""),), (" Once upon a time",))),
    ("prompts", {"prompt": "你好", "id": 3}, Candidates((Turn("text", "你好"),))),
    ("prompts", {"prompt": messages("Hello", "Hi.", "More?")}, Candidates((u("Hello"), a("Hi."), u("More?")))),
    ("prompts", {"prompt": HH.rstrip()}, Candidates((u("Hello"), a("Hi."), u("Name a fruit")))),
    ("queries", {"query": " Hello"}, Candidates((u("Hello"),))),
    ("queries", {"instruction": "Translate", "input": "cat"}, Candidates((u("Translate\ncat"),))),
]


@pytest.mark.parametrize(
    ("name", "row", "expected"), FORMATS, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(FORMATS)]
)
def test_a_row_is_recognised_and_read(name: str, row: dict[str, Any], expected: Candidates) -> None:
    found = recognise([row], EVERY)
    assert found is not None and found.name == name
    assert found(row) == expected


def test_every_adapter_has_a_row_above() -> None:
    assert {name for name, _, _ in FORMATS} | {name for name, *_ in (*READ, *MORE)} == set(REGISTRY)


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("hh-rlhf", {"chosen": HH + "An apple.", "rejected": HH + "An apple. "}, "identical answers"),
        ("hh-rlhf", {"chosen": HH, "rejected": HH + "An axe."}, "empty chosen"),
        ("hh-rlhf", {"chosen": HH + "An apple.", "rejected": HH}, "empty rejected"),
        ("hh-rlhf", {"chosen": HH + "x\n\nHuman: y", "rejected": HH + "z"}, "conversation ends on a user turn"),
        ("hh-rlhf", {"chosen": HH + "x", "rejected": HH.replace("fruit", "tool") + "y"}, "context mismatch"),
        ("hh-rlhf", {"chosen": HH + "x", "rejected": HH + "x\n\nHuman: y\n\nAssistant: z"}, "context mismatch"),
        ("hh-rlhf", {"chosen": "\n\nAssistant: x", "rejected": "\n\nAssistant: y"}, "no prompt"),
        ("hh-rlhf", {"chosen": HH + "x", "rejected": 3}, "field 'rejected': is a number, expected text"),
        ("hh-rlhf", {"chosen": "Hello", "rejected": "Hi"}, "text does not start with a speaker tag"),
        ("rm-static", {"prompt": "Hello", "chosen": "x", "rejected": "y"}, "prompt does not start with a speaker tag"),
        ("rm-static", {"prompt": HH.rstrip(), "chosen": "x"}, "field 'rejected': missing"),
        (
            "rm-static",
            {"prompt": HH + "x", "chosen": "y", "rejected": "z"},
            "prompt ends on an assistant turn, expected a user turn",
        ),
        ("moss", {"chosen": ["x", "y"], "rejected": ["z", "y2"]}, "context mismatch"),
        ("moss", {"chosen": ["x", "y", "z"], "rejected": ["x", "y", "w"]}, "conversation ends on a user turn"),
        (
            "trl",
            {"prompt": messages("x"), "chosen": [{"role": "clown", "content": "y"}], "rejected": []},
            "field 'chosen': unknown role 'clown'",
        ),
        (
            "trl",
            {"prompt": "x", "chosen": "y", "rejected": "z", "margin": float("inf")},
            "field 'margin': is inf, expected a finite number",
        ),
        (
            "trl",
            {"prompt": "x", "chosen": "y", "rejected": "z", "margin": "big"},
            "field 'margin': is text, expected a number",
        ),
        (
            "trl",
            {"prompt": "x", "chosen": "\ud800", "rejected": "z"},
            "text holds half a surrogate pair, which is not valid Unicode",
        ),
        ("rrhf", {"query": "x", "responses": ["y", "z"], "scores": [1.0]}, "responses and scores differ in number"),
        ("rrhf", {"query": "x", "responses": ["y", " "], "scores": [1, 2]}, "fewer than two responses"),
        (
            "trl",
            {"prompt": [{"role": "text", "content": "x"}] * 2, "chosen": "y", "rejected": "z"},
            "bare text beside other turns",
        ),
        ("conversations", {"messages": messages("x")}, "conversation has no assistant turn"),
        ("conversations", {"messages": messages("x", "y")[1:]}, "no prompt"),
        ("conversations", {"messages": messages("x", " ")}, "empty response"),
        ("prompts", {"prompt": messages("x", "y")}, "prompt ends on an assistant turn, expected a user turn"),
        (
            "llamafactory",
            {"instruction": "x", "output": ["y"]},
            "field 'output': expected two texts, chosen and rejected",
        ),
        (
            "trl",
            {"prompt": "x", "chosen": "y", "rejected": "z", "finished": True},
            "field 'finished': is true or false, expected a list",
        ),
        (
            "trl",
            {"prompt": "x", "chosen": "y", "rejected": "z", "finished": [True, 0]},
            "field 'finished': its list holds a number, expected true or false for each response",
        ),
        (
            "trl",
            {"prompt": messages("x"), "chosen": "y", "rejected": "z", "finished": [True]},
            "field 'finished': holds 1 values for 2 responses, expected one for each",
        ),
        (
            "rrhf",
            {"query": "x", "responses": ["y", "", "z"], "finished": [True, False]},
            "field 'finished': holds 2 values for 3 responses, expected one for each",
        ),
        (
            "prompt-response",
            {"prompt": "x", "response": "y", "finished": "no"},
            "field 'finished': is text, expected a list",
        ),
        (
            "prompt-response",
            {"prompt": "x", "response": "y", "finished": [None]},
            "field 'finished': its list holds null, expected true or false for each response",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_reason(name: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Drop) as caught:
        by_name(name)(row)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("name", "row", "repair"),
    [
        ("hh-rlhf", {"chosen": TWICE + "z", "rejected": TWICE + "w"}, "consecutive turns of one speaker merged"),
        ("rm-static", {"prompt": "\n\nHuman: x", "chosen": "y", "rejected": "z"}, "final assistant tag was missing"),
        ("rrhf", {"query": "x", "responses": ["y", "", "z"]}, "empty response removed from the list"),
        ("conversations", {"messages": messages("x", "y", "z")}, "turns after the last answer removed"),
    ],
)
def test_a_mended_row_says_so(name: str, row: dict[str, Any], repair: str) -> None:
    assert by_name(name)(row).repairs == (repair,)


def test_merging_keeps_all_that_was_said() -> None:
    assert by_name("hh-rlhf")({"chosen": TWICE + "z", "rejected": TWICE + "w"}).prompt == (u("x\n\ny"),)
    empty = "\n\nHuman:\n\nHuman: y\n\nAssistant: "
    assert by_name("hh-rlhf")({"chosen": empty + "z", "rejected": empty + "w"}).prompt == (u("y"),)


def test_a_name_makes_a_bare_prompt_a_users_turn() -> None:
    row = {"prompt": "A fruit?", "chosen": "Apple", "rejected": "Axe"}
    assert by_name("query-chosen-rejected")(row).prompt == (u("A fruit?"),)
    assert by_name("trl")(row).prompt == (Turn("text", "A fruit?"),)


def test_extras_of_a_pair() -> None:
    row = {
        "query": "x",
        "chosen": "y",
        "rejected": "z",
        "margin": 1,
        "grade": "Slightly better",
        "score_chosen": 8.5,
        "score_rejected": 3,
    }
    found = by_name("query-chosen-rejected")(row)
    assert (found.margin, found.grade, found.scores) == (1.0, "slightly", (8.5, 3.0))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("trl", {"prompt": "The sky is", "chosen": " blue", "rejected": " green"}),
        ("trl", {"prompt": messages("你好"), "chosen": "您好", "rejected": "走"}),
        ("trl", {"chosen": messages("Hello", "Hi."), "rejected": messages("Hello", "Go")}),
        ("query-chosen-rejected", {"query": "x", "chosen": "y", "rejected": "z"}),
        ("rm-static", {"prompt": HH.rstrip(), "chosen": "An apple.", "rejected": "An"}),
        ("rm-static-zh", {"prompt": "人类：你好\n助手：", "chosen": "您好", "rejected": "走"}),
        ("rrhf", {"prompt": messages("你好"), "responses": ["您好", "走"]}),
    ],
)
def test_which_responses_finished_is_read_beside_the_answers(name: str, row: dict[str, Any]) -> None:
    found = recognise([row], EVERY)
    assert found is not None and found.name == name
    assert found(row).finished is None
    assert found({**row, "finished": [True, False]}).finished == (True, False)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "x", "completion": "y"},
        {"prompt": messages("你好"), "response": "您好"},
        {"prompt": HH.rstrip(), "response": "An apple"},
        {"query": "x", "response": "y"},
    ],
)
def test_of_a_single_response_it_may_be_bare(row: dict[str, Any]) -> None:
    found = recognise([row], EVERY)
    assert found is not None
    assert [found({**row, "finished": given}).finished for given in (False, [False], True)] == [
        (False,), (False,), (True,),
    ]  # fmt: skip


@pytest.mark.parametrize("scores", [None, [1.0, 0.0, 3.0, 2.0]])
def test_in_a_list_it_moves_with_the_responses(scores: list[float] | None) -> None:
    row = {"query": "x", "responses": ["a", " ", "b", "c"], "finished": [False, True, True, False], "scores": scores}
    found = by_name("rrhf")(row)
    moved = dict(zip(found.responses, found.finished or (), strict=True))
    assert moved == {"a": False, "b": True, "c": False}
    assert found.responses == (("a", "b", "c") if scores is None else ("b", "c", "a"))


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [one for one in FORMATS if not REGISTRY[one[0]].finish_columns and one[0] != "rrhf"],  # which reads it itself
)
def test_elsewhere_the_field_may_mean_anything(name: str, row: dict[str, Any], expected: Candidates) -> None:
    for value in ("2023-04-01", False, 3, ["a"], {"at": 1}):
        assert by_name(name)({**row, "finished": value}) == expected


@pytest.mark.parametrize(
    ("given_", "short"),
    [
        ("significantly", "significantly"),
        ("Significantly better", "significantly"),
        ("better", "better"),
        ("slightly better", "slightly"),
        ("negligibly better / unsure", "negligibly"),
        ("unsure", "negligibly"),
    ],
)
def test_grades_have_long_forms(given_: str, short: str) -> None:
    assert by_name("trl")({"prompt": "x", "chosen": "y", "rejected": "z", "grade": given_}).grade == short


def test_an_unknown_grade_is_no_silent_zero_margin() -> None:
    with pytest.raises(Drop, match="'much better' is not one of significantly, better, slightly, negligibly"):
        by_name("trl")({"prompt": "x", "chosen": "y", "rejected": "z", "grade": "much better"})


def test_an_unknown_adapter_names_the_known_ones() -> None:
    with pytest.raises(DataError, match="unknown adapter 'hh'.*(?s:.*)hh-rlhf"):
        by_name("hh")


def test_labelled_answers_are_not_taken_for_good_ones() -> None:
    found = recognise([{"prompt": "x", "completion": "y", "label": False}], EVERY)
    assert found is not None and (found.name, found.kind) == ("labelled", "unpaired")


def test_one_odd_row_does_not_change_the_format() -> None:
    good = {"chosen": HH + "x", "rejected": HH + "y"}
    found = recognise([{"chosen": "broken", "rejected": "broken"}, good, good], EVERY)
    assert found is not None and found.name == "hh-rlhf"


def test_an_english_tag_within_an_answer_is_text() -> None:
    play = "Scene one.\nHuman: To be\nAssistant: or not"
    prompt = f"\n\nHuman: Write a play\n\nAssistant: {play}\n\nHuman: Go on\n\nAssistant:"
    found = by_name("rm-static")({"prompt": prompt, "chosen": "x", "rejected": "y"})
    assert found.prompt == (u("Write a play"), a(play), u("Go on"))


SPEECH = (
    st.text(st.sampled_from("ab 你好:：\n.H"), min_size=1, max_size=12)
    .map(str.strip)
    .filter(lambda said: said and "\n\n" not in said)
)


@given(st.lists(st.tuples(SPEECH, SPEECH), min_size=0, max_size=3), SPEECH, SPEECH, SPEECH)
def test_a_transcript_built_from_turns_is_read_back(
    context: list[tuple[str, str]], question: str, good: str, bad: str
) -> None:
    prompt = "".join(f"\n\nHuman: {x}\n\nAssistant: {y}" for x, y in context) + f"\n\nHuman: {question}\n\nAssistant:"
    turns = tuple(turn for x, y in context for turn in (u(x), a(y))) + (u(question),)
    row = {"chosen": f"{prompt} {good}", "rejected": f"{prompt} {bad}"}
    if good == bad:
        with pytest.raises(Drop, match="identical"):
            by_name("hh-rlhf")(row)
    else:
        assert by_name("hh-rlhf")(row) == Candidates(turns, (good, bad))
        assert by_name("rm-static")({"prompt": prompt, "chosen": f" {good}", "rejected": f" {bad}"}).prompt == turns


def shared(a: str, b: str) -> str:
    """The words and spaces that two texts begin with in common."""
    cut = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return re.sub(r"[a-z]*$", "", a[:cut]).strip()


def half_a_word(seam: str) -> bool:
    return len(seam) == 2 and seam.isascii() and seam.isalnum()


@given(st.text("ab 你，", max_size=8), st.text("ab 你，", max_size=8), st.text("ab 你，", max_size=8))
def test_an_implicit_text_prompt_loses_nothing(start: str, good: str, bad: str) -> None:
    row = {"chosen": start + good, "rejected": start + bad}
    try:
        found = by_name("trl")(row)
    except Drop as reason:
        unshared = "no prompt: no column is one, and the answers begin differently"
        assert str(reason) in ("identical answers", "empty chosen", "empty rejected", unshared)
        assert (str(reason) == unshared) <= (not shared(row["chosen"], row["rejected"]))
    else:
        prompt = found.prompt[0].content
        assert [prompt + answer for answer in found.responses] == [row["chosen"], row["rejected"]]  # type: ignore[operator]
        assert not any(half_a_word(prompt[-1:] + str(answer)[:1]) for answer in found.responses)
