"""The client of endpoints: what is refused, what is waited for, and that nothing takes for ever."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.hosted.endpoint import Endpoint, Limits, Rejected, events, retry_after
from tests.hosted.odd_endpoint import Odd, odd, response, streamed

GOOD = {"choices": []}
QUICK = Limits(idle_timeout=0.3, timeout=0.6, max_bytes=200_000)
ODD_WORDS = "no \x1b[31mred\u202e, <b>please</b>"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def endpoint(one: Odd, **more: Any) -> Endpoint:
    """An endpoint with little patience, which notes its rests instead of resting."""
    return Endpoint(one.url, **{"limits": QUICK, "sleep": lambda seconds: None, **more})


def fault(one: Odd, **more: Any) -> LmwrightError:
    """What an answer that is none comes to, whole and streamed alike, in bounded time."""
    found = []
    for ask in (
        lambda: endpoint(one, **more).post("x", {}),
        lambda: list(endpoint(one, **more).events("x", {})),
    ):
        began = time.monotonic()
        with pytest.raises(LmwrightError) as caught:
            ask()
        assert time.monotonic() - began < 20  # a hang would take 30 s
        found.append(caught.value)
    assert type(found[0]) is type(found[1])
    line = str(found[0])
    assert line.isprintable() and "\n" not in line and len(line) < 1200
    return found[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Odd.hang, "was silent for 0.3 s"),
        (Odd.drip, "took more than 0.6 s"),
        (response(200, b"<html>Sign in</html>", kind="text/html"), "<html>Sign in"),
        (response(200, b"[1]"), "no JSON object"),
        (response(200, b"[" * 100_000), "no JSON object"),
        (HEAD + b"Content-Length: 90\r\n\r\n{}", "breaks off"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{}", "breaks off"),
        (b"SSH-2.0-odd\r\n", "speaks no HTTP"),
        (b"", "breaks off"),
    ],
)
def test_what_is_no_answer_is_said_in_bounded_time(answer: Any, said: str) -> None:
    with odd(b"") as one:
        one.answers = [answer if isinstance(answer, bytes) else answer.__get__(one)]
        found = str(fault(one))
    assert said in found and one.url in found and "wanted: an answer" in found


@pytest.mark.parametrize("start", [HEAD + b"\r\n", EVENTS])
@pytest.mark.parametrize("piece", [b"x" * 9999, b": x\n\n", b"data: {}\n\n", b"data: x\n"])
def test_an_answer_without_end_is_let_go(start: bytes, piece: bytes) -> None:
    with odd(b"") as one:
        one.answers = [one.flood(start, piece)]
        found = str(fault(one, limits=replace(QUICK, timeout=10)))
    assert "more than 200,000 bytes" in found or "line without end" in found


def test_an_answer_that_drips_ends_in_time_although_it_is_never_silent() -> None:
    def drips(client: Any) -> None:
        client.sendall(EVENTS)
        while not one.over.wait(0.02):
            client.sendall(b": still here\n\n")

    with odd(drips) as one:
        assert "took more than 0.6 s" in str(fault(one))


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_a_busy_endpoint_is_asked_again_and_its_wish_is_honoured(status: int) -> None:
    rests: list[float] = []
    busy = response(status, {}, "Retry-After: 7")
    with odd(busy, response(status, {}), response(200, GOOD)) as one:
        assert endpoint(one, sleep=rests.append).post("x", {"a": 1}) == GOOD
    assert rests == [7, 2] and [body for _, _, body in one.asked] == [{"a": 1}] * 3


def test_tries_are_counted_and_too_long_a_rest_is_not_taken() -> None:
    rests: list[float] = []
    with odd(response(503, {"error": {"message": ODD_WORDS}})) as one:
        found = str(fault(one, sleep=rests.append))
    assert rests == [1, 2, 4] * 2 and len(one.asked) == 8
    assert json.dumps(ODD_WORDS) in found and "status 503" in found
    with odd(response(429, {}, "Retry-After: 3600")) as one:
        found = str(fault(one, sleep=rests.append))
    assert "asks for 3600 s of rest" in found and len(one.asked) == 2 and len(rests) == 6


def test_a_rest_may_be_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (retry_after(soon) or 0) <= 30
    past = format_datetime(datetime.now(UTC) - timedelta(days=3))
    assert retry_after(past) == 0
    assert [retry_after(each) for each in ("1.5", "-3", "nan", "inf", "soon", "")] == [1.5] + [
        None
    ] * 5


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": ODD_WORDS, "param": "top_p"}}),
        (422, {"detail": ODD_WORDS}),
        (400, [{"error": {"code": 400, "message": ODD_WORDS}}]),
        (404, {"message": ODD_WORDS}),
        (418, ODD_WORDS.encode()),
    ],
)
def test_what_an_endpoint_refuses_is_said_in_its_own_words(status: int, body: Any) -> None:
    with odd(response(status, body)) as one:
        found = fault(one)
    assert isinstance(found, Rejected) and found.message == ODD_WORDS and len(one.asked) == 2
    assert json.dumps(ODD_WORDS) in str(found) and f"status {status}" in str(found)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_nobody_is_sent_elsewhere(status: int) -> None:
    with odd(response(200, GOOD)) as other:
        with odd(response(status, b"", f"Location: {other.url}/x")) as one:
            assert f"sends elsewhere (status {status}, to " in str(fault(one))
        assert not other.asked


def test_the_key_goes_to_the_endpoint_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_KEY", "sk-hush-123")
    refused = response(401, {"error": {"message": "no such key: sk-hush-123"}})
    with odd(refused) as one:
        found = fault(one, key_from="ODD_KEY")
        assert [headers["authorization"] for _, headers, _ in one.asked] == [
            "Bearer sk-hush-123"
        ] * 2
        assert "no such key: (the key)" in str(found) and "--key-from" in str(found)
        assert "hush" not in str(found) + repr(endpoint(one, key_from="ODD_KEY"))
    with odd(response(200, GOOD)) as one:
        endpoint(one).post("x", {})
        assert "authorization" not in one.asked[0][1]


@pytest.mark.parametrize("value", [None, "", "two words", "line\r\nX-More: 1", "clé"])
def test_what_is_no_key_is_not_sent(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv("ODD_KEY", value)
    with odd(response(200, GOOD)) as one:
        with pytest.raises(BadInput, match="ODD_KEY is not set, or holds no key") as caught:
            endpoint(one, key_from="ODD_KEY").post("x", {})
        assert not one.asked and (not value or value not in str(caught.value))


@pytest.mark.parametrize("name", ["sk-hush-123", "gsk_hush", "AIzahush", "A KEY", "1X", "X\n"])
def test_a_key_in_place_of_its_variables_name_is_not_repeated(name: str) -> None:
    with pytest.raises(BadInput, match="not the key") as caught:
        Endpoint("https://x.example/v1", name)
    assert name not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "", "x.example", "ftp://x.example", "https://", "https://x.example:99999/v1",
        "https://me:hush@x.example/v1", "https://x.example/v1?key=hush", "https://x.example/#hush",
        "http://x.example/v1", "http://10.0.0.1/v1", "http://localhost.example/v1",
        "https://x..example", f"https://{'x' * 64}.example",
        "https://x.example/a b", "https://x.example/\n", "https://[::1/v1",
    ],
)  # fmt: skip
def test_an_address_that_is_none_or_unprotected_is_refused(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        Endpoint(url)
    assert "hush" not in str(caught.value) and "https://HOST/v1" in str(caught.value)


def test_without_tls_only_this_machine_is_asked() -> None:
    for url in ("http://127.0.0.1:9/v1", "http://localhost/v1", "http://[::1]:80", "https://x.io"):
        assert Endpoint(url).url == url
    with odd(response(200, GOOD)) as one:
        assert endpoint(one).post("chat/x", {}) == GOOD
        assert one.asked[0][0] == "POST /v1/chat/x HTTP/1.1"


def test_a_name_that_only_seems_to_be_this_machine_is_not_asked(monkeypatch: Any) -> None:
    monkeypatch.setattr("lmwright.hosted.endpoint.ip_address", lambda _: Far)
    with odd(response(200, GOOD)) as one:
        monkeypatch.setattr("lmwright.hosted.endpoint.is_loopback", lambda _: True)
        with pytest.raises(LmwrightError, match="without TLS only this machine is asked"):
            endpoint(one).post("x", {})
        assert not one.asked


class Far:
    """An address that is not of this machine."""

    is_loopback = False


def test_nothing_that_answers_is_said_at_once() -> None:
    with odd(b"") as one:
        pass
    with pytest.raises(LmwrightError, match="cannot be reached"):
        endpoint(one).post("x", {})


@pytest.mark.parametrize("ends", ["\n\n", "\r\n\r\n", "\r\r"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_are_read_however_they_are_cut(ends: str, size: int) -> None:
    sent = [{"n": 1}, {"text": "é\u2028\n"}, {"n": 3}]
    data = streamed(*sent, ends=ends)

    def cut(client: Any) -> None:
        for place in range(0, len(data), size):
            client.sendall(data[place : place + size])

    with odd(cut) as one:
        assert list(endpoint(one).events("x", {})) == sent


def test_an_event_may_have_several_lines_and_comments_between() -> None:
    lines = [b": hello", b"event: x", b"data: {", b"data:}", b"", b"", b"id: 3", b"", b"data: 1"]
    assert list(events(iter(lines))) == [b"{\n}"]


def test_a_fault_inside_a_stream_is_said() -> None:
    with odd(streamed({"n": 1}, {"error": {"message": ODD_WORDS}})) as one:
        stream = endpoint(one).events("x", {})
        assert next(stream) == {"n": 1}
        with pytest.raises(LmwrightError, match="breaks off") as caught:
            next(stream)
        assert json.dumps(ODD_WORDS) in str(caught.value)


def test_an_endpoint_that_does_not_stream_gives_its_one_object() -> None:
    with odd(response(200, GOOD)) as one:
        assert list(endpoint(one).events("x", {})) == [GOOD]
