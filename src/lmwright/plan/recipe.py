"""A recipe read with all tables, planned, and run if it fits: the same for every front end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmwright.assets import is_asset
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_json
from lmwright.core.recipe import Recipe, read_recipe
from lmwright.data.formats.choose import READERS
from lmwright.old_format import recipe_of
from lmwright.store.run import Planned, Run, Shown, plan_recipe, run_recipe
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, resolve


def open_recipe(path: Path, sets: Sequence[str] = ()) -> Recipe:
    """Read a recipe file with ``STAGE.FIELD=VALUE`` overrides."""
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind in READERS and kind != ".json":
        raise BadInput(f"{path} is a table", "a recipe file", f"for a table: lmwright init {path}")
    try:
        return read_recipe(path, resolve, SECTIONS, sets, recipe_of)
    except BadInput:
        from lmwright.plan.foreign import tool_of  # which makes recipes by this module

        if (found := tool_of(path)) is None:
            raise
        raise BadInput(
            f"{path} is a configuration of {found[0].title}",
            "a recipe file",
            f"make one of it: lmwright init {path}",
        ) from None


def path_from(file: Path, folder: Path) -> str:
    """A file's path from the recipe's folder; the whole one where they share no folder."""
    own, home = os.path.realpath(file), os.path.realpath(folder)
    if os.path.commonpath([own, home]) == os.path.sep:
        return own
    found = os.path.relpath(own, home)
    return f"./{found}" if found.startswith("~") or is_asset(found) else found


def reported(what: str) -> str:
    """The name of what a report is on: that of a recipe file, else ``what`` itself."""
    return open_recipe(Path(what)).name if what.endswith((".yaml", ".yml")) else what


@dataclass(frozen=True)
class Plan:
    """What a run of a recipe would do and take.

    ``forecast`` (stage -> its forecast) is empty where nothing was probed; ``total`` is that of
    all stages, ``misfit`` why they do not fit this machine, or empty.
    """

    recipe: str
    stages: tuple[Planned, ...]
    forecast: Mapping[str, Any] = field(default_factory=dict)
    total: Mapping[str, Any] = field(default_factory=dict)
    misfit: str = ""

    def lines(self) -> list[str]:
        """The plan in words: a line a stage, then what all take together."""
        found = [line(row, self.forecast.get(row.step)) for row in self.stages]
        if self.total:
            stays, goes = sizes(self.total["disk"]), f"{self.total['scratch'] / 1e6:.0f} MB"
            memory = sizes(self.total["memory"])
            found.append(
                f"all together {times(self.total['seconds'])}; memory {memory}; "
                f"disk {stays}, and {goes} for a while"
            )
            if unknown := self.total["unknown"]:
                found.append(f"not counted: {', '.join(unknown)} (never done here before)")
        for step, told in self.forecast.items():
            found += [f"{step}: {doubt}" for doubt in told["doubts"]]
        if self.misfit:
            found.append(f"does not fit: {self.misfit}")
        return found

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; times in seconds and sizes in bytes, low, expected and high."""
        stages = [{**vars(row), "forecast": self.forecast.get(row.step)} for row in self.stages]
        return {
            "recipe": self.recipe,
            "stages": stages,
            "total": dict(self.total) or None,
            "misfit": self.misfit or None,
        }


def make_plan(recipe: Recipe, store: Store, probe: bool = True) -> Plan:
    """Say for each stage whether its result is there, what changed, and what it would take.

    ``probe`` measures this machine for a few seconds, if there is anything left to do; the
    forecast is kept until the recipe runs.
    """
    planned = tuple(plan_recipe(recipe, store))
    if not probe or all(row.state == "done" for row in planned):
        return Plan(recipe.name, planned)
    from lmwright.plan.forecast import forecast, misfit, totals  # it takes torch to measure

    told = forecast(recipe, store, planned)
    store.set_state(forecast_name(recipe), told)
    if not told:
        return Plan(recipe.name, planned)
    fault = misfit(recipe, told)
    return Plan(recipe.name, planned, told, totals(told), "" if fault is None else str(fault))


def run_fitting(
    recipe: Recipe, store: Store, shown: Shown, again: bool = False, anyway: bool = False
) -> Run:
    """Run a recipe by its newest forecast.

    Refused raised for one that does not fit this machine, unless it is to be run ``anyway``.
    """
    told: Mapping[str, Any] | None = store.state(forecast_name(recipe))
    if not anyway:
        from lmwright.plan.forecast import that_fits

        told = that_fits(recipe, store, told)
    return run_recipe(recipe, store, again, shown, forecast=told)


def forecast_name(recipe: Recipe) -> str:
    """Under which name a recipe's forecast is kept until it runs."""
    return f"forecast {hash_json(dict(recipe.raw))}"


def line(row: Planned, told: Mapping[str, Any] | None) -> str:
    """A stage's row."""
    why = "; ".join(row.why[:4]) + (f"; and {len(row.why) - 4} more" if len(row.why) > 4 else "")
    seconds = times(told["seconds"]) if told else ""
    return (
        f"{row.step:<12} {row.state:<6} {(row.stamp or '')[:12]:<12} {seconds:<18} {why}".rstrip()
    )


def times(seconds: Sequence[float] | None) -> str:
    """Low, expected and high seconds."""
    return "–".join(f"{value:.0f}" for value in seconds) + " s" if seconds else "unknown"


def sizes(values: Sequence[float] | None) -> str:
    """Low, expected and high bytes."""
    return "–".join(f"{value / 1e6:.0f}" for value in values) + " MB" if values else "unknown"
