"""The replay: a text that the server refuses is no lost request, and takes no neighbour with it."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmwright.cli.replay import Played, Server, play, send, tell
from lmwright.core.errors import LmwrightError
from lmwright.core.random import stream
from lmwright.loop.routes import Loop, routes
from lmwright.serve.service import Services
from lmwright.serve.traffic import Given
from lmwright.store.progress import Lines
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_generation import TextGeneration
from tests.loop.test_controller import DRIFT, TASK, House

LONGEST = 20
GOOD = TextClassification(labels=("bad", "good"))


def labelled(texts: Sequence[str], label: str) -> list[dict[str, Any]]:
    """Texts as rows of one label."""
    return [{"text": text, "label": label} for text in texts]


class Limited:
    """Stands for the server: refuses texts above its limit, or has no answer at all."""

    def __init__(self, status: int) -> None:
        self.status = status

    def ask(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v1/feedback":
            return 201, {}
        if any(len(row["text"]) > LONGEST for row in body["inputs"]):
            return self.status, {"error": {"message": "too long"}}
        told = {"label": "good", "unsure": False, "probabilities": {"good": 0.9, "bad": 0.1}}
        answers = [{"index": place, **told} for place in range(len(body["inputs"]))]
        return 200, {"id": "a", "version": "v", "answers": answers}


@pytest.mark.parametrize(
    ("status", "lost", "refused", "answered"),
    [(413, 0, ["too long"], 3), (400, 0, ["too long"], 3), (0, 4, [], 0), (429, 4, [], 0)],
)
def test_a_refused_text_is_counted_by_itself(status, lost, refused, answered):
    played, texts = Played(), ["fine", "x" * 50, "good", "bad"]
    batch = labelled(texts, "good")
    send(Limited(status), GOOD, batch, 1.0, stream(0, "test"), played)
    assert (played.sent, played.lost, played.refused) == (4, lost, refused)
    assert played.by_version.get("v", []) == [0.0] * answered
    shown = [each["accuracy"]["estimate"] for each in played.scored().values()]
    assert shown == ([1.0] if answered else [])
    assert played.fed_back == answered


class Writing:
    """Stands for the server of a language model: a text costs 1 or 3 bits a byte."""

    def ask(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v1/feedback":
            return 201, {}
        sizes = [len(row["text"]) for row in body["inputs"]]
        answers = [
            {
                "index": place,
                "completion": "",
                "nats": size * (3.0 if place % 2 else 1.0) * np.log(2),
                "tokens": 2.0,
                "bytes": size,
            }
            for place, size in enumerate(sizes)
        ]
        return 200, {"id": "a", "version": "v", "answers": answers}


def test_where_nothing_is_right_or_wrong_the_mean_loss_is_told(capsys):
    played = Played()
    rows = [{"text": "some words", "continuation": ""} for _ in range(200)]
    send(Writing(), TextGeneration(), rows, 0.5, stream(0, "test"), played)
    (scored,) = played.scored().values()
    assert scored["texts"] == 200
    assert scored["bits_per_byte"]["estimate"] == pytest.approx(2.0)
    assert 1.5 < scored["bits_per_byte"]["low"] < 2 < scored["bits_per_byte"]["high"] < 2.5
    tell(played, Lines())
    told = "".join(capsys.readouterr())
    assert "version v: mean bits per byte 2.000 [1." in told
    assert "right" not in told


def test_a_replay_whose_server_is_killed_ends_and_says_so():
    server = Server.__new__(Server)
    server.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with socket.socket() as free:  # nobody listens there afterwards
        free.bind(("127.0.0.1", 0))
        server.connection = http.client.HTTPConnection(*free.getsockname(), timeout=5)
    assert server.ask("GET", "/v1/loop") == (0, {})
    server.process.kill()
    server.process.wait()
    with pytest.raises(LmwrightError, match="the server ended with -9"):
        play(server, GOOD, labelled(["fine"] * 9, "good"), 300, 0.8, 60.0, Lines(), 0)


class Refusing(House):
    """Stands for a server in lasting drift, whose gate refuses every training and whose loop turns
    several times between two looks."""

    def start(self, recipe: Path, store: Path) -> Any:
        training = super().start(recipe, store)
        training.code = 0
        return training

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        if path == "/v1/loop":
            self.controller.scores = [DRIFT] * 3
            for _ in range(5 if self.answered >= 80 else 1):
                self.controller.tick()
            loop = Loop(self.service, self.traffic, self.controller)
            router = routes(Services([self.service]), [loop])
            look = next(route for route in router.routes if getattr(route, "path", "") == path)
            return 200, asyncio.run(look.endpoint())  # type: ignore[attr-defined]
        if path == "/v1/feedback":
            given = Given({"label": body["label"]})
            self.traffic.give(body["id"], body["index"], given, TASK, "")
            return 201, {}
        served = self.answer(body["inputs"])
        self.answered += len(served.rows)
        answers = [{"index": place, **one.told} for place, one in enumerate(served.answers)]
        return 200, {"id": served.id, "version": served.version, "answers": answers}


def test_a_gate_that_refuses_is_told_though_the_loop_is_alarmed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Refusing(tmp_path)
    server.controller.settings = replace(server.controller.settings, fewest=80, new_labels=80)
    try:
        rows = labelled([f"A text, number {k}." for k in range(200)], "negative")
        played = play(server, TASK, rows, 8, 1.0, 60.0, Lines(), 0)  # type: ignore[arg-type]
        tell(played, Lines())
        states = [state["at"] for state in played.states]
        assert server.controller.state["at"] == "alarmed"
        assert states == ["kept", "alarmed"], "it was alarmed from the first look on"
        assert played.sent == 88, "after the decision only so many more"
        told = "".join(capsys.readouterr())
        assert "kept – the gate did not pass the new version" in told
        assert "did not come to a decision" not in told
        later = play(server, TASK, rows[:8], 8, 0.0, 60.0, Lines(), 0)  # type: ignore[arg-type]
        assert not later.decided, "what an earlier replay saw is no decision of this one"
    finally:
        server.close()
