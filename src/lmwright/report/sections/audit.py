"""The section audit: the verdicts with the figures behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.report.metrics import called, gap_written_as
from lmwright.report.strips import striped
from lmwright.report.words import answered, told


def audit_section(audited: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The verdicts with the figures behind each, drawn where there is an interval."""
    if audited is None:
        return None
    drawn = {"slices": gaps, "counterfactual": swaps, "perturbation": changes}
    return {
        "headline": audited["headline"],
        "model": audited["model"],
        "split": audited["split"],
        "checks": [
            {
                "name": name,
                **check,
                "rows": drawn[name](check["figures"]) if name in drawn else [],
                "loss": called(check["figures"].get("loss", "")),
                "examples": examples(check["figures"]),
            }
            for name, check in sorted(audited["checks"].items())
        ],
    }


def gaps(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mean loss of each slice less that of the other rows."""
    most = figures["most"]
    entries = [(each["slice"], each.get("loss_gap"), each) for each in figures["slices"]]

    def note(each: Mapping[str, Any]) -> str:
        if "loss_gap" in each:
            return f"{each['rows']} rows"
        return f"{each['rows']} rows, too few{'' if each['too_few'] else ' others'}"

    return striped(entries, [0.0, most], gap_written_as(figures["loss"]), note)


def swaps(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mean change of each label's probability, or of the confidence, for each list of pairs.

    With two labels the two changes mirror each other, and one is shown.
    """
    entries = []
    for name, each in figures["lists"].items():
        by_label = each.get("probability_change") or {name: None}
        for label in list(by_label)[-1:] if len(by_label) <= 2 else by_label:
            words = name if by_label[label] is None else f"{name} → {label}"
            entries.append((words, by_label[label], each))
    most = figures["most"]
    return striped(
        entries,
        [-most, 0.0, most],
        "points",
        lambda each: (
            f"{each['rows']} texts"
            + (
                f", {each['flipped']} flipped; log-odds "
                + told(list(each["log_odds_change"].values())[-1], "signed")
                if "log_odds_change" in each
                else f", {each['flipped']} flipped"
                if "flipped" in each
                else ""
            )
        ),
    )


def changes(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Change of the judged loss under each perturbation; others in words."""
    loss = figures["loss"]
    entries = [
        (name, each["loss_changes"][loss], each) for name, each in figures["changes"].items()
    ]

    def note(each: Mapping[str, Any]) -> str:
        if each.get("alike") == figures["rows"]:
            return "every answer is the same"
        others = [f"{each['flipped']} flipped"]
        for name, change in each["loss_changes"].items():
            if name != loss:
                others.append(f"{called(name)} {told(change, 'signed')}")
        return "; ".join(others)

    return striped(entries, [0.0, figures["most"]], gap_written_as(loss), note)


def examples(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that moved most under each list of pairs."""
    return [
        {
            "list": name,
            "rows": [{**row, "answer": answered(row["answer"])} for row in each["largest"]],
        }
        for name, each in figures.get("lists", {}).items()
        if "largest" in each
    ]
