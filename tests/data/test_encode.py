"""Text to ids: boundary, stop token, truncation, several answers; worked by hand where a rule has numbers."""

import logging
from itertools import pairwise
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, PreTrainedTokenizerFast

from prefopt.data import (
    DataError,
    Encoding,
    Turn,
    decode_response,
    encode_dataset,
    encode_prompt,
    load_preferences,
    load_prompts,
    load_sft,
    stop_token_ids,
    with_mismatched,
)
from prefopt.data.collate import Rows, collate
from prefopt.data.encode import split_pairs
from prefopt.data.truncation import truncate
from tests.helpers.tokenizers import CHATML, THINKING, make_tokenizer

Tokenizer = PreTrainedTokenizerFast
PAIR = {"query": "What is the capital of France?", "chosen": "Paris.", "rejected": "Mix flour."}
SAID = ["What is bread?", "Flour and water.", "Then?", "Wait."]
MESSAGES = [{"role": ("user", "assistant")[i % 2], "content": said} for i, said in enumerate(SAID)]


def decoded(ids: list[int], tokenizer: Tokenizer) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False))


def encoded(rows: Any, tokenizer: Tokenizer, **rule: Any) -> dict[str, Any]:
    return encode_dataset(rows, tokenizer, Encoding(**rule))[0]


def rendered(messages: list[dict[str, str]], tokenizer: Tokenizer) -> list[int]:
    """The whole conversation as the tokenizer's own template gives it."""
    found: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    return list(found["input_ids"])


# Boundary and stop token


def test_without_a_template_the_plain_one_leaves_one_space_to_the_answer(plain: Tokenizer) -> None:
    row = encoded([PAIR], plain)
    assert decoded(row["prompt_ids"], plain) == "\n\nHuman: What is the capital of France?\n\nAssistant:"
    assert [decoded(ids, plain) for ids in row["response_ids"]] == [" Paris.<eos>", " Mix flour.<eos>"]


def test_a_system_turn_opens_the_plain_prompt(plain: Tokenizer) -> None:
    ids = encode_prompt([Turn("system", "Be brief."), Turn("user", "Hi")], plain)
    assert decoded(ids, plain) == "Be brief.\n\nHuman: Hi\n\nAssistant:"


def test_the_plain_prompt_has_no_other_speakers(plain: Tokenizer) -> None:
    with pytest.raises(DataError, match="unknown role 'clown'; without a chat template there are user, assistant"):
        encode_prompt([{"role": "clown", "content": "x"}], plain)


def test_with_a_template_the_pieces_are_its_rendering(chatml: Tokenizer) -> None:
    row = encoded([PAIR], chatml)
    messages = [{"role": "user", "content": PAIR["query"]}, {"role": "assistant", "content": PAIR["chosen"]}]
    whole = rendered(messages, chatml)
    assert row["prompt_ids"] + row["response_ids"][0] == whole[:-1]  # less the line break after the end of turn
    assert row["response_ids"][0][-1] == chatml.eos_token_id


def test_a_prompt_is_encoded_for_training_as_for_sampling(plain_bos: Tokenizer, chatml: Tokenizer) -> None:
    for tokenizer in (plain_bos, chatml):
        turns = [Turn("user", "Hi"), Turn("assistant", "Yes?"), Turn("user", "Bread?")]
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        row = encoded([{"prompt": messages, "chosen": "x", "rejected": "y"}], tokenizer)
        assert row["prompt_ids"] == encode_prompt(turns, tokenizer) == encode_prompt(messages, tokenizer)


def test_bare_text_is_verbatim_as_in_trl(plain_bos: Tokenizer, llama2: Tokenizer) -> None:
    for tokenizer in (plain_bos, llama2):
        row = encoded([{"prompt": "France is", "chosen": " bread", "rejected": "  water"}], tokenizer)
        assert row["prompt_ids"] == tokenizer("France is")["input_ids"]
        joint = [tokenizer("France is" + answer + "<eos>")["input_ids"] for answer in (" bread", "  water")]
        assert [row["prompt_ids"] + ids for ids in row["response_ids"]] == joint


@pytest.mark.parametrize(
    "rows", [[PAIR], [{"prompt": "<bos>France", "chosen": "x", "rejected": "y"}], [{"prompt": "<bos><bos>x"}]]
)
def test_bos_is_never_doubled(rows: list[Any], plain_bos: Tokenizer, llama2: Tokenizer) -> None:
    for tokenizer in (plain_bos, llama2):
        ids = encoded(rows, tokenizer)["prompt_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids.count(ids[0]) == 1


def test_eos_is_never_doubled(plain: Tokenizer) -> None:
    row = encoded([{"query": "x", "chosen": "y<eos>", "rejected": "z"}], plain)
    assert [ids.count(plain.eos_token_id) for ids in row["response_ids"]] == [1, 1]


def test_an_empty_prompt_is_bos_or_else_eos(plain: Tokenizer) -> None:
    assert encoded([{"text": "bread"}], plain)["prompt_ids"] == [plain.bos_token_id]
    without = make_tokenizer()
    without.bos_token = None
    assert encoded([{"text": "bread"}], without)["prompt_ids"] == [without.eos_token_id]


def test_the_stop_token_is_the_end_of_turn_only_if_sampling_stops_there() -> None:
    tokenizer = make_tokenizer(CHATML)  # EOS is <eos>, the template ends turns with <|im_end|>
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop_token_ids(tokenizer) == [tokenizer.eos_token_id]
    both = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, end])
    assert stop_token_ids(tokenizer, both) == [end, tokenizer.eos_token_id]
    assert encode_dataset([PAIR], tokenizer, generation_config=both)[0]["response_ids"][0][-1] == end
    assert stop_token_ids(make_tokenizer(CHATML, eos="<|im_end|>")) == [end]


def test_a_tokenizer_without_eos_is_refused(plain: Tokenizer) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no EOS token"):
        encode_dataset([PAIR], tokenizer)


def test_templates_that_disagree_are_counted(
    llama2: Tokenizer, chatml: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    thinking = make_tokenizer(THINKING, eos="<|im_end|>")
    for tokenizer, counted in ((thinking, True), (llama2, False), (chatml, False)):
        caplog.clear()
        encode_dataset([PAIR] * 2, tokenizer)
        assert any(message.startswith("4 responses that the chat template") for message in caplog.messages) == counted


def test_a_refused_conversation_names_its_row(llama2: Tokenizer) -> None:
    question = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    rows = [{**PAIR, "query": question[1:]}, {**PAIR, "query": question}]
    with pytest.raises(
        DataError, match="row 1: the chat template refuses a conversation of the roles system, user: only"
    ):
        encode_dataset(rows, llama2)


@settings(max_examples=40)
@given(st.text(st.sampled_from("ab 你好，.\n"), min_size=1).filter(str.strip))
def test_an_answer_survives_the_way_to_ids_and_back(answer: str) -> None:
    row = {"prompt": [{"role": "user", "content": "x"}], "completion": answer}
    for tokenizer in (PLAIN, CHAT):
        ids = encode_dataset(load_sft([row]), tokenizer)[0]["response_ids"][0]
        assert decode_response(ids, tokenizer) == answer.strip()
        assert decode_response([*ids, 0, 0], tokenizer) == answer.strip()


PLAIN, CHAT = make_tokenizer(add_bos=True), make_tokenizer(CHATML, eos="<|im_end|>")

# Truncation

P, LONG, SHORT = list(range(10, 20)), 6, 3  # a prompt of 10 tokens, responses of 6 and 3


@pytest.mark.parametrize(
    ("rule", "prompt", "lengths"),
    [
        (Encoding(16), P, (6, 3)),  # 10 + 6 fits
        (Encoding(15), P[-7:], (6, 3)),  # half of 15 for the prompt: 7 + 6 fits, the responses stay whole
        (Encoding(15, 4), P[-4:], (6, 3)),
        (Encoding(8), P[-4:], (4, 3)),  # 4 + 6 is still too long: responses to 8 - 4
        (Encoding(8, 6), P[-6:], (2, 2)),
        (Encoding(2), P[-1:], (1, 1)),
        (Encoding(None), P, (6, 3)),
        (Encoding(12, None, "keep_start"), P, (2, 2)),
        (Encoding(14, None, "keep_start"), P, (4, 3)),
        (Encoding(10, None, "keep_start"), P[:9], (1, 1)),  # TRL drops this row; one response token stays
        (Encoding(5, None, "keep_start"), P[:4], (1, 1)),
        (Encoding(12, None, "keep_end"), P[-6:], (6, 3)),
        (Encoding(4, None, "keep_end"), P[-1:], (3, 3)),
    ],
)
def test_truncation_by_hand(rule: Encoding, prompt: list[int], lengths: tuple[int, int]) -> None:
    kept, part = truncate(P, (LONG, SHORT), rule)
    assert kept == prompt
    assert tuple(len(range(length)[part]) for length in (LONG, SHORT)) == lengths


def test_keep_end_keeps_the_ends_of_responses() -> None:
    _, part = truncate(P, (LONG,), Encoding(4, None, "keep_end"))
    assert list(range(LONG))[part] == [3, 4, 5]


def test_a_long_response_after_a_short_prompt_has_what_the_original_rule_leaves() -> None:
    kept, part = truncate([10, 11], (9,), Encoding(8, 5))
    assert kept == [10, 11] and len(range(9)[part]) == 8 - 5


def test_bos_survives_a_cut_of_the_prompt() -> None:
    assert truncate([1, *P], (LONG,), Encoding(10, 4), bos=1)[0] == [1, *P[-3:]]
    assert truncate([1, *P], (LONG,), Encoding(10, 1), bos=1)[0] == P[-1:]


@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(2, 30),
    st.sampled_from([None, "keep_start", "keep_end"]),
)
def test_truncation_always_fits_and_always_leaves_both_sides(
    size: int, lengths: list[int], limit: int, mode: str | None
) -> None:
    kept, part = truncate(list(range(size)), lengths, Encoding(limit, None, mode))
    left = [len(range(length)[part]) for length in lengths]
    assert kept and min(left) >= 1 and len(kept) + max(left) <= limit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"truncation_mode": "keep_middle"}, "'keep_middle'; known are None, 'keep_start', 'keep_end'"),
        ({"max_length": 1}, "need at least 2"),
        ({"max_length": 8, "max_prompt_length": 8}, "give 1 to max_length - 1 = 7"),
    ],
)
def test_impossible_rules_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Encoding(**arguments)


def test_what_truncation_did_is_logged(plain: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"query": "bread " * 50, "chosen": "water " * 40, "rejected": "Wait."}, PAIR]
    with caplog.at_level(logging.INFO, "prefopt"):
        encode_dataset(load_preferences(rows), plain, Encoding(64))
    assert caplog.messages[-1] == (
        "encoded 2 rows, max_length 64 (prompt first): 1 prompts cut, 1 responses cut, 1 stop tokens lost"
    )
    assert caplog.records[-1].levelname == "WARNING"


# Several answers


@pytest.mark.parametrize("name", ["plain", "chatml", "llama2"])
def test_all_answers_are_trained_on_and_nothing_else(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    row = encoded([{"messages": MESSAGES}], tokenizer)
    ids, mask = row["response_ids"][0], row["loss_mask"][0]
    assert len(ids) == len(mask) and set(mask) == {0, 1}
    trained = [decoded([i for i, m in zip(ids, mask, strict=True) if m], tokenizer)]
    end = tokenizer.eos_token
    before, after = {"plain": (" ", ""), "chatml": ("", ""), "llama2": (" ", " ")}[name]
    assert trained[0] == "".join(f"{before}{said}{after}{end}" for said in ("Flour and water.", "Wait."))
    assert sum(b > a for a, b in pairwise(mask)) == 1  # the second answer begins after the user's turn
    seen = decoded(row["prompt_ids"] + ids, tokenizer)
    assert seen.index(SAID[0]) < seen.index(SAID[1]) < seen.index(SAID[2]) < seen.index(SAID[3])


def test_several_answers_are_the_templates_own_rendering(chatml: Tokenizer) -> None:
    row = encoded([{"messages": MESSAGES}], chatml)
    whole = rendered(MESSAGES, chatml)
    assert row["prompt_ids"] + row["response_ids"][0] == whole[:-1]


def test_rows_with_one_answer_beside_others_are_masked_too(chatml: Tokenizer) -> None:
    dataset = encode_dataset([{"messages": MESSAGES}, {"messages": MESSAGES[:2]}], chatml)
    assert dataset[1]["loss_mask"] == [[1] * len(dataset[1]["response_ids"][0])]
    assert "loss_mask" not in encode_dataset([{"messages": MESSAGES[:2]}], chatml).column_names


def test_the_mask_is_cut_with_the_response(chatml: Tokenizer) -> None:
    row = encoded([{"messages": MESSAGES}], chatml, max_length=25, max_prompt_length=15)
    assert len(row["loss_mask"][0]) == len(row["response_ids"][0]) == 10


def test_a_template_that_rewrites_history_ends_the_row_there(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = make_tokenizer(
        CHATML.replace("m['content']", "(m['content'] if loop.last else 'gone')"), eos="<|im_end|>"
    )
    row = encoded([{"messages": MESSAGES}], tokenizer)
    assert decoded(row["response_ids"][0], tokenizer) == "Flour and water.<|im_end|>"
    assert any(message.startswith("1 responses that the chat template") for message in caplog.messages)


def test_a_template_that_alters_an_earlier_answer_only_is_counted_too(caplog: pytest.LogCaptureFixture) -> None:
    altered = CHATML.replace("m['content']", "m['content'] + ('' if loop.last or m['role'] == 'user' else '!')")
    encode_dataset([{"messages": MESSAGES}], make_tokenizer(altered, eos="<|im_end|>"))
    assert any(message.startswith("1 responses that the chat template") for message in caplog.messages)


# Datasets


def test_columns_pass_through_and_unknown_scores_are_nan(plain: Tokenizer) -> None:
    rows = [{**PAIR, "margin": 0.5, "grade": "better", "score_chosen": 2.0, "score_rejected": 1.0}, PAIR]
    dataset = encode_dataset(load_preferences(rows), plain)
    assert dataset.column_names == ["prompt_ids", "response_ids", "score", "margin", "grade"]
    assert (dataset[0]["score"], dataset[0]["margin"], dataset[0]["grade"]) == ([2.0, 1.0], 0.5, "better")
    assert dataset[1]["margin"] is None and all(score != score for score in dataset[1]["score"])


def test_k_lists_and_prompts(plain: Tokenizer) -> None:
    row = encoded([{"query": "x", "responses": ["b", "a", "c"], "scores": [1, 2, 0]}], plain)
    assert [decode_response(ids, plain) for ids in row["response_ids"]] == ["a", "b", "c"]
    assert row["score"] == [2.0, 1.0, 0.0]
    assert encode_dataset(load_prompts([PAIR]), plain)[0] == {
        "prompt_ids": encoded([PAIR], plain)["prompt_ids"],
        "response_ids": [],
    }


def test_raw_loaded_and_encoded_datasets_give_the_same(plain: Tokenizer) -> None:
    raw = Dataset.from_list([PAIR])
    once = encode_dataset(raw, plain)
    assert encode_dataset(load_preferences(raw), plain).to_list() == once.to_list()
    assert encode_dataset(once, plain) is once


def test_a_missing_answer_in_raw_rows_is_dropped_not_a_crash(plain: Tokenizer) -> None:
    prompt = [{"role": "user", "content": "x"}]
    raw = Dataset.from_list([{"prompt": prompt, "chosen": "y", "rejected": "z"}, {"prompt": prompt, "chosen": None}])
    assert len(encode_dataset(raw, plain)) == 1


def test_worker_processes_change_nothing(plain: Tokenizer) -> None:
    rows = [{**PAIR, "chosen": "Paris " * i} for i in range(1, 9)]
    rule = Encoding(32)
    assert encode_dataset(rows, plain, rule, num_proc=2).to_list() == encode_dataset(rows, plain, rule).to_list()


def test_mismatched_answers_come_from_the_next_row(plain: Tokenizer) -> None:
    rows = [
        {"query": f"q{i}", "chosen": f"good{i}", "rejected": f"bad{i}", "score_chosen": 1, "score_rejected": 0}
        for i in range(3)
    ]
    dataset = with_mismatched(encode_dataset(rows, plain))
    added = [decode_response(row["response_ids"][2], plain) for row in dataset]
    assert added == ["good1", "bad2", "good0"]
    assert all(
        len(row["response_ids"]) == len(row["score"]) == 3 and row["score"][2] != row["score"][2] for row in dataset
    )


def test_a_mismatched_answer_fits_after_its_new_prompt(plain: Tokenizer) -> None:
    rows = [
        {"query": "long " * 10, "chosen": "x", "rejected": "y"},
        {"query": "z", "chosen": "water " * 20, "rejected": "y"},
    ]
    dataset = encode_dataset(rows, plain, Encoding(64))
    row = with_mismatched(dataset, max_length=64)[0]
    assert len(row["response_ids"][2]) == 64 - len(row["prompt_ids"]) < len(dataset[1]["response_ids"][0])


def test_k_lists_reach_the_batch_with_their_scores(plain: Tokenizer) -> None:
    """Rows of different K, one without scores: what is not known is NaN, and what is not there is masked."""
    lists = [
        {"query": "x", "responses": ["b", "a", "c"], "scores": [1, 2, 0]},
        {"query": "y", "responses": ["d", "e"]},
    ]
    batch = collate(list(encode_dataset(load_preferences(lists), plain)))
    assert batch.present.tolist() == [[True, True, True], [True, True, False]]
    assert batch.score[0].tolist() == [2.0, 1.0, 0.0] and batch.score[1, :2].isnan().all()
    pairs = [{**PAIR, "score_chosen": 3.0, "score_rejected": 4.5}]
    assert collate(list(encode_dataset(load_preferences(pairs), plain))).score.tolist() == [[3.0, 4.5]]
    assert "score" not in collate(list(encode_dataset(load_preferences([PAIR]), plain)))


def test_mismatched_answers_need_pairs_and_another_row(plain: Tokenizer) -> None:
    with pytest.raises(DataError, match="this dataset has 1; give at least 2"):
        with_mismatched(encode_dataset([PAIR], plain))
    with pytest.raises(DataError, match="row 0 has 1 responses"):
        with_mismatched(encode_dataset([{"text": "x"}] * 2, plain))


# Unpaired rows

UNPAIRED = [
    {"prompt": [{"role": "user", "content": "面包怎么做？"}], "response": "用面粉和水。", "label": True},
    {"prompt": [{"role": "user", "content": "面包怎么做？"}], "response": "不知道。", "label": False},
    {"prompt": [{"role": "user", "content": "Bread?"}], "response": "Flour and water.", "label": True},
    {"prompt": [{"role": "user", "content": "Then?"}], "response": "Wait.", "label": False},
]


def test_a_label_reaches_the_batch_with_its_one_response(plain: Tokenizer, chatml: Tokenizer) -> None:
    for tokenizer in (plain, chatml):
        dataset = encode_dataset(Dataset.from_list(UNPAIRED), tokenizer)
        assert [decode_response(row["response_ids"][0], tokenizer) for row in dataset] == [
            row["response"] for row in UNPAIRED
        ]
        batch = collate([*Rows(dataset), Rows(dataset)[-1]])
        assert batch.label.tolist() == [True, False, True, False, False] and batch.label.dtype == torch.bool
        assert batch.present.tolist() == [[True]] * 4 + [[False]]
    assert "label" not in collate(list(encode_dataset([PAIR], plain)))


def test_a_mismatched_answer_to_an_unpaired_row_answers_another_prompt(plain: Tokenizer) -> None:
    """Also where the answers to one prompt follow one another, across the end of the dataset too."""
    rows = [UNPAIRED[i] for i in (1, 2, 3, 0)]
    dataset = with_mismatched(encode_dataset(Dataset.from_list(rows), plain))
    added = [decode_response(row["response_ids"][1], plain) for row in dataset]
    assert added == ["Flour and water.", "Wait.", "用面粉和水。", "Flour and water."]
    alone = encode_dataset(Dataset.from_list(UNPAIRED[:2]), plain)
    with pytest.raises(DataError, match="all rows have the same; give two prompts"):
        with_mismatched(alone)


def test_pairs_are_split_into_unpaired_rows(plain: Tokenizer) -> None:
    pairs = encode_dataset([PAIR, {**PAIR, "query": "Bread?", "margin": 0.5}], plain)
    pairs = pairs.add_column("ref_logps", [[[-1.0], [-2.0]], [[-3.0], [-4.0]]])
    rows = split_pairs(pairs)
    assert rows["label"][:] == [True, False, True, False]
    assert rows["response_ids"][:] == [[ids] for row in pairs for ids in row["response_ids"]]
    assert rows["prompt_ids"][:] == [row["prompt_ids"] for row in pairs for _ in range(2)]
    assert rows["ref_logps"][:] == [[[-1.0]], [[-2.0]], [[-3.0]], [[-4.0]]]
    assert set(rows.column_names) == {"prompt_ids", "response_ids", "ref_logps", "label"}


def test_no_mismatched_answer_beside_log_probs_that_lack_it(plain: Tokenizer) -> None:
    pairs = encode_dataset([PAIR] * 2, plain).add_column("ref_logps", [[[-1.0], [-2.0]]] * 2)
    with pytest.raises(DataError, match="a mismatched answer has none; leave that column out"):
        with_mismatched(pairs)
