"""Questions to be written for their answers, on SQuAD."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lmwright.core.errors import BadInput
from lmwright.core.task import role_columns
from lmwright.data.sources import Fault, RawRow, Source, derivation_of, read_source
from lmwright.tasks.question_generation import QuestionGeneration
from lmwright.tasks.text2text_generation import Text2TextGeneration
from tests.squad import DEVELOPMENT, address, squad, squad_file

COLUMNS = role_columns(Text2TextGeneration(), "input", "target")


def turned(**settings: Any) -> list[RawRow | Fault]:
    """Rows of SQuAD, turned round."""
    squad_file()
    source = Source(
        name="squad",
        path=address(DEVELOPMENT),
        id="id",
        columns={"text": "context", "target": "question"},
        constants={"prefix": "generate question"},
        derive={"kind": "question-generation", **settings},
    )
    return list(read_source(source, COLUMNS))


@pytest.fixture(scope="module")
def before() -> dict[str, RawRow]:
    return {row.id: row for row in squad()}


def test_the_answer_stands_marked_in_its_context(before: dict[str, RawRow]) -> None:
    found = turned()
    rows = [row for row in found if isinstance(row, RawRow)]
    assert len(rows) > 10_000 and len(found) - len(rows) < 10
    for row in rows[::50]:
        own = before[row.id].values
        answer = own["answers"]["text"][0]
        text = row.values["text"]
        assert row.values["target"] == own["question"]
        assert text.replace("[[ ", "", 1).replace(" ]]", "", 1) == own["context"]
        assert f"[[ {answer} ]]" in text
        assert text.index("[[ ") == own["answers"]["answer_start"][0]
        assert row.side == {"cluster": own["context"]}, "questions of one context stay together"


def test_the_answer_may_stand_before_a_part_of_the_context(before: dict[str, RawRow]) -> None:
    for row in turned(layout="before", around=5)[:500:9]:
        own = before[row.id].values
        answer = own["answers"]["text"][0]
        head, _, context = row.values["text"].partition(" context: ")
        assert head == f"answer: {answer}"
        assert context in own["context"] and answer in context
        assert len(context.split()) <= len(answer.split()) + 2 * 5 + 2


ROW = RawRow(
    {"text": "Rome is in Italy.", "target": "Where is Rome?", "prefix": "q"},
    "1",
    "file:1",
    {"answers": '{"text": ["Italy"], "answer_start": [11]}', "group": "x"},
)


def with_answers(text: str) -> RawRow:
    return replace(ROW, side={"answers": text})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (with_answers('{"text": [], "answer_start": []}'), "no answer"),
        (with_answers('{"text": ["Italy"], "answer_start": [3]}'), "answer not in its place"),
        (with_answers("Italy"), "wrong type"),
        (with_answers('{"text": ["Italy"]}'), "wrong type"),
        (replace(ROW, values={**ROW.values, "text": "Rome is in Italy [[1]]."}), "marker"),
    ],
)
def test_rows_that_cannot_be_turned_are_named(row: RawRow, reason: str) -> None:
    found = QuestionGeneration().asked(row)
    assert isinstance(found, Fault) and reason in found.reason


def test_one_row_by_hand() -> None:
    found = QuestionGeneration(around=1).asked(ROW)
    assert isinstance(found, RawRow)
    assert found.values["text"] == "in [[ Italy ]]."
    assert found.side == {"group": "x", "cluster": "Rome is in Italy."}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"around": -1}, "around is -1"),
        ({"markers": ["", "]]"]}, "markers are"),
        ({"layout": "behind"}, "layout"),
        ({"marker": "x"}, "no setting 'marker'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    derive = {"kind": "question-generation", **settings}
    with pytest.raises(BadInput, match=words):
        derivation_of(Source(name="s", path="x.json", derive=derive))
