"""ROUGE against published worked values and values of the reference implementation."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.assets import asset_file
from lmwright.metrics.rouge import KINDS, longest_common, rouge, rouge_of
from lmwright.metrics.summaries import extraction, fragments, unsupported

DEBIAN = "asset:debian-summaries/debian-summaries.parquet"

REFERENCE = {
    (0, "description", 0, "synopsis"): (0.095238095238, 0.0, 0.095238095238, 0.095238095238),
    (5, "description", 5, "synopsis"): (
        0.11214953271,
        0.057142857143,
        0.11214953271,
        0.11214953271,
    ),
    (9, "description", 9, "synopsis"): (
        0.170212765957,
        0.108695652174,
        0.127659574468,
        0.127659574468,
    ),
    (4, "description", 3, "description"): (
        0.198347107438,
        0.033613445378,
        0.165289256198,
        0.181818181818,
    ),
}
"""F-measures that the package rouge-score 0.1.2 gives to (candidate, reference), no stemmer."""


def test_the_values_of_the_reference_implementation() -> None:
    rows = pq.read_table(asset_file(DEBIAN)).to_pylist()
    for (one, name, other, against), wanted in REFERENCE.items():
        found = rouge(rows[one][name], rows[other][against])
        assert [found[kind] for kind in KINDS] == pytest.approx(wanted, abs=1e-11)


def test_lins_example_of_summary_level() -> None:
    """Lin 2004, section 3.2: the union of the common subsequences has 4 of the 5 words."""
    found = rouge("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5")["rougeLsum"]
    assert found == pytest.approx(2 * 0.8 * 0.4 / 1.2)


def test_lins_police_example() -> None:
    """Lin 2004, section 3.1: ROUGE-L of S2 is 3/4, that of S3 2/4; by ROUGE-2 both are alike."""
    reference = "police killed the gunman"
    kill, order = (
        rouge("police kill the gunman", reference),
        rouge("the gunman kill police", reference),
    )
    assert (kill["rougeL"], order["rougeL"]) == (0.75, 0.5)
    assert kill["rouge2"] == order["rouge2"] == pytest.approx(1 / 3)


words = st.lists(st.sampled_from("abcd"), max_size=8)


@given(words, words)
def test_the_longest_common_subsequence_is_that_of_the_recursion(one: list, other: list) -> None:
    def plain(i: int, j: int) -> int:
        if not i or not j:
            return 0
        if one[i - 1] == other[j - 1]:
            return plain(i - 1, j - 1) + 1
        return max(plain(i - 1, j), plain(i, j - 1))

    assert longest_common(one, other) == plain(len(one), len(other))


@given(words, words)
def test_a_text_is_like_itself_and_likeness_has_no_direction(one: list, other: list) -> None:
    a, b = " ".join(one), " ".join(other)
    assert rouge(a, b)["rougeL"] == rouge(b, a)["rougeL"]
    assert rouge(a, a)["rouge1"] == float(bool(one))
    assert np.array_equal(rouge_of([a], [b])["rouge1"], [rouge(a, b)["rouge1"]])


def test_fragments_coverage_and_density() -> None:
    """By the definitions of Grusky et al. 2018: runs of the text, each as long as can be."""
    assert fragments([*"bcdxab"], [*"abcdef"]) == [3, 2]
    found = extraction("b c d x a b", "a b c d e f")
    assert found["extractive_coverage"] == pytest.approx(5 / 6)
    assert found["extractive_density"] == pytest.approx((9 + 4) / 6)
    assert found["compression"] == 1.0


def test_numbers_and_names_that_the_text_does_not_have() -> None:
    text = "In 2004 the mayor of Oslo, Ann Berg, opened 12 schools."
    assert unsupported("The mayor Ann Berg opened 12 schools.", text) == (0, 3)
    assert unsupported("The mayor Ann Hansen opened 13 schools.", text) == (2, 3)
