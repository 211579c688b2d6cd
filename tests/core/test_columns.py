"""Column types: what each reads, what it refuses and why, and that Arrow keeps it."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.core.columns import TYPES, Column, Unfit, blank, canonical

QUOTES = {"text": ["Rome", "in Rome"], "answer_start": [3, 0]}
CHOICES = [{"answer": "Rome", "score": 0.75, "start": 3, "end": 7}]
SPANS = [{"start": 5, "end": 9, "label": "LOC"}, {"start": 0, "end": 4, "label": "PER"}]


def read(kind: str, value: object) -> object:
    """A value as a column of that type reads it."""
    return Column("it", kind, "input").read(value)


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        ("text", "two\nlines ", "two\nlines "),
        ("text", "", ""),
        ("label", "good", "good"),
        ("label", 4, "4"),
        ("label", 4.0, "4"),
        ("label", "4.0", "4"),
        ("label", 4.5, "4.5"),
        ("label", Decimal("4.50"), "4.5"),
        ("label", True, "true"),
        ("label", "False", "false"),
        ("label", ["good"], "good"),
        ("label", "  very\n good ", "very good"),
        ("label", "e\u0301", "\u00e9"),
        ("number", 3, 3.0),
        ("number", "3.5e-2", 0.035),
        ("labels", ["b", "a", "b", 1], ["1", "a", "b"]),
        ("labels", '["b", "a"]', ["a", "b"]),
        ("labels", "['b', 'a']", ["a", "b"]),
        ("labels", "b | a|b", ["a", "b"]),
        ("labels", "b;a, c", ["a, c", "b"]),
        ("labels", "b, a", ["a", "b"]),
        ("labels", " one label ", ["one label"]),
        ("labels", "", []),
        ("labels", [], []),
        ("texts", "one", ["one"]),
        ("texts", ["one", "", "one"], ["one", "", "one"]),
        ("texts", ' ["one", "two"]', ["one", "two"]),
        ("scores", (1, "2.5"), [1.0, 2.5]),
        ("scores", "[0.25, 0.75]", [0.25, 0.75]),
        ("score", "0.5", 0.5),
        ("answers", QUOTES, QUOTES),
        (
            "answers",
            [{"text": "it", "answer_start": 4, "more": 1}],
            {"text": ["it"], "answer_start": [4]},
        ),
        ("answers", json.dumps(QUOTES), QUOTES),
        ("answers", [], {"text": [], "answer_start": []}),
        ("choices", CHOICES, CHOICES),
        ("choices", json.dumps(CHOICES), CHOICES),
        ("spans", SPANS, [SPANS[1], SPANS[0]]),
        ("spans", json.dumps(SPANS), [SPANS[1], SPANS[0]]),
        ("spans", [], []),
    ],
)
def test_a_value_is_read_as_it_is_kept(kind: str, given: object, wanted: object) -> None:
    found = read(kind, given)
    assert found == wanted and type(found) is type(wanted)
    assert read(kind, found) == found, "reading again changes nothing"
    arrow = Column("it", kind, "input").arrow
    assert pa.array([found], arrow).to_pylist() == [found]


@pytest.mark.parametrize(
    ("kind", "given", "reason", "detail"),
    [
        ("text", None, "no it", "null"),
        ("text", 3, "wrong type", "it is int, not text"),
        ("text", "a\0b", "NUL in it", "at character 1"),
        ("text", "lone \ud800", "undecodable", ""),
        ("label", None, "no it", "null"),
        ("label", " ", "unusable it", "''"),
        ("label", "x" * 201, "unusable it", "'xxx"),
        ("label", "\ud800", "unusable it", ""),
        ("label", math.nan, "wrong type", "it is float, not a label"),
        ("label", ["a", "b"], "wrong type", "it is list, not a label"),
        ("label", [], "wrong type", "it is list, not a label"),
        ("label", [[["a", "b"]]], "wrong type", "not a label"),
        ("label", {"a": 1}, "wrong type", "it is dict, not a label"),
        ("number", None, "no it", "null"),
        ("number", "many", "wrong type", "it is str, not a number"),
        ("number", True, "unusable it", "True"),
        ("number", math.inf, "unusable it", "inf"),
        ("number", "nan", "unusable it", "'nan'"),
        ("number", "1e999", "unusable it", "'1e999'"),
        ("number", 10**400, "unusable it", "too large"),
        ("number", -(10**400), "unusable it", "too large"),
        ("number", [4], "wrong type", "it is list, not a number"),
        ("labels", '{"a": 1}', "wrong type", "it is dict, not a list"),
        ("labels", None, "no it", "null"),
        ("labels", ["a", ""], "unusable it", "''"),
        ("texts", 3, "wrong type", "it is int, not a list"),
        ("texts", ["one", 2], "wrong type", "it is int, not text"),
        ("texts", "[not JSON", "wrong type", "no JSON list"),
        ("scores", [0.5, "x"], "wrong type", "it is str, not a number"),
        ("scores", [math.nan], "unusable it", "nan"),
        ("answers", None, "no it", "null"),
        ("answers", "Rome", "wrong type", "no JSON"),
        ("answers", ["Rome"], "wrong type", "no text and answer_start"),
        ("answers", {"text": ["Rome"]}, "wrong type", "no list 'answer_start'"),
        ("answers", {"text": ["a", "b"], "answer_start": [0]}, "unusable it", "2 texts, 1 starts"),
        ("answers", {"text": ["a"], "answer_start": [1.0]}, "wrong type", "the start 1.0"),
        ("answers", {"text": ["a"], "answer_start": [True]}, "wrong type", "the start True"),
        ("answers", {"text": ["a"], "answer_start": [-1]}, "unusable it", "a start at -1"),
        ("answers", {"text": [None], "answer_start": [0]}, "unusable it", "null at place 0"),
        ("answers", " ", "no it", "empty"),
        ("number", "", "no it", "empty"),
        ("spans", "", "no it", "empty"),
        ("labels", ["a", None], "unusable it", "null at place 1"),
        ("texts", ["one", None], "unusable it", "null at place 1"),
        (
            "spans",
            [{"start": 0, "end": 4, "label": None}],
            "unusable it",
            "from 0 to 4 has no label",
        ),
        (
            "spans",
            [{"start": 0, "end": 1 << 31, "label": "x"}],
            "unusable it",
            "from 0 to 2147483648",
        ),
        ("choices", [{"answer": "Rome"}], "wrong type", "not answer, score, start, end"),
        ("choices", "Rome", "wrong type", "no JSON list"),
        ("spans", [{"start": 0, "end": 4}], "wrong type", "not start, end and label"),
        ("spans", ["PER"], "wrong type", "not start, end and label"),
        ("spans", [{"start": 0, "end": 4.0, "label": "x"}], "wrong type", "0 and 4.0"),
        ("spans", [{"start": False, "end": 4, "label": "x"}], "wrong type", "False and 4"),
        ("spans", [{"start": 4, "end": 4, "label": "x"}], "unusable it", "from 4 to 4"),
        ("spans", [{"start": -1, "end": 4, "label": "x"}], "unusable it", "from -1 to 4"),
        ("spans", [{"start": 0, "end": 4, "label": ""}], "unusable it", "''"),
    ],
)
def test_a_value_that_cannot_be_kept_is_refused_with_the_reason(
    kind: str, given: object, reason: str, detail: str
) -> None:
    with pytest.raises(Unfit) as fault:
        read(kind, given)
    assert fault.value.reason == reason
    assert detail in fault.value.detail


@pytest.mark.parametrize("depth", [1, 2, 5000])
def test_a_list_of_one_label_is_that_label_however_deep(depth: int) -> None:
    nested: object = "good"
    for _ in range(depth):
        nested = [nested]
    assert read("label", nested) == "good"
    assert read("labels", [nested, "bad"]) == ["bad", "good"]


def test_every_type_is_tested_and_its_example_is_one() -> None:
    lists = {"labels", "texts", "scores", "spans", "answers", "choices", "messages"}
    assert set(TYPES) == {"text", "label", "number", "score", *lists}
    for kind in sorted(lists):
        found = read(kind, TYPES[kind].example)
        assert found == json.loads(TYPES[kind].example)


def test_a_column_with_a_default_may_be_absent() -> None:
    column = Column("context", "text", "input", default="")
    assert column.read(None) == ""
    assert column.read("some") == "some"
    with pytest.raises(Unfit, match="wrong type"):
        column.read(3)


@given(st.text(max_size=20) | st.lists(st.text(max_size=5)) | st.floats(allow_nan=False))
def test_what_is_hashed_is_a_text_or_json(value: object) -> None:
    found = canonical(value)
    assert found == value if isinstance(value, str) else json.loads(found) == value


def test_what_is_hashed_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical([{"b": 1, "a": "ü"}]) == canonical([{"a": "ü", "b": 1}]) == '[{"a":"ü","b":1}]'


@given(st.lists(st.sampled_from(["a", "b", "1", "True", "2.0"]), max_size=6), st.randoms())
def test_labels_do_not_depend_on_their_order(labels: list[str], chance) -> None:
    shuffled = list(labels)
    chance.shuffle(shuffled)
    assert read("labels", labels) == read("labels", shuffled)


def test_a_blank_label_with_a_default_is_left_out() -> None:
    """Tables of strings have no null."""
    column = Column("prefix", "label", "input", default="")
    assert column.read(" ") == column.read(None) == ""
    with pytest.raises(Unfit, match="no score"):
        Column("score", "number", "target", default=1.0).read("")  # no right answer by mistake


@pytest.mark.parametrize("text", ["", " \n\u00a0", "\u200b\ufeff", "\x07"])
def test_a_text_without_characters_that_show_is_blank(text: str) -> None:
    assert blank(text) and not blank(f"{text}.")
