"""The gate: what must hold before a version replaces another. Every condition, not most of them.

The candidate and the one it would replace answer the same rows, and their losses are compared in
pairs with one-sided bounds (``metrics.noninferiority``). Too few rows, or bounds too wide, is
"inconclusive", and that is no pass.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.errors import BadInput
from lmwright.core.predictor import Predictor
from lmwright.core.random import stream
from lmwright.core.stage import Settings
from lmwright.core.task import Loss, Measures, Task, asked_rows
from lmwright.data.corpus import row_keys
from lmwright.evals.predictions import (
    Predictions,
    answers_to,
    clusters_of,
    judge,
)
from lmwright.evals.scores import weighted_scores
from lmwright.evals.slices import memberships
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.intervals import bootstrap_draws
from lmwright.metrics.noninferiority import (
    FEWEST,
    Verdict,
    allowance,
    compare,
    compare_scores,
)

TIMED_ROWS = 16
TIMED_ROUNDS = 5
DRAWS = 2000
"""Resamples for the bounds of a score that is no mean of losses."""


@dataclass(frozen=True, kw_only=True)
class Slices(Settings):
    """Kinds of rows on which the candidate must not be worse.

    ``kinds`` are those of evals/slices.py: the task's strata (by default these alone), ``source``,
    ``group``, ``length``, ``negation``, ``contrast``, ``digit``. Slices of a kind with fewer than
    ``rows`` rows are judged together; what is left with too few rows for any bound is not judged.

    ``margin`` is in units of ``metric``, by default the task's bounded loss: in a slice of a
    hundred rows two mistakes made with certainty can outweigh all others in log-loss.
    """

    kinds: tuple[str, ...] = ()
    metric: str = ""
    margin: float = 0.1
    rows: int = 100


@dataclass(frozen=True, kw_only=True)
class Merging(Settings):
    """What may change when a candidate's adapters are merged into its weights.

    On ``rows`` of the fresh rows, with products in ``precision`` (that of what will serve the
    merged model), the mean divergence of its outputs' distributions is at most ``kl`` nats, and the
    share of equal greedy choices at least ``equal``.
    """

    kl: float = 0.001
    equal: float = 0.99
    precision: Literal["fp32", "bf16", "int8", "int4"] = "fp32"
    rows: int = 64


@dataclass(frozen=True, kw_only=True)
class Gate(Settings):
    """The conditions. ``fresh`` and ``kept`` name gate rows as ``ARTIFACT/FILE``.

    ``metric``    the loss or score that is compared, by default the task's bounded loss. Rows that
                  show a margin are the more the larger a loss can be
                  (``metrics.noninferiority.rows_needed``): 350 for 0.02 of a loss up to 2. A share
                  of rows (``recall.LABEL``) is judged on these rows; the bounds of any other
                  score, as macro-F1, are the bootstrap's, widened.
    ``claim``     what must be shown on the fresh rows: ``not inferior`` by more than ``margin``,
                  or ``superior``.
    ``alpha``     chance of passing a model that is worse by the margin. Each further use of the
                  same rows, fresh or kept, spends less of it (for kept rows: each comparison
                  with a version in service).
    ``kept``      earlier test sets that must not be forgotten by more than ``kept_margin``.
    ``slices``    kinds of fresh rows that must not be worse; null for none.
    ``audit``     what the audit's verdicts must be: all ``passed``, none failed (``not failed``),
                  or ``ignored``.
    ``baselines`` for a first version: no baseline may be shown to be better by ``metric`` (``not
                  shown worse``), it must be shown not inferior to each, or they are ``ignored``.
    ``min_coverage``   share of the fresh rows that must be answered, where a task abstains.
    ``max_slowdown``   of the median time for a batch, against the version to be replaced.
    ``max_megabytes``  of the model's files.
    ``merging``   what merging the candidate's adapters may change; null where nothing is merged.
    ``precision`` in which networks compute their products: best that of what will serve. A model
                  without one, as most baselines are, answers as ever.
    """

    metric: str = ""
    claim: Literal["not inferior", "superior"] = "not inferior"
    margin: float = 0.02
    alpha: float = 0.05
    fresh: str = "rows/gate"
    kept: tuple[str, ...] = ()
    kept_margin: float = 0.03
    slices: Slices | None = field(default_factory=Slices)
    audit: Literal["passed", "not failed", "ignored"] = "not failed"
    baselines: Literal["not inferior", "not shown worse", "ignored"] = "not shown worse"
    min_coverage: float = 0.1
    max_slowdown: float = 1.5
    max_megabytes: float = 500.0
    merging: Merging | None = None
    precision: Literal["fp32", "bf16", "int8", "int4"] = "fp32"

    def check(self) -> None:
        """BadInput for a number outside its range or rows that are not ARTIFACT/FILE."""
        for place in (self.fresh, *self.kept):
            if place.count("/") != 1:
                raise BadInput(f"gate rows are {place!r}", "ARTIFACT/FILE, as in rows/gate")
        if not 0 < self.alpha < 0.5:
            raise BadInput(f"gate.alpha is {self.alpha}", "a chance above 0 and below 0.5")
        if min(self.margin, self.kept_margin) < 0 or self.max_slowdown <= 0:
            raise BadInput("a margin of the gate is negative, or max_slowdown is not positive")
        if not 0 <= self.min_coverage <= 1:
            raise BadInput(f"gate.min_coverage is {self.min_coverage}", "a share from 0 to 1")
        if self.slices is not None and (self.slices.margin < 0 or self.slices.rows < 1):
            raise BadInput(
                f"gate.slices.margin {self.slices.margin}, rows {self.slices.rows}",
                "a margin from 0 and at least 1 row",
            )

        if self.merging is not None:
            asked = self.merging
            if not asked.kl >= 0 or not 0 <= asked.equal <= 1 or asked.rows < 1:
                raise BadInput(
                    f"gate.merging has kl {asked.kl}, equal {asked.equal}, rows {asked.rows}",
                    "kl of 0 or more, a share, at least 1 row",
                )

    def to_json(self) -> dict[str, Any]:
        """The settings by which a decision is known again. ``merging`` and ``precision`` are left
        out at their defaults, so that decisions of former versions stay known."""
        found, plain = asdict(self), {"merging": None, "precision": "fp32"}
        return {k: each for k, each in found.items() if k not in plain or each != plain[k]}

    def artifacts(self) -> tuple[str, ...]:
        """The artifacts that hold the gate's rows."""
        return tuple(dict.fromkeys(p.partition("/")[0] for p in (self.fresh, *self.kept)))


@dataclass(frozen=True)
class Judged:
    """A predictor with its calibration, the bytes of its files and the rows it learnt from.

    ``learnt`` are ids and keys of inputs (``data.corpus.row_keys``).
    """

    predictor: Predictor
    calibration: Calibration
    size: int
    learnt: frozenset[str]


@dataclass(frozen=True)
class Condition:
    """One condition: what was asked, whether it holds, and the numbers behind it."""

    name: str
    passed: bool
    reason: str
    evidence: dict[str, Any]


def run_gate(
    gate: Gate,
    task: Task,
    sets: Mapping[str, pa.Table],
    candidate: Judged,
    incumbent: Judged | None,
    used: Mapping[str, int],
    timed: bool = True,
    baselines: Mapping[str, Judged] | None = None,
) -> list[Condition]:
    """Judge every condition of ``gate`` on ``sets`` (place -> rows of the task).

    Rows that the candidate or the incumbent has learnt from judge nothing. ``used`` says how often
    the rows of each place served a gate before. ``timed`` is False where the incumbent is no
    version in service, so that its speed is no standard; then ``baselines`` are compared too.
    Without an incumbent nothing is compared with one.
    """
    both = [candidate] if incumbent is None else [candidate, incumbent]
    sets = {place: unlearnt(task, rows, *both) for place, rows in sets.items()}
    found = {
        place: [predictions(task, each, rows) for each in both]
        for place, rows in sets.items()
        if len(rows)
    }
    alphas = {place: allowance(gate.alpha, used[place]) for place in sets}
    alpha, fresh = alphas[gate.fresh], sets[gate.fresh]
    if not len(fresh):
        return [nothing_left(gate.fresh)]
    new, conditions = found[gate.fresh][0], []
    if incumbent is not None:
        old = found[gate.fresh][1]
        conditions.append(quality(gate, task, f"quality on {gate.fresh}", new, old, alpha))
        conditions += [
            kept(gate, task, f"not forgotten: {place}", found[place], alphas[place])
            if place in found
            else nothing_left(place)
            for place in gate.kept
        ]
        if gate.slices is not None:
            conditions += slices(gate.slices, task, new, old, alpha)
    if baselines and gate.baselines != "ignored":
        conditions += [
            against_baseline(gate, task, name, new, predictions(task, each, fresh), alpha)
            for name, each in baselines.items()
        ]
    if task.abstains_by:
        conditions.append(coverage(gate, new))
    if timed and incumbent is not None:
        conditions.append(speed(gate, task, candidate, incumbent, fresh))
    conditions.append(size(gate, candidate))
    if gate.merging is not None:
        conditions.append(merging(gate.merging, task, candidate, fresh))
    return conditions


def unlearnt(task: Task, rows: pa.Table, *judged: Judged) -> pa.Table:
    """Those of the rows that none of the models has learnt from."""
    learnt = frozenset[str]().union(*(each.learnt for each in judged))
    names = zip(rows.column("id").to_pylist(), row_keys(task, rows), strict=True)
    return rows.filter(pa.array([learnt.isdisjoint(name) for name in names], pa.bool_()))


def nothing_left(place: str) -> Condition:
    """The condition of rows all of which were learnt from."""
    reason = f"inconclusive: every row of {place} was learnt from by one of the two models"
    return Condition(f"rows of {place}", False, reason, {"rows": 0})


def quality(
    gate: Gate, task: Task, name: str, new: Predictions, old: Predictions, alpha: float
) -> Condition:
    """The primary claim on the fresh rows."""
    verdict = verdict_on(gate, task, new, old, gate.margin, alpha)
    if gate.claim == "not inferior" or not verdict.passes:
        return condition(name, verdict, verdict.passes, gate, task, new, old)
    passed = verdict.verdict == "superior"
    asked = verdict if passed else replace(verdict, reason=f"{verdict.reason}; superior is asked")
    return condition(name, asked, passed, gate, task, new, old)


def kept(gate: Gate, task: Task, name: str, both: Sequence[Predictions], alpha: float) -> Condition:
    """An earlier test set is not forgotten by more than its margin."""
    new, old = both
    verdict = verdict_on(gate, task, new, old, gate.kept_margin, alpha)
    return condition(name, verdict, verdict.passes, gate, task, new, old)


def against_baseline(
    gate: Gate, task: Task, baseline: str, new: Predictions, old: Predictions, alpha: float
) -> Condition:
    """No baseline is better: not shown to be, or shown not to be by more than the margin."""
    margin = gate.margin if gate.baselines == "not inferior" else 0.0
    verdict = verdict_on(gate, task, new, old, margin, alpha)
    passed = verdict.passes if gate.baselines == "not inferior" else verdict.verdict != "inferior"
    return condition(f"against {baseline}", verdict, passed, gate, task, new, old)


def slices(
    asked: Slices, task: Task, new: Predictions, old: Predictions, alpha: float
) -> list[Condition]:
    """Every slice of the kinds asked for is not worse by more than the margin."""
    metric = asked.metric or task.gate_loss
    conditions = []
    clusters = clusters_of(task, new.rows)
    for name, member in members(asked, task, new.rows).items():
        name = f"slice {name}"
        verdict = compare(
            new.loss(metric)[member],
            old.loss(metric)[member],
            asked.margin,
            alpha,
            new.largest(metric),
            old.largest(metric),
            None if clusters is None else clusters[member],
        )
        evidence = verdict.to_json() | {"metric": metric}
        conditions.append(Condition(name, verdict.passes, verdict.reason, evidence))
    return conditions


def members(asked: Slices, task: Task, rows: pa.Table) -> dict[str, np.ndarray]:
    """The slices asked for, each a bool (n,), but for those that are all rows.

    Those of a kind that have too few rows are one slice, which is left out if it is too small for
    any bound.
    """
    kinds = asked.kinds or ((task.strata,) if task.strata else ())
    every = memberships(task, rows)
    clusters = clusters_of(task, rows)
    known = {name.partition(":")[0] for name in every}
    for kind in kinds:
        if kind not in known:
            raise BadInput(f"gate.slices.kinds has {kind!r}", "one of " + ", ".join(sorted(known)))
    found: dict[str, np.ndarray] = {}
    for kind in kinds:
        own = {
            name: member
            for name, member in every.items()
            if name.partition(":")[0] == kind and not member.all()
        }
        few = [
            name
            for name, member in own.items()
            if member.sum() < asked.rows or units(member, clusters) < FEWEST
        ]
        found |= {name: member for name, member in own.items() if name not in few}
        together = np.any([own[name] for name in few], axis=0) if few else np.zeros(0, bool)
        if together.any() and units(together, clusters) >= FEWEST:
            shown = ", ".join(name.partition(": ")[2] for name in few[:4])
            more = f" and {len(few) - 4} more" if len(few) > 4 else ""
            found[f"{kind}: {shown}{more} together" if len(few) > 1 else few[0]] = together
    return found


def units(member: np.ndarray, clusters: np.ndarray | None) -> int:
    """How many independent rows, or clusters of them, a slice has."""
    return int(member.sum()) if clusters is None else len(np.unique(clusters[member]))


def lacking(fresh: int) -> str:
    """The lack of fresh rows without which no model could pass; empty if there are enough."""
    return f"{FEWEST - fresh} more rows ({fresh} of {FEWEST} are there)" if fresh < FEWEST else ""


def coverage(gate: Gate, new: Predictions) -> Condition:
    """Enough of the rows are answered."""
    share = float(1 - np.mean(new.answers["unsure"]))
    enough = share >= gate.min_coverage
    told = f"{share:.1%} of the rows are answered; at least {gate.min_coverage:.0%}"
    cure = "" if enough else ": raise evaluate.risk, or lower gate.min_coverage"
    return Condition("coverage", enough, told + cure, {"coverage": share})


def audited(gate: Gate, verdicts: Mapping[str, str]) -> Condition:
    """The audit's verdicts, by check."""
    bad = {
        "passed": [check for check, verdict in verdicts.items() if verdict != "passed"],
        "not failed": [check for check, verdict in verdicts.items() if verdict == "failed"],
        "ignored": [],
    }[gate.audit]
    told = ", ".join(f"{check} {verdicts[check]}" for check in bad)
    return Condition(
        "audit", not bad, told or f"{len(verdicts)} checks, {gate.audit}", {"verdicts": verdicts}
    )


def speed(
    gate: Gate, task: Task, candidate: Judged, incumbent: Judged, rows: pa.Table
) -> Condition:
    """Both answer the same rows in turns; the ratio of their median times."""
    timed = asked_rows(task, rows.slice(0, TIMED_ROWS))
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED_ROUNDS):
        for place, each in enumerate((candidate, incumbent)):
            began = time.perf_counter()
            each.predictor.answers(each.predictor.prepare(timed))
            seconds[place].append(time.perf_counter() - began)
    mine, its = (float(np.median(each[1:])) for each in seconds)
    ratio = mine / its
    return Condition(
        "speed",
        ratio <= gate.max_slowdown,
        f"{ratio:.2f} times the time of the one in service; at most {gate.max_slowdown:g}",
        {"seconds": mine, "incumbent_seconds": its, "ratio": ratio, "rows": len(timed)},
    )


def size(gate: Gate, candidate: Judged) -> Condition:
    """The model's files fit."""
    megabytes = candidate.size / 1e6
    return Condition(
        "size",
        megabytes <= gate.max_megabytes,
        f"{megabytes:.1f} MB; at most {gate.max_megabytes:g}",
        {"megabytes": megabytes},
    )


def merging(asked: Merging, task: Task, candidate: Judged, rows: pa.Table) -> Condition:
    """The candidate answers alike when its adapters are merged."""
    from lmwright.models.merging import cost_of_merging  # who only looks needs no torch
    from lmwright.models.text_model import TextPredictor

    predictor, cost = candidate.predictor, None
    if isinstance(predictor, TextPredictor):
        texts = [task.text(row) for row in rows.slice(0, asked.rows).to_pylist()]
        try:
            cost = cost_of_merging(predictor.model, texts, asked.precision)
        except BadInput as error:
            return Condition("merging", False, f"inconclusive: {error.found}", {})
    if cost is None:
        return Condition("merging", True, "the model has no adapters", {})
    if cost.kl_mean is None or cost.equal is None:
        reason = "inconclusive: its outputs are no distribution; take gate.merging out"
        return Condition("merging", False, reason, cost.to_json())
    passed = cost.kl_mean <= asked.kl and cost.equal >= asked.equal
    told = f"{cost}; at most {asked.kl:g} nats, at least {asked.equal:.0%}"
    return Condition("merging", passed, told, cost.to_json())


def predictions(task: Task, judged: Judged, rows: pa.Table) -> Predictions:
    """A model's calibrated answers to rows."""
    return judge(task, rows, answers_to(judged.predictor, task, rows), judged.calibration)


def verdict_on(
    gate: Gate, task: Task, new: Predictions, old: Predictions, margin: float, alpha: float
) -> Verdict:
    """The paired comparison on the gate's metric."""
    metric = gate.metric or task.gate_loss
    clusters = clusters_of(task, new.rows)
    mine, its = (losses_of(each.measures, metric) for each in (new, old))
    if mine is None or its is None or not np.array_equal(mine[1], its[1]):
        return verdict_on_score(metric, new, old, margin, alpha, clusters)
    (loss, among), (other, _) = mine, its
    groups = None if clusters is None else clusters[among]
    values, others = loss.values[among], other.values[among]
    return compare(values, others, margin, alpha, loss.largest, other.largest, groups)


def losses_of(measures: Measures, metric: str) -> tuple[Loss, np.ndarray] | None:
    """A measure as the mean of a loss of some rows, (n,) bool; None for one that is no such mean.

    Of a share it is the loss of the rows that are no hits.
    """
    if metric in measures.losses:
        loss = measures.losses[metric]
        return loss, np.ones(len(loss.values), bool)
    if metric in measures.shares:
        share = measures.shares[metric]
        return Loss(1.0 - share.hits, 1.0), share.among
    return None


def verdict_on_score(
    metric: str,
    new: Predictions,
    old: Predictions,
    margin: float,
    alpha: float,
    clusters: np.ndarray | None,
) -> Verdict:
    """The paired comparison of a score by the bootstrap over rows, or over clusters of them."""
    rows = len(new.rows)
    sign = 1 if metric in {*new.measures.losses, *new.measures.lower} else -1

    def harm(weights: np.ndarray) -> np.ndarray:
        scores = (weighted_scores(each.measures, weights, metric) for each in (new, old))
        mine, its = (each.get(metric, np.full(len(weights), np.nan)) for each in scores)
        return sign * (mine - its)

    drawn = bootstrap_draws(harm, rows, DRAWS, stream(0, "gate", metric), clusters)
    point = float(harm(np.ones((1, rows)))[0])
    return compare_scores(point, drawn, margin, alpha, rows, units(np.ones(rows, bool), clusters))


def condition(
    name: str,
    verdict: Verdict,
    passed: bool,
    gate: Gate,
    task: Task,
    new: Predictions,
    old: Predictions,
) -> Condition:
    """A verdict as a condition, with the mean losses of both beside it for people."""
    evidence = verdict.to_json() | {
        "metric": gate.metric or task.gate_loss,
        "losses": {
            each: [float(loss.values.mean()), float(old.measures.losses[each].values.mean())]
            for each, loss in new.measures.losses.items()
            if each in old.measures.losses
        },
    }
    return Condition(name, passed, f"{verdict.verdict}: {verdict.reason}", evidence)
