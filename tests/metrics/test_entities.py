"""Entity scores: those of conlleval on its own published example, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.metrics.entities import counts, f1, precision, recall, span_errors

PUBLISHED = {
    "ADJP": (0.00, 0.00, 0.00, 1),
    "ADVP": (45.45, 62.50, 52.63, 11),
    "NP": (64.98, 78.63, 71.16, 317),
    "PP": (83.18, 98.89, 90.36, 107),
    "SBAR": (66.67, 33.33, 44.44, 3),
    "VP": (69.00, 79.31, 73.80, 100),
}
"""Precision, recall, FB1 and phrases found of each type, and below of all, as conlleval prints
them for the example of the CoNLL-2000 shared task (conll2000/chunking/output.html)."""
WHOLE = (68.83, 80.83, 74.35, 539)
TRUE = {"ADJP": 6, "ADVP": 8, "NP": 262, "PP": 90, "SBAR": 6, "VP": 87}
"""Phrases of each type in the corpus, by the printed recalls; conlleval counts 459."""
RIGHT = {"ADJP": 0, "ADVP": 5, "NP": 206, "PP": 89, "SBAR": 2, "VP": 69}
"""Right ones of each type, by the printed precisions; conlleval counts 371."""
SENTENCES = 40


def example() -> tuple[list[list[dict]], list[list[dict]]]:
    """Phrases of sentences whose numbers are those of the example, each at a place of its own."""
    truth: list[list[dict]] = [[] for _ in range(SENTENCES)]
    found: list[list[dict]] = [[] for _ in range(SENTENCES)]
    place = 0
    for label, (_, _, _, given_out) in PUBLISHED.items():
        for number in range(TRUE[label] + given_out - RIGHT[label]):
            span = {"start": 2 * place, "end": 2 * place + 1, "label": label}
            if number < TRUE[label]:
                truth[place % SENTENCES].append(span)
            if number < RIGHT[label] or number >= TRUE[label]:
                found[place % SENTENCES].append(span)
            place += 1
    return truth, found


def test_the_published_example_of_conlleval():
    assert sum(TRUE.values()) == 459
    assert sum(RIGHT.values()) == 371
    sums = counts(*example(), list(PUBLISHED)).sum(0)
    for row, printed in zip([*sums, sums.sum(0)], [*PUBLISHED.values(), WHOLE], strict=True):
        scores = [float(100 * score(row)) for score in (precision, recall, f1)]
        assert [round(each, 2) for each in scores] == list(printed[:3])
        assert row[1] == printed[3]


def test_a_part_and_another_label_are_wrong_twice():
    """Right only where both ends and the label are: a part of a phrase is one missed, one false."""
    truth = [[{"start": 0, "end": 9, "label": "PER"}, {"start": 10, "end": 15, "label": "LOC"}]]
    found = [[{"start": 0, "end": 5, "label": "PER"}, {"start": 10, "end": 15, "label": "ORG"}]]
    table = counts(truth, found, ["LOC", "ORG", "PER"])
    assert table.tolist() == [[[0, 0, 1], [0, 1, 0], [0, 1, 1]]]
    assert span_errors(table).tolist() == [1.0]


def test_scores_of_nothing_are_zero_and_no_warning():
    sums = np.zeros((2, 3))
    assert precision(sums).tolist() == recall(sums).tolist() == f1(sums).tolist() == [0.0, 0.0]


def test_a_row_without_entities_is_right_only_if_none_is_found():
    span = [{"start": 0, "end": 1, "label": "A"}]
    table = counts([[], [], span, span], [[], span, [], span], ["A"])
    assert span_errors(table).tolist() == [0.0, 1.0, 1.0, 0.0]


ROWS = st.lists(
    st.lists(
        st.builds(
            lambda start, length, label: {"start": start, "end": start + length, "label": label},
            st.integers(0, 4),
            st.integers(1, 3),
            st.sampled_from("ABC"),
        ),
        max_size=5,
    ),
    min_size=1,
    max_size=6,
)


@given(ROWS, ROWS, st.randoms(use_true_random=False))
def test_what_holds_of_any_rows(truth, found, random):
    size = min(len(truth), len(found))
    truth, found = truth[:size], found[:size]
    table = counts(truth, found, "ABC")
    errors = span_errors(table)
    assert ((errors >= 0) & (errors <= 1)).all()
    assert span_errors(counts(truth, truth, "ABC")).tolist() == [0.0] * size
    back = counts(found, truth, "ABC")
    assert span_errors(back) == pytest.approx(errors), "F1 is symmetric"
    assert precision(back.sum(0)) == pytest.approx(recall(table.sum(0)))
    order = random.sample(range(size), size)
    moved = counts([truth[k] for k in order], [found[k] for k in order], "ABC")
    assert (moved == table[order]).all()
    shuffled = [random.sample(row, len(row)) for row in found]
    assert (counts(truth, shuffled, "ABC") == table).all(), "the order in a row means nothing"
