"""The section decisions: what the gate decided and why, and the decision log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmwright.draw import charts
from lmwright.report.evidence import Evidence
from lmwright.report.metrics import called, written_as
from lmwright.report.strips import span
from lmwright.report.words import WRITTEN, told


def gate_section(evidence: Evidence, log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The gate's decisions on this recipe's aliases, with every condition and its evidence."""
    found = []
    for entry in log:
        facts = entry["facts"]
        conditions = facts.get("evidence", {}).get("conditions")
        if conditions and str(facts.get("alias", "")).partition("@")[0] == evidence.recipe:
            whole = [bounds(condition) for condition in conditions]
            low, high = span([each["value"] for each in whole if each["value"]])
            for each in whole:
                if each["value"]:
                    words = f"{each['name']}: {told(each['value'], 'signed')}"
                    each["strip"] = charts.strip(
                        each["value"], low, high, words, "s1", [0.0, each["margin"]]
                    )
            found.append({**entry, "conditions": whole})
    return found


def bounds(condition: Mapping[str, Any]) -> dict[str, Any]:
    """A condition with the interval that it was judged by, if it has one."""
    evidence = condition["evidence"]
    value = None
    if evidence.get("difference") is not None:
        value = {
            "estimate": evidence["difference"],
            "low": evidence.get("lower"),
            "high": evidence.get("upper"),
        }
    margin = evidence.get("margin", 0.0)
    return {**condition, "value": value, "margin": margin, "strip": "", "beside": beside(evidence)}


def beside(evidence: Mapping[str, Any]) -> list[str]:
    """The mean losses of both models in words."""
    found = []
    for name, pair in evidence.get("losses", {}).items():
        mine, its = (WRITTEN[written_as(name)](value) for value in pair)
        found.append(f"{called(name)} {mine}, the other {its}")
    return found


def log_section(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The decision log of the store, newest first, and the hash of its head."""
    return {
        "head": log[-1]["hash"] if log else None,
        "entries": [
            {
                **{key: entry[key] for key in ("number", "time", "author", "action", "hash")},
                "about": entry["facts"].get("alias") or entry["facts"].get("source", ""),
                "version": str(entry["facts"].get("version", ""))[:16],
                "reason": entry["facts"].get("reason")
                or entry["facts"].get("evidence", {}).get("by_hand")
                or gate_words(entry["facts"].get("evidence", {}).get("conditions")),
            }
            for entry in reversed(log)
        ],
    }


def gate_words(conditions: Sequence[Mapping[str, Any]] | None) -> str:
    """How many of the gate's conditions held."""
    if not conditions:
        return ""
    held = sum(condition["passed"] for condition in conditions)
    return f"{held} of {len(conditions)} conditions hold"
