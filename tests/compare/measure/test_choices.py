"""Multiple-choice questions: how files are read, how questions are put, and that the likeliest option is picked."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from prefopt.compare.measure.choices import SCORINGS, QuestionEncoder, log_likelihoods, measure_choices, read_questions
from prefopt.compare.measure.questions import Question
from prefopt.compare.records import CHOICES
from prefopt.data.records import DataError
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizers import make_tokenizer

CEVAL = [
    {"id": "0", "question": "法国的首都是哪里？", "A": "里昂", "B": "巴黎", "C": "马赛", "D": "尼斯", "answer": "B"},
    {"id": "1", "question": "水的化学式是____", "A": "H2O", "B": "CO2", "C": "O2", "D": "NaCl", "answer": "A"},
    {
        "id": "2",
        "question": 'Which "bird", if any,\nswims?',
        "A": "Owl",
        "B": "Crow",
        "C": "Penguin",
        "D": "No, none",
        "answer": "C",
    },
]
MEDMCQA = [
    {"question": "Which organ makes bile?", "opa": "Heart", "opb": "Liver", "opc": "Lung", "opd": "Skin", "cop": 1},
    {"question": "How many lungs has a human?", "opa": "2", "opb": "1", "opc": "3", "opd": "4", "cop": 0},
    {"question": "What does a kidney filter?", "opa": "Air", "opb": "Light", "opc": "Blood", "opd": "Bone", "cop": 2},
]
GENERAL = [
    {"question": "Is water wet?", "choices": ["yes", "no"], "answer": 0},
    {"question": "Two and three are", "choices": ["four", "five", "six", "seven", "eight"], "answer": "B"},
    {"question": "一年有几个月？", "choices": [10, 11, 12], "answer": 2},
]

pytestmark = pytest.mark.usefixtures("float64_all_the_way")


def jsonl(path: Path, rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def comma(path: Path, rows: Any, encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path: Path, rows: Any) -> Path:
    pd.DataFrame(rows).to_parquet(path)
    return path


def answers(questions: list[Question]) -> list[int]:
    return [question.answer for question in questions]


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    """Of two languages and 2 to 5 options."""
    return read_questions(jsonl(tmp_path / "c.jsonl", CEVAL), jsonl(tmp_path / "g.jsonl", GENERAL))


# Files


@pytest.mark.parametrize(("save", "suffix"), [(comma, "csv"), (jsonl, "jsonl"), (parquet, "parquet")])
def test_c_evals_form(tmp_path: Path, save: Any, suffix: str) -> None:
    found = read_questions(save(tmp_path / f"ceval.{suffix}", CEVAL))
    assert [each.text for each in found] == [row["question"] for row in CEVAL]
    assert found[0].options == ("里昂", "巴黎", "马赛", "尼斯") and answers(found) == [1, 0, 2]
    assert [(each.file, each.number) for each in found] == [(f"ceval.{suffix}", i) for i in range(3)]
    places = {"csv": [":2", ":3", ":4"], "jsonl": [":1", ":2", ":3"], "parquet": [":row 1", ":row 2", ":row 3"]}
    assert [each.origin.removeprefix(str(tmp_path / f"ceval.{suffix}")) for each in found] == places[suffix]


def test_a_csv_with_a_byte_order_mark_and_texts_over_lines(tmp_path: Path) -> None:
    rows = [CEVAL[2], CEVAL[0]]
    found = read_questions(comma(tmp_path / "ceval.csv", rows, "utf-8-sig"))
    assert [each.origin.rpartition(":")[2] for each in found] == ["2", "4"] and answers(found) == [2, 1]


@pytest.mark.parametrize(("save", "suffix"), [(comma, "csv"), (jsonl, "jsonl"), (parquet, "parquet")])
def test_medmcqas_two_ways_to_count(tmp_path: Path, save: Any, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    """The hub's files count from 0, the authors' from 1: the whole file tells."""
    caplog.set_level(logging.INFO)
    authors = [{**row, "cop": row["cop"] + 1} for row in MEDMCQA]
    authors += [{**MEDMCQA[0], "question": "Which one lies outside?", "cop": 4}]
    assert answers(read_questions(save(tmp_path / f"hub.{suffix}", MEDMCQA))) == [1, 0, 2]
    assert answers(read_questions(save(tmp_path / f"authors.{suffix}", authors))) == [1, 0, 2, 3]
    assert "cop counts from 0, as one is 0" in caplog.text and "cop counts from 1, as one is 4" in caplog.text


def test_a_file_that_does_not_tell(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "m.jsonl", [MEDMCQA[0], MEDMCQA[2]])
    with pytest.raises(DataError, match=r"m.jsonl:1: no cop in this file is 0 or 4.*pass first_cop=0 or first_cop=1"):
        read_questions(path)
    assert answers(read_questions(path, first_cop=0)) == [1, 2]
    assert answers(read_questions(path, first_cop=1)) == [0, 1]
    with pytest.raises(DataError, match=r"n.jsonl:2: this cop does not fit first_cop=1"):
        read_questions(jsonl(tmp_path / "n.jsonl", MEDMCQA[:2]), first_cop=1)


def test_the_general_form(tmp_path: Path) -> None:
    found = read_questions(jsonl(tmp_path / "g.jsonl", GENERAL))
    assert answers(found) == [0, 1, 2] and [len(each.options) for each in found] == [2, 5, 3]
    assert found[2].options == ("10", "11", "12")
    assert answers(read_questions(parquet(tmp_path / "g.parquet", GENERAL[:1]))) == [0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**CEVAL[0], "C": ""}, "option C is empty"),
        ({**CEVAL[0], "C": None}, "option C is null"),
        ({name: value for name, value in CEVAL[0].items() if name != "D"}, "option D is null"),
        ({**CEVAL[0], "question": " "}, "question is empty"),
        ({**CEVAL[0], "answer": "E"}, "answer is 'E': give one of A, B, C, D"),
        ({**CEVAL[0], "answer": "AB"}, "answer is 'AB'"),
        ({**CEVAL[0], "answer": ""}, "there is no answer, as in a test file"),
        ([1], "row is a list"),
        ("text", "row is text"),
    ],
)
def test_a_bad_row_is_an_error_with_its_line(row: Any, says: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "ceval.jsonl", [*CEVAL[:2], row])
    with pytest.raises(DataError, match=rf"ceval.jsonl:3: {says}"):
        read_questions(path)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**MEDMCQA[0], "cop": -1}, r"there is no answer \(cop is -1\), as in MedMCQA's test file"),
        ({**MEDMCQA[0], "cop": 4}, "cop is 4, but 0 at .*m.jsonl:2"),
        ({**MEDMCQA[0], "cop": 5}, "cop is 5"),
        ({**MEDMCQA[0], "cop": "b"}, "cop is 'b'"),
        ({**MEDMCQA[0], "opc": ""}, "opc is empty"),
        ({**MEDMCQA[0], "opc": True}, "opc is true or false"),
    ],
)
def test_a_bad_row_of_medmcqa(row: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"m.jsonl:4: {says}"):
        read_questions(jsonl(tmp_path / "m.jsonl", [*MEDMCQA, row]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"choices": ["one"]}, "choices is a list of 1"),
        ({"choices": "one, two"}, "choices is text"),
        ({"choices": ["one", ""]}, "option B is empty"),
        ({"choices": ["one", math.nan]}, "option B is a number"),
        ({"answer": 2}, "answer is 2: it counts from 0 to 1"),
        ({"answer": -1}, "answer is -1"),
        ({"answer": True}, "answer is True"),
        ({"answer": "1"}, "answer is '1': give one of A, B"),
        ({"answer": None}, "there is no answer"),
    ],
)
def test_a_bad_row_of_the_general_form(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"g.jsonl:2: {says}"):
        read_questions(jsonl(tmp_path / "g.jsonl", [GENERAL[1], {**GENERAL[0], **changes}]))


def test_bad_files(tmp_path: Path) -> None:
    good = jsonl(tmp_path / "good.jsonl", CEVAL)
    (tmp_path / "other").mkdir()
    empty, broken, short, latin = (tmp_path / name for name in ("empty.jsonl", "broken.jsonl", "short.csv", "gbk.csv"))
    empty.write_text("")
    broken.write_text(json.dumps(CEVAL[0]) + "\n{half\n")
    short.write_text("question,A,B,answer\nIs it?,yes,no,A\nAnd, now?,yes,no,A\n")
    latin.write_bytes("question,A,B,answer\n是吗？,是,否,A\n".encode("gbk"))
    cases: list[tuple[Any, str]] = [
        ([tmp_path / "gone.jsonl"], "gone.jsonl: no such file"),
        ([empty], "empty.jsonl: holds no row"),
        (
            [comma(tmp_path / "head.csv", CEVAL[:1]), tmp_path / "head.csv"],
            "head.csv: the same name or the same questions",
        ),
        ([good, jsonl(tmp_path / "copy.jsonl", CEVAL)], r"copy.jsonl: .* as .*good.jsonl:1: give it once"),
        ([good, jsonl(tmp_path / "other" / "good.jsonl", GENERAL)], "other/good.jsonl: the same name"),
        ([broken], "broken.jsonl:2.*: not valid JSON: mend"),
        ([short], "short.csv:3: has not as many columns"),
        ([latin], "gbk.csv: bytes are not UTF-8"),
        ([jsonl(tmp_path / "odd.jsonl", [{"question": "?", "A": "one"}])], "odd.jsonl:1: no form .* question, A: give"),
    ]
    for paths, says in cases:
        with pytest.raises(DataError, match=says):
            read_questions(*paths)
    (tmp_path / "bare.csv").write_text("question,A,B,answer\n")
    with pytest.raises(DataError, match="bare.csv:1: holds no question"):
        read_questions(tmp_path / "bare.csv")


# How they are put


def text_of(tokenizer: Any, question: Question, shots: list[Question], scoring: str, chat: bool) -> list[str]:
    """What a policy reads with each option, as text."""
    (row,) = QuestionEncoder(tokenizer, SCORINGS[scoring], chat, math.inf).encode([question], shots)
    return [tokenizer.decode(row["prompt_ids"] + ids) for ids in row["response_ids"]]


def test_questions_as_plain_text(questions: list[Question]) -> None:
    plain = make_tokenizer()
    chinese, swims = questions[0], questions[2]
    found = text_of(plain, swims, [], "letter", False)
    assert found[2] == (
        "Answer the following multiple-choice questions with a letter.\n\n"
        'Which "bird", if any,\nswims?\nA. Owl\nB. Crow\nC. Penguin\nD. No, none\nAnswer: C'
    )
    found = text_of(plain, chinese, [questions[1]], "letter", False)
    assert found[1] == (
        "下面是单项选择题，请用选项的字母作答。\n\n"
        "水的化学式是____\nA. H2O\nB. CO2\nC. O2\nD. NaCl\n答案：A\n\n"
        "法国的首都是哪里？\nA. 里昂\nB. 巴黎\nC. 马赛\nD. 尼斯\n答案：B"
    )
    assert text_of(plain, questions[3], [swims], "text", False) == [
        f'Which "bird", if any,\nswims?\nAnswer: Penguin\n\nIs water wet?\nAnswer: {option}' for option in ("yes", "no")
    ]


def test_questions_as_a_conversation(questions: list[Question], tokenizer: Any) -> None:
    found = text_of(tokenizer, questions[3], [questions[4]], "letter", True)
    assert found == [
        "<user>Answer the following multiple-choice questions with a letter.\n\nTwo and three are\nA. four\nB. five\n"
        "C. six\nD. seven\nE. eight\nAnswer:<assistant>B<eos>"
        f"<user>Is water wet?\nA. yes\nB. no\nAnswer:<assistant>{letter}"
        for letter in "AB"
    ]
    assert text_of(tokenizer, questions[3], [], "text", True)[1] == "<user>Is water wet?\nAnswer:<assistant>no"


# What is picked


def alone(policy: Any, row: dict[str, Any]) -> list[float]:
    """Log-likelihoods of a question's options by one padded forward of transformers alone."""
    prompt, options = row["prompt_ids"], row["response_ids"]
    width = max(map(len, options))
    ids = torch.tensor([prompt + option + [0] * (width - len(option)) for option in options])
    mask = torch.tensor([[1] * (len(prompt) + len(option)) + [0] * (width - len(option)) for option in options])
    with torch.no_grad():
        logps = policy(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    at = len(prompt) - 1
    return [sum(float(logps[n, at + i, token]) for i, token in enumerate(ids)) for n, ids in enumerate(options)]


@pytest.mark.parametrize("scoring", ["letter", "text"])
@pytest.mark.parametrize("chat", [True, False])
def test_the_pick_is_that_of_a_plain_loop(tokenizer: Any, tmp_path: Path, scoring: str, chat: bool) -> None:
    policy = tiny_llama(dtype=torch.float64, max_position_embeddings=512, seed=3)
    rows = [{**row, "question": f"{row['question']} ({i})"} for i in range(6) for row in CEVAL]
    asked = read_questions(jsonl(tmp_path / "c.jsonl", rows), jsonl(tmp_path / "g.jsonl", GENERAL))
    questions, shots = asked[2:], asked[:2]
    encoded = QuestionEncoder(tokenizer, SCORINGS[scoring], chat, math.inf).encode(questions, shots)
    expected = [alone(policy, row) for row in encoded]
    sizes = [[len(ids) if scoring == "text" else 1 for ids in row["response_ids"]] for row in encoded]
    means = [[t / n for t, n in zip(*each, strict=True)] for each in zip(expected, sizes, strict=True)]
    picks = [values.index(max(values)) for values in means]
    assert len(set(picks)) > 1  # or an option's place alone would decide
    for tokens in (1, 400, 100_000):
        totals = log_likelihoods(policy, encoded, tokens)
        assert [len(each) for each in totals] == [len(question.options) for question in questions]
        assert sum(totals, []) == pytest.approx(sum(expected, []), rel=1e-9)
        found = measure_choices(
            policy, tokenizer, questions, shots=2, examples=asked, scoring=scoring, chat=chat, tokens_per_batch=tokens
        )
        assert found["picked"].tolist() == picks and dict(found.dtypes.astype(str)) == CHOICES
    assert found["answer"].tolist() == answers(questions)
    assert found["correct"].tolist() == [float(p == q.answer) for p, q in zip(picks, questions, strict=True)]
    assert found["file"].tolist() == ["c.jsonl"] * 16 + ["g.jsonl"] * 3
    assert found["question"].tolist() == [*range(2, 18), *range(3)]


def test_each_file_shows_its_own_first_questions(tokenizer: Any, tmp_path: Path) -> None:
    policy = tiny_llama(dtype=torch.float64, max_position_embeddings=512)
    one, other = jsonl(tmp_path / "c.jsonl", CEVAL), jsonl(tmp_path / "g.jsonl", GENERAL)
    found = measure_choices(policy, tokenizer, read_questions(one, other), shots=1)
    assert list(zip(found["file"], found["question"], strict=True)) == [
        *(("c.jsonl", 1), ("c.jsonl", 2)),
        *(("g.jsonl", 1), ("g.jsonl", 2)),
    ]
    parts = [
        measure_choices(policy, tokenizer, read_questions(path)[1:], shots=1, examples=read_questions(path))
        for path in (one, other)
    ]
    pd.testing.assert_frame_equal(found, pd.concat(parts, ignore_index=True))


def test_long_options_are_not_at_a_loss(tokenizer: Any) -> None:
    """All tokens equally likely: the sum prefers the shortest option, the mean none, and the first one stays."""
    policy = tiny_llama(dtype=torch.float64)
    torch.nn.init.zeros_(policy.lm_head.weight)
    question = Question("q", 0, "Which?", ("a very much longer one", "no"), 0, "q:1")
    assert measure_choices(policy, tokenizer, [question], scoring="text")["correct"].tolist() == [1.0]


def test_a_policy_that_learnt_the_answers_is_right(tokenizer: Any, questions: list[Question]) -> None:
    """And one that learnt the opposite is wrong: the letter that is likely is the one that is picked."""
    policy = tiny_llama(dtype=torch.float32, max_position_embeddings=512)
    right = [question for question in questions if question.answer == 1]
    rows = QuestionEncoder(tokenizer, SCORINGS["letter"], True, math.inf).encode(right, [])
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    for _ in range(20):
        for row in rows:
            ids = torch.tensor([row["prompt_ids"] + row["response_ids"][1]])
            loss = -policy(input_ids=ids).logits[0, -2].log_softmax(-1)[ids[0, -1]]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert measure_choices(policy, tokenizer, right)["correct"].tolist() == [1.0, 1.0]
    wrong = [Question(q.file, q.number, q.text, q.options, 0, q.origin) for q in right]
    assert measure_choices(policy, tokenizer, wrong)["correct"].tolist() == [0.0, 0.0]


def test_shots_give_way_to_a_long_question(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    policy = tiny_llama(dtype=torch.float64, max_position_embeddings=256)
    shots = [Question("s", i, f"Shot {i}?", ("yes", "no"), 0, f"s:{i}") for i in range(3)]
    short = Question("q", 0, "Is it?", ("yes", "no"), 0, "q:1")
    long = Question("q", 1, "word " * 60, ("yes", "no"), 0, "q:2")
    endless = Question("q", 2, "word " * 300, ("yes", "no"), 0, "q:3")
    encoder = QuestionEncoder(tokenizer, SCORINGS["letter"], True, 256)
    rows = encoder.encode([short, long], shots)
    shown = [tokenizer.decode(row["prompt_ids"]).count("Shot") for row in rows]
    assert shown[0] == 3 and shown[1] < 3 and len(rows[1]["prompt_ids"]) < 256
    assert "1 of 2 questions have no room for all of 3 shots in 256 tokens" in caplog.text
    assert measure_choices(policy, tokenizer, [short, long], shots=3, examples=shots)["question"].tolist() == [0, 1]
    with pytest.raises(DataError, match="q:3: the question alone is longer than the policy's 256 positions"):
        measure_choices(policy, tokenizer, [endless], shots=3, examples=shots)
    with pytest.raises(DataError, match="q:3: the question alone"):
        measure_choices(policy, tokenizer, [endless])


def test_what_is_refused(tokenizer: Any, questions: list[Question]) -> None:
    policy = tiny_llama()
    with pytest.raises(ValueError, match="scoring='words': choose one of letter, text"):
        measure_choices(policy, tokenizer, questions, scoring="words")
    with pytest.raises(DataError, match=r"c.jsonl:1: shown with its answer from .*c.jsonl:1"):
        measure_choices(policy, tokenizer, questions, shots=1, examples=questions[:1])
    with pytest.raises(DataError, match=r"c.jsonl:1: 3 questions are too few for 3 shots and one to ask"):
        measure_choices(policy, tokenizer, questions, shots=3)
    with pytest.raises(DataError, match="1 questions are too few for 2 shots"):
        measure_choices(policy, tokenizer, questions[1:], shots=2, examples=questions[:1])
    for asked, shots in (([], 1), (questions, -1)):
        with pytest.raises(DataError, match=f"{len(asked)} questions and shots={shots}: give at least one file"):
            measure_choices(policy, tokenizer, asked, shots=shots, examples=questions)
    nothing = Question("q", 0, "Is it?", ("<eos>", "no"), 0, "q:1")
    with pytest.raises(DataError, match="q:1: an option is no text to this tokenizer"):
        measure_choices(policy, tokenizer, [nothing], scoring="text")
