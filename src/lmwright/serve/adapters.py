"""Adapters of PEFT in a folder, which a server answers with beside the model they stand on."""

from __future__ import annotations

import re
from pathlib import Path

from lmwright.core.errors import BadInput
from lmwright.models.adapters import is_adapter, with_adapter
from lmwright.models.network.network import Network
from lmwright.models.text_model import TextModel
from lmwright.serve.shelf import Shelf

NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
"""The names of folders that are asked for: none leads to another place."""


class Adapters:
    """The adapters in a folder (None: there are none), on the model called ``base`` of a shelf.

    They come and go while the server runs: a folder that is put there is read when it is first
    asked for, and again after its files have changed. BadInput for a folder that is none.
    """

    def __init__(self, folder: str | None, base: str, shelf: Shelf) -> None:
        self.folder = None if folder is None else Path(folder)
        self.base, self.shelf = base, shelf
        if self.folder is not None and not self.folder.is_dir():
            raise BadInput(
                f"serve.adapters is {folder}",
                "a folder with a folder for each adapter",
                "make it, or leave serve.adapters out",
            )

    def names(self) -> list[str]:
        """Those that are there now."""
        if self.folder is None:
            return []
        return sorted(each.name for each in self.folder.iterdir() if self.place(each.name))

    def place(self, name: str) -> Path | None:
        """The folder of an adapter; None where there is none of that name."""
        if self.folder is None or not NAME.fullmatch(name):
            return None
        found = self.folder / name
        inside = found.resolve().parent == self.folder.resolve()
        return found if inside and is_adapter(found) else None

    def renew(self, name: str) -> bool:
        """Whether there is an adapter of that name; it is read anew if its files have changed."""
        if (place := self.place(name)) is None:
            return False
        files = sorted(place.iterdir())
        stamp = [(each.name, each.stat().st_mtime_ns, each.stat().st_size) for each in files]
        self.shelf.renew(name, lambda: self.load(place), stamp)
        return True

    def load(self, place: Path) -> TextModel[Network]:
        """The base with an adapter; BadInput for a base that is run by another library."""
        base = self.shelf.take(self.base)
        try:
            if not isinstance(base.network, Network):
                raise BadInput(f"{self.base} is run by another library", "a model of our core")
            return with_adapter(base, place)
        finally:
            self.shelf.give(self.base)
