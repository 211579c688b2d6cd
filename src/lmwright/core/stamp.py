"""The stamp: the name of a result, made of everything that can change its bits.

It hashes the stage's kind and settings, the content of its inputs, the code that it can reach
and the versions of the libraries that this code imports. Nothing timed or dated enters.

Code is followed definition by definition: from the stage's class to every function, class and
constant of ours that it names, and onwards through imports. A comment or docstring is no code.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lmwright.core.code import Piece, cache_file, kept
from lmwright.core.hashing import hash_json
from lmwright.core.stage import Stage

OURS = "lmwright"
LIBRARIES = {
    "ftfy": "ftfy",
    "numpy": "numpy",
    "py3langid": "py3langid",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tokenizers": "tokenizers",
    "torch": "torch",
}
"""Imported name -> distribution, for the libraries whose version can change bits."""

TABLES = "lmwright.tables"
"""Not followed: a table names every leaf, and a stage lists those it picks in ``reaches``."""


@dataclass(frozen=True)
class Stamp:
    """A result's name and the parts that it was made of, kept to explain why one is stale."""

    hash: str
    parts: dict[str, Any]


def stamp_of(
    stage: Stage, kind: str, inputs: Mapping[str, str], folders: Mapping[str, Path]
) -> Stamp:
    """The stamp of ``stage`` on ``inputs`` (artifact name -> content hash).

    ``folders`` are the artifacts' own: they name the code that reads them (a model its kind).
    """
    home = type(stage).__module__
    code, libraries = reachable([(home, type(stage).__name__)], stage.reaches(folders))
    parts = {
        "kind": kind,
        "settings": {**settings_of(stage), **stage.resolved()},
        "inputs": dict(inputs),
        "reads": stage.reads(),
        "code": code,
        "libraries": {name: installed(name) for name in sorted(libraries)},
        "python": ".".join(platform.python_version_tuple()[:2]),
    }
    return Stamp(hash_json(parts), parts)


def settings_of(stage: Stage) -> dict[str, Any]:
    """The settings that can change a result, as JSON values."""
    dumped = TypeAdapter(type(stage)).dump_python(stage, mode="json", warnings=False)
    values: dict[str, Any] = without_inert(stage, dumped)
    for name in values:
        kind = getattr(getattr(stage, name), "kind", None)
        if isinstance(kind, str) and isinstance(values[name], dict):
            values[name] = {"kind": kind, **values[name]}
    return values


def without_inert(value: Any, dumped: Any) -> Any:
    """The JSON value of settings without the fields that cannot change a result, at any depth."""
    if dataclasses.is_dataclass(value) and isinstance(dumped, dict):
        inert = {field.name for field in dataclasses.fields(value) if field.metadata.get("inert")}
        return {
            name: without_inert(getattr(value, name, None), each)
            for name, each in dumped.items()
            if name not in inert
        }
    if isinstance(value, tuple | list) and isinstance(dumped, list):
        return [without_inert(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which parts of two stamps differ, in words (``code lmwright.train.loop:step``)."""
    words = []
    for part in ("settings", "inputs", "reads", "code", "libraries"):
        was, now = old.get(part, {}), new.get(part, {})
        changed = {k for k in {*was, *now} if was.get(k) != now.get(k)}
        words += [f"{part} {name}" for name in sorted(changed)]
    if old.get("python") != new.get("python"):
        words.append("python")
    return words


def reachable(
    starts: Iterable[tuple[str, str]], modules: Iterable[str] = ()
) -> tuple[dict[str, str], set[str]]:
    """Follow the code from definitions (and whole modules) of ours.

    Returns ``module:definition`` -> hash of its syntax tree, and the distributions imported on
    the way. Statements of a module that are no definition run at import, so they always count.
    """
    todo = list(starts) + [(name, "*") for name in modules]
    seen: set[tuple[str, str]] = set()
    found: dict[str, str] = {}
    libraries: set[str] = set()
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        name, wanted = place
        source = find_source(name)
        if source is None or name == TABLES:
            continue
        module = parse(name, source, source.stat().st_mtime_ns)
        todo.append((name, ""))
        if wanted == "":
            libraries |= module.libraries
            always = module.definition("")
            found[f"{name}:"] = always.digest
            todo += always.uses + [(other, "") for other in module.imported]
        elif wanted == "*":
            todo += [(name, one) for one in module.definitions]
        elif wanted in module.definitions:
            definition = module.definition(wanted)
            found[f"{name}:{wanted}"] = definition.digest
            todo += definition.uses
        elif wanted in module.names:
            todo.append(module.names[wanted])
        else:  # made by a statement that defines no single name
            todo.append((name, "*"))
    kept(cache_file()).write()
    return dict(sorted(found.items())), libraries


@dataclass(frozen=True)
class Definition:
    """The digest of a piece of code and the definitions of ours that it names."""

    digest: str
    uses: list[tuple[str, str]]


class Module:
    """One file of ours, as its definitions."""

    def __init__(self, name: str, path: Path) -> None:
        pieces = kept(cache_file()).pieces(path.read_text(encoding="utf-8"))
        self.package = name.partition(".")[0]
        self.names, self.imported, self.libraries = imported(pieces, self.package)
        self.definitions: dict[str, list[Piece]] = {}
        self.rest: list[Piece] = []
        for one in pieces:
            if one.digest and not one.defines:
                self.rest.append(one)
            for target in one.defines:
                self.definitions.setdefault(target, []).append(one)
        self.scope = {**self.names, **{target: (name, target) for target in self.definitions}}
        self.digested: dict[str, Definition] = {}

    def definition(self, name: str) -> Definition:
        """A definition, by its name; ``""`` is all statements that are none and so always run."""
        if name not in self.digested:
            self.digested[name] = self.digest(self.definitions[name] if name else self.rest)
        return self.digested[name]

    def digest(self, body: list[Piece]) -> Definition:
        """One digest of ``body``, and what it names of the module and of its own imports."""
        local = imported(body, self.package)[0]
        known = {**self.scope, **local}
        uses = {place for part in body for place in used(part.mentions, known)}
        uses |= {place for place in local.values() if place[1] != "*"}
        return Definition(hash_json([part.digest for part in body]), sorted(uses))


def used(
    mentions: Iterable[str], known: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """The definitions that are mentioned; of a module by name, the attributes that are taken."""
    for mention in mentions:
        name, _, attribute = mention.partition(".")
        if name in known:
            module, wanted = known[name]
            yield module, attribute if attribute and wanted == "*" else wanted


@lru_cache(maxsize=4096)
def parse(name: str, path: Path, changed: int) -> Module:
    """Read a module of ours. ``changed`` (its modification time) only keys the cache."""
    return Module(name, path)


def imported(
    pieces: Iterable[Piece], package: str = OURS
) -> tuple[dict[str, tuple[str, str]], set[str], set[str]]:
    """Local name -> (module of ours, definition), modules of ours, distributions of others.

    Those of ``package``, in which the pieces stand, are ours too: it may be a stranger's.
    """
    names: dict[str, tuple[str, str]] = {}
    modules: set[str] = set()
    libraries: set[str] = set()
    for module, name, local in (each for one in pieces for each in one.imports):
        top = module.partition(".")[0]
        if top in LIBRARIES:
            libraries.add(LIBRARIES[top])
        if top not in (OURS, package):
            continue
        whole = f"{module}.{name}" if name else module
        place = (module, name) if name and not find_source(whole) else (whole, "*")
        names[local or top] = place
        modules.add(place[0])
    return names, modules, libraries


@lru_cache(maxsize=4096)
def find_source(name: str) -> Path | None:
    """The file of a module of ours (or of a stage's own package), or None. Nothing is imported."""
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *rest)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


@lru_cache(maxsize=64)
def installed(distribution: str) -> str:
    """The installed version of a distribution, without a local build's suffix."""
    try:
        return version(distribution).partition("+")[0]
    except PackageNotFoundError:
        return "absent"
