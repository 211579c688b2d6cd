"""The traffic log: what is kept, what is not, for how long, and feedback on it."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.serve.engine import Answer
from lmwright.serve.served import Served
from lmwright.serve.traffic import SETTINGS, Given, Log, Traffic, bare, part_of
from lmwright.tasks.text_classification import TextClassification
from tests.serve.fake import Words, rows

TASK = TextClassification(labels=("bad", "good"))
TOLD = {"label": "good", "unsure": False, "probabilities": {"bad": 0.2, "good": 0.8}}
MAIL = "Write to jane.doe@example.org about the film."


def served(name: str, texts: tuple[str, ...], when: float | None = None) -> Served:
    """An answer, as the server hands it over."""
    one = Answer(TASK, Words("Four words of it."), TASK.heard([TOLD]))
    moment = time.time() if when is None else when
    return Served(name, moment, "me", "v1", tuple(rows(texts)), (one,) * len(texts))


@pytest.fixture
def open_log(tmp_path: Path):
    logs = []

    def make(**settings) -> Traffic:
        chosen = {"keep_text": True, "retention_days": 30, "gate_share": 0.4, **settings}
        logs.append(Traffic(tmp_path / "traffic", **chosen))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def test_texts_are_kept_masked_and_only_where_that_is_allowed(open_log, tmp_path: Path) -> None:
    log = open_log()
    log.observe(served("cls-1", (MAIL,)))
    log.flush()
    (row,) = log.find("cls-1")
    assert "jane.doe" not in row["inputs"]["text"]
    assert "about the film" in row["inputs"]["text"]
    log.close()
    silent = open_log(keep_text=False)
    silent.observe(served("cls-2", (MAIL,)))
    silent.flush()
    assert silent.find("cls-2")[0]["text"] is None
    raw = b"".join(path.read_bytes() for path in (tmp_path / "traffic").iterdir())
    assert b"jane.doe" not in raw


def test_what_is_too_old_is_forgotten_with_its_feedback(open_log, tmp_path: Path) -> None:
    log = open_log(retention_days=1)
    log.observe(served("cls-old", ("An old text.",), time.time() - 2 * 86400))
    log.observe(served("cls-new", ("A new text.",)))
    log.give("cls-old", 0, Given({"label": "bad"}), TASK, "")
    log.give("cls-new", 0, Given({"label": "bad"}), TASK, "")
    assert log.forget() == 1
    assert [row["id"] for row in log.labelled()] == ["cls-new"]
    with sqlite3.connect(tmp_path / "traffic" / "traffic.db") as plain:
        assert plain.execute("select count(*) from answers").fetchone() == (1,)


def test_feedback_is_for_answers_that_were_given_and_labels_that_exist(open_log) -> None:
    log = open_log()
    log.observe(served("cls-1", ("A text.", "Another.")))
    with pytest.raises(BadInput, match="no such answer"):
        log.give("cls-9", 0, Given({"label": "bad"}), TASK, "")
    with pytest.raises(BadInput, match="no such answer"):
        log.give("cls-1", 2, Given({"label": "bad"}), TASK, "")
    with pytest.raises(BadInput, match="unknown label"):
        log.give("cls-1", 0, Given({"label": "ugly"}), TASK, "")
    assert log.labelled() == []


def test_the_last_word_counts_and_a_text_always_falls_on_the_same_side(open_log) -> None:
    log = open_log()
    log.observe(served("cls-1", ("The same text.",)))
    log.observe(served("cls-2", ("The same text.",)))
    sides = {log.give(name, 0, Given({"label": "bad"}), TASK, "") for name in ("cls-1", "cls-2")}
    assert len(sides) == 1
    log.give("cls-1", 0, Given({"label": "good"}), TASK, "")
    assert {row["id"]: row["target"]["label"] for row in log.labelled()} == {
        "cls-1": "good",
        "cls-2": "bad",
    }


def test_a_text_falls_on_the_same_side_however_it_is_marked(open_log) -> None:
    for k in range(40):
        said = "word " * k + "end"
        assert part_of(said, 0.5) == part_of(f" {said.upper()} !", 0.5)
    assert {part_of("!" * k, 0.5) for k in range(40)} == {"train", "gate"}, "marks alone"


def test_numbers_of_forgotten_feedback_are_not_given_again(open_log) -> None:
    log = open_log(retention_days=1)
    log.observe(served("cls-1", ("One.", "Two.")))
    for place in (0, 1, 0):
        log.give("cls-1", place, Given({"label": "bad"}), TASK, "")
    assert [row["number"] for row in log.labelled()] == [2, 1], "corrected last, and no new label"
    log.forget(time.time() + 2 * 86400)
    log.observe(served("cls-2", ("Three.",)))
    log.give("cls-2", 0, Given({"label": "bad"}), TASK, "")
    assert [row["number"] for row in log.labelled()] == [3]


def test_a_log_of_the_first_schema_keeps_its_feedback(open_log, tmp_path: Path) -> None:
    log = open_log()
    log.observe(served("cls-1", ("One.", "Two.")))
    for place in (0, 1):
        log.give("cls-1", place, Given({"label": "bad"}), TASK, "")
    before = log.labelled()
    log.close()
    with sqlite3.connect(tmp_path / "traffic" / "traffic.db") as plain:
        (made,) = plain.execute("select sql from sqlite_master where name = 'feedback'").fetchone()
        plain.execute("alter table feedback rename to later")
        plain.execute(made.replace("AUTOINCREMENT", ""))
        plain.execute("insert into feedback select * from later")
        plain.execute("drop table later")
        plain.execute("delete from schema_version where number = 2")
    again = open_log()
    assert again.labelled() == before
    again.forget(time.time() + 60 * 86400)
    again.observe(served("cls-2", ("Three.",)))
    again.give("cls-2", 0, Given({"label": "bad"}), TASK, "")
    assert [row["number"] for row in again.labelled()] == [3]


def test_a_log_that_cannot_be_written_says_so_and_fails_no_request(open_log, tmp_path) -> None:
    log = open_log()
    log.database.close()
    for path in (tmp_path / "traffic").iterdir():
        path.unlink()
    (tmp_path / "traffic").rmdir()
    log.observe(served("cls-1", ("A text.",)))
    log.flush()
    assert log.lost == 1
    assert "cannot be written" in log.fault


def test_who_only_looks_at_a_log_changes_neither_it_nor_its_settings(
    open_log, tmp_path: Path
) -> None:
    log = open_log(retention_days=7)
    log.observe(served("cls-1", ("One.", "Two.")))
    log.close()
    folder = tmp_path / "traffic"
    with sqlite3.connect(folder / "traffic.db") as plain:
        plain.execute("delete from schema_version where number = 2")
    names = ("traffic.db", SETTINGS)
    before = [(folder / name).read_bytes() for name in names]
    looking = Log(folder)
    assert [row["inputs"]["text"] for row in looking.find("cls-1")] == ["One.", "Two."]
    assert looking.answers_of("v1") == ["cls-1"]
    with pytest.raises(LmwrightError, match="readonly"), looking.database.write() as connection:
        connection.exec_driver_sql("delete from answers")
    looking.close()
    assert [(folder / name).read_bytes() for name in names] == before


def test_windows_are_kept_in_order(open_log) -> None:
    log = open_log()
    for number in range(3):
        log.add_window("v1", {"length": {"over": bool(number)}})
    assert [window["signs"]["length"]["over"] for window in log.past_windows()] == [
        False,
        True,
        True,
    ]
