"""A real HTTP server in a thread, whose answers a test writes as a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    """The JSON of the body, None where there is none."""


@dataclass
class Reply:
    """What goes back: `body` as JSON, or as it is where it is bytes."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """Whether the line is cut in the middle of the body."""


@dataclass
class Service:
    """Where the server listens and what it was asked so far."""

    url: str
    requests: list[Request]


@contextmanager
def json_service(answer: Callable[[Request, int], Reply]) -> Iterator[Service]:
    """Serve `answer(request, number)` on a free port of this machine; `number` counts from 0."""
    requests: list[Request] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.loads(content) if content else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            with lock:
                number = len(requests)
                requests.append(request)
            self._send(answer(request, number))

        do_GET = do_POST

        def _send(self, reply: Reply) -> None:
            raw = isinstance(reply.body, bytes)
            content = reply.body if raw else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                self.send_header("content-type", "text/html" if raw else "application/json")
                self.send_header("content-length", str(len(content)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if reply.cut else content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client no longer waits
            self.close_connection = self.close_connection or reply.cut

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Service(f"http://127.0.0.1:{server.server_address[1]}", requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
