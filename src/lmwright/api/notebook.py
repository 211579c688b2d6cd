"""Pages inside a notebook, and the progress of a run as it goes on. IPython is never imported."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lmwright.report.run import run_page
from lmwright.store.progress import Lines
from lmwright.store.run import Shown
from lmwright.store.store import Store

REDRAWN = 1.0
"""Seconds between two drawings of the same run, at least."""

Display = Callable[..., Any]
"""``IPython.display.display``."""


def framed(page: str, height: int) -> str:
    """A whole page as an element of a notebook, whose styles it neither takes nor changes."""
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="" loading="lazy" '
        f'style="width:100%;height:{height}px;border:0"></iframe>'
    )


def notebook_display() -> Display | None:
    """The function by which a notebook shows something; None outside of one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if ipython is None or getattr(shell, "kernel", None) is None:
        return None
    found: Display = ipython.display.display
    return found


@contextmanager
def shown_here(store: Store) -> Iterator[Shown]:
    """Where the progress of a run is shown: in the cell of a notebook, else on stderr."""
    display = notebook_display()
    if display is None:
        yield Lines()
        return
    inline = Inline(store, display)
    try:
        yield inline
    finally:
        inline.draw()  # how it ended, well or not


class Inline:
    """Shows a run in a notebook's cell, drawn anew while it works."""

    def __init__(self, store: Store, display: Display) -> None:
        self.store, self.display = store, display
        self.run = ""
        self.shares: dict[str, tuple[float, str]] = {}
        self.handle: Any = None
        self.drawn = float("-inf")

    def _repr_html_(self) -> str:
        return framed(run_page(self.store, self.run, self.shares), 620)

    def start(self, run: str) -> None:
        """Show the run for the first time."""
        self.run = run
        self.handle = self.display(self, display_id=True)

    def begin(self, step: str, state: str) -> None:
        """A stage starts, or waits."""
        self.shares[step] = (0.0, "" if state == "running" else state)
        self.draw()

    def progress(self, step: str, done: float, total: float, note: str) -> None:
        """A stage is ``done`` of ``total`` on its way."""
        self.shares[step] = (min(done / total, 1.0) if total else 0.0, note)
        if time.monotonic() - self.drawn >= REDRAWN:
            self.draw()

    def end(self, step: str, state: str, seconds: float, facts: Mapping[str, Any]) -> None:
        """A stage is finished."""
        self.draw()

    def draw(self) -> None:
        """Draw the run as it is now in the place of what is shown."""
        self.drawn = time.monotonic()
        if self.handle is not None:
            self.handle.update(self)
