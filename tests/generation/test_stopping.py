"""A response ends where it should, and its text is what stands before that. No model here."""

from __future__ import annotations

import pytest

from prefopt.data.encode import stop_token_ids
from prefopt.generation.stopping import StoppingRules


def rules_of(tokenizer, *strings: str, limit: int = 1000) -> StoppingRules:
    return StoppingRules(tokenizer, tuple(stop_token_ids(tokenizer)), limit, strings)


def walk(rules: StoppingRules, text: str) -> tuple[int, str | None, list[int]]:
    """Feed a text token by token: after how many it ended, why, and its ids up to there."""
    ids = rules.tokenizer(text, add_special_tokens=False).input_ids
    for count in range(1, len(ids) + 1):
        reason = rules.finish_reason(ids[:count])
        if reason:
            return count, reason, ids[:count]
    return len(ids), None, ids


RARE = "鑫龘𠮷"
"""Characters that the tokenizer spells in several tokens each."""


def test_a_stop_string_ends_a_response_and_is_no_part_of_its_text(tokenizer) -> None:
    rules = rules_of(tokenizer, "\n\nHuman:", "###")
    text = "Sure, here you are.\n\nHuman: and then ### more"
    count, reason, ids = walk(rules, text)
    assert reason == "stop_string" and rules.text(ids, "stop_string") == "Sure, here you are."
    # It ended with the very token that completed the string.
    assert "Human:" in tokenizer.decode(ids) and "Human:" not in tokenizer.decode(ids[:-1])


def test_the_first_stop_string_in_the_text_counts(tokenizer) -> None:
    ids = tokenizer("one two three", add_special_tokens=False).input_ids
    assert rules_of(tokenizer, "three", "two").text(ids, "stop_string") == "one"


@pytest.mark.parametrize("stop", ["。", RARE[0], RARE, "祝你" + RARE[1]])
def test_a_stop_string_whose_characters_span_several_tokens(tokenizer, stop: str) -> None:
    before = f"好的，{RARE[2]}在这里"
    spelled = tokenizer(RARE[0], add_special_tokens=False).input_ids
    assert len(spelled) > 1 and tokenizer.unk_token_id not in spelled
    count, reason, ids = walk(rules_of(tokenizer, stop), f"{before}{stop}再见")
    assert reason == "stop_string" and rules_of(tokenizer, stop).text(ids, "stop_string") == before
    assert stop in tokenizer.decode(ids) and stop not in tokenizer.decode(ids[:-1])


@pytest.mark.parametrize(
    ("pieces", "stops", "before"),
    [
        (["好", "的", "。", "再"], ["。"], ["好", "的"]),
        (["w", "a", "t", "er", " fl", "our"], [" fl"], ["w", "a", "t", "er"]),
        (["w", "a", "t", "er", " flour"], ["f", "zz"], None),
        (["好", "的", RARE[0]], [RARE[0]], ["好", "的"]),
        (["water"], ["wat"], []),
        (["water"], ["ter"], None),
    ],
)
def test_how_many_ids_stand_before_a_stop_string(tokenizer, pieces, stops, before) -> None:
    """None where it begins within a token: no ids say the text then."""
    ids = [tokenizer(piece, add_special_tokens=False).input_ids for piece in pieces]
    count = rules_of(tokenizer, *stops).before_stop_string([each for piece in ids for each in piece])
    assert count == (None if before is None else sum(map(len, ids[: len(before)])))
    assert rules_of(tokenizer, "###").before_stop_string(ids[0]) is None


def test_half_a_character_is_no_stop_string(tokenizer) -> None:
    half = tokenizer(RARE[0], add_special_tokens=False).input_ids[:-1]
    assert "\N{REPLACEMENT CHARACTER}" in tokenizer.decode(half)
    assert rules_of(tokenizer, "\N{REPLACEMENT CHARACTER}").finish_reason(half) is None


def test_a_stop_string_at_the_start_leaves_nothing(tokenizer) -> None:
    count, reason, ids = walk(rules_of(tokenizer, "\nHuman"), "\nHuman: hello")
    assert reason == "stop_string" and rules_of(tokenizer, "\nHuman").text(ids, "stop_string") == ""


def test_a_stop_token_comes_first_and_the_limit_last(tokenizer) -> None:
    stop = stop_token_ids(tokenizer)[0]
    ids = tokenizer("yes", add_special_tokens=False).input_ids
    rules = rules_of(tokenizer, "yes", limit=len(ids))
    assert rules.finish_reason([*ids, stop]) == "stop"
    assert rules.finish_reason(ids) == "stop_string"
    assert rules_of(tokenizer, limit=len(ids)).finish_reason(ids) == "length"
    assert rules_of(tokenizer, limit=len(ids) + 1).finish_reason(ids) is None
    assert rules.text([*ids, stop], "stop") == "yes"


def test_a_stop_string_that_no_text_can_have_is_refused(tokenizer) -> None:
    with pytest.raises(ValueError, match="special token.*generation_config"):
        rules_of(tokenizer, f"a{tokenizer.eos_token}")
    with pytest.raises(ValueError, match="'' is empty"):
        rules_of(tokenizer, "")
