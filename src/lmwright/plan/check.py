"""Checks of a recipe's trainings, after the stages that they need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.core.finding import Finding
from lmwright.core.recipe import Recipe, Step
from lmwright.store.run import Shown, plan_recipe, run_recipe
from lmwright.store.store import Store
from lmwright.train.check import Trains, Trial, learnt, learnt_tokens, look

LEARNT, READ, END = "\x1b[32m", "\x1b[2m", "\x1b[0m"
"""Colours of a terminal: what is learnt, what is only read."""


@dataclass(frozen=True)
class ShownRow:
    """A row as it is learnt: how many of its tokens, and its text with what is learnt coloured."""

    id: str
    tokens: int
    learnt: int
    text: str


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
            learnt = f"{row.learnt} of {row.tokens} tokens are learnt"
            found += ["", f"row {row.id[:12]}: {learnt}", row.text]
        return found

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """The training as JSON values."""
        findings = [each.to_json() for each in self.findings]
        return {"step": self.step, "findings": findings, "rows": [asdict(r) for r in self.shown]}


def check_recipe(
    recipe: Recipe, store: Store, shown: Shown, probe: bool = False, rows: int = 3
) -> list[Checked]:
    """Every training of a recipe that can be looked at; BadInput where there is none.

    What a training needs is made first, unless another training makes it.
    """
    trainings = [step for step in recipe.steps if isinstance(step.stage, Trains)]
    if not trainings:
        raise BadInput("the recipe has no training", "a stage train", "there is nothing to check")
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


def shown_rows(trial: Trial, worst: Sequence[str], count: int) -> Iterator[ShownRow]:
    """Rows whose tokens are coloured by whether they are learnt; those that findings name first."""
    known = {row: place for place, row in enumerate(trial.ids)}
    places = [known[row] for row in dict.fromkeys(worst) if row in known]
    places += [place for place in range(len(known)) if place not in places]
    by_row = {f"{each.document:032x}": each for each in trial.examples}
    for place in places[:count]:
        row = trial.ids[place]
        if trial.documents:
            item = trial.documents[place]
            ids, mask = item.tokens, learnt_tokens(item)
        elif row in by_row and len(mask := learnt(by_row[row])):
            ids = by_row[row].tokens
        else:
            continue
        yield ShownRow(row, len(ids), int(mask.sum()), coloured(trial, ids, mask))


def coloured(trial: Trial, ids: np.ndarray, mask: np.ndarray) -> str:
    """The text of some ids, what is learnt of it in green and the rest dim."""
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    control = {number: name for name, number in trial.model.tokenizer.control.items()}
    found = ""
    for first, end in pairwise(edges):
        colour = LEARNT if mask[first] else READ
        found += colour + text_of(trial, ids[first:end].tolist(), control) + END
    return found


def text_of(trial: Trial, ids: Sequence[int], control: Mapping[int, str]) -> str:
    """The text of some ids with the names of special tokens."""
    found, plain = "", list[int]()
    for each in ids:
        if each in control:
            found += trial.model.tokenizer.decode(plain) + control[each]
            plain = []
        else:
            plain.append(each)
    return found + trial.model.tokenizer.decode(plain)
