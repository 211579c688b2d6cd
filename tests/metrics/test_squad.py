"""Exact match and F1 of SQuAD: worked values of the official script of version 2.0."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.metrics.squad import best, exact, f1, normalize_answer, references

TEXTS = st.text("aAnT.,-'  éx1", max_size=12)

# (truth, answer, exact match, F1) as the script's compute_exact and compute_f1 give them.
OFFICIAL = [
    ("the Denver Broncos", "Denver Broncos!", 1, 1.0),
    ("Santa Clara, California", "Santa Clara", 0, 0.8),
    ("4.6 billion years", "4.6 billion", 0, 0.8),
    ("an apple a day", "apple day day", 0, 0.8),
    ("U.S.", "us", 1, 1.0),
    ("a-an", "aan", 1, 1.0),
    ("", "the", 1, 1.0),
    ("x", "", 0, 0.0),
    ("one two", "three four", 0, 0.0),
]


@pytest.mark.parametrize(("truth", "answer", "equal", "overlap"), OFFICIAL)
def test_scores_are_the_official_ones(truth, answer, equal, overlap):
    assert exact(truth, answer) == equal
    assert f1(truth, answer) == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  The  Theatre, a\tplay ", "theatre play"),
        ("An en-suite", "ensuite"),
        ("don’t", "don’t"),
        ("$5.50", "550"),
        ("the.a.an", "theaan"),
    ],
)
def test_normalised_answers(text, wanted):
    assert normalize_answer(text) == wanted


def test_the_best_of_several_references_counts():
    assert best(["Rome", "the city of Rome", "Milan"], "city of Rome") == (1.0, 1.0)
    assert best(["Rome and Milan", "Rome"], "in Rome") == (0.0, pytest.approx(2 / 3))


def test_a_question_without_an_answer_is_right_if_none_is_given():
    assert best([], "") == (1.0, 1.0)
    assert best([], "Rome") == (0.0, 0.0)
    assert best(["Rome"], "") == (0.0, 0.0)
    assert references(["the", "Rome"]) == ["Rome"]
    assert references(["the", "."]) == [""], "as the script: what normalises to nothing is none"


@given(TEXTS, TEXTS)
def test_f1_is_symmetric_bounded_and_1_where_the_match_is_exact(one, two):
    assert f1(one, two) == f1(two, one)
    assert 0 <= f1(one, two) <= 1
    assert exact(one, two) <= f1(one, two)
    assert normalize_answer(normalize_answer(one)) == " ".join(normalize_answer(one).split())
