"""Conversations of several answers in templates that trim or rewrite: what is trained stays, what is lost is told."""

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.data import encode_dataset
from prefopt.data.check import check
from tests.helpers.tokenizers import CHATML, make_tokenizer

TRIMMING = make_tokenizer(CHATML.replace("m['content']", "m['content'] | trim"), eos="<|im_end|>")  # Llama 3, Gemma
VERBATIM = make_tokenizer(CHATML, eos="<|im_end|>")
REWRITING = make_tokenizer(CHATML.replace("m['content']", "(m['content'] if loop.last else 'gone')"), eos="<|im_end|>")
SAID = ["What is bread?", "Flour and water.", "Then?", "Wait.", "And?", "Bake."]


def conversation(*said: str) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]}


def trained(row: dict[str, Any]) -> str:
    ids, mask = row["response_ids"][0], row["loss_mask"][0]
    return str(TRIMMING.decode([i for i, m in zip(ids, mask, strict=True) if m]))


@pytest.mark.parametrize("before", ["", " ", "\n", "\n\n"])
@pytest.mark.parametrize("after", ["", " ", "\n", "\n\n "])
def test_white_space_around_an_answer_changes_nothing_where_the_template_trims(
    before: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    question, answer, *later = SAID
    row = encode_dataset([conversation(question, before + answer + after, *later)], TRIMMING)[0]
    assert row == encode_dataset([conversation(*SAID)], TRIMMING)[0]
    assert trained(row) == "Flour and water.<|im_end|>Wait.<|im_end|>Bake.<|im_end|>"
    assert not caplog.messages  # the template agrees with what is trained


def test_white_space_stays_where_the_template_does_not_trim() -> None:
    row = encode_dataset([conversation("x", "\nFlour. \n", "y", "Wait.")], VERBATIM)[0]
    assert trained(row) == "\nFlour. \n<|im_end|>Wait.<|im_end|>"


def test_a_verbatim_answer_of_somebody_else_is_not_taken_for_the_trimmed_one() -> None:
    row = encode_dataset([conversation("x", "Yes\n", "Yes\nbut why?", "Wait.")], TRIMMING)[0]
    assert trained(row) == "Yes<|im_end|>Wait.<|im_end|>"
    assert "Yes\nbut why?" in TRIMMING.decode(row["response_ids"][0])


@settings(max_examples=40)
@given(st.lists(st.text(st.sampled_from("ab \n"), min_size=1).filter(str.strip), min_size=2, max_size=6))
def test_every_answer_is_trained_trimmed_or_verbatim(said: list[str]) -> None:
    said = said[: len(said) // 2 * 2]
    row = conversation(*said)
    strips = [text.strip() for text in said]
    trim, keep = (encode_dataset([row, row], tokenizer)[0] for tokenizer in (TRIMMING, VERBATIM))
    answers = [*strips[1:-1:2], said[-1]]  # nothing is rendered after the last, so it stays as it came
    for encoded, texts in ((trim, answers), (keep, said[1::2])):
        mask = encoded.get("loss_mask", [[1] * len(encoded["response_ids"][0])])
        assert trained({**encoded, "loss_mask": mask}) == "".join(text + "<|im_end|>" for text in texts)


def test_answers_that_are_lost_are_counted_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "prefopt"):
        row = encode_dataset([conversation(*SAID)], REWRITING)[0]
    assert trained(row) == "Flour and water.<|im_end|>"
    (record,) = [r for r in caplog.records if r.message.startswith("2 later answers dropped")]
    assert record.levelname == "WARNING"


def test_the_doctor_counts_them() -> None:
    found = check([[conversation(*SAID)] * 2], tokenizer=REWRITING).files[0].findings
    assert (found["answers_dropped"].count, found["template_mismatches"].count) == (4, 2)
