"""The dictionary baseline: the usual label of phrases that mostly are entities, longest first."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from lmwright.assets import asset_file
from lmwright.baselines.dictionary import Dictionary
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import answer_all
from lmwright.data.formats.choose import read_table
from lmwright.data.formats.record import Table
from lmwright.models.load import load_predictor
from lmwright.tasks.token_classification import TokenClassification

TASK = TokenClassification(labels=("LOC", "ORG", "PER"))


def row(text: str, *phrases: tuple[str, str]) -> dict:
    """A text with labelled phrases, each at its first place."""
    spans = [
        {"start": text.index(phrase), "end": text.index(phrase) + len(phrase), "label": label}
        for phrase, label in phrases
    ]
    return {"text": text, "spans": spans}


def fitted(*rows: dict) -> Dictionary:
    """The dictionary of rows."""
    return Dictionary.fit(TASK, pa.Table.from_pylist(list(rows)), 0)


def found(model: Dictionary, text: str) -> list[tuple[str, str]]:
    """The phrases that it labels in a text."""
    (spans,) = answer_all(model, [{"text": text}])["spans"]
    return [(text[s["start"] : s["end"]], s["label"]) for s in spans]


def test_the_longest_phrase_wins_and_none_is_read_twice():
    model = fitted(
        row("New York is far", ("New York", "LOC")),
        row("in New York", ("New York", "LOC")),
        row("New York Times said", ("New York Times", "ORG")),
        row("Times said", ("Times", "ORG")),
        row("a Times man", ("Times", "ORG")),
    )
    assert found(model, "the New York Times in New York Times") == [
        ("New York Times", "ORG"),
        ("New York Times", "ORG"),
    ]
    assert found(model, "New York said Times") == [("New York", "LOC"), ("Times", "ORG")]
    assert found(model, "Newark  Yorks") == []


def test_a_phrase_that_is_seldom_an_entity_is_left_out():
    model = fitted(
        row("May spoke", ("May", "PER")), row("in May"), row("of May"), row("Mays", ("Mays", "PER"))
    )
    assert found(model, "May Mays") == [("Mays", "PER")]
    assert model.facts() == {"phrases": 1}


def test_the_usual_label_is_taken():
    model = fitted(
        row("Paris won", ("Paris", "ORG")),
        row("in Paris", ("Paris", "LOC")),
        row("to Paris", ("Paris", "LOC")),
    )
    assert found(model, "Paris") == [("Paris", "LOC")]


def test_real_news_by_the_dictionary_is_as_good_as_was_published(tmp_path):
    """The baseline of the shared task has F1 59.61 on its test set; it leaves out what is
    ambiguous, where ours takes the majority."""
    sets = {}
    for name in ("train", "test"):
        path = asset_file(f"asset:conll2003-en/neuroner/data/conll2003/en/{name}.txt")
        pairs = read_table(Table("source 's'", path.name, path), ["text", "spans"])
        sets[name] = pa.Table.from_pylist([record for _, record in pairs])
    task = TASK.fitted(sets["train"].to_batches())
    model = Dictionary.fit(task, sets["train"], 0)
    measures = task.measures(sets["test"], answer_all(model, sets["test"].to_pylist()))
    ones = np.ones((1, sets["test"].num_rows))
    assert measures.scores(ones)["f1"][0] == pytest.approx(0.5961, abs=0.05)


def test_it_is_read_back(tmp_path):
    model = fitted(row("New York", ("New York", "LOC")))
    model.save(tmp_path)
    again = load_predictor(tmp_path)
    assert isinstance(again, Dictionary)
    assert found(again, "to New York") == found(model, "to New York") == [("New York", "LOC")]
    (tmp_path / "phrases.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(Corrupt, match=r"phrases\.json"):
        Dictionary.load(tmp_path, TASK)
