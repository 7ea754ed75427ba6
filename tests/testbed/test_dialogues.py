"""The synthetic task made multi-turn: what is asked, what demonstrations teach, how an instructed answer is judged."""

from __future__ import annotations

from prefopt.data.gatt import holds
from prefopt.testbed import dialogue_sft_rows, gold, instructed_gold, sample_dialogues, sample_openings
from prefopt.testbed.dialogues import OPENINGS, obeying, opening_instruction
from prefopt.testbed.model import MAX_LENGTH, build_tokenizer
from prefopt.testbed.prompts import find_prompt


def test_dialogues_keep_to_their_split_and_language() -> None:
    train, test = (sample_dialogues(60, 0, turns=3, split=split) for split in ("train", "test"))
    asked = [{turn["content"] for talk in talks for turn in talk[::2]} for talks in (train, test)]
    assert not asked[0] & asked[1]
    assert sample_dialogues(60, 0, turns=3) == train
    for talk in train:
        assert [turn["role"] for turn in talk] == ["user", "assistant"] * 2 + ["user"]
        assert len({find_prompt([turn]).language for turn in talk[::2]}) == 1
        assert all(gold(find_prompt([talk[n]]), talk[n + 1]["content"]) == 2.5 for n in (0, 2))
    assert {find_prompt(talk).language for talk in train} == {"en", "zh"}


def test_a_demonstration_obeys_exactly_in_the_turns_that_tell_it() -> None:
    rows, openings = dialogue_sft_rows(300, 1, turns=4), [value for words in OPENINGS for value in words]
    told_once = 0
    for row in rows:
        turns = [*row["prompt"], {"role": "assistant", "content": row["response"]}]
        told = [turn["content"].startswith(("Begin with", "开头说")) for turn in turns[::2]]
        obeyed = [turn["content"].startswith(tuple(openings)) for turn in turns[1::2]]
        assert told == obeyed
        told_once += told[0] and not told[-1]
    assert told_once > 20
    tokenizer = build_tokenizer()
    whole = [tokenizer.apply_chat_template(row["prompt"], return_dict=False) for row in rows]
    assert max(map(len, whole)) < MAX_LENGTH - 64


def test_the_gold_check_of_an_instructed_answer() -> None:
    """The opening is no part of what the gold reward reads; any other is garbage to it."""
    for language, talk in ((find_prompt(talk).language, talk) for talk in sample_dialogues(8, 2, turns=2)):
        told = opening_instruction(OPENINGS[0], language)
        plain = talk[1]["content"]
        reply = obeying(told, plain)
        assert instructed_gold(talk[:1], told, reply) == (True, 2.5) and holds(told, reply)
        assert instructed_gold(talk[:1], told, plain) == (False, 2.5) and not holds(told, plain)
        other = opening_instruction(OPENINGS[1], language)
        assert instructed_gold(talk[:1], other, reply) == (False, 1.5)
    assert [one.language for one in sample_openings(sample_dialogues(8, 2, turns=2), 0)] == [
        find_prompt(talk).language for talk in sample_dialogues(8, 2, turns=2)
    ]
