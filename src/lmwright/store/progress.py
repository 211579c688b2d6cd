"""Progress for a person: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

QUIET = 5.0
"""Seconds between lines where there is no terminal, at least."""
SAME = 60.0
"""Seconds after which a line comes again there, though nothing moved."""
TRUSTED = 20.0
"""Seconds of work from which the time that is left is told."""


class Lines:
    """Shows a run. On a terminal the last line is redrawn; elsewhere lines are few."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.last = 0.0
        self.shown = ""
        self.stages: set[str] = set()
        self.first: dict[str, tuple[float, float]] = {}
        self.began = time.monotonic()

    def start(self, run: str) -> None:
        """A run starts; its first stage says so."""

    def begin(self, step: str, state: str) -> None:
        """A stage starts, or waits."""
        self.line(f"{step}: {state}")
        if state == "running":
            self.stages.add(step)

    def progress(self, step: str, done: float, total: float, note: str) -> None:
        """A stage is ``done`` of ``total`` on its way."""
        now = time.monotonic()
        share = min(done / total, 1.0) if total else 0.0
        since, from_share = self.first.setdefault(step, (now, share))
        if now - self.last < (0.1 if self.live else QUIET):
            return
        bar = "█" * int(share * 24) + "·" * (24 - int(share * 24))
        text = f"  {step:<10} {bar} {share:>4.0%} {note}".rstrip()
        if not self.live and text == self.shown and now - self.last < SAME:
            return
        self.last, self.shown = now, text
        # Of a stage only: the pace of traffic says nothing of how long the loop will take.
        if step in self.stages:
            text += left(now - since, share - from_share, 1 - share)
        if self.live:
            print(f"\r\x1b[2K{text[:110]}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self, step: str, state: str, seconds: float, facts: Mapping[str, Any]) -> None:
        """A stage is finished; its headline, if it has one, stands beside it."""
        headline = facts.get("headline") or ""
        words = headline
        if isinstance(headline, dict):
            words = f"{headline['line']} {headline.get('scores', '')}"
        self.line(f"{step}: {state} ({seconds:.1f} s) {words}".rstrip())

    def line(self, text: str) -> None:
        """One line that stays, with the seconds since the start."""
        clear = "\r\x1b[2K" if self.live else ""
        at = time.monotonic() - self.began
        print(f"{clear}[{at:6.1f} s] {text}", file=sys.stderr, flush=True)


def left(seconds: float, moved: float, ahead: float) -> str:
    """How long the rest takes at the pace so far; nothing while that is not to be trusted."""
    if seconds < TRUSTED or moved <= 0 or ahead <= 0:
        return ""
    rest = seconds / moved * ahead
    return f", {rest / 60:.0f} min left" if rest >= 90 else f", {rest:.0f} s left"
