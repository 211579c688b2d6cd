"""Scores and losses by name: what they are called, how they are written, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FIGURES = {
    "accuracy": ("share", "accuracy"),
    "exact_match": ("share", "exact match"),
    "f1": ("share", "F1"),
    "token_accuracy": ("share", "token accuracy"),
    "log_loss": ("number", "log-loss"),
    "error": ("share", "error rate"),
    "macro_f1": ("share", "macro F1"),
    "micro_f1": ("share", "micro F1"),
    "macro_precision": ("share", "macro precision"),
    "macro_recall": ("share", "macro recall"),
    "macro_roc_auc": ("number", "area under the ROC curve"),
    "brier": ("number", "Brier score"),
    "calibration_error": ("share", "calibration error"),
    "coverage": ("share", "answered"),
    "accuracy_answered": ("share", "accuracy where answered"),
}
"""Name -> how its value is written (``words.WRITTEN``), and its name for people; in the order of
the page. A name that is not here is a number and stands after these."""

TILES = ("accuracy", "log_loss", "calibration_error", "coverage")
"""Scores at the top of the page, of those that there are."""
MOST_TILES = 4
DRAWN = 2
"""Scores of a split that are drawn; the others stand in a table."""


def written_as(name: str) -> str:
    """How values of a score or loss are written."""
    return FIGURES[name][0] if name in FIGURES else "number"


def called(name: str) -> str:
    """A score's or loss's name for people."""
    return FIGURES[name][1] if name in FIGURES else name.replace("_", " ")


def gap_written_as(name: str) -> str:
    """How differences of a score or loss are written."""
    return "points" if written_as(name) == "share" else "signed"


def in_order(names: Iterable[str]) -> list[str]:
    """Scores of all rows in the order of the page; those of one label each are left out."""
    overall = sorted(name for name in names if "." not in name)
    return sorted(overall, key=lambda name: [*FIGURES, name].index(name))


def drawn_of(names: Iterable[str], primary: str) -> list[str]:
    """The scores that are drawn: the primary one, and the first of the others."""
    order = in_order(names)
    first = [name for name in order if name == primary]
    rest = [name for name in order if name != primary]
    chosen = [*first, *rest][:DRAWN]
    return [name for name in order if name in chosen]


def tiles_of(names: Iterable[str], primary: str) -> list[str]:
    """The scores at the top: those that always stand there, then the drawn ones and the others."""
    order = in_order(names)
    usual = [name for name in TILES if name in order]
    return list(dict.fromkeys([*usual, *drawn_of(order, primary), *order]))[:MOST_TILES]


def model_order(scored: Mapping[str, Any]) -> list[str]:
    """The compared model first, then the others as they stand."""
    names = list(scored["models"])
    compared = list(scored["comparisons"])
    return [name for name in names if name not in compared] + compared
