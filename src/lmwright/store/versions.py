"""Versions and aliases: what ``reviews@production`` names now and named before.

A version is an artifact (``version.json``) that binds a model to its calibration and its
origins. An alias is nothing stored: it is read off the decision log, so it cannot disagree
with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lmwright.core.errors import BadInput, Refused, nearest
from lmwright.store.store import Result, Store

ALIAS = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}@[a-z0-9][a-z0-9_-]{0,63}")
DIGITS = 64
"""Of a whole hash."""
MOVES = {"promote", "rollback"}
FEWEST_DIGITS = 8
"""Digits of a hash by which a base may be named."""
RETIRE = "retire"
"""The decision after which nothing is behind an alias, until the next promotion."""


@dataclass(frozen=True)
class Version:
    """What an alias named from one decision on."""

    alias: str
    hash: str
    decision: int
    action: str

    @property
    def id(self) -> str:
        """The short name that answers carry."""
        return self.hash[:16]


def history(store: Store, alias: str) -> list[Version]:
    """What an alias named, oldest first."""
    return [
        Version(alias, entry["facts"]["version"], entry["number"], entry["action"])
        for entry in store.decisions()
        if entry["action"] in MOVES and entry["facts"]["alias"] == alias
    ]


def current(store: Store, alias: str) -> Version | None:
    """What an alias names now, or None."""
    past = history(store, alias)
    return past[-1] if past and past[-1].decision > retired(store, alias) else None


def retired(store: Store, alias: str) -> int:
    """The number of the decision that retired an alias last; 0 if none did."""
    numbers = [
        entry["number"]
        for entry in store.decisions()
        if entry["action"] == RETIRE and entry["facts"]["alias"] == alias
    ]
    return numbers[-1] if numbers else 0


def aliases(store: Store) -> dict[str, Version]:
    """Every alias in use and what it names now."""
    found = ((name, current(store, name)) for name in alias_names(store))
    return {name: version for name, version in found if version is not None}


def alias_names(store: Store) -> list[str]:
    """Every alias that ever named a version, sorted."""
    moves = (entry["facts"] for entry in store.decisions() if entry["action"] in MOVES)
    return sorted({facts["alias"] for facts in moves})


def resolve_version(store: Store, name: str) -> str:
    """The content hash of a version from an alias or from the start of its hash."""
    if "@" in name:
        if not ALIAS.fullmatch(name):
            raise BadInput(f"{name[:80]!r} is no alias", "NAME@ALIAS, as in reviews@production")
        version = current(store, name)
        if version is None:
            known = aliases(store)
            cure = nearest(name, known) if known else "run a recipe that ends in promote"
            raise BadInput(f"nothing is behind {name!r}", "an alias in use", cure)
        return version.hash
    content = store.find(name)
    if not (store.artifact(content) / "version.json").exists():
        raise BadInput(f"{name!r} is no version", "the hash of a version", "see: lmwright show")
    return content


def model_in_store(store: Store, name: str) -> str:
    """The content hash of the artifact that a name of a recipe's ``artifacts`` means: the model
    that an alias names now or that a version binds, by the start of its hash; else the artifact."""
    if "@" in name:
        content = resolve_version(store, name)
    else:
        content = store.find(name) if len(name) < DIGITS else name
        if not (store.folder / "artifacts" / content / "version.json").exists():
            return content
    return str(read_version(store, content)["artifacts"].get("model", content))


def read_version(store: Store, content: str) -> dict[str, Any]:
    """What a version binds together."""
    return json.loads((store.artifact(content) / "version.json").read_bytes())


class Moved(Refused):
    """An alias was moved by somebody else between the look at it and the decision."""


def move(
    store: Store,
    alias: str,
    content: str,
    evidence: dict[str, Any],
    author: str = "",
    since: int | None = None,
) -> dict[str, Any]:
    """Put a version behind an alias and log why. Raises Refused when a source was withdrawn.

    ``since`` is the decision that put there what the version was compared with (0: nothing was
    there); Moved is raised when the alias was moved after it. None takes what comes.
    """
    if not ALIAS.fullmatch(alias):
        raise BadInput(f"{alias[:80]!r} is no alias", "NAME@ALIAS, as in reviews@production")

    def facts() -> dict[str, Any]:
        refuse_withdrawn(store, content)
        now = current(store, alias)
        if since is not None and since != (now.decision if now else 0):
            raise Moved(
                f"{alias} was moved meanwhile", "the alias as it was", "look at it, and try again"
            )
        before = now.hash if now else None
        return {"alias": alias, "version": content, "before": before, "evidence": evidence}

    return store.decide("promote", facts, author)


def roll_back(store: Store, alias: str, reason: str, author: str = "") -> dict[str, Any]:
    """Bring the version back that the alias named before the present one was put there.

    Rolling back twice goes back twice: versions that were rolled away are passed over.
    """

    def facts() -> dict[str, Any]:
        now, before = current(store, alias), former(store, alias)
        if not before:
            raise Refused(f"{alias} has no former version", "at least two promotions")
        if now is None:
            cure = "put one there: lmwright promote ALIAS VERSION --reason TEXT"
            raise Refused(f"nothing is behind {alias}", "an alias in use", cure)
        refuse_withdrawn(store, before)
        return {"alias": alias, "version": before, "before": now.hash, "reason": reason}

    return store.decide("rollback", facts, author)


def former(store: Store, alias: str) -> str:
    """The version that a roll-back would bring back; "" if there is none."""
    stack: list[str] = []
    for version in history(store, alias):
        if version.action == "rollback":
            stack.pop()
        else:
            stack.append(version.hash)
    return stack[-2] if len(stack) > 1 else ""


def retire(store: Store, alias: str, reason: str, author: str = "") -> dict[str, Any]:
    """Let an alias name nothing from now on; what it named stays, and can be promoted again."""

    def facts() -> dict[str, Any]:
        resolve_version(store, alias)
        now = current(store, alias)
        assert now is not None
        return {"alias": alias, "before": now.hash, "reason": reason}

    if "@" not in alias:
        raise BadInput(f"{alias[:80]!r} is no alias", "NAME@ALIAS, as in reviews@production")
    return store.decide(RETIRE, facts, author)


def ancestors(store: Store, content: str) -> list[Result]:
    """Every result that an artifact was made from, nearest first."""
    return closure(store, content, lambda r: r.inputs.values(), store.makers)


def descendants(store: Store, content: str) -> list[Result]:
    """Every result that was made from an artifact, nearest first."""
    return closure(store, content, lambda r: r.outputs.values(), store.users)


def closure(store: Store, content: str, onward: Any, step: Any) -> list[Result]:
    """Follow edges in one direction, each result once."""
    found: dict[tuple[str, int], Result] = {}
    todo: list[str] = [content]
    seen: set[str] = set()
    while todo:
        place = todo.pop(0)
        if place in seen:
            continue
        seen.add(place)
        for result in step(place):
            found.setdefault((result.stamp, result.attempt), result)
            todo += onward(result)
    return list(found.values())


def sources_of(store: Store, content: str) -> set[str]:
    """The names of the data sources that an artifact learnt from."""
    facts = (result.facts.get("learns_from", []) for result in ancestors(store, content))
    return {source for names in facts for source in names}


def withdrawn(store: Store) -> set[str]:
    """The sources that are withdrawn: those that were, and were not reinstated since."""
    last = {
        entry["facts"]["source"]: entry["action"]
        for entry in store.decisions()
        if entry["action"] in ("withdraw", "reinstate")
    }
    return {source for source, action in last.items() if action == "withdraw"}


def reinstate(store: Store, name: str, reason: str, author: str = "") -> dict[str, Any]:
    """Take the withdrawal of a source back: what learnt from it may be promoted again."""

    def facts() -> dict[str, Any]:
        known, source = withdrawn(store), source_called(store, name)
        if source not in known:
            cure = nearest(source, known) if known else "see: lmwright lineage SOURCE"
            raise BadInput(f"{source!r} is not withdrawn", "a withdrawn source", cure)
        return {"source": source, "reason": reason}

    if not reason.strip():
        raise BadInput("no reason is given", "why it may be learnt from again", "add --reason TEXT")
    return store.decide("reinstate", facts, author)


def refuse_withdrawn(store: Store, content: str) -> None:
    """Raise Refused when an artifact learnt from a withdrawn source."""
    barred = sources_of(store, content) & withdrawn(store)
    if barred:
        raise Refused(
            f"version {content[:16]} learnt from {', '.join(sorted(barred))}, which was withdrawn",
            "a version trained without it",
            "take the source out of the recipe and run it again, or: lmwright reinstate SOURCE",
        )


def source_called(store: Store, name: str) -> str:
    """The source that a name means: a base goes by its address, or its artifact's hash, too.

    BadInput where an address named several bases in turn.
    """
    found = {
        source
        for result in store.all_results()
        if "address" in result.facts
        and (name == result.facts["address"] or name in shortened(result.outputs.values(), name))
        for source in result.facts["learns_from"]
    }
    if len(found) > 1:
        raise BadInput(
            f"{len(found)} bases were called {name!r}: {', '.join(sorted(found))}",
            "one base",
            "name one of these",
        )
    return next(iter(found), name)


def shortened(contents: Iterable[str], name: str) -> set[str]:
    """The hashes cut to the length of a name that has as many digits as the start of one."""
    return {content[: len(name)] for content in contents} if len(name) >= FEWEST_DIGITS else set()


def withdraw(
    store: Store, source: str, reason: str, author: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Withdraw a source; returns the log entry and the artifacts that must be made anew."""
    source = source_called(store, source)
    touched = learnt_from(store, source)
    known = {name for result in store.all_results() for name in result.facts.get("learns_from", [])}
    if source not in known:
        cure = nearest(source, known) if known else "run a recipe first"
        raise BadInput(f"no result here learnt from {source!r}", "a known source", cure)
    entry = store.decide("withdraw", {"source": source, "reason": reason}, author)
    return entry, touched


def learnt_from(store: Store, source: str) -> list[str]:
    """The artifacts that hold a source or were made from what holds it."""
    touched: dict[str, None] = {}
    for result in store.all_results():
        if source not in result.facts.get("learns_from", []):
            continue
        for content in result.outputs.values():
            touched[content] = None
            touched.update(dict.fromkeys(output_hashes(descendants(store, content))))
    return list(touched)


def output_hashes(found: Iterable[Result]) -> list[str]:
    """The content hashes that results gave."""
    return [content for result in found for content in result.outputs.values()]
