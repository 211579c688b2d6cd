"""``lmwright run`` and ``lmwright plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import (
    STORE,
    SetOption,
    StoreOption,
    open_recipe,
    open_store,
    stopped_in_words,
)
from lmwright.cli.progress import Lines
from lmwright.store.run import plan_recipe, run_recipe


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    store: StoreOption = STORE,
    set: SetOption = [],  # noqa: B006
    again: Annotated[bool, typer.Option(help="Repeat what is already done.")] = False,
) -> None:
    """Run a recipe. What has a result under its stamp is not done again; a kill loses nothing."""
    read = open_recipe(recipe, set)
    with stopped_in_words():
        done = run_recipe(read, open_store(store), again, Lines())
    for name, result in done.results.items():
        outputs = ", ".join(f"{k} {v[:12]}" for k, v in result.outputs.items())
        print(f"{name:<12} {outputs}")
    print(f"run {done.name}")


def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    store: StoreOption = STORE,
    set: SetOption = [],  # noqa: B006
) -> None:
    """Say for each stage whether its result is there, and if not, what changed."""
    for row in plan_recipe(open_recipe(recipe, set), open_store(store)):
        why = "; ".join(row.why[:6]) + (
            f"; and {len(row.why) - 6} more" if len(row.why) > 6 else ""
        )
        print(f"{row.step:<12} {row.state:<6} {(row.stamp or '')[:12]:<12} {why}".rstrip())
