"""``lmwright run`` and ``lmwright plan``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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
from lmwright.core.hashing import hash_json
from lmwright.core.recipe import Recipe
from lmwright.store.run import Planned, plan_recipe, run_recipe


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    store: StoreOption = STORE,
    set: SetOption = [],  # noqa: B006
    again: Annotated[bool, typer.Option(help="Repeat what is already done.")] = False,
    anyway: Annotated[
        bool, typer.Option(help="Begin even what by its forecast does not fit.")
    ] = False,
) -> None:
    """Run a recipe. What has a result under its stamp is not done again; a kill loses nothing."""
    known, opened = open_recipe(recipe, set), open_store(store)
    told: Mapping[str, Any] | None = opened.state(forecast_name(known))
    if not anyway:
        from lmwright.plan.forecast import that_fits

        told = that_fits(known, opened, told)
    with stopped_in_words():
        done = run_recipe(known, opened, again, Lines(), forecast=told)
    for name, result in done.results.items():
        outputs = ", ".join(f"{k} {v[:12]}" for k, v in result.outputs.items())
        print(f"{name:<12} {outputs}")
    for name, facts in done.acts.items():
        print(f"{name:<12} {acted(facts)}")
    print(f"run {done.name}")


def acted(facts: Mapping[str, Any]) -> str:
    """What a stage did beside its artifacts; of a version as much as names it."""
    return " ".join(str(v)[:16] if name == "version" else str(v) for name, v in facts.items())


def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    store: StoreOption = STORE,
    set: SetOption = [],  # noqa: B006
    forecast: Annotated[bool, typer.Option(help="Probe this machine for a few seconds.")] = True,
) -> None:
    """Say for each stage whether its result is there, what changed, and what it would take."""
    known, opened = open_recipe(recipe, set), open_store(store)
    planned = plan_recipe(known, opened)
    told: dict[str, Any] = {}
    if forecast and any(row.state != "done" for row in planned):
        from lmwright.plan.forecast import forecast as forecast_stage
        from lmwright.plan.forecast import misfit, totals

        told = forecast_stage(known, opened, planned)
        opened.set_state(forecast_name(known), told)
    for row in planned:
        print(line(row, told.get(row.step)))
    if told:
        total = totals(told)
        stays, goes = sizes(total["disk"]), f"{total['scratch'] / 1e6:.0f} MB"
        print(f"all together {times(total['seconds'])}; memory {sizes(total['memory'])}; ", end="")
        print(f"disk {stays}, and {goes} for a while")
        if total["unknown"]:
            print(f"not counted: {', '.join(total['unknown'])} (never done here before)")
        fault = misfit(known, told)
        if fault is not None:
            print(f"does not fit: {fault}")


def line(row: Planned, told: dict[str, Any] | None) -> str:
    """A stage's row."""
    why = "; ".join(row.why[:4]) + (f"; and {len(row.why) - 4} more" if len(row.why) > 4 else "")
    seconds = times(told["seconds"]) if told else ""
    return (
        f"{row.step:<12} {row.state:<6} {(row.stamp or '')[:12]:<12} {seconds:<18} {why}".rstrip()
    )


def times(seconds: list[float] | None) -> str:
    """Low, expected and high seconds."""
    return "–".join(f"{value:.0f}" for value in seconds) + " s" if seconds else "unknown"


def sizes(values: list[float] | None) -> str:
    """Low, expected and high bytes."""
    return "–".join(f"{value / 1e6:.0f}" for value in values) + " MB" if values else "unknown"


def forecast_name(recipe: Recipe) -> str:
    """Under which name a recipe's forecast is kept until it runs."""
    return f"forecast {hash_json(dict(recipe.raw))}"
