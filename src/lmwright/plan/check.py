"""Checks of a recipe's trainings, after the stages that they need."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.core.finding import Finding
from lmwright.core.recipe import Recipe, Step
from lmwright.plan.masks import ShownRow, shown_rows
from lmwright.store.run import Shown, known_in, plan_recipe, run_recipe
from lmwright.store.store import Store
from lmwright.train.check import Trains, Trial, look


@dataclass(frozen=True, repr=False)
class Checked:
    """A training of a recipe: what the checks found, the worst first, and some of its rows."""

    step: str
    findings: Sequence[Finding]
    shown: Sequence[ShownRow]

    def lines(self) -> list[str]:
        """The training in words: its findings, and the rows with what is learnt of them."""
        words = [each.word for each in self.findings]
        found = [f"{self.step}:", *(f"  {each.line()}" for each in self.findings)]
        found.append(
            f"  {words.count('stop')} stop, {words.count('warn')} warn, {len(words)} in all"
        )
        for row in self.shown:
            found += ["", *row.lines()]
        return found

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """The training as JSON values."""
        findings = [each.to_json() for each in self.findings]
        return {"step": self.step, "findings": findings, "rows": [r.to_json() for r in self.shown]}


def check_recipe(
    recipe: Recipe, store: Store, shown: Shown, probe: bool = False, rows: int = 3
) -> list[Checked]:
    """Every training of a recipe that can be looked at; BadInput where there is none.

    What a training needs is made first, unless another training makes it.
    """
    trainings = [step for step in recipe.steps if isinstance(step.stage, Trains)]
    if not trainings:
        raise BadInput("the recipe has no training", "a stage train", "there is nothing to check")
    recipe = known_in(recipe, store)
    given = made(recipe, trainings, store, shown)
    found = []
    for step in trainings:
        missing = [name for name in step.needs().values() if name not in given]
        if missing:
            why = f"{missing[0]} is not there before an earlier training: check again after it"
            found.append(Checked(step.name, [Finding("order", "note", why)], []))
            continue
        inputs = {own: store.artifact(given[name]) for own, name in step.needs().items()}
        with tempfile.TemporaryDirectory() as folder:
            stage: Any = step.stage
            try:
                trial: Trial = stage.trial(Looking(inputs, Path(folder)))
            except BadInput as error:
                stop = Finding("start", "stop", error.found, cure=error.cure or error.wanted)
                found.append(Checked(step.name, [stop], []))
                continue
            findings = look(trial, probe)
            worst = [each.row for each in findings if each.row and each.word != "note"]
            found.append(Checked(step.name, findings, [*shown_rows(trial, worst, rows)]))
            trial.model.close()
    return found


def made(
    recipe: Recipe, trainings: Sequence[Step], store: Store, shown: Shown
) -> Mapping[str, str]:
    """Artifacts that are there once what the trainings need was run, by name."""
    needed = {name for step in trainings for name in step.needs().values()}
    before: list[Step] = []
    for step in reversed(recipe.steps):
        if step not in trainings and needed & set(step.gives().values()):
            before.append(step)
            needed |= set(step.needs().values())
    trained = {name for step in trainings for name in step.gives().values()}
    steps = tuple(step for step in reversed(before) if not trained & set(step.needs().values()))
    given = dict(recipe.artifacts)
    if steps:
        own = replace(recipe, name=f"check-{recipe.name}"[:64], steps=steps, sections={})
        given |= run_recipe(own, store, shown=shown).artifacts
    # Results of earlier trainings, where these have run already.
    for row, step in zip(plan_recipe(recipe, store), recipe.steps, strict=True):
        if row.stamp is not None and (result := store.result(row.stamp)) is not None:
            given |= {name: result.outputs[own] for own, name in step.gives().items()}
    return given


class Looking:
    """What a stage is given to be looked at: its inputs, and a folder for a while."""

    def __init__(self, inputs: Mapping[str, Path], scratch: Path) -> None:
        self.inputs, self.scratch = inputs, scratch

    def record(self, event: str, **facts: Any) -> None:
        """Nothing: there is no journal."""
