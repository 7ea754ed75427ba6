"""`HTTPScorer`: a service behind a URL as a scorer, vLLM's `/score` and `/pooling` or one of your own.

`_http_shapes.py` says what is sent and what is expected back.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..data.records import Messages
from ..utils import files, jsonl, secrets
from ..utils.extras import require
from ..utils.fingerprint import fingerprint_of_values
from ..utils.http import SHOWN, Patience, Poster, Unanswered, check_key_env, check_url, key_from, posting
from ..utils.names import hint
from ..utils.settings import built
from ._http_shapes import SHAPES, Row, Unsendable, shape_of
from .scorer import ScoreError, all_finished, checked

EXAMPLE = "http://localhost:8000/score"
Numbered = tuple[int, str, Row]
"""A row's number, its key in the cache, and the row."""


def is_service(source: Any) -> bool:
    """Whether this names a service: a URL, or a mapping with a `url`."""
    if isinstance(source, Mapping):
        return "url" in source
    return isinstance(source, str) and re.match(r"https?://", source, re.I) is not None


def service_from(source: str | Mapping[str, Any], **options: Any) -> HTTPScorer:
    """The scorer that a URL is, or a mapping with the fields of `HTTPScorer`.

    Raises:
        ValueError: a field that there is not, or one that cannot be.
    """
    given = ({"url": source} if isinstance(source, str) else dict(source)) | options
    if isinstance(given.get("patience"), Mapping):
        given["patience"] = built(Patience, given["patience"], "scorer: patience")
    return built(HTTPScorer, given, "scorer")


@dataclass(frozen=True, eq=False)
class HTTPScorer:
    """Asks a service for scores, in batches, several at a time, each again where that may help.

    Args:
        url: the whole of it, such as http://localhost:8000/pooling.
        shape: one of `_http_shapes.SHAPES`; by default what the URL's last part stands for: `score` and `pooling` are
            vLLM's, all else is "json".
        model: the service's name of the model; None sends none, and vLLM takes the one that it serves.
        key_env: the environment variable that holds the key; None sends none. The key itself is kept nowhere.
        batch_size: rows in a request; of vLLM's `/pooling`, which takes one, this says nothing.
        concurrency: requests at a time.
        timeout: seconds without a sign of life.
        body: what else each request holds, such as {"truncate_prompt_tokens": 4096}; null takes a field out.
        version: another text for another model at the same URL. It is part of the fingerprint, by which pools and
            caches know scores again, and nothing else tells that the model behind a URL has changed.
        cache: a folder where scores are kept; None keeps none. It holds hashes and scores, and no text.
        name: for people; by default the URL without its scheme.
        patience: how often a service that does not answer is asked again.
        progress: show a bar.

    Raises:
        ValueError: something of this cannot be.
    """

    url: str
    _: KW_ONLY
    shape: str = ""
    model: str | None = None
    key_env: str | None = None
    batch_size: int = 32
    concurrency: int = 8
    timeout: float = 60.0
    body: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    cache: str | None = None
    name: str = ""
    patience: Patience = Patience()  # noqa: RUF009  (a frozen value)
    progress: bool = False

    def __post_init__(self) -> None:
        require("http", ("filelock", "httpx2"), "a scorer over HTTP")
        check_url(self.url, "scorer: url", EXAMPLE)
        check_key_env(self.key_env)
        secrets.remember(self.body)
        self._put("url", self.url.rstrip("/"))
        self._put("shape", self.shape or shape_of(self.url))
        self._put("name", self.name or self.url.partition("://")[2])
        if self.shape not in SHAPES:
            raise ValueError(f"scorer: there is no shape {self.shape!r}{hint(self.shape, SHAPES)}")
        for name in ("batch_size", "concurrency", "timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"scorer: {name}={getattr(self, name)} must be more than 0")

    def _put(self, name: str, value: str) -> None:
        object.__setattr__(self, name, value)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that is known here of what a score depends on."""
        return fingerprint_of_values(["http", self.url, self.shape, self.model, dict(self.body), self.version])

    def check_key(self) -> None:
        """Check that the environment holds the key, before anything slow.

        Raises:
            ValueError: it does not.
        """
        key_from(self.key_env)

    def score(
        self, prompts: Sequence[Messages], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> list[float]:
        """One score per row; rows that are alike are asked for once.

        Raises:
            ScoreError: the service did not give one finite number for each row. Scores that came before are cached.
        """
        ended = all_finished(prompts, responses, finished)
        rows = [Row(*row) for row in zip(prompts, responses, map(bool, ended), strict=True)]
        keys = [self._key(number, row) for number, row in enumerate(rows)]
        scores: dict[str, Any] = dict(self._cache.read()) if self._cache and rows else {}
        numbered: dict[str, Numbered] = {}
        for number, (key, row) in enumerate(zip(keys, rows, strict=True)):
            if key not in scores:
                numbered.setdefault(key, (number, key, row))
        scores |= self._ask(list(numbered.values())) if numbered else {}
        return checked(self.name, [scores[key] for key in keys], prompts, responses)

    @cached_property
    def _cache(self) -> Cache | None:
        return Cache(Path(self.cache).expanduser() / f"{self.fingerprint}.jsonl") if self.cache else None

    def _key(self, number: int, row: Row) -> str:
        """A hash of what is sent for a row alone."""
        try:
            return fingerprint_of_values([self.fingerprint, self._body([row])])
        except Unsendable as error:
            raise ScoreError(f"scorer {self.name!r}: row {number}: shape {self.shape}: {error}") from error

    def _body(self, rows: Sequence[Row]) -> dict[str, Any]:
        model = {} if self.model is None else {"model": self.model}
        body = {**SHAPES[self.shape].body(rows), **model, **self.body}
        return {name: value for name, value in body.items() if value is not None}

    def _ask(self, rows: list[Numbered]) -> dict[str, Any]:
        size = min(self.batch_size, SHAPES[self.shape].most or self.batch_size)
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        pool = ThreadPoolExecutor(min(self.concurrency, len(batches)))
        connection = posting(
            self.url, self.key_env, timeout=self.timeout, connections=self.concurrency, patience=self.patience
        )
        found: dict[str, Any] = {}
        with connection as poster, tqdm(total=len(rows), desc=self.name, disable=not self.progress) as bar:
            try:
                futures: list[Future[dict[str, Any]]] = [pool.submit(self._ask_for, poster, batch) for batch in batches]
                for future in as_completed(futures):
                    found |= future.result()
                    bar.update(len(found) - bar.n)
            finally:  # of an error or an interrupt too: what is on its way arrives and is cached, the rest is not asked
                poster.stop.set()
                pool.shutdown(cancel_futures=True)
        return found

    def _ask_for(self, poster: Poster, batch: list[Numbered]) -> dict[str, Any]:
        """The scores of one request, by the keys of their rows."""
        try:
            scores = self._scores(poster, [row for _, _, row in batch])
        except Unanswered as error:
            first, last = batch[0][0], batch[-1][0]
            which = f"row {first}" if first == last else f"rows {first} to {last}"
            others = ", ".join(shape for shape in SHAPES if shape != self.shape)
            raise ScoreError(
                f"scorer {self.name!r}: {self.url}: {error}. It was asked for the scores of {which} in the shape "
                f"{self.shape} (others are {others})"
            ) from error
        found = {key: score for (_, key, _), score in zip(batch, scores, strict=True)}
        if self._cache:
            self._cache.add({key: score for key, score in found.items() if math.isfinite(score)})
        return found

    def _scores(self, poster: Poster, rows: list[Row]) -> list[float]:
        response = poster.post(self._body(rows))
        shown = poster.cleaned(response.text)[:SHOWN]
        try:
            scores = SHAPES[self.shape].read(response.json())
        except (LookupError, TypeError, ValueError) as error:
            why = f" ({error})" if str(error)[:1].isdigit() else ""
            raise Unanswered(f"no scores in what came back{why}: {shown}") from error
        if len(scores) != len(rows):
            raise Unanswered(f"{len(scores)} scores for {len(rows)} responses: {shown}")
        if wrong := [score for score in scores if isinstance(score, bool) or not isinstance(score, int | float)]:
            raise Unanswered(f"{wrong[0]!r} is no number: {shown}")
        return [float(score) if abs(score) <= sys.float_info.max else math.nan for score in scores]


class Cache:
    """Scores on disk, by the hash of what they are of; several processes may add to one file at a time."""

    def __init__(self, path: Path):
        self.path, self.size, self.scores = path, -1, dict[str, float]()
        self.lock = threading.Lock()

    def read(self) -> dict[str, float]:
        """All scores that are there."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        with self.lock:
            if size != self.size:
                self.scores = {record["key"]: float(record["score"]) for record in jsonl.read(self.path)}
                self.size = size
            return self.scores

    def add(self, scores: Mapping[str, float]) -> None:
        from filelock import FileLock

        files.make_folder(self.path.parent)
        records = [{"key": key, "score": score} for key, score in scores.items()]
        with self.lock, FileLock(f"{self.path}.lock"):
            jsonl.append(self.path, records)
