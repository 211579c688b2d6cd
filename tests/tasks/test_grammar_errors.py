"""Errors of grammar made by rules, in sentences of the State of the Union addresses."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from lmwright.core.errors import BadInput
from lmwright.core.task import Answers, role_columns
from lmwright.data.sources import Fault, RawRow, Source, derivation_of, read_source
from lmwright.metrics.edits import edits
from lmwright.tasks.grammar_errors import RULES, UNCHANGED, GrammarErrors
from lmwright.tasks.text2text_generation import Text2TextGeneration
from tests.tasks.test_target_text import table_of

TASK = Text2TextGeneration()


def made(limit: int = 600, seed: int = 0, **settings: Any) -> list[RawRow | Fault]:
    source = Source(
        name="addresses",
        path="asset:state-of-the-union/state-of-the-union.parquet",
        columns={"text": "passage", "target": "passage"},
        constants={"prefix": "correct grammar"},
        side={"cluster": "speech"},
        limit=limit,
        derive={"kind": "grammar-errors", **settings},
    )
    return list(read_source(source, role_columns(TASK, "input", "target"), seed))


@pytest.fixture(scope="module")
def rows() -> list[RawRow]:
    return [row for row in made() if isinstance(row, RawRow)]


BY_HAND = {
    "agreement": ("The laws are good.", "The laws is good."),
    "article dropped": ("He saw the law.", "He saw law."),
    "article added": ("He saw our law.", "He saw the our law."),
    "a for an": ("An act was passed.", "A act was passed."),
    "doubled word": ("He waits.", "He waits waits."),
    "swapped neighbours": ("He has gone away.", "He gone has away."),
    "its, it's": ("Its power grew.", "It's power grew."),
    "their, there": ("I saw their ships.", "I saw there ships."),
    "then, than": ("More than that.", "More then that."),
    "apostrophe dropped": ("The nation's laws.", "The nations laws."),
    "capital lost": ("We met in Rome.", "We met in rome."),
    "preposition": ("He went to Rome.", "He went by Rome."),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_makes_its_error_by_hand(rule: str) -> None:
    right, wrong = BY_HAND[rule]
    found = {right[:start] + other + right[end:] for start, end, other in RULES[rule](right)}
    assert wrong in found and right not in found


@pytest.mark.parametrize("rule", RULES)
def test_alone_a_rule_changes_every_sentence_and_names_itself(rule: str) -> None:
    found = made(200, rules={rule: 1}, others=0, unchanged=0)
    errors = [row for row in found if isinstance(row, RawRow)]
    assert errors, "real sentences have places for it"
    for row in errors:
        assert row.side["group"] == rule
        assert row.values["text"] != row.values["target"]
        assert 1 <= len(edits(row.values["target"], row.values["text"])) <= 2


def test_shares_follow_the_weights(rows: list[RawRow]) -> None:
    counts = Counter(row.side["group"] for row in rows)
    assert {*counts} == {*RULES, UNCHANGED}
    assert counts[UNCHANGED] == pytest.approx(0.1 * len(rows), abs=4 * (0.09 * len(rows)) ** 0.5)
    more = Counter(
        row.side["group"] for row in made(rules={"preposition": 5}) if isinstance(row, RawRow)
    )
    assert more["preposition"] > 2 * counts["preposition"]


def test_sentences_stand_in_their_passages_and_have_ids_of_their_own(rows: list[RawRow]) -> None:
    assert all(5 <= len(row.values["target"].split()) <= 40 for row in rows)
    assert all(row.side["cluster"] for row in rows)
    assert not [row for row in rows if row.values["target"].endswith(("Mr.", "Dr."))]


def test_the_same_seed_gives_the_same_rows(rows: list[RawRow]) -> None:
    assert [row for row in made() if isinstance(row, RawRow)] == rows
    assert [row for row in made(seed=1) if isinstance(row, RawRow)] != rows


def test_a_sentence_may_stay_and_a_right_one_is_learnt(rows: list[RawRow]) -> None:
    same = next(row for row in rows if row.side["group"] == UNCHANGED)
    assert same.values["text"] == same.values["target"]
    assert TASK.fault(same.values) == ""


def test_corrections_are_scored_by_their_edits(rows: list[RawRow]) -> None:
    """What was wrong put right by half of the answers: precision 1, recall about a half."""
    some = [row.values for row in rows if row.side["group"] != UNCHANGED][:100]
    written = [row["target"] if n % 2 else row["text"] for n, row in enumerate(some)]
    found = TASK.measures(table_of(some), Answers({"generated_text": written}))
    scores = {name: each[0] for name, each in found.scores(np.ones((1, 100))).items()}
    wanted = [len(edits(row["text"], row["target"])) for row in some]
    recall = sum(wanted[1::2]) / sum(wanted)
    assert scores["edit_precision"] == 1.0
    assert scores["edit_recall"] == pytest.approx(recall)
    assert scores["edit_f05"] == pytest.approx(1.25 * recall / (0.25 + recall))
    assert scores["exact_match"] == 0.5


@pytest.mark.parametrize("text", ["No.", "twelve twelve twelve twelve twelve twelve."])
def test_a_text_without_a_sentence_that_can_be_used_is_a_fault(text: str) -> None:
    row = RawRow({"text": text, "target": text}, "", "file:1", {})
    made = GrammarErrors(rules={"its, it's": 1}, others=0, unchanged=0)
    (found,) = made.rows(iter([row]), np.random.default_rng(0))
    assert isinstance(found, Fault) and found.reason == "no sentence"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rules": {"preposition": -1}}, "weights from 0"),
        ({"others": 0}, "not all 0"),
        ({"rules": {"prepositions": 1}}, "rules has 'prepositions'"),
        ({"unchanged": 1}, "unchanged is 1"),
        ({"fewest": 9, "most": 8}, "fewest 9, most 8"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    derive = {"kind": "grammar-errors", **settings}
    with pytest.raises(BadInput, match=words):
        derivation_of(Source(name="s", path="x.csv", derive=derive))
