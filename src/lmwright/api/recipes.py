"""Recipes from Python: run, planned, reported."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmwright.api.notebook import framed, shown_here
from lmwright.core.durable import write_bytes
from lmwright.core.hashing import encoded
from lmwright.core.recipe import Recipe
from lmwright.plan.recipe import Plan, make_plan, open_recipe, reported, run_fitting
from lmwright.report.page import report_page
from lmwright.report.run import run_page
from lmwright.store.open import default_folder, existing_store, open_store
from lmwright.store.run import Run
from lmwright.store.store import Store

if TYPE_CHECKING:
    from lmwright.plan.advise import Advice
    from lmwright.plan.check import Checked

Place = str | PathLike[str]


def run(
    recipe: Place,
    set: Mapping[str, Any] | None = None,
    store: Place | None = None,
    again: bool = False,
    anyway: bool = False,
) -> Finished:
    """Run a recipe file; what has a result under its stamp is not done again.

    ``set`` ({"train.rows": 300}) is laid over the recipe. ``store`` is a folder, by default
    ``$LMWRIGHT_STORE`` or ``lmwright-store`` in the present folder. Progress is shown in a
    notebook's cell, elsewhere on stderr. An interruption loses nothing: the same call goes on.
    """
    known, opened = changed(recipe, set), open_store(folder_of(store))
    with shown_here(opened) as shown:
        done = run_fitting(known, opened, shown, again, anyway)
    return Finished(opened, done)


def plan(
    recipe: Place,
    set: Mapping[str, Any] | None = None,
    store: Place | None = None,
    forecast: bool = True,
) -> Planned:
    """What a run of a recipe would do, why, and how long it would take on this machine."""
    return Planned(make_plan(changed(recipe, set), open_store(folder_of(store)), forecast))


def check(
    recipe: Place,
    set: Mapping[str, Any] | None = None,
    store: Place | None = None,
    probe: bool = False,
    rows: int = 3,
) -> list[Checked]:
    """Findings of the checks on each training of a recipe before it starts, the worst first.

    ``probe`` takes a few steps on a copy of the network, too. Stages that a training needs are run
    first. ``rows`` are shown with what is learnt of them.
    """
    from lmwright.plan.check import check_recipe  # it takes torch to look at a model

    known, opened = changed(recipe, set), open_store(folder_of(store))
    with shown_here(opened) as shown:
        return check_recipe(known, opened, shown, probe, rows)


def advise(
    table: Place,
    text: str = "",
    label: str = "",
    task: str = "",
    column: Sequence[str] = (),
    encoding: str = "",
    forecast: bool = True,
) -> Advice:
    """Task, start, way to tune and budget for a table, or prompting or retrieval, with reasons.

    Columns and task are guessed where they are not named, as ``lmwright init`` does; ``forecast``
    measures this machine for a few seconds.
    """
    from lmwright.plan.advise import advise as advice  # it takes torch to measure

    return advice(Path(table), text, label, task, column, encoding, forecast)


def report(what: Place, store: Place | None = None) -> Report:
    """The report on a recipe file, a recipe's name or NAME@ALIAS: one self-contained page."""
    return Report(report_page(existing_store(folder_of(store)), reported(str(what))))


def folder_of(store: Place | None) -> Path:
    """The folder of a store, by default that of the environment or of the present folder."""
    return default_folder() if store is None else Path(store)


def changed(recipe: Place, set: Mapping[str, Any] | None) -> Recipe:
    """A recipe read with ``set`` laid over it; JSON is YAML too."""
    sets = [f"{name}={json.dumps(value)}" for name, value in (set or {}).items()]
    return open_recipe(Path(recipe), sets)


class Finished:
    """A finished run. A notebook shows its stages and the curves of what it trained."""

    def __init__(self, store: Store, run: Run) -> None:
        self.store, self.run = store, run

    def __repr__(self) -> str:
        return "\n".join(self.run.lines())

    def _repr_html_(self) -> str:
        return framed(run_page(self.store, self.run.name, {}), 620)

    @property
    def name(self) -> str:
        """The run's id, as ``lmwright show`` takes it."""
        return self.run.name

    @property
    def artifacts(self) -> dict[str, str]:
        """Artifact name -> content hash."""
        return self.run.artifacts

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """Stage -> what it found, as JSON values."""
        return {step: result.facts for step, result in self.run.results.items()}

    @property
    def acts(self) -> dict[str, dict[str, Any]]:
        """Stage -> what it did beside its artifacts: a promotion's decision, alias and version."""
        return self.run.acts


class Planned:
    """A plan. A notebook shows it as a table."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __repr__(self) -> str:
        return "\n".join(self.plan.lines())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    @property
    def stages(self) -> dict[str, str]:
        """Stage -> ``done``, ``to do``, or ``waits`` for an earlier one."""
        return {row.step: row.state for row in self.plan.stages}

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, as ``lmwright plan --json`` prints it."""
        return self.plan.to_json()


class Report:
    """A report's page. A notebook shows it."""

    def __init__(self, page: str) -> None:
        self.page = page

    def __repr__(self) -> str:
        return f"<report, {len(self.page):,} characters of HTML>"

    def _repr_html_(self) -> str:
        return framed(self.page, 800)

    def save(self, path: Place) -> Path:
        """Write the page to a file; returns its path."""
        write_bytes(Path(path).absolute(), encoded(self.page))
        return Path(path)
