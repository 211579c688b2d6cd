"""The stamp: the name of a result, made of everything that can change its bits.

It hashes the stage's kind and settings, the content of its inputs, the code that it can reach
and the versions of the libraries that this code imports. Nothing timed or dated enters.

Code is followed definition by definition: from the stage's class to every function, class and
constant of ours that it names, and onwards through imports. A comment or docstring is no code.
"""

from __future__ import annotations

import ast
import dataclasses
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lmwright.core.hashing import hash_bytes, hash_json
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


def stamp_of(stage: Stage, kind: str, inputs: Mapping[str, str]) -> Stamp:
    """The stamp of ``stage`` on ``inputs`` (artifact name -> content hash)."""
    home = type(stage).__module__
    code, libraries = reachable([(home, type(stage).__name__)], stage.reaches())
    parts = {
        "kind": kind,
        "settings": settings_of(stage),
        "inputs": dict(inputs),
        "reads": stage.reads(),
        "code": code,
        "libraries": {name: installed(name) for name in sorted(libraries)},
        "python": ".".join(platform.python_version_tuple()[:2]),
    }
    return Stamp(hash_json(parts), parts)


def settings_of(stage: Stage) -> dict[str, Any]:
    """The settings that can change a result, as JSON values."""
    values = TypeAdapter(type(stage)).dump_python(stage, mode="json")
    inert = {field.name for field in dataclasses.fields(stage) if field.metadata.get("inert")}
    return {name: value for name, value in values.items() if name not in inert}


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
            found[f"{name}:"] = module.always.digest
            todo += module.always.uses + [(imported, "") for imported in module.imported]
        elif wanted == "*":
            todo += [(name, one) for one in module.definitions]
        elif wanted in module.definitions:
            definition = module.definitions[wanted]
            found[f"{name}:{wanted}"] = definition.digest
            todo += definition.uses
        elif wanted in module.names:
            todo.append(module.names[wanted])
    return dict(sorted(found.items())), libraries


@dataclass(frozen=True)
class Definition:
    """The digest of a piece of code and the definitions of ours that it names."""

    digest: str
    uses: list[tuple[str, str]]


@dataclass(frozen=True)
class Module:
    """One file of ours, cut into its definitions."""

    definitions: dict[str, Definition]
    always: Definition
    names: dict[str, tuple[str, str]]
    imported: set[str]
    libraries: set[str]


@lru_cache(maxsize=4096)
def parse(name: str, path: Path, changed: int) -> Module:
    """Read a module of ours. ``changed`` (its modification time) only keys the cache."""
    root = without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
    names, imported, libraries = imports(root)
    pieces: dict[str, list[ast.stmt]] = {}
    always: list[ast.stmt] = []
    for statement in root.body:
        targets = defined(statement)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        if not targets:
            always.append(statement)
        for target in targets:
            pieces.setdefault(target, []).append(statement)
    inside = {target: (name, target) for target in pieces}
    scope = {**names, **inside}
    return Module(
        {target: definition(body, scope, imports_in(body)) for target, body in pieces.items()},
        definition(always, scope, imports_in(always)),
        names,
        imported,
        libraries,
    )


def defined(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement defines; none for one that just runs."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return []
    return [t.id for t in targets if isinstance(t, ast.Name)]


def definition(
    body: list[ast.stmt], scope: Mapping[str, tuple[str, str]], local: Mapping[str, tuple[str, str]]
) -> Definition:
    """Digest ``body`` and list what it names of ``scope`` and of its own imports."""
    known = {**scope, **local}
    uses = {known[name] for part in body for name in mentioned(part) if name in known}
    uses |= set(local.values())
    return Definition(hash_bytes("\n".join(map(ast.dump, body)).encode()), sorted(uses))


def mentioned(part: ast.stmt) -> set[str]:
    """Every bare name in a statement, also those inside quoted annotations."""
    names = {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}
    quoted = (n.value for n in ast.walk(part) if isinstance(n, ast.Constant))
    return names | {text for text in quoted if isinstance(text, str) and text.isidentifier()}


def imports(root: ast.AST) -> tuple[dict[str, tuple[str, str]], set[str], set[str]]:
    """Local name -> (module of ours, definition), modules of ours, distributions of others."""
    names: dict[str, tuple[str, str]] = {}
    imported: set[str] = set()
    libraries: set[str] = set()
    for node in ast.walk(root):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            top = node.module.partition(".")[0]
            if top == OURS:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    place = (whole, "*") if find_source(whole) else (node.module, alias.name)
                    names[alias.asname or alias.name] = place
                    imported.add(place[0])
            libraries |= {LIBRARIES[top]} if top in LIBRARIES else set()
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                if top == OURS:
                    names[alias.asname or top] = (alias.name, "*")
                    imported.add(alias.name)
                libraries |= {LIBRARIES[top]} if top in LIBRARIES else set()
    return names, imported, libraries


def imports_in(body: list[ast.stmt]) -> dict[str, tuple[str, str]]:
    """What the statements import themselves (inside a function, say)."""
    return imports(ast.Module(body=body, type_ignores=[]))[0]


def without_docstrings(root: ast.Module) -> ast.Module:
    """Drop the docstrings of a module, its classes and functions, and strings that do nothing."""
    for node in ast.walk(root):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not is_string(s)]  # type: ignore[attr-defined]
    return root


def is_string(statement: ast.AST) -> bool:
    """Whether a statement is a lone string: a docstring or a note under a constant."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


@lru_cache(maxsize=4096)
def find_source(name: str) -> Path | None:
    """The file of a module of ours (or of a stage's own package), or None."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


@lru_cache(maxsize=64)
def installed(distribution: str) -> str:
    """The installed version of a distribution, without a local build's suffix."""
    try:
        return version(distribution).partition("+")[0]
    except PackageNotFoundError:
        return "absent"
