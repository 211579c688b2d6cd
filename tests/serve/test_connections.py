"""Connections that misbehave: none of them keeps others from being answered, none stays."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from lmwright.serve.connection import Connection
from tests.serve.fake import loaded, rows
from tests.serve.live import Live, check_error, head, living, read_all

GOOD = b'{"input": "a a b"}'
LENGTH = f"Content-Length: {len(GOOD)}"
TYPE = "Content-Type: application/json"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living(loaded()) as live:
        yield live


def answers(data: bytes) -> list[tuple[int, Any]]:
    """Statuses and bodies of the responses that stand in ``data``, one after another."""
    found = []
    while data:
        top, _, rest = data.partition(b"\r\n\r\n")
        lines = top.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(fields["content-length"])
        found.append((int(lines[0].split()[1]), json.loads(rest[:length])))
        data = rest[length:]
    return found


def one_answer(client: socket.socket) -> bytes:
    """The next error as bytes, in however many pieces it comes."""
    got = client.recv(65536)
    while got and not got.endswith(b"}}"):
        got += client.recv(65536)
    return got


def wait_until(condition: Any, seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (head("GET", "/health", "Bad Name: x"), 400),
        (head("GET", "/health", "X: a\x00b"), 400),
        (head("GET", "/health", "X: " + "x" * 1_000_000), 431),
        (head("GET", "/health", *(f"X-{n}: y" for n in range(10_000))), 431),
        (head("GET", "/health", *("a:b" for n in range(10_000))), 431),
        (head("GET", "/" + "x" * 1_000_000), 431),
        (head("GET", "/health", "Host: localhost"), 400),
        (head("POST", "/v1/classify", TYPE, LENGTH, "Content-Length: 3") + GOOD, 400),
        (head("POST", "/v1/classify", TYPE, "Transfer-Encoding: gzip, chunked"), 501),
        (head("POST", "/v1/classify", TYPE, "Transfer-Encoding: xchunked"), 501),
        (head("POST", "/v1/classify", TYPE, "Transfer-Encoding : chunked"), 400),
        (head("POST", "/v1/classify", TYPE, "Content-Length: 0x10"), 400),
        (head("POST", "/v1/classify", TYPE, "Content-Length: +18") + GOOD, 400),
        (head("POST", "/v1/classify", TYPE, "Transfer-Encoding: chunked") + b"zz\r\n", 400),
    ],
)
def test_what_is_no_http_is_refused_in_the_one_shape(live: Live, data: bytes, wanted: int) -> None:
    before = live.classify("a a b")["results"]
    began = time.monotonic()
    with live.connect() as client:
        client.sendall(data)
        first = client.recv(65536)
        took = time.monotonic() - began
        first += read_all(client)
    ((status, body),) = answers(first)
    check_error(status, body, wanted)
    assert took < 1.0
    assert live.classify("a a b")["results"] == before


def test_a_head_that_never_ends_is_ended(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.8)
    with live.connect() as slow, live.connect() as silent:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        began = time.monotonic()
        slow.settimeout(0.2)
        got = b""
        while not got and time.monotonic() - began < 5:
            try:
                got = slow.recv(65536)
            except TimeoutError:
                slow.sendall(b"x")
        ((status, body),) = answers(got)
        check_error(status, body, 408)
        assert ended(silent)
    assert wait_until(lambda: not live.server.server_state.connections)


def ended(client: socket.socket) -> bool:
    """Whether the peer closes, or has closed, without a word."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_thousand_idle_connections_lock_nobody_out(live: Live) -> None:
    before = live.classify("a a b")["results"]
    most = Connection.max_connections
    crowd = [live.connect() for _ in range(most + 50)]
    try:
        assert wait_until(lambda: len(live.server.server_state.connections) >= most)
        began = time.monotonic()
        for _ in range(20):
            assert live.classify("a a b")["results"] == before
        assert live.ask("GET", "/health")[0] == 200
        assert time.monotonic() - began < 2.0
        assert len(live.server.server_state.connections) <= most + 1
    finally:
        for client in crowd:
            client.close()
    assert wait_until(lambda: not live.server.server_state.connections)


def test_a_busy_server_says_so_when_all_connections_are_taken(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "max_connections", 2)
    predictor = live.rows.current.predictor
    predictor.open.clear()
    taken = [live.connect() for _ in range(2)]
    for client in taken:
        client.sendall(head("POST", "/v1/classify", TYPE, LENGTH) + GOOD)
    assert wait_until(lambda: live.rows.current.pending == 2)
    ((status, body),) = answers(live.raw(b""))
    check_error(status, body, 503)
    predictor.open.set()
    for client in taken:
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.close()


def test_pipelined_requests_are_answered_in_order(live: Live) -> None:
    one = head("POST", "/v1/classify", TYPE, LENGTH) + GOOD
    last = head("GET", "/v1/models", "Connection: close")
    found = answers(live.raw(one * 20 + head("GET", "/nowhere") + last))
    assert [status for status, _ in found] == [200] * 20 + [404, 200]
    assert len({json.dumps(body["results"]) for _, body in found[:20]}) == 1
    assert len({body["id"] for _, body in found[:20]}) == 20


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 200"),
    ],
)
def test_no_request_can_be_smuggled_in_a_body(live: Live, lines: tuple[str, ...]) -> None:
    inner = head("GET", "/v1/models")
    for method in ("POST", "GET"):
        found = answers(live.raw(head(method, "/v1/classify", TYPE, *lines) + b"0\r\n\r\n" + inner))
        ((status, body),) = found
        check_error(status, body, 400)


def test_the_body_of_a_get_is_no_request(live: Live) -> None:
    inner = head("GET", "/v1/models")
    data = head("GET", "/health", f"Content-Length: {len(inner)}") + inner
    found = answers(live.raw(data + head("GET", "/health", "Connection: close")))
    assert [body for _, body in found] == [{"status": "ok"}] * 2


def test_http_1_0_with_chunks_is_refused(live: Live) -> None:
    data = (
        b"POST /v1/classify HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    ((status, body),) = answers(live.raw(data))
    check_error(status, body, 400)


def test_a_body_in_many_chunks_is_one_body(live: Live) -> None:
    text = json.dumps({"input": "a " * 20_000}).encode()
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in text) + b"0\r\nTrailer: x\r\n\r\n"
    top = head("POST", "/v1/classify", TYPE, "Transfer-Encoding: chunked", "Connection: close")
    ((status, body),) = answers(live.raw(top + chunks))
    assert status == 200
    assert body["results"][0]["label"] == "yes"


@pytest.mark.parametrize(
    "body",
    [
        head("POST", "/v1/classify", TYPE, "Transfer-Encoding: chunked") + b"ff\r\n{",
        head("POST", "/v1/classify", TYPE, "Content-Length: 100") + b'{"input": "a',
        head("POST", "/v1/feedback", TYPE, "Content-Length: 100"),
        b"POST /v1/classify HTT",
    ],
)
def test_what_is_cut_off_leaves_nothing(live: Live, body: bytes) -> None:
    for _ in range(100):
        with live.connect() as client:
            client.sendall(body)
    assert wait_until(lambda: not live.server.server_state.connections)
    assert wait_until(lambda: not live.server.server_state.tasks)
    assert live.rows.current.pending == 0
    assert live.rows.queued == 0
    assert live.classify("a")["results"][0]["label"] == "yes"


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    with living(loaded(), request_seconds=0.5) as live:
        data = head("POST", "/v1/classify", TYPE, "Content-Length: 100") + b'{"input": "a'
        with live.connect() as client:
            client.sendall(data)
            ((status, body),) = answers(one_answer(client))
        check_error(status, body, 408)
        assert live.classify("a")["results"][0]["label"] == "yes"


def test_bodies_at_once_are_bounded() -> None:
    with living(loaded(), max_body_bytes=100_000, request_seconds=5) as live:
        part = b" " * 90_000
        top = head("POST", "/v1/classify", TYPE, "Content-Length: 99999")
        crowd = [live.connect() for _ in range(40)]
        for client in crowd:
            client.sendall(top + part)
        refused = []
        for client in crowd:
            client.settimeout(0.05)
            try:
                refused += answers(one_answer(client))
            except TimeoutError:
                continue
        assert len(refused) >= 4
        for status, body in refused:
            check_error(status, body, 503)
        for client in crowd:
            client.close()
        assert wait_until(lambda: not live.server.server_state.tasks)
        assert live.classify("a")["results"][0]["label"] == "yes"


def test_a_client_that_goes_gives_its_place_back_at_once(live: Live) -> None:
    scheduler, predictor = live.rows, live.rows.current.predictor
    predictor.batches.clear()
    predictor.open.clear()
    first, _ = scheduler.admit(rows(["the step under way"]))
    assert wait_until(lambda: not scheduler.waiting)
    under_way = scheduler.queued
    for _ in range(30):
        with live.connect() as client:
            client.sendall(head("POST", "/v1/classify", TYPE, LENGTH) + GOOD)
            assert wait_until(lambda: scheduler.queued > under_way)
        assert wait_until(lambda: scheduler.queued == under_way)
        assert not scheduler.waiting
    predictor.open.set()
    assert wait_until(lambda: first.pending == 0)
    assert predictor.batches == [1]
    assert wait_until(lambda: not live.server.server_state.tasks)


def test_a_reader_that_never_reads_is_cut_off(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "write_seconds", 0.5)
    before = live.classify("a a b")["results"]
    one = head("GET", "/metrics")
    with live.connect(timeout=1) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent = True
        began = time.monotonic()
        while sent and time.monotonic() - began < 10:
            try:
                client.sendall(one * 200)
            except (TimeoutError, ConnectionError):
                sent = False
            assert live.classify("a a b")["results"] == before
        assert not sent
        assert wait_until(lambda: not live.server.server_state.connections)
        assert wait_until(lambda: not live.server.server_state.tasks)


def test_a_slow_reader_of_a_long_answer_gets_it_whole(live: Live) -> None:
    texts = [f"a {n}" for n in range(64)]
    data = json.dumps({"input": texts}).encode()
    top = head("POST", "/v1/classify", TYPE, f"Content-Length: {len(data)}", "Connection: close")
    with live.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.sendall(top + data)
        got = b""
        while part := client.recv(997):
            got += part
    ((status, body),) = answers(got)
    assert status == 200
    assert [each["index"] for each in body["results"]] == list(range(64))


def test_thousands_of_bad_connections_leave_no_file_open(live: Live) -> None:
    me = psutil.Process()
    assert wait_until(lambda: not live.server.server_state.connections)
    fds = me.num_fds()
    for number in range(1000):
        with live.connect() as client:
            client.sendall((b"nonsense\r\n\r\n", b"GET / HT", b"")[number % 3])
    assert wait_until(lambda: not live.server.server_state.connections)
    assert wait_until(lambda: me.num_fds() <= fds + 2)


def test_an_upgrade_is_not_followed(live: Live) -> None:
    lines = ("Upgrade: websocket", "Connection: Upgrade, close", "Sec-WebSocket-Version: 13")
    ((status, body),) = answers(live.raw(head("GET", "/health", *lines)))
    assert (status, body) == (200, {"status": "ok"})
