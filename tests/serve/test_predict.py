"""``POST /v1/predict``: rows by a task's input columns, read strictly, and their answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from lmwright.core.columns import Column
from lmwright.serve.rows import Loaded
from lmwright.serve.served import Served
from lmwright.serve.service import Services
from lmwright.tasks.text_classification import TextClassification
from tests.serve.fake import Counting, loaded
from tests.serve.live import Live, check_error, living
from tests.serve.test_requests import BODIES, idle

LIMIT = 64
MOST = 50_000


class Detailed(TextClassification):
    """Texts with a column of every type that an input can have."""

    contracts: ClassVar[tuple[str, ...]] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column("text", "text", "input"),
            Column("stars", "number", "input"),
            Column("shop", "label", "input"),
            Column("tags", "labels", "input"),
            Column("notes", "texts", "input"),
            Column("scores", "scores", "input"),
            Column("spans", "spans", "input"),
            Column("label", "label", "target"),
        )


SPAN = {"start": 0, "end": 1, "label": "first"}
ROW = {
    "text": "a a",
    "stars": 4,
    "shop": "north",
    "tags": ["new", "cheap"],
    "notes": ["one", "two"],
    "scores": [0.5, 1],
    "spans": [SPAN],
}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living(loaded()) as live:
        yield live


@pytest.fixture(scope="module")
def detailed() -> Iterator[Live]:
    one: Loaded = loaded()
    predictor = Counting()
    predictor.task = Detailed(labels=("no", "yes"))
    one.predictor = predictor
    with living(one) as live:
        yield live


def predict(live: Live, *rows: Any) -> Any:
    status, _, body = live.ask("POST", "/v1/predict", {"inputs": list(rows)})
    assert status == 200, body
    return body


def refused(live: Live, body: Any, wanted: int) -> dict[str, Any]:
    """The error of a body that is refused, shown to be fit to be printed; nothing is left of it."""
    status, headers, answer = live.ask("POST", "/v1/predict", body)
    check_error(status, answer, wanted)
    assert headers["content-type"] == "application/json"
    for text in (answer["error"]["message"], answer["error"]["param"] or ""):
        assert text.isprintable()
    assert idle(live)
    error: dict[str, Any] = answer["error"]
    return error


def listed(*rows: Any) -> bytes:
    return json.dumps({"inputs": list(rows)}).encode()


FAULTS: dict[str, tuple[bytes, int, str | None]] = {
    "no inputs": (b"{}", 400, "inputs"),
    "null": (b'{"inputs": null}', 400, "inputs"),
    "a row without a list": (b'{"inputs": {"text": "a"}}', 400, "inputs"),
    "a text": (b'{"inputs": "a"}', 400, "inputs"),
    "empty list": (b'{"inputs": []}', 400, "inputs"),
    "the parameter of classify": (b'{"input": "a"}', 400, "input"),
    "both": (b'{"inputs": [{"text": "a"}], "input": "a"}', 400, "input"),
    "an option": (b'{"inputs": [{"text": "a"}], "temperature": 1}', 400, "temperature"),
    "texts in place of rows": (listed("a"), 400, "inputs[0]"),
    "a list in place of a row": (listed(["a"]), 400, "inputs[0]"),
    "null in place of a row": (listed({"text": "a"}, None), 400, "inputs[1]"),
    "a number in place of a row": (listed({"text": "a"}, {"text": "b"}, 1), 400, "inputs[2]"),
    "no column": (listed({}), 400, "inputs[0].text"),
    "a column that is null": (listed({"text": None}), 400, "inputs[0].text"),
    "another column": (listed({"content": "a"}), 400, "inputs[0]"),
    "an unknown column": (listed({"text": "a"}, {"text": "a", "title": "b"}), 400, "inputs[1]"),
    "a target": (listed({"text": "a", "label": "yes"}), 400, "inputs[0]"),
    "a column's name in other letters": (listed({"Text": "a"}), 400, "inputs[0]"),
    "an odd column": (listed({"text": "a", "\x1b[31m\n\u202e": "b"}), 400, "inputs[0]"),
    "a long column": (listed({"text": "a", "x" * 10_000: "b"}), 400, "inputs[0]"),
    "half a surrogate pair as a column": (b'{"inputs": [{"\\ud800": "a"}]}', 400, "inputs[0]"),
    "a number": (listed({"text": 1}), 400, "inputs[0].text"),
    "true": (listed({"text": True}), 400, "inputs[0].text"),
    "a list": (listed({"text": ["a"]}), 400, "inputs[0].text"),
    "a mapping": (listed({"text": {"text": "a"}}), 400, "inputs[0].text"),
    "empty": (listed({"text": "a"}, {"text": ""}), 400, "inputs[1]"),
    "blank": (listed({"text": " \n\t"}), 400, "inputs[0]"),
    "without width": (listed({"text": "\u200b\ufeff"}), 400, "inputs[0]"),
    "markup alone": (listed({"text": "<b> </b>"}), 400, None),
    "NUL": (listed({"text": "a\x00"}), 400, "inputs[0].text"),
    "half a surrogate pair": (b'{"inputs": [{"text": "a \\ud800"}]}', 400, "inputs[0].text"),
    "a column twice": (b'{"inputs": [{"text": "a", "text": "b"}]}', 400, None),
    "NaN": (b'{"inputs": [{"text": NaN}]}', 400, None),
    "deep": (b'{"inputs": [{"text": ' + b"[" * 900 + b"]" * 900 + b"}]}", 400, "inputs[0].text"),
    "deeper": (b'{"inputs": [{"text": ' + b"[" * 10**5 + b"]" * 10**5 + b"}]}", 400, None),
    "too long": (listed({"text": "a" * (MOST + 1)}), 413, "inputs[0].text"),
    "too many": (listed(*[{"text": "a"}] * (LIMIT + 1)), 413, "inputs"),
    "far too many": (b'{"inputs": [' + b",".join([b"{}"] * 900_000) + b"]}", 413, "inputs"),
    "more than the queue": (listed(*[{"text": "a " * 20_000}] * 20), 413, "input"),
    "another model": (b'{"inputs": [{"text": "a"}], "model": "other"}', 404, "model"),
    "a model that is a list": (b'{"inputs": [{"text": "a"}], "model": ["v1"]}', 400, "model"),
    "a model of 10 kB": (
        json.dumps({"inputs": [{"text": "a"}], "model": "m" * 10_000}).encode(),
        413,
        "model",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_request_is_refused_and_its_place_named(live: Live, name: str) -> None:
    data, wanted, param = FAULTS[name]
    before = predict(live, {"text": "a a b"})["answers"]
    assert refused(live, data, wanted)["param"] == param
    assert predict(live, {"text": "a a b"})["answers"] == before


PLAIN = ("no JSON", "nothing", "half", "two", "list at the top", "BOM", "UTF-16", "not UTF-8")


@pytest.mark.parametrize("name", [*PLAIN, "raw control character", "100 MB"])
def test_what_is_no_json_object_is_refused_as_everywhere(live: Live, name: str) -> None:
    data, wanted = BODIES[name]
    refused(live, data, wanted)


@pytest.mark.parametrize(
    ("column", "value", "wanted"),
    [
        ("text", 5, 400),
        ("stars", "4", 400),
        ("stars", True, 400),
        ("stars", [4], 400),
        ("stars", None, 400),
        ("stars", float("1e999"), 400),
        pytest.param("stars", 10**400, 400, id="stars-of 400 digits"),
        ("shop", 5, 400),
        ("shop", True, 400),
        ("shop", ["north"], 400),
        ("shop", "", 400),
        ("shop", " \t", 400),
        ("shop", "a\x00", 400),
        ("shop", "s" * 201, 413),
        ("tags", "new", 400),
        ("tags", '["new"]', 400),
        ("tags", {"new": 1}, 400),
        ("tags", [""], 400),
        ("tags", [None], 400),
        ("tags", [1], 400),
        ("tags", [["new"]], 400),
        ("tags", [{}], 400),
        ("tags", ["t" * 201], 400),
        ("tags", ["a", "b", "c" * 150] * 400, 200),  # each once
        ("tags", [f"tag {k:0100}" for k in range(600)], 413),
        ("notes", "one", 400),
        ("notes", [1], 400),
        ("notes", [None], 400),
        ("notes", ["a\x00"], 400),
        ("notes", ["n" * MOST], 413),
        ("scores", 1, 400),
        ("scores", ["x"], 400),
        ("scores", ["0.5"], 400),
        ("scores", [True], 400),
        ("scores", [None], 400),
        ("spans", SPAN, 400),
        ("spans", [{"start": 0, "end": 1}], 400),
        ("spans", [{**SPAN, "start": 1}], 400),
        ("spans", [{**SPAN, "start": -1}], 400),
        ("spans", [{**SPAN, "end": 1.5}], 400),
        ("spans", [{**SPAN, "end": True}], 400),
        ("spans", [{**SPAN, "label": ""}], 400),
        ("spans", [1], 400),
        ("text", " ", 400),
    ],
)
def test_a_value_of_another_type_than_its_column_is_refused(
    detailed: Live, column: str, value: Any, wanted: int
) -> None:
    body = json.dumps({"inputs": [ROW, {**ROW, column: value}]})
    data = body.replace("Infinity", "1e999").encode()
    if wanted == 200:
        assert detailed.ask("POST", "/v1/predict", data)[0] == 200
        return
    assert refused(detailed, data, wanted)["param"] == f"inputs[1].{column}"


@pytest.mark.parametrize("column", ["text", "shop", "tags", "notes", "scores", "spans"])
@pytest.mark.parametrize("opening", ["[", '{"start": '])
def test_a_value_that_nests_deeply_is_refused(detailed: Live, column: str, opening: str) -> None:
    for depth in (50, 300, 600, 900, 940, 980, 5000):
        deep = opening * depth + "1" + {"[": "]"}.get(opening, "}") * depth
        row = json.dumps({**ROW, column: "DEEP"}).replace('"DEEP"', deep)
        refused(detailed, b'{"inputs": [' + row.encode() + b"]}", 400)


@pytest.mark.parametrize("column", ROW)
def test_every_input_column_is_needed(detailed: Live, column: str) -> None:
    row = {name: value for name, value in ROW.items() if name != column}
    assert refused(detailed, listed(row), 400)["param"] == f"inputs[0].{column}"


def test_rows_reach_model_and_observers_as_their_columns_keep_them(detailed: Live) -> None:
    seen: list[Served] = []
    detailed.service.observers.append(seen.append)
    body = predict(detailed, ROW, {**ROW, "text": "b", "stars": 2.5})
    detailed.service.observers.clear()
    assert [one["label"] for one in body["answers"]] == ["yes", None]
    (served,) = seen
    assert served.id == body["id"]
    kept = {**ROW, "stars": 4.0, "tags": ["cheap", "new"], "scores": [0.5, 1.0]}
    assert list(served.rows) == [kept, {**kept, "text": "b", "stars": 2.5}]
    assert isinstance(served.rows[0]["stars"], float)


def test_a_task_with_several_inputs_has_no_route_for_one(detailed: Live) -> None:
    check_error(*detailed.ask("POST", "/v1/classify", {"input": "a"})[::2], 404)


def test_predict_and_classify_give_the_same_answers(live: Live) -> None:
    texts = ["a a", "b", "a [CLS] <|im_start|>", "a \u202e \x1b[2J", "a " * 25_000, "\U0010ffff a"]
    said = predict(live, *({"text": text} for text in texts))
    other = live.classify(*texts)
    assert said["answers"] == other["results"]
    assert [one["index"] for one in said["answers"]] == list(range(len(texts)))
    assert (said["object"], other["object"]) == ("prediction", "classification")
    assert said["id"].startswith("ans-") and other["id"].startswith("cls-")
    for name in ("model", "version", "usage"):
        assert said[name] == other[name]
    assert said["usage"]["tokens"] == sum(len(text.split()) + 1 for text in texts)


def test_an_answer_has_every_column_of_the_task(live: Live) -> None:
    sure, unsure = predict(live, {"text": "a a"}, {"text": "b"})["answers"]
    assert set(sure) == {"index", "label", "unsure", "probabilities"}
    assert (sure["label"], sure["unsure"]) == ("yes", False)
    assert (unsure["label"], unsure["unsure"]) == (None, True)
    for one in (sure, unsure):
        assert sum(one["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("model", ["fake@production", "v1", None])
def test_the_model_may_be_named_by_alias_or_version(live: Live, model: str | None) -> None:
    body = {"inputs": [{"text": "a"}], "model": model}
    status, _, found = live.ask("POST", "/v1/predict", body)
    assert (status, found["model"], found["version"]) == (200, "fake@production", "v1")


def test_as_many_rows_as_are_allowed_are_answered_in_order(live: Live) -> None:
    texts = ["a " * (place % 7) + "b" for place in range(LIMIT)]
    answers = predict(live, *({"text": text} for text in texts))["answers"]
    alone = {text: predict(live, {"text": text})["answers"][0] for text in set(texts)}
    assert answers == [{**alone[text], "index": place} for place, text in enumerate(texts)]
    assert predict(live, {"text": "a" * MOST})["answers"][0]["label"] == "yes"


def test_only_the_request_with_the_guilty_row_fails(live: Live) -> None:
    texts = ["a a", "RAISE", "a b", "NAN", "b"] * 6
    found: dict[int, tuple[int, Any]] = {}

    def ask(place: int) -> None:
        rows = [{"text": "a"}, {"text": texts[place]}]
        found[place] = live.ask("POST", "/v1/predict", {"inputs": rows})[::2]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    for place, text in enumerate(texts):
        status, body = found[place]
        if text in ("RAISE", "NAN"):
            check_error(status, body, 500)
        else:
            assert status == 200
            assert body["answers"] == predict(live, {"text": "a"}, {"text": text})["answers"]
    assert idle(live)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_no_other_method_predicts(live: Live, method: str) -> None:
    assert live.ask(method, "/v1/predict", listed({"text": "a"}))[0] == 405
    assert live.ask("POST", "/v1/predict?n=1", listed({"text": "a"}))[0] == 400


def counts(services: Services) -> dict[str, float]:
    """Every sample of the counters, by its name and labels."""
    return {
        sample.name + "".join(f" {label}" for label in sample.labels.values()): sample.value
        for family in services.collect()
        for sample in family.samples
    }


def test_what_is_answered_is_counted_by_version_and_class() -> None:
    with living(loaded()) as live:
        predict(live, {"text": "a a"}, {"text": "a"}, {"text": "b c"})
        live.classify("a a a", "d")
        refused(live, listed({"text": ""}), 400)
        refused(live, listed({"text": "a"}, {"text": "RAISE"}), 500)
        found = counts(live.services)
    assert found["lmwright_rows_total v1 yes"] == 3
    assert found["lmwright_rows_total v1 unsure"] == 2
    assert found["lmwright_tokens_total"] == 3 + 2 + 3 + 4 + 2
    assert found["lmwright_request_seconds_count"] == 2
    assert found["lmwright_requests_total /v1/predict 200"] == 1
    assert found["lmwright_requests_total /v1/predict 400"] == 1
    assert found["lmwright_requests_total /v1/predict 500"] == 1
    assert found["lmwright_requests_total /v1/classify 200"] == 1
    assert found["lmwright_queued_tokens"] == 0
    assert not [name for name in found if name.startswith("lmwright_rows_total") and " no" in name]
