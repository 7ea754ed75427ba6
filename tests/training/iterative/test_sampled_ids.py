"""What was sampled is what is trained on: a policy may say a text in other tokens than its tokenizer would."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import TrainerCallback

from prefopt import (
    PPOConfig,
    PPOTrainer,
    PreferenceConfig,
    PreferenceTrainer,
    RejectionSamplingTrainer,
    RRHFConfig,
    RRHFTrainer,
    SFTConfig,
    SFTTrainer,
)
from prefopt.batch import Batch
from prefopt.candidates import (
    Candidate,
    Pool,
    Scored,
    above,
    best,
    best_worst,
    by_prompt,
    candidates_from,
    ranked,
    self_rejected,
    write_rows,
)
from prefopt.candidates.dataset_answers import DATASET
from prefopt.candidates.report import summary_of, warn_of_texts
from prefopt.data import DataError, Encoding, encode_dataset, load_preferences, load_sft
from prefopt.data.check import check
from prefopt.data.encode import stop_token_ids
from prefopt.data.row_encoder import COUNTS, NOTES, Encoder
from prefopt.data.template import Renderer, is_bare
from prefopt.data.tokenizer_identity import tokenizer_fingerprint
from prefopt.generation import Sample, sample
from prefopt.generation.stopping import StoppingRules
from prefopt.scoring import CallableScorer
from prefopt.testbed import preference_rows
from prefopt.training import step
from prefopt.training.summary import summary_of as last_words
from prefopt.utils import jsonl
from tests.helpers.iterations import DRAWN, config, vowels
from tests.helpers.models import tiny_llama, untrained
from tests.helpers.tokenizer_families import FAMILIES, family_tokenizer
from tests.helpers.tokenizers import CHATML, make_tokenizer
from tests.helpers.training import quiet


@pytest.fixture
def pairs() -> Dataset:
    return Dataset.from_list(preference_rows(8, seed=3))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    """The ids of every response that a loss is computed on."""
    found: set[tuple[int, ...]] = set()
    forward = step.forward

    def watched(model: Any, batch: Batch, wants: Any) -> Any:
        for ids, mask in zip(batch.response_ids.flatten(0, 1), batch.response_mask.flatten(0, 1), strict=True):
            found.add(tuple(ids[mask].tolist()))
        return forward(model, batch, wants)

    monkeypatch.setattr(step, "forward", watched)
    return found


def reencoded(candidate: Candidate, tokenizer: Any) -> tuple[int, ...]:
    row = {"prompt": [list(candidate.prompt)], "response": [candidate.response], "finished": [[True]]}
    return tuple(Encoder(tokenizer, Encoding())(row, [0])["response_ids"][0][0])


def sampled(pool: Path, tokenizer: Any) -> Iterator[Candidate]:
    """What a policy sampled; some of it in other tokens than the tokenizer would, or the test would show nothing."""
    candidates = [each for each in Pool(pool).candidates() if each.ids is not None]
    ended = [each for each in candidates if each.finish_reason == "stop"]
    assert any(each.ids != reencoded(each, tokenizer) for each in ended)
    assert {each.tokenizer for each in candidates} == {tokenizer_fingerprint(tokenizer)}
    yield from candidates


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("iteration-*/selection.jsonl")) for line in file.open()]


def test_rejection_sampling(tmp_path: Path, tokenizer: Any, pairs: Dataset, seen: set[tuple[int, ...]]) -> None:
    args = config(tmp_path, iterations=2)
    policy = untrained(tokenizer)
    given = {"train_dataset": pairs, "processing_class": tokenizer, "scorer": vowels}
    result = RejectionSamplingTrainer(policy, args, **given).train()
    candidates = {each.ids for each in sampled(tmp_path / "run/pool", tokenizer)}
    assert seen and seen - {()} <= candidates
    rows = rows_of(tmp_path / "run")
    assert seen - {()} == {tuple(ids) for row in rows for ids in row["sampled_ids"]}
    differ = [said_otherwise(row, tokenizer) for row in rows]
    reports = [json.loads(path.read_text()) for path in sorted((tmp_path / "run").glob("iteration-*/report.json"))]
    assert sum(report["encoding"].get("sampled_ids_differ", 0) for report in reports) == sum(differ) > 0
    assert result.metrics["train_rows/sampled_ids_differ"] == sum(differ)
    assert all(summary_of(report).count("by sampled ids that are not their text's") == 1 for report in reports)


def said_otherwise(row: dict[str, Any], tokenizer: Any) -> bool:
    """Whether a selected response was sampled in other tokens than its text is encoded in."""
    batch = {"prompt": [row["prompt"]], "response": [row["response"]], "finished": [row["finished"]]}
    return Encoder(tokenizer, Encoding())(batch, [0])["response_ids"][0] != row["sampled_ids"]


def without_ids(path: Path) -> list[dict[str, Any]]:
    """Write a file as versions that kept text alone wrote it."""
    new = ("ids", "tokenizer", "sampled_ids", "sampled_by")
    rows = [{name: value for name, value in row.items() if name not in new} for row in jsonl.read(path)]
    jsonl.replace(path, rows)
    return rows


@pytest.mark.parametrize("killed_in", ["sampling", "training"])
def test_a_run_of_a_version_that_kept_text_alone_goes_on(
    killed_in: str, tmp_path: Path, tokenizer: Any, pairs: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed while it sampled or while it trained: what it has is encoded from its text, and counted."""

    class Killed(BaseException):
        pass

    class Kill(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            raise Killed

    args = config(tmp_path, iterations=1)
    given = {"train_dataset": pairs, "processing_class": tokenizer, "scorer": vowels}
    with pytest.raises(Killed):
        RejectionSamplingTrainer(untrained(tokenizer), args, callbacks=[Kill()], **given).train()
    run = tmp_path / "run"
    selection, pool = run / "iteration-000/selection.jsonl", run / "pool/candidates-000-00000.jsonl"
    texts, lines = without_ids(selection), without_ids(pool)
    (run / "pool/index.json").unlink()  # which that version did not write
    if killed_in == "sampling":
        selection.unlink()
        jsonl.replace(pool, lines[: len(lines) // 2])
        shutil.rmtree(run / "pool/scores")
    RejectionSamplingTrainer(untrained(tokenizer), args, **given).train(resume_from_checkpoint=True)
    rows = rows_of(run)
    assert [row["response"] for row in rows] == [row["response"] for row in texts]
    without = sum(not row["sampled_by"] for row in rows)
    assert without == len(rows) if killed_in == "training" else 0 < without < len(rows)
    groups = by_prompt(Pool(run / "pool").scored(CallableScorer(vowels)))
    count = sum(each.candidate.ids is None for group in groups for each in group)
    (report,) = jsonl.read(run / "iteration-000/report.json")
    assert report["without_ids"] == count > 0
    assert f"{count} of {sum(map(len, groups))} sampled responses to select from have no ids" in caplog.text
    assert f"selected from {count} responses without ids" in summary_of(report)


def test_rrhf(tmp_path: Path, tokenizer: Any, pairs: Dataset, seen: set[tuple[int, ...]]) -> None:
    """Beside the dataset's answers, which are text."""
    args = config(tmp_path, RRHFConfig)
    policy = untrained(tokenizer)
    RRHFTrainer(policy, args, train_dataset=pairs, processing_class=tokenizer, scorer=vowels).train()
    candidates = {each.ids for each in sampled(tmp_path / "run/pool", tokenizer)}
    written = [{"prompt": row["prompt"], "response": row[side]} for row in pairs for side in ("chosen", "rejected")]
    given = {tuple(row["response_ids"][0]) for row in encode_dataset(Dataset.from_list(written), tokenizer)}
    assert seen & candidates and seen & given and seen - {()} <= candidates | given


def test_ppo(tmp_path: Path, tokenizer: Any, pairs: Dataset, seen: set[tuple[int, ...]], monkeypatch: Any) -> None:
    from prefopt.training.ppo import rollout

    given: set[tuple[int, ...]] = set()

    def watched(*args: Any, **kwargs: Any) -> Any:
        samples = sample(*args, **kwargs)
        given.update(tuple(each.ids) for row in samples for each in row)
        return samples

    monkeypatch.setattr(rollout, "sample", watched)
    args = PPOConfig(**quiet(tmp_path, per_device_train_batch_size=4, max_steps=4, **DRAWN))
    PPOTrainer(untrained(tokenizer), args, train_dataset=pairs, processing_class=tokenizer, scorer=vowels).train()
    assert given and seen - {()} <= given


@pytest.mark.parametrize("through", ["file", "rows"])
def test_a_pool_that_is_selected_by_hand(
    through: str, tmp_path: Path, tokenizer: Any, pairs: Dataset, seen: set[tuple[int, ...]]
) -> None:
    """Best of n for SFT, and best and worst for DPO, from the same candidates."""
    policy, candidates = untrained(tokenizer), []
    prompts = [row["prompt"] for row in pairs]
    for prompt, row in zip(prompts, sample(policy, tokenizer, prompts, k=6, max_new_tokens=12), strict=True):
        for k, each in enumerate(row):
            how = (each.text, each.finish_reason, "v", 1.0, 0, tuple(each.ids), tokenizer_fingerprint(tokenizer))
            candidates.append(Candidate(0, 0, k, tuple(prompt), *how))
    scores = vowels((), [each.response for each in candidates])
    scored = [Scored(*pair) for pair in zip(candidates, scores, strict=True)]
    groups = by_prompt(scored, include_truncated=True)
    for rows, load, kind in ((best(groups), load_sft, "sft"), (best_worst(groups), load_preferences, "dpo")):
        seen.clear()
        write_rows(tmp_path / f"{kind}.jsonl", rows)
        data = load(str(tmp_path / f"{kind}.jsonl")) if through == "file" else Dataset.from_list(rows)
        args = PreferenceConfig(**quiet(tmp_path / kind, per_device_train_batch_size=4, max_steps=2))
        PreferenceTrainer(untrained(tokenizer), kind, args, data, processing_class=tokenizer).train()
        assert seen and seen - {()} <= {each.ids for each in candidates}


def test_rejection_sampling_with_stop_strings(
    tmp_path: Path, tokenizer: Any, pairs: Dataset, seen: set[tuple[int, ...]]
) -> None:
    """A response that a stop string ended is trained on by the ids before it, or by its text where it splits an id."""
    stops = [" ", "a", "r", "。"]
    args = config(tmp_path, iterations=1, stop_strings=stops, max_new_tokens=40)
    given = {"train_dataset": pairs, "processing_class": tokenizer, "scorer": vowels}
    RejectionSamplingTrainer(untrained(tokenizer), args, **given).train()
    candidates = list(Pool(tmp_path / "run/pool").candidates())
    ended = [each for each in candidates if each.finish_reason == "stop_string"]
    whole, split = ([each for each in ended if (each.ids is None) is is_split] for is_split in (False, True))
    assert whole and split
    for each in whole:
        said = tokenizer.decode(each.ids, skip_special_tokens=True)
        assert said.strip() == each.response and not any(stop in said for stop in stops)
    assert any(each.ids in seen and each.ids != reencoded(each, tokenizer)[:-1] for each in whole)
    texts = {reencoded(each, tokenizer)[:-1] for each in split if each.response.strip()}
    assert seen - {()} <= {each.ids for each in candidates if each.ids} | texts


def test_self_rejected_pairs(tokenizer: Any) -> None:
    prompt = [{"role": "user", "content": "中国的首都是哪里？"}]
    ids = [*tokenizer("上", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    drawn = Candidate(0, 0, 0, tuple(prompt), "上", "stop", "v", 1.0, 0, tuple(ids), "t")
    (row,), _ = self_rejected([{"prompt": prompt, "response": "北京"}], [drawn])
    assert (row["sampled_ids"], row["sampled_by"]) == ([[], ids], "t")


def test_of_several_tokenizers_the_last_policys_ids_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    """And the other responses, which are encoded from their text, are counted; a dataset's answer is none of them."""
    prompt = ({"role": "user", "content": "中国的首都是哪里？"},)
    old = Candidate(0, 0, 0, prompt, "上海", "stop", "a", 1.0, 0, (5, 1), "one")
    given = Candidate(0, 0, 1, prompt, "北京", "stop", DATASET, 0.0, 0)
    new = Candidate(0, 1, 0, prompt, "南京", "stop", "b", 1.0, 0, (6, 7, 1), "another")
    (row,) = ranked(by_prompt([Scored(old, 3.0), Scored(given, 2.0), Scored(new, 1.0)]))
    assert row["responses"] == ["上海", "北京", "南京"]
    assert (row["sampled_ids"], row["sampled_by"]) == ([[], [], [6, 7, 1]], "another")
    assert warn_of_texts([old, given, new]) == 1 and "1 of 2 sampled responses" in caplog.text
    caplog.clear()
    assert warn_of_texts([given, new]) == 0 and not caplog.messages


# ---- what becomes of ids in a row ------------------------------------------------------------------------------------

TOKENIZER = make_tokenizer(CHATML, eos="<|im_end|>")
PROMPT = [{"role": "user", "content": "What is bread?"}]
LETTERS = [TOKENIZER.convert_tokens_to_ids(letter) for letter in "Flour"]
END = TOKENIZER.eos_token_id


def row(ids: list[int], by: str | None = None, text: str = "Flour", finished: bool = True) -> dict[str, Any]:
    by = tokenizer_fingerprint(TOKENIZER) if by is None else by
    return {"prompt": PROMPT, "response": text, "finished": [finished], "sampled_ids": [ids], "sampled_by": by}


def trained(rows: list[dict[str, Any]], tokenizer: Any = TOKENIZER) -> list[list[int]]:
    return [row["response_ids"][0] for row in encode_dataset(load_sft(rows), tokenizer)]


def test_ids_that_the_tokenizer_would_not_give_are_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert trained([row([*LETTERS, END]), row(LETTERS, finished=False)]) == [[*LETTERS, END], LETTERS]
    assert TOKENIZER("Flour", add_special_tokens=False)["input_ids"] != LETTERS
    assert f"2 {NOTES['_resampled']}" in caplog.messages


def test_how_many_are_encoded_otherwise_is_found_after_training(tmp_path: Path, capsys: Any) -> None:
    """In metrics, for the doctor and in the last words of a command: two are others, one is of another tokenizer."""
    rows = [row([*LETTERS, END]), row(LETTERS, finished=False), row([*LETTERS, END], by="another")]
    rows.append(row([]))
    counts: Counter[str] = Counter()
    encode_dataset(load_sft(rows), TOKENIZER, counts=counts)
    assert {name: count for name, count in counts.items() if count} == (
        expected := {"sampled_ids_differ": 2, "sampled_ids_unused": 1}
    )
    trainer = SFTTrainer(
        tiny_llama(),
        SFTConfig(**quiet(tmp_path, max_steps=1)),
        train_dataset=Dataset.from_list(rows),
        processing_class=TOKENIZER,
    )
    metrics = trainer.train().metrics
    trainer.save_metrics("train", metrics)
    found = json.loads((tmp_path / "run/all_results.json").read_text())
    assert {name: found[f"train_rows/{name}"] for name in expected} == expected
    assert not [name for name in found if name.startswith("train_rows/") and name[11:] not in expected]
    facts = json.loads((tmp_path / "run/doctor.json").read_text())["facts"]["encoding"]
    assert facts.keys() == COUNTS.keys() and {name: facts[name] for name in expected} == expected
    print(last_words(trainer, metrics))
    assert f"2 {NOTES['_resampled']}" in capsys.readouterr().out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", [PROMPT, [{"role": "text", "content": "面包是"}]], ids=["chat", "bare"])
def test_whatever_a_policy_samples_is_trained_on(family: str, prompt: Any, tmp_path: Path) -> None:
    """Any ids, halves of characters and unknown ones among them, through a pool, a file and its encoding."""
    tokenizer = family_tokenizer(family, CHATML, eos="<|im_end|>")
    end, chance = Renderer(tokenizer).end(prompt), random.Random(family)
    rules, by = StoppingRules(tokenizer, tuple(stop_token_ids(tokenizer)), 9), tokenizer_fingerprint(tokenizer)
    usual = [each for each in range(len(tokenizer)) if each not in (end, *rules.stop_tokens)]
    samples = []
    for number in range(40):
        ids = [*chance.choices(usual, k=8), end if number % 2 else usual[-1]]
        reason: Any = "stop" if number % 2 else "length"
        samples.append(Sample([1], ids, rules.text(ids, reason, is_bare(prompt)), reason, [0.0] * 9))
    how: dict[str, Any] = {"round": 0, "iteration": 0, "policy": "v", "temperature": 1.0, "seed": 0, "tokenizer": by}
    Pool(tmp_path).append(candidates_from([prompt], [samples], end=Renderer(tokenizer).end, **how))
    scored = [Scored(each, float(each.k)) for each in Pool(tmp_path).candidates()]
    rows = above(by_prompt(scored, include_truncated=True), 0.0)
    write_rows(tmp_path / "rows.jsonl", rows)
    encoded = encode_dataset(load_sft(str(tmp_path / "rows.jsonl"), strict=True), tokenizer)
    assert len(encoded) == len(rows) > 30
    assert [row["response_ids"] for row in encoded] == [[samples[int(row["score"])].ids] for row in rows]


@pytest.mark.parametrize(
    "given",
    [
        row([*LETTERS, END], by="another"),
        row([*LETTERS, END], text="Water"),
        row([*LETTERS, TOKENIZER.convert_tokens_to_ids("<eos>")]),
        row(LETTERS),
    ],
    ids=["another tokenizer", "an edited text", "another stop token", "no stop token"],
)
def test_ids_of_something_else_are_left_out_and_counted(given: Any, caplog: pytest.LogCaptureFixture) -> None:
    expected = TOKENIZER(given["response"], add_special_tokens=False)["input_ids"]
    assert trained([given]) == [[*expected, END]]
    assert f"1 {NOTES['_foreign']}" in caplog.messages
    assert check([[given]], tokenizer=TOKENIZER).files[0].findings["sampled_ids_unused"].count == 1


@pytest.mark.parametrize("nothing", [{"sampled_ids": [[]], "sampled_by": ""}, {"sampled_ids": None}, {}])
def test_rows_without_ids_are_text(nothing: Any, caplog: pytest.LogCaptureFixture) -> None:
    expected = TOKENIZER("Flour", add_special_tokens=False)["input_ids"]
    assert trained([{"prompt": PROMPT, "response": "Flour", **nothing}]) == [[*expected, END]]
    assert not any("sampled" in message for message in caplog.messages)


def test_a_list_is_put_in_order_with_its_ids() -> None:
    rows = [{"query": "x", "responses": ["a", "b"], "scores": [1, 2], "sampled_ids": [[7], [8]], "sampled_by": "t"}]
    (loaded,) = load_preferences(rows)
    assert (loaded["responses"], loaded["sampled_ids"], loaded["sampled_by"]) == (["b", "a"], [[8], [7]], "t")


@pytest.mark.parametrize("ids", [[[1], [2]], ["ab"], [[1.5]], [[True]], [[-1]], [[2**31]]])
def test_what_is_no_list_of_ids_drops_its_row(ids: Any) -> None:
    good = row([*LETTERS, END])
    with pytest.raises(DataError, match="field 'sampled_ids': expected a list of ids for each of 1 responses"):
        load_sft([{**good, "sampled_ids": ids}], strict=True)


@pytest.mark.parametrize(
    ("ids", "found"),
    [([[1], [2]], "has 2 lists for 1 responses"), ([[1, -1]], r"has \[1, -1\] for one"), ([None], "has None for one")],
)
def test_a_table_with_ids_that_do_not_fit_is_refused_by_row(ids: Any, found: str) -> None:
    """A table in the columns of the load functions is not read by an adapter."""
    text = {"finished": [True], "sampled_by": tokenizer_fingerprint(TOKENIZER)}
    rows = [{"prompt": PROMPT, "response": "Flour", "sampled_ids": each, **text} for each in ([[7]], ids)]
    with pytest.raises(DataError, match=f"row 1: sampled_ids {found}"):
        encode_dataset(Dataset.from_list(rows), TOKENIZER)


def test_a_policy_of_another_template_ends_responses_as_its_own_does() -> None:
    """What one template's stop token ended is trained on with the other's alone, by what is selected from a pool."""
    other = make_tokenizer(CHATML.replace("<|im_end|>", "<eos>"))
    assert tokenizer_fingerprint(other) == tokenizer_fingerprint(TOKENIZER) and other.eos_token_id != END
    ids = tuple([*LETTERS, other.eos_token_id])
    drawn = Candidate(0, 0, 0, tuple(PROMPT), "Flour", "stop", "v", 1.0, 0, ids, tokenizer_fingerprint(other))
    rows = best(by_prompt([Scored(drawn, 1.0)]))
    assert trained(rows, other) == [list(ids)]
    assert trained(rows) == [[*TOKENIZER("Flour", add_special_tokens=False)["input_ids"], END]]


@pytest.mark.parametrize(
    ("reason", "kept"),
    [("stop", (5, 6, 1)), ("other_stop", (5, 6)), ("length", (5, 6, 1)), ("stop_string", (5, 6, 1))],
)
def test_which_ids_of_a_candidate_are_trained_on(reason: str, kept: tuple[int, ...]) -> None:
    assert Candidate(0, 0, 0, tuple(PROMPT), "x", reason, "v", 1.0, 0, (5, 6, 1), "t").trained_ids == kept


def test_a_candidate_without_ids_is_the_line_that_it_was() -> None:
    """So that a pool of an earlier version goes on, byte for byte."""
    old = Candidate(0, 0, 0, tuple(PROMPT), "x", "stop", "v", 1.0, 0)
    assert not {"ids", "tokenizer"} & old.record().keys() and Candidate.of(old.record()) == old
    new = Candidate(0, 0, 0, tuple(PROMPT), "x", "stop", "v", 1.0, 0, (5, 6), "t")
    assert Candidate.of(json.loads(json.dumps(new.record()))) == new


def test_a_fingerprint_is_of_vocabulary_and_rules_alone() -> None:
    one = family_tokenizer("llama", CHATML)
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(family_tokenizer("llama"))
    assert tokenizer_fingerprint(one) != tokenizer_fingerprint(family_tokenizer("llama-legacy"))
    before = tokenizer_fingerprint(one)
    one.add_tokens(["<new>"])
    assert tokenizer_fingerprint(one) != before
