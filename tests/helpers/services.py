"""A service on this machine that answers posted JSON by a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any], int], Any]
"""(what was posted, how many requests there were) -> what JSON holds; text as it is; or (status, headers, either)."""


class Service:
    """What was asked, and where."""

    def __init__(self, answer: Answer):
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        lock, service = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    service.bodies.append(body)
                    service.paths.append(self.path)
                    service.headers.append(dict(self.headers))
                    count = len(service.bodies)
                said = answer(body, count)
                status, headers, said = said if isinstance(said, tuple) else (200, {}, said)
                data = (said if isinstance(said, str) else json.dumps(said)).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@contextmanager
def serving(answer: Answer) -> Iterator[Service]:
    """The service, for as long as the block lasts."""
    service = Service(answer)
    try:
        yield service
    finally:
        service.http.shutdown()
        service.http.server_close()
