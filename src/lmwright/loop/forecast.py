"""Forecasts: time, memory and disk of a recipe before it runs, and how right they were.

Each stage says how much work it is (``Stage.amounts``). A probe of a few seconds measures how
fast this machine does such work, on the recipe's own texts and model. What earlier forecasts
missed by corrects this one and sets its width.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmwright.core.assets import asset_file, is_asset
from lmwright.core.journal import read_journal
from lmwright.core.recipe import Recipe
from lmwright.core.stage import Amounts
from lmwright.data.corpus import read_rows
from lmwright.data.prepare import Data
from lmwright.data.sources import Row, read_source
from lmwright.models.encoder import Encoder, from_published
from lmwright.models.files.folder import read_folder
from lmwright.models.ragged import pack
from lmwright.models.spec import Head
from lmwright.models.tfidf import Tfidf
from lmwright.store.run import Planned, peak_memory
from lmwright.store.store import Store
from lmwright.train.finetune import Train
from lmwright.train.optim import adamw

COUNTED = 200_000
"""Rows of a source that are counted; a larger one is taken for that large at least."""

SAMPLE = 256
PROBED_ROWS = 400
STEPS = 4
WIDTH = (0.6, 1.0, 1.8)
"""Low, expected and high, as multiples, until there is a track record."""

ENOUGH = 3
PLAIN = Head(pool="mean", dense=True, dropout=0.0, outputs=2)


@dataclass(frozen=True)
class Rates:
    """What the probe measured: units of :class:`Amounts` a second, and the peak memory."""

    rows: float
    read_tokens: float
    train_tokens: float
    fitted_rows: float
    memory: int


class Sources:
    """What is known of a recipe's rows: from its result if there is one, else from its sources."""

    def __init__(self, recipe: Recipe, store: Store, planned: Sequence[Planned]) -> None:
        step = recipe.step("data")
        self.data = step.stage if step is not None and isinstance(step.stage, Data) else None
        self.folder = done_rows(store, planned)
        self.counts: dict[str, int] = {}
        self.texts: dict[str, list[str]] = {}
        seed = self.data.seed if self.data else 0
        for source in self.data.sources if self.data else ():
            rows = head(read_source(source, seed))
            self.counts[source.name] = len(rows)
            picked = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
            self.texts[source.name] = [row.text for row in picked]
        self.start = start_of(recipe)
        self.model = load_start(self.start)

    def rows(self, place: str) -> int:
        """The rows of ``ARTIFACT/FILE``."""
        name = place.partition("/")[2]
        if self.folder is not None and (self.folder / f"{name}.parquet").exists():
            return len(read_rows(self.folder / f"{name}.parquet").ids)
        if name.startswith("world-"):
            return self.counts.get(name.removeprefix("world-"), 0)
        share = getattr(self.data.fractions, name, 0.0) if self.data else 0.0
        return round(share * sum(self.counts[name] for name in self.learnt()))

    def tokens(self, place: str, most: int) -> float:
        """The mean tokens of a sample of its texts."""
        name = place.partition("/")[2].removeprefix("world-")
        texts = self.texts.get(name) or [t for each in self.learnt() for t in self.texts[each]]
        if not texts:
            return 0.0
        return float(np.mean([min(item.cost, most) for item in self.model.prepare(texts)]))

    def learnt(self) -> list[str]:
        """The sources to learn from."""
        return [s.name for s in self.data.sources if s.role == "train"] if self.data else []

    def source_rows(self) -> int:
        """The rows of all sources."""
        return sum(self.counts.values())

    def model_bytes(self) -> int:
        """The size of the model that training starts from."""
        return sum(4 * parameter.numel() for parameter in self.model.network.parameters())

    def sample(self) -> list[str]:
        """Some texts to learn from."""
        return [text for name in self.learnt() for text in self.texts[name]][:SAMPLE]


def forecast(recipe: Recipe, store: Store, planned: Sequence[Planned]) -> dict[str, Any]:
    """Stage -> seconds, memory and disk as [low, expected, high], for the stages still to be done.

    Memory is of the whole process, in bytes; disk is what stays and, apart, what goes again.
    """
    known = Sources(recipe, store, planned)
    rates = probe(known)
    record = track_record(store)
    todo = {row.step for row in planned if row.state != "done"}
    stages: dict[str, Any] = {}
    for step in recipe.steps:
        if step.name in todo:
            amounts = step.stage.amounts(known)
            stages[step.name] = foretell(step.kind, amounts, rates, record.get(step.kind, []))
    return stages


def foretell(
    kind: str, amounts: Amounts | None, rates: Rates, record: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """One stage's forecast. Without amounts, from what such stages took before; else nothing."""
    if amounts is None:
        took = [truth for _, truth in record]
        spread = [min(took), statistics.median(took), max(took)] if took else None
        return {"kind": kind, "seconds": spread, "memory": None, "disk": None, "scratch": None}
    expected = 1.0 + sum(
        getattr(amounts, unit) / getattr(rates, unit)
        for unit in ("rows", "read_tokens", "train_tokens", "fitted_rows")
    )
    factors = widths([truth / told for told, truth in record if told > 0])
    return {
        "kind": kind,
        "unadjusted": round(expected, 2),
        "seconds": [round(expected * factor, 1) for factor in factors],
        "memory": [round(rates.memory * factor) for factor in (0.8, 1.0, 1.5)],
        "disk": [round(amounts.disk * factor) for factor in (0.5, 1.0, 2.0)],
        "scratch": round(amounts.scratch),
    }


def widths(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Low, expected and high multiples from the ratios of truth to forecast seen so far."""
    if len(ratios) < ENOUGH:
        return WIDTH
    low, middle, high = np.quantile(np.log(ratios), [0.1, 0.5, 0.9])
    spare = 0.2  # a few past runs show less spread than the next one may have
    return float(np.exp(low - spare)), float(np.exp(middle)), float(np.exp(high + spare))


def track_record(store: Store) -> dict[str, list[tuple[float, float]]]:
    """Kind -> (foretold without adjustment, true seconds) over all runs of the store."""
    record: dict[str, list[tuple[float, float]]] = {}
    for name in store.runs():
        told: Mapping[str, Any] = {}
        for event in read_journal(store.folder / "runs" / name / "journal.jsonl"):
            if event["event"] == "forecast":
                told = event["stages"]
            if event["event"] == "stage ended" and event["step"] in told:
                entry = told[event["step"]]
                pair = (float(entry.get("unadjusted") or 0.0), float(event["seconds"]))
                record.setdefault(entry["kind"], []).append(pair)
    return record


def probe(known: Sources) -> Rates:
    """Measure this machine for a few seconds on the recipe's own texts and model."""
    texts = known.sample()
    prepared = known.model.prepare(texts)
    return Rates(
        rows=row_rate(known),
        read_tokens=read_rate(known.model, prepared),
        train_tokens=train_rate(known.model, prepared),
        fitted_rows=fit_rate(texts),
        memory=peak_memory(),
    )


def row_rate(known: Sources) -> float:
    """Rows a second of the data stage itself, on some rows of each source."""
    if known.data is None:
        return 1000.0
    limited = tuple(replace(source, limit=PROBED_ROWS) for source in known.data.sources)
    stage = replace(known.data, sources=limited, suspect_rows=0)
    folder = Path(tempfile.mkdtemp())
    began = time.perf_counter()
    try:
        stage.run(ProbeWork(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - began
    # Reading a file is most of it where few of its rows are taken, so this errs on the slow side.
    return known.source_rows() / seconds / max(1.0, known.source_rows() / 8000)


def read_rate(model: Encoder, prepared: Sequence[Any]) -> float:
    """Tokens a second that the model reads."""
    model.logits(prepared[:16])
    began = time.perf_counter()
    model.logits(prepared)
    return sum(item.cost for item in prepared) / (time.perf_counter() - began)


def train_rate(model: Encoder, prepared: Sequence[Any]) -> float:
    """Tokens a second of whole training steps (without dropout, which costs a few per cent)."""
    optimizer = adamw(model.network, 0.01)
    seconds: list[float] = []
    tokens = 0
    for step in range(STEPS + 1):
        batch = [item.ids for item in prepared[step * 16 : (step + 1) * 16]] or [prepared[0].ids]
        began = time.perf_counter()
        loss = torch.logsumexp(model.network(pack(batch)), dim=-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step:
            seconds.append(time.perf_counter() - began)
            tokens += sum(len(ids) for ids in batch)
    return tokens / sum(seconds)


def fit_rate(texts: Sequence[str]) -> float:
    """Rows a second of the TF-IDF baseline; the labels do not matter for the time."""
    began = time.perf_counter()
    Tfidf.fit(list(texts), ["a" if k % 2 else "b" for k in range(len(texts))], ("a", "b"), 0)
    return len(texts) / (time.perf_counter() - began)


class ProbeWork:
    """A work for the probe: folders that go again, and nothing shown."""

    def __init__(self, folder: Path) -> None:
        self.inputs: Mapping[str, Path] = {}
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.folder = folder

    def out(self, artifact: str) -> Path:
        """A folder for an artifact."""
        path = self.folder / artifact
        path.mkdir(exist_ok=True)
        return path

    def record(self, event: str, **facts: Any) -> None:
        """Nothing is kept."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Nothing is shown."""

    def measured(self, **facts: Any) -> None:
        """Nothing is kept."""


def head(rows: Any) -> list[Row]:
    """The rows of a stream up to ``COUNTED``, faults left out."""
    found: list[Row] = []
    for row in rows:
        if isinstance(row, Row):
            found.append(row)
        if len(found) >= COUNTED:
            break
    return found


def done_rows(store: Store, planned: Sequence[Planned]) -> Path | None:
    """The rows artifact, if the data stage has been done."""
    for row in planned:
        if row.kind == "data" and row.stamp is not None:
            result = store.result(row.stamp)
            if result is not None and "rows" in result.outputs:
                return store.artifact(result.outputs["rows"])
    return None


def start_of(recipe: Recipe) -> str:
    """The published model that the recipe starts from."""
    step = recipe.step("train")
    return step.stage.start if step is not None and isinstance(step.stage, Train) else Train.start


def load_start(start: str) -> Encoder:
    """That model with a fresh head, for the probe."""
    folder = asset_file(start) if is_asset(start) else Path(start)
    return from_published(read_folder(folder), ("a", "b"), PLAIN, 256, 0)


def totals(stages: Mapping[str, Any]) -> dict[str, Any]:
    """The sums over stages: seconds and disk add up, memory is the largest."""
    seconds = [entry["seconds"] for entry in stages.values() if entry["seconds"]]
    disk = [entry["disk"] for entry in stages.values() if entry["disk"]]
    memory = [entry["memory"] for entry in stages.values() if entry["memory"]]
    return {
        "seconds": [sum(column) for column in zip(*seconds, strict=True)] or None,
        "disk": [sum(column) for column in zip(*disk, strict=True)] or None,
        "memory": [max(column) for column in zip(*memory, strict=True)] or None,
        "scratch": max((entry["scratch"] or 0 for entry in stages.values()), default=0),
        "unknown": [name for name, entry in stages.items() if not entry["seconds"]],
    }
