"""SQuAD's documents: one row a question, what is broken rejected by its place, the real file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmwright.data.formats.choose import read_table
from lmwright.data.formats.record import Fault, Table
from tests.squad import squad_file

ANSWER = {"text": "Rome", "answer_start": 3}
ASKED = {"id": "1", "question": "Where?", "answers": [ANSWER]}


def rows(folder: Path, value: Any, *columns: str) -> list[Any]:
    """Records and faults of a document."""
    path = folder / "squad.json"
    path.write_text(json.dumps(value, indent=1))
    return list(read_table(Table("source 's'", path.name, path), list(columns)))


def document(*questions: Any) -> dict[str, Any]:
    """One article with one paragraph."""
    paragraph = {"context": "In Rome.", "qas": list(questions)}
    return {"version": "v2.0", "data": [{"title": "Places", "paragraphs": [paragraph]}]}


def test_a_question_is_a_row_with_the_hub_s_columns(tmp_path):
    empty = {"id": "2", "question": "Who?", "answers": [], "is_impossible": True}
    one, two = rows(tmp_path, document(ASKED, empty))
    assert one == (
        "squad.json:1",
        {
            "title": "Places",
            "context": "In Rome.",
            "id": "1",
            "question": "Where?",
            "answers": {"text": ["Rome"], "answer_start": [3]},
        },
    )
    assert two[1]["answers"] == {"text": [], "answer_start": []}
    assert two[1]["is_impossible"] is True


def test_what_is_no_question_is_a_fault_and_the_others_are_read(tmp_path):
    value = document("What?", {"id": "3", "question": "Why?"}, ASKED)
    value["data"] += [{"title": "Empty"}, {"title": "Odd", "paragraphs": [{"context": "No qas."}]}]
    found = rows(tmp_path, value, "question", "context", "answers")
    assert [each.reason if isinstance(each, Fault) else each[0] for each in found] == [
        "wrong type", "missing key", "squad.json:3", "missing key", "missing key",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "count"), [("squaddev_v1.1.json", 10_565)])
def test_the_development_set(name, count):
    path = squad_file(name)
    found = list(read_table(Table("source 's'", path.name, path), []))
    assert len(found) == count
    assert len({record["id"] for _, record in found}) == count
    assert len({record["context"] for _, record in found}) == 2067
    _, first = found[0]
    text, start = (first["answers"][key][0] for key in ("text", "answer_start"))
    assert first["context"][start : start + len(text)] == text == "Denver Broncos"
