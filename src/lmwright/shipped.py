"""Recipes that are shipped: in the package where it is installed, beside it in its repository."""

from __future__ import annotations

from pathlib import Path

from lmwright.assets import RECIPES
from lmwright.core.durable import write_bytes
from lmwright.core.errors import BadInput, nearest

SUFFIX = ".yaml"


def shipped_recipes() -> dict[str, Path]:
    """The recipes by their names, which are those of their files."""
    return {path.stem: path for path in sorted(RECIPES.glob(f"*{SUFFIX}"))}


def sentence_of(path: Path) -> str:
    """What a recipe is for: the comment on its first line."""
    with path.open(encoding="utf-8") as lines:
        return lines.readline().removeprefix("#").strip()


def with_bases(name: str) -> list[Path]:
    """The files of a recipe and of those that it extends; BadInput if none is called so."""
    known = shipped_recipes()
    if name not in known:
        raise BadInput(
            f"no shipped recipe is called {name!r}", "a shipped one", nearest(name, known)
        )
    found = [known[name]]
    while base := extended(found[-1]):
        found.append(base)
    return found


def extended(path: Path) -> Path | None:
    """The recipe that one extends, in its own folder."""
    for line in path.read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        if key == "extends":
            return path.with_name(value.strip())
    return None


def write_recipes(name: str, folder: Path) -> list[Path]:
    """Write a shipped recipe, and those that it extends, into a folder.

    A file that is there already and says the same stays; BadInput if it says something else.
    """
    sources = with_bases(name)
    for source in sources:
        path = folder / source.name
        if path.exists() and path.read_bytes() != source.read_bytes():
            raise BadInput(f"{path} is there already", "a folder without it", "move it away first")
    for source in sources:
        write_bytes(folder / source.name, source.read_bytes())
    return [folder / source.name for source in sources]
