"""Running a recipe: for each stage, its result if there is one, else the work and its commit."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from lmwright.core.durable import write_bytes
from lmwright.core.errors import BadInput, LmwrightError, Refused, nearest
from lmwright.core.hashing import encoded
from lmwright.core.journal import Journal
from lmwright.core.recipe import Recipe, Step
from lmwright.core.stage import Stage
from lmwright.core.stamp import Stamp, differences, stamp_of
from lmwright.machine.quota import threads_of_torch
from lmwright.store.lease import Held, lease, process_of, run_lease
from lmwright.store.memory import Peak
from lmwright.store.store import Result, Store
from lmwright.store.versions import model_in_store, sources_of, withdrawn

REFUSED = 3
"""The exit code of a run that ended well, and whose gate kept the old version."""


class Shown(Protocol):
    """Where progress is shown to a person."""

    def start(self, run: str) -> None: ...
    def begin(self, step: str, state: str) -> None: ...
    def progress(self, step: str, done: float, total: float, note: str) -> None: ...
    def end(self, step: str, state: str, seconds: float, facts: Mapping[str, Any]) -> None: ...


class Silent:
    """Shows nothing."""

    def start(self, run: str) -> None:
        """Nothing."""

    def begin(self, step: str, state: str) -> None:
        """Nothing."""

    def progress(self, step: str, done: float, total: float, note: str) -> None:
        """Nothing."""

    def end(self, step: str, state: str, seconds: float, facts: Mapping[str, Any]) -> None:
        """Nothing."""


@dataclass
class Run:
    """A finished run: its id, and each step's result."""

    name: str
    folder: Path
    given: Mapping[str, str]
    results: dict[str, Result] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    acts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def artifacts(self) -> dict[str, str]:
        """Artifact name -> content hash: what the recipe was given and what its steps gave."""
        return {**self.given, **self.made}

    def lines(self) -> list[str]:
        """The run in words: what each stage gave, and did beside it."""
        found = []
        for step, result in self.results.items():
            outputs = ", ".join(
                f"{name} {content[:12]}" for name, content in result.outputs.items()
            )
            found.append(f"{step:<12} {outputs}")
        found += [f"{step:<12} {acted(facts)}" for step, facts in self.acts.items()]
        return [*found, f"run {self.name}"]

    @property
    def refused(self) -> bool:
        """Whether a gate did not let the new version take over, now or before."""
        return any(
            str(facts.get("decision", "")).startswith("refuse") for facts in self.acts.values()
        )


def acted(facts: Mapping[str, Any]) -> str:
    """What a stage did beside its artifacts; of a version as much as names it."""
    return " ".join(str(v)[:16] if name == "version" else str(v) for name, v in facts.items())


def run_recipe(
    recipe: Recipe,
    store: Store,
    again: bool = False,
    shown: Shown | None = None,
    author: str = "",
    forecast: Mapping[str, Any] | None = None,
) -> Run:
    """Run every stage in order; what has a result under its stamp is not done again.

    ``again`` repeats the work on purpose. ``forecast`` (stage -> its forecast) is kept in the
    journal, to be held against what happens. Raises the LmwrightError of the stage that failed;
    the run's journal then says where and why, and a rerun goes on from the last checkpoint.
    """
    recipe = known_in(recipe, store)
    refuse_withdrawals(recipe, store)
    shown = shown or Silent()
    name, folder = store.new_run(recipe.name)
    run = Run(name, folder, recipe.artifacts)
    journal = Journal(folder / "journal.jsonl")
    head: dict[str, Any] = {
        "run": name,
        "recipe": recipe.name,
        "raw": recipe.raw,
        "began": time.time(),
    }
    write_head(folder, head)
    shown.start(name)
    journal.record("run began", recipe=recipe.name, process=os.getpid(), **environment())
    if forecast:
        journal.record("forecast", stages=forecast)
    try:
        with run_lease(
            store.database,
            name,
            lambda owner: shown.begin(recipe.steps[0].name, f"waits for gc in {process_of(owner)}"),
        ):
            for place, step in enumerate(recipe.steps, 1):
                result = run.results[step.name] = run_step(step, run, store, journal, again, shown)
                run.made.update({name: result.outputs[own] for own, name in step.gives().items()})
                head["results"] = {key: result.stamp for key, result in run.results.items()}
                head["attempts"] = {key: result.attempt for key, result in run.results.items()}
                write_head(folder, head)
                foresee(recipe.steps[place:], run.artifacts, store)
                names = {**step.needs(), **step.gives()}
                own = {mine: run.artifacts[name] for mine, name in names.items()}
                known = {**run.artifacts, **own}  # by the stage's own names first
                facts = step.stage.act(recipe, known, store, journal.record, author)
                if facts is not None:
                    run.acts[step.name] = facts
                    journal.record("acted", step=step.name, facts=facts)
        journal.record("run ended", state="done")
    except BaseException as error:
        journal.record(
            "run ended",
            state="interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed",
            error=str(error) or type(error).__name__,
            kind=type(error).__name__,
            traceback=traceback.format_exc(),
        )
        if isinstance(error, OSError) and error.errno is not None:
            raise machine_fault(error, store) from error
        raise
    finally:
        with suppress(OSError):
            journal.close()
    return run


def known_in(recipe: Recipe, store: Store) -> Recipe:
    """The same recipe with each of its ``artifacts`` by its content hash."""
    found = {name: model_in_store(store, given) for name, given in recipe.artifacts.items()}
    return replace(recipe, artifacts=found)


def withdrawals(recipe: Recipe, store: Store) -> dict[str, list[str]]:
    """Step or artifact of the store -> withdrawn sources that it learns from; none left out."""
    gone = withdrawn(store)
    if not gone:
        return {}
    named = {step.name: set(step.stage.learns_from()) for step in recipe.steps}
    named |= {name: sources_of(store, content) for name, content in recipe.artifacts.items()}
    return {name: sorted(own & gone) for name, own in named.items() if own & gone}


def refuse_withdrawals(recipe: Recipe, store: Store) -> None:
    """Raise Refused where a recipe would promote what it learns from a withdrawn source."""
    found = withdrawals(recipe, store)
    if found and any(type(step.stage).act is not Stage.act for step in recipe.steps):
        name, sources = next(iter(found.items()))
        raise Refused(
            f"{name} learns from {', '.join(sources)}, which was withdrawn: "
            "what is made of it cannot be promoted",
            "sources that may be learnt from",
            "take it out of the recipe, or: lmwright reinstate SOURCE --reason TEXT",
        )


def foresee(steps: Sequence[Step], given: Mapping[str, str], store: Store) -> None:
    """Let stages that are to come look at those of their inputs that are here already."""
    here = {
        name: path
        for name, content in given.items()
        if (path := store.folder / "artifacts" / content).is_dir()
    }
    for step in steps:
        step.stage.foresee({own: here[name] for own, name in step.needs().items() if name in here})


def run_step(
    step: Step, run: Run, store: Store, journal: Journal, again: bool, shown: Shown
) -> Result:
    """The result of one step, found or made."""
    given = run.artifacts
    inputs = {own: given[name] for own, name in step.needs().items()}
    stamp = stamp_of(step.stage, step.kind, inputs, Folders(store, inputs))
    began = time.monotonic()
    found = None if again else store.result(stamp.hash)
    if found is None:
        with lease(
            store.database,
            stamp.hash,
            lambda owner: shown.begin(
                step.name, f"waits for {process_of(owner)}, which does the same work"
            ),
        ) as held:
            found = None if again else store.result(stamp.hash)
            if found is None:
                shown.begin(step.name, "running")
                result = work_on(step, stamp, given, store, journal, shown, held)
                seconds = time.monotonic() - began
                shown.end(step.name, "done", seconds, result.facts)
                return result
    journal.record("stage reused", step=step.name, stamp=stamp.hash)
    left = store.scratch(stamp.hash)
    if left.exists():  # a kill came between the commit and the tidying up
        with lease(store.database, stamp.hash):
            shutil.rmtree(left, ignore_errors=True)
    shown.end(step.name, "already done", time.monotonic() - began, found.facts)
    return found


class Folders(Mapping[str, Path]):
    """The folders of artifacts by name, each fetched from the remote when it is asked for."""

    def __init__(self, store: Store, contents: Mapping[str, str]) -> None:
        self.store, self.contents = store, contents

    def __getitem__(self, name: str) -> Path:
        return self.store.artifact(self.contents[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.contents)

    def __len__(self) -> int:
        return len(self.contents)


def work_on(
    step: Step,
    stamp: Stamp,
    given: Mapping[str, str],
    store: Store,
    journal: Journal,
    shown: Shown,
    held: Held,
) -> Result:
    """Run a stage under its lease and commit what it gives, unless the lease was lost."""
    inputs = {own: store.artifact(given[name]) for own, name in step.needs().items()}
    work = StageWork(step.name, inputs, store.scratch(stamp.hash), journal, shown, held)
    journal.record("stage began", step=step.name, kind=step.kind, stamp=stamp.hash)
    began, peak = time.monotonic(), Peak()
    try:
        facts = json.loads(json.dumps(step.stage.run(work), allow_nan=False))
    except OSError:
        held.confirm()  # its folders may have gone with the lease
        raise
    held.confirm()
    outputs = {}
    for artifact in step.stage.gives():
        folder = work.outputs.get(artifact)
        if folder is None:
            raise LmwrightError(f"{step.name} did not write {artifact!r}", "all that it gives")
        outputs[artifact] = store.add_artifact(folder)
    seconds = round(time.monotonic() - began, 3)
    work.measured(seconds=seconds, peak_bytes=peak.bytes(), peak_of_stage=peak.own)
    held.confirm()  # so nobody has removed any of it while it was added
    result = store.add_result(
        Result(
            stamp.hash,
            0,
            step.kind,
            stamp.parts,
            outputs,
            facts,
            work.timed,
            environment(),
        )
    )
    journal.record(
        "stage ended",
        step=step.name,
        stamp=stamp.hash,
        attempt=result.attempt,
        outputs=outputs,
        facts=facts,
        **work.timed,
    )
    if result.attempt:
        journal.record("not reproducible", step=step.name, stamp=stamp.hash)
    journal.sync()
    shutil.rmtree(work.home, ignore_errors=True)
    return result


class StageWork:
    """What a running stage is given (see ``core.stage.Work``), on a store's folder."""

    def __init__(
        self,
        step: str,
        inputs: Mapping[str, Path],
        home: Path,
        journal: Journal,
        shown: Shown,
        held: Held,
    ) -> None:
        self.step, self.inputs, self.home = step, inputs, home
        self.journal, self.shown, self.held = journal, shown, held
        self.scratch = home / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(home / "out", ignore_errors=True)
        # Its own, as a holder before that lost the lease unawares may be writing still.
        self.own = home / "out" / uuid.uuid4().hex
        self.outputs: dict[str, Path] = {}
        self.timed: dict[str, Any] = {}

    def out(self, artifact: str) -> Path:
        """An empty folder for an artifact; the same one when asked again."""
        if artifact not in self.outputs:
            self.outputs[artifact] = self.own / artifact
            self.outputs[artifact].mkdir(parents=True)
        return self.outputs[artifact]

    def record(self, event: str, **facts: Any) -> None:
        """Append an event to the journal."""
        self.journal.record(event, stage=self.step, **facts)

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Show how far the stage is; the end of it where another has taken over."""
        self.held.check()
        self.shown.progress(self.step, done, total, note)

    def measured(self, **facts: Any) -> None:
        """Keep facts that differ from run to run."""
        self.timed.update(facts)


@dataclass(frozen=True)
class Planned:
    """What would happen to one step: ``done``, ``to do`` or ``waits`` for an earlier one."""

    step: str
    kind: str
    state: str
    stamp: str | None
    why: list[str]


def plan_recipe(recipe: Recipe, store: Store) -> list[Planned]:
    """Say for each step whether its result is there, and if not, what changed since the last.

    Raises BadInput when what is there already shows that a later step cannot work.

    A step below a stale one waits: the content of its inputs is not known before that ran.
    """
    recipe = known_in(recipe, store)
    given: dict[str, str] = dict(recipe.artifacts)
    last = last_stamps(recipe.name, store)
    rows = []
    for step in recipe.steps:
        missing = [name for name in step.needs().values() if name not in given]
        if missing:
            rows.append(Planned(step.name, step.kind, "waits", None, [f"needs {missing[0]}"]))
            continue
        inputs = {own: given[name] for own, name in step.needs().items()}
        stamp = stamp_of(step.stage, step.kind, inputs, Folders(store, inputs))
        result = store.result(stamp.hash)
        if result is not None:
            given.update({name: result.outputs[own] for own, name in step.gives().items()})
            rows.append(Planned(step.name, step.kind, "done", stamp.hash, []))
            continue
        before = store.read_result(last[step.name], 0) if step.name in last else None
        why = differences(before.parts, stamp.parts) if before else ["never run"]
        rows.append(Planned(step.name, step.kind, "to do", stamp.hash, why or ["result removed"]))
    barred = withdrawals(recipe, store)
    rows = [
        replace(row, why=[f"learns from {name}, which was withdrawn", *row.why])
        if (name := ", ".join(barred.get(row.step, ())))
        else row
        for row in rows
    ]
    foresee(
        [step for step, row in zip(recipe.steps, rows, strict=True) if row.state != "done"],
        given,
        store,
    )
    return rows


def last_stamps(recipe: str, store: Store) -> dict[str, str]:
    """Step -> the stamp of its newest result, over the runs of a recipe."""
    stamps: dict[str, str] = {}
    for name in store.runs():
        head = read_run(store, name)
        if head.get("recipe") == recipe:
            stamps.update(head.get("results", {}))
    return stamps


def write_head(folder: Path, head: Mapping[str, Any]) -> None:
    """Write ``run.json``. Its keys stay in order: that of ``stages`` is part of the recipe."""
    text = json.dumps(head, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / "run.json", encoded(text) + b"\n")


def read_run(store: Store, name: str) -> dict[str, Any]:
    """A run's head: recipe, when it began, and the stamps and attempts of its results."""
    path = store.folder / "runs" / name / "run.json"
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        cure = nearest(name, store.runs()) if store.runs() else "run a recipe first"
        raise BadInput(f"there is no run {name!r}", "the id of a run", cure) from None


def results_of(store: Store, head: Mapping[str, Any]) -> dict[str, Result]:
    """Step -> the result that a run gave or found, by its head, as far as it is still there."""
    attempts = head.get("attempts", {})
    found = {
        step: store.read_result(stamp, attempts.get(step, 0))
        for step, stamp in head.get("results", {}).items()
    }
    return {step: result for step, result in found.items() if result is not None}


def runs_with(store: Store, stamps: AbstractSet[str]) -> list[tuple[str, dict[str, Any]]]:
    """The runs that gave or found one of these results, newest first, with their heads."""
    heads = ((name, read_run(store, name)) for name in reversed(store.runs()))
    return [
        (name, head)
        for name, head in heads
        if not stamps.isdisjoint(head.get("results", {}).values())
    ]


def environment() -> dict[str, Any]:
    """What a result's bits may depend on besides the stamp: machine and threads."""
    return {
        "machine": platform.machine(),
        "processor": processor(),
        "system": platform.system(),
        "threads": str(threads_of_torch()),
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def machine_fault(error: OSError, store: Store) -> LmwrightError:
    """An error of the machine, with the cure that fits it."""
    try:
        free = shutil.disk_usage(store.folder).free
    except OSError:
        free = 0
    return LmwrightError(
        f"the machine says: {error.strerror}" + (f" ({error.filename})" if error.filename else ""),
        "a disk that can be written and read",
        f"{free / 1e9:.1f} GB are free in the store; mend it and run again: "
        "work goes on from the last checkpoint, nothing that was reported done is lost",
    )
