"""What is known of the rows, as facts: counted while they stream by, never held."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from lmwright.text.language import LOOKED_AT, count_languages
from lmwright.text.personal import count_personal

EXAMPLES = 20
"""Ids shown for each kind of finding."""

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

ASCII_LETTERS = bytes([*range(65, 91), *range(97, 123)])
UPPER = bytes(range(65, 91))
DIGITS = b"0123456789"
BEYOND = bytes(range(128, 256))
BLANKS = b" \n"


class SourceQuality:
    """Findings on the kept rows of one source, row by row."""

    def __init__(self) -> None:
        self.rows = 0
        self.labels: Counter[str] = Counter()
        self.personal: Counter[str] = Counter()
        self.with_personal = 0
        self.outliers: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)
        self.sample: list[str] = []

    def see(self, row_id: str, text: str, label: str, for_language: bool) -> None:
        """Count one row; keep its text only when it is in the sample for the language."""
        self.rows += 1
        self.labels[label] += 1
        found = count_personal(text)
        self.personal.update(found)
        self.with_personal += bool(found)
        if found:
            self.keep_example("personal", row_id)
        for reason in odd_characters(text):
            self.outliers[reason] += 1
            self.keep_example(reason, row_id)
        if for_language:
            self.sample.append(text[:LOOKED_AT])

    def keep_example(self, reason: str, row_id: str) -> None:
        """Keep the smallest ids, so that the examples do not depend on the order of rows."""
        kept = self.examples[reason]
        if len(kept) < EXAMPLES or row_id < kept[-1]:
            kept.append(row_id)
            kept.sort()
            del kept[EXAMPLES:]

    def facts(
        self, characters: np.ndarray, words: np.ndarray, languages: tuple[str, ...]
    ) -> dict[str, Any]:
        """All findings as JSON values; ``characters`` and ``words`` of the source's kept rows."""
        outliers = dict(sorted(self.outliers.items()))
        return {
            "rows": self.rows,
            "labels": dict(sorted(self.labels.items())),
            "lengths": {"characters": describe(characters), "words": describe(words)},
            "language": count_languages(self.sample, languages),
            "language_sample": len(self.sample),
            "personal": dict(sorted(self.personal.items())),
            "rows_with_personal": self.with_personal,
            "outliers": {**outliers, **odd_lengths(characters)},
            "examples": dict(sorted(self.examples.items())),
        }


def describe(lengths: np.ndarray) -> dict[str, Any]:
    """Mean, quantiles and a histogram with bins that double: ``{"<=1": …, "<=2": …}``."""
    if not len(lengths):
        return {"mean": 0.0, "quantiles": {}, "histogram": {}}
    quantiles = np.quantile(lengths, QUANTILES)
    bins = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    counts = np.bincount(bins)
    return {
        "mean": round(float(lengths.mean()), 3),
        "quantiles": {f"{q:g}": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
        "histogram": {f"<={2**power}": int(n) for power, n in enumerate(counts) if n},
    }


def odd_lengths(characters: np.ndarray) -> dict[str, int]:
    """Rows whose log length lies over three quartile distances outside the quartiles (Tukey)."""
    if len(characters) < 8:
        return {}
    logs = np.log(np.maximum(characters, 1))
    low, high = np.quantile(logs, (0.25, 0.75))
    reach = 3 * max(high - low, 0.1)
    found = {
        "very short": int((logs < low - reach).sum()),
        "very long": int((logs > high + reach).sum()),
    }
    return {reason: count for reason, count in found.items() if count}


def odd_characters(text: str) -> list[str]:
    """In what way the characters of a text are unlike prose: reasons, mostly none."""
    data = text.encode()
    visible = len(data) - held(data, BLANKS)
    letters, beyond = held(data, ASCII_LETTERS), held(data, BEYOND)
    if visible < 10:
        return []
    reasons = []
    if letters + beyond < 0.5 * visible:
        reasons.append("few letters")
    if held(data, DIGITS) > 0.3 * visible:
        reasons.append("many digits")
    if letters >= 20 and held(data, UPPER) > 0.7 * letters:
        reasons.append("all capitals")
    if "\ufffd" in text:
        reasons.append("lost characters")
    words = text.lower().split()
    if len(words) >= 20 and len(set(words)) < 0.2 * len(words):
        reasons.append("repeats itself")
    return reasons


def held(data: bytes, which: bytes) -> int:
    """How many of the bytes are among ``which``."""
    return len(data) - len(data.translate(None, which))


def label_variants(labels: Iterable[str]) -> list[list[str]]:
    """Labels that differ only in case, white space or punctuation: probably one label."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        plain = "".join(filter(str.isalnum, label.casefold()))
        alike[plain or label].append(label)
    return [spellings for spellings in alike.values() if len(spellings) > 1]


def balance(labels: dict[str, int]) -> dict[str, Any]:
    """Share of each label, and the entropy over that of equal shares (1 = balanced)."""
    counts = np.array(list(labels.values()), float)
    shares = counts / counts.sum()
    entropy = 1.0  # of one stratum
    if len(shares) > 1:
        entropy = float(-(shares * np.log(shares)).sum() / np.log(len(shares)))
    return {
        "shares": {k: round(float(v), 6) for k, v in zip(labels, shares, strict=True)},
        "evenness": round(entropy, 6),
    }
