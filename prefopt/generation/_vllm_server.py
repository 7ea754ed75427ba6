"""`EngineServer`: a vLLM server (`vllm serve`) that has the policy, asked by its OpenAI-compatible interface.

It has to serve the policy itself or, for a LoRA adapter, its base: the adapter is loaded into it, and taken out at the
end. Whether it does is checked by what the server says of its models.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from json import JSONDecodeError
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..utils.http import Patience, Poster, Unanswered, check_url, posting
from ._vllm_process import EngineError

logger = logging.getLogger(__name__)

EXAMPLE = "http://localhost:8000"
KEY = "VLLM_API_KEY"
"""The environment variable that vLLM's server reads its key from, and from which it is sent."""
CONCURRENCY = 128
"""Requests at a time: the server batches them."""
TIMEOUT = 3600.0
"""Seconds: a request waits for others, and says nothing until its response has ended."""
ALLOW = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve {base} --enable-lora --max-lora-rank {rank}"
PLAIN = {"min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logprobs": 0, "return_token_ids": True}
"""What every request asks for: no default of the server's may shape the distribution."""
OWN = ("prompt_token_ids", "detokenize", "logprobs")
"""What a request to an engine has, and one over HTTP has not, or by another name."""


class EngineServer:
    """A server that samples.

    Args:
        url: without `/v1`.
        base: the folder or hub id of the model that the server has.
        adapter: the folder of a LoRA adapter on it, which the server must be able to read.
        rank: of the adapter.

    Raises:
        ValueError: the server does not answer, has another model, or cannot take an adapter.
    """

    def __init__(self, url: str, base: str, adapter: str | None, rank: int):
        check_url(url, "vllm_server_base_url", EXAMPLE)
        self.url, self.base, self.rank = url.rstrip("/").removesuffix("/v1"), base, rank
        self._open = ExitStack()
        key = KEY if os.environ.get(KEY) else None
        connection = posting(
            f"{self.url}/v1/completions", key, timeout=TIMEOUT, connections=CONCURRENCY, patience=Patience()
        )
        self._poster: Poster = self._open.enter_context(connection)
        try:
            card = self._card()
            self.limit = int(card["max_model_len"])
            self.model = str(card["id"])
            if adapter is not None:
                self._load(adapter)
        except BaseException:
            self.close()
            raise

    def _card(self) -> Mapping[str, Any]:
        """What the server says of the model that was asked for."""
        import httpx2

        try:
            response = self._poster.client.get(f"{self.url}/v1/models", timeout=60)
            if response.status_code in (401, 403):
                raise ValueError(
                    f"vllm_server_base_url={self.url} answers HTTP {response.status_code}: set VLLM_API_KEY to its key"
                )
            cards = [card for card in response.json()["data"] if not card.get("parent")]
        except (httpx2.RequestError, LookupError, TypeError, JSONDecodeError) as error:
            reason = self._poster.cleaned(f"{type(error).__name__}: {error}")
            raise ValueError(
                f"vllm_server_base_url={self.url}: no vLLM server answers there ({reason}): start one by "
                f"`vllm serve {self.base}`, and wait until it is up"
            ) from error
        for card in cards:
            if any(_is_same(self.base, str(card.get(name))) for name in ("root", "id")):
                return dict(card)
        served = ", ".join(str(card.get("root") or card.get("id")) for card in cards)
        raise ValueError(
            f"vllm_server_base_url={self.url} serves {served}, and responses are to be sampled from {self.base}: start "
            f"it by `vllm serve {self.base}`"
        )

    def _load(self, adapter: str) -> None:
        name, path = f"prefopt-{uuid4().hex}", str(Path(adapter).resolve())
        response = self._post("load_lora_adapter", {"lora_name": name, "lora_path": path})
        if response.status_code != 200:
            command = ALLOW.format(base=self.base, rank=self.rank)
            raise ValueError(
                f"vllm_server_base_url={self.url} did not take the policy's adapter {path} (HTTP "
                f"{response.status_code}: {self._poster.cleaned(response.text)[:300]}): the server must see that "
                f"folder and be started by `{command}`"
            )
        self.model = name
        self._open.callback(self._unload, name)

    def _unload(self, name: str) -> None:
        with suppress(Exception):
            self._post("unload_lora_adapter", {"lora_name": name})

    def _post(self, what: str, body: Mapping[str, Any]) -> Any:
        return self._poster.client.post(f"{self.url}/v1/{what}", json=dict(body), timeout=600)

    def respond(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The answers to requests, see `_vllm_program.Engine.respond`.

        Raises:
            EngineError: the server gave none to one of them.
        """
        pool = ThreadPoolExecutor(min(CONCURRENCY, len(requests) or 1))
        try:
            return list(pool.map(self._answer, requests))
        finally:
            self._poster.stop.set()  # of an error too: what has not been asked is asked no more
            pool.shutdown(cancel_futures=True)
            self._poster.stop.clear()

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        shaped = {name: value for name, value in request.items() if name not in OWN}
        try:
            response = self._poster.post(
                {"model": self.model, "prompt": request["prompt_token_ids"], **shaped, **PLAIN}
            )
            (choice,) = response.json()["choices"]
            return {
                "ids": list(choice["token_ids"]),
                "logps": [float(logp) for logp in (choice["logprobs"] or {}).get("token_logprobs") or ()],
                "finish_reason": choice["finish_reason"],
                "stop_reason": choice["stop_reason"],
            }
        except (Unanswered, LookupError, TypeError, ValueError) as error:
            raise EngineError(f"{self.url}: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Take the adapter out of the server, which goes on."""
        self._open.close()


def _is_same(asked: str, served: str) -> bool:
    """Whether both name one model: a hub id, or paths to one folder."""
    if asked == served:
        return True
    places = [Path(name).expanduser() for name in (asked, served)]
    return all(place.exists() for place in places) and places[0].samefile(places[1])
