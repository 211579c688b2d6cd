"""Configurations of other tools, told by their content and written as recipes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmwright.core.durable import write_bytes
from lmwright.core.errors import BadInput
from lmwright.core.finding import Finding
from lmwright.core.recipe import LONGEST_NAME, located, make_recipe
from lmwright.core.yaml12 import parse_yaml, write_yaml
from lmwright.plan.config import Config, Tool, recipe_of
from lmwright.tables import SECTIONS, entries, resolve

SUFFIXES = (".yaml", ".yml")
LARGEST = 1 << 20
"""Bytes of a configuration, at most."""


@dataclass(frozen=True)
class Brought:
    """A recipe that was made of a configuration: where it is written, its text, and what was found
    on the way, the worst first."""

    path: Path
    body: str
    findings: tuple[Finding, ...]


def tool_of(path: Path) -> tuple[Tool, Mapping[str, Any]] | None:
    """The tool whose configuration a file is, and its values; None for any other file."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return None
    if path.stat().st_size > LARGEST:
        return None
    try:
        values = parse_yaml(path.read_text("utf-8"), str(path))
    except UnicodeDecodeError:
        return None
    if not isinstance(values, dict) or "stages" in values:
        return None
    for name in entries("configs"):
        tool: Tool = resolve("configs", name)
        if tool.is_config(values):
            return tool, values
    return None


def recipe_name(path: Path) -> str:
    """A recipe's name after that of a file."""
    name = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")
    return name[:LONGEST_NAME].strip("-_") or "mine"


def bring(path: Path, out: Path | None = None, rows: Mapping[str, str] | None = None) -> Brought:
    """Write the recipe of a configuration beside it as ``NAME-recipe.yaml``, or to ``out``.

    ``rows`` are files of this machine for data sets that the configuration names otherwise.
    A file with the same recipe stays. BadInput for a file that is no configuration or no recipe
    can be made of, and for another file where the recipe should be.
    """
    found = tool_of(path)
    if found is None:
        raise BadInput(
            f"{path} is no configuration of {', '.join(entries('configs'))}", "such a file"
        )
    tool, values = found
    place = out or path.parent / f"{recipe_name(path)}-recipe.yaml"
    config = Config(tool, path, values, rows or {}, place.parent)
    recipe = {"name": recipe_name(path), **recipe_of(config, tool.read(config))}
    config.unread()
    findings = sorted(config.findings, key=lambda each: ("stop", "warn", "note").index(each.word))
    told = [f"Made of {path.name}, a configuration of {tool.title}.", *map(Finding.line, findings)]
    body = "".join(f"# {' '.join(line.split())}\n" for line in told) + write_yaml(recipe)
    refuse(body, place, path)
    if not place.exists():
        write_bytes(place, body.encode())
    elif place.read_bytes() != body.encode():
        raise BadInput(
            f"{place} is there already, and is not what {path} says",
            "a new file",
            f"lmwright check {place}, or remove it, or write another with lmwright init --out",
        )
    return Brought(place, body, tuple(findings))


def refuse(body: str, place: Path, path: Path) -> None:
    """BadInput, which names the configuration, for a recipe that could not be read back."""
    try:
        raw = located(parse_yaml(body, str(place)), {}, place.parent, resolve)
        make_recipe(raw, str(place), resolve, SECTIONS)
    except BadInput as error:
        raise BadInput(
            f"{path} as a recipe: {error.found.removeprefix(f'{place}: ')}",
            error.wanted,
            error.cure or f"correct {path}",
        ) from None
