"""An endpoint on loopback that says to each request exactly the bytes that a test wants."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Answer = bytes | Callable[[socket.socket], None]


class Odd:
    """Gives the next of its answers to each request, the last one to all further ones.

    ``asked`` are the requests: the first line, the headers and the JSON body. ``over`` is set when
    the test is.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.over = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.threads: list[threading.Thread] = []
        self.begin(self.accept)

    def begin(self, work: Callable[..., None], *given: Any) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self.threads.append(thread)
        thread.start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                self.begin(self.serve, client, answer)

    def serve(self, client: socket.socket, answer: Answer) -> None:
        with client, client.makefile("rb") as reader, suppress(OSError):
            if not (first := reader.readline().decode().strip()):
                return
            headers = {}
            while line := reader.readline().decode().strip():
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            body = json.loads(reader.read(int(headers["content-length"])))
            self.asked.append((first, headers, body))
            if isinstance(answer, bytes):
                client.sendall(answer)
            else:
                answer(client)

    def hang(self, client: socket.socket) -> None:
        """Say nothing."""
        self.over.wait(30)

    def drip(self, client: socket.socket) -> None:
        """Say a little now and then, for ever."""
        while not self.over.wait(0.02):
            client.sendall(b"x")

    def flood(self, start: bytes, piece: bytes) -> Callable[[socket.socket], None]:
        """Say ``start``, and then ``piece`` for ever."""

        def answer(client: socket.socket) -> None:
            client.sendall(start)
            while not self.over.is_set():
                client.sendall(piece)

        return answer

    def close(self) -> None:
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def odd(*answers: Answer) -> Iterator[Odd]:
    """Such an endpoint for the length of a block."""
    made = Odd(*answers)
    try:
        yield made
    finally:
        made.close()


def response(status: int, body: bytes | Any, *lines: str, kind: str = "application/json") -> bytes:
    """A whole response; a body that is no bytes is JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Odd", f"Content-Type: {kind}", f"Content-Length: {len(data)}"]
    return "\r\n".join([*head, *lines, "", ""]).encode() + data


def streamed(*events: Any, done: bool = True, ends: str = "\n\n") -> bytes:
    """Server-sent events until the connection's end; one that is a text stands as it is."""
    said = [each if isinstance(each, str) else json.dumps(each) for each in events]
    text = "".join(f"data: {each}{ends}" for each in [*said, *(["[DONE]"] if done else [])])
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + text.encode()
