"""Findings on rows: each against a case that has it and one that has not."""

import numpy as np
import pytest

from lmwright.data.quality import (
    EXAMPLES,
    SourceQuality,
    balance,
    describe,
    label_variants,
    odd_characters,
    odd_lengths,
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#### $$$$ %%%% !!!! ab", "few letters"),
        ("call 0123456789 0123456789 now please", "many digits"),
        ("THIS IS THE BEST FILM THAT I HAVE SEEN", "all capitals"),
        ("some letters were lost h\ufffdre", "lost characters"),
        ("buy now " * 20, "repeats itself"),
    ],
)
def test_odd_texts_are_named(text, reason):
    assert reason in odd_characters(text)


def test_few_real_sentences_are_odd(sentences):
    odd = [row["text"] for row in sentences if odd_characters(row["text"])]
    assert len(odd) < 0.005 * len(sentences)


def test_short_and_foreign_texts_are_not_odd():
    assert odd_characters("10/10") == []
    assert odd_characters("私は昨日とても面白い映画を見ました") == []


def test_lengths_far_out_are_counted():
    lengths = np.append(stretch := np.linspace(80, 120, 200), [1, 100_000]).astype(int)
    assert odd_lengths(lengths) == {"very short": 1, "very long": 1}
    assert odd_lengths(stretch.astype(int)) == {}


def test_description_equals_numpy():
    lengths = np.array([1, 2, 3, 4, 5, 1000])
    found = describe(lengths)
    assert found["quantiles"]["0.5"] == np.median(lengths)
    assert found["histogram"] == {"<=1": 1, "<=2": 1, "<=4": 2, "<=8": 1, "<=1024": 1}
    assert sum(found["histogram"].values()) == len(lengths)
    assert describe(lengths[:0])["quantiles"] == {}


def test_spellings_of_one_label():
    assert label_variants(["Pos", "pos ", "neg", "p-os", "0", "-"]) == [["Pos", "p-os", "pos "]]


def test_balance():
    assert balance({"a": 5, "b": 5})["evenness"] == 1.0
    assert balance({"a": 99, "b": 1})["evenness"] == pytest.approx(0.0808, abs=1e-4)


def test_examples_do_not_depend_on_the_order():
    kept = []
    for ids in (range(50), reversed(range(50))):
        quality = SourceQuality()
        for number in ids:
            quality.see(f"{number:032x}", "mail me at a@example.org", "x", number < 3)
        facts = quality.facts(np.array([24] * 50), np.array([4] * 50), ())
        assert facts["personal"] == {"email": 50} and facts["rows_with_personal"] == 50
        assert facts["language_sample"] == 3
        kept.append(facts["examples"]["personal"])
    assert kept[0] == kept[1] == [f"{number:032x}" for number in range(EXAMPLES)]
