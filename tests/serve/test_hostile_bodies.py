"""Bodies that are no request, and names that are no model, on every route that takes a body; a
client that goes in the middle of a call of a tool."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.fake import loaded
from tests.serve.kinds import Several, ranking, similarity, talker
from tests.serve.live import check_error
from tests.serve.talking import Talk, talking
from tests.serve.test_completion_faults import idle, request
from tests.serve.test_connections import wait_until
from tests.serve.test_parameter_table import LEAST
from tests.serve.test_tools import ASKED, CHAT, WEATHER, model_of, tool
from tests.serve.tool_templates import HERMES
from tests.train.conftest import small as small  # the fixture

CHAIN = b"[" * 100_000 + b"]" * 100_000
BODIES: dict[str, tuple[bytes, dict[str, str], int]] = {
    "no JSON": (b"prompt=a", {}, 400),
    "nothing": (b"", {}, 400),
    "half": (b'{"prompt": "a"', {}, 400),
    "a list": (b"[{}]", {}, 400),
    "a number": (b"1e999", {}, 400),
    "a text": (b'"a"', {}, 400),
    "a key twice": (b'{"model": "a", "model": "a"}', {}, 400),
    "depth": (b'{"prompt": ' + CHAIN + b"}", {}, 400),
    "depth of another kind": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, {}, 400),
    "a byte-order mark": (b"\xef\xbb\xbf{}", {}, 400),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), {}, 400),
    "100 MB": (b" " * 100_000_000, {}, 413),
    "a bomb": (gzip.compress(b" " * 10_000_000), {"Content-Encoding": "gzip"}, 415),
    "a bomb that is not told": (gzip.compress(b" " * 10_000_000), {}, 400),
    "a form": (b"prompt=a", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
}
NAMES = {
    "climbs": ("../../etc/passwd", 404),
    "absolute": ("/etc/passwd", 404),
    "a URL": ("file:///etc/passwd", 404),
    "a link": ("link", 404),
    "a look-alike": ("t\u0430lks@production", 404),
    "NUL": ("talks@production\x00", 404),
    "of 10 kB": ("m" * 10_000, 413),
}


@pytest.fixture(scope="module")
def live(small: Path, model_folder: Path) -> Iterator[Several]:
    versions = {
        "talks@production": talker(model_folder),
        "near@production": similarity(small),
        "ranks@production": ranking(small),
        "counts@production": loaded("c1"),
    }
    live = Several(versions)
    yield live
    live.stop()


@pytest.mark.parametrize("name", BODIES)
def test_no_route_takes_a_body_that_is_no_request(live: Several, name: str) -> None:
    data, headers, wanted = BODIES[name]
    for route in LEAST:
        began = time.monotonic()
        status, _, body = live.ask("POST", route, data, headers)
        took = time.monotonic() - began
        check_error(status, body, wanted)
        assert took < 1.0
    assert live.engine.queued == 0


@pytest.mark.parametrize("name", NAMES)
def test_no_route_looks_for_a_model_by_a_path(
    live: Several, name: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted = NAMES[name]
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(model_folder)
    for route, least in LEAST.items():
        status, body = live.post(route, **{**least, "model": model})
        check_error(status, body, wanted)
        assert body["error"]["message"].isprintable()


def test_a_client_that_goes_in_the_middle_of_a_call_leaves_nothing(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m", HERMES, "tokens")
    with talking(model) as talk:
        for number in range(20):
            leave_in_a_call(talk, streamed=bool(number % 2))
        assert idle(talk)
        texts = talk.service.texts
        assert (texts.held, texts.places.held) == (set(), {})
        memory = texts.memory(model)
        assert wait_until(lambda: memory.pool.held == len(memory.prefixes.pages))
    model.close()


def leave_in_a_call(talk: Talk, streamed: bool) -> None:
    """Force a call, and go when its first tokens are written; it ends within a token."""
    asked: dict[str, Any] = {"messages": ASKED, "max_tokens": 200, "stream": streamed}
    asked |= {"tools": [tool("weather", WEATHER)], "tool_choice": "required"}
    before = talk.model.passed
    with talk.connect() as client:
        client.sendall(request(CHAT, **asked))
        assert wait_until(lambda: talk.model.passed >= before + 3)
        talk.model.open.clear()
        (answering,) = talk.service.texts.under_way()
        time.sleep(0.02)
    assert wait_until(lambda: answering.job.gone)
    passed = talk.model.passed
    talk.model.open.set()
    assert idle(talk)
    assert talk.model.passed <= passed + 1
