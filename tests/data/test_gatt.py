"""Ghost Attention: what instructions say, when an answer keeps to one, what is trained on, how long one is kept."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prefopt.data import DataError, Encoding, encode_dataset, load_sft
from prefopt.data.gatt import Constraint, Instruction, gatt_rows, holds, sample_instructions, survival, with_instruction
from prefopt.data.gatt.checks import begins, in_script, mentions, script_of
from prefopt.testbed.model import build_tokenizer

SYSTEM = {"role": "system", "content": "Be kind."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


OPENING = Instruction((Constraint("opening", "Begin with Well", "Begin: Well", ("Well",)),), shortened=True)
TALK = [SYSTEM, user("one"), assistant("1"), user("two"), assistant("2"), user("three"), assistant("3")]


# Instructions


def test_instructions_are_combined_and_half_of_them_shortened() -> None:
    found = sample_instructions(2000, 3)
    assert found == sample_instructions(2000, 3) != sample_instructions(2000, 4)
    for count in (1, 2, 3):
        share = np.mean([len(one.constraints) == count for one in found])
        assert share == pytest.approx(1 / 3, abs=0.04)
    assert np.mean([one.shortened for one in found]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([one.language == "zh" for one in found]) == pytest.approx(0.5, abs=0.04)
    kinds = Counter(constraint.kind for one in found for constraint in one.constraints)
    assert set(kinds) == {"hobby", "language", "persona"} and min(kinds.values()) > 1200
    assert all(len({c.kind for c in one.constraints}) == len(one.constraints) for one in found)
    assert all(one.training_text == one.text for one in found if not one.shortened)
    assert all(len(one.training_text) < len(one.text) for one in found if one.shortened)


def test_instructions_in_both_languages() -> None:
    found = sample_instructions(300, 0)
    assert any(one.text == "Always act as Napoleon from now on." for one in found)
    for one in found:
        assert script_of(one.text) == script_of(one.training_text) == {"en": "latin", "zh": "han"}[one.language]
    (english,) = {one.language for one in sample_instructions(50, 0, languages=["en"])}
    assert english == "en"
    with pytest.raises(ValueError, match=r"\['fr'\]: give one or more of en, zh"):
        sample_instructions(1, languages=["fr"])
    with pytest.raises(ValueError, match="give one or more of hobby, language, persona"):
        sample_instructions(1, kinds=[])


# Whether an answer keeps to one


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("I don't know.", "latin"),
        ("我用 Python 写程序。", "han"),
        ("The word 你好 means hello.", "latin"),
        ("今日はいい天気ですね。", "kana"),
        ("Привет, как дела?", "cyrillic"),
        ("저는 테니스를 좋아합니다.", "hangul"),
        ("مرحبا بك", "arabic"),
        ("Καλημέρα", "greek"),
        ("नमस्ते दुनिया", "devanagari"),
        ("42!", ""),
        ("", ""),
        ("hello 你", ""),
    ],
)
def test_the_script_of_a_text(text: str, script: str) -> None:
    assert script_of(text) == script
    assert not script or in_script(Constraint("language", "", "", (script,)), text)


def test_words_are_whole_words() -> None:
    chess = Constraint("hobby", "", "", ("chess", "象棋"))
    assert mentions(chess, "I like Chess!") and mentions(chess, "我喜欢下象棋。")
    assert not mentions(chess, "A chessboard") and not mentions(chess, "")
    well = Constraint("opening", "", "", ("Well", "好的！"))
    assert begins(well, " well, yes") and begins(well, "好的！是北京。")
    assert not begins(well, "Wellington") and not begins(well, "Oh well") and not begins(well, "")


def test_a_kind_of_ones_own() -> None:
    polite = Instruction((Constraint("tone", "Be polite.", "Polite"),))
    with pytest.raises(ValueError, match="of the kind 'tone'.*checks={'tone': function"):
        holds(polite, "Yes.")
    checks = {"tone": lambda constraint, answer: "please" in answer}
    assert holds(polite, "please", checks) and not holds(polite, "no", checks)


# What is trained on


def test_the_instruction_stands_in_every_turn_or_in_the_first() -> None:
    contents = [turn["content"] for turn in with_instruction(TALK, "Do.")]
    assert contents == ["Be kind.", "Do.\n\none", "1", "Do.\n\ntwo", "2", "Do.\n\nthree", "3"]
    contents = [turn["content"] for turn in with_instruction(TALK, "Do.", every=False)]
    assert contents == ["Be kind.", "Do.\n\none", "1", "two", "2", "three", "3"] and TALK[1]["content"] == "one"
    for talk in ([], [{"role": "text", "content": "Once"}], [SYSTEM]):
        with pytest.raises(DataError, match="no user's turn"):
            with_instruction(talk, "Do.")


class Model:
    """Says which turn it is, and remembers what it was asked."""

    def __init__(self, *replies: Any):
        self.replies, self.prompts = list(replies), list[Any]()

    def __call__(self, prompts: Any) -> list[Any]:
        self.prompts += prompts
        return [
            self.replies.pop(0) if self.replies else f"Well, {sum(turn['role'] == 'user' for turn in prompt)}"
            for prompt in prompts
        ]


def test_a_response_is_sampled_with_every_turn_told_and_trained_with_the_first() -> None:
    model = Model()
    made = gatt_rows([TALK[:6], TALK[:2]], [OPENING, OPENING], model)
    assert sorted(len(prompt) for prompt in model.prompts) == [2, 6]
    longest = max(model.prompts, key=len)
    assert longest == with_instruction(TALK[:6], "Begin with Well")
    assert made.rows == [
        {"prompt": with_instruction(TALK[:6], "Begin: Well", every=False), "response": "Well, 3"},
        {"prompt": with_instruction(TALK[:2], "Begin: Well", every=False), "response": "Well, 1"},
    ]
    assert made.sources == [0, 1] and not made.dropped


def test_the_loss_is_on_the_last_answer_alone() -> None:
    tokenizer = build_tokenizer()
    rows = gatt_rows([TALK[1:]], [OPENING], Model()).rows
    encoded = encode_dataset(load_sft(rows), tokenizer, Encoding())[0]
    (response,) = encoded["response_ids"]
    assert tokenizer.decode(response) == "Well, 3<eos>" and "loss_mask" not in encoded
    assert "2<eos><user>three" in tokenizer.decode(encoded["prompt_ids"])


def test_a_row_for_each_turn_with_sampled_answers() -> None:
    model = Model("", SimpleNamespace(text="cut", finished=False), "Well, 3")
    made = gatt_rows([TALK], [OPENING], model, answers="sampled", each_turn=True)
    assert made.dropped == {"empty": 1, "truncated": 1} and len(made.rows) == 1
    assert [turn["content"] for turn in made.rows[0]["prompt"]] == [
        *("Be kind.", "Begin: Well\n\none", "", "two", "cut", "three")
    ]
    assert [len(prompt) for prompt in model.prompts] == [2, 4, 6]


def test_responses_that_do_not_keep_to_it_are_left_out() -> None:
    made = gatt_rows([TALK, TALK], [OPENING, OPENING], Model("No.", "Well."), keep=holds)
    assert [row["response"] for row in made.rows] == ["Well."] and made.sources == [1]
    assert made.dropped == {"not kept": 1}


def test_what_cannot_be_a_conversation() -> None:
    with pytest.raises(DataError, match="turn 1 has no answer.*answers='sampled'"):
        gatt_rows([[user("one"), user("two")]], [OPENING], Model())
    with pytest.raises(DataError, match="2 conversations and 1 instructions"):
        gatt_rows([TALK, TALK], [OPENING], Model())
    with pytest.raises(DataError, match="answers='own'"):
        gatt_rows([TALK], [OPENING], Model(), answers="own")
    with pytest.raises(ValueError, match="2 replies to 1 prompts"):
        gatt_rows([TALK], [OPENING], lambda prompts: ["a", "b"])


# How long it is kept


def test_survival_by_turn() -> None:
    """Of two conversations one is forgotten in the second turn and remembered in the third, one ends before that."""
    model = Model("Well, a", "Well, b", "Oh", "Well, c", "Well, d")
    found = survival([TALK, TALK[:4]], [OPENING, OPENING], model)
    assert np.array_equal(found.held, [[1, 0, 1], [1, 1, np.nan]], equal_nan=True)
    assert found.replies == [["Well, a", "Oh", "Well, d"], ["Well, b", "Well, c"]]
    assert [(round(one.share, 2), one.conversations) for one in found.recall()] == [(1.0, 2), (0.5, 2), (1.0, 1)]
    assert [one.share for one in found.survived()] == [1.0, 0.5, 0.0] and found.lifetimes().tolist() == [1, 2]
    # The model's own answers are in the history, and the instruction in the first turn alone.
    assert model.prompts[-1] == [
        SYSTEM,
        *(user("Begin with Well\n\none"), assistant("Well, a"), user("two"), assistant("Oh"), user("three")),
    ]
    # Wilson's interval for 1 of 2, from its closed form.
    low, high = found.recall()[1].low, found.recall()[1].high
    z = 1.959964
    half = z * np.sqrt(0.25 / 2 + z**2 / 16) / (1 + z**2 / 2)
    assert (low, high) == (pytest.approx(0.5 - half, abs=1e-5), pytest.approx(0.5 + half, abs=1e-5))


def test_a_probe_is_asked_beside_the_conversation() -> None:
    persona = Constraint("persona", "Act as Li Bai.", "Li Bai", ("Li Bai", "李白"), "Who are you?")
    asked: list[Any] = []

    def respond(prompts: Any) -> list[str]:
        asked.extend(prompts)
        return ["我是李白。" if prompt[-1]["content"].endswith("Who are you?") else "Hm." for prompt in prompts]

    found = survival([TALK[1:4]], [Instruction((persona,))], respond, every=True)
    assert found.held.tolist() == [[1, 1]] and found.replies == [["Hm.", "Hm."]]
    last = [turn["content"] for turn in asked[-1]]
    assert last == ["Act as Li Bai.\n\none", "Hm.", "Act as Li Bai.\n\nWho are you?"]
