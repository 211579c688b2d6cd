"""A real server on a loopback port, in a thread, with the fake model; and blunt clients for it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lmwright.serve import routes
from lmwright.serve.app import make_app
from lmwright.serve.engine import Engine
from lmwright.serve.rows import Loaded, RowScheduler
from lmwright.serve.server import DrainingServer, bind, loop_factory
from lmwright.serve.service import Service, Services
from lmwright.serve.settings import Serve

JSON = {"Content-Type": "application/json"}


class Live:
    """The server, its engine and its port."""

    def __init__(self, loaded: Loaded, more: Any = None, **settings: Any) -> None:
        self.settings = Serve(**{"port": 0, **settings})
        self.engine, limits = Engine(), self.settings
        self.rows = RowScheduler(self.engine, loaded, limits.batch_tokens, limits.queue_tokens)
        self.service = Service("fake@production", self.rows, self.settings)
        self.services = Services([self.service])
        self.begin([routes.routes(self.services), *([more(self.service)] if more else [])])

    def begin(self, routers: list[Any]) -> None:
        self.server = DrainingServer(make_app(self.services, routers), self.settings, self.engine)
        self.listener = bind(self.settings)
        self.listener.listen(1024)
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(self.server.serve(sockets=[self.listener]))

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)
        self.engine.close(5)
        assert not self.thread.is_alive()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float = 10,
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body (read as JSON where it is JSON) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            extra = {} if data is None else JSON
            connection.request(method, path, data, {**extra, **(headers or {})})
            response = connection.getresponse()
            text = response.read()
            found = {name.lower(): value for name, value in response.getheaders()}
            if found.get("content-type") == "application/json" and text:
                return response.status, found, json.loads(text)
            return response.status, found, text
        finally:
            connection.close()

    def classify(self, *texts: str) -> Any:
        status, _, body = self.ask("POST", "/v1/classify", {"input": list(texts)})
        assert status == 200, body
        return body

    def connect(self, timeout: float = 10) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def raw(self, data: bytes, timeout: float = 10) -> bytes:
        """Send bytes; everything that comes back until the server closes."""
        with self.connect(timeout) as client:
            client.sendall(data)
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """What comes until the end."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def living(loaded: Loaded, **settings: Any) -> Iterator[Live]:
    """A server for the length of a block."""
    live = Live(loaded, **settings)
    try:
        yield live
    finally:
        predictor: Any = live.rows.current.predictor
        predictor.open.set()
        live.stop()


def head(method: str = "POST", path: str = "/v1/classify", *lines: str) -> bytes:
    """The head of a request as bytes, with further header lines."""
    first = [f"{method} {path} HTTP/1.1", "Host: localhost", *lines]
    return "\r\n".join([*first, "", ""]).encode()


def check_error(status: int, body: Any, wanted: int) -> None:
    """The one shape of an error, and nothing in it that a stranger should not see."""
    assert status == wanted, body
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == wanted
    shown = json.dumps(body)
    for secret in ("Traceback", ".py", "/work", "/tmp", "/home", "0x", "site-packages"):
        assert secret not in shown
