"""The stamp: what changes it, what does not, and which code a stage can reach."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from lmwright.core import stamp
from lmwright.core.stamp import differences, reachable, stamp_of

STAGE = '''
"""A stage for a test."""
from dataclasses import dataclass
from lmwright.core.stage import Stage
from {package}.work import used

@dataclass(frozen=True, kw_only=True)
class Thing(Stage):
    """A thing."""
    number: int = 1

    def run(self, work):
        """Work."""
        # a comment
        return {{"value": used(self.number)}}

def beside():
    """Not reached from the stage."""
    return 1
'''

WORK = '''
"""Work of the stage."""
LIMIT = 3

def used(number):
    """Used by the stage."""
    return below(number) + LIMIT

def below(number):
    return number

def unused(number):
    return number * 2
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package of its own that counts as ours, whose files the test may edit."""
    folder = tmp_path / "lmwright_toy"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "stage.py").write_text(STAGE.format(package="lmwright_toy"))
    (folder / "work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stamp, "OURS", "lmwright_toy")
    yield folder
    for name in [m for m in sys.modules if m.startswith("lmwright_toy")]:
        del sys.modules[name]
    stamp.find_source.cache_clear()
    stamp.parse.cache_clear()


def stamped(folder: Path) -> stamp.Stamp:
    """The stamp of the toy's stage as its files now are."""
    stamp.parse.cache_clear()
    stage = importlib.import_module("lmwright_toy.stage").Thing()
    return stamp_of(stage, "thing", {"rows": "ab"}, {})


def edit(path: Path, old: str, new: str) -> None:
    """Change a file's text."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("work.py", "return number\n\ndef unused", "return number + 0\n\ndef unused", "work:below"),
        ("work.py", "LIMIT = 3", "LIMIT = 4", "work:LIMIT"),
        ("work.py", "below(number) + LIMIT", "below(number) - LIMIT", "work:used"),
        ("stage.py", "used(self.number)", "used(self.number + 1)", "stage:Thing"),
    ],
)
def test_a_changed_line_that_can_be_reached_is_named(package, file, old, new, named) -> None:
    before = stamped(package)
    edit(package / file, old, new)
    after = stamped(package)
    assert before.hash != after.hash
    assert differences(before.parts, after.parts) == [f"code lmwright_toy.{named}"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("work.py", "return number * 2", "return number * 3"),
        ("stage.py", "return 1", "return 2"),
        ("stage.py", "# a comment", "# another comment"),
        ("stage.py", '"""Work."""', '"""Other words."""'),
        ("work.py", '"""Work of the stage."""\n', '\n\n"""Words."""\n'),
        ("work.py", "def below(number):", "def below( number ):"),
    ],
)
def test_what_cannot_be_reached_or_does_nothing_changes_no_stamp(package, file, old, new) -> None:
    before = stamped(package)
    edit(package / file, old, new)
    assert stamped(package).hash == before.hash


def test_of_a_module_by_name_only_what_is_taken_counts(package) -> None:
    text = (package / "stage.py").read_text()
    text = text.replace("from lmwright_toy.work import used", "from lmwright_toy import work")
    (package / "stage.py").write_text(text.replace("used(self.number)", "work.used(self.number)"))
    before = stamped(package)
    edit(package / "work.py", "return number * 2", "return number * 3")
    assert stamped(package).hash == before.hash
    edit(package / "work.py", "return number\n\ndef unused", "return -number\n\ndef unused")
    assert differences(before.parts, stamped(package).parts) == ["code lmwright_toy.work:below"]
    edit(package / "stage.py", "work.used(self.number)", "vars(work)['used'](self.number)")
    whole = stamped(package)
    edit(package / "work.py", "return number * 3", "return number * 4")
    assert differences(whole.parts, stamped(package).parts) == ["code lmwright_toy.work:unused"]


def test_a_new_statement_at_import_always_counts(package) -> None:
    before = stamped(package)
    with (package / "work.py").open("a") as file:
        file.write("\nprint(end='')\n")
    assert stamped(package).hash != before.hash


def test_inputs_and_settings_are_parts_of_the_stamp(package) -> None:
    stage = importlib.import_module("lmwright_toy.stage").Thing
    one = stamp_of(stage(), "thing", {"rows": "ab"}, {})
    assert differences(one.parts, stamp_of(stage(), "thing", {"rows": "cd"}, {}).parts) == [
        "inputs rows"
    ]
    assert differences(one.parts, stamp_of(stage(number=2), "thing", {"rows": "ab"}, {}).parts) == [
        "settings number"
    ]
    assert differences(one.parts, stamp_of(stage(seed=2), "thing", {"rows": "ab"}, {}).parts) == [
        "settings seed"
    ]


def test_the_train_stage_reaches_its_task_and_not_the_server(tmp_path: Path) -> None:
    from lmwright.train.finetune import Train

    (tmp_path / "task.json").write_text('{"kind": "text-classification", "labels": ["a", "b"]}')
    reached = Train().reaches({"rows": tmp_path})
    code, libraries = reachable([("lmwright.train.finetune", "Train")], reached)
    modules = {place.partition(":")[0] for place in code}
    assert "lmwright.tasks.text_classification" in modules
    assert "lmwright.train.loop" in modules
    assert not any(name.startswith(("lmwright.serve", "lmwright.loop")) for name in modules)
    assert "torch" in libraries
