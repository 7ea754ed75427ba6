"""A service that scores: what it is asked in each shape, what counts as a score, what is said if there is none."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from prefopt import best_of_n
from prefopt.cli.scorer import check_scorer, load_scorer
from prefopt.compare import plan_from
from prefopt.compare.measure.judges import judge_from
from prefopt.compare.plan import PlanError
from prefopt.compare.run.tasks import Tasks
from prefopt.objectives.sampling_arguments import SamplingArguments
from prefopt.scoring import HTTPScorer, ScoreError, scorer_from
from prefopt.scoring.http import Cache
from prefopt.testbed.model import build_policy, build_tokenizer
from prefopt.training.arguments import ScorerArguments
from prefopt.utils.http import Patience
from tests.helpers.services import Answer, Service, serving

KEY = "sk-very-secret-0123456789"
QUICK = Patience(pause=0.001, attempts=3)
PROMPTS = [
    [{"role": "user", "content": "How do I cut paper?"}],
    [{"role": "user", "content": "法国的首都是哪里？"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "再见"},
    ],
]
RESPONSES = ["With scissors.", "巴黎。", "拜拜"]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Service]]:
    monkeypatch.setenv("NO_PROXY", "*")
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(serving(answer))


def lengths(body: dict[str, Any], _: int = 1) -> dict[str, Any]:
    """A service of our own shape, to which long responses are good ones."""
    return {"scores": [len(response) for response in body["responses"]]}


def vllm_score(body: dict[str, Any], _: int = 1) -> dict[str, Any]:
    """vLLM's answer, of which no order is promised."""
    pairs = list(enumerate(zip(body["text_1"], body["text_2"], strict=True)))
    data = [{"index": i, "object": "score", "score": len(b) - len(a)} for i, (a, b) in reversed(pairs)]
    return {"id": "embd-1", "object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 3}}


def vllm_pooling(body: dict[str, Any], _: int = 1) -> dict[str, Any]:
    said = body["messages"][-1]["content"] if "messages" in body else body["input"][0]
    return {"object": "list", "data": [{"index": 0, "object": "pooling", "data": [len(said) / 2]}]}


def scorer(service: Service, path: str = "/mine", **more: Any) -> HTTPScorer:
    return HTTPScorer(service.place + path, patience=QUICK, **more)


# What is asked


def test_a_shape_of_our_own(serve: Any) -> None:
    service = serve(lengths)
    found = scorer(service, model="rm", body={"temperature": 1}).score(PROMPTS, RESPONSES, [True, False, True])
    assert found == [14.0, 3.0, 2.0] and service.paths == ["/mine"]
    assert service.bodies == [
        {
            "prompts": PROMPTS,
            "responses": RESPONSES,
            "finished": [True, False, True],
            "model": "rm",
            "temperature": 1,
        }
    ]


def test_vllm_score(serve: Any) -> None:
    service = serve(vllm_score)
    found = scorer(service, "/v1/score/").score(PROMPTS, RESPONSES)
    conversation = "Be brief.\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 再见"
    assert found == [14.0 - 19, 3.0 - 9, 2.0 - len(conversation)] and service.paths == ["/v1/score"]
    (body,) = service.bodies
    assert body["text_1"] == ["How do I cut paper?", "法国的首都是哪里？", conversation] and body["text_2"] == RESPONSES
    assert body["use_activation"] is False and "model" not in body


def test_vllm_pooling(serve: Any) -> None:
    """One conversation a request; a response that was cut off ends without a stop token."""
    service = serve(vllm_pooling)
    prompts = [*PROMPTS, [{"role": "text", "content": "Once "}]]
    found = scorer(service, "/pooling", body={"task": "classify"}).score(
        prompts, [*RESPONSES, "upon"], [True, False, True, True]
    )
    assert found == [7.0, 1.5, 1.0, 4.5]
    bodies = sorted(service.bodies, key=lambda body: json.dumps(body.get("messages", "~"), ensure_ascii=False))
    by_text = {json.dumps(body.get("messages", body.get("input"))): body for body in bodies}
    cut = by_text[json.dumps([*PROMPTS[1], {"role": "assistant", "content": "巴黎。"}])]
    assert cut["continue_final_message"] is True and cut["task"] == "classify" and cut["use_activation"] is False
    whole = by_text[json.dumps([*PROMPTS[2], {"role": "assistant", "content": "拜拜"}])]
    assert "continue_final_message" not in whole
    assert by_text[json.dumps(["Once upon"])]["task"] == "classify" and len(by_text) == 4


def test_batches_stand_in_the_order_of_the_rows_and_rows_alike_are_asked_once(serve: Any) -> None:
    service = serve(lengths)
    responses = ["x" * (i % 7) for i in range(30)]
    found = scorer(service, batch_size=3, concurrency=3).score([PROMPTS[0]] * 30, responses)
    assert found == [float(i % 7) for i in range(30)]
    assert sorted(len(body["responses"]) for body in service.bodies) == [1, 3, 3]


def test_extras_of_turns_are_sent_as_json_or_refused(serve: Any) -> None:
    tools = '[{"type": "function", "function": {"name": "look_up"}}]'
    prompt = [{"role": "user", "content": "Look.", "tools": tools, "chat_template_kwargs": '{"thinking": false}'}]
    service = serve(lengths)
    scorer(service).score([prompt], ["ok"])
    assert service.bodies[0]["prompts"][0][0]["tools"] == json.loads(tools)
    for path in ("/score", "/pooling"):
        with pytest.raises(ScoreError, match="row 1: shape vllm.*tools.*take the shape json"):
            scorer(service, path).score([PROMPTS[0], prompt], ["ok", "ok"])
    pooled = serve(vllm_pooling)
    scorer(pooled, "/pooling").score([[{**prompt[0], "tools": ""}]], ["ok"])
    assert pooled.bodies[0]["chat_template_kwargs"] == {"thinking": False}
    assert "chat_template_kwargs" not in pooled.bodies[0]["messages"][0]


def test_half_of_a_surrogate_pair_is_sent(serve: Any) -> None:
    assert scorer(serve(lengths)).score([PROMPTS[0]], ["\ud83d"]) == [1.0]


def test_nothing_is_asked_for_no_rows(serve: Any) -> None:
    service = serve(lengths)
    assert scorer(service, key_env="NO_SUCH_KEY").score([], []) == [] and not service.bodies


# When it does not answer


def test_it_is_asked_again(serve: Any) -> None:
    service = serve(lambda body, count: lengths(body) if count > 2 else (503, {}, "loading"))
    assert scorer(service).score(PROMPTS, RESPONSES) == [14.0, 3.0, 2.0] and len(service.bodies) == 3


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, {}, "out of memory" + "." * 900), r"HTTP 500: out of memory\.{187} \(3 times\)\. It was asked for"),
        ((400, {}, {"error": {"message": "longer than 512 tokens"}}), "HTTP 400: .*longer than 512 tokens"),
        ((307, {"Location": "http://elsewhere.invalid"}, ""), "HTTP 307: "),
        ("<html>", "no scores in what came back: <html>"),
        ({"detail": "no"}, 'no scores in what came back: {"detail": "no"}'),
        ({"scores": [1, 2]}, r"2 scores for 3 responses: {\"scores\": \[1, 2\]}"),
        ({"scores": [1, 2, "three"]}, "'three' is no number"),
        ({"scores": [1, 2, True]}, "True is no number"),
        ({"scores": [1, 2, None]}, "None is no number"),
    ],
)
def test_what_is_no_score_is_named(serve: Any, answer: Any, says: str) -> None:
    service = serve(lambda *_: answer)
    with pytest.raises(ScoreError, match=says) as caught:
        scorer(service).score(PROMPTS, RESPONSES)
    message = str(caught.value)
    assert f"{service.place}/mine" in message and "rows 0 to 2 in the shape json" in message and len(message) < 500


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", "1" + "0" * 400])
def test_a_number_that_is_not_finite_is_refused_with_its_row(serve: Any, value: str, tmp_path: Path) -> None:
    service = serve(lambda *_: f'{{"scores": [1, {value}, 2]}}')
    with pytest.raises(ScoreError, match="to row 1 .*法国的首都是哪里"):
        scorer(service, cache=str(tmp_path)).score(PROMPTS, RESPONSES)
    assert [record["score"] for path in tmp_path.glob("*.jsonl") for record in map(json.loads, path.open())] == [1, 2]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([0.25, 0.75], r"no scores in what came back \(2 numbers for one response, .*single label\)"),
        ([[0.1], [0.2], [0.3]], r"\(3 numbers for one response"),
        ("AACAPw==", "'AACAPw==' is no number"),
    ],
)
def test_a_model_that_gives_several_numbers(serve: Any, data: Any, says: str) -> None:
    service = serve(lambda *_: {"data": [{"index": 0, "data": data}]})
    with pytest.raises(ScoreError, match=says):
        scorer(service, "/pooling").score(PROMPTS[:1], RESPONSES[:1])


def test_indices_that_are_no_order(serve: Any) -> None:
    service = serve(lambda *_: {"data": [{"index": i, "score": 1.0} for i in (0, 0, 2)]})
    with pytest.raises(ScoreError, match="no scores in what came back"):
        scorer(service, "/score").score(PROMPTS, RESPONSES)


def test_nobody_there(serve: Any) -> None:
    service = serve(lengths)
    service.http.shutdown()
    service.http.server_close()
    with pytest.raises(ScoreError, match=r"ConnectError: .* \(3 times\).*row 0 "):
        scorer(service).score(PROMPTS[:1], RESPONSES[:1])


# What is kept


def test_what_is_cached_is_not_asked_again(serve: Any, tmp_path: Path) -> None:
    service = serve(lengths)
    folder = str(tmp_path / "scores")
    assert scorer(service, cache=folder).score(PROMPTS, RESPONSES) == [14.0, 3.0, 2.0]
    again = scorer(service, cache=folder, concurrency=2, timeout=9, name="other")
    assert again.score([*PROMPTS[:2], PROMPTS[0]], ["巴黎。", "巴黎。", RESPONSES[0]]) == [3.0, 3.0, 14.0]
    assert [body["responses"] for body in service.bodies] == [RESPONSES, ["巴黎。"]]
    newer = scorer(service, cache=folder, version="2")
    assert newer.fingerprint != again.fingerprint and newer.score(PROMPTS, RESPONSES) == [14.0, 3.0, 2.0]
    assert len(service.bodies) == 3
    texts = "".join(path.read_text() for path in Path(folder).iterdir())
    assert "scissors" not in texts and "巴黎" not in texts


def test_what_came_before_an_error_is_kept(serve: Any, tmp_path: Path) -> None:
    """As after a kill: the next run asks for the rest only."""
    broken = True
    service = serve(lambda body, _: (400, {}, "no") if broken and "odd" in body["responses"] else lengths(body))
    one = scorer(service, cache=str(tmp_path), batch_size=1, concurrency=1)
    responses = ["a", "bb", "odd", "dddd"]
    with pytest.raises(ScoreError, match="HTTP 400: no.* row 2 "):
        one.score([PROMPTS[0]] * 4, responses)
    broken, before = False, len(service.bodies)
    assert one.score([PROMPTS[0]] * 4, responses) == [1.0, 2.0, 3.0, 4.0]
    asked = [body["responses"][0] for body in service.bodies[before:]]
    assert "odd" in asked and set(asked) <= {"odd", "dddd"}  # the last may have been on its way already


def _add(path: Path, process: int) -> None:
    cache = Cache(path)
    for number in range(25):
        cache.add({f"{process}-{number}": float(number), f"{process}-{number}-again": 0.5})


def test_several_processes_keep_scores_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4 and len(Cache(path).read()) == 200


# The key


def test_the_key_is_sent_and_shown_nowhere(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    service = serve(lambda body, count: lengths(body) if count == 1 else (401, {}, f"Incorrect key: {KEY}"))
    keyed = scorer(service, key_env="MY_KEY", cache=str(tmp_path))
    with pytest.raises(ValueError, match="MY_KEY is not set"):
        keyed.score(PROMPTS, RESPONSES)
    monkeypatch.setenv("MY_KEY", KEY)
    keyed.score(PROMPTS, RESPONSES)
    assert service.headers[0]["Authorization"] == f"Bearer {KEY}"
    with pytest.raises(ScoreError, match=r"HTTP 401: Incorrect key: \[key\]") as caught:
        keyed.score(PROMPTS, ["another"] * 3)
    files = "".join(path.read_text() for path in tmp_path.iterdir())
    assert KEY not in str(caught.value) + repr(keyed) + keyed.fingerprint + files + caplog.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"url": f"https://user:{KEY}@host/score"}, "a user, a password or a query"),
        ({"url": f"https://host/score?key={KEY}"}, "a user, a password or a query"),
        ({"url": "https://host/score", "key_env": KEY}, "no name of an environment variable"),
        ({"url": "https://host/score", "api_key": KEY}, "unknown key 'api_key'.*key_env"),
        ({"url": f"https://host:{KEY}/score"}, "no URL"),
        ({"url": "https://host/score", "shape": "vllm-scores"}, "no shape 'vllm-scores'; did you mean vllm-score"),
        ({"url": "https://host/score", "batch_size": 0}, "batch_size=0"),
        ({"url": "https://host/score", "timeout": "long"}, "timeout expects a number, not 'long'"),
    ],
)
def test_wrong_settings_do_not_show_the_key(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        scorer_from(given)
    assert KEY not in str(caught.value)


# Wherever a scorer is taken


def test_a_url_and_a_mapping_are_scorers(serve: Any) -> None:
    service = serve(lengths)
    url = f"{service.place}/mine"
    mapped = scorer_from({"url": url, "model": "rm", "patience": {"attempts": 2}}, batch_size=2)
    assert (mapped.model, mapped.batch_size, mapped.patience.attempts) == ("rm", 2, 2)  # type: ignore[attr-defined]
    plain = scorer_from(url)
    assert plain.name == url.removeprefix("http://") and plain.score(PROMPTS, RESPONSES) == [14.0, 3.0, 2.0]
    assert plain.fingerprint == scorer_from({"url": url + "/"}).fingerprint != mapped.fingerprint
    assert scorer_from(plain) is plain
    with pytest.raises(TypeError, match="a mapping with model is no scorer: a service has a url"):
        scorer_from({"model": "rm"})


def test_best_of_n_by_a_service(serve: Any) -> None:
    service, tokenizer = serve(lengths), build_tokenizer()
    settings = SamplingArguments(responses_per_prompt=3, max_new_tokens=4)
    prompts = [PROMPTS[0], PROMPTS[1]]
    best = best_of_n(build_policy(tokenizer), tokenizer, prompts, f"{service.place}/mine", settings)
    asked = {text for body in service.bodies for text in body["responses"]}
    assert len(best) == 2 and len(asked) > 2
    assert [one.score for one in best] == [len(one.sample.text) for one in best]


def test_on_the_command_line(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service = serve(lengths)
    monkeypatch.setenv("MY_KEY", KEY)
    for given in (f"{service.place}/mine", {"url": f"{service.place}/mine", "key_env": "MY_KEY"}):
        arguments = ScorerArguments(scorer=given)
        check_scorer(arguments)
        loaded = load_scorer(arguments)
        assert loaded is not None and loaded.score(PROMPTS, RESPONSES) == [14.0, 3.0, 2.0]
    with pytest.raises(ValueError, match="--scorer_dtype is for a reward model that is loaded here"):
        check_scorer(ScorerArguments(scorer=f"{service.place}/mine", scorer_dtype="bfloat16"))
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ValueError, match="MY_KEY is not set"):
        check_scorer(arguments)


PLAN: dict[str, Any] = {"policy": "testbed", "data": "testbed", "sft": {"max_steps": 3}, "methods": ["best-of-n"]}


@pytest.mark.parametrize("reward", ["http://host:8000/pooling", {"url": "http://host:8000/pooling", "model": "rm"}])
def test_in_a_plan(reward: Any) -> None:
    """No reward model is trained, and whatever is scored depends on what the plan says of the service."""
    plan = plan_from({**PLAN, "reward": reward})
    tasks = Tasks(plan)
    assert tasks.reward(0) == {} and plan.active_judges == ("score",)
    task = tasks.evaluate(plan.method_specs["best-of-n"], 0)
    assert task.inputs["scorer"] == [reward]
    with pytest.raises(PlanError, match="reward: scorer: unknown key 'modle'; did you mean model"):
        Tasks(plan_from({**PLAN, "reward": {"url": "http://host:8000/pooling", "modle": "rm"}}))


def test_as_a_judge(tmp_path: Path) -> None:
    for spec in ("http://host:8000/score", {"url": "http://host:8000/score"}):
        judge = judge_from(spec, folder=tmp_path)
        assert (judge.name, judge.kind) == ("host:8000/score", "reward-model")
    named = judge_from({"judge": "http://host:8000/score", "tolerance": 0.5, "name": "mine"}, folder=tmp_path)
    assert named.name == "mine" and named.fingerprint != judge.fingerprint
