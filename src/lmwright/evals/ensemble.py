"""The stage ``ensemble``: several models of a run as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lmwright.core.errors import BadInput
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate
from lmwright.data.corpus import read_task_of, task_modules
from lmwright.metrics.calibration import Calibration
from lmwright.models.ensemble import FEWEST, Ensemble, Member
from lmwright.models.load import load_predictor, modules_of

GIVEN = "ensemble"


@dataclass(frozen=True, kw_only=True)
class Combine(Stage):
    """Make one model of ``members``, artifacts with models that ``scores`` holds calibrations of.

    Its answers are the mean of the members' calibrated ones.
    """

    members: tuple[str, ...]

    def needs(self) -> tuple[str, ...]:
        """The rows, whose task it is for, the members and their calibrations."""
        return ("rows", "scores", *self.members)

    def gives(self) -> tuple[str, ...]:
        """One model."""
        return (GIVEN,)

    def asks(self) -> tuple[str, ...]:
        """The members' calibrations."""
        return tuple(f"scores/{name}" for name in self.members)

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, and the kinds of the members."""
        kinds = (module for name in self.members for module in modules_of(inputs[name]))
        return (*task_modules(inputs["rows"]), *kinds)

    @classmethod
    def origins(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The members."""
        return tuple(settings["members"])

    def check(self) -> None:
        """BadInput for too few members, or one that stands twice."""
        if len(self.members) < FEWEST or len(set(self.members)) < len(self.members):
            raise BadInput(f"members are {list(self.members)}", f"{FEWEST} or more, each once")

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The members, read and written again, as if each were of the training's size."""
        size = len(self.members) * known.model_bytes()
        return WorkEstimate(disk=size, further_bytes=size)

    def run(self, work: Work) -> dict[str, Any]:
        """Write the ensemble, and the rows that any of its members learnt from."""
        members = [
            Member(
                load_predictor(work.inputs[name]),
                Calibration.load(work.inputs["scores"] / name),
                work.inputs[name].name,
            )
            for name in self.members
        ]
        made = Ensemble(read_task_of(work.inputs["rows"]), members)
        out = work.out(GIVEN)
        made.save(out)
        learnt = [rows_of(work.inputs[name]) for name in self.members]
        rows = pa.concat_tables(learnt).group_by(["id", "source"]).aggregate([("key", "max")])
        rows = rows.rename_columns(["id", "source", "key"]).sort_by("id")
        pq.write_table(rows, out / "rows.parquet")
        kinds = {
            name: each.predictor.kind for name, each in zip(self.members, members, strict=True)
        }
        return {"members": kinds, "rows": rows.num_rows}


def rows_of(folder: Path) -> pa.Table:
    """The rows that a model lists: id, source, and key, "" where it lists none; empty if none."""
    text = pa.string()
    path = folder / "rows.parquet"
    if not path.is_file():
        return pa.table({name: pa.array([], text) for name in ("id", "source", "key")})
    table = pq.read_table(path)
    if "key" not in table.column_names:
        table = table.append_column("key", pa.array([""] * table.num_rows, text))
    columns = [pc.cast(table.column(name), text) for name in ("id", "source", "key")]
    return pa.table(columns, names=["id", "source", "key"])
