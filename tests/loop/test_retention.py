"""What is forgotten of people's texts, when, and what stays because a training reads it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from lmwright.cli.main import main
from lmwright.loop.retention import SETTLED, forget_texts
from lmwright.loop.retrain import export, parts, write_recipe
from lmwright.serve.rows import Answer
from lmwright.serve.served import Served
from lmwright.serve.traffic import SETTINGS, Given, Traffic
from lmwright.store.lease import run_lease
from lmwright.store.store import Store
from lmwright.tasks.text_classification import TextClassification
from tests.serve.fake import Words

TASK = TextClassification(labels=("bad", "good"))
TOLD = {"label": "good", "unsure": False, "probabilities": {"bad": 0.2, "good": 0.8}}
OLD = "A text that nobody may keep any longer."


def served(name: str, text: str, days: float) -> Served:
    """An answer of some days ago."""
    one = Answer(TASK, Words("Four words of it."), TASK.heard([TOLD]))
    moment = time.time() - days * 86400
    return Served(name, moment, "", "v1", ({"text": text},), (one,))


def fed_back(count: int) -> list[dict]:
    """Labelled texts of both parts."""
    return [
        {
            "number": k + 1,
            "inputs": {"text": f"text {k}"},
            "target": {"label": "good"},
            "id": f"cls-{k}",
            "part": ("train", "gate")[k % 2],
        }
        for k in range(count)
    ]


def exported(store: Store, count: int) -> dict[str, tuple[Path, int]]:
    """Feedback that was written out a while ago."""
    files = export(store, parts(TASK, fed_back(count)))
    for path, _ in files.values():
        os.utime(path, (time.time() - 2 * SETTLED,) * 2)
    return files


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_gc_forgets_answers_past_the_retention_that_their_server_had(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.folder / "traffic" / "mine"
    log = Traffic(folder, True, 7.0, 0.4)
    log.observe(served("cls-old", OLD, days=8))
    log.observe(served("cls-new", "A text of this week.", days=6))
    log.give("cls-old", 0, Given({"label": "bad"}), TASK, "")
    log.close()
    assert main(["gc", "--dry", "--store", str(store.folder)]) == 0
    assert "would forget 1 answers" in capsys.readouterr().out
    assert main(["gc", "--store", str(store.folder)]) == 0
    assert "forgot 1 answers" in capsys.readouterr().out
    again = Traffic.again(folder)
    assert again.retention_days == 7.0
    assert [again.count(), len(again.find("cls-new")), again.labelled()] == [1, 1, []]
    again.close()
    assert OLD.encode() not in b"".join(path.read_bytes() for path in folder.iterdir())


def test_lineage_leaves_what_gc_keeps_and_forgets_as_it_was(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.folder / "traffic" / "mine"
    log = Traffic(folder, True, 7.0, 0.4)
    log.observe(served("cls-old", OLD, days=8))
    log.close()
    settings = (folder / SETTINGS).read_bytes()
    assert main(["lineage", "cls-none", "--store", str(store.folder)]) == 1
    assert "cls-none" in capsys.readouterr().err
    assert (folder / SETTINGS).read_bytes() == settings
    assert forget_texts(store).answers == 1


def test_gc_removes_exported_feedback_once_no_training_reads_it(store: Store) -> None:
    used, left = exported(store, 6), exported(store, 8)
    stages = {"feedback": {"sources": [{"path": str(path)} for path, _ in used.values()]}}
    recipe = write_recipe(store, {"stages": {**stages, "promote": {}}})
    state = {"at": "training", "recipe": str(recipe.relative_to(store.folder))}
    store.set_state("loop mine@production", state)
    names = {path.name for path, _ in left.values()}
    assert set(forget_texts(store, dry=True).files) == names
    assert set(forget_texts(store).files) == names
    assert not any(path.exists() for path, _ in left.values())
    assert all(path.exists() for path, _ in used.values())
    store.set_state("loop mine@production", {**state, "at": "swapped"})
    forget_texts(store)
    assert [path.name for path in (store.folder / "feedback").iterdir()] == [recipe.name]


def test_feedback_stays_while_a_run_works_and_when_it_was_just_written(store: Store) -> None:
    files = exported(store, 6)
    with run_lease(store.database, "a run"):
        assert forget_texts(store).files == []
    fresh = export(store, parts(TASK, fed_back(8)))
    forget_texts(store)
    assert not any(path.exists() for path, _ in files.values())
    assert all(json.loads(path.read_text().splitlines()[0]) for path, _ in fresh.values())
