"""Special tokens come from the template and the encoder, never from what a message says; what stays is told."""

import logging
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from prefopt.data import Turn, encode_dataset, encode_prompt, load_preferences
from prefopt.data.check import check
from prefopt.data.row_encoder import NOTES, Encoder
from prefopt.data.special_tokens import Piece, SpecialTokens
from prefopt.data.truncation import Encoding
from tests.helpers.tokenizers import CHATML, SPECIALS, make_tokenizer

ANSWER = "It is <eos> and then <|im_end|> more."
ROW = {"query": "What is bread?", "chosen": ANSWER, "rejected": "Paris."}
PLAIN, CHAT = make_tokenizer(add_bos=True), make_tokenizer(CHATML, eos="<|im_end|>")
KEPT, SPLIT = (f"1 {NOTES[name]}" for name in ("_special_tokens_kept", "_special_tokens_split"))


def ids_of(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    special = {tokenizer.convert_tokens_to_ids(text) for text in SPECIALS}
    return [i for i in ids if i in special]


@pytest.mark.parametrize("tokenizer", [PLAIN, CHAT])
@pytest.mark.parametrize("row", [ROW, {"prompt": "What is", "chosen": ANSWER, "rejected": "Paris."}])
def test_an_answer_that_spells_special_tokens_has_one_stop_token_and_says_the_same(
    row: dict[str, str], tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    ids = encode_dataset([row], tokenizer)[0]["response_ids"][0]
    assert ids_of(ids, tokenizer) == ids[-1:] == [tokenizer.eos_token_id]
    assert tokenizer.decode(ids[:-1]).strip() == ANSWER
    assert SPLIT in caplog.messages and KEPT not in caplog.messages


@pytest.mark.parametrize("ending", ["<|im_end|>", " <|im_end|>", "<|im_end|>\n"])
def test_the_stop_token_that_an_answer_brings_is_the_one_it_gets(ending: str, caplog: pytest.LogCaptureFixture) -> None:
    ids = encode_dataset([{**ROW, "chosen": "Flour." + ending}], CHAT)[0]["response_ids"][0]
    assert CHAT.decode(ids) == "Flour." + ending.rstrip()
    assert ids_of(ids, CHAT) == [CHAT.eos_token_id] and SPLIT not in caplog.messages


def test_a_prompt_without_a_template_has_no_special_tokens_but_bos(caplog: pytest.LogCaptureFixture) -> None:
    row = {**ROW, "query": "What is <eos>?", "chosen": "An end."}
    ids = encode_dataset([row], PLAIN)[0]["prompt_ids"]
    assert ids_of(ids, PLAIN) == ids[:1] == [PLAIN.bos_token_id]
    assert ids == encode_prompt([Turn("user", "What is <eos>?")], PLAIN)
    assert SPLIT in caplog.messages and KEPT not in caplog.messages


def test_a_template_keeps_its_markers_and_what_a_prompt_spells_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    healthy = encode_dataset([{**ROW, "chosen": "Flour."}], CHAT)[0]["prompt_ids"]
    assert CHAT.decode(ids_of(healthy, CHAT)) == "<|im_start|><|im_end|><|im_start|>"
    assert KEPT not in caplog.messages and SPLIT not in caplog.messages
    encode_dataset([{**ROW, "query": "<|im_end|>?", "chosen": "Flour."}], CHAT)
    assert KEPT in caplog.messages and SPLIT not in caplog.messages


def test_what_the_user_says_between_answers_is_counted_too(caplog: pytest.LogCaptureFixture) -> None:
    said = ["Hi", "Yes <eos>?", "<|im_end|> And?", "Wait."]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    row = encode_dataset([{"messages": messages}], CHAT)[0]
    assert KEPT in caplog.messages and SPLIT in caplog.messages
    trained = [i for i, m in zip(row["response_ids"][0], row["loss_mask"][0], strict=True) if m]
    assert CHAT.decode(trained) == "Yes <eos>?<|im_end|>Wait.<|im_end|>"
    assert ids_of(trained, CHAT) == [CHAT.eos_token_id] * 2


def test_a_document_without_a_prompt_brings_its_own_markers(caplog: pytest.LogCaptureFixture) -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes"
    ids = encode_dataset([{"text": text}], CHAT)[0]["response_ids"][0]
    assert ids == CHAT(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
    assert KEPT in caplog.messages


def test_each_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "prefopt"):
        encode_dataset([ROW, {**ROW, "query": "<|im_end|>?"}], CHAT)
    levels = {record.message: record.levelname for record in caplog.records}
    assert levels[KEPT] == levels[SPLIT.replace("1", "2", 1)] == "WARNING"


def test_the_check_tells_both() -> None:
    found = check([[ROW, {**ROW, "query": "<eos>?", "chosen": "x"}]], tokenizer=CHAT).files[0].findings
    assert (found["special_tokens_kept"].count, found["special_tokens_split"].count) == (1, 1)


class Refusing:
    """A tokenizer that cannot split special tokens, as mistral-common's."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, texts: Any, split_special_tokens: bool = False, **rule: Any) -> Any:
        if split_special_tokens:
            raise ValueError("`split_special_tokens` is not supported")
        return self.tokenizer(texts, **rule)


def test_a_tokenizer_that_cannot_split_is_used_as_it_is_and_the_rows_counted() -> None:
    batch = {"prompt": [[{"role": "user", "content": "x"}]], "response": [ANSWER]}
    row = Encoder(Refusing(CHAT), Encoding())(batch, [0])  # type: ignore[arg-type]
    assert len(ids_of(row["response_ids"][0][0], CHAT)) == 3
    assert (row["_special_tokens_kept"], row["_special_tokens_split"]) == ([True], [False])


# Ordinary text

words = st.lists(
    st.sampled_from(["bread", " is", "\n\n", "中国", "<", ">", "|", "im_end", "é", " 🍞", "  "]), min_size=1
)
any_text = st.one_of(words.map("".join), st.text(min_size=1))
ordinary = any_text.filter(lambda text: not SpecialTokens(PLAIN).spelled_in(text))


@settings(max_examples=150)
@given(st.lists(ordinary, min_size=1, max_size=4))
def test_ordinary_text_has_the_ids_it_always_had(texts: list[str]) -> None:
    for tokenizer in (PLAIN, CHAT):
        usual = tokenizer(texts, add_special_tokens=False)["input_ids"]
        for parse_special in (True, False):
            assert SpecialTokens(tokenizer).tokenise(Piece(text, parse_special) for text in texts) == usual


@settings(max_examples=50)
@given(st.lists(st.tuples(st.one_of(words.map("".join), st.sampled_from(SPECIALS)), st.booleans()), max_size=6))
def test_pieces_keep_their_order_and_the_tokenizer_its_mode(pairs: list[tuple[str, bool]]) -> None:
    pieces = [Piece(*pair) for pair in pairs]
    found = SpecialTokens(CHAT).tokenise(pieces)
    assert [CHAT.decode(ids) for ids in found] == [piece.text for piece in pieces]
    assert all(not ids_of(ids, CHAT) for ids, piece in zip(found, pieces, strict=True) if not piece.parse_special)
    assert ids_of(CHAT("<eos>")["input_ids"], CHAT)


def test_worker_processes_split_too() -> None:
    rows = load_preferences([{**ROW, "query": f"q{i}"} for i in range(4)])
    alone, shared = encode_dataset(rows, CHAT), encode_dataset(rows, CHAT, num_proc=2)
    assert alone.to_list() == shared.to_list()
    assert all(a["response_ids"] == b["response_ids"] for a, b in pairwise(shared))
