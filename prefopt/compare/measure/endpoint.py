"""Asks a language model behind an OpenAI-compatible endpoint which of two responses is better, and keeps answers."""

from __future__ import annotations

import logging
import math
import os
import random
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx2
from tqdm.auto import tqdm

from ...utils import jsonl, secrets
from ...utils.fingerprint import fingerprint_of_values
from .judge_prompt import CHINESE, ENGLISH, SHOWN, Question, check_template, judge_prompt, parse_verdict
from .row_results import RowResults

logger = logging.getLogger(__name__)

RETRIED = {408, 429, *range(500, 600)}


class Failed(Exception):
    """A question was not answered; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Which model to ask, and how.

    Args:
        endpoint: URL up to and with the version, such as https://api.openai.com/v1.
        model: the endpoint's name for it.
        key_env: the environment variable that holds the key; None sends none. The key itself is kept nowhere.
        template: see `verdict.written`; None is our own, in English or Chinese.
        concurrency: questions at a time.
        timeout: seconds without a sign of life.
        temperature: None leaves it to the endpoint, as some models demand.
        name: for people; by default the model's.
    """

    endpoint: str
    model: str
    key_env: str | None = None
    template: str | None = None
    concurrency: int = 4
    timeout: float = 60.0
    temperature: float | None = 0.0
    name: str | None = None

    def __post_init__(self) -> None:
        _check_url(self.endpoint)
        if self.concurrency < 1 or self.timeout <= 0:
            raise ValueError(f"concurrency={self.concurrency} and timeout={self.timeout} must be more than 0")
        if self.template is not None:
            check_template(self.template)
        if self.key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env):
            raise ValueError(  # which may be the key, so it is not shown
                "key_env: this is no name of an environment variable (capitals, digits and _): give the name of "
                "the one that holds the key, such as OPENAI_API_KEY, and not the key"
            )

    @property
    def url(self) -> str:
        return self.endpoint.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"

    @property
    def fingerprint(self) -> str:
        """A hash of everything that an answer depends on, as far as is known here."""
        templates = [self.template] if self.template is not None else [ENGLISH, CHINESE]
        return fingerprint_of_values([self.url, self.model, self.temperature, templates])

    def key(self) -> str | None:
        """The endpoint's key, read only when there is something to ask, so that it is never shown or written.

        Raises:
            ValueError: there is none, or one that cannot be sent; the message does not hold it.
        """
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not re.fullmatch(r"[!-~]+", key):
            state = "holds spaces or characters that no key has" if key else "is not set or empty"
            raise ValueError(f"key_env: the environment variable {self.key_env} {state}: put the endpoint's key there")
        secrets.remember_value(key)
        return key


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often an endpoint that does not answer is asked again, and how long it is waited for.

    Args:
        attempts: of each question.
        pause: seconds before the second attempt; twice as many before each further one.
        longest: seconds; an endpoint that asks for more is not waited for.
        give_up: so many questions in a row without an answer say that the endpoint is down, or refuses the key: no more
            are asked.
        wait: waits so many seconds for an event that stops the run; whether the event came.
    """

    attempts: int = 5
    pause: float = 1.0
    longest: float = 300.0
    give_up: int = 20
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait


def _check_url(endpoint: str) -> None:
    """Check the form of a URL; messages do not show the URL, which may hold a key.

    Raises:
        ValueError: it is none, or holds a user, a password or a query.
    """
    try:
        url = httpx2.URL(endpoint)
    except httpx2.InvalidURL as error:
        raise ValueError("endpoint: this is no URL: write one such as https://api.openai.com/v1") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("endpoint: give a URL that begins with https:// or http:// and a host")
    if url.userinfo or url.query or url.fragment:
        raise ValueError(
            "endpoint: the URL holds a user, a password or a query, which would end up in logs: leave them out, and "
            "name by key_env the environment variable that holds the key"
        )


def ask(
    settings: Endpoint,
    questions: Sequence[Question],
    folder: Path,
    *,
    patience: Patience = Patience(),  # noqa: B008  (a frozen value)
    progress: bool = False,
) -> RowResults:
    """Which response is better, of each question in their order; a question with a known verdict is not asked again.

    Answers with a verdict are appended to a file in `folder` as they come, so that a killed run loses none. Questions
    that failed are asked again in the next run.
    """
    path = folder / f"{settings.fingerprint}.jsonl"
    texts = [judge_prompt(question, settings.template) for question in questions]
    keys = [fingerprint_of_values([settings.fingerprint, text]) for text in texts]
    verdicts = {record["key"]: (float(record["verdict"]), "") for record in jsonl.read(path)}
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in verdicts}
    verdicts |= _ask_missing(settings, missing, path, patience, progress) if missing else {}
    errors = [verdicts[key][1] for key in keys]
    if failed := [error for error in errors if error]:
        logger.warning("%s: %d of %d questions have no verdict: %s", settings.model, len(failed), len(keys), failed[0])
    return RowResults([verdicts[key][0] for key in keys], errors)


def _ask_missing(
    settings: Endpoint, missing: dict[str, str], path: Path, patience: Patience, progress: bool
) -> dict[str, tuple[float, str]]:
    key = settings.key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    pool = ThreadPoolExecutor(settings.concurrency)
    limits = httpx2.Limits(max_connections=settings.concurrency)
    with (
        httpx2.Client(timeout=settings.timeout, headers=headers, limits=limits) as client,
        tqdm(total=len(missing), desc=f"asking {settings.model}", unit="question", disable=not progress) as bar,
    ):
        run = _Run(settings, patience, client, key or "", path)
        try:
            futures = {key: pool.submit(run.ask, key, text) for key, text in missing.items()}
            for future in as_completed(futures.values()):
                future.result()  # raises what is no failure of the judge, such as a full disk
                bar.update()
        finally:  # of an interrupt too: what is on its way arrives and is written, the rest is not asked
            run.stop.set()
            pool.shutdown(cancel_futures=True)
    return {key: future.result() for key, future in futures.items()}


@dataclass
class _Run:
    """The questions that are being asked: what all threads share."""

    settings: Endpoint
    patience: Patience
    client: httpx2.Client
    secret: str = field(repr=False)
    path: Path
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    in_a_row: int = 0
    last: str = ""

    def ask(self, key: str, text: str) -> tuple[float, str]:
        """Ask a question, and write the answer down if it has a verdict; returns the verdict, and why there is none."""
        if self.in_a_row >= self.patience.give_up:
            return math.nan, f"not asked, as {self.patience.give_up} questions in a row had no answer: {self.last}"
        try:
            answer, cut = self._answer(text)
        except Failed as error:
            with self.lock:
                self.in_a_row, self.last = self.in_a_row + 1, str(error)
            return math.nan, str(error)
        verdict = None if cut else parse_verdict(answer)
        with self.lock:
            self.in_a_row = 0
            if verdict is not None:
                jsonl.append(self.path, [{"key": key, "verdict": verdict, "answer": answer}])
        if verdict is None:
            why = "was cut off" if cut else "ends in no verdict"
            return math.nan, f"the answer {why}: {answer[:SHOWN]!r}"
        return verdict, ""

    def _answer(self, text: str) -> tuple[str, bool]:
        """The answer, and whether a limit cut it off. Tries again where that may help."""
        pause, reason = self.patience.pause, ""
        for attempt in range(1, self.patience.attempts + 1):
            response, reason = self._post(text)
            if response is not None and response.status_code == 200:
                return self._read(response)
            if response is not None and response.status_code not in RETRIED:
                break
            if attempt < self.patience.attempts:
                # Threads that were refused together do not come back together.
                self._wait(_retry_after(response) or pause * random.uniform(1, 1.5), reason)
                pause *= 2
        raise Failed(reason if attempt == 1 else f"{reason} ({attempt} times)")

    def _post(self, text: str) -> tuple[httpx2.Response | None, str]:
        """The endpoint's response, None if there is none, and what is wrong with it."""
        body = {"model": self.settings.model, "messages": [{"role": "user", "content": text}]}
        temperature = self.settings.temperature
        try:
            response = self.client.post(
                self.settings.url, json=body | ({} if temperature is None else {"temperature": temperature})
            )
        except httpx2.RequestError as error:
            return None, self._cleaned(f"{type(error).__name__}: {error}")
        return response, f"HTTP {response.status_code}: {self._cleaned(response.text)[:SHOWN]}"

    def _wait(self, seconds: float, reason: str) -> None:
        if seconds > self.patience.longest:
            raise Failed(f"{reason} (asks to wait {seconds:.0f} seconds)")
        if self.patience.wait(self.stop, seconds):
            raise Failed(f"{reason} (and the run was stopped)")

    def _read(self, response: httpx2.Response) -> tuple[str, bool]:
        try:
            choice = response.json()["choices"][0]
            answer = choice["message"]["content"]
        except (ValueError, LookupError, TypeError):
            answer = None
        if not isinstance(answer, str):
            raise Failed(f"no chat completion: {self._cleaned(response.text)[:SHOWN]}")
        return self._cleaned(answer), choice.get("finish_reason") == "length"

    def _cleaned(self, text: str) -> str:
        """What came back, as text that a file can hold, and without the key, which an endpoint may repeat."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return clean.replace(self.secret, "[key]") if self.secret else clean


def _retry_after(response: httpx2.Response | None) -> float:
    """Seconds by the header Retry-After, a number or a date; 0 without a usable one."""
    header = response.headers.get("Retry-After", "") if response is not None else ""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
