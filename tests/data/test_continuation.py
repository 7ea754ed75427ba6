"""An answer's ids are those of the whole conversation, for every family of tokenizers and templates."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mistral_common
import pytest
from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, LlamaTokenizer, MistralCommonBackend

from prefopt.data import DataError, Encoding, encode_dataset, load_sft
from prefopt.data.row_encoder import Encoder
from prefopt.generation.stopping import StoppingRules
from tests.helpers.tokenizer_families import FAMILIES, family_tokenizer
from tests.helpers.tokenizers import CHATML, TOOLS

PUBLISHED = Path(mistral_common.__file__).parent / "data"
EACH = "{% for m in messages %}"
END = "{% endfor %}{% if add_generation_prompt %}"
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "tools": (TOOLS, "<|im_end|>"),
    "zephyr": (
        EACH
        + "{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
        + END
        + "{{ '<|assistant|>\n' }}{% endif %}",
        "</s>",
    ),
    "mistral": (
        EACH + "{% if m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}" + "{% endfor %}",
        "</s>",
    ),
    "marker": (  # the answer follows a special token
        EACH
        + "{{ '<turn>' + (m.content if m.role == 'assistant' else m.role + ': ' + m.content) + '</turn>' }}"
        + END
        + "{{ '<turn>' }}{% endif %}",
        "</turn>",
    ),
    "gemma": (
        EACH
        + "{{ '<turn>' + m.role + '\n' + m.content + '</turn>\n' }}"
        + END
        + "{{ '<turn>assistant\n' }}{% endif %}",
        "</turn>",
    ),
    "thinking": (
        EACH + "{{ '<turn>' + m.role + '\n' }}{% if m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m.content + '</turn>' }}" + END + "{{ '<turn>assistant\n<think>\n\n</think>\n\n' }}{% endif %}",
        "</turn>",
    ),
    "spaced": (  # a space before the answer, as in Vicuna's form
        EACH + "{{ m.role + ': ' + m.content + eos_token }}" + END + "{{ 'assistant:' }}{% endif %}",
        "</s>",
    ),
}
ANSWERS = ["It is Paris.", "北京是首都。", " Paris", "\nIt is", "12 hours", "a  b", "[/INST] user", "é 🍞"]
USER, SYSTEM = {"role": "user", "content": "What is the capital?"}, {"role": "system", "content": "简短。 Be brief."}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "北京"}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "报时", "parameters": {"zone": "text"}}}


def turns(*answers: str, system: bool = False) -> list[dict[str, str]]:
    pairs = [[USER, {"role": "assistant", "content": answer}] for answer in answers]
    return [*([SYSTEM] if system else []), *(turn for pair in pairs for turn in pair)]


def ids_of(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def whole_ids(messages: list[dict[str, Any]], tokenizer: Any, **kwargs: Any) -> list[int]:
    """What the tokenizer itself makes of a conversation, up to its last stop token."""
    ids = ids_of(tokenizer.apply_chat_template(messages, tokenize=False, **kwargs), tokenizer)
    return ids[: len(ids) - ids[::-1].index(tokenizer.eos_token_id)]


def is_concatenation(messages: list[dict[str, str]], tokenizer: Any) -> bool:
    """Whether each prompt, in text and in ids, is how the whole conversation begins."""
    text, ids = tokenizer.apply_chat_template(messages, tokenize=False), whole_ids(messages, tokenizer)
    for place in (place for place, turn in enumerate(messages) if turn["role"] == "assistant"):
        prompt = tokenizer.apply_chat_template(messages[:place], tokenize=False, add_generation_prompt=True)
        begins = ids_of(prompt, tokenizer)
        if not text.startswith(prompt) or ids[: len(begins)] != begins:
            return False
    return True


def encoded(messages: list[dict[str, str]], tokenizer: Any) -> dict[str, Any]:
    first = next(place for place, turn in enumerate(messages) if turn["role"] == "assistant")
    prompt, answer, later = messages[:first], messages[first]["content"], messages[first + 1 :]
    batch = {"prompt": [prompt], "response": [answer], **({"later_turns": [later]} if later else {})}
    return {name: column[0] for name, column in Encoder(tokenizer, Encoding(max_length=None))(batch, [0]).items()}


def conversations(template: str) -> Iterator[list[dict[str, str]]]:
    for answer in ANSWERS:
        yield from (turns(answer), turns("It is", answer), turns(answer, "Paris."), turns("a", answer, "b"))
        yield turns(answer, system=True)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_has_the_ids_of_the_whole_conversation(family: str, template: str) -> None:
    tokenizer = family_tokenizer(family, *TEMPLATES[template])
    concatenations = 0
    for messages in conversations(template):
        row, ids = encoded(messages, tokenizer), whole_ids(messages, tokenizer)
        found = row["prompt_ids"] + row["response_ids"][0]
        if is_concatenation(messages, tokenizer):
            concatenations += 1
            assert (found, row["_merges"], row["_mismatches"]) == (ids, 0, 0), messages
        else:
            assert row["_merges"] or row["_mismatches"], messages
    assert concatenations >= 4  # GPT-2 splits a blank line before a word in two: such prompts merge with most answers


@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_tools_calls_and_thinking_have_the_ids_of_the_whole_conversation(
    family: str, calls: bool, thinking: bool | None
) -> None:
    tokenizer = family_tokenizer(family, *TEMPLATES["tools"])
    given: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
    concatenations = 0
    for answer in ANSWERS:
        said = {"role": "assistant", "content": answer, **({"tool_calls": [CALL]} if calls else {})}
        for before in ([USER], [SYSTEM, USER]):
            counts: Counter[str] = Counter()
            row = {"messages": [*before, said], "tools": [CLOCK], "chat_template_kwargs": given}
            found = encode_dataset(load_sft([row]), tokenizer, Encoding(max_length=None), counts=counts)[0]
            whole, asked = [*before, said], {"tools": [CLOCK], "tokenize": False, **given}
            prompt = tokenizer.apply_chat_template(before, add_generation_prompt=True, **asked)
            begins, ids = ids_of(prompt, tokenizer), whole_ids(whole, tokenizer, tools=[CLOCK], **given)
            others = counts["boundary_merges"] + counts["template_mismatches"]
            if tokenizer.apply_chat_template(whole, **asked).startswith(prompt) and ids[: len(begins)] == begins:
                concatenations += 1
                assert ([*found["prompt_ids"], *found["response_ids"][0]], others) == (ids, 0), row
            else:
                assert others == 1, row
    assert concatenations >= 4


# ---- beside an encoder that is not ours ------------------------------------------------------------------------------

V1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
V3 = V1.replace("' [/INST]'", "'[/INST]'")
TEKKEN = V3.replace("'[INST] '", "'[INST]'").replace("' ' + m.content", "m.content")
OFFICIAL = [
    ("tokenizer.model.v1", V1, {"legacy": True}),
    ("mistral_instruct_tokenizer_240323.model.v3", V3, {"legacy": True}),
    ("mistral_instruct_tokenizer_240323.model.v3", V3, {"legacy": False}),
    ("tekken_240911.json", TEKKEN, {}),
]


@pytest.mark.parametrize("said", [["It is Paris. 北京"], ["It is", "12 hours,\nor more"]])
@pytest.mark.parametrize(("file", "template", "settings"), OFFICIAL)
def test_mistrals_own_encoder_gives_the_same_ids(
    file: str, template: str, settings: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    own = MistralTokenizer.from_file(str(PUBLISHED / file), mode=ValidationMode.finetuning)
    messages = turns(*said)
    kinds = {"user": UserMessage, "assistant": AssistantMessage}
    request = ChatCompletionRequest(messages=[kinds[turn["role"]](content=turn["content"]) for turn in messages])
    shutil.copy(PUBLISHED / file, tmp_path / ("tekken.json" if "tekken" in file else "tokenizer.model"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template, **settings}
    tokenizer = (AutoTokenizer if "tekken" in file else LlamaTokenizer).from_pretrained(tmp_path, **settings)
    row = encoded(messages, tokenizer)
    assert row["prompt_ids"] + row["response_ids"][0] == own.encode_chat_completion(request).tokens


def test_the_32k_model_with_zephyrs_form(tmp_path: Path) -> None:
    """By itself the answer would begin with "▁It", which the conversation does not have."""
    shutil.copy(PUBLISHED / "tokenizer.model.v1", tmp_path / "tokenizer.model")
    tokenizer = LlamaTokenizer.from_pretrained(tmp_path, legacy=False, chat_template=TEMPLATES["zephyr"][0])
    row = encoded(turns("It is Paris."), tokenizer)
    pieces = SentencePieceProcessor(model_file=str(PUBLISHED / "tokenizer.model.v1")).encode(
        "<|assistant|>\nIt is Paris.", out_type=str
    )
    assert tokenizer.convert_ids_to_tokens(row["response_ids"][0]) == [*pieces[pieces.index("It") :], "</s>"]


def test_a_tokenizer_that_writes_conversations_by_itself_is_refused(tmp_path: Path) -> None:
    shutil.copy(PUBLISHED / "tekken_240911.json", tmp_path / "tekken.json")
    with pytest.raises(DataError, match="MistralCommonBackend .* load the tokenizer with AutoTokenizer"):
        Encoder(MistralCommonBackend.from_pretrained(tmp_path, mode="finetuning"), Encoding())  # type: ignore[arg-type]


# ---- what stands just before an answer -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_marker_that_swallows_the_space_after_it(family: str) -> None:
    """As Phi-3's do: the answer then follows the marker itself, whatever stands between them in the text."""
    tokenizer = family_tokenizer(family, *TEMPLATES["gemma"], strip_right=True)
    for answer in ("It is Paris.", "北京是首都。"):
        row, ids = encoded(turns(answer), tokenizer), whole_ids(turns(answer), tokenizer)
        assert is_concatenation(turns(answer), tokenizer)
        assert row["prompt_ids"] + row["response_ids"][0] == ids


@pytest.mark.parametrize("template", ["chatml", "marker"])
@pytest.mark.parametrize("family", ["gpt2", "roberta", "llama", "llama-legacy", "gemma"])
def test_an_answer_that_spells_a_special_token_begins_as_others_do(family: str, template: str) -> None:
    tokenizer = family_tokenizer(family, *TEMPLATES[template])
    plain, spelling = (encoded(turns(said), tokenizer)["response_ids"][0] for said in ("It is", "It is <turn> x"))
    assert spelling[:2] == plain[:2]
    assert tokenizer.convert_tokens_to_ids("<turn>") not in spelling
    assert tokenizer.decode(spelling[:-1]).strip() == "It is <turn> x"


@pytest.mark.parametrize("family", FAMILIES)
def test_bare_text_goes_on_as_it_stands(family: str) -> None:
    tokenizer = family_tokenizer(family, add_bos=True)
    prompt, answer = "The capital of France", " is Paris."
    batch = {"prompt": [[{"role": "text", "content": prompt}]], "response": [answer]}
    row = Encoder(tokenizer, Encoding())(batch, [0])
    together = tokenizer(prompt + answer)["input_ids"] + [tokenizer.eos_token_id]
    assert (row["prompt_ids"][0] + row["response_ids"][0][0], row["_merges"]) == (together, [0])
    merged = Encoder(tokenizer, Encoding())({**batch, "response": ["s is"]}, [0])
    assert merged["prompt_ids"] == row["prompt_ids"]
    text = tokenizer.decode(merged["prompt_ids"][0] + merged["response_ids"][0][0], skip_special_tokens=True)
    assert text.replace(" ", "").casefold().strip() == "thecapitaloffrancesis"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_of_a_bare_response_keeps_its_leading_space(family: str) -> None:
    tokenizer = family_tokenizer(family)
    rules = StoppingRules(tokenizer, (tokenizer.eos_token_id,), 64)
    prompt, whole = (ids_of(text, tokenizer) for text in ("The capital", "The capital is Paris."))
    said = rules.text([*whole[len(prompt) :], tokenizer.eos_token_id], "stop", bare_prompt=True)
    assert said == tokenizer.decode(whole)[len(tokenizer.decode(prompt)) :] and said.startswith(" ")


# ---- what ends a response --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "albert", "gpt2"])
def test_unknown_text_that_would_end_a_response_is_refused(family: str) -> None:
    """Where one token is both: by the tokenizer itself. One that knows all bytes gives it to no text."""
    tokenizer = family_tokenizer(family, *TEMPLATES["zephyr"])
    tokenizer.unk_token = tokenizer.eos_token = "<unk>"
    if tokenizer.unk_token_id not in ids_of("\U0010fffd", tokenizer):
        row = encoded(turns("It is \U0010fffd."), tokenizer)
        assert row["response_ids"][0].count(tokenizer.eos_token_id) == 1
        return
    assert family != "gpt2"
    with pytest.raises(DataError, match="gives '<unk>', which ends a response, to text that it does not know"):
        Encoder(tokenizer, Encoding())
