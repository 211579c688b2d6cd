"""``lmwright run`` and ``lmwright plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import STORE, JsonOption, SetOption, StoreOption, stopped_in_words
from lmwright.plan.recipe import make_plan, open_recipe, run_fitting
from lmwright.store.open import open_store
from lmwright.store.progress import Lines
from lmwright.store.run import REFUSED


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    store: StoreOption = STORE,
    set: SetOption = [],  # noqa: B006
    again: Annotated[bool, typer.Option(help="Repeat what is already done.")] = False,
    anyway: Annotated[
        bool, typer.Option(help="Begin even what by its forecast does not fit.")
    ] = False,
) -> None:
    """Run a recipe. What has a result under its stamp is not done again; a kill loses nothing.

    The exit code is 3 where all went well and the gate kept the version in service.
    """
    known, opened = open_recipe(recipe, set), open_store(store)
    with stopped_in_words():
        done = run_fitting(known, opened, Lines(), again, anyway)
    print("\n".join(done.lines()))
    if done.refused:
        raise typer.Exit(REFUSED)


def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    store: StoreOption = STORE,
    set: SetOption = [],  # noqa: B006
    forecast: Annotated[bool, typer.Option(help="Probe this machine for a few seconds.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Say for each stage whether its result is there, what changed, and what it would take."""
    made = make_plan(open_recipe(recipe, set), open_store(store), forecast)
    print(json.dumps(made.to_json()) if as_json else "\n".join(made.lines()))
