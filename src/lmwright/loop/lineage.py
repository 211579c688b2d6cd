"""Lineage both ways: from an answer to its rows, from a row or a source to models and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.data.corpus import find_row
from lmwright.loop.traffic import Traffic
from lmwright.store.store import Result, Store
from lmwright.store.versions import aliases, ancestors, descendants, history


def of_version(store: Store, content: str) -> dict[str, Any]:
    """What a version was made from: results from the nearest to the raw sources, with counts."""
    steps = []
    for result in ancestors(store, content):
        steps.append(
            {
                "kind": result.kind,
                "stamp": result.stamp,
                "settings": result.parts["settings"],
                "inputs": result.inputs,
                "outputs": result.outputs,
                "reads": result.parts["reads"],
                "code": len(result.parts["code"]),
                "learns_from": result.facts.get("learns_from", []),
            }
        )
    names = [a for a, version in aliases(store).items() if version.hash == content]
    return {"version": content, "aliases": names, "steps": steps}


def of_row(store: Store, row: str) -> dict[str, Any]:
    """A row, and every artifact and version that was made with it (not how much it mattered)."""
    found: dict[str, Any] | None = None
    touched: dict[str, str] = {}
    for result in rows_results(store):
        for content in result.outputs.values():
            place = find_row(store.artifact(content), row)
            if place is None:
                continue
            found = {**place, "artifact": content}
            for below in descendants(store, content):
                touched.update(dict.fromkeys(below.outputs.values(), below.kind))
    if found is None:
        raise BadInput(f"no rows here hold the id {row!r}", "the id of a row (32 hex digits)")
    return {"row": found, **consequences(store, touched)}


def of_source(store: Store, source: str) -> dict[str, Any]:
    """Every artifact and version that learnt from a source."""
    touched: dict[str, str] = {}
    for result in store.all_results():
        if source in result.facts.get("learns_from", []):
            for content in result.outputs.values():
                touched[content] = result.kind
                for below in descendants(store, content):
                    touched.update(dict.fromkeys(below.outputs.values(), below.kind))
    return {"source": source, **consequences(store, touched)}


def of_answer(store: Store, answer: str) -> dict[str, Any]:
    """An answer as it was logged, and the lineage of the version that gave it."""
    for log in logs(store):
        parts = log.find(answer)
        if parts:
            return {"answer": parts, **of_version(store, store.find(parts[0]["version"]))}
    raise BadInput(f"no answer {answer!r} is in the log", "one that is within the retention")


def consequences(store: Store, touched: dict[str, str]) -> dict[str, Any]:
    """What was made with something: artifacts by kind, aliases that served it, and its answers."""
    versions = [content for content, kind in touched.items() if kind == "promote"]
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


def logs(store: Store) -> Iterator[Traffic]:
    """The traffic logs of a store, one after another, each closed again."""
    for database in sorted((store.folder / "traffic").glob("*/traffic.db")):
        log = Traffic(database.parent, False, 36500, 0.5)
        try:
            yield log
        finally:
            log.close()


def rows_results(store: Store) -> list[Result]:
    """The results whose artifacts hold rows."""
    artifacts = store.folder / "artifacts"
    return [
        result
        for result in store.all_results()
        if any((artifacts / c / "labels.json").exists() for c in result.outputs.values())
    ]


def served_as(store: Store, contents: set[str]) -> list[str]:
    """The aliases that ever named one of these versions."""
    return sorted(
        {
            f"{version.alias} from decision {version.decision}"
            for alias in aliases(store)
            for version in history(store, alias)
            if version.hash in contents
        }
    )
