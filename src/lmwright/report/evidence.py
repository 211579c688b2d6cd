"""What a report is made from: runs, their results and journals, the traffic, the decision log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmwright import old_format
from lmwright.core.errors import BadInput, nearest
from lmwright.core.journal import read_journal
from lmwright.serve.traffic import SETTINGS, Log, traffic_folder
from lmwright.store.run import read_run, results_of
from lmwright.store.store import Result, Store


@dataclass
class Past:
    """A run as it is found: its head, its journal, and its results by step in their order."""

    name: str
    raw: dict[str, Any]
    began: float
    events: list[dict[str, Any]]
    results: dict[str, Result] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """How it ended, or that it did not."""
        ends = [event for event in self.events if event["event"] == "run ended"]
        return str(ends[-1].get("state", "ended")) if ends else "not ended"

    @property
    def retrained(self) -> bool:
        """Whether the loop derived it from another recipe."""
        return "incumbent" in (self.raw.get("artifacts") or {})

    def giving(self, artifact: str) -> Result | None:
        """The first result that gave an artifact, by the stage's own name of it."""
        return next((each for each in self.results.values() if artifact in each.outputs), None)

    def renamed(self, step: str, artifact: str) -> str:
        """What an artifact of a step is called in this run's recipe."""
        settings = (self.raw.get("stages") or {}).get(step) or {}
        return str((settings.get("writes") or {}).get(artifact, artifact))


@dataclass
class Evidence:
    """Everything that a report on one recipe shows: the run, and the retrainings after it.

    Traffic is that of ``alias``.
    """

    store: Store
    recipe: str
    alias: str
    run: Past
    retrainings: list[Past]

    @property
    def runs(self) -> list[Past]:
        """The run and its retrainings, oldest first."""
        return [self.run, *self.retrainings]

    def folder(self, result: Result | None, artifact: str) -> Path | None:
        """The folder of what a result gave, if it is still in the store."""
        content = result.outputs.get(artifact) if result else None
        path = self.store.folder / "artifacts" / content if content else None
        return path if path is not None and path.is_dir() else None

    def load(self, result: Result | None, artifact: str, name: str) -> Any:
        """A JSON file of what a result gave, or None."""
        folder = self.folder(result, artifact)
        path = folder / name if folder else None
        if path is None or not path.is_file():
            return None
        read = old_format.READERS.get(name, lambda value: value)
        return read(json.loads(path.read_bytes()))

    def bytes_of(self, content: str) -> int:
        """The size of an artifact's files; 0 if it is no longer in the store."""
        folder = self.store.folder / "artifacts" / content
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def decisions(self) -> list[dict[str, Any]]:
        """The whole decision log of the store, checked."""
        return [
            {**entry, "facts": {**entry["facts"], "evidence": old_format.evidence_of(found)}}
            if (found := entry["facts"].get("evidence"))
            else entry
            for entry in self.store.decisions()
        ]

    def seen(self) -> list[dict[str, Any]]:
        """What the detectors said of every window of traffic, oldest first."""
        folder = traffic_folder(self.store, self.alias)
        if not (folder / SETTINGS).is_file():
            return []
        with closing(Log(folder)) as log:
            return log.past_windows()

    def replay(self) -> dict[str, Any] | None:
        """What the last replay sent and got, if there was one."""
        path = traffic_folder(self.store, self.alias) / "replay.json"
        return old_format.replay_of(json.loads(path.read_bytes())) if path.is_file() else None

    def detectors_of(self, version: str) -> dict[str, Any] | None:
        """The settings of the detectors that watch a version (given by the start of its hash)."""
        for run in reversed(self.runs):
            promoted, fitted = run.giving("version"), run.giving("detectors")
            content = promoted.outputs.get("version", "") if promoted else ""
            if content.startswith(version):
                found: dict[str, Any] | None = self.load(fitted, "detectors", "detectors.json")
                return found
        return None


def gather(store: Store, recipe: str, alias: str = "") -> Evidence:
    """The newest run of a recipe that was scored (else the newest), and its retrainings.

    ``alias`` (NAME@ALIAS) is whose traffic is shown; by default the one that the run promotes to.

    A retraining is its own if it began with a model of this run or of one of the others.

    Raises BadInput when the recipe has never been run in this store.
    """
    runs = sorted(past_runs(store), key=lambda pair: pair[1].began)
    mine = [run for name, run in runs if name == recipe]
    if not mine:
        names = sorted({name for name, _ in runs})
        cure = nearest(recipe, names) if names else "run a recipe first"
        raise BadInput(f"there is no run of {recipe!r} in this store", "a recipe that ran", cure)
    own = [run for run in mine if not run.retrained] or mine
    scored = [run for run in own if run.giving("scores")] or own
    chosen = scored[-1]
    promote = chosen.giving("version")
    short = promote.parts["settings"]["alias"] if promote else "production"
    return Evidence(store, recipe, alias or f"{recipe}@{short}", chosen, retrainings(chosen, mine))


def retrainings(chosen: Past, runs: Sequence[Past]) -> list[Past]:
    """Those of the runs, oldest first, that replace what ``chosen`` or one of them made."""
    models = set(contents(chosen))
    found = []
    for run in runs:
        if (
            run.retrained
            and run.name != chosen.name
            and run.raw["artifacts"]["incumbent"] in models
        ):
            found.append(run)
            models.update(contents(run))
    return found


def contents(run: Past) -> list[str]:
    """The hashes of all artifacts that a run gave."""
    return [content for result in run.results.values() for content in result.outputs.values()]


def past_runs(store: Store) -> Iterator[tuple[str, Past]]:
    """Every run of a store with the name of its recipe."""
    for name in store.runs():
        yield past_run(store, name)


def past_run(store: Store, name: str) -> tuple[str, Past]:
    """The name of a run's recipe, and the run; it may still be at work."""
    head = read_run(store, name)
    events = list(read_journal(store.folder / "runs" / name / "journal.jsonl"))
    run = Past(name, head.get("raw") or {}, float(head.get("began") or 0.0), events)
    found = {
        step: replace(result, facts=old_format.facts_of(result.facts))
        for step, result in results_of(store, head).items()
    }
    ordered = [event["step"] for event in events if event.get("step") in found]
    run.results.update({step: found[step] for step in dict.fromkeys([*ordered, *found])})
    return str(head.get("recipe", "")), run
