"""A source file cut into its statements: what each defines, does, mentions and imports.

Cutting and digesting a hundred files takes a second, in every process that makes a stamp. So
the pieces of a text are kept in the user's cache, under the hash of the text; a cache that
cannot be read or written only costs that second.
"""

from __future__ import annotations

import ast
import json
import os
import platform
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from threading import Lock

from lmwright.core.cache import user_cache
from lmwright.core.durable import write_bytes
from lmwright.core.hashing import hash_bytes

MOST = 1000
"""Texts that are kept; when there are more, those that this process did not ask for go."""


OWN = hash_bytes(Path(__file__).read_bytes())
"""The hash of this file as it was loaded: later it may be another, and this process the old one."""


@dataclass(frozen=True)
class Piece:
    """A top-level statement.

    ``digest`` is of its syntax tree, docstrings left out; that of an import is empty.
    ``mentions`` are all bare names, also those inside quoted annotations; a name of which only an
    attribute is taken stands as ``name.attribute``. ``imports`` are
    (module, name, local name); of a plain ``import a.b`` the name is empty.
    """

    defines: list[str]
    digest: str
    mentions: list[str]
    imports: list[tuple[str, str, str]]


class Kept:
    """The pieces of texts, from the cache and from this process."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, Lock()
        self.found: dict[str, list[Piece]] = read(path)
        self.asked: set[str] = set()
        self.new = False

    def pieces(self, text: str) -> list[Piece]:
        """The pieces of a source text."""
        key = hash_bytes(text.encode())
        with self.lock:
            self.asked.add(key)
            if key not in self.found:
                self.found[key] = cut(text)
                self.new = True
            return self.found[key]

    def write(self) -> None:
        """Write what has come anew; where that is not possible, nothing is lost but time."""
        with self.lock:
            if not self.new:
                return
            if len(self.found) > MOST:
                self.found = {key: self.found[key] for key in self.asked}
            rows = {key: [astuple(one) for one in pieces] for key, pieces in self.found.items()}
            body = json.dumps(rows).encode()
            with suppress(OSError):
                write_bytes(self.path, hash_bytes(body).encode() + b"\n" + body)
            self.new = False


@cache
def kept(path: Path) -> Kept:
    """What this process knows of one file of the cache."""
    return Kept(path)


def cache_file() -> Path:
    """The file for this Python and this way of cutting, for the digests depend on both."""
    try:
        folder = user_cache()
        home = folder.parent.parent.is_dir()
    except (RuntimeError, OSError):  # nobody knows where this user is at home, or it is closed
        home = False
    if not home:  # and one that is not there is not for us to make
        folder = Path(os.devnull)
    return folder / f"code-{platform.python_version()}-{OWN[:16]}.json"


def read(path: Path) -> dict[str, list[Piece]]:
    """What a cache file holds: nothing, if it is not what was written."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if hash_bytes(body).encode() != digest:
        return {}
    return {
        key: [Piece(d, digest, m, [(a, b, c) for a, b, c in i]) for d, digest, m, i in rows]
        for key, rows in json.loads(body).items()
    }


def cut(text: str) -> list[Piece]:
    """The statements of a source text; lone strings are none."""
    return [piece(each) for each in ast.parse(text).body if not is_string(each)]


def piece(statement: ast.stmt) -> Piece:
    """Go through a statement once, and drop the docstrings and other lone strings inside it."""
    mentions: set[str] = set()
    imports: list[tuple[str, str, str]] = []
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            mentions.add(f"{node.value.id}.{node.attr}")
            continue
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not is_string(each)]  # type: ignore[attr-defined]
        if isinstance(node, ast.Name):
            mentions.add(node.id)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and node.value.isidentifier():
                mentions.add(node.value)
        elif isinstance(node, ast.Import):
            imports += [(one.name, "", one.asname or "") for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports += [(node.module, one.name, one.asname or one.name) for one in node.names]
        todo += ast.iter_child_nodes(node)
    lone = isinstance(statement, ast.Import | ast.ImportFrom)
    digest = "" if lone else hash_bytes(ast.dump(statement).encode())
    return Piece(defined(statement), digest, sorted(mentions), imports)


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


def is_string(statement: ast.AST) -> bool:
    """Whether a statement is a lone string: a docstring or a note under a constant."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
