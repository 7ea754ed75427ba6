"""A score belongs to the text: not to its batch, not to the policy's vocabulary; and what is no score is an error."""

from __future__ import annotations

import copy
import functools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from prefopt.candidates import Candidate, Pool
from prefopt.data.collate import collate
from prefopt.data.encode import Encoding, encode_dataset, encode_prompt
from prefopt.data.tokenizer_identity import tokenizer_fingerprint
from prefopt.generation import sample
from prefopt.models.forward import forward
from prefopt.models.heads import set_normalization
from prefopt.models.load import load_scorer
from prefopt.scoring import (
    CallableScorer,
    CombinedScorer,
    RewardModelScorer,
    SafetyFirst,
    ScoreError,
    WeightedSum,
    scorer_from,
    whiten,
)
from prefopt.testbed import gold_of
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizers import CHATML, make_tokenizer

QUESTIONS = ["What is 2 + 2?", "法国的首都是哪里？", "Hi", "Tell me how to cut paper. " * 3]
ANSWERS = ["It is 4.", "是巴黎。祝你愉快！", "No", "a " * 30, "是的。", "Sure! " * 4]
PROMPTS = [[{"role": "user", "content": q}] for q in QUESTIONS for _ in ANSWERS]
RESPONSES = ANSWERS * len(QUESTIONS)
FINISHED = [bool(i % 3) for i in range(len(RESPONSES))]

pytestmark = pytest.mark.usefixtures("float64_all_the_way")


@pytest.fixture
def reward_model(tokenizer) -> Any:
    return load_scorer(tiny_llama(dtype=torch.float64), tokenizer)


@pytest.fixture
def folder(tmp_path: Path, tokenizer) -> Path:
    """A saved reward model whose pad token is not EOS."""
    load_scorer(tiny_llama(), tokenizer).save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    return tmp_path / "rm"


def scores_of(scorer: Any) -> list[float]:
    return scorer.score(PROMPTS, RESPONSES, FINISHED)


# Reward models


def test_a_score_is_of_the_text_however_it_was_sampled(reward_model, tokenizer, tmp_path: Path) -> None:
    """Two candidates of one text and other ids score alike; by their ids the model would tell them apart."""
    prompt = [{"role": "user", "content": "Hi"}]
    letters = [*(tokenizer.convert_tokens_to_ids(letter) for letter in "Sure"), tokenizer.eos_token_id]
    usual = [*tokenizer("Sure", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    by, scorer = tokenizer_fingerprint(tokenizer), RewardModelScorer(reward_model, tokenizer)
    pool, ways = Pool(tmp_path), (usual, letters)
    pool.append(
        Candidate(0, 0, k, tuple(prompt), "Sure", "stop", "p", 1.0, 0, tuple(ids), by) for k, ids in enumerate(ways)
    )
    pool.score(scorer)
    first, second = (each.score for each in pool.scored(scorer))
    of_ids = scorer.score_ids([encode_prompt(prompt, tokenizer)] * 2, ways, tokenizer)
    assert [first, second] == pytest.approx([of_ids[0]] * 2, rel=1e-9) and abs(of_ids[0] - of_ids[1]) > 1e-3


@pytest.mark.parametrize("tokens", [1, 60, 100, 300, 100_000])
def test_scores_do_not_depend_on_the_batch_size(reward_model, tokenizer, tokens: int) -> None:
    expected = scores_of(RewardModelScorer(reward_model, tokenizer))
    assert len(set(expected)) == len(expected)
    found = scores_of(RewardModelScorer(reward_model, tokenizer, tokens_per_batch=tokens))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_scores_do_not_depend_on_the_order_or_on_the_other_rows(reward_model, tokenizer) -> None:
    scorer = RewardModelScorer(reward_model, tokenizer, tokens_per_batch=200)
    expected = scores_of(scorer)
    order = random.Random(0).sample(range(len(RESPONSES)), len(RESPONSES))
    turned = scorer.score([PROMPTS[i] for i in order], [RESPONSES[i] for i in order], [FINISHED[i] for i in order])
    assert turned == pytest.approx([expected[i] for i in order], rel=1e-9, abs=1e-9)
    alone = [scorer.score([p], [r], [f])[0] for p, r, f in zip(PROMPTS, RESPONSES, FINISHED, strict=True)]
    assert alone == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_finished_response_is_encoded_as_in_reward_training(reward_model, tokenizer) -> None:
    rows = [{"prompt": p, "chosen": r, "rejected": "x"} for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    encoded = encode_dataset(rows, tokenizer, Encoding())
    with torch.no_grad():
        expected = forward(reward_model, collate(list(encoded)), frozenset({"scores"})).scores[:, 0].tolist()
    found = RewardModelScorer(reward_model, tokenizer).score(PROMPTS, RESPONSES)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("finished", [True, False])
def test_scores_are_transformers_own(folder: Path, finished: bool) -> None:
    """pad != eos. The text is written out here; a response that was cut off has no stop token."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    tokenizer.padding_side = "right"
    texts = [
        f"<user>{p[0]['content']}<assistant>{r}{'<eos>' if finished else ''}"
        for p, r in zip(PROMPTS, [r.strip() for r in RESPONSES], strict=True)
    ]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = model(**inputs).logits[:, 0].tolist()
    found = RewardModelScorer(folder).score(PROMPTS, [r.strip() for r in RESPONSES], [finished] * len(RESPONSES))
    assert np.std(expected) > 0.01
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_an_unfinished_response_gets_no_stop_token(reward_model, tokenizer) -> None:
    scorer = RewardModelScorer(reward_model, tokenizer)
    prompt, text = PROMPTS[0], "是巴黎"
    begun = tokenizer("<user>What is 2 + 2?<assistant>", add_special_tokens=False).input_ids
    ids = tokenizer(text, add_special_tokens=False).input_ids
    expected = [last_token_score(reward_model, begun + ids + stop) for stop in ([], [1])]
    assert scorer.score([prompt] * 2, [text] * 2, [False, True]) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert scorer.score([prompt], [""], [False]) == pytest.approx([last_token_score(reward_model, begun)], rel=1e-9)


def last_token_score(model: Any, ids: list[int]) -> float:
    with torch.no_grad():
        return float(model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1]))


def test_a_policy_and_a_reward_model_with_different_vocabularies(tokenizer) -> None:
    policy = tiny_llama(dtype=torch.float64)
    other = make_tokenizer(CHATML, eos="<|im_end|>")
    vocab = {"vocab": len(other), "pad_token_id": other.pad_token_id, "eos_token_id": other.eos_token_id}
    reward_model = load_scorer(tiny_llama(seed=3, dtype=torch.float64, **vocab), other)
    scorer = RewardModelScorer(reward_model, other)
    prompts = [[{"role": "user", "content": q}] for q in QUESTIONS]
    samples = [row[0] for row in sample(policy, tokenizer, prompts, max_new_tokens=12)]
    assert len(other) < len(tokenizer) and max(max(s.ids) for s in samples) >= len(other)
    found = scorer.score(prompts, [s.text for s in samples], [s.finished for s in samples])
    for score, prompt, one in zip(found, prompts, samples, strict=True):
        start = f"<|im_start|>user\n{prompt[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        ids = [*other(start).input_ids, *other(one.text).input_ids, *[other.eos_token_id] * one.finished]
        assert score == pytest.approx(last_token_score(reward_model, ids), rel=1e-9, abs=1e-9)
    with pytest.raises(ValueError, match="another tokenizer"):
        scorer.score_ids([s.prompt_ids for s in samples], [s.ids for s in samples], tokenizer)


def test_ids_of_the_same_tokenizer_are_reused(reward_model, tokenizer) -> None:
    scorer = RewardModelScorer(reward_model, tokenizer)
    rows = encode_dataset([{"prompt": p, "response": r} for p, r in zip(PROMPTS, ANSWERS, strict=False)], tokenizer)
    answers = [row[0] for row in rows["response_ids"]]
    found = scorer.score_ids(rows["prompt_ids"], answers, copy.deepcopy(tokenizer))
    assert found == pytest.approx(scorer.score(PROMPTS[: len(ANSWERS)], ANSWERS), rel=1e-9, abs=1e-9)


def test_scores_are_normalized_where_the_model_says_how(reward_model, tokenizer) -> None:
    raw = scores_of(RewardModelScorer(reward_model, tokenizer))
    set_normalization(reward_model, 2.0, 4.0)
    assert scores_of(RewardModelScorer(reward_model, tokenizer)) == pytest.approx([(s - 2) / 4 for s in raw])
    own = RewardModelScorer(reward_model, tokenizer, normalized=False)
    assert scores_of(own) == pytest.approx(raw)
    assert own.fingerprint != RewardModelScorer(reward_model, tokenizer).fingerprint


def test_a_prompt_too_long_gives_way_and_says_so(reward_model, tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    """However long the other responses to it are."""
    scorer = RewardModelScorer(reward_model, tokenizer, encoding=Encoding(max_length=20))
    found = scorer.score([PROMPTS[0]] * 2, ["是的。", "是" * 15])
    assert "cut to max_length 20" in caplog.text
    assert found[:1] == pytest.approx(scorer.score(PROMPTS[:1], ["是的。"]), rel=1e-9)


def test_the_fingerprint_is_that_of_what_scores_depend_on(folder: Path, tmp_path: Path, tokenizer) -> None:
    scorer = RewardModelScorer(folder)
    moved = folder.rename(tmp_path / "moved")
    again = RewardModelScorer(moved, tokens_per_batch=64, name="again")
    assert again.fingerprint == scorer.fingerprint and (scorer.name, again.name) == ("rm", "again")
    given = RewardModelScorer(load_scorer(str(moved), tokenizer), tokenizer)
    before = given.fingerprint
    assert before == scorer.fingerprint
    with torch.no_grad():
        given.model.model.embed_tokens.weight[7, 3] += 0.5
    assert given.fingerprint != before
    assert RewardModelScorer(moved, encoding=Encoding(max_length=64)).fingerprint != before
    config = GenerationConfig(eos_token_id=[1, 2])
    assert RewardModelScorer(moved, generation_config=config).fingerprint == before  # the stop token stays
    other = AutoTokenizer.from_pretrained(moved)
    other.chat_template = other.chat_template.replace("<user>", "<user>Q: ")
    assert RewardModelScorer(moved, other).fingerprint != before


def test_scoring_leaves_a_training_model_as_it_was(reward_model, tokenizer) -> None:
    reward_model.train()
    scores_of(RewardModelScorer(reward_model, tokenizer))
    assert reward_model.training and all(p.requires_grad and p.grad is None for p in reward_model.parameters())


def test_an_adapter_scores(tmp_path: Path, tokenizer) -> None:
    load_scorer(tiny_llama(), tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    base = load_scorer(str(tmp_path / "base"))
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="SEQ_CLS")
    adapted = get_peft_model(base, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    found = scores_of(RewardModelScorer(tmp_path / "adapter"))
    assert found == pytest.approx(scores_of(RewardModelScorer(adapted, tokenizer)), rel=1e-5, abs=1e-5)
    assert found != pytest.approx(scores_of(RewardModelScorer(tmp_path / "base")), rel=1e-3)


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path, tokenizer) -> None:
    """A random head would give scores without a word."""
    policy = tiny_llama()
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    for source in (tmp_path / "policy", policy):
        with pytest.raises(ValueError, match="no reward head"):
            scorer_from(source, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="no name"):
        scorer_from(load_scorer(policy))


def test_bad_rows_are_named(reward_model, tokenizer) -> None:
    scorer = RewardModelScorer(reward_model, tokenizer)
    with pytest.raises(ValueError, match="row 1.*chat template refuses"):
        scorer.score([PROMPTS[0], [{"role": "system", "content": "x"}]], ["a", "b"])
    with pytest.raises(ValueError, match="2 prompts, 1 responses and 1 finished"):
        scorer.score(PROMPTS[:2], ["a"])
    with torch.no_grad():
        reward_model.score.weight.fill_(torch.nan)
    with pytest.raises(ScoreError, match=r"gave nan to row 0 \(prompt 'What is 2 \+ 2\?', response 'a'\)"):
        scorer.score(PROMPTS[:2], ["a", "b"])


def test_no_rows_have_no_scores(reward_model, tokenizer) -> None:
    assert RewardModelScorer(reward_model, tokenizer).score([], []) == []


# Callables


def length(prompts: Any, responses: Any) -> list[float]:
    return [float(len(response)) for response in responses]


def gold_rows(prompts: Any, responses: Any, finished: Any) -> list[float]:
    return [gold_of(*row) for row in zip(prompts, responses, finished, strict=True)]


@pytest.mark.parametrize("make", [np.array, torch.tensor, tuple, list])
def test_a_callable_scores(make: Any) -> None:
    scorer = scorer_from(lambda prompts, responses: make([float(len(r)) for r in responses]), fingerprint="v1")
    assert scorer.score(PROMPTS[:2], ["是的", "no!"]) == [2.0, 3.0]
    assert scorer_from(scorer) is scorer
    assert scorer_from(length).name == "length"


def test_a_callable_that_asks_is_told_what_finished() -> None:
    question = [{"role": "user", "content": "What is 2 + 2?"}]
    seen: list[Any] = []

    def judge(prompts: Any, responses: Any, finished: Any) -> list[float]:
        seen.append(list(finished))
        return [0.0] * len(responses)

    scorer = CallableScorer(judge, fingerprint="v1")
    scorer.score([question], ["a"])
    scorer.score([question] * 2, ["a", "b"], [True, False])
    assert seen == [[True], [True, False]]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], r"returned 2 scores for 3 responses: the first without one is row 2 .*法国.*'三'"),
        ([1.0] * 4, "returned 4 scores for 3 responses: too many"),
        ([1.0, math.nan, 1.0], r"gave nan to row 1 \(prompt '法国的首都是哪里？', response '二'\)"),
        ([1.0, 2.0, -math.inf], r"gave -inf to row 2"),
        ([None, 2.0, 3.0], r"gave None to row 0"),
        ([1.0, [2.0], 3.0], r"gave \[2.0\] to row 1"),
        (1.0, r"returned 1.0 for 3 responses: give a list"),
        (torch.tensor(1.0), r"returned tensor\(1.\) for 3 responses: give a list"),
        (None, r"returned None for 3 responses"),
    ],
)
def test_what_is_no_score_is_an_error_that_names_the_row(returned: Any, message: str) -> None:
    scorer = CallableScorer(lambda prompts, responses: returned, name="judge", fingerprint="v1")
    with pytest.raises(ScoreError, match=f"^scorer 'judge' {message}"):
        scorer.score([PROMPTS[6]] * 3, ["一", "二", "三"])


class Judge:
    """A callable object."""

    def __init__(self, **state: Any):
        self.__dict__.update(state)

    def __call__(self, prompts: Any, responses: Any) -> list[float]:
        return [0.0] * len(responses)

    def other(self, prompts: Any, responses: Any) -> list[float]:
        return [1.0] * len(responses)


def closing_over(value: Any) -> Any:
    def judge(prompts: Any, responses: Any) -> list[float]:
        return [float(value)] * len(responses)

    return judge


def test_the_fingerprint_of_a_callable_is_that_of_its_code_and_its_plain_values() -> None:
    def of(function: Any) -> str:
        return CallableScorer(function).fingerprint

    judges = [
        length,
        gold_rows,
        closing_over(1),
        closing_over(2),
        closing_over(frozenset({"b", "a"})),
        Judge(),
        Judge(weight=1),
        Judge(weight=1).other,
        functools.partial(length, None),
    ]
    assert len({of(judge) for judge in judges}) == len(judges)
    assert of(closing_over({"a", "b"})) == of(closing_over({"b", "a"}))
    assert of(Judge(weight=1)) == of(Judge(weight=1))
    assert CallableScorer(length, fingerprint="v1").fingerprint == "v1"


@pytest.mark.parametrize(
    "state", [torch.ones(2), object(), np.ones(2), Judge, print], ids=lambda state: type(state).__name__
)
def test_a_callable_with_hidden_state_needs_a_fingerprint(state: Any) -> None:
    for function in (closing_over(state), Judge(state=state)):
        with pytest.raises(ValueError, match="fingerprint='v1'"):
            scorer_from(function)
        assert scorer_from(function, fingerprint="v1").fingerprint == "v1"


@pytest.mark.parametrize("thing", [3, None, Judge, [length]], ids=lambda thing: type(thing).__name__)
def test_what_is_no_scorer_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="is no scorer: give the path"):
        scorer_from(thing)


def test_a_ready_scorer_takes_no_options() -> None:
    with pytest.raises(TypeError, match="tokenizer cannot be set"):
        scorer_from(CallableScorer(length), tokenizer=None)


# Several combined


def probability(p: float) -> float:
    return math.log(p / (1 - p))


def scorer_of(scores: list[float], name: str) -> CallableScorer:
    return CallableScorer(lambda prompts, responses: scores, name=name, fingerprint=f"{name}-{scores}")


def is_safety_prompt(prompt: Any) -> bool:
    return "paper" in prompt[-1]["content"]


def test_llama_2s_rule_on_literal_numbers() -> None:
    """R_c = R_safe on a safety prompt or where R_safe < .15, else R_help; then the logit."""
    helpful, safe = [0.9, 0.9, 0.2, 0.8, 0.7], [0.6, 0.1, 0.14, 0.15, 0.99]
    chosen = [0.9, 0.1, 0.14, 0.8, 0.99]  # help, safe (< .15), safe (< .15), help (.15 is not below), safety prompt
    asked = [QUESTIONS[0]] * 4 + [QUESTIONS[3]]
    parts = {
        "helpfulness": scorer_of([probability(p) for p in helpful], "h"),
        "safety": scorer_of([probability(p) for p in safe], "s"),
    }
    combined = CombinedScorer(parts, SafetyFirst(is_safety_prompt))
    prompts = [[{"role": "user", "content": q}] for q in asked]
    found = combined.score(prompts, ["a"] * 5)
    assert found == pytest.approx([probability(p) for p in chosen], abs=1e-12)
    assert combined.name == "helpfulness+safety"
    lower = CombinedScorer(parts, SafetyFirst(is_safety_prompt, 0.05))
    assert lower.score(prompts, ["a"] * 5)[:3] == pytest.approx([probability(p) for p in (0.9, 0.9, 0.2)])
    assert lower.fingerprint != combined.fingerprint
    swapped = {"helpfulness": parts["safety"], "safety": parts["helpfulness"]}
    assert CombinedScorer(swapped, combined.rule).fingerprint != combined.fingerprint


def test_large_scores_survive_the_rule() -> None:
    """sigmoid(50) is 1 in float64, whose logit is infinite."""
    parts = {"helpfulness": scorer_of([50.0, 900.0], "h"), "safety": scorer_of([60.0, -900.0], "s")}
    assert CombinedScorer(parts, SafetyFirst(is_safety_prompt)).score(PROMPTS[:2], ["a", "b"]) == [50.0, -900.0]


def test_a_weighted_sum() -> None:
    parts = {"a": scorer_of([1.0, 2.0], "a"), "b": scorer_of([10.0, -4.0], "b")}
    assert CombinedScorer(parts, WeightedSum({"a": 2.0, "b": 0.5})).score(PROMPTS[:2], ["x", "y"]) == [7.0, 2.0]
    with pytest.raises(ValueError, match=r"parts are \['a', 'b'\], but SafetyFirst combines \['help"):
        CombinedScorer(parts, SafetyFirst(is_safety_prompt))


def test_the_bad_part_of_a_combination_is_named() -> None:
    parts = {"a": scorer_of([1.0, math.nan], "first"), "b": scorer_of([1.0, 1.0], "second")}
    with pytest.raises(ScoreError, match="scorer 'first' gave nan to row 1"):
        CombinedScorer(parts, WeightedSum({"a": 1.0, "b": 1.0})).score(PROMPTS[:2], ["x", "y"])


@pytest.mark.parametrize("threshold", [0, 1, -1.7])
def test_the_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        SafetyFirst(is_safety_prompt, threshold)


def test_whitening_on_literal_numbers() -> None:
    """Mean 3, variance (4 + 1 + 1 + 4) / 4 = 2.5."""
    assert whiten([1.0, 2.0, 4.0, 5.0]) == pytest.approx([x / 2.5**0.5 for x in (-2, -1, 1, 2)])
    assert whiten([0.1] * 3) == [0.0] * 3 and whiten([7.0]) == [0.0] and whiten([]) == []


def by_length(prompts: Any, responses: Any) -> list[float]:
    """For `scorer_from`, by its name."""
    return [float(len(response)) for response in responses]


def test_a_function_may_be_named() -> None:
    scorer = scorer_from(f"{__name__}:by_length")
    assert scorer.score([[{"role": "user", "content": "?"}]], ["four"]) == [4.0]
    with pytest.raises(ValueError, match="no_such_module"):
        scorer_from("no_such_module:by_length")
