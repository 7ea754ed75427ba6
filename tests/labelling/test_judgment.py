"""What is written in a cell is understood in both languages, or said not to be."""

from __future__ import annotations

import pytest

from prefopt.grades import GRADES
from prefopt.labelling import LABELS
from prefopt.labelling.judgment import NotUnderstood, understood
from prefopt.labelling.texts import TEXTS


@pytest.mark.parametrize(
    ("choice", "grade", "meant"),
    [
        ("A", None, ("a", None)),
        (" b ", "slightly", ("b", "slightly")),
        ("A slightly better", None, ("a", "slightly")),
        ("B: Significantly better", None, ("b", "significantly")),
        ("b_negligibly", "Negligibly better / unsure", ("b", "negligibly")),
        ("left", "better", ("a", "better")),
        ("Tie", None, ("tie", None)),
        ("both_bad", None, ("both_bad", None)),
        ("neither", "", ("both_bad", None)),
        ("skip", None, ("skip", None)),
        ("A 明显更好", None, ("a", "significantly")),
        ("回答B略好", None, ("b", "slightly")),
        ("甲", "更好", ("a", "better")),
        ("平局", None, ("tie", None)),
        ("都不好", None, ("both_bad", None)),
        ("", None, None),
        (None, " ", None),
    ],
)
def test_what_people_write(choice: str | None, grade: str | None, meant: tuple[str, str | None] | None) -> None:
    assert understood(choice, grade) == meant


@pytest.mark.parametrize("lang", sorted(TEXTS))
def test_every_button_of_the_page_is_understood_as_a_word(lang: str) -> None:
    texts = TEXTS[lang]
    for side in ("a", "b"):
        for grade in GRADES:
            assert understood(texts[f"prefer.{side}"] + texts[f"grade.{grade}"]) == (side, grade)
    assert [understood(texts[f"choice.{each}"]) for each in ("tie", "both_bad", "skip")] == [
        ("tie", None),
        ("both_bad", None),
        ("skip", None),
    ]


def test_every_label_of_a_tool_is_understood() -> None:
    assert {label: understood(label) for label in LABELS} == dict(LABELS) and len(LABELS) == 11


def test_other_labels_mean_what_is_said_of_them() -> None:
    words = {"7": "B slightly", "第一个": "A"}
    assert understood(7, None, words) == ("b", "slightly")
    assert understood("第一个", "better", words) == ("a", "better")


@pytest.mark.parametrize(
    ("choice", "grade", "said"),
    [
        ("", "better", "a grade, 'better', and no choice"),
        ("A", "very", "the grade 'very' is not one of significantly,"),
        ("A slightly", "better", "two grades"),
        ("tie", "better", "which prefers neither side"),
        ("C", None, "'C' is none of A, B, A significantly"),
        (7, None, "7 is none of"),
        (["A", "B"], None, "is none of"),
    ],
)
def test_what_is_no_judgment(choice: object, grade: str | None, said: str) -> None:
    with pytest.raises(NotUnderstood, match=said):
        understood(choice, grade)
