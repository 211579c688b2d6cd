"""Advice for a table: task, start, way to tune and budget, or no training at all, with reasons."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lmwright.core.settings import kind_of
from lmwright.core.yaml12 import write_yaml
from lmwright.plan.foreign import recipe_name
from lmwright.plan.recipe import sizes
from lmwright.plan.seen import Seen, see
from lmwright.tables import ADVICE, resolve
from lmwright.train.finetune import Train
from lmwright.train.start import START

Way = Literal["tune", "prompt", "retrieve"]
WORDS = {
    "tune": "tune a model",
    "prompt": "prompt a language model, and train nothing yet",
    "retrieve": "search, and train nothing yet",
}


@dataclass(frozen=True)
class Reason:
    """Why something is advised: by which factor, a measurement or a stated rule, and of a rule
    whose it is."""

    factor: str
    kind: Literal["measured", "rule"]
    said: str
    source: str = ""

    def line(self) -> str:
        """The reason in a line."""
        source = f" [{self.source}]" if self.source else ""
        return f"{self.kind:<8}  {self.factor}: {self.said}{source}"


@dataclass
class Draft:
    """What is advised so far. ``train`` are settings of the stage train that differ from its
    defaults, ``instead`` the recipe where nothing is trained, ``forecasts`` whether the
    machine may be measured; ``budget`` is the forecast. ``command`` is the next command and
    ``then`` the one behind it, where they are not ``init`` and ``run``."""

    way: Way = "tune"
    train: dict[str, Any] = field(default_factory=dict)
    instead: dict[str, Any] = field(default_factory=dict)
    forecasts: bool = True
    budget: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    then: str = ""

    @property
    def start(self) -> str:
        """The published model to begin with."""
        return str(self.train.get("start", START))

    @property
    def tune(self) -> str:
        """The way to tune."""
        return kind_of(self.train.get("tune", Train.tune))


Rule = Callable[[Seen, Draft], Iterator[Reason]]
"""An entry of ``tables.ADVICE``: changes the draft, and says why."""


@dataclass(frozen=True, repr=False)
class Advice:
    """What to do with a table, why, and the next command."""

    table: str
    task: str
    way: Way
    start: str
    tune: str
    train: Mapping[str, Any]
    instead: Mapping[str, Any]
    budget: Mapping[str, Any]
    reasons: Sequence[Reason]
    command: str
    then: str

    def lines(self) -> list[str]:
        """The advice in words."""
        found = [f"task      {self.task}", f"way       {WORDS[self.way]}"]
        if self.way == "tune":
            found += [f"start     {self.start}", f"tune      {self.tune}"]
            if self.budget:
                low, middle, high = (seconds / 60 for seconds in self.budget["seconds"])
                memory = sizes(self.budget["memory"])
                found.append(
                    f"budget    {low:.1f}–{middle:.1f}–{high:.1f} minutes of training, "
                    f"{memory} of memory"
                )
        found += ["", *(each.line() for each in self.reasons), "", f"next: {self.command}"]
        if self.instead:
            found.insert(-1, f"write {self.instead['name']}.yaml:")
            found[-1:-1] = [f"  {line}" for line in write_yaml(dict(self.instead)).splitlines()]
        return [*found, f"then: {self.then}"]

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """The advice as JSON values."""
        return asdict(self)


def advise(
    table: Path,
    text: str = "",
    label: str = "",
    task: str = "",
    columns: Sequence[str] = (),
    encoding: str = "",
    forecast: bool = True,
) -> Advice:
    """Look at a table and say what to do with it; BadInput for one that ``init`` refuses too."""
    seen, draft, reasons = see(table, text, label, task, columns, encoding), Draft(), list[Reason]()
    draft.forecasts = forecast
    for name in ADVICE:
        rule: Rule = resolve("advice", name)
        reasons += rule(seen, draft)
    name = recipe_name(table)
    sets = []
    if draft.way == "tune":
        sets = [f"--set train.{key}={shown(value)}" for key, value in draft.train.items()]
    return Advice(
        str(table),
        seen.task.kind,
        draft.way,
        draft.start,
        draft.tune,
        draft.train,
        draft.instead,
        draft.budget,
        reasons,
        draft.command or " ".join(["lmwright init", shlex.quote(str(table)), *seen.given]),
        draft.then or " ".join([f"lmwright run {name}.yaml", *sets]),
    )


def shown(value: Any) -> str:
    """A setting as a shell takes it: JSON is YAML too."""
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))
