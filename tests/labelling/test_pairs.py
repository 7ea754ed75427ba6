"""Pairs are chosen by the seed, shown blind, and some of them twice with their sides swapped."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from prefopt.labelling import pairs_to_label
from tests.helpers.labels import candidate, candidates


def test_every_prompt_gives_one_pair_before_any_gives_a_second() -> None:
    pairs = pairs_to_label(candidates(20, 3), count=30, seed=0, repeats=0)
    of_prompts = Counter(pair.first.prompt_key for pair in pairs)
    assert len(pairs) == 30 and len(of_prompts) == 20 and max(of_prompts.values()) == 2
    assert len({pair.id for pair in pairs}) == 30 == len({frozenset(map(id, pair.shown)) for pair in pairs})
    assert all(pair.first.prompt == pair.second.prompt and pair.first != pair.second for pair in pairs)


def test_the_candidates_order_does_not_matter_and_the_seed_does() -> None:
    given = candidates(20, 4)
    pairs = pairs_to_label(given, count=30, seed=1)
    random.Random(0).shuffle(given)
    assert pairs_to_label(given, count=30, seed=1) == pairs
    other = pairs_to_label(given, count=30, seed=2)
    assert {pair.id for pair in other}.isdisjoint(pair.id for pair in pairs)
    assert [pair.swapped for pair in pairs].count(True) in range(8, 26)


def test_a_higher_count_has_the_same_pairs_and_repeats() -> None:
    few = {pair.id: pair for pair in pairs_to_label(candidates(), count=20, seed=3)}
    more = {pair.id: pair for pair in pairs_to_label(candidates(), count=45, seed=3)}
    assert {name: more[name] for name in few} == few


@pytest.mark.parametrize(("count", "repeats", "twice"), [(40, 0.1, 4), (50, 0.29, 14), (20, 1, 20), (20, 0, 0)])
def test_a_share_is_shown_again_with_its_sides_swapped_and_far_away(count: int, repeats: float, twice: int) -> None:
    pairs = pairs_to_label(candidates(20, 4), count=count, seed=5, repeats=repeats)
    places = {(pair.pair, pair.repeat): place for place, pair in enumerate(pairs)}
    again = [pair for pair in pairs if pair.repeat]
    assert len(again) == twice and len(pairs) == count + twice == len({pair.id for pair in pairs})
    for pair in again:
        first = pairs[places[pair.pair, False]]
        assert pair.shown == first.shown[::-1] and pair.texts == first.texts[::-1]
        assert abs(places[pair.pair, True] - places[pair.pair, False]) > len(pairs) / 4


def test_which_two_may_stand_against_each_other() -> None:
    given = candidates(20, 4)

    def chosen(how: object) -> list[tuple[str, str]]:
        pairs = pairs_to_label(given, count=40, seed=0, repeats=0, how=how)  # type: ignore[arg-type]
        return [(pair.first.policy, pair.second.policy) for pair in pairs]

    assert {one != other for one, other in chosen("across_policies")} == {True}
    assert {one == other for one, other in chosen("within_policy")} == {True}
    assert {one == other for one, other in chosen("random")} == {True, False}
    mine = pairs_to_label(given, count=20, seed=0, how=lambda one, other: {one.k, other.k} == {0, 3})
    assert {(pair.first.k, pair.second.k) for pair in mine} == {(0, 3)}


def test_what_cannot_be_compared_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    given = [
        candidate(0, 0),
        candidate(0, 1, " "),
        candidate(0, 2, candidate(0, 0).response + "\n"),
        candidate(0, 3, "cut off", finish_reason="length"),
    ]
    with caplog.at_level("INFO", "prefopt"), pytest.raises(ValueError, match="1 prompts have 0 pairs of different"):
        pairs_to_label(given, count=1, seed=0)
    assert "1 empty, 1 repeated, 1 truncated" in caplog.text
    (pair,) = pairs_to_label(given, count=1, seed=0, repeats=0, include_truncated=True)
    assert {pair.first.k, pair.second.k} == {0, 3}


def test_no_count_takes_all_pairs_that_there_are() -> None:
    every = pairs_to_label(candidates(20, 3), count=None, seed=3)
    assert every == pairs_to_label(candidates(20, 3), count=60, seed=3)
    with pytest.raises(ValueError, match=r"^20 prompts have 0 pairs of different responses: sample more"):
        pairs_to_label(candidates(20, 1), count=None, seed=3)


def test_responses_that_are_not_shown_are_counted_where_they_are_missing() -> None:
    cut = [replace(each, finish_reason="length") for each in candidates(4, 2)]
    with pytest.raises(
        ValueError, match=r"4 prompts have 0 pairs .* \(not shown: 8 truncated\): .*raise max_new_tokens"
    ):
        pairs_to_label(cut, count=None, seed=3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": 100}, "count=100: 20 prompts have 60 pairs of different responses: ask for 60, or sample more"),
        ({"count": 61, "how": "across_policies"}, "have 40 pairs of different responses for how='across_policies'"),
        ({"count": 0}, "count=0 and repeats=0.1: ask for one pair or more"),
        ({"repeats": 1.5}, "a share from 0 to 1"),
        ({"how": "across_polices"}, "no such way to choose pairs; did you mean across_policies"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pairs_to_label(candidates(20, 3), **{"count": 5, "seed": 0, **changes})  # type: ignore[arg-type]
