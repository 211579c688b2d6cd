"""The journal of a run: one JSON line per event, appended, readable after any kill."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmwright.core.hashing import encoded


class Journal:
    """Appends events to one file. A line is written by one call, so lines never mix."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.began = time.monotonic()
        if path.stat().st_size and path.read_bytes()[-1:] != b"\n":
            os.write(self.handle, b"\n")  # a kill cut the last line; keep the next one whole

    def record(self, event: str, **facts: Any) -> None:
        """Append ``event`` with its facts, the wall time and the seconds since the start."""
        line = {"event": event, "time": round(time.time(), 3)}
        line["at"] = round(time.monotonic() - self.began, 3)
        text = json.dumps({**line, **facts}, ensure_ascii=False, default=str)
        os.write(self.handle, encoded(text) + b"\n")

    def sync(self) -> None:
        """Make everything recorded so far durable."""
        os.fsync(self.handle)

    def close(self) -> None:
        """Sync and let go of the file."""
        self.sync()
        os.close(self.handle)


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a journal in order; a line that a kill cut short is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event
