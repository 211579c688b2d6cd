"""Check ``slices``: whether the model is much worse on some kinds of rows than on the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmwright.audit.check import INCONCLUSIVE, Check, Subject, Verdict, Word, bounded, sentence
from lmwright.audit.check import worst as together
from lmwright.core.random import stream
from lmwright.evals.predictions import clusters_of
from lmwright.evals.slices import memberships, slice_scores
from lmwright.metrics.intervals import Interval, bootstrap


@dataclass(frozen=True, kw_only=True)
class Slices(Check):
    """Every slice's mean loss may be at most ``most`` above that of the other rows.

    ``loss`` is one of the task's, by default that which it abstains by (of a classifier: the
    error), else its primary one; ``most`` is in its unit. The gaps are judged together: each
    interval is widened (Bonferroni) so that all of them hold at the audit's level. A slice with
    fewer than ``fewest`` rows cannot be judged.
    """

    loss: str = ""
    most: float = 0.1
    fewest: int = 50

    def judge(self, subject: Subject) -> Verdict:
        """The losses of each slice, and the gap of its mean loss to the others'."""
        rng = stream(subject.seed, "audit", "slices")
        name = subject.loss(self.loss)
        losses = subject.found.loss(name)
        listed = slice_scores(subject.task, subject.found, self.fewest, subject.level)
        members = memberships(subject.task, subject.rows)
        groups = clusters_of(subject.task, subject.rows)
        sized = [entry for entry in listed if not entry["too_few"]]
        level = 1 - (1 - subject.level) / max(len(sized), 1)
        judged: dict[str, Word] = {}
        for entry in listed:
            member = members[entry["slice"]]
            if entry["too_few"] or (~member).sum() < self.fewest:
                judged[entry["slice"]] = entry["verdict"] = INCONCLUSIVE
                continue
            gap = loss_gap(losses, member, subject.draws, rng, level, groups)
            judged[entry["slice"]] = entry["verdict"] = bounded(gap.low, gap.high, self.most)
            entry["loss_gap"] = gap.to_json()
        figures = {
            "slices": listed,
            "rows": subject.rows.num_rows,
            "loss": name,
            "most": self.most,
            "level": level,
        }
        if not judged:
            return Verdict(together([]), "no slice can be judged", figures)
        fine = f"no slice has a mean {name} over {self.most:g} above that of the others"
        return Verdict(together(list(judged.values())), sentence(judged, fine), figures)


def loss_gap(
    losses: np.ndarray,
    member: np.ndarray,
    draws: int,
    rng: np.random.Generator,
    level: float,
    groups: np.ndarray | None = None,
) -> Interval:
    """Mean loss inside ``member`` (n,) less the one outside, with a bootstrap over rows.

    ``groups`` (n,) are rows that are resampled together.
    """
    inside, outside = member.astype(float), (~member).astype(float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            mine = (weights @ (inside * losses)) / (weights @ inside)
            others = (weights @ (outside * losses)) / (weights @ outside)
        return mine - others

    return bootstrap(statistic, len(losses), draws, rng, level, groups)
