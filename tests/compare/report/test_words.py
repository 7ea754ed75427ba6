"""Both languages say the same things, of every value that findings can hold."""

from __future__ import annotations

import string

import pytest

from prefopt.compare import Claim, Verdict
from prefopt.compare.report.metrics import METRICS
from prefopt.compare.report.words import TEXTS, Words

# What is emitted with a warning, by its key.
WARNINGS = {
    "few_seeds": {"seeds", "needed"},
    "few_prompts": {"prompts", "detectable"},
    "one_prompt": {"prompts"},
    "judge_flips": {"judge", "rate"},
    "judge_leans": {"judge", "rate"},
    "judge_failed": {"judge", "method", "failed", "asked"},
    "overlap": {"dropped", "of", "example"},
    "unknown_method": {"name", "hint"},
    "cell_failed": {"method", "seed", "reason"},
    "stage_failed": {"stage", "seed", "reason"},
    "missing_seeds": {"method", "seeds"},
    "same_scorer": {"scorer"},
    "over_optimised": {"method", "score_rise", "gold_fall"},
    "no_reward_model": set(),
    "weak_reward_model": {"accuracy", "low", "high"},
    "unequal_cost": {"cheapest", "dearest", "ratio"},
    "unfinished": {"method", "share"},
    "degenerate": {"method", "share"},
    "one_stage": set(),
    "mixed_versions": {"packages"},
    "set_aside": {"prompts"},
    "unequal_trials": {"methods"},
    "budget_missed": {"method", "flops", "budget"},
    "identical": {"first", "second"},
}


def placeholders(text: str) -> set[tuple[str, str]]:
    """With the format of each, which is the same in all languages as well."""
    return {(name, form or "") for _, name, form, _ in string.Formatter().parse(text) if name is not None}


def test_languages_have_the_same_keys_and_placeholders() -> None:
    assert set(TEXTS["en"]) == set(TEXTS["zh"])
    for key, text in TEXTS["en"].items():
        assert placeholders(text) == placeholders(TEXTS["zh"][key]), key


@pytest.mark.parametrize("key", WARNINGS)
def test_a_warning_says_all_that_is_emitted_with_it(key: str) -> None:
    assert {name for name, _ in placeholders(TEXTS["en"][key])} == WARNINGS[key]


@pytest.mark.parametrize("lang", TEXTS)
def test_there_are_words_for_all_that_findings_name(lang: str) -> None:
    words = Words(lang)
    for verdict in Verdict:
        assert words.verdict(verdict) and words.verdict(verdict, "matrix")
        assert "dpo" in words(f"sentence.{verdict}", leader="dpo", others="sft")
    assert all(words(f"claim.{claim.name}") for claim in Claim)
    assert all(words(f"purpose.{name}") for name in ("training", "generation", "scoring", "reference", "trials"))
    assert all(words(f"shared.{name}") for name in ("sft", "reward model", "reference"))
    assert all(words(f"judge.{kind}") for kind in ("reward-model", "gold", "function", "endpoint"))
    assert all(words(f"metric.{name}") and words(f"metric.{name}.about") for name in METRICS)


def test_chinese_is_chinese() -> None:
    """A text without a Chinese character is one that nobody translated, if it is not a name."""
    same = {
        key for key, text in TEXTS["zh"].items() if not any("\u4e00" <= character <= "\u9fff" for character in text)
    }
    assert same == {
        "metric.kl",
        "metric.kl_k3",
        "metric.distinct_2",
        "column.flops",
        "list.comma",
    }


def test_lists_and_numbers_in_sentences() -> None:
    assert Words("en").listed(["a"]) == "a"
    assert Words("en").listed(["a", "b", "c"]) == "a, b and c"
    assert Words("zh").listed(["a", "b", "c"]) == "a、b 和 c"
    assert "seed 1 and 3." in Words("en")("missing_seeds", method="dpo", seeds=[1, 3])
    assert "3.1×10¹⁴ FLOPs on a budget of 2.0×10¹⁴" in Words()("budget_missed", method="d", flops=3.1e14, budget=2e14)
    assert "14% of" in Words()("judge_flips", judge="j", rate=0.141)
    assert "about – before" in Words()("few_prompts", prompts=3, detectable=None)


def test_what_there_is_not_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="'fr'.*en, zh"):
        Words("fr")
    with pytest.raises(KeyError, match="did you mean few_seeds"):
        Words()("few_seds", seeds=2, needed=5)
    with pytest.raises(KeyError, match="'few_seeds' needs a value 'needed'; given: .*seeds"):
        Words()("few_seeds", seeds=2)
