"""The replay: a text that the server refuses is no lost request, and takes no neighbour with it."""

from __future__ import annotations

from typing import Any

import pytest

from lmwright.cli.replay import Played, send
from lmwright.core.random import stream

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
