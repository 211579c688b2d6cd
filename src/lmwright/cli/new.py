"""``lmwright new``: a shipped recipe, written into the present folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmwright.shipped import sentence_of, shipped_recipes, write_recipes


def new(
    name: Annotated[
        str, typer.Argument(help="A shipped recipe; without one those that there are.")
    ] = "",
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path(),
) -> None:
    """Write a recipe that is shipped, with those that it extends, as files of your own."""
    if not name:
        known = shipped_recipes()
        width = max(map(len, known))
        for each, path in known.items():
            print(f"{each:<{width}}  {sentence_of(path)}")
        return
    written = write_recipes(name, out)
    for path in written:
        print(f"{path} is written")
    print(f"next: lmwright plan {written[0]}")
