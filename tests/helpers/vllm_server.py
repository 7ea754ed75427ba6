"""A server with the interface of `vllm serve`, as much of it as prefopt asks, whose responses are made up."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeServer:
    """What was asked, and which adapters are there.

    Args:
        root: the model that it serves.
        takes_adapters: it was started so that it does.
        fails: answers requests with an error.
    """

    def __init__(self, root: str, limit: int = 256, takes_adapters: bool = True, fails: bool = False):
        self.root, self.limit, self.takes_adapters, self.fails = root, limit, takes_adapters, fails
        self.adapters: dict[str, str] = {}
        self.taken: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        server, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say(*server.models() if self.path == "/v1/models" else (404, {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.keys.append(self.headers.get("Authorization"))
                    self._say(*server.answer(self.path, body))

            def _say(self, status: int, said: Any) -> None:
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def models(self) -> tuple[int, Any]:
        base = {"id": "served", "root": self.root, "parent": None, "max_model_len": self.limit}
        others = [{"id": name, "root": path, "parent": "served"} for name, path in self.adapters.items()]
        return 200, {"data": [*others, base]}

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/load_lora_adapter" and self.takes_adapters:
            self.adapters[body["lora_name"]] = body["lora_path"]
            self.taken.append(body["lora_path"])
            return 200, "Success"
        if path == "/v1/unload_lora_adapter" and self.takes_adapters:
            del self.adapters[body["lora_name"]]
            return 200, "Success"
        if path != "/v1/completions" or body["model"] not in ("served", *self.adapters):
            return 404, {"detail": "Not Found"}
        self.bodies.append(body)
        return (
            (400, {"error": {"message": "the context is too short"}}) if self.fails else (200, self._completion(body))
        )

    @staticmethod
    def _completion(body: dict[str, Any]) -> dict[str, Any]:
        chance = random.Random(repr((body["prompt"], body["seed"])))
        ids = [chance.randint(20, 200) for _ in range(min(body["max_tokens"] - 1, chance.randint(1, 9)))]
        ids = [token for token in ids if token not in body["stop_token_ids"]] + body["stop_token_ids"][:1]
        logprobs = {"token_logprobs": [-1.5] * len(ids)}
        reason = {"finish_reason": "stop", "stop_reason": ids[-1]}
        return {"choices": [{"token_ids": ids, "logprobs": logprobs, **reason}]}


@contextmanager
def fake_server(root: str, **how: Any) -> Iterator[FakeServer]:
    """The server, for as long as the block lasts."""
    server = FakeServer(root, **how)
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
