"""The gate: what must hold before a version replaces another. Every condition, not most of them.

The candidate and the one it would replace answer the same rows, and their losses are compared in
pairs with one-sided bounds (``metrics.noninferiority``). Too few rows, or bounds too wide, is
"inconclusive", and that is no pass.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.core.stage import Settings
from lmwright.evals.evaluate import LARGEST, row_losses
from lmwright.evals.predictions import Predictions, judge, predict_logits
from lmwright.evals.slices import memberships
from lmwright.metrics.noninferiority import FEWEST, Verdict, allowance, compare
from lmwright.models.calibration import Calibration
from lmwright.models.model import Model

Metric = Literal["log_loss", "brier", "accuracy"]

TIMED_TEXTS = 16
TIMED_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Slices(Settings):
    """Kinds of rows on which the candidate must not be worse.

    ``kinds`` are ``label``, ``source``, ``length``, ``negation``, ``contrast``, ``digit``; a slice
    with fewer than ``rows`` rows cannot be judged, and that is no pass. Every label is a slice,
    also one of which there is no row.

    ``margin`` is in units of ``metric``, which is bounded by default: in a slice of a hundred rows
    two mistakes made with certainty can outweigh all others in log-loss. A row that turns from
    right to wrong with certainty costs 2 in ``brier``, so 0.1 is five rows in a hundred.
    """

    kinds: tuple[Literal["label", "source", "length", "negation", "contrast", "digit"], ...] = (
        "label",
    )
    metric: Metric = "brier"
    margin: float = 0.1
    rows: int = 100


@dataclass(frozen=True, kw_only=True)
class Gate(Settings):
    """The conditions. ``fresh`` and ``kept`` name gate rows as ``ARTIFACT/FILE``.

    ``metric``    the loss that is compared: log_loss and brier are proper scores with more power
                  than accuracy.
    ``claim``     what must be shown on the fresh rows: ``not inferior`` by more than ``margin``,
                  or ``superior``.
    ``alpha``     chance of passing a model that is worse by the margin. Each further use of the
                  same rows, fresh or kept, spends less of it (for kept rows: each comparison
                  with a version in service).
    ``kept``      old test_sets that must not be forgotten by more than ``kept_margin``.
    ``slices``    kinds of fresh rows that must not be worse; null for none.
    ``max_slowdown``   of the median time for a batch, against the version to be replaced.
    ``max_megabytes``  of the model's files.
    """

    metric: Metric = "log_loss"
    claim: Literal["not inferior", "superior"] = "not inferior"
    margin: float = 0.02
    alpha: float = 0.05
    fresh: str = "rows/gate"
    kept: tuple[str, ...] = ()
    kept_margin: float = 0.03
    slices: Slices | None = field(default_factory=Slices)
    max_slowdown: float = 1.5
    max_megabytes: float = 500.0

    def check(self) -> None:
        """BadInput for a number outside its range or rows that are not ARTIFACT/FILE."""
        for place in (self.fresh, *self.kept):
            if place.count("/") != 1:
                raise BadInput(f"gate rows are {place!r}", "ARTIFACT/FILE, as in rows/gate")
        if not 0 < self.alpha < 0.5:
            raise BadInput(f"gate.alpha is {self.alpha}", "a chance above 0 and below 0.5")
        if min(self.margin, self.kept_margin) < 0 or self.max_slowdown <= 0:
            raise BadInput("a margin of the gate is negative, or max_slowdown is not positive")
        if self.slices is not None and (self.slices.margin < 0 or self.slices.rows < 1):
            raise BadInput(
                f"gate.slices.margin {self.slices.margin}, rows {self.slices.rows}",
                "a margin from 0 and at least 1 row",
            )

    def artifacts(self) -> tuple[str, ...]:
        """The artifacts that hold the gate's rows."""
        return tuple(dict.fromkeys(p.partition("/")[0] for p in (self.fresh, *self.kept)))


@dataclass(frozen=True)
class Candidate:
    """A model with its calibration and the bytes of its files."""

    model: Model
    calibration: Calibration
    size: int


@dataclass(frozen=True)
class Condition:
    """One condition: what was asked, whether it holds, and the numbers behind it."""

    name: str
    passed: bool
    reason: str
    evidence: dict[str, Any]


def run_gate(
    gate: Gate,
    sets: Mapping[str, pa.Table],
    labels: Sequence[str],
    candidate: Candidate,
    incumbent: Candidate,
    used: Mapping[str, int],
    seed: int,
    timed: bool = True,
) -> list[Condition]:
    """Judge every condition of ``gate`` on ``sets`` (place -> rows with id, text, label, source).

    ``used`` says how often the rows of each place served a gate before. ``timed`` is False where
    the incumbent is no version in service, so that its speed is no standard.
    """
    found = {
        place: (predictions(candidate, rows, labels), predictions(incumbent, rows, labels))
        for place, rows in sets.items()
    }
    alphas = {place: allowance(gate.alpha, used[place]) for place in sets}
    alpha = alphas[gate.fresh]
    conditions = [quality(gate, "quality on " + gate.fresh, *found[gate.fresh], alpha, seed)]
    conditions += [
        kept(gate, f"not forgotten: {place}", *found[place], alphas[place], seed)
        for place in gate.kept
    ]
    if gate.slices is not None:
        rows = sets[gate.fresh]
        conditions += slices(gate.slices, rows, labels, *found[gate.fresh], alpha, seed)
    if timed:
        conditions.append(speed(gate, candidate, incumbent, sets[gate.fresh]))
    conditions.append(size(gate, candidate))
    return conditions


def quality(
    gate: Gate, name: str, new: Predictions, old: Predictions, alpha: float, seed: int
) -> Condition:
    """The primary claim on the fresh rows."""
    verdict = verdict_on(gate, new, old, gate.margin, alpha, seed, name)
    wanted = {"superior"} if gate.claim == "superior" else {"superior", "not inferior"}
    return condition(name, verdict, verdict.verdict in wanted, gate, new, old)


def kept(
    gate: Gate, name: str, new: Predictions, old: Predictions, alpha: float, seed: int
) -> Condition:
    """An earlier test set is not forgotten by more than its margin."""
    verdict = verdict_on(gate, new, old, gate.kept_margin, alpha, seed, name)
    return condition(name, verdict, verdict.passes, gate, new, old)


def slices(
    asked: Slices,
    rows: pa.Table,
    labels: Sequence[str],
    new: Predictions,
    old: Predictions,
    alpha: float,
    seed: int,
) -> list[Condition]:
    """Every slice of the kinds asked for: large enough, and not worse by more than the margin."""
    conditions = []
    for name, member in members(asked, rows, labels).items():
        name = f"slice {name}"
        verdict = compare(
            row_losses(new, asked.metric)[member],
            row_losses(old, asked.metric)[member],
            asked.margin,
            alpha,
            stream(seed, "gate", name),
            fewest=asked.rows,
            largest=LARGEST[asked.metric],
        )
        evidence = verdict.to_json() | {"metric": asked.metric}
        conditions.append(Condition(name, verdict.passes, verdict.reason, evidence))
    return conditions


def members(asked: Slices, rows: pa.Table, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """The slices asked for, each a bool (n,): those that are not all rows, and every label."""
    found = {
        name: member
        for name, member in memberships(rows).items()
        if name.partition(":")[0] in asked.kinds and not member.all()
    }
    if "label" in asked.kinds:
        given = np.array(rows.column("label").to_pylist(), dtype=object)
        found |= {f"label: {name}": given == name for name in labels}
    return found


def lacking(gate: Gate, rows: pa.Table, labels: Sequence[str]) -> str:
    """What fresh rows are too few for, so that no model could pass; empty if nothing.

    ``rows`` need text, label and source.
    """
    if rows.num_rows < FEWEST:
        return f"{rows.num_rows} of {FEWEST} rows"
    if gate.slices is not None:
        for name, member in members(gate.slices, rows, labels).items():
            if member.sum() < gate.slices.rows:
                return f"{member.sum()} of {gate.slices.rows} rows of the slice {name}"
    return ""


def speed(gate: Gate, candidate: Candidate, incumbent: Candidate, rows: pa.Table) -> Condition:
    """Both answer the same texts in turns; the ratio of their median times."""
    texts = rows.column("text").to_pylist()[:TIMED_TEXTS]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED_ROUNDS):
        for place, each in enumerate((candidate, incumbent)):
            began = time.perf_counter()
            each.model.logits(each.model.prepare(texts))
            seconds[place].append(time.perf_counter() - began)
    mine, its = (float(np.median(each[1:])) for each in seconds)
    ratio = mine / its
    return Condition(
        "speed",
        ratio <= gate.max_slowdown,
        f"{ratio:.2f} times the time of the one in service; at most {gate.max_slowdown:g}",
        {"seconds": mine, "incumbent_seconds": its, "ratio": ratio, "texts": len(texts)},
    )


def size(gate: Gate, candidate: Candidate) -> Condition:
    """The model's files fit."""
    megabytes = candidate.size / 1e6
    return Condition(
        "size",
        megabytes <= gate.max_megabytes,
        f"{megabytes:.1f} MB; at most {gate.max_megabytes:g}",
        {"megabytes": megabytes},
    )


def predictions(candidate: Candidate, rows: pa.Table, labels: Sequence[str]) -> Predictions:
    """Predictions of a model of rows."""
    texts = rows.column("text").to_pylist()
    logits = predict_logits(candidate.model, texts, labels)
    return judge(rows, tuple(labels), logits, candidate.calibration)


def verdict_on(
    gate: Gate,
    new: Predictions,
    old: Predictions,
    margin: float,
    alpha: float,
    seed: int,
    name: str,
) -> Verdict:
    """The paired comparison on the gate's metric."""
    return compare(
        row_losses(new, gate.metric),
        row_losses(old, gate.metric),
        margin,
        alpha,
        stream(seed, "gate", name),
        largest=LARGEST[gate.metric],
    )


def condition(
    name: str, verdict: Verdict, passed: bool, gate: Gate, new: Predictions, old: Predictions
) -> Condition:
    """A verdict as a condition, with the accuracy of both beside it for people."""
    evidence = verdict.to_json() | {
        "metric": gate.metric,
        "accuracy": float((new.chosen == new.truth).mean()),
        "incumbent_accuracy": float((old.chosen == old.truth).mean()),
    }
    return Condition(name, passed, f"{verdict.verdict}: {verdict.reason}", evidence)
