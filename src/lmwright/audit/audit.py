"""The stage ``audit``: what a model should not do, measured, with a verdict for each check."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from lmwright.audit.card import data_card, model_card
from lmwright.audit.check import Check, Subject
from lmwright.audit.counterfactual import PAIRS
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_file
from lmwright.core.stage import Feedback, RowStatistics, Stage, Work, WorkEstimate
from lmwright.core.task import Task, refuse_measure
from lmwright.data.corpus import read_split, read_task_of, splits_of, task_modules
from lmwright.evals.predictions import judge_saved, read_predictions
from lmwright.metrics.calibration import Calibration
from lmwright.models.load import load_predictor, modules_of
from lmwright.old_format import scores_of
from lmwright.tables import module_of, resolve

READS = 2.5
"""How often the checks together read a text of those they may: counted on film reviews."""

READ_TOKENS = 256
"""The longest text of a usual model, where its tokens are to be predicted."""


@dataclass(frozen=True, kw_only=True)
class Audit(Stage):
    """Check a model that has been scored, and write its cards.

    ``checks`` are names of ``tables.AUDITS``; ``limits`` lays settings over theirs, as in
    ``{perturbation: {rate: 0.1}}``. ``split`` is one that the model was scored on. The model is
    asked about at most ``rows`` texts for each list or kind of change. ``extra`` names artifacts
    with further rows that the model learnt from. ``draws`` and ``level`` are the intervals'.
    """

    model: str = "model"
    checks: tuple[str, ...] = ("slices", "counterfactual", "perturbation", "personal")
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    split: str = "test"
    rows: int = 400
    extra: tuple[str, ...] = ()
    draws: int = 1000
    level: float = 0.95

    def needs(self) -> tuple[str, ...]:
        """The model, its scores, the rows, and the artifacts with further rows."""
        return (self.model, "scores", "rows", *self.extra)

    def gives(self) -> tuple[str, ...]:
        """``audit.json`` and the two cards."""
        return ("audit",)

    def asks(self) -> tuple[str, ...]:
        """The scores of the model on the split, and its rows."""
        return (f"scores/{self.model}", f"scores/{self.split}", f"rows/{self.split}")

    def reads(self) -> dict[str, str]:
        """The lists of pairs."""
        return {"pairs": hash_file(PAIRS)}

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The checks that are made, the task of the rows, and the kind of the model."""
        checks = (module_of("audits", name) for name in self.checks)
        return (*checks, *task_modules(inputs["rows"]), *modules_of(inputs[self.model]))

    @classmethod
    def retraining(cls, settings: Mapping[str, Any], feedback: Feedback) -> dict[str, Any]:
        """The model has learnt from the feedback too."""
        return {"extra": [*settings.get("extra", ()), feedback.artifact]}

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The texts that the model is asked about, original and changed."""
        place = f"rows/{self.split}"
        texts = min(known.rows(place), self.rows)
        return WorkEstimate(
            read_tokens=READS * texts * known.tokens(place, READ_TOKENS), disk=40_000
        )

    def check(self) -> None:
        """BadInput for settings outside their ranges, here or in a check."""
        if not self.checks or len(set(self.checks)) < len(self.checks):
            raise BadInput(f"checks are {list(self.checks)}", "at least one, each once")
        if stray := sorted(set(self.limits) - set(self.checks)):
            raise BadInput(f"limits for {', '.join(stray)}", "limits of the checks that are made")
        if self.rows < 1 or self.draws < 100 or not 0 < self.level < 1:
            raise BadInput(
                f"rows {self.rows}, draws {self.draws}, level {self.level}",
                "at least 1 row, at least 100 draws, a level between 0 and 1",
            )
        for name in self.checks:
            self.made(name)

    def check_task(self, task: Any) -> None:
        """BadInput for a loss of a check that the task has not, and a check that it cannot have."""
        for name in self.checks:
            made = self.made(name)
            made.check_task(task)
            loss = getattr(made, "loss", "")
            refuse_measure(task, loss, f"audit.limits.{name}.loss", True)

    def made(self, name: str) -> Check:
        """A check with its settings; BadInput says which of them is wrong."""
        kind = resolve("audits", name)
        try:
            made: Check = TypeAdapter(kind).validate_python(self.limits.get(name, {}))
        except ValidationError as fault:
            first = fault.errors()[0]
            place = ".".join(["limits", name, *map(str, first["loc"])])
            raise BadInput(f"{place}: {first['msg']}", "a setting of this check") from None
        made.check()
        return made

    def run(self, work: Work) -> dict[str, Any]:
        """Make every check and write verdicts and cards; the facts leave rows and texts out."""
        self.check()
        subject = self.subject(work)
        done = {}
        for number, name in enumerate(self.checks):

            def tell(read: int, note: str, number: int = number, name: str = name) -> None:
                work.progress(number, len(self.checks), f"{name}: {note}")

            subject.tell = tell
            tell(0, "")
            done[name] = self.made(name).judge(subject).to_json()
        work.progress(len(self.checks), len(self.checks))
        scores = scores_of(json.loads((work.inputs["scores"] / "scores.json").read_bytes()))
        folder, rows = work.inputs[self.model], work.inputs["rows"]
        out = work.out("audit")
        facts = {"model": self.model, "split": self.split, "headline": headline(done)}
        write_json(out / "audit.json", facts | {"level": self.level, "checks": done})
        write_json(out / "model-card.json", model_card(folder, scores, self.model, rows, done))
        write_json(out / "data-card.json", data_card(rows))
        told = {name: {key: e[key] for key in ("verdict", "reason")} for name, e in done.items()}
        return facts | {"checks": told, "tokens_read": subject.read}

    def subject(self, work: Work) -> Subject:
        """The model with the rows it was scored on and those it learnt from."""
        rows, scores = work.inputs["rows"], work.inputs["scores"]
        task, predictor = read_task_of(rows), load_predictor(work.inputs[self.model])
        if not predictor.task.comparable(task):
            raise BadInput(f"a model for {predictor.task}", f"one for the task of the rows: {task}")
        table = read_predictions(scores, self.model, self.split)
        found = judge_saved(task, read_split(rows, self.split), table)
        listed, texts = self.training(work, task)
        return Subject(
            task,
            predictor,
            Calibration.load(scores / self.model),
            found.rows,
            found,
            texts,
            listed,
            self.rows,
            self.draws,
            self.level,
            self.seed,
        )

    def training(self, work: Work, task: Task) -> tuple[int, dict[str, str]]:
        """How many rows the model learnt from, and the texts of those that are at hand.

        A model that lists no rows is taken to have learnt from the whole training split.
        """
        tables = [read_split(work.inputs["rows"], "train")]
        for name in self.extra:
            folder = work.inputs[name]
            tables += [read_split(folder, split) for split in splits_of(folder)]
        path = work.inputs[self.model] / "rows.parquet"
        listed: set[str] | None = None
        if path.is_file():
            listed = set(pq.read_table(path, columns=["id"]).column("id").to_pylist())
        texts = {
            row["id"]: task.text(row)
            for table in tables
            for row in table.to_pylist()
            if listed is None or row["id"] in listed
        }
        return (len(texts) if listed is None else len(listed)), texts


def headline(done: Mapping[str, Any]) -> str:
    """How many checks passed, failed and stay open, and which failed."""
    counts = Counter(entry["verdict"] for entry in done.values())
    told = [f"{counts[word]} {word}" for word in ("passed", "failed", "inconclusive")]
    failed = [name for name, entry in done.items() if entry["verdict"] == "failed"]
    return ", ".join(told) + (f" ({', '.join(failed)} failed)" if failed else "")
