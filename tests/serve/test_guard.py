"""Who may ask, from where, how much; and what the log makes of it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Request

from lmwright.core.errors import BadInput
from lmwright.core.yaml12 import parse_yaml
from lmwright.serve import guard
from lmwright.serve.guard import WITHOUT_KEY, read_keys
from lmwright.serve.log import json_log
from lmwright.serve.service import Service
from lmwright.serve.settings import Serve
from tests.serve.fake import loaded
from tests.serve.live import Live, check_error, head, living
from tests.serve.test_connections import answers, wait_until

KEYS = {"alice": ("use", "open sesame"), "bob": ("admin", "s3cret-k\u00e9y")}
ROUTES = ["/v1/classify", "/v1/models", "/health", "/ready", "/metrics", "/openapi.json", "/"]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def odd_routes(service: Service) -> APIRouter:
    """Routes that only these tests have: one for admins, one that fails."""
    router = APIRouter()

    @router.get("/v1/admin/ping")
    async def ping() -> dict[str, str]:
        return {"pong": "yes"}

    @router.post("/v1/fail")
    async def fail(request: Request) -> None:
        raise RuntimeError("in /srv/secret.py: " + (await request.body()).decode())

    return router


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(
        "# name role digest\n\n"
        + "".join(
            f"{name} {role} {hashlib.sha256(key.encode()).hexdigest()}\n"
            for name, (role, key) in KEYS.items()
        )
    )
    with living(loaded(), more=odd_routes, keys=str(path), hosts=("lm.example",)) as live:
        yield live


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for method in ("GET", "HEAD", "OPTIONS", "POST", "TRACE", "health")
        for path in (*ROUTES, "/nowhere", "//health", "/Health", "/health/")
        if (method, path) not in WITHOUT_KEY
    ],
)
def test_no_route_answers_without_a_key(live: Live, method: str, path: str) -> None:
    status, headers, body = live.ask(method, path)
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        check_error(status, body, 401)


@pytest.mark.parametrize(
    "line",
    [
        "Bearer",
        "Bearer ",
        "Bearer open",
        "Bearer open sesam",
        "Bearer open sesame ",
        "Bearer  open sesame",
        "Bearer open sesame2",
        "Bearer Open Sesame",
        "Bearer " + "x" * 60_000,
        "Bearer ' OR 1=1 --",
        "Basic open sesame",
        "open sesame",
        "Bearer " + hashlib.sha256(b"open sesame").hexdigest(),
    ],
)
def test_a_wrong_key_is_no_key(live: Live, line: str) -> None:
    data = head("GET", "/health", "Authorization: " + line, "Connection: close")
    if line.endswith("sesame "):  # the space is HTTP's, not the key's
        assert answers(live.raw(data))[0][0] == 200
        return
    ((status, body),) = answers(live.raw(data))
    check_error(status, body, 401)


def test_every_key_is_compared_whichever_is_given(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In constant time, by digests: neither the place of a key nor its beginning can be timed."""
    compared: list[tuple[str, str]] = []
    proper = guard.hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        compared.append((one, other))
        return proper(one, other)

    monkeypatch.setattr(guard.hmac, "compare_digest", counted)
    for key, wanted in (("open sesame", 200), ("open sesam", 401), ("", 401), ("x" * 9999, 401)):
        compared.clear()
        assert live.ask("GET", "/health", None, bearer(key))[0] == wanted
        assert len(compared) == len(KEYS)
        assert {other for _, other in compared} == {hashlib.sha256(key.encode()).hexdigest()}


def test_bytes_beyond_ascii_and_a_megabyte_are_no_key(live: Live) -> None:
    for line, wanted in ((b"Bearer \xff\xfe", 401), (b"Bearer " + b"x" * 1_000_000, 431)):
        data = b"GET /health HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + line + b"\r\n\r\n"
        ((status, body),) = answers(live.raw(data))
        check_error(status, body, wanted)


def test_two_keys_are_none(live: Live) -> None:
    lines = ["Authorization: Bearer open sesame"] * 2
    ((status, body),) = answers(live.raw(head("GET", "/health", *lines)))
    check_error(status, body, 400)


def test_the_right_key_opens_every_route(live: Live) -> None:
    for path in ("/v1/models", "/health", "/ready", "/metrics", "/openapi.json"):
        assert live.ask("GET", path, None, bearer("open sesame"))[0] == 200
    raw = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nauthorization: bearer "
    assert answers(live.raw(raw + "s3cret-k\u00e9y".encode() + b"\r\n\r\n"))[0][0] == 200


@pytest.mark.parametrize("path", ["/v1/admin/ping", "/v1/admin", "/V1/ADMIN/x", "//v1/admin/ping"])
def test_a_key_for_use_opens_no_admin_route(live: Live, path: str) -> None:
    status, _, body = live.ask("GET", path, None, bearer("open sesame"))
    check_error(status, body, 403)


def test_an_admin_key_does(live: Live) -> None:
    raw = b"GET /v1/admin/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: "
    found = answers(live.raw(raw + "Bearer s3cret-k\u00e9y\r\n\r\n".encode()))
    assert found == [(200, {"pong": "yes"})]


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:80"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "lm.example"}, 200),
        ({"Host": "lm.example", "Origin": "https://lm.example"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "0x7f.1"}, 403),
        ({"Host": "2130706433"}, 403),
        ({"Host": "localhost", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "https://localhost.evil.example"}, 403),
        ({"Host": "localhost", "Origin": "localhost"}, 403),
    ],
)
def test_only_the_servers_own_names_are_answered(
    live: Live, headers: dict[str, str], wanted: int
) -> None:
    status, found, body = live.ask("GET", "/health", None, {**bearer("open sesame"), **headers})
    assert status == wanted
    assert not [name for name in found if name.startswith("access-control")]
    if wanted != 200:
        check_error(status, body, wanted)


def test_a_client_cannot_pretend_to_be_another() -> None:
    with living(loaded(), queue_tokens=100) as live:
        live.rows.current.predictor.open.clear()
        found: list[int] = []
        texts = {"input": "a " * 20}

        def flood(number: int) -> None:
            headers = {"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}"}
            found.append(live.ask("POST", "/v1/classify", texts, headers)[0])

        threads = [threading.Thread(target=flood, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: len(found) == 8)
        assert list(live.rows.places.held) == ["127.0.0.1"]
        live.rows.current.predictor.open.set()
        for thread in threads:
            thread.join(10)
        assert sorted(found) == [200] * 2 + [429] * 8


def test_one_clients_flood_leaves_room_for_another(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("flood", "other")}
    path.write_text("".join(f"{name} use {digest}\n" for name, digest in digests.items()))
    with living(loaded(), keys=str(path), queue_tokens=1000, batch_tokens=64) as live:
        live.rows.current.predictor.open.clear()
        statuses: list[int] = []
        answered: list[str] = []
        texts = {"input": "a " * 9}

        def ask(name: str) -> None:
            status, headers, body = live.ask("POST", "/v1/classify", texts, bearer(name))
            if status == 429:
                check_error(status, body, 429)
                assert int(headers["retry-after"]) >= 1
            else:
                answered.append(name)
            statuses.append(status)

        crowd = [threading.Thread(target=ask, args=("flood",)) for _ in range(80)]
        for thread in crowd:
            thread.start()
        assert wait_until(lambda: len(statuses) == 30)
        others = [threading.Thread(target=ask, args=("other",)) for _ in range(10)]
        for thread in others:
            thread.start()
        assert wait_until(lambda: live.rows.places.held.get("other") == 100)
        assert live.rows.places.held["flood"] == 500
        live.rows.current.predictor.open.set()
        for thread in crowd + others:
            thread.join(10)
        assert statuses.count(429) == 30
        assert answered.count("other") == 10
        assert live.rows.places.held == {}


def test_a_fault_of_ours_is_told_in_the_log_only(live: Live) -> None:
    stream = StringIO()
    text = "forged\n2026 \x1b[31m\u202e"
    with redirect_stderr(stream), json_log():
        status, _, body = live.ask("POST", "/v1/fail", text.encode(), bearer("open sesame"))
        check_error(status, body, 500)
        assert "secret" not in json.dumps(body)
        assert wait_until(stream.getvalue)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].isascii()
    assert lines[0].isprintable()
    entry = json.loads(lines[0])
    assert (entry["level"], entry["message"]) == ("error", "a request failed")
    assert text in entry["traceback"]


def test_a_line_a_request_where_it_is_wished(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "lmwright.serve"),
        living(loaded(), log_requests=True) as live,
    ):
        live.classify("a")
        live.ask("GET", "/no\nwhere".replace("\n", "%0a"))
        assert wait_until(lambda: len(caplog.records) == 2)
    facts: list[dict[str, Any]] = [vars(record)["facts"] for record in caplog.records]
    assert [(each["route"], each["status"]) for each in facts] == [
        ("/v1/classify", 200),
        ("unknown", 404),
    ]
    assert all(each["client"] == "127.0.0.1" for each in facts)


def test_a_log_that_nobody_reads_holds_nothing_up() -> None:
    class Gone(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with redirect_stderr(Gone()), json_log():
        began = time.monotonic()
        for number in range(20_000):
            logging.getLogger("lmwright.serve").error("line %d", number)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "alice use\n", "alice root " + "0" * 64, "a use " + "G" * 64, "a b c d\n"],
)
def test_keys_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(BadInput, match="key"):
        read_keys(tmp_path / "keys")


def test_a_missing_or_unreadable_file_of_keys_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"\xff\xfe")
    for place in (tmp_path / "none", tmp_path, tmp_path / "odd"):
        with pytest.raises(BadInput, match="cannot be read"):
            read_keys(place)


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "0.0.0.0"},
        {"host": "192.168.0.1"},
        {"host": ""},
        {"port": -1},
        {"port": 65536},
        {"max_texts": 0},
        {"queue_tokens": 0},
        {"request_seconds": 0},
        {"drain_seconds": float("inf")},
        {"request_seconds": float("nan")},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Serve(**settings).check()


def test_the_guide_serves_other_machines(tmp_path: Path) -> None:
    """The example of docs/guides/serving.md: its key is one, its section is read, it answers."""
    guide = (Path(__file__).parents[2] / "docs/guides/serving.md").read_text("utf-8")
    lines = re.findall(r"^(?:KEY=|echo ).*$", guide, re.M)
    shell = "\n".join([*lines, 'printf %s "$KEY"'])
    done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    (section,) = re.findall(r"```yaml\nserve:\n(.*?)```", guide, re.S)
    given = {**parse_yaml(section, "guide"), "keys": str(tmp_path / "keys"), "host": "127.0.0.1"}
    settings = Serve(**given)
    with living(loaded(), **{key: value for key, value in given.items() if key != "host"}) as live:
        for host in settings.hosts:
            named = {"Host": f"{host}:8000", **bearer(done.stdout)}
            assert live.ask("POST", "/v1/classify", {"input": "a"}, named)[0] == 200
            check_error(*live.ask("GET", "/health", None, {"Host": host})[::2], 401)
        other = {"Host": "other.example.org", **bearer(done.stdout)}
        check_error(*live.ask("GET", "/health", None, other)[::2], 403)
