"""Check ``personal``: personal data, found by pattern, in the rows that the model learnt from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lmwright.audit.check import FAILED, INCONCLUSIVE, PASSED, Check, Subject, Verdict
from lmwright.text.personal import find_personal, mask_personal

AROUND = 60
"""Characters shown on either side of a find, after masking."""


@dataclass(frozen=True, kw_only=True)
class Personal(Check):
    """At most a share ``most`` of the training rows may hold personal data.

    Patterns find what has a form (addresses, numbers with check digits), no names: a pass is no
    proof that there is nothing. ``examples`` of each kind are shown, masked.
    """

    most: float = 0.001
    examples: int = 3

    def judge(self, subject: Subject) -> Verdict:
        """Counts by kind over all training rows, and masked examples with their ids."""
        counts: Counter[str] = Counter()
        shown: dict[str, list[dict[str, str]]] = {}
        rows_with = 0
        for row, text in sorted(subject.training.items()):
            found = find_personal(text)
            rows_with += bool(found)
            counts.update(piece.kind for piece in found)
            for kind in sorted({piece.kind for piece in found}):
                kept = shown.setdefault(kind, [])
                if len(kept) < self.examples:
                    kept.append({"id": row, "excerpt": excerpt(text, kind)})
        looked = len(subject.training)
        figures = {
            "rows": looked,
            "rows_missing": subject.training_rows - looked,
            "rows_with_personal": rows_with,
            "share": rows_with / looked if looked else None,
            "most": self.most,
            "kinds": dict(sorted(counts.items())),
            "examples": shown,
        }
        told = f"{rows_with} of {looked} training rows hold personal data by pattern"
        if looked and rows_with / looked > self.most:
            return Verdict(FAILED, f"{told}; at most {self.most:.2%} may", figures)
        if looked < subject.training_rows or not looked:
            missing = subject.training_rows - looked
            return Verdict(
                INCONCLUSIVE,
                f"{told}, but {missing} rows stand in artifacts that the audit was not given",
                figures,
            )
        return Verdict(PASSED, f"{told}; at most {self.most:.2%} may", figures)


def excerpt(text: str, kind: str) -> str:
    """The surroundings of the first find of a kind, everything personal masked."""
    flat = " ".join(mask_personal(text).split())
    place = max(flat.find(f"[{kind}]"), 0)
    start, end = max(0, place - AROUND), place + len(kind) + 2 + AROUND
    return ("…" if start else "") + flat[start:end] + ("…" if end < len(flat) else "")
