"""Distillation of sequences: the student learns the texts that the teacher writes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lmwright.core.errors import BadInput
from lmwright.train.distil import Distil, Lesson
from lmwright.train.documents import WRITTEN_COST
from lmwright.train.method import Method
from lmwright.train.task_model import WritingTaskModel

AT_ONCE = 32
"""Rows that the teacher writes together, and that a kill can lose."""
USUAL = 32
"""Tokens of an answer that nobody has seen yet, in a forecast."""


@dataclass(frozen=True, kw_only=True)
class Sequences(Distil):
    """The targets of the training rows are what the teacher writes for them (Kim and Rush 2016,
    section 3.2), decoded as the task says.

    An answer that is empty, or which the teacher did not end by itself, is not learnt. The teacher
    may have any vocabulary. The validation rows keep their own targets.
    """

    def reads(self, rows: float, length: float, epochs: int) -> float:
        """The prompts, once, and what is written."""
        return rows * (length + WRITTEN_COST * USUAL)

    def make(self, lesson: Lesson) -> Method:
        """The texts of one run."""
        if not isinstance(lesson.task_model, WritingTaskModel):
            raise BadInput(
                f"distil is sequences, and nothing is written for {lesson.task_model.task.kind}",
                "a task with texts as targets",
                "set distil to logits",
            )
        return WrittenTargets(lesson, lesson.task_model)


class WrittenTargets(Method):
    """Targets by a teacher, each kept in a file as soon as it is written."""

    def __init__(self, lesson: Lesson, task_model: WritingTaskModel) -> None:
        self.lesson, self.task_model = lesson, task_model
        self.path = lesson.work.scratch / "taught.jsonl"
        self.counts = {"written": 0, "unended": 0, "empty": 0}

    def taught(self, rows: pa.Table) -> pa.Table:
        """The rows that have a text of the teacher, with it in the place of their target."""
        column = str(getattr(self.lesson.task_model.task, "target_column", ""))
        known, given = self.kept(), rows.to_pylist()
        todo = [row for row in given if row["id"] not in known]
        for at in range(0, len(todo), AT_ONCE):
            part = todo[at : at + AT_ONCE]
            written = self.task_model.written_rows(self.lesson.teacher.model, part)
            found = {str(row["id"]): [str(row[column]), ended] for row, ended in written}
            self.keep(found)
            known |= found
            self.lesson.work.progress(len(known), len(given), "rows written by the teacher")
        places, texts = [], []
        for place, row in enumerate(given):
            text, ended = known[row["id"]]
            fault = "empty" if not text else "written" if ended else "unended"
            self.counts[fault] += 1
            if fault == "written":
                places.append(place)
                texts.append(text)
        if not places:
            raise BadInput(
                f"of {len(given)} rows the teacher {self.lesson.teacher.name} answered none to its "
                f"end ({self.counts['empty']} answers are empty)",
                "a teacher that writes answers and ends them",
                "raise decoding.max_new_tokens of the task, or tune the teacher first",
            )
        at = rows.column_names.index(column)
        field = rows.schema.field(column)
        return rows.take(places).set_column(at, field, pa.array(texts, field.type))

    def kept(self) -> dict[str, list[Any]]:
        """Row -> text and whether it was ended, of an earlier try."""
        found: dict[str, list[Any]] = {}
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    found |= json.loads(line)
                except ValueError:  # a last line that a kill cut off
                    continue
        return found

    def keep(self, found: dict[str, list[Any]]) -> None:
        """Append texts to the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            # A line break first: what a kill cut off is a line of its own.
            file.write("\n" + json.dumps(found))
            file.flush()
            os.fsync(file.fileno())

    def facts(self) -> dict[str, Any]:
        """How many answers were learnt, and how many not."""
        return {"taught": dict(self.counts)}
