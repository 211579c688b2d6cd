"""The stage ``index``: the texts of a column as a collection that can be searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput, nearest
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate
from lmwright.core.task import Task, role_columns
from lmwright.data.corpus import read_split, read_task_of, splits_of, task_modules
from lmwright.models.answering import cost_of
from lmwright.models.core.device import Device, Precision, describe_placement, resolve_placement
from lmwright.models.load import load_predictor, modules_of
from lmwright.models.placement import refuse_unplaced
from lmwright.models.text_model import TextPredictor
from lmwright.rag.searcher import Searcher, cleaner_of

GIVEN = "index"


@dataclass(frozen=True, kw_only=True)
class Index(Stage):
    """Index the texts of one column of the rows, each different text once.

    ``column`` is a column of texts, by default the last one among the task's inputs. ``splits`` are
    files of the rows artifact, by default all. ``model`` names the artifact of an encoder, whose
    vectors are searched beside the words ("": words alone). ``keep`` are columns that stand beside
    each text, for filters and to tell where it is from: those of the first row that has it.
    ``device`` (auto: a CUDA device if there is one) and ``precision`` (auto: bf16 on a CUDA device
    that multiplies in it, else fp32) are those of the encoder while it reads them.
    """

    column: str = ""
    splits: tuple[str, ...] = ()
    model: str = ""
    keep: tuple[str, ...] = ("source", "licence")
    device: Device = "auto"
    precision: Precision = "auto"

    def resolved(self) -> dict[str, Any]:
        """The device and the precision, where there is an encoder."""
        return resolve_placement(self.device, self.precision).to_json() if self.model else {}

    def foresee(self, inputs: Mapping[str, Path]) -> None:
        """BadInput for a device that is not here, and where no encoder is asked for one."""
        resolve_placement(self.device, self.precision)
        if not self.model:
            refuse_unplaced(self.device, self.precision, "an index of words")

    def needs(self) -> tuple[str, ...]:
        """The rows, and the encoder if there is one."""
        return ("rows", *filter(None, (self.model,)))

    def gives(self) -> tuple[str, ...]:
        """One index."""
        return (GIVEN,)

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, and the kind of the encoder."""
        kinds = modules_of(inputs[self.model]) if self.model else ()
        return (*task_modules(inputs["rows"]), *kinds)

    @classmethod
    def origins(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The encoder."""
        return tuple(filter(None, (settings["model"],)))

    def check_task(self, task: Task) -> None:
        """BadInput for a column that is none of the task's texts."""
        text_column(task, self.column)

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The tokens of all texts, read once by the encoder, and a vector each."""
        names = self.splits or ("train", "validation", "calibration", "gate", "test")
        places = [f"rows/{split}" for split in names]
        rows = sum(known.rows(place) for place in places)
        tokens = sum(known.rows(place) * known.tokens(place, 256) for place in places)
        return WorkEstimate(read_tokens=tokens if self.model else 0, disk=4000 * rows)

    def run(self, work: Work) -> dict[str, Any]:
        """Read the texts, embed them, and write the index."""
        folder = work.inputs["rows"]
        task = read_task_of(folder)
        column = text_column(task, self.column)
        encoder, content = None, ""
        if self.model:
            found = load_predictor(work.inputs[self.model])
            if not isinstance(found, TextPredictor) or found.model.network.two_streams:
                raise BadInput(
                    f"{self.model} is a {found.kind} model", "a text model that gives vectors"
                )
            found.place(placement := resolve_placement(self.device, self.precision))
            work.record("placed", **describe_placement(placement))
            if cost := cost_of(found, placement):
                work.record("parity", model=self.model, **cost.to_json())
            encoder, content = found, work.inputs[self.model].name
        searcher = Searcher(task, encoder, content)
        texts: dict[str, str] = {}
        columns: list[dict[str, Any]] = []
        for row in self.rows(folder):
            text = cleaner_of(task)(str(row[column]))
            if text.strip() and text not in texts:
                texts[text] = str(row["id"])
                columns.append({name: row[name] for name in self.keep})
        if not texts:
            raise BadInput(f"no texts in {column}", "one text at least")
        searcher.add(list(texts.values()), list(texts), columns, work.progress)
        searcher.save(work.out(GIVEN))
        return {"texts": len(texts), "column": column, "vectors": bool(encoder)}

    def rows(self, folder: Path) -> Iterator[dict[str, Any]]:
        """The rows of all splits; BadInput for a column to keep that they have not."""
        for split in self.splits or splits_of(folder):
            table = read_split(folder, split)
            if missing := [name for name in self.keep if name not in table.column_names]:
                raise BadInput(
                    f"keep names {missing[0]!r}",
                    f"columns of the rows: {', '.join(table.column_names)}",
                    nearest(missing[0], table.column_names),
                )
            yield from table.to_pylist()


def text_column(task: Task, name: str) -> str:
    """The column whose texts are indexed; BadInput where there is none of the name."""
    texts = [each.name for each in role_columns(task, "input", "target") if each.type == "text"]
    inputs = [each.name for each in role_columns(task, "input") if each.type == "text"]
    if name and name not in texts:
        raise BadInput(f"index.column is {name!r}", ", ".join(texts), nearest(name, texts))
    if not inputs:
        raise BadInput(f"rows for {task.kind}, which have no column of texts", "a column of texts")
    return name or inputs[-1]
