"""The stage ``audit``: what a model should not do, measured, with a verdict for each check."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from lmwright.audit.card import data_card, model_card
from lmwright.audit.check import Check, Subject
from lmwright.audit.counterfactual import PAIRS
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_file
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate
from lmwright.data.corpus import read_labels, splits_of
from lmwright.evals.predictions import read_predictions
from lmwright.evals.rows import read_split
from lmwright.models.calibration import Calibration
from lmwright.models.model import load_model
from lmwright.tables import AUDITS, MODELS, module_of, resolve

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

    def reaches(self) -> tuple[str, ...]:
        """The checks' modules, and those of all kinds of models."""
        checks = {module_of("audits", name) for name in (*AUDITS, *self.checks)}
        return tuple(sorted(checks | {entry.partition(":")[0] for entry in MODELS.values()}))

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
        scores = json.loads((work.inputs["scores"] / "scores.json").read_bytes())
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
        found = read_predictions(scores, self.model, self.split)
        table = read_split(rows, self.split)
        scored = set(found.ids)
        kept = table.filter(pa.array([row in scored for row in table.column("id").to_pylist()]))
        if tuple(kept.column("id").to_pylist()) != found.ids:
            raise BadInput(
                f"the scores of {self.model} on {self.split} are of other rows",
                "scores and rows of one run",
            )
        listed, texts = self.training(work)
        return Subject(
            load_model(work.inputs[self.model]),
            Calibration.load(scores / self.model),
            read_labels(rows),
            kept,
            found,
            texts,
            listed,
            self.rows,
            self.draws,
            self.level,
            self.seed,
        )

    def training(self, work: Work) -> tuple[int, dict[str, str]]:
        """How many rows the model learnt from, and the texts of those that are at hand.

        A model that lists no rows is taken to have learnt from the whole training split.
        """
        tables = [read_split(work.inputs["rows"], "train")]
        for name in self.extra:
            folder = work.inputs[name]
            tables += [read_split(folder, split) for split in splits_of(folder)]
        texts = {
            row: text
            for table in tables
            for row, text in zip(
                table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True
            )
        }
        path = work.inputs[self.model] / "rows.parquet"
        if not path.is_file():
            return len(texts), texts
        ids = set(pq.read_table(path, columns=["id"]).column("id").to_pylist())
        return len(ids), {row: text for row, text in texts.items() if row in ids}


def headline(done: Mapping[str, Any]) -> str:
    """How many checks passed, failed and stay open, and which failed."""
    counts = Counter(entry["verdict"] for entry in done.values())
    told = [f"{counts[word]} {word}" for word in ("passed", "failed", "inconclusive")]
    failed = [name for name, entry in done.items() if entry["verdict"] == "failed"]
    return ", ".join(told) + (f" ({', '.join(failed)} failed)" if failed else "")
