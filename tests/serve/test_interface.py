"""Generated requests by the interface's own description: no answer is a fault of the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode

from lmwright.serve.parameter_table import ROUTES
from tests.serve.fake import loaded as counting
from tests.serve.kinds import Several, ranking, similarity, talker
from tests.serve.live import check_error
from tests.train.conftest import small as small  # the fixture

TOKENS = 4
FEW, MANY = 20, 600
"""Cases of a route and a mode: 400 or 10,800 in all."""
MODES = {"fitting": GenerationMode.POSITIVE, "odd": GenerationMode.NEGATIVE}


@pytest.fixture(scope="module")
def live(small: Path, model_folder: Path) -> Iterator[Several]:
    versions = {
        "talks@production": talker(model_folder),
        "near@production": similarity(small),
        "ranks@production": ranking(small),
        "counts@production": counting("c1"),
    }
    live = Several(versions, max_tokens=TOKENS)
    yield live
    assert live.engine.healthy() == "" and live.engine.drain(20)
    live.stop()


@pytest.fixture(scope="module")
def schema(live: Several) -> Any:
    """The interface, with answers as short as this server's and few, so that requests are quick,
    and with the column of the first model's rows."""
    _, _, document = live.ask("GET", "/openapi.json")
    for route in ROUTES:
        body = document["paths"][route]["post"]["requestBody"]["content"]["application/json"]
        for name, most in (
            ("max_tokens", TOKENS),
            ("max_completion_tokens", TOKENS),
            ("max_output_tokens", TOKENS),
            ("n", 2),
        ):
            if name in body["schema"]["properties"]:
                body["schema"]["properties"][name]["maximum"] = most
        if route == "/v1/predict":
            row = {"type": "object", "properties": {"text": {"type": "string"}}}
            body["schema"]["properties"]["inputs"]["items"] = {**row, "required": ["text"]}
    return schemathesis.openapi.from_dict(document)


def statuses(schema: Any, live: Several, route: str, mode: str, count: int) -> Counter[int]:
    """How often each status was the answer to so many cases; a fault of the server is refused."""
    found = Counter[int]()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[route]["POST"].as_strategy(generation_mode=MODES[mode]))
    def ask(case: Any) -> None:
        response = case.call(base_url=f"http://127.0.0.1:{live.port}", timeout=30)
        found[response.status_code] += 1
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            check_error(response.status_code, response.json(), response.status_code)

    ask()
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("route", ROUTES)
def test_no_generated_request_is_a_fault_of_the_server(
    schema: Any, live: Several, route: str, mode: str
) -> None:
    found = statuses(schema, live, route, mode, FEW)
    assert found.total() >= FEW
    if mode == "odd":
        assert found.total() > found[200]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("route", ROUTES)
def test_none_of_ten_thousand_is(schema: Any, live: Several, route: str, mode: str) -> None:
    found = statuses(schema, live, route, mode, MANY)
    assert found.total() >= MANY
    assert found[200] or mode == "odd"
