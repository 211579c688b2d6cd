"""Progress for a person: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

QUIET = 5.0
"""Seconds between lines where there is no terminal."""


class Lines:
    """Shows a run. On a terminal the last line is redrawn; elsewhere lines are few."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.last = 0.0
        self.began = time.monotonic()

    def begin(self, step: str, state: str) -> None:
        """A stage starts, or waits."""
        if state == "running":
            self.line(f"{step}: running")

    def progress(self, step: str, done: float, total: float, note: str) -> None:
        """A stage is ``done`` of ``total`` on its way."""
        now = time.monotonic()
        if now - self.last < (0.1 if self.live else QUIET):
            return
        self.last = now
        share = min(done / total, 1.0) if total else 0.0
        bar = "█" * int(share * 24) + "·" * (24 - int(share * 24))
        text = f"  {step:<10} {bar} {share:>4.0%} {note}"
        if self.live:
            print(f"\r\x1b[2K{text[:110]}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self, step: str, state: str, seconds: float, facts: Mapping[str, Any]) -> None:
        """A stage is finished; its headline, if it has one, stands beside it."""
        headline = facts.get("headline") or ""
        words = headline["line"] if isinstance(headline, dict) else headline
        self.line(f"{step}: {state} ({seconds:.1f} s) {words}".rstrip())

    def line(self, text: str) -> None:
        """One line that stays, with the seconds since the start."""
        clear = "\r\x1b[2K" if self.live else ""
        at = time.monotonic() - self.began
        print(f"{clear}[{at:6.1f} s] {text}", file=sys.stderr, flush=True)
