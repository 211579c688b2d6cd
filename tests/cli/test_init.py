"""``init`` writes a recipe that is read back as it was meant and runs, whatever a table holds."""

import csv
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmwright.cli.main import main
from lmwright.core.task import role_columns
from lmwright.core.yaml12 import parse_yaml
from lmwright.data.prepare import Data
from lmwright.data.sources import RawRow, read_source, source_files
from lmwright.plan.forecast import Sources
from lmwright.plan.recipe import open_recipe
from lmwright.store.run import REFUSED, plan_recipe
from lmwright.store.store import Store
from tests.data.conftest import FakeWork

ROWS = [f"a fine text of day {n},{'ab'[n % 2]}" for n in range(60)]


def written(table: Path, *words: str):
    """The recipe of a table, read back, and its one source."""
    assert main(["init", str(table), "--out", "mine.yaml", *words]) == 0
    recipe = open_recipe(Path("mine.yaml"), [])
    step = recipe.step("data")
    assert step is not None and isinstance(step.stage, Data)
    (source,) = step.stage.sources
    return recipe, source


def rows_of(recipe, source):
    """The rows that the recipe's stage data reads."""
    return read_source(source, role_columns(recipe.task, "input", "target"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "header"),
    [
        ("08.csv", "text,label"),
        ("1e5.csv", "text,label"),
        ("0x1F.csv", "text,label"),
        ("null.csv", "text,label"),
        ("questions.csv", "07,08"),
        ("true.csv", "1e5,no"),
        ("feedback[1].csv", "text,label"),
        ("a*b?.csv", "text,label"),
    ],
)
def test_names_that_look_like_something_else(folder: Path, file: str, header: str) -> None:
    path = folder / file
    path.write_text("\n".join([header, *ROWS]))
    recipe, source = written(path)
    assert (source.column("text"), source.column("label")) == tuple(header.split(","))
    assert source.path == str(path)
    assert isinstance(recipe.name, str)
    assert sum(isinstance(row, RawRow) for row in rows_of(recipe, source)) == 60


def test_paths_are_from_the_recipe_s_folder_and_the_same_bytes_elsewhere_are_done(
    folder: Path, capsys
) -> None:
    """A folder with table and recipe can be moved, and started from anywhere."""
    (folder / "one" / "tables").mkdir(parents=True)
    table = folder / "one" / "tables" / "t.csv"
    table.write_text("\n".join(["text,label", *ROWS]))
    recipe = folder / "one" / "mine.yaml"
    assert main(["init", str(table), "--out", str(recipe)]) == 0
    assert "path: tables/t.csv" in recipe.read_text()
    recipe.write_text(recipe.read_text().partition("  train: {}")[0])
    assert main(["run", str(recipe), "--store", "store"]) == 0
    (rows,) = (folder / "store" / "artifacts").glob("*/sources.json")
    assert str(folder) not in rows.read_text()
    shutil.move(folder / "one", folder / "two")
    capsys.readouterr()
    os.chdir(folder / "two" / "tables")
    assert main(["plan", "../mine.yaml", "--store", str(folder / "store")]) == 0
    assert "data" in (told := capsys.readouterr().out) and "done" in told
    (folder / "two" / "tables" / "t.csv").write_text("\n".join(["text,label", *ROWS[1:]]))
    assert main(["plan", "../mine.yaml", "--no-forecast", "--store", str(folder / "store")]) == 0
    assert "done" not in capsys.readouterr().out, "other bytes are other rows"


def test_a_recipe_that_extends_another_takes_each_path_from_its_own_folder(folder: Path) -> None:
    (folder / "base").mkdir()
    (folder / "base" / "t.csv").write_text("\n".join(["text,label", *ROWS]))
    sources = "stages: {data: {sources: [{name: some, path: t.csv}]}}"
    (folder / "base" / "base.yaml").write_text(f"name: mine\n{sources}\n")
    (folder / "mine.yaml").write_text("extends: base/base.yaml\nstages: {data: {near: 0.8}}\n")
    (source,) = open_recipe(Path("mine.yaml"), []).step("data").stage.sources
    assert source.path == str(folder / "base" / "t.csv")
    (folder / "own.yaml").write_text(f"extends: base/base.yaml\n{sources}\n")
    (source,) = open_recipe(Path("own.yaml"), []).step("data").stage.sources
    assert source.path == str(folder / "t.csv")


GERMAN = [
    "Die Lieferung kam leider zwei Wochen zu spät, und der Karton war beschädigt",
    "Das Gerät funktioniert einwandfrei und war schnell aufgebaut",
    "Ich habe den Kundendienst angerufen, aber niemand konnte mir helfen",
]
ENGLISH = [
    "The delivery came two weeks late and the box had been damaged on its way",
    "It works as it should and was easily put together in an afternoon",
    "I have called the customer service but nobody there could help me with it",
]


@pytest.mark.parametrize(("texts", "told"), [(GERMAN, True), (ENGLISH, False)])
def test_a_language_that_the_start_does_not_read_is_said(
    folder: Path, capsys, texts: list[str], told: bool
) -> None:
    """By init in the recipe, and by plan of a recipe that was written by hand."""
    rng, words = random.Random(0), " ".join(texts).replace(",", "").split()
    rows = [f"{' '.join(rng.sample(words, 14))},{'ab'[n % 2]}" for n in range(90)]
    (folder / "t.csv").write_text("\n".join(["text,label", *rows]))
    recipe, _ = written(folder / "t.csv")
    said = "most texts are not in the language that train.start was made for (en), but in de"
    assert (f"# {said}" in Path("mine.yaml").read_text()) == told
    planned = plan_recipe(recipe, Store(folder / "store"))
    known = Sources(recipe, Store(folder / "store"), planned)
    assert [doubt.startswith(said) for doubt in recipe.step("train").stage.doubts(known)] == [
        True
    ] * told


def test_a_long_name_is_shortened_and_one_in_a_recipe_is_told_its_length(folder, capsys) -> None:
    path = folder / ("customer-feedback-export-" * 4 + "2.csv")
    path.write_text("\n".join(["text,label", *ROWS]))
    recipe, _ = written(path)
    assert recipe.name == ("customer-feedback-export-" * 4)[:64].rstrip("-")
    text = Path("mine.yaml").read_text().replace(recipe.name, "a" * 77, 1)
    Path("mine.yaml").write_text(text)
    assert main(["plan", "mine.yaml"]) == 1
    assert "name is 77 characters long" in (told := capsys.readouterr().err)
    assert "at most 64 characters" in told


def test_more_labels_than_usual_are_written_into_the_recipe(folder: Path) -> None:
    rows = [f"please help with matter {n} of mine,intent {n % 250}" for n in range(3000)]
    (folder / "t.csv").write_text("\n".join(["text,intent", *rows]))
    recipe, _ = written(folder / "t.csv", "--label", "intent")
    assert recipe.task.max_labels == 250


def test_a_name_that_is_not_utf_8_is_written_read_and_run(folder: Path, capsys) -> None:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.csv"))
    try:
        path.write_text("\n".join(["text,label", *ROWS]))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    recipe, source = written(path)
    assert source.path == str(path)
    assert next(row.origin for row in rows_of(recipe, source)) == "caf\\udce9.csv:1"
    keep = Path("mine.yaml").read_text().partition("  train: {}")[0]
    Path("mine.yaml").write_text(keep)
    assert main(["run", "mine.yaml"]) == 0
    assert main(["show"]) == 0
    assert "data" in capsys.readouterr().out


def test_the_task_stands_at_the_top_and_only_other_names_are_written(folder: Path) -> None:
    (folder / "t.csv").write_text("\n".join(["text,kind", *ROWS]))
    recipe, source = written(folder / "t.csv")
    assert list(recipe.raw)[:2] == ["name", "task"] and recipe.task.kind == "text-classification"
    assert source.columns == {"label": "kind"}


def test_too_few_rows_are_refused_before_anything_is_written(folder: Path, capsys) -> None:
    (folder / "t.csv").write_text("\n".join(["text,label", *ROWS[:8]]))
    assert main(["init", str(folder / "t.csv"), "--out", "mine.yaml"]) == 1
    assert "8 rows leave nothing for" in capsys.readouterr().err
    assert not Path("mine.yaml").exists()


WORDS = [
    "lamp",
    "chair",
    "kettle",
    "radio",
    "bicycle",
    "window",
    "carpet",
    "printer",
    "garden",
    "ladder",
    "bottle",
]


@st.composite
def tables(draw):
    """Rows of a table: some texts repeat, some are near each other, some labels are empty.

    A label is a word, a number or, in tables that no recipe is for, a list.
    """
    pool = draw(st.integers(20, 400))
    labels = draw(st.integers(2, 5))
    rng = draw(st.randoms(use_true_random=False))
    near, empty = draw(st.booleans()), draw(st.sampled_from([0, 0.05, 0.3]))
    rare = draw(st.sampled_from([1, 3]))
    told = draw(st.sampled_from([lambda n: f"kind {n}", lambda n: n, lambda n: str([n, n + 1])]))
    rows = []
    for number in range(pool):
        label = int(labels * rng.random() ** rare)
        if near:
            text = f"age {rng.randrange(30, 80)}, pressure {rng.randrange(90, 200)}, state {label}"
        else:
            text = f"the {' '.join(rng.choices(WORDS, k=6))} is {label} {number}"
        rows.append((text, "" if rng.random() < empty else told(label)))
    return rows + rng.choices(rows, k=draw(st.integers(0, pool)))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=tables())
def test_what_init_writes_can_be_prepared_and_watched_or_it_refuses(
    folder: Path, capsys, rows
) -> None:
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    Path("mine.yaml").unlink(missing_ok=True)
    if main(["init", str(folder / "t.csv"), "--out", "mine.yaml"]) != 0:
        assert "a fault of lmwright" not in capsys.readouterr().err
        return
    assert not any(str(label).startswith("[") for _, label in rows)
    recipe = open_recipe(Path("mine.yaml"), [])
    shutil.rmtree(folder / "work", ignore_errors=True)
    work = FakeWork(folder / "work")
    facts = recipe.step("data").stage.run(work)
    assert all(split["rows"] for split in facts["splits"].values())
    if detect := recipe.step("detect"):
        detect.stage.foresee({"rows": work.folder / "rows"})
    else:
        unseen = sum(facts["splits"][name]["rows"] for name in ("calibration", "gate", "test"))
        assert unseen < 90


def test_what_init_writes_for_few_rows_runs_to_its_end(folder: Path, capsys) -> None:
    texts = [f"the {WORDS[n % 11]} of {WORDS[n % 7]} {'works' * (n % 2)} {n}" for n in range(60)]
    rows = [f"{text},{'ab'[n % 2]}" for n, text in enumerate(texts)]
    (folder / "t.csv").write_text("\n".join(["text,label", *rows, *rows[:30]]))
    written(folder / "t.csv")
    assert main(["run", "mine.yaml"]) in (0, REFUSED), capsys.readouterr().err


SPANS = [{"start": 0, "end": 3, "label": "PER"}]


def test_another_task_takes_columns_by_their_names(folder: Path) -> None:
    lines = [
        json.dumps({"text": f"Ada met Alan {n}.", "spans": SPANS, "group": f"d{n // 2}"})
        for n in range(120)
    ]
    (folder / "tags.jsonl").write_text("\n".join(lines))
    recipe, source = written(Path("tags.jsonl"), "--task", "token-classification")
    assert recipe.task.kind == "token-classification"
    assert (source.columns, source.side) == ({}, {"group": "group"})
    assert sum(isinstance(row, RawRow) for row in rows_of(recipe, source)) == 120


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "token-classification"], "no column 'spans' for spans"),
        (["--task", "token-classification", "--column", "spans=label"], "cannot be used"),
        (["--task", "token-classification", "--column", "tags=label"], "has no column 'tags'"),
        (["--task", "token-classification", "--column", "label"], "NAME=COLUMN"),
        (["--task", "token-classification", "--label", "label"], "--label with --task"),
        (["--task", "token-clasification"], "token-classification"),
        (["--column", "text=text"], "--column without --task"),
    ],
)
def test_what_another_task_lacks_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    (folder / "rows.csv").write_text("\n".join(["text,label", *ROWS]))
    assert main(["init", "rows.csv", *words]) == 1
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said
    assert not (folder / "rows.yaml").exists()


def test_a_squad_file_is_taken_by_its_task_and_named_without_it(folder: Path, capsys) -> None:
    """Made-up questions in SQuAD's format: columns are known by their names."""
    paragraphs = []
    for n in range(90):
        context = f"On day {n} the ship left harbour {n + 3} for the island."
        answer = {"text": f"harbour {n + 3}", "answer_start": context.index("harbour")}
        asked = {"id": f"a{n}", "question": f"What was left on day {n}?", "answers": [answer]}
        other = {"id": f"b{n}", "question": f"Who was aboard on day {n}?", "answers": []}
        paragraphs.append({"context": context, "qas": [asked, other]})
    Path("ships.json").write_text(json.dumps({"data": [{"title": "x", "paragraphs": paragraphs}]}))
    assert main(["init", "ships.json"]) == 1
    assert "say --task question-answering" in capsys.readouterr().err
    recipe, source = written(folder / "ships.json", "--task", "question-answering")
    assert recipe.task.kind == "question-answering" and not source.columns
    rows = list(rows_of(recipe, source))
    assert len(rows) == 180 and all(isinstance(row, RawRow) for row in rows)
    assert rows[0].values["answers"] == {"text": ["harbour 3"], "answer_start": [23]}


def test_a_folder_of_folders_of_texts(folder: Path) -> None:
    """Written from elsewhere: the pattern is found from the recipe's folder."""
    for topic in ("money", "sport"):
        (folder / "my [old] news" / topic).mkdir(parents=True)
        for number in range(300):
            path = folder / "my [old] news" / topic / f"{number}.txt"
            path.write_text(f"{topic} title, {number}\n\nwords {number} on {topic} {number * 7}\n")
    (folder / "recipes").mkdir()
    assert main(["init", "my [old] news", "--out", "recipes/mine.yaml"]) == 0
    written = parse_yaml((folder / "recipes" / "mine.yaml").read_text(), "mine.yaml")
    (source,) = written["stages"]["data"]["sources"]
    assert source["files"] == "texts" and source["columns"] == {"label": "folder"}
    os.chdir(folder / "recipes")
    (read,) = open_recipe(Path("mine.yaml")).step("data").stage.sources
    assert len(source_files(read)) == 600
