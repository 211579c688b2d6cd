"""An ensemble: several models of one task, whose calibrated answers are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from lmwright.core.bases import BASE, bases_of
from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import DESCRIPTION, Predictor
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, PoolingTask, Prepared, Task, task_to_json
from lmwright.metrics.calibration import Calibration
from lmwright.models.core.device import Placement
from lmwright.models.load import load_predictor
from lmwright.models.placement import place_networks

MEMBERS = "members"
FEWEST = 2


@dataclass(frozen=True)
class Member:
    """One model, its calibration, and the hash of the artifact that it came from."""

    predictor: Predictor
    calibration: Calibration
    content: str


@dataclass(frozen=True)
class PreparedForAll:
    """A row made ready for every member, in their order."""

    parts: tuple[Prepared, ...]

    @property
    def cost(self) -> int:
        """The tokens that all members read."""
        return sum(part.cost for part in self.parts)

    @property
    def ids(self) -> np.ndarray:
        """What the first member reads."""
        return self.parts[0].ids


class Ensemble:
    """The mean of the members' calibrated answers, as the task averages them.

    The vector of a row is the members' one after another, at length 1, where all have any.
    """

    kind: ClassVar[str] = "ensemble"

    def __init__(self, task: Task, members: Sequence[Member]) -> None:
        if not isinstance(task, PoolingTask):
            raise BadInput(
                f"an ensemble for the task {task.kind}", "a task whose answers have a mean"
            )
        if len(members) < FEWEST:
            raise BadInput(f"an ensemble of {len(members)}", f"at least {FEWEST} models")
        for member in members:
            if not member.predictor.task.comparable(task):
                raise BadInput(
                    f"a member for {member.predictor.task}", f"members for one task: {task}"
                )
        self.task: Task = task
        self.members = tuple(members)

    def prepare(self, rows: Sequence[Row]) -> list[PreparedForAll]:
        """Each row for every member."""
        every = [member.predictor.prepare(rows) for member in self.members]
        return [PreparedForAll(parts) for parts in zip(*every, strict=True)]

    def answers(self, batch: Sequence[PreparedForAll]) -> Answers:
        """Uncalibrated answers whose probabilities are the members' mean."""
        parts = []
        for place, member in enumerate(self.members):
            found = member.predictor.answers([row.parts[place] for row in batch])
            by = member.calibration
            parts.append(self.task.calibrated(found, by.temperature, by.smoothing))
        pooled = cast(PoolingTask, self.task).pooled(parts)
        vectors = [part.vectors for part in parts if part.vectors is not None]
        if len(vectors) < len(parts):
            return pooled
        whole = np.concatenate(vectors, axis=1) / np.sqrt(len(vectors))
        return Answers(pooled.columns, whole.astype(np.float32))

    def place(self, placement: Placement) -> bool:
        """Place the members' networks; whether there are any."""
        placed = [place_networks(member.predictor, placement) for member in self.members]
        return any(placed)

    def save(self, folder: Path) -> None:
        """Write ``model.json``, and each member into ``members/N``."""
        folder.mkdir(parents=True, exist_ok=True)
        for place, member in enumerate(self.members):
            member.predictor.save(folder / MEMBERS / str(place))
        described = [
            {"model": member.content, "calibration": member.calibration.to_json()}
            for member in self.members
        ]
        write_json(
            folder / DESCRIPTION,
            {"kind": self.kind, "task": task_to_json(self.task), MEMBERS: described},
        )
        places = (folder / MEMBERS / str(place) for place in range(len(self.members)))
        if bases := dict.fromkeys(base for place in places for base in bases_of(place)):
            write_json(folder / BASE, {"artifacts": [*bases]})

    @classmethod
    def load(cls, folder: Path, task: Task) -> Ensemble:
        """Read what :meth:`save` wrote; Corrupt where a member is missing."""
        described: Any = read_json_object(folder / DESCRIPTION).get(MEMBERS)
        try:
            members = [
                Member(
                    load_predictor(folder / MEMBERS / str(place)),
                    Calibration(**each["calibration"]),
                    str(each["model"]),
                )
                for place, each in enumerate(described)
            ]
            return cls(task, members)
        except (KeyError, TypeError, BadInput) as fault:
            raise Corrupt(f"the ensemble in {folder.name} cannot be read ({fault})") from fault
