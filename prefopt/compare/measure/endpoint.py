"""Asks a language model behind an OpenAI-compatible endpoint which of two responses is better, and keeps answers."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ...utils import jsonl
from ...utils.fingerprint import fingerprint_of_values
from ...utils.http import SHOWN, Patience, Poster, Unanswered, check_key_env, check_url, key_from, posting
from .judge_prompt import CHINESE, ENGLISH, Question, check_template, judge_prompt, parse_verdict
from .row_results import RowResults

logger = logging.getLogger(__name__)

EXAMPLE = "https://api.openai.com/v1"


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
        check_url(self.endpoint, "endpoint", EXAMPLE)
        if self.concurrency < 1 or self.timeout <= 0:
            raise ValueError(f"concurrency={self.concurrency} and timeout={self.timeout} must be more than 0")
        if self.template is not None:
            check_template(self.template)
        check_key_env(self.key_env)

    @property
    def url(self) -> str:
        return self.endpoint.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"

    @property
    def fingerprint(self) -> str:
        """A hash of everything that an answer depends on, as far as is known here."""
        templates = [self.template] if self.template is not None else [ENGLISH, CHINESE]
        return fingerprint_of_values([self.url, self.model, self.temperature, templates])

    def key(self) -> str | None:
        """The endpoint's key, see `utils.http.key_from`."""
        return key_from(self.key_env)


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
    pool = ThreadPoolExecutor(settings.concurrency)
    connection = posting(
        settings.url,
        settings.key_env,
        timeout=settings.timeout,
        connections=settings.concurrency,
        patience=patience,
    )
    with (
        connection as poster,
        tqdm(total=len(missing), desc=f"asking {settings.model}", unit="question", disable=not progress) as bar,
    ):
        run = _Run(settings, patience.give_up, poster, path)
        try:
            futures = {key: pool.submit(run.ask, key, text) for key, text in missing.items()}
            for future in as_completed(futures.values()):
                future.result()  # raises what is no failure of the judge, such as a full disk
                bar.update()
        finally:  # of an interrupt too: what is on its way arrives and is written, the rest is not asked
            poster.stop.set()
            pool.shutdown(cancel_futures=True)
    return {key: future.result() for key, future in futures.items()}


@dataclass
class _Run:
    """The questions that are being asked: what all threads share."""

    settings: Endpoint
    give_up: int
    poster: Poster
    path: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    in_a_row: int = 0
    last: str = ""

    def ask(self, key: str, text: str) -> tuple[float, str]:
        """Ask a question, and write the answer down if it has a verdict; returns the verdict, and why there is none."""
        if self.in_a_row >= self.give_up:
            return math.nan, f"not asked, as {self.give_up} questions in a row had no answer: {self.last}"
        try:
            answer, cut = self._answer(text)
        except Unanswered as error:
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
        """The answer, and whether a limit cut it off."""
        body = {"model": self.settings.model, "messages": [{"role": "user", "content": text}]}
        temperature = self.settings.temperature
        return self._read(self.poster.post(body | ({} if temperature is None else {"temperature": temperature})))

    def _read(self, response: Any) -> tuple[str, bool]:
        try:
            choice = response.json()["choices"][0]
            answer = choice["message"]["content"]
        except (ValueError, LookupError, TypeError):
            answer = None
        if not isinstance(answer, str):
            raise Unanswered(f"no chat completion: {self.poster.cleaned(response.text)[:SHOWN]}")
        return self.poster.cleaned(answer), choice.get("finish_reason") == "length"
