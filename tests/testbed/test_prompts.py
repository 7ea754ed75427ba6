"""Prompts: drawn from a seed, split by their text, found back from it."""

import os
import subprocess
import sys

import pytest

from prefopt.testbed.language import GREETINGS, LANGUAGES
from prefopt.testbed.prompts import KINDS, SPLITS, Prompt, facts, find_prompt, follow_up, questions, sample_prompts


def test_the_seed_decides() -> None:
    assert sample_prompts(50, 3) == sample_prompts(50, 3)
    assert sample_prompts(50, 3) != sample_prompts(50, 4)


def test_splits_share_no_prompt_string() -> None:
    drawn = {split: {p.turns for seed in range(3) for p in sample_prompts(1500, seed, split)} for split in SPLITS}
    assert all(drawn[a].isdisjoint(drawn[b]) for a in drawn for b in drawn if a != b)
    assert all(len(prompts) > 300 for prompts in drawn.values())


def test_held_out_prompts_ask_for_what_training_taught() -> None:
    taught = {(p.fact, p.language) for p in sample_prompts(3000, 0)}
    assert {(p.fact, p.language) for p in sample_prompts(500, 0, "test")} <= taught


def test_the_mixture_of_prompts() -> None:
    prompts = sample_prompts(4000, 0)
    n = len(prompts)
    assert {p.fact.kind for p in prompts} == set(KINDS)
    assert abs(sum(len(p.turns) == 3 for p in prompts) / n - 0.2) < 0.03
    assert abs(sum(p.language == "zh" for p in prompts) / n - 0.5) < 0.03
    assert all(p.turns[-1][0] == "user" and all(content for _, content in p.turns) for p in prompts)


def test_unique_prompts() -> None:
    assert len(set(sample_prompts(256, 5, "test", unique=True))) == 256


def test_find_prompt_is_the_inverse_of_messages() -> None:
    for prompt in sample_prompts(300, 1):
        assert find_prompt(prompt.messages) == prompt
    padded = [{"role": "user", "content": " 法国的首都是哪里？\n"}]
    assert find_prompt(padded).fact.answer.en == "Paris"


def test_no_two_facts_share_a_question() -> None:
    everything = [f for kind in KINDS for f in facts(kind)]
    texts = [
        text
        for language in LANGUAGES
        for fact in everything
        for text in [
            *(g + q for g in GREETINGS.of(language) for q in questions(fact, language)),
            follow_up(fact, language),
        ]
    ]
    assert len(texts) == len(set(texts))


def test_errors_name_what_was_given() -> None:
    with pytest.raises(ValueError, match="unknown split 'dev': pass one of train, validation, test"):
        sample_prompts(1, 0, "dev")
    with pytest.raises(ValueError, match="unknown kind 'riddle'"):
        facts("riddle")


def test_splits_do_not_depend_on_the_process() -> None:
    """Python's own string hash changes with each process; ours must not."""
    code = "from prefopt.testbed import *; print([p.messages for p in sample_prompts(20, 0)], sft_rows(20, 0))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": h}, capture_output=True, check=True
        ).stdout
        for h in ("1", "2")
    ]
    assert runs[0] == runs[1] != b""


def test_the_world_needs_no_torch() -> None:
    code = "import prefopt.testbed, sys; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_split_is_a_function_of_the_text() -> None:
    prompt = sample_prompts(1, 0, "test")[0]
    assert Prompt(prompt.turns, facts("sum")[0], "en").split == "test"
