"""Lineage both ways: from an answer to its rows, from a row or a source to models and answers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyarrow import parquet

from lmwright import old_format
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_json
from lmwright.core.stage import Stage
from lmwright.data.corpus import find_row, is_rows, read_split
from lmwright.serve.traffic import SETTINGS, Log
from lmwright.store.run import read_run, results_of, runs_with
from lmwright.store.store import Result, Store
from lmwright.store.versions import (
    alias_names,
    aliases,
    closure,
    history,
    learnt_from,
    source_called,
)
from lmwright.tables import entries, resolve

OF_BASE = ("address", "licence")
"""What the facts of a stage that commits a base say of where it comes from."""
VERSION = "version"
"""The artifact that binds a model into what an alias can name, and its JSON file."""


def of_version(store: Store, content: str, until: float = math.inf) -> dict[str, Any]:
    """What a version was made from: recipe and runs, its own rows, and every result behind it.

    Where several runs made equal bits, of other rows perhaps, results are those of the run that
    the version was put in place by: the newest that began before the last decision for it (for
    an answer, the last one ``until`` it was given). Results stand from the nearest to the raw
    sources. ``code`` is one digest of all definitions that a result could reach, ``definitions``
    how many those are.
    """
    found = pinned(store, content, decided(store, content, until))
    licences = licences_of(store, found)
    steps = [
        {
            "kind": result.kind,
            "stamp": result.stamp,
            "attempt": result.attempt,
            "settings": result.parts["settings"],
            "inputs": result.inputs,
            "outputs": result.outputs,
            "reads": result.parts["reads"],
            "code": hash_json(result.parts["code"]),
            "definitions": len(result.parts["code"]),
            "learns_from": result.facts.get("learns_from", []),
            **{name: result.facts[name] for name in OF_BASE if name in result.facts},
            "learnt_rows": {
                name: learnt_rows(path, licences)
                for name, output in result.outputs.items()
                if (path := row_list(store, output)).is_file()
            },
        }
        for result in found
    ]
    names = [a for a, version in aliases(store).items() if version.hash == content]
    makers = {result.stamp for result in store.makers(content)}
    runs = [{"run": run, "recipe": head["recipe"]} for run, head in runs_with(store, makers)]
    return {"version": content, "aliases": names, "runs": runs, "steps": steps}


def decided(store: Store, content: str, until: float) -> float:
    """When the last decision until a time put a version behind an alias; that time if none did."""
    times = [
        entry["time"]
        for entry in store.decisions()
        if entry["facts"].get("version") == content and entry["time"] <= until
    ]
    return times[-1] if times else until


def pinned(store: Store, content: str, until: float) -> list[Result]:
    """Every result that an artifact was made from, nearest first, each as the newest run had it
    that began until a time and gave the artifact; where no run did, all results that give it."""
    heads = [read_run(store, name) for name in store.runs()]
    runs = [
        (head["began"], list(results_of(store, head).values()))
        for head in sorted(heads, key=lambda head: -head["began"])
    ]
    before = {content: until}

    def makers(place: str) -> list[Result]:
        for began, results in runs:
            own = [result for result in results if place in result.outputs.values()]
            if own and began <= before[place]:
                found = own[:1]
                break
        else:
            found, began = store.makers(place), before[place]
        for result in found:
            for given in result.inputs.values():
                before.setdefault(given, began)
        return found

    return closure(store, content, lambda result: result.inputs.values(), makers)


def row_list(store: Store, content: str) -> Path:
    """Where a model lists the rows that it learnt from, if it is one and is here."""
    return store.folder / "artifacts" / content / "rows.parquet"


def learnt_rows(path: Path, licences: dict[str, str]) -> dict[str, Any]:
    """The artifact of a list of rows, how many they are, and of which sources and licences."""
    counts = Counter(parquet.read_table(path, columns=["source"]).column("source").to_pylist())
    sources = {
        name: {"rows": count, "licence": licences.get(name, "unknown")}
        for name, count in sorted(counts.items())
    }
    return {"artifact": path.parent.name, "rows": counts.total(), "sources": sources}


def licences_of(store: Store, found: list[Result]) -> dict[str, str]:
    """Source -> licence, of all sources among results."""
    paths = [
        store.folder / "artifacts" / content / "sources.json"
        for result in found
        for content in result.outputs.values()
    ]
    described = [json.loads(path.read_bytes()) for path in paths if path.is_file()]
    return {source["name"]: source["licence"] for sources in described for source in sources}


def of_row(store: Store, row: str) -> dict[str, Any]:
    """A row, the models that learnt from it and their versions, and what else it was used for.

    A model learnt from it if its own list names the row, or if it went on from a model that did;
    how much the row mattered is not known. ``used_otherwise`` lists the artifacts for which
    training was ``stopped``, answers were ``calibrated`` or ``judged``, traffic is ``compared``
    and versions were ``gated`` by it.
    """
    found: dict[str, Any] | None = None
    held: dict[str, str] = {}
    for result in rows_results(store):
        for content in result.outputs.values():
            place = find_row(store.artifact(content), row)
            if place is not None:
                held[content] = place.pop("split")
                found = place
    if found is None:
        raise BadInput(f"no rows here hold the id {row!r}", "the id of a row (32 hex digits)")
    other: dict[str, list[str]] = {}
    for content, split in held.items():
        for result in store.users(content):
            for word, made in other_uses(store, result, content, split, row):
                other.setdefault(word, []).append(made)
    return {
        "row": found,
        "held_in": held,
        "used_otherwise": {word: sorted(set(made)) for word, made in sorted(other.items())},
        **consequences(store, learners(store, "id", row)),
    }


def learners(store: Store, column: str, value: str) -> dict[str, str]:
    """Artifact -> kind of stage: models that learnt from a row or source, and their versions.

    ``column`` of a model's list of rows is ``id`` or ``source``.
    """
    touched: dict[str, str] = {}
    results = list(store.all_results())
    for result in results:
        for content in result.outputs.values():
            if is_base(result) and value in result.facts["learns_from"]:
                touched[content] = result.kind
            if lists(row_list(store, content), column, value):
                touched[content] = result.kind
    grown = -1
    while grown < len(touched):
        grown = len(touched)
        for result in results:
            if not touched.keys().isdisjoint(origins(result)):
                touched.update(dict.fromkeys(result.outputs.values(), result.kind))
    for result in results:
        if VERSION in result.outputs and result.facts.get("model") in touched:
            touched.update(dict.fromkeys(result.outputs.values(), result.kind))
    return touched


def is_base(result: Result) -> bool:
    """Whether a result is the commit of a base, whose facts say where it comes from."""
    return "address" in result.facts


def origins(result: Result) -> list[str]:
    """The contents of the models that those of a result go on from or hold."""
    if result.kind not in entries("stages"):
        return []  # of a package that is no longer installed
    kind: type[Stage] = resolve("stages", result.kind)
    names = kind.origins(old_format.settings(result.parts["settings"]))
    return [result.inputs[name] for name in names if name in result.inputs]


def other_uses(
    store: Store, result: Result, content: str, split: str, row: str
) -> Iterator[tuple[str, str]]:
    """What a result did with a row in a split of its input beside learning: (word, artifact)."""
    if result.kind not in entries("stages"):
        return  # of a package that is no longer installed
    kind: type[Stage] = resolve("stages", result.kind)
    settings = old_format.settings(result.parts["settings"])
    for own, given in result.inputs.items():
        if given != content:
            continue
        for use in kind.uses(settings, f"{own}/{split}"):
            made = result.outputs[use.artifact]
            if use.listed:
                used = lists(store.artifact(made) / use.listed, "id", row)
            else:
                drawn = read_split(store.artifact(content), split, use.limit, use.seed)
                used = row in drawn.column("id").to_pylist()
            if used:
                yield use.word, made


def lists(path: Path, column: str, value: str) -> bool:
    """Whether a Parquet file is here and has a value in a column."""
    if not path.is_file():
        return False
    return parquet.read_table(path, columns=[column], filters=[(column, "=", value)]).num_rows > 0


def of_source(store: Store, source: str) -> dict[str, Any]:
    """Every model and version that learnt from rows of a source, and the other artifacts below it.

    ``made_with_it`` are those whose own lists of rows name the source, as in :func:`of_row`;
    ``made_beside_it`` all other artifacts that hold it or were made from what holds it (scores,
    detectors, a model that drew none of its rows): withdrawing the source bars these too.
    A base goes by its name (``base:…``) or its address; ``made_with_it`` are then the artifact
    with it and every model and version that stands on it.
    """
    source = source_called(store, source)
    learnt = learners(store, "source", source)
    beside = {
        content: sorted({result.kind for result in store.makers(content)})[0]
        for content in learnt_from(store, source)
        if content not in learnt
    }
    return {"source": source, "made_beside_it": beside, **consequences(store, learnt)}


def of_answer(store: Store, answer: str) -> dict[str, Any]:
    """An answer as it was logged, and the lineage of the version that gave it."""
    for log in logs(store):
        parts = log.find(answer)
        if parts:
            version = store.find(parts[0]["version"])
            return {"answer": parts, **of_version(store, version, parts[0]["time"])}
    raise BadInput(f"no answer {answer!r} is in the log", "one that is within the retention")


def consequences(store: Store, touched: dict[str, str]) -> dict[str, Any]:
    """What was made with something: artifacts by kind, aliases that served it, and its answers."""
    versions = [content for content in touched if is_version(store, content)]
    given = {
        content: ids
        for log in logs(store)
        for content in versions
        if (ids := log.answers_of(content[:16]))
    }
    return {
        "made_with_it": touched,
        "served_as": served_as(store, set(touched)),
        "answers": {content: {"count": len(ids), "ids": ids} for content, ids in given.items()},
    }


def logs(store: Store) -> Iterator[Log]:
    """The traffic logs of a store, one after another, each closed again."""
    for opened in sorted(store.folder.glob(f"traffic/*/{SETTINGS}")):  # a log that is wholly made
        log = Log(opened.parent)
        try:
            yield log
        finally:
            log.close()


def is_version(store: Store, content: str) -> bool:
    """True for an artifact that an alias can name."""
    return (store.folder / "artifacts" / content / f"{VERSION}.json").exists()


def rows_results(store: Store) -> list[Result]:
    """The results whose artifacts hold rows."""
    artifacts = store.folder / "artifacts"
    return [
        result
        for result in store.all_results()
        if any(is_rows(artifacts / content) for content in result.outputs.values())
    ]


def served_as(store: Store, contents: set[str]) -> list[str]:
    """The aliases that ever named one of these versions."""
    return sorted(
        {
            f"{version.alias} from decision {version.decision}"
            for alias in alias_names(store)
            for version in history(store, alias)
            if version.hash in contents
        }
    )
