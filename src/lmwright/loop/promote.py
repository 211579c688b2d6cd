"""The stage ``promote``: a model becomes a version, and the gate decides what an alias names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmwright.core.bases import with_bases
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Refused
from lmwright.core.hashing import hash_json
from lmwright.core.recipe import Recipe
from lmwright.core.stage import Feedback, RowStatistics, Stage, Use, Work, WorkEstimate
from lmwright.core.task import NamedMeasures, refuse_measure, task_to_json
from lmwright.data.corpus import read_split, read_task_of, task_modules
from lmwright.evals.baselines import baseline_names
from lmwright.loop.detect import refuse_other_model
from lmwright.loop.gate import Condition, Gate, Judged, audited, run_gate
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.noninferiority import FEWEST, allowance, rows_needed
from lmwright.models.load import load_predictor, modules_of
from lmwright.old_format import evidence_of
from lmwright.store.store import Store
from lmwright.store.versions import (
    ALIAS,
    Moved,
    current,
    move,
    read_version,
    refuse_withdrawn,
)

Record = Callable[..., None]

AUDIT = "audit"
"""The artifact whose verdicts the gate asks for."""
SAMPLED = 128
"""Rows of each place that a decision names, so that a later gate knows them again."""
SHORT = 12
"""Characters of a row's id that tell it from all others here."""


@dataclass(frozen=True, kw_only=True)
class Promote(Stage):
    """Bind ``model`` and its calibration into a version, and put it behind ``NAME@alias``.

    While nothing is behind the alias, the candidate must be superior to ``baseline``, by default
    the weakest of the recipe's ``task``; from then on the gate compares it with the version in
    place. ``detectors`` will watch its traffic. The verdicts of the artifact ``audit``, where the
    recipe has one, are a condition of the gate.
    """

    task: Any = None

    model: str = "model"
    detectors: str | None = "detectors"
    alias: str = "production"
    baseline: str = ""
    gate: Gate = field(default_factory=Gate)

    def needs(self) -> tuple[str, ...]:
        """Model, scores, rows, the baseline, and whatever holds the gate's rows."""
        rival = (self.rival,) if self.rival else ()
        return tuple(dict.fromkeys((*self.bound(), *rival, *self.gate.artifacts())))

    def wants(self) -> tuple[str, ...]:
        """The audit and the other baselines, where earlier stages give them."""
        return (AUDIT, *baseline_names(self.task))

    @property
    def rival(self) -> str:
        """The baseline that a first version must be superior to."""
        return self.baseline or next(iter(self.task.baselines), "")

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The kind of the model and the task of the rows."""
        return (*task_modules(inputs["rows"]), *modules_of(inputs[self.model]))

    def bound(self) -> tuple[str, ...]:
        """The artifacts that a version is made of."""
        watched = (self.detectors,) if self.detectors else ()
        return (self.model, "scores", "rows", *watched)

    def gives(self) -> tuple[str, ...]:
        """The version."""
        return ("version",)

    def asks(self) -> tuple[str, ...]:
        """The model's calibration, the detectors for it, and the gate's rows."""
        watched = (f"{self.detectors}/{self.model}",) if self.detectors else ()
        return (f"scores/{self.model}", *watched, self.gate.fresh, *self.gate.kept)

    @classmethod
    def retraining(cls, settings: Mapping[str, Any], feedback: Feedback) -> dict[str, Any]:
        """Judge by the fresh feedback, and ask that nothing is forgotten: the recipe's own gate
        rows, what that gate kept, and what earlier gates judged by."""
        gate = settings.get("gate") or {}
        kept = (gate.get("fresh", Gate.fresh), *gate.get("kept", ()), *feedback.past)
        judged = {"fresh": feedback.fresh, "kept": list(dict.fromkeys(kept))}
        return {"alias": feedback.alias.partition("@")[2], "gate": judged}

    @classmethod
    def uses(cls, settings: Mapping[str, Any], place: str) -> tuple[Use, ...]:
        """Versions are gated by the fresh rows and those that must not be forgotten."""
        gate = settings["gate"]
        return (Use("gated", "version"),) if place in (gate["fresh"], *gate["kept"]) else ()

    def check(self) -> None:
        """The alias's form, and the gate's own checks."""
        if not ALIAS.fullmatch(f"name@{self.alias}"):
            raise BadInput(
                f"promote.alias is {self.alias!r}", "lower-case letters, digits, - and _"
            )
        self.gate.check()

    def check_task(self, task: Any) -> None:
        """BadInput for a measure of the gate that the task has not."""
        refuse_measure(task, self.gate.metric, "promote.gate.metric")
        if self.gate.slices is not None:
            refuse_measure(task, self.gate.slices.metric, "promote.gate.slices.metric", True)

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The gate's rows, read by the candidate and by the incumbent."""
        places = (self.gate.fresh, *self.gate.kept)
        tokens = sum(known.rows(place) * known.tokens(place, 256) for place in places)
        return WorkEstimate(read_tokens=2 * tokens, disk=1000)

    def doubts(self, known: RowStatistics) -> tuple[str, ...]:
        """Rows so few that the gate can pass no model, or none that is merely as good."""
        found = []
        metric = self.gate.metric or self.task.gate_loss
        names = self.task.loss_names if isinstance(self.task, NamedMeasures) else {}
        largest = names.get(metric, math.nan)
        alpha = allowance(self.gate.alpha, 0)
        places = {self.gate.fresh: self.gate.margin} if self.gate.claim == "not inferior" else {}
        places |= dict.fromkeys(self.gate.kept, self.gate.kept_margin)
        for place in (self.gate.fresh, *self.gate.kept):
            rows = known.rows(place)
            if not rows:  # not known beforehand
                continue
            if rows < FEWEST:
                found.append(f"{rows} rows of {place}: the gate can pass no model, of so few rows")
                continue
            margin = places.get(place, 0.0)
            needed = rows_needed(margin, largest, alpha) if margin and largest > 0 else 0
            if rows < needed:
                found.append(
                    f"{rows} rows of {place}: once a version is in service, one as good as it "
                    f"cannot pass, only a better one: that it is worse by less than {margin:g} of "
                    f"{metric} takes {needed:g} rows to show"
                )
        return tuple(found)

    def run(self, work: Work) -> dict[str, Any]:
        """Write ``version.json``: the model by its content, its calibration and its labels."""
        calibration = Calibration.load(work.inputs["scores"] / self.model)
        predictor = load_predictor(work.inputs[self.model])
        content = work.inputs[self.model].name
        if self.detectors:
            refuse_other_model(work.inputs[self.detectors], content)
        version = {
            "model": content,
            "name": self.model,
            "kind": predictor.kind,
            "task": task_to_json(predictor.task),
            "calibration": calibration.to_json(),
            "artifacts": {name: work.inputs[name].name for name in self.bound()},
        }
        write_json(work.out("version") / "version.json", version)
        return {"model": content, "kind": predictor.kind}

    def act(
        self,
        recipe: Recipe,
        artifacts: Mapping[str, str],
        store: Store,
        record: Record,
        author: str = "",
    ) -> dict[str, Any]:
        """Let the gate decide and log its decision, once for each candidate and incumbent."""
        alias = f"{recipe.name}@{self.alias}"
        version = artifacts["version"]
        now = current(store, alias)
        if now is not None and now.hash == version:
            return {"decision": "in place", "alias": alias, "version": version}
        incumbent = now.hash if now else artifacts.get(self.rival, "")
        basis = self.basis(artifacts, store, now is not None)
        before = earlier(store, alias, version, incumbent, self, basis)
        if before is not None:
            record("gate decided before", number=before["number"], action=before["action"])
            found = {"decision": told(before, alias), "alias": alias, "version": version}
            refused = before["action"] != "promote"
            conditions = before["facts"]["evidence"].get("conditions", ())
            return found | ({"why": reasons(conditions)} if refused else {})
        refuse_withdrawn(store, version)
        evidence = self.judge(artifacts, store, version, incumbent, now is not None)
        evidence |= {"basis": basis}
        passed = all(condition["passed"] for condition in evidence["conditions"])
        record("gate", alias=alias, version=version, passed=passed, **evidence)
        if passed:
            try:
                move(store, alias, version, evidence, author, now.decision if now else 0)
            except Moved:  # by a person, or another run: compared with the wrong one
                record("alias moved while the gate judged", alias=alias)
                return self.act(recipe, artifacts, store, record, author)
        else:
            facts = {"alias": alias, "version": version, "before": incumbent, "evidence": evidence}
            store.decide("refuse", facts, author)
        found = {"decision": "promote" if passed else "refuse", "alias": alias, "version": version}
        return found | ({} if passed else {"why": reasons(evidence["conditions"])})

    def judge(
        self,
        artifacts: Mapping[str, str],
        store: Store,
        version: str,
        incumbent: str,
        in_service: bool,
    ) -> dict[str, Any]:
        """The conditions as evidence for the log: numbers, never the rows themselves."""
        gate = self.gate_of(in_service)
        task = read_task_of(store.artifact(artifacts["rows"]))
        sets = {place: rows_at(place, artifacts, store) for place in (gate.fresh, *gate.kept)}
        ids = {place: short_ids(rows) for place, rows in sets.items()}
        used = {place: uses(store, set(ids[place]), in_service=True) for place in gate.kept}
        used[gate.fresh] = uses(store, set(ids[gate.fresh]))
        others = {} if in_service else self.baselines_in(artifacts)
        rival = None
        if in_service:
            rival = version_of(store, incumbent, gate.precision)
        elif incumbent:
            rival = uncalibrated(store, incumbent, gate.precision)
        conditions = run_gate(
            gate,
            task,
            sets,
            version_of(store, version, gate.precision),
            rival,
            used,
            timed=in_service,
            baselines={
                name: uncalibrated(store, each, gate.precision) for name, each in others.items()
            },
        )
        if AUDIT in artifacts:
            path = store.artifact(artifacts[AUDIT]) / "audit.json"
            checks = json.loads(path.read_bytes())["checks"]
            verdicts = {name: entry["verdict"] for name, entry in checks.items()}
            conditions.append(audited(gate, verdicts))
        return {
            "incumbent": incumbent,
            "asked": hash_json(self.gate.to_json()),
            "in_service": in_service,
            "gate_rows": {place: found[:SAMPLED] for place, found in ids.items()},
            "used_before": used[gate.fresh],
            "kept_used_before": {place: used[place] for place in gate.kept},
            "conditions": [plain(condition) for condition in conditions],
        }

    def gate_of(self, in_service: bool) -> Gate:
        """The gate: against a baseline the claim is superiority, and nothing can be forgotten."""
        if in_service:
            return self.gate
        return replace(self.gate, claim="superior", kept=(), slices=None)

    def basis(self, artifacts: Mapping[str, str], store: Store, in_service: bool) -> str:
        """The hash of what the gate judges by: its rows, the other baselines and the audit."""
        gate = self.gate_of(in_service)
        rows = {
            place: hash_json(sorted(rows_at(place, artifacts, store).column("id").to_pylist()))
            for place in (gate.fresh, *gate.kept)
        }
        others = {} if in_service else self.baselines_in(artifacts)
        return hash_json({"rows": rows, "others": others, "audit": artifacts.get(AUDIT, "")})

    def baselines_in(self, artifacts: Mapping[str, str]) -> dict[str, str]:
        """The baselines that the run has, each content once, but for the one to be beaten."""
        found = {
            name: artifacts[name]
            for name in baseline_names(self.task)
            if name in artifacts and name != self.rival
        }
        return {name: content for content, name in {c: n for n, c in found.items()}.items()}


def rows_at(place: str, artifacts: Mapping[str, str], store: Store) -> pa.Table:
    """The rows of ``ARTIFACT/FILE``."""
    artifact, _, split = place.partition("/")
    return read_split(store.artifact(artifacts[artifact]), split)


def reasons(conditions: Iterable[Mapping[str, Any]]) -> str:
    """The conditions that fail, each with its reason."""
    failing = (each for each in conditions if not each["passed"])
    return "because of " + "; ".join(f"{each['name']}: {each['reason']}" for each in failing)


def told(entry: Mapping[str, Any], alias: str) -> str:
    """What an earlier decision means now that the alias does not name its version."""
    if entry["action"] != "promote":
        return f"refused before (decision {entry['number']})"
    return (
        f"promoted before (decision {entry['number']}) and rolled back since; to bring it back: "
        f"lmwright promote {alias} {entry['facts']['version'][:16]} --reason TEXT"
    )


def version_of(store: Store, version: str, precision: str) -> Judged:
    """A version, loaded; its network's products in a precision."""
    bound = read_version(store, version)
    return judged(store.artifact(bound["model"]), Calibration(**bound["calibration"]), precision)


def uncalibrated(store: Store, content: str, precision: str) -> Judged:
    """A model that is no version: it stands as it is, without calibration."""
    return judged(store.artifact(content), Calibration(), precision)


def judged(folder: Path, calibration: Calibration, precision: str) -> Judged:
    """A model as the gate asks it."""
    predictor = load_predictor(folder)
    if precision != "fp32":
        from lmwright.models.core.device import resolve_placement  # who only looks needs no torch
        from lmwright.models.placement import place_networks

        place_networks(predictor, resolve_placement("cpu", precision))
    return Judged(predictor, calibration, bytes_of(folder), learnt_by(folder))


def learnt_by(folder: Path) -> frozenset[str]:
    """Ids and keys of the rows that a model learnt from, where its folder lists them."""
    path = folder / "rows.parquet"
    if not path.is_file():
        return frozenset()
    table = pq.read_table(path)
    keys = table.column("key").to_pylist() if "key" in table.column_names else []
    return frozenset([*table.column("id").to_pylist(), *keys])


def bytes_of(folder: Path) -> int:
    """The size of all files of a model's folder and of those that it stands on."""
    files = (path for each in with_bases(folder) for path in each.rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file())


def short_ids(rows: pa.Table) -> list[str]:
    """The rows' ids, shortened and sorted. An id is a hash, so the first are a random sample."""
    return sorted(row[:SHORT] for row in rows.column("id").to_pylist())


def uses(store: Store, ids: Collection[str], in_service: bool = False) -> int:
    """How many gates have judged by some of these rows: the ledger is the decision log itself.

    Rows are known by the sample that each decision names. Of earlier rows that return by a
    twentieth, all of the sample stays away once in 700 times. ``in_service`` counts only gates
    that compared with a version in service: that a first model beat a baseline on these rows is
    no chance to forget them.
    """
    return sum(
        any(not set(sample).isdisjoint(ids) for sample in evidence["gate_rows"].values())
        for entry in store.decisions()
        if (evidence := entry["facts"].get("evidence", {})).get("gate_rows")
        and (evidence["in_service"] or not in_service)
    )


def earlier(
    store: Store, alias: str, version: str, incumbent: str, stage: Promote, basis: str
) -> dict[str, Any] | None:
    """The decision on this candidate, incumbent and gate, if it has been taken already.

    A refusal holds for what it was judged by (``basis``); of other rows the gate is asked anew. A
    promotion that was rolled back since stays so: who rolled it back knew more than the gate.
    """
    key = hash_json(stage.gate.to_json())
    for entry in store.decisions():
        facts = entry["facts"]
        evidence = evidence_of(facts.get("evidence", {}))
        same = facts.get("alias") == alias and facts.get("version") == version
        if not same or evidence.get("incumbent") != incumbent or evidence.get("asked") != key:
            continue
        if entry["action"] == "promote" or evidence.get("basis") == basis:
            return entry
    return None


def plain(condition: Condition) -> dict[str, Any]:
    """A condition as JSON values."""
    return asdict(condition)


def promote_version(
    store: Store, alias: str, version: str, reason: str, author: str = ""
) -> dict[str, Any]:
    """A person puts a version behind an alias by hand; the log says that no gate was asked."""
    if not reason.strip():
        raise BadInput("no reason is given", "why the gate is passed by", "add --reason TEXT")
    now = current(store, alias)
    if now is not None and now.hash == version:
        raise Refused(f"{alias} names {version[:16]} already")
    return move(store, alias, version, {"by_hand": reason}, author)
