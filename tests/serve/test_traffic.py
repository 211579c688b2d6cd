"""The traffic log: what is kept, what is not, for how long, and feedback on it."""

from __future__ import annotations

import json
import sqlite3
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmwright.core.columns import Column
from lmwright.core.errors import BadInput, LmwrightError
from lmwright.serve import traffic
from lmwright.serve.rows import Answer
from lmwright.serve.served import Served
from lmwright.serve.traffic import DATABASE, SETTINGS, Given, Log, Traffic, bare, part_of
from lmwright.tasks.text_classification import TextClassification
from tests.serve.fake import Words, rows

OLD_STORE = Path(__file__).parents[1] / "old_store" / "store.tar.gz"
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
    assert silent.find("cls-2")[0]["inputs"] is None
    raw = b"".join(path.read_bytes() for path in (tmp_path / "traffic").iterdir())
    assert b"jane.doe" not in raw


@dataclass(frozen=True, kw_only=True)
class Corrected(TextClassification):
    """A label, and beside it the sentence that should have been written."""

    @property
    def columns(self) -> tuple[Column, ...]:
        more = (Column("better", "text", "target"), Column("others", "texts", "target"))
        return (*super().columns, *more)

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().corrected(given), "better": given["better"], "others": given["others"]}


@pytest.mark.parametrize("keep", [True, False])
def test_texts_of_feedback_are_kept_masked_or_not_at_all_and_labels_always(
    open_log, tmp_path: Path, keep: bool
) -> None:
    """Who keeps no texts keeps none that people write as feedback either."""
    task = Corrected(labels=("bad", "good"))
    log = open_log(keep_text=keep)
    log.observe(served("cls-1", (MAIL,)))
    log.give("cls-1", 0, Given({"label": "bad", "better": MAIL, "others": [MAIL]}), task, "")
    with sqlite3.connect(tmp_path / "traffic" / "traffic.db") as plain:
        ((kept,),) = plain.execute("select target from feedback").fetchall()
    target = json.loads(kept)
    assert target["label"] == "bad" and "jane.doe" not in kept
    if keep:
        assert "about the film" in target["better"] and "about the film" in target["others"][0]
        assert [row["target"] for row in log.labelled()] == [target]
    else:
        assert target == {"label": "bad", "better": None, "others": None}
        assert log.labelled() == [], "nothing to learn from"


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


def side(text: str) -> str:
    """The part that a text falls on."""
    return part_of(bare(TASK, {"text": text}), 0.5)


def test_a_text_falls_on_the_same_side_however_it_is_marked(open_log) -> None:
    for k in range(40):
        said = "word " * k + "end"
        assert side(said) == side(f" {said.upper()} !")
    assert {side("!" * k) for k in range(40)} == {"train", "gate"}, "marks alone"


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


@pytest.fixture
def old_log(tmp_path: Path) -> Path:
    """The folder of a log that the code of schema version 2 wrote, opened by nobody since."""
    with tarfile.open(OLD_STORE) as packed:
        kept = [each for each in packed.getmembers() if "/traffic/" in each.name]
        packed.extractall(tmp_path, kept)
    (folder,) = (tmp_path / "store" / "traffic").iterdir()
    assert schema_versions(folder) == [1, 2]
    return folder


def schema_versions(folder: Path) -> list[int]:
    with sqlite3.connect(folder / DATABASE) as plain:
        found = plain.execute("select number from schema_version order by number").fetchall()
    return [number for (number,) in found]


def plain_rows(folder: Path, table: str, order: str) -> list[dict[str, Any]]:
    """A table as it stands in the file."""
    with sqlite3.connect(folder / DATABASE) as plain:
        plain.row_factory = sqlite3.Row
        return [dict(row) for row in plain.execute(f"select * from {table} order by {order}")]


def test_a_log_of_the_second_schema_is_migrated_with_all_that_it_holds(old_log: Path) -> None:
    answers = plain_rows(old_log, "answers", "id, place")
    feedback = plain_rows(old_log, "feedback", "number")
    windows = plain_rows(old_log, "windows", "number")
    assert (len(answers), len(feedback), len(windows)) == (120, 40, 3)
    log = Traffic.again(old_log)
    by_place = {
        (row["id"], row["place"]): row
        for name in {r["id"] for r in answers}
        for row in log.find(name)
    }
    for old in answers:
        new = by_place.pop((old["id"], old["place"]))
        for name in ("time", "client", "version", "tokens"):
            assert new[name] == old[name]
        assert new["inputs"] == {"text": old["text"]}
        assert new["answer"] == {
            "label": old["label"],
            "unsure": old["label"] is None,
            "probabilities": json.loads(old["probabilities"]),
        }
    assert not by_place
    assert [
        (row["number"], row["id"], row["place"], row["time"], row["part"], row["target"])
        for row in sorted(log.labelled(), key=lambda row: row["number"])
    ] == [
        (row["number"], row["id"], row["place"], row["time"], row["part"], {"label": row["label"]})
        for row in feedback
    ]
    assert plain_rows(old_log, "windows", "number") == windows
    assert log.labelled()[0]["answer"]["probabilities"]
    log.close()
    with sqlite3.connect(old_log / DATABASE) as plain:
        names = [name for (name,) in plain.execute("select name from sqlite_master")]
    assert not [name for name in names if "before" in name]
    assert schema_versions(old_log) == [1, 2, 3]


@pytest.mark.parametrize("kept", [True, False], ids=["some are kept", "all are forgotten"])
def test_numbers_of_feedback_forgotten_before_a_migration_are_not_given_again(
    old_log: Path, kept: bool
) -> None:
    with sqlite3.connect(old_log / DATABASE) as plain:
        plain.execute("delete from feedback where number > ?", (30 if kept else 0,))
    log = Traffic.again(old_log)
    log.observe(served("cls-1", ("One.",)))
    log.give("cls-1", 0, Given({"label": "bad"}), TASK, "")
    assert log.labelled()[-1]["number"] == 41
    log.close()


@pytest.mark.parametrize("row", [0, 60, 119])
def test_a_migration_that_is_killed_leaves_the_old_log_whole(
    old_log: Path, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it moves the answers or the feedback: all of it is one transaction."""
    tables = (("answers", "id, place"), ("feedback", "number"), ("windows", "number"))
    before = [plain_rows(old_log, *table) for table in tables]
    for name, many in (("traffic_answer", 120), ("traffic_feedback", 40)):
        calls = iter(range(many))
        convert = getattr(traffic, name)

        def dying(old: Any, calls: Any = calls, convert: Any = convert, last: int = many) -> Any:
            if next(calls) == row * last // 120:
                raise KeyboardInterrupt
            return convert(old)

        with monkeypatch.context() as patched:
            patched.setattr(traffic, name, dying)
            with pytest.raises(KeyboardInterrupt):
                Traffic.again(old_log)
        assert [plain_rows(old_log, *table) for table in tables] == before
        assert schema_versions(old_log) == [1, 2]
    log = Traffic.again(old_log)
    assert (log.count(), len(log.labelled())) == (120, 40)
    log.close()


def test_an_old_log_is_read_without_a_server_as_it_is(old_log: Path) -> None:
    stands = (old_log / DATABASE).read_bytes()
    (name, version), *_ = {
        (row["id"], row["version"]) for row in plain_rows(old_log, "answers", "id")
    }
    looking = Log(old_log)
    found = looking.find(name)
    assert name in looking.answers_of(version)
    looking.close()
    assert (old_log / DATABASE).read_bytes() == stands
    assert schema_versions(old_log) == [1, 2]
    log = Traffic.again(old_log)
    assert log.find(name) == found and found[0]["inputs"]["text"]
    log.close()


def test_a_log_of_the_first_schema_keeps_its_feedback(old_log: Path) -> None:
    with sqlite3.connect(old_log / DATABASE) as plain:
        (made,) = plain.execute("select sql from sqlite_master where name = 'feedback'").fetchone()
        plain.execute("alter table feedback rename to later")
        plain.execute(made.replace("AUTOINCREMENT", ""))
        plain.execute("insert into feedback select * from later")
        plain.execute("drop table later")
        plain.execute("delete from schema_version where number = 2")
    before = plain_rows(old_log, "feedback", "number")
    log = Traffic.again(old_log)
    found = sorted(log.labelled(), key=lambda row: row["number"])
    assert [(row["number"], row["id"], row["target"]["label"]) for row in found] == [
        (row["number"], row["id"], row["label"]) for row in before
    ]
    log.forget(time.time() + 36501 * 86400)
    assert log.labelled() == []
    log.observe(served("cls-2", ("Three.",)))
    log.give("cls-2", 0, Given({"label": "bad"}), TASK, "")
    assert [row["number"] for row in log.labelled()] == [len(before) + 1]
    log.close()


def test_a_rating_is_kept_and_is_no_target(open_log) -> None:
    log = open_log()
    log.observe(served("cls-1", ("One.", "Two.", "Three.")))
    log.give("cls-1", 0, Given(rating=0.25), TASK, "")
    assert (log.labelled(), log.ratings("v1")) == ([], [0.25])
    log.give("cls-1", 1, Given({"label": "bad"}), TASK, "")
    log.give("cls-1", 2, Given({"label": "good"}, 1.0), TASK, "")
    log.give("cls-1", 1, Given(rating=0.0), TASK, "")
    assert {row["place"]: row["target"]["label"] for row in log.labelled()} == {
        1: "bad",
        2: "good",
    }, "a rating takes no target away"
    assert sorted(log.ratings("v1")) == [0.0, 0.25, 1.0]
    log.give("cls-1", 0, Given({"label": "bad"}), TASK, "")
    assert len(log.labelled()) == 3
    assert sorted(log.ratings("v1")) == [0.0, 0.25, 1.0], "nor a target a rating"
    assert log.ratings("v2") == []
    with pytest.raises(BadInput, match="no such answer"):
        log.give("cls-9", 0, Given(rating=1.0), TASK, "")


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
