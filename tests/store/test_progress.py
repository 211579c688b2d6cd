"""What a person is shown of long work, on a terminal and in a file."""

from __future__ import annotations

import sys

import pytest

from lmwright.store import progress
from lmwright.store.progress import Lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_in_a_file_a_line_comes_when_something_moved_or_a_minute_passed(clock, capsys):
    shown = Lines()
    for second in range(300):
        clock[0] = 1000.0 + second
        shown.progress("train", second // 100, 100, "")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["0%", "0%", "1%", "1%", "2%", "2%"]


def test_the_time_left_follows_the_pace_and_not_what_was_there_before(clock, capsys):
    """Resumed at a half, ten percent in a hundred seconds: four hundred seconds are left."""
    shown = Lines()
    shown.begin("train", "running")
    shown.progress("train", 50, 100, "")
    assert "left" not in capsys.readouterr().err
    clock[0] += 100
    shown.progress("train", 60, 100, "imdb")
    assert capsys.readouterr().err.rstrip().endswith(" 60% imdb, 7 min left")
    clock[0] += 300
    shown.progress("train", 90, 100, "")
    assert capsys.readouterr().err.rstrip().endswith(" 90%, 2 min left")
    clock[0] += 60
    shown.progress("train", 96, 100, "")
    assert capsys.readouterr().err.rstrip().endswith(" 96%, 40 s left")
    clock[0] += 40
    shown.progress("train", 100, 100, "")
    assert capsys.readouterr().err.rstrip().endswith(" 100%")
    shown.progress("replay", 0, 100, "")
    clock[0] += 100
    shown.progress("replay", 50, 100, "training")
    assert capsys.readouterr().err.rstrip().endswith(" 50% training"), "what is no stage"


def test_a_terminal_has_one_line_that_is_drawn_again(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = Lines()
    for second in range(3):
        clock[0] += 1
        shown.progress("data", second, 3, "x" * 200)
    said = capsys.readouterr().err
    assert said.count("\r") == 3 and "\n" not in said
    assert all(len(line) <= 114 for line in said.split("\r"))
