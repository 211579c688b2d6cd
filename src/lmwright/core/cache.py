"""Where a person's machine keeps what can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """The folder ``lmwright`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; it need not exist yet."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lmwright"
