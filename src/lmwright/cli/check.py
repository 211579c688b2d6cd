"""``lmwright check``: what is wrong with a training before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import STORE, JsonOption, SetOption, StoreOption, stopped_in_words
from lmwright.plan.check import check_recipe
from lmwright.plan.recipe import open_recipe
from lmwright.store.open import open_store
from lmwright.store.progress import Lines


def check(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    store: StoreOption = STORE,
    set: SetOption = [],  # noqa: B006
    probe: Annotated[
        bool, typer.Option(help="Take a few steps on a copy of the network, too.")
    ] = False,
    rows: Annotated[int, typer.Option(help="Rows that are shown with what is learnt of them.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Look at the trainings of a recipe before they start.

    Stages that they need are run first. The exit code is 1 where a training would be stopped.
    """
    with stopped_in_words():
        found = check_recipe(open_recipe(recipe, set), open_store(store), Lines(), probe, rows)
    if as_json:
        print(json.dumps([each.to_json() for each in found]))
    else:
        for each in found:
            print("\n".join(each.lines()))
    if any(finding.word == "stop" for each in found for finding in each.findings):
        raise typer.Exit(1)
