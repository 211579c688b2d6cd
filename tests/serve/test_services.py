"""Several aliases behind one server: who answers, what each keeps, and how they are counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.fake import loaded
from tests.serve.kinds import Several
from tests.serve.live import check_error
from tests.serve.test_version_completions import version

ALIASES = ("mild@production", "keen@production", "writer@production")


@pytest.fixture(scope="module")
def live() -> Iterator[Several]:
    made = [loaded("v1", scale=1.0), loaded("v2", scale=3.0), version("v3", 1)]
    live = Several(dict(zip(ALIASES, made, strict=True)))
    yield live
    live.stop()


def asked(live: Several, path: str, **body: Any) -> tuple[int, Any]:
    status, _, found = live.ask("POST", path, body, timeout=30)
    return status, found


@pytest.mark.parametrize(
    ("name", "alias", "own"),
    [(None, 0, "v1"), (ALIASES[0], 0, "v1"), (ALIASES[1], 1, "v2"), ("v2", 1, "v2")],
)
def test_a_request_is_answered_by_the_model_that_it_names(
    live: Several, name: str | None, alias: int, own: str
) -> None:
    more = {"model": name} if name else {}
    for path, body in (
        ("/v1/classify", {"input": "a"}),
        ("/v1/predict", {"inputs": [{"text": "a"}]}),
    ):
        status, found = asked(live, path, **body, **more)
        assert status == 200, found
        assert (found["model"], found["version"]) == (ALIASES[alias], own)
    alone = live.services.members[alias].rows.current
    (wanted,) = alone.calibration.apply(
        alone.task, alone.predictor.answers(alone.predictor.prepare([{"text": "a"}]))
    ).columns["probabilities"][:, 1]
    status, found = asked(live, "/v1/classify", input="a", **more)
    assert found["results"][0]["probabilities"]["yes"] == pytest.approx(float(wanted))


def test_a_route_is_that_of_the_first_whose_task_keeps_it(live: Several) -> None:
    status, found = asked(live, "/v1/completions", prompt="A", max_tokens=2)
    assert status == 200 and found["model"] == ALIASES[2]
    status, found = asked(live, "/v1/completions", prompt="A", model=ALIASES[0])
    check_error(status, found, 404)
    assert "does not keep this route; /v1/predict" in found["error"]["message"]
    status, found = asked(live, "/v1/classify", input="a", model="v3")
    check_error(status, found, 404)


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/classify", "/v1/completions"])
def test_a_name_that_none_has_is_refused_with_those_that_are_there(
    live: Several, path: str
) -> None:
    body = {"/v1/predict": {"inputs": [{"text": "a"}]}, "/v1/classify": {"input": "a"}}
    status, found = asked(live, path, **body.get(path, {"prompt": "a"}), model="other@production")
    check_error(status, found, 404)
    assert all(alias in found["error"]["message"] for alias in ALIASES)


def test_all_are_listed_and_each_is_found(live: Several) -> None:
    _, _, found = live.ask("GET", "/v1/models")
    assert [each["id"] for each in found["data"]] == list(ALIASES)
    for alias, own in zip(ALIASES, ("v1", "v2", "v3"), strict=True):
        for name in (alias, own):
            status, _, found = live.ask("GET", f"/v1/models/{name}")
            assert (status, found["id"], found["version"]) == (200, alias, own)
    assert live.ask("GET", "/v1/models/none")[0] == 404


def test_counters_tell_the_models_apart(live: Several) -> None:
    before = shown(live)
    asked(live, "/v1/classify", input=["a a", "b"], model=ALIASES[1])
    after = shown(live)
    keen, mild = (f'lmwright_tokens_total{{model="{alias}"}}' for alias in ALIASES[1::-1])
    assert after[keen] > before.get(keen, 0)
    assert after[mild] == before[mild]
    requests = 'lmwright_requests_total{route="/v1/classify",status="200"}'
    assert after[requests] == before.get(requests, 0) + 1


def shown(live: Several) -> dict[str, float]:
    """The samples of ``/metrics``; each stands there once."""
    lines = [
        line for line in live.ask("GET", "/metrics")[2].decode().splitlines() if line[0] != "#"
    ]
    pairs = [line.rpartition(" ")[::2] for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs)
    return {name: float(value) for name, value in pairs}
