"""Answers, signals, and a task's way into JSON and back."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.core.errors import BadInput
from lmwright.core.task import (
    Answers,
    Signal,
    formula,
    joined,
    ragged,
    read_task,
    role_columns,
    task_to_json,
)
from lmwright.tables import TASKS, resolve
from lmwright.tasks.text_classification import TextClassification


def numbered(places) -> Answers:
    """Answers that tell the rows that they belong to."""
    numbers = np.array(places, dtype=np.int64)
    columns = {"matrix": np.stack([numbers, -numbers], 1), "word": [f"row {n}" for n in places]}
    return Answers(columns, np.float32(numbers)[:, None])


def same(one: Answers, other: Answers) -> None:
    """Both have the same columns and vectors."""
    assert set(one.columns) == set(other.columns)
    for name in one.columns:
        np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(one.vectors, other.vectors)


@given(st.lists(st.integers(0, 9), max_size=20))
def test_answers_are_taken_in_the_order_that_is_asked_for(places: list[int]) -> None:
    whole = numbered(range(10))
    same(whole.take(places), numbered(places))
    same(whole.take(np.array(places, dtype=np.int64)), numbered(places))
    assert len(whole.take(places)) == len(places)


@given(st.permutations(range(12)), st.sets(st.integers(1, 11)))
def test_parts_are_joined_in_the_order_of_the_rows(order: list[int], cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), 12]
    parts = [numbered(order[a:b]) for a, b in pairwise(edges)]
    same(joined(parts, order), numbered(range(12)))


def test_vectors_are_lost_where_a_part_has_none() -> None:
    bare = Answers(numbered([2, 3]).columns)
    found = joined([numbered([1, 0]), bare], [1, 0, 2, 3])
    assert found.vectors is None and bare.take([0]).vectors is None
    assert found["word"] == [f"row {n}" for n in range(4)]


def test_further_columns_leave_the_answers_as_they_were() -> None:
    before = numbered([0, 1])
    after = before.with_columns(sure=np.array([0.5, 0.25]), word=["x", "y"])
    assert after["word"] == ["x", "y"] and before["word"] == ["row 0", "row 1"]
    assert "sure" not in before.columns
    np.testing.assert_array_equal(after.vectors, before.vectors)


@pytest.mark.parametrize(
    "signal",
    [
        Signal("number", np.arange(6.0), floor=0.2),
        Signal("category", np.array([0, 2, 1, 2, 0, 1]), categories=3),
        Signal("vector", np.arange(12.0).reshape(6, 2)),
    ],
)
def test_rows_of_a_signal_are_taken_with_what_describes_it(signal: Signal) -> None:
    rows = np.array([5, 0, 0, 3])
    found = signal.take(rows)
    np.testing.assert_array_equal(found.values, signal.values[rows])
    assert (found.kind, found.categories, found.floor) == (
        signal.kind,
        signal.categories,
        signal.floor,
    )
    assert len(found) == 4 and len(signal.take(rows[:0])) == 0


@given(
    st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=1, max_size=8),
    st.lists(st.integers(0, 7), max_size=8),
)
def test_rows_of_tokens_keep_their_tokens(texts: list[list[int]], picked: list[int]) -> None:
    signal = ragged([np.array(text, dtype=np.int64) for text in texts])
    rows = np.array([row % len(texts) for row in picked], dtype=np.int64)
    found = signal.take(rows)
    assert len(signal) == len(texts) and len(found) == len(rows)
    edges = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    assert [found.values[a:b].tolist() for a, b in edges] == [texts[row] for row in rows]
    assert found.values.dtype == signal.values.dtype
    assert len(ragged([])) == 0


def test_a_formula_is_of_weighted_sums() -> None:
    hits = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    share = formula(hits, lambda sums: sums[:, 0] / sums[:, 1])
    np.testing.assert_allclose(share(np.array([[1, 1, 1], [0, 2, 0], [3, 1, 0]])), [2 / 3, 0, 0.75])


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_comes_back_from_json_as_it_was(kind: str) -> None:
    plain = read_task(kind, "mine.yaml", resolve)
    value = json.loads(json.dumps(task_to_json(plain)))
    assert value["kind"] == kind
    again = read_task(value, "task.json", resolve)
    assert again == plain and type(again) is type(plain)
    assert task_to_json(again) == task_to_json(plain)


def test_what_was_fitted_comes_back_too() -> None:
    task = TextClassification(labels=("a", "b"), clean=("mail", "repair"), smoothing=0.1)
    value = json.loads(json.dumps(task_to_json(task)))
    assert read_task(value, "task.json", resolve) == task
    assert [column.name for column in role_columns(task, "input", "target")] == ["text", "label"]
    assert [column.role for column in role_columns(task, "answer")] == ["answer", "answer"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "task is 3"),
        ({"labels": ["a", "b"]}, "its kind"),
        ({"kind": 3}, "its kind"),
        ("text-clasification", "did you mean 'text-classification'"),
        ({"kind": "text-classification", "smoothed": 0.1}, "did you mean 'smoothing'"),
        ({"kind": "text-classification", "smoothing": 1.0}, "below 1"),
        ({"kind": "text-classification", "labels": ["a", "a"]}, "two different"),
    ],
)
def test_a_task_that_cannot_be_is_refused_in_words(value: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_task(value, "mine.yaml", resolve)
