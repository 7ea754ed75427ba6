"""Posts JSON to a service over HTTP: again where that may help, with errors that show neither key nor credentials.

Needs httpx2, which is imported when something is posted.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import secrets
from .extras import require

if TYPE_CHECKING:
    import httpx2

RETRIED = {408, 429, *range(500, 600)}
SHOWN = 200
"""How many characters of what came back an error message shows."""


class Unanswered(Exception):
    """A request has no usable answer; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often a service that does not answer is asked again, and how long it is waited for.

    Args:
        attempts: of each request.
        pause: seconds before the second attempt; twice as many before each further one.
        longest: seconds; a service that asks for more is not waited for.
        give_up: so many requests in a row without an answer say that the service is down, or refuses the key: no more
            are sent, where one that fails is no error.
        wait: waits so many seconds for an event that stops the run; whether the event came.
    """

    attempts: int = 5
    pause: float = 1.0
    longest: float = 300.0
    give_up: int = 20
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait


def check_url(url: str, name: str, example: str) -> None:
    """Check the form of a URL; messages do not show the URL, which may hold a key.

    Args:
        name: what messages call it.
        example: of one.

    Raises:
        ValueError: it is none, or holds a user, a password or a query.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # whose message may show the key
        raise ValueError(f"{name}: this is no URL: write one such as {example}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name}: give a URL that begins with https:// or http:// and a host, such as {example}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"{name}: the URL holds a user, a password or a query, which would end up in logs: leave them out, and "
            "name by key_env the environment variable that holds the key"
        )


def check_key_env(key_env: str | None) -> None:
    """Check that this can name an environment variable; the message does not show it, as it may be the key itself.

    Raises:
        ValueError: it cannot.
    """
    if key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", key_env):
        raise ValueError(
            "key_env: this is no name of an environment variable (capitals, digits and _): give the name of the one "
            "that holds the key, such as OPENAI_API_KEY, and not the key"
        )


def key_from(key_env: str | None) -> str | None:
    """The key, read only when there is something to send, so that it is never shown or written; None without a name.

    Raises:
        ValueError: there is none, or one that cannot be sent; the message does not hold it.
    """
    if key_env is None:
        return None
    key = os.environ.get(key_env, "").strip()
    if not re.fullmatch(r"[!-~]+", key):
        state = "holds spaces or characters that no key has" if key else "is not set or empty"
        raise ValueError(f"key_env: the environment variable {key_env} {state}: put the key there")
    secrets.remember_value(key)
    return key


@contextmanager
def posting(
    url: str, key_env: str | None = None, *, timeout: float, connections: int, patience: Patience
) -> Iterator[Poster]:
    """Connects to a service for as long as the block lasts.

    Args:
        key_env: the environment variable that holds the key; None sends none.
        timeout: seconds without a sign of life.
        connections: at a time.

    Raises:
        ValueError: the environment variable holds no key.
        MissingExtra: httpx2 is not installed.
    """
    require("http", ("httpx2",), "a service behind a URL")
    import httpx2

    key = key_from(key_env)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    limits = httpx2.Limits(max_connections=connections)
    with httpx2.Client(timeout=timeout, headers=headers, limits=limits) as client:
        yield Poster(url, client, patience, key or "")


@dataclass
class Poster:
    """Posts to one URL; threads may share it. Once `stop` is set, nothing is waited for."""

    url: str
    client: httpx2.Client
    patience: Patience
    secret: str = field(repr=False)
    stop: threading.Event = field(default_factory=threading.Event)

    def post(self, body: Any) -> httpx2.Response:
        """The response to what JSON holds, with the status 200. Tries again where that may help.

        Raises:
            Unanswered: there is none.
        """
        pause, reason = self.patience.pause, ""
        for attempt in range(1, self.patience.attempts + 1):
            response, reason = self._post(body)
            if response is not None and response.status_code == 200:
                return response
            if response is not None and response.status_code not in RETRIED:
                break
            if attempt < self.patience.attempts:
                # Threads that were refused together do not come back together.
                self._wait(retry_after(response) or pause * random.uniform(1, 1.5), reason)
                pause *= 2
        raise Unanswered(reason if attempt == 1 else f"{reason} ({attempt} times)")

    def _post(self, body: Any) -> tuple[httpx2.Response | None, str]:
        """The service's response, None if there is none, and what is wrong with it."""
        import httpx2

        try:
            # Escaped, as half of a surrogate pair has no UTF-8.
            response = self.client.post(self.url, content=json.dumps(body).encode())
        except httpx2.RequestError as error:
            return None, self.cleaned(f"{type(error).__name__}: {error}")
        return response, f"HTTP {response.status_code}: {self.cleaned(response.text)[:SHOWN]}"

    def _wait(self, seconds: float, reason: str) -> None:
        if seconds > self.patience.longest:
            raise Unanswered(f"{reason} (asks to wait {seconds:.0f} seconds)")
        if self.patience.wait(self.stop, seconds):
            raise Unanswered(f"{reason} (and the run was stopped)")

    def cleaned(self, text: str) -> str:
        """What came back, as text that a file can hold, and without the key, which a service may repeat."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return clean.replace(self.secret, "[key]") if self.secret else clean


def retry_after(response: httpx2.Response | None) -> float:
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
