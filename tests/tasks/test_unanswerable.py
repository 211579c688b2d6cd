"""Questions moved to paragraphs that do not answer them, on SQuAD."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pyarrow import parquet

from lmwright.core.errors import BadInput
from lmwright.data.prepare import Data
from lmwright.data.sources import Source, read_source
from lmwright.metrics.squad import normalize_answer
from tests.data.conftest import FakeWork
from tests.squad import DEVELOPMENT, TASK, address, squad, squad_file

DERIVE = {"kind": "unanswerable", "same_article": 0.2, "other_article": 0.3}


@pytest.fixture(scope="module")
def pair():
    """The rows before and after."""
    before = list(squad(1500, derive=None))
    return before, list(squad(1500, derive=DERIVE))


def titles() -> dict[str, str]:
    """Context -> title."""
    source = Source(name="s", path=address(DEVELOPMENT), side={"group": "title"})
    rows = read_source(source, [each for each in TASK.columns if each.role == "input"])
    return {row.values["context"]: row.side["group"] for row in rows}


def test_shares_kinds_and_articles(pair):
    before, after = pair
    article = titles()
    counts = Counter(row.side["group"] for row in after)
    assert set(counts) == {"answered", "same article", "other article"}
    assert counts["same article"] == pytest.approx(0.2 * 1500, abs=60)
    assert counts["other article"] == pytest.approx(0.3 * 1500, abs=60)
    for one, two in zip(before, after, strict=True):
        assert one.values["question"] == two.values["question"], "a question stands in one row"
        assert one.origin == two.origin and one.id == two.id
        own, other = (article[row.values["context"]] for row in (one, two))
        kind = two.side["group"]
        if kind == "answered":
            assert one.values == two.values
            continue
        assert two.values["answers"] == {"text": [], "answer_start": []}
        assert one.values["context"] != two.values["context"]
        assert (own == other) == (kind == "same article")
        bare = f" {normalize_answer(two.values['context'])} "
        for text in one.values["answers"]["text"]:
            assert f" {normalize_answer(text)} " not in bare, "it would be an answer"


def test_the_same_seed_gives_the_same_rows(pair):
    assert pair[1] == list(squad(1500, derive=DERIVE))


def test_questions_that_had_no_answer_stay_and_are_called_so():
    every = {"kind": "unanswerable", "same_article": 0, "other_article": 1, "article": "context"}
    rows = list(squad(60, derive=every))
    assert {row.side["group"] for row in rows} == {"other article"}


@pytest.mark.parametrize(
    ("derive", "words"),
    [
        ({"kind": "unanswerable", "article": "context"}, "several paragraphs in an article"),
        ({"kind": "unanswerable", "same_article": 0.8, "other_article": 0.3}, "at most 1"),
        ({"kind": "unanswerable", "same_article": 0, "other_article": 0}, "above 0"),
        ({"kind": "unanswerable", "shares": 1}, "no setting 'shares'"),
        ("backtranslation", "not among the derivations"),
    ],
)
def test_what_cannot_be_derived_is_refused_by_name(derive, words):
    squad_file()
    source = Source(name="s", path=address(DEVELOPMENT), limit=40, derive=derive)
    columns = [each for each in TASK.columns if each.role != "answer"]
    with pytest.raises(BadInput, match=words):
        list(read_source(source, columns))


def test_rows_without_the_article_s_column_are_rejected_by_its_name(pair):
    source = Source(name="s", path=address(DEVELOPMENT), derive={**DERIVE, "article": "headline"})
    rows = list(read_source(source, [each for each in TASK.columns if each.role != "answer"]))
    assert {each.reason for each in rows} == {"missing key"}
    assert "'headline'" in rows[0].detail


def test_a_side_column_that_derive_fills_cannot_be_named_too():
    source = Source(name="s", path="x.json", derive=DERIVE, side={"group": "title"})
    with pytest.raises(BadInput, match="side has 'group', which derive fills"):
        Data(task=TASK, sources=(source,)).check()


def test_the_stage_data_keeps_the_kinds_beside_rows_and_contexts_together(tmp_path: Path):
    squad_file()
    path = address(DEVELOPMENT)
    derived = Source(name="squad", path=path, id="id", limit=600, derive="unanswerable")
    plain = Source(name="plain", path=address("reddit_v1.0.json"), limit=40, role="test")
    stage = Data(task=TASK, sources=(derived, plain), label_error_rows=0, language_rows=0)
    stage.run(FakeWork(tmp_path))
    splits = {
        name: parquet.read_table(tmp_path / "rows" / f"{name}.parquet")
        for name in ("train", "validation", "calibration", "gate", "test", "test-plain")
    }
    contexts = [set(table.column("context").to_pylist()) for table in splits.values()]
    assert sum(map(len, contexts)) == len(set().union(*contexts)) > 400
    groups = {name: set(table.column("group").to_pylist()) for name, table in splits.items()}
    assert groups["train"] == {"answered", "same article", "other article"}
    assert groups["test-plain"] == {""}, "a source without the column has it empty"
