"""Makes language models and keeps them good."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmwright.api.models import load
    from lmwright.api.recipes import advise, check, plan, report, run
    from lmwright.api.search import open_index

__version__ = "0.1.0"
__all__ = ["advise", "check", "load", "open_index", "plan", "report", "run"]

NAMES = {
    "advise": "lmwright.api.recipes",
    "check": "lmwright.api.recipes",
    "load": "lmwright.api.models",
    "open_index": "lmwright.api.search",
    "plan": "lmwright.api.recipes",
    "report": "lmwright.api.recipes",
    "run": "lmwright.api.recipes",
}
"""What ``import lmwright`` offers and the module that defines it, imported at its first use."""


def __getattr__(name: str) -> Any:
    """What a name of the table stands for (PEP 562)."""
    if name not in NAMES:
        raise AttributeError(f"module 'lmwright' has no attribute {name!r}")
    return getattr(import_module(NAMES[name]), name)


def __dir__() -> list[str]:
    """The names of the table beside those that are here."""
    return sorted({*globals(), *NAMES})


class Folder(ModuleType):
    """A folder that is called like a name of the table: once imported it stands in its place."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call what the table says."""
        return __getattr__(self.__name__.rpartition(".")[2])(*given, **named)


class Package(ModuleType):
    """This package: a folder that is bound to a name of the table can be called like it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in NAMES and isinstance(value, ModuleType):
            value.__class__ = Folder
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = Package
