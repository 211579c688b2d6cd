"""The page at ``/``: who gets it, what it may do, what it says, and what a browser makes of it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lmwright.metrics.calibration import Calibration
from lmwright.models.text_model import TextModel, TextPredictor
from lmwright.serve.contracts import CONTRACTS
from lmwright.serve.offer import PATHS, column_to_json
from lmwright.serve.page import PAGE
from lmwright.serve.rows import Loaded
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.translation import Translation
from tests.serve.fake import loaded
from tests.serve.live import Live, check_error, living
from tests.serve.talking import Talk, with_generation
from tests.serve.test_connections import wait_until
from tests.serve.test_guard import bearer
from tests.serve.test_predict import Detailed
from tests.serve.test_shelf import Loads, Shelved, shelf_of

HTML = PAGE.read_text("utf-8")
KEY = "s3cret-k\u00e9y"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of its scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.inline:
            self.inline[self.inside].append(data)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living(loaded()) as live:
        yield live


def write_keys(folder: Path) -> str:
    path = folder / "keys"
    path.write_text(f"ann use {hashlib.sha256(KEY.encode()).hexdigest()}\n")
    return str(path)


def policy_of(headers: dict[str, str]) -> dict[str, str]:
    parts = (each.partition(" ") for each in headers["content-security-policy"].split("; "))
    return {name: value for name, _, value in parts}


def test_the_page_is_whole_and_may_run_nothing_but_its_own(live: Live) -> None:
    status, headers, body = live.ask("GET", "/")
    assert (status, body) == (200, PAGE.read_bytes())
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    policy = policy_of(headers)
    for kind, (text,) in Elements(HTML).inline.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["trusted-types"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]


def test_head_gives_the_headers_alone(live: Live) -> None:
    _, wanted, body = live.ask("GET", "/")
    status, headers, nothing = live.ask("HEAD", "/")
    assert (status, nothing) == (200, b"")
    assert {**headers, "date": ""} == {**wanted, "date": ""}
    assert headers["content-length"] == str(len(body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_the_page_takes_nothing(live: Live, method: str) -> None:
    check_error(*live.ask(method, "/", b"{}")[::2], 405)
    check_error(*live.ask("GET", "/?key=x")[::2], 400)


def test_a_page_is_counted_under_its_path(live: Live) -> None:
    def count() -> float:
        return live.services.requests.labels("/", "200")._value.get()

    before = count()
    live.ask("GET", "/")
    assert wait_until(lambda: count() == before + 1)


def test_the_page_wants_no_key_and_nothing_else_goes_without(tmp_path: Path) -> None:
    with living(loaded(), keys=write_keys(tmp_path), hosts=("lm.example",)) as live:
        page = PAGE.read_bytes()
        for headers in ({}, bearer("wrong"), bearer("s3"), {"Host": "lm.example"}):
            assert live.ask("GET", "/", None, headers)[::2] == (200, page)
            assert live.ask("HEAD", "/", None, headers)[::2] == (200, b"")
        for method, path in [
            *product(["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"], ["/"]),
            *product(
                ["GET", "HEAD"], ["//", "/.", "/%2f", "/index.html", "/page.html", "/v1/models"]
            ),
        ]:
            assert live.ask(method, path)[0] == 401, (method, path)
        evil = {"Host": "evil.example"}
        assert live.ask("GET", "/", None, evil)[0] == 403
        assert live.ask("GET", "/", None, {"Origin": "https://evil.example"})[0] == 403


def test_nothing_in_the_page_is_from_elsewhere_or_keeps_anything() -> None:
    assert not re.search(r"https?:|//[a-z]|@import|url\(", HTML.replace("// ", ""))
    for tag, attributes in Elements(HTML).found:
        for name in ("src", "href", "action", "srcset", "formaction"):
            value = attributes.get(name, "")
            assert value == "" or value.startswith(("#", "data:")), (tag, value)
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
    sets_markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\("
    keeps = r"localStorage|sessionStorage|indexedDB|cookie|history\.|location|caches"
    assert not re.search(f"{sets_markup}|{keeps}", HTML.replace("...history()", ""))


def test_every_field_has_a_label_and_every_reference_its_target() -> None:
    elements = Elements(HTML).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {
        attributes["for"] for tag, attributes in elements if tag == "label" and "for" in attributes
    }
    assert targets <= set(ids)
    inside_a_label = {"colour"}
    for tag, attributes in elements:
        if tag in ("input", "select", "textarea"):
            assert attributes["id"] in targets | inside_a_label
        for name in ("aria-labelledby", "aria-describedby", "form"):
            assert attributes.get(name, ids[0]) in ids
    used = set(re.findall(r'\$\("([\w-]+)"\)', HTML))
    assert used <= set(ids)


def colours(dark: bool) -> dict[str, tuple[float, ...]]:
    """The page's colours in one scheme, red, green and blue from 0 to 1."""
    light, own = re.findall(r":root \{(.*?)\}", HTML, re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): #([0-9a-f]{6})", light + own * dark))
    return {
        name: tuple(int(value[place : place + 2], 16) / 255 for place in (0, 2, 4))
        for name, value in found.items()
    }


def luminance(colour: tuple[float, ...]) -> float:
    """WCAG 2.2's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_texts_are_told_from_their_grounds(dark: bool) -> None:
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    known = colours(dark)
    texts = [*product(["ink", "soft", "accent", "bad"], ["paper", "card"])]
    texts += [*product(["ink", "soft"], ["said"]), ("on-accent", "accent")]
    texts += product(["ink"], ["p1", "p2", "p3", "p4"])
    for text, ground in texts:
        assert contrast(known[text], known[ground]) >= 4.5, (text, ground)
    for edge, ground in product(["edge", "accent"], ["paper", "card"]):
        assert contrast(known[edge], known[ground]) >= 3, (edge, ground)


# What the page reads of the models


def entry(live: Live) -> Any:
    (found,) = live.ask("GET", "/v1/models")[2]["data"]
    return found


def test_every_contract_has_its_paths() -> None:
    assert PATHS.keys() == CONTRACTS.keys()


def test_a_predictor_tells_its_columns_and_its_routes(live: Live) -> None:
    found = entry(live)
    assert found["inputs"] == [{"name": "text", "type": "text"}]
    assert found["routes"] == ["/v1/predict", "/v1/classify"]
    for path, body in zip(
        found["routes"], ({"inputs": [{"text": "a"}]}, {"input": "a"}), strict=True
    ):
        assert live.ask("POST", path, body)[0] == 200
    assert not {"context", "precision"} & found.keys(), "there is no network"


def test_a_default_and_an_example_are_told() -> None:
    one = loaded()
    one.predictor.task = Detailed(labels=("no", "yes"))
    with living(one) as live:
        found = entry(live)
    kinds = {each["name"]: each["type"] for each in found["inputs"]}
    assert (kinds["stars"], kinds["spans"], len(kinds)) == ("number", "spans", 7)
    source, target = (column_to_json(each) for each in Translation.further_columns)
    assert source == {"name": "source_language", "type": "label", "example": "en"}
    assert target["example"] == "fr"


@pytest.mark.parametrize("template", [True, False])
def test_a_version_that_writes_tells_where_and_its_answers_name_it(
    model: TextModel, template: bool
) -> None:
    own = model if template else with_generation(model, template="")
    served = Loaded("v7", TextPredictor(TextGeneration(), own), Calibration())
    live = Live(served)
    try:
        found = entry(live)
        chats = ["/v1/chat/completions"] if template else []
        chats += ["/v1/responses"] if template else []
        plain = ["/v1/predict", "/v1/completions", "/v1/detokenize", "/v1/tokenize"]
        assert sorted(found["routes"]) == sorted([*chats, *plain])
        assert (found["context"], found["device"], found["precision"]) == (128, "cpu", "fp32")
        asked = {"/v1/completions": {"prompt": "a"}}
        asked["/v1/chat/completions"] = {"messages": [{"role": "user", "content": "a"}]}
        asked["/v1/responses"] = {"input": "a"}
        for path, body in asked.items():
            most = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
            status, _, answer = live.ask("POST", path, {**body, most: 2}, timeout=30)
            assert (status == 200) == (path in found["routes"])
            assert status != 200 or answer["version"] == "v7"
    finally:
        live.stop()


def test_a_published_model_tells_where_it_answers(talk: Talk) -> None:
    found = entry(talk)
    writing = ["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    assert sorted(found["routes"]) == sorted([*writing, "/v1/detokenize", "/v1/tokenize"])
    assert (found["context"], found["precision"]) == (128, "fp32")


def test_a_model_that_is_not_loaded_tells_all_that_it_may_be_asked(model: TextModel) -> None:
    live = Shelved(shelf_of(Loads(model), 3))  # of models without chat templates
    try:
        listed = live.ask("GET", "/v1/models")[2]["data"]
        plain = {"/v1/completions", "/v1/detokenize", "/v1/tokenize"}
        every = {*plain, "/v1/chat/completions", "/v1/responses"}
        assert all({*each["routes"]} == every and each["context"] is None for each in listed)
        assert live.ask("POST", "/v1/completions", {"prompt": "a"}, timeout=30)[0] == 200
        first = live.ask("GET", "/v1/models")[2]["data"][0]
        assert ({*first["routes"]}, first["context"]) == (plain, 128)
    finally:
        live.stop()


def test_what_writes_nothing_offers_no_completions() -> None:
    one = loaded()
    one.predictor.task = TextGeneration()
    with living(one) as live:
        assert entry(live)["routes"] == ["/v1/predict"]
