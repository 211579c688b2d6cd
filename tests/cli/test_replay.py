"""The replay: a text that the server refuses is no lost request, and takes no neighbour with it."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmwright.cli.progress import Lines
from lmwright.cli.replay import Played, Server, play, send, tell
from lmwright.core.errors import LmwrightError
from lmwright.core.random import stream
from lmwright.loop.routes import routes
from lmwright.serve.served import Served
from tests.loop.test_controller import DRIFT, House

LONGEST = 20


class Limited:
    """Stands for the server: refuses texts above its limit, or has no answer at all."""

    def __init__(self, status: int) -> None:
        self.status = status

    def ask(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v1/feedback":
            return 201, {}
        if any(len(text) > LONGEST for text in body["input"]):
            return self.status, {"error": {"message": "too long"}}
        results = [
            {"index": place, "probabilities": {"good": 0.9, "bad": 0.1}}
            for place in range(len(body["input"]))
        ]
        return 200, {"id": "a", "version": "v", "results": results}


@pytest.mark.parametrize(
    ("status", "lost", "refused", "answered"),
    [(413, 0, ["too long"], 3), (400, 0, ["too long"], 3), (0, 4, [], 0), (429, 4, [], 0)],
)
def test_a_refused_text_is_counted_by_itself(status, lost, refused, answered):
    played, texts = Played(), ["fine", "x" * 50, "good", "bad"]
    batch = [(text, "good") for text in texts]
    send(Limited(status), batch, 1.0, stream(0, "test"), played)
    assert (played.sent, played.lost, played.refused) == (4, lost, refused)
    assert played.by_version.get("v", [0, 0]) == [answered, answered]
    assert played.fed_back == answered


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
        play(server, [("fine", "good")] * 9, 300, 0.8, 60.0, Lines(), 0)


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
            router = routes(self.service, self.traffic, self.controller)
            look = next(route for route in router.routes if getattr(route, "path", "") == path)
            return 200, asyncio.run(look.endpoint())  # type: ignore[attr-defined]
        labels = self.engine.current.model.labels
        if path == "/v1/feedback":
            self.traffic.give(body["id"], body["index"], body["label"], labels, "")
            return 201, {}
        loaded, futures = self.engine.admit(body["input"])
        answers, name = tuple(one.result(10) for one in futures), f"cls-{self.answered}"
        texts, version = tuple(body["input"]), loaded.version
        self.traffic.observe(Served(name, time.time(), "", version, labels, texts, answers))
        self.answered += len(texts)
        results = [
            {"index": place, "probabilities": dict(zip(labels, one.probabilities, strict=True))}
            for place, one in enumerate(answers)
        ]
        return 200, {"id": name, "version": version, "results": results}


def test_a_gate_that_refuses_is_told_though_the_loop_is_alarmed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Refusing(tmp_path)
    server.controller.settings = replace(server.controller.settings, fewest=80, new_labels=80)
    try:
        rows = [(f"A text, number {k}.", "negative") for k in range(200)]
        played = play(server, rows, 8, 1.0, 60.0, Lines(), 0)  # type: ignore[arg-type]
        tell(played, Lines())
        states = [state["at"] for state in played.states]
        assert server.controller.state["at"] == "alarmed"
        assert states == ["kept", "alarmed"], "it was alarmed from the first look on"
        assert played.sent == 88, "after the decision only so many more"
        told = "".join(capsys.readouterr())
        assert "kept – the gate did not pass the new version" in told
        assert "did not come to a decision" not in told
        later = play(server, rows[:8], 8, 0.0, 60.0, Lines(), 0)  # type: ignore[arg-type]
        assert not later.decided, "what an earlier replay saw is no decision of this one"
    finally:
        server.close()
