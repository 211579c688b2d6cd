"""``lmwright init``: a working recipe for a stranger's table."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from lmwright.core.durable import write_bytes
from lmwright.core.errors import BadInput
from lmwright.core.recipe import Recipe, located, make_recipe
from lmwright.core.task import role_columns
from lmwright.core.yaml12 import parse_yaml, write_yaml
from lmwright.data.guess import TASK, guess_table, source_settings, text_pattern
from lmwright.data.prepare import Data
from lmwright.data.sources import RawRow, Source, read_source
from lmwright.loop.detect import Detect
from lmwright.loop.gate import Slices
from lmwright.metrics.detectors import REFERENCE_WINDOWS
from lmwright.plan.foreign import Brought, bring, recipe_name, tool_of
from lmwright.plan.recipe import path_from
from lmwright.tables import SECTIONS, resolve
from lmwright.text.language import count_languages
from lmwright.train.start import START, foreign_texts

RowsOption = Annotated[
    list[str],
    typer.Option(help="For a configuration, the file of a data set that it names: NAME=FILE."),
]
AFTER_DATA = ("train", "baselines", "evaluate", "audit", "detect", "promote")

MANY = 2500
"""From so many rows on the defaults fit: windows, gate and calibration have rows enough."""
LEAST_WATCHED = 30
"""Windows of fewer texts see only the grossest drift; then nothing is watched."""
SPOKEN_ROWS = 200
"""Rows of which the language is identified."""
MOST_TRIED = 10_000
"""From so many rows on it is not tried how they would be split."""
LOOP = """
# Until a section retrain is here and texts are kept (keep_text: true), the loop only watches:
# feedback is counted, and nothing is learnt from it. This one learns from it:
# retrain:
#   windows: 2
#   fewest: 200
#   new_labels: 600
#   stages:
#     train: {start_from: incumbent, epochs: 1, lr: 1.0e-4}
"""

UNWATCHED = """
# Without detectors nothing is watched, so nothing starts a retraining; feedback is only counted.
"""


def init(
    table: Annotated[
        Path,
        typer.Argument(
            help="A table, a folder of folders of texts, or a configuration of another tool."
        ),
    ],
    text: Annotated[str, typer.Option(help="The column with the texts.")] = "",
    label: Annotated[str, typer.Option(help="The column with the labels.")] = "",
    task: Annotated[str, typer.Option(help="Another task than to find one label a text.")] = TASK,
    column: Annotated[
        list[str],
        typer.Option(help="With --task, where the table names a column otherwise: NAME=COLUMN."),
    ] = [],  # noqa: B006
    encoding: Annotated[str, typer.Option(help="Of a text file; noticed by default.")] = "",
    rows: RowsOption = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Where to write; NAME.yaml by default.")] = None,
) -> None:
    """Look at a table, guess its columns, and write a recipe that runs as it is.

    A YAML file of TRL, axolotl or LLaMA-Factory becomes a recipe beside it.

    A folder with one folder of .txt files for each label is read as a table too.

    For another task than text-classification, columns are taken by their names.
    """
    if tool_of(table) is not None:
        if text or label or column or encoding or task != TASK:
            raise BadInput(f"{table} is a configuration", "--rows and --out alone")
        print("\n".join(told(bring(table, out, rows_of(rows)))))
        return
    if rows:
        raise BadInput(f"--rows, and {table} is no configuration", "a table by itself")
    guess = guess_table(table, text, label, task, column, encoding)
    name = recipe_name(table)
    path = out or Path(f"{name}.yaml")
    if path.exists():
        raise BadInput(f"{path} is there already", "a new file", "choose another with --out")
    found = guess.source
    place = path_from(table, path.parent)
    if found.files == "texts":
        place = f"{glob.escape(place)}/{text_pattern(table)}"
    source = source_settings(found, place)
    purpose: Any = task
    if len(guess.labels) > getattr(resolve("tasks", task), "max_labels", len(guess.labels)):
        purpose = {"kind": task, "max_labels": len(guess.labels)}
    stages: dict[str, Any] = {"data": {"sources": [source]}, **{kind: {} for kind in AFTER_DATA}}
    recipe = {"name": name, "task": purpose, "stages": stages, "watch": {"keep_text": False}}
    sized = fit_to(recipe, guess.labels, path)
    sized += spoken(replace(found, path=str(Path(found.path).absolute())), task)
    reasons = "".join(f"# {reason}\n" for reason in (*guess.reasons, *sized))
    body = reasons + write_yaml(recipe)
    body += LOOP if "detect" in stages else UNWATCHED
    checked(body, path)
    write_bytes(path, body.encode())
    print(f"{path} is written:\n\n{body}\nnext: lmwright run {path}")


def rows_of(rows: Sequence[str]) -> dict[str, str]:
    """The files that are given for data sets by name; BadInput for what names none."""
    found = dict(each.partition("=")[::2] for each in rows)
    if not all(name and file for name, file in found.items()):
        raise BadInput(f"--rows {' '.join(rows)}", "NAME=FILE", "name both")
    return found


def told(brought: Brought) -> list[str]:
    """A recipe that was made of a configuration, in words."""
    lines = [each.line() for each in brought.findings]
    place = brought.path
    return [f"{place} is written", *lines, "", f"next: lmwright check {place}"]


def spoken(source: Source, task: str) -> list[str]:
    """That the texts are in a language which the default start does not read, if they are."""
    own = resolve("tasks", task)()
    rows = read_source(source, role_columns(own, "input", "target"))
    texts = [own.text(row.values) for row in islice(rows, SPOKEN_ROWS) if isinstance(row, RawRow)]
    found = foreign_texts(START, count_languages(texts))
    return [found] if found else []


def checked(body: str, path: Path) -> Recipe:
    """The recipe as it will be read back from a file; BadInput if it cannot be."""
    raw = located(parse_yaml(body, str(path)), {}, path.parent, resolve)
    return make_recipe(raw, str(path), resolve, SECTIONS)


def fit_to(recipe: dict[str, Any], labels: Mapping[str, int], path: Path) -> list[str]:
    """Set what depends on the number of rows (label -> rows); returns what was set, and why.

    Few rows are split as the run will split them, so that what is set fits them. BadInput where
    they are too few for any run.
    """
    rows, stages = sum(labels.values()), recipe["stages"]
    if rows >= MANY:
        if rows < MOST_TRIED:
            split(checked(write_yaml(recipe), path))
        return []
    few = rows < 500
    stages["data"]["fractions"] = {
        "train": 0.45 if few else 0.55,
        "validation": 0.05,
        "calibration": 0.15,
        "gate": 0.25 if few else 0.15,
        "test": 0.1,
    }
    told = [f"{rows:,} rows are few: more of them calibrate and judge, fewer are learnt from"]
    splits = split(checked(write_yaml(recipe), path))
    unseen = sum(splits[name]["rows"] for name in ("calibration", "gate", "test"))
    window = min(Detect.window, unseen // REFERENCE_WINDOWS // 10 * 10)
    if window < LEAST_WATCHED:
        del stages["detect"]
        stages["promote"]["detectors"] = None
        told.append(
            "too few rows to watch the traffic by: with more, add detect and take "
            "detectors: null out of promote"
        )
    else:
        stages["detect"]["window"] = window
    judging = splits["gate"]["labels"]
    if min(judging.get(label, 0) for label in labels) < Slices.rows:
        stages["promote"]["gate"] = {"slices": None}
        told.append("too few rows for the gate to judge each label by itself: slices is null")
    return told


def split(recipe: Recipe) -> Mapping[str, Any]:
    """Rows and labels of every split, as the recipe's stage data makes them or refuses to."""
    step = recipe.step("data")
    assert step is not None and isinstance(step.stage, Data)
    stage = replace(step.stage, label_error_rows=0, language_rows=0)
    with tempfile.TemporaryDirectory(prefix="lmwright-") as folder:
        facts = stage.run(Trial(Path(folder)))
    found: Mapping[str, Any] = facts["splits"]
    return found


class Trial:
    """A stage's surroundings of which nothing is kept."""

    def __init__(self, folder: Path) -> None:
        self.inputs: Mapping[str, Path] = {}
        self.folder, self.scratch = folder, folder / "scratch"
        self.scratch.mkdir()

    def out(self, artifact: str) -> Path:
        """An empty folder."""
        (self.folder / artifact).mkdir()
        return self.folder / artifact

    def record(self, event: str, **facts: Any) -> None:
        """Nothing is kept."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Nothing is shown."""

    def measured(self, **facts: Any) -> None:
        """Nothing is kept."""
