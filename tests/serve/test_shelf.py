"""Several published models: loaded when asked for, within a bound, never while they are used."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lmwright.core.errors import LmwrightError
from lmwright.models.text_model import TextModel
from lmwright.serve.engine import Busy, Engine
from lmwright.serve.language_routes import routes
from lmwright.serve.published import GenerationServices
from lmwright.serve.settings import Serve
from lmwright.serve.shelf import Shelf, weight_bytes
from tests.serve.live import Live


class Loads:
    """How often each model was loaded; ``fault`` is raised in its place."""

    def __init__(self, model: TextModel) -> None:
        self.model, self.counts, self.fault = model, dict.fromkeys("abc", 0), ""

    def of(self, name: str) -> Any:
        def load() -> TextModel:
            self.counts[name] += 1
            if self.fault == name:
                raise LmwrightError("a file that is gone", "the file")
            plain = self.model
            return TextModel(copy.deepcopy(plain.network), plain.tokenizer, plain.max_tokens)

        return load


def shelf_of(loads: Loads, models: int) -> Shelf:
    """Room for so many models."""
    return Shelf({name: loads.of(name) for name in "abc"}, models * weight_bytes(loads.model))


def test_the_model_unused_for_longest_goes(model: TextModel) -> None:
    loads = Loads(model)
    shelf = shelf_of(loads, 2)
    for name in "abaca":
        shelf.take(name)
        shelf.give(name)
        assert shelf.loaded_bytes <= shelf.most_bytes
    assert loads.counts == {"a": 1, "b": 1, "c": 1}
    shelf.take("b")
    assert loads.counts["b"] == 2, "it went for c"
    assert shelf.entries["c"].model is None, "which was used before a was"


def test_a_model_in_use_stays_and_others_wait(model: TextModel) -> None:
    shelf = shelf_of(Loads(model), 1)
    kept = shelf.take("a")
    with pytest.raises(Busy):
        shelf.take("b")
    assert shelf.entries["a"].model is kept and shelf.entries["b"].model is None
    shelf.give("a")
    assert shelf.take("b") is shelf.entries["b"].model
    assert shelf.entries["a"].model is None


def test_a_model_that_cannot_be_loaded_leaves_the_others(model: TextModel) -> None:
    loads = Loads(model)
    shelf = shelf_of(loads, 3)
    shelf.take("a")
    loads.fault = "b"
    with pytest.raises(LmwrightError, match="a file that is gone"):
        shelf.take("b")
    loads.fault = ""
    shelf.take("b")
    assert loads.counts == {"a": 1, "b": 2, "c": 0}


def test_many_threads_load_a_model_once(model: TextModel) -> None:
    loads, begin = Loads(model), threading.Barrier(8)
    shelf = shelf_of(loads, 2)

    def work(number: int) -> None:
        begin.wait(10)
        for turn in range(50):
            name = "ab"[(number + turn) % 2]
            shelf.take(name)
            shelf.give(name)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert loads.counts == {"a": 1, "b": 1, "c": 0}
    assert all(entry.users == 0 for entry in shelf.entries.values())


class Shelved(Live):
    """A server with the models of a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.settings, self.engine = Serve(port=0), Engine()
        self.services: Any = GenerationServices("abc", self.engine, self.settings, shelf)
        self.begin([routes(self.services)])


@pytest.fixture
def server(model: TextModel) -> Iterator[tuple[Shelved, Loads, Shelf]]:
    loads = Loads(model)
    shelf = shelf_of(loads, 1)
    live = Shelved(shelf)
    yield live, loads, shelf
    live.stop()


def test_a_server_answers_with_the_model_that_is_named(server: Any) -> None:
    live, loads, shelf = server

    def ask(name: str | None) -> tuple[int, Any]:
        body = {"prompt": "hello", "max_tokens": 4, "temperature": 0}
        more = {} if name is None else {"model": name}
        status, _, answer = live.ask("POST", "/v1/completions", {**body, **more}, timeout=30)
        return status, answer

    texts = {name: ask(name)[1]["choices"][0]["text"] for name in ("b", "a", "c", None)}
    assert len(set(texts.values())) == 1
    assert ask(None)[1]["model"] == "a"
    status, fault = ask("d")
    assert status == 404 and '"a", "b", "c"' in fault["error"]["message"]
    listed = live.ask("GET", "/v1/models")[2]["data"]
    assert [each["id"] for each in listed] == ["a", "b", "c"]
    assert [each["loaded"] for each in listed] == [True, False, False]
    shelf.take("a")
    status, fault = ask("b")
    assert status == 503 and "in use" in fault["error"]["message"]
    shelf.give("a")
    loads.fault = "c"
    status, fault = ask("c")
    assert status == 500 and "log says why" in fault["error"]["message"]
    assert ask("b")[0] == 200
    told = live.ask("GET", "/metrics")[2]
    assert 'lmwright_request_seconds_count{model="b"}' in str(told)


def test_tokens_are_those_of_the_model_that_is_named_and_it_is_given_back(server: Any) -> None:
    live, loads, shelf = server
    for name in "ab":
        status, _, told = live.ask("POST", "/v1/tokenize", {"prompt": "hello", "model": name})
        assert status == 200
        body = {"prompt": told["tokens"], "max_tokens": 1, "model": name}
        answer = live.ask("POST", "/v1/completions", body, timeout=30)[2]
        assert answer["usage"]["prompt_tokens"] == told["count"]
    status, _, fault = live.ask("POST", "/v1/detokenize", {"tokens": [1 << 20], "model": "c"})
    assert status == 400 and fault["error"]["param"] == "tokens"
    assert loads.counts == {"a": 1, "b": 1, "c": 1}
    assert all(entry.users == 0 for entry in shelf.entries.values())
