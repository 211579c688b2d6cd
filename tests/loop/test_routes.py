"""The routes of the loop: feedback read strictly, the loop's state without its secrets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmwright.loop.routes import Loop, routes
from lmwright.serve.service import Service, Services
from lmwright.serve.traffic import Traffic
from tests.serve.fake import loaded
from tests.serve.live import Live, check_error, living

NOBODY = "cls-" + "0" * 32


@pytest.fixture
def traffic(tmp_path: Path) -> Iterator[Traffic]:
    traffic = Traffic(tmp_path, keep_text=True, retention_days=1, gate_share=0.5)
    yield traffic
    traffic.close()


@pytest.fixture
def controller() -> Any:
    return SimpleNamespace(state={"at": "observed"}, scores=[], unfit="", fault="")


@pytest.fixture
def live(traffic: Traffic, controller: Any) -> Iterator[Live]:
    def more(service: Service) -> Any:
        service.observers.append(traffic.observe)
        return routes(Services([service]), [Loop(service, traffic, controller)])

    with living(loaded(), more=more, request_seconds=1.0) as live:
        yield live


def give(live: Live, body: Any) -> tuple[int, dict[str, str], Any]:
    return live.ask("POST", "/v1/feedback", body)


def test_feedback_is_kept_beside_its_answer(live: Live, traffic: Traffic) -> None:
    answer = live.classify("a film", "b film")["id"]
    assert give(live, {"id": answer, "index": 1, "label": "yes"})[0] == 201
    assert give(live, {"id": answer, "index": 1, "label": "no"})[0] == 201
    (row,) = traffic.labelled()
    assert (row["id"], row["place"]) == (answer, 1)
    assert (row["target"], row["inputs"]) == ({"label": "no"}, {"text": "b film"})


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, 400),
        ({"id": NOBODY}, 400),
        ({"label": "yes"}, 400),
        ({"id": NOBODY, "label": "yes"}, 404),
        ({"id": NOBODY, "label": "yes", "index": None}, 404),
        ({"id": "../../etc/passwd", "label": "yes"}, 404),
        ({"id": "' OR 1=1 --", "label": "yes"}, 404),
        ({"id": NOBODY + "\n", "label": "yes"}, 404),
        ({"id": "\x00", "label": "yes"}, 404),
        ({"id": "x" * 10_000, "label": "yes"}, 413),
        ({"id": 1, "label": "yes"}, 400),
        ({"id": NOBODY, "label": "maybe"}, 400),
        ({"id": NOBODY, "label": "yes\n\x1b[31m\u202e"}, 400),
        ({"id": NOBODY, "label": None}, 400),
        ({"id": NOBODY, "label": ["yes"]}, 400),
        ({"id": NOBODY, "label": "x" * 10_000}, 413),
        ({"id": NOBODY, "label": "yes", "index": -1}, 400),
        ({"id": NOBODY, "label": "yes", "index": 10**9}, 400),
        ({"id": NOBODY, "label": "yes", "index": 2**63}, 400),
        ({"id": NOBODY, "label": "yes", "index": 1.5}, 400),
        ({"id": NOBODY, "label": "yes", "index": "1"}, 400),
        ({"id": NOBODY, "label": "yes", "index": True}, 400),
        ({"id": NOBODY, "label": "yes", "score": 1}, 400),
        ({"id": NOBODY, "label": True}, 400),
        ({"id": NOBODY, "label": {"label": "yes"}}, 400),
        ({"id": NOBODY, "label": ""}, 400),
        ({"id": NOBODY, "text": "another text"}, 400),
        ({"id": NOBODY, "rating": None}, 400),
        ({"id": NOBODY, "rating": "1"}, 400),
        ({"id": NOBODY, "rating": "good"}, 400),
        ({"id": NOBODY, "rating": True}, 400),
        ({"id": NOBODY, "rating": [1]}, 400),
        ({"id": NOBODY, "rating": -0.01}, 400),
        ({"id": NOBODY, "rating": 1.01}, 400),
        ({"id": NOBODY, "rating": 5}, 400),
        ({"id": NOBODY, "rating": 0.5}, 404),
        ({"id": NOBODY, "rating": 0.5, "label": "yes"}, 404),
        (b'{"id": "x", "rating": 1e999}', 400),
        (b'{"id": "x", "rating": NaN}', 400),
        (b'{"id": "x", "label": ' + b"[" * 900 + b'"yes"' + b"]" * 900 + b"}", 400),
        (b'{"id": "\\ud800", "label": "yes"}', 400),
        (b'{"id": "x", "id": "y", "label": "yes"}', 400),
        (b"[]", 400),
    ],
)
def test_bad_feedback_is_refused(live: Live, traffic: Traffic, body: Any, wanted: int) -> None:
    status, _, answer = give(live, body)
    check_error(status, answer, wanted)
    assert answer["error"]["message"].isprintable()
    assert (traffic.labelled(), traffic.ratings("v1")) == ([], [])


@pytest.mark.parametrize("body", [{"rating": 2, "label": "yes"}, {"rating": 1, "label": "maybe"}])
def test_of_feedback_that_is_half_wrong_nothing_is_kept(
    live: Live, traffic: Traffic, body: dict[str, Any]
) -> None:
    answer = live.classify("a film")["id"]
    check_error(*give(live, {"id": answer, **body})[::2], 400)
    assert (traffic.labelled(), traffic.ratings("v1")) == ([], [])


@pytest.mark.parametrize("route", ["predict", "classify"])
def test_a_rating_is_kept_as_one_and_never_as_a_target(
    live: Live, traffic: Traffic, route: str
) -> None:
    texts = ("a film", "b film", "c film", "d film")
    if route == "classify":
        answer = live.classify(*texts)["id"]
    else:
        body = {"inputs": [{"text": text} for text in texts]}
        answer = live.ask("POST", "/v1/predict", body)[2]["id"]
    for place, rating in enumerate((0, 0.25, 1)):
        assert give(live, {"id": answer, "index": place, "rating": rating})[0] == 201
    assert traffic.labelled() == []
    assert traffic.ratings("v1") == [0.0, 0.25, 1.0]
    assert give(live, {"id": answer, "index": 3, "label": "yes", "rating": 0.75})[0] == 201
    assert give(live, {"id": answer, "index": 3, "label": "no", "rating": None})[0] == 201
    (row,) = traffic.labelled()
    assert (row["place"], row["target"]) == (3, {"label": "no"})
    assert sorted(traffic.ratings("v1")) == [0.0, 0.25, 0.75, 1.0]
    assert give(live, {"id": answer, "index": 0, "rating": 0.5})[0] == 201
    assert sorted(traffic.ratings("v1")) == [0.25, 0.5, 0.75, 1.0], "the last word counts"
    assert len(traffic.labelled()) == 1


def test_another_index_than_was_answered_is_unknown(live: Live) -> None:
    answer = live.classify("a film")["id"]
    check_error(*give(live, {"id": answer, "index": 1, "label": "yes"})[::2], 404)


def test_a_disk_that_hangs_holds_up_feedback_only(
    live: Live, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr(traffic, "give", lambda *given: free.wait(20))
    told: list[tuple[int, dict[str, str], Any]] = []

    def ask() -> None:
        told.append(give(live, {"id": NOBODY, "label": "yes"}))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert live.classify("a")["results"][0]["label"] == "yes"
    for thread in threads:
        thread.join(10)
    free.set()
    for status, fields, body in told:
        check_error(status, body, 504)
        assert "retry-after" in fields


def test_a_full_disk_fails_no_answer_and_names_no_path(
    live: Live, traffic: Traffic, controller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> Any:
        raise OSError(28, "No space left on device", "/srv/store/traffic.db")

    monkeypatch.setattr(traffic.database, "write", full)
    for _ in range(5):
        assert live.classify("a")["results"][0]["label"] == "yes"
    traffic.flush()
    controller.fault = "OSError: [Errno 28] /srv/store/registry.db"
    status, _, body = live.ask("GET", "/v1/loop")
    assert status == 200
    assert body["lost"] == 5
    assert body["fault"]
    assert "srv" not in json.dumps(body)
    assert live.ask("GET", "/health")[0] == 200
    check_error(*give(live, {"id": NOBODY, "label": "yes"})[::2], 500)
