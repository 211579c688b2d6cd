"""The stage ``baselines``: what a model must beat, trained on the same rows and on all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmwright.baselines.majority import Majority
from lmwright.baselines.tfidf import Tfidf
from lmwright.core.errors import BadInput
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate
from lmwright.data.corpus import read_labels
from lmwright.data.sample import same_rows
from lmwright.evals.rows import read_split


@dataclass(frozen=True, kw_only=True)
class Baselines(Stage):
    """Train the majority and TF-IDF baselines on training rows.

    ``like`` names the model whose own list of rows says what "the same rows" are; empty, the
    limit ``rows`` draws them from the training split (0 is all). ``extra`` names artifacts whose
    training rows the model was trained on too.
    """

    like: str = "model"
    rows: int = 0
    extra: tuple[str, ...] = ()

    def needs(self) -> tuple[str, ...]:
        """The rows, the model that says which of them, and further rows."""
        return ("rows", *([self.like] if self.like else []), *self.extra)

    def gives(self) -> tuple[str, ...]:
        """``majority`` and ``tfidf`` on the same rows, ``tfidf_all`` on all."""
        return ("majority", "tfidf", "tfidf_all")

    def check(self) -> None:
        """BadInput where two settings say which rows."""
        if self.rows < 0 or (self.like and self.rows):
            raise BadInput(
                f"rows is {self.rows} and like is {self.like!r}",
                "one of them to say which rows are the same",
                'leave rows out, or set like to ""',
            )

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """Two fits on the training rows at most."""
        return WorkEstimate(fitted_rows=2 * known.rows("rows/train"), disk=20_000_000)

    def run(self, work: Work) -> dict[str, Any]:
        """Fit the three, save them, and say on how many rows and how strong."""
        labels = read_labels(work.inputs["rows"])
        every = self._all_rows(work)
        same = self._same_rows(work, every)
        work.progress(0, 3, "majority")
        Majority.fit(same.column("label").to_pylist(), labels).save(work.out("majority"))
        for name, rows in (("majority", same), ("tfidf", same), ("tfidf_all", every)):
            pq.write_table(rows.select(["id", "source"]), work.out(name) / "rows.parquet")
        work.progress(1, 3, "tfidf on the same rows")
        tfidf = self._fit(same, labels)
        tfidf.save(work.out("tfidf"))
        work.progress(2, 3, "tfidf on all rows")
        tfidf_all = tfidf if same.num_rows == every.num_rows else self._fit(every, labels)
        tfidf_all.save(work.out("tfidf_all"))
        work.progress(3, 3)
        return {
            "same_rows": same.num_rows,
            "all_rows": every.num_rows,
            "tfidf": {"strength": tfidf.strength, "terms": len(tfidf.terms)},
            "tfidf_all": {"strength": tfidf_all.strength, "terms": len(tfidf_all.terms)},
        }

    def _fit(self, rows: pa.Table, labels: tuple[str, ...]) -> Tfidf:
        texts, given = rows.column("text").to_pylist(), rows.column("label").to_pylist()
        return Tfidf.fit(texts, given, labels, self.seed)

    def _all_rows(self, work: Work) -> pa.Table:
        """The training split and the further rows, each id once, sorted."""
        tables = [read_split(work.inputs["rows"], "train")]
        tables += [read_split(work.inputs[name], "train") for name in self.extra]
        joined = pa.concat_tables(tables)
        seen: dict[str, int] = {}
        for place, row in enumerate(joined.column("id").to_pylist()):
            seen.setdefault(row, place)
        return joined.take(pa.array([seen[row] for row in sorted(seen)], type=pa.int64()))

    def _same_rows(self, work: Work, every: pa.Table) -> pa.Table:
        """Those of the rows that the model was trained on."""
        if not self.like:
            return same_rows(every, self.rows, self.seed)
        path = work.inputs[self.like] / "rows.parquet"
        if not path.is_file():
            raise BadInput(
                f"the model {self.like} does not list its rows",
                "rows.parquet in its folder",
                'set like to "" and rows to a limit',
            )
        wanted = set(pq.read_table(path, columns=["id"]).column("id").to_pylist())
        kept = [row in wanted for row in every.column("id").to_pylist()]
        if sum(kept) != len(wanted):
            raise BadInput(
                f"{len(wanted) - sum(kept)} rows of the model {self.like} are not among the rows",
                "a model trained on these rows",
                "name the artifacts with its further rows in extra",
            )
        return every.filter(pa.array(kept))
