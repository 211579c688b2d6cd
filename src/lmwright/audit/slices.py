"""Check ``slices``: whether the model is much worse on some kinds of rows than on the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmwright.audit.check import INCONCLUSIVE, Check, Subject, Verdict, Word, bounded, sentence
from lmwright.audit.check import worst as together
from lmwright.core.random import stream
from lmwright.evals.slices import memberships, slice_scores
from lmwright.metrics.intervals import Interval, bootstrap


@dataclass(frozen=True, kw_only=True)
class Slices(Check):
    """Every slice's error rate may be at most ``most`` above that of the other rows.

    The gaps are judged together: each interval is widened (Bonferroni) so that all of them hold
    at the audit's level. A slice with fewer than ``fewest`` rows cannot be judged.
    """

    most: float = 0.1
    fewest: int = 50

    def judge(self, subject: Subject) -> Verdict:
        """Accuracy and log-loss of each slice, and the gap of its error rate to the others'."""
        rng = stream(subject.seed, "audit", "slices")
        listed = slice_scores(subject.rows, subject.found, self.fewest, subject.level)
        members = memberships(subject.rows)
        sized = [entry for entry in listed if not entry["too_few"]]
        level = 1 - (1 - subject.level) / max(len(sized), 1)
        wrong = (subject.found.chosen != subject.found.truth).astype(float)
        judged: dict[str, Word] = {}
        for entry in listed:
            name = entry["slice"]
            member = members[name]
            if entry["too_few"] or (~member).sum() < self.fewest:
                judged[name] = entry["verdict"] = INCONCLUSIVE
                continue
            gap = error_gap(wrong, member, subject.draws, rng, level)
            judged[name] = entry["verdict"] = bounded(gap.low, gap.high, self.most)
            entry["error_gap"] = gap.to_json()
        return Verdict(
            together(list(judged.values())),
            sentence(
                judged,
                f"no slice has an error rate over {self.most:.0%} above that of the others",
            )
            if judged
            else "no slice can be judged",
            {"slices": listed, "rows": subject.rows.num_rows, "most": self.most, "level": level},
        )


def error_gap(
    wrong: np.ndarray, member: np.ndarray, draws: int, rng: np.random.Generator, level: float
) -> Interval:
    """Error rate inside ``member`` (n,) less the one outside, with a bootstrap over rows."""
    inside, outside = member.astype(float), (~member).astype(float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            mine = (weights @ (inside * wrong)) / (weights @ inside)
            others = (weights @ (outside * wrong)) / (weights @ outside)
        return mine - others

    return bootstrap(statistic, len(wrong), draws, rng, level)
