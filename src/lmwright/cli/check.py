"""``lmwright check``: what is wrong with a training before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import STORE, JsonOption, SetOption, StoreOption, stopped_in_words
from lmwright.plan.check import Checked, check_recipe
from lmwright.plan.foreign import bring, tool_of
from lmwright.plan.recipe import open_recipe
from lmwright.store.open import open_store
from lmwright.store.progress import Lines


def check(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe file, or a configuration of another tool.")
    ],
    store: StoreOption = STORE,
    set: SetOption = [],  # noqa: B006
    probe: Annotated[
        bool, typer.Option(help="Take a few steps on a copy of the network, too.")
    ] = False,
    rows: Annotated[
        int, typer.Option(min=0, help="Rows that are shown with what is learnt of them.")
    ] = 3,
    as_json: JsonOption = False,
) -> None:
    """Look at the trainings of a recipe before they start.

    Stages that they need are run first. Of a configuration of TRL, axolotl or LLaMA-Factory the
    recipe is written beside it and checked. The exit code is 1 where a training would be stopped.
    """
    with stopped_in_words():
        brought = None if tool_of(recipe) is None else bring(recipe)
        path = recipe if brought is None else brought.path
        found = check_recipe(open_recipe(path, set), open_store(store), Lines(), probe, rows)
        if brought is not None:
            found.insert(0, Checked(f"{recipe} as {path}", brought.findings, []))
    if as_json:
        print(json.dumps([each.to_json() for each in found]))
    else:
        for each in found:
            print("\n".join(each.lines()))
    if any(finding.word == "stop" for each in found for finding in each.findings):
        raise typer.Exit(1)
