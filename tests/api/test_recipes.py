"""Recipes from Python and in a notebook: planned, run, reported."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lmwright as lw
from lmwright.api.notebook import Inline, notebook_display
from lmwright.cli.main import main
from lmwright.core.journal import Journal
from lmwright.report.run import run_page
from lmwright.store.open import open_store
from lmwright.store.run import write_head
from tests.guides import examples
from tests.small_recipe import write_recipe


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the small recipe, after the guide's example, and what that left."""
    folder, found = tmp_path_factory.mktemp("ran"), dict[str, Any](lw=lw)
    write_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LMWRIGHT_STORE", str(folder / "store"))
        exec(compile(examples("python.md", "Recipes"), "python.md", "exec"), found)
    return folder, found


def framed_page(shown: Any) -> str:
    """The page inside what a notebook is given."""
    (page,) = re.findall(r'^<iframe srcdoc="(.*?)" sandbox=""', shown._repr_html_(), re.S)
    return html.unescape(page)


def test_a_run_from_python_is_a_run(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, found = ran
    done, store = found["done"], folder / "store"
    assert done.name in open_store(store).runs()
    assert done.facts["evaluate"]["headline"]["line"]
    assert done.acts["promote"]["alias"] == "made@production"
    assert f"run {done.name}" in repr(done)
    again = lw.run(folder / "small.yaml", {"evaluate.draws": 100}, store)
    assert again.artifacts == done.artifacts and again.name != done.name
    planned = lw.plan(folder / "small.yaml", {"evaluate.draws": 100}, store)
    assert set(planned.stages.values()) == {"done"}
    changed = lw.plan(folder / "small.yaml", {"evaluate.draws": 120}, store, forecast=False)
    assert changed.stages["evaluate"] == "to do" and "settings draws" in repr(changed)
    assert changed.to_json()["stages"][2]["why"] == ["settings draws"]
    assert "<pre>data" in changed._repr_html_()


def test_a_notebook_is_given_whole_pages(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, found = ran
    page = framed_page(found["done"])
    assert page.startswith("<!DOCTYPE html>") and "promote" in page and "not begun" not in page
    report = lw.report(folder / "small.yaml", folder / "store")
    assert framed_page(report) == report.page
    assert "<h2>Scores</h2>" in (folder / "report.html").read_text()
    model = lw.load("made@production", folder / "store")
    assert model("A joy.")["label"] in {"positive", "negative", None}
    assert model.embed(["A joy.", "A bore."]).shape[0] == 2


class Cell:
    """Stands for IPython's display: keeps every drawing of what it was given."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def __call__(self, shown: Any, display_id: bool) -> Cell:
        assert display_id
        self.update(shown)
        return self

    def update(self, shown: Any) -> None:
        self.drawn.append(framed_page(shown))


def test_progress_is_drawn_in_the_cell_of_a_notebook(
    ran: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell()
    assert notebook_display() is None
    shell = SimpleNamespace(kernel=object())
    ipython = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=cell))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    folder = ran[0]
    done = lw.run(folder / "small.yaml", {"evaluate.draws": 110}, folder / "store")
    assert "running" in "".join(cell.drawn) and done.name in cell.drawn[0]
    assert "not begun" not in cell.drawn[-1], "the last drawing shows how it ended"
    assert cell.drawn[0].count("not begun") == 6 and cell.drawn[-1].count("already done") == 2
    shell.kernel = None
    assert notebook_display() is None, "IPython in a terminal shows no pages"


def test_the_curves_are_drawn_while_a_training_works(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    name, folder = store.new_run("made")
    write_head(
        folder, {"run": name, "recipe": "made", "raw": {"stages": {"data": {}, "train": {}}}}
    )
    journal = Journal(folder / "journal.jsonl")
    inline = Inline(store, Cell())
    inline.start(name)
    assert "<polyline" not in framed_page(inline)
    journal.record("stage began", step="train", kind="train", stamp="a" * 64)
    for step in range(1, 9):
        journal.record("step", step=step, loss=1 / step, lr=1e-4, tokens=step)
    inline.progress("train", 8, 10, "")
    page = framed_page(inline)
    assert page.count("<polyline") == 3 and 'value="0.8"' in page
    journal.record("run ended", state="failed", error="a test")
    assert ">failed</span>" in run_page(store, name, {})
    journal.close()


LOOKS = [
    (("runs",), lambda said, done: said[0]["run"] == done.name and said[0]["state"] == "done"),
    (("show",), lambda said, done: "made@production" in said["aliases"] and said["runs"]),
    (
        ("show", "made@production"),
        lambda said, done: said["version"]["model"] == done.artifacts["tfidf"],
    ),
    (("show", "RUN"), lambda said, done: list(said["stages"]) == list(done.facts)),
    (
        ("show", "MODEL"),
        lambda said, done: said["whole"] and "model.json" in said["files"],
    ),
    (("plan", "small.yaml"), lambda said, done: said["stages"][0]["state"] == "done"),
    (("doctor", "RUN"), lambda said, done: said[0]["well"] and said[0]["name"]),
]


@pytest.mark.parametrize(
    ("words", "right"), LOOKS, ids=lambda each: "-".join(each) if isinstance(each, tuple) else ""
)
def test_the_verbs_that_look_say_it_as_json_too(
    ran: tuple[Path, dict[str, Any]],
    words: tuple[str, ...],
    right: Callable[[Any, Any], bool],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, done = ran[0], ran[1]["done"]
    monkeypatch.chdir(folder)
    names = {"RUN": done.name, "MODEL": done.artifacts["tfidf"][:12]}
    asked = [names.get(word, word) for word in words]
    assert main([*asked, "--json", "--store", "store"]) == 0
    assert right(json.loads(capsys.readouterr().out), done)
    assert main([*asked, "--store", "store"]) == 0
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(capsys.readouterr().out)
