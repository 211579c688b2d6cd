"""Names of the loop's states in a store, for those who keep them and those who show them."""

from __future__ import annotations

from typing import Any

from lmwright.store.store import Store


def alarms_name(alias: str) -> str:
    """Under which name the deliveries of an alias's alarms are kept."""
    return f"alarms {alias}"


def alarms_of(store: Store, alias: str) -> dict[str, Any] | None:
    """How many alarms were sent, wait, and failed for good, and the last of these; None: none."""
    kept = store.state(alarms_name(alias))
    if kept is None:
        return None
    return {**kept, "pending": len(kept["pending"])}
