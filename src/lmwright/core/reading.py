"""Files that must hold what their readers expect of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmwright.core.errors import Corrupt

FETCH_AGAIN = "fetch or copy the file again"


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object; Corrupt if it is absent or holds anything else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"{path}: {error}", "a JSON object", FETCH_AGAIN) from None
    if not isinstance(value, dict):
        raise Corrupt(f"{path} holds no JSON object", "a JSON object", FETCH_AGAIN)
    return value
