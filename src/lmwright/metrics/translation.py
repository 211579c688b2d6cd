"""BLEU, chrF and TER as sacrebleu counts them, as per-row statistics and formulas of their sums.

The counts of every row are sacrebleu's own (Post 2018); a score of many rows is a formula of their
sums, so that the bootstrap can draw rows. BLEU is Papineni et al. 2002 with exponential smoothing
and the tokenizer 13a, chrF is chrF2 of Popović 2015, TER that of Snover et al. 2006.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.metrics.summaries import NUMBER

ADDRESS = re.compile(r"\b(?:https?|ftp)://[^\s<>()\"»]*[^\s<>()\"».,;:!?]")
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[sdifxr]\b|\{\w*\}|\$\{?[A-Za-z_]\w*\}?")
GROUPS = re.compile(r"(?<=\d)[ \u00a0\u202f](?=\d{3}(?!\d))")
SEPARATORS = re.compile(r"[.,]")
ORDER = 4
BETA = 2


def metric(name: str, **settings: Any) -> Any:
    """A metric of sacrebleu; BadInput where it is not installed."""
    try:
        import sacrebleu.metrics
    except ImportError:
        raise BadInput(
            f"{name} needs sacrebleu, which is not installed",
            "the package sacrebleu",
            "pip install 'lmwright[eval]'",
        ) from None
    return getattr(sacrebleu.metrics, name)(**settings)


def statistics(name: str, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """The counts (n, s) of each candidate against its reference, of BLEU, CHRF or TER."""
    own = metric(name)
    # The method that sacrebleu's own bootstrap reads; its order of counts is that of the formulas.
    rows = own._extract_corpus_statistics(list(candidates), [list(references)])
    return np.array(rows, dtype=np.float64)


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU (draws,) from 0 to 100, of summed counts (draws, 10): lengths of the candidates and the
    references, n-grams that are right, n-grams in all."""
    length, wanted = sums[:, 0], sums[:, 1]
    right, total = sums[:, 2 : 2 + ORDER], sums[:, 2 + ORDER : 2 + 2 * ORDER]
    scored = right.any(1) & total.all(1)
    # Each order without a hit counts half of what the one before it without a hit did.
    smoothed = 0.5 ** np.cumsum(right == 0, axis=1)
    hits = np.where(right > 0, right, smoothed)
    logs = np.log(hits / np.where(total > 0, total, 1.0)).mean(1)
    short = np.where(length > 0, np.minimum(1 - wanted / np.where(length > 0, length, 1.0), 0.0), 0)
    return np.where(scored, 100 * np.exp(short + logs), 0.0)


def chrf(sums: np.ndarray) -> np.ndarray:
    """chrF (draws,) from 0 to 100, of summed counts (draws, 18): for each length of character
    n-grams those of the candidates, of the references, and those in common."""
    own, wanted, common = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    there = (own > 0) & (wanted > 0)
    orders = np.maximum(there.sum(1), 1)
    parts = (
        np.divide(common, each, out=np.zeros_like(common), where=there) for each in (own, wanted)
    )
    precision, recall = (part.sum(1) / orders for part in parts)
    below = BETA**2 * precision + recall
    found = (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1.0)
    return np.where(below > 0, 100 * found, 0.0)


def ter(sums: np.ndarray) -> np.ndarray:
    """TER (draws,) in percent, of summed counts (draws, 2): edits and words of the references."""
    edits, wanted = sums[:, 0], sums[:, 1]
    none = np.where(edits > 0, 100.0, 0.0)
    return np.where(wanted > 0, 100 * edits / np.where(wanted > 0, wanted, 1), none)


def literals(text: str) -> Counter[str]:
    """The literals that a translation leaves as they are, each as often as it stands: addresses,
    options of commands, placeholders, and numbers without their separators, which languages
    write differently."""
    found: list[str] = []
    for pattern in (ADDRESS, PLACEHOLDER, OPTION):
        found += pattern.findall(text)
        text = pattern.sub(" ", text)
    text = GROUPS.sub("", text)
    return Counter(found + [SEPARATORS.sub("", each) for each in NUMBER.findall(text)])


def kept_counts(texts: Sequence[str], written: Sequence[str]) -> np.ndarray:
    """Counts (n, 2) of each text's literals that its translation has, and of all of them."""
    pairs = ((literals(one), literals(other)) for one, other in zip(texts, written, strict=True))
    return np.array([((a & b).total(), a.total()) for a, b in pairs], float).reshape(-1, 2)


def kept(sums: np.ndarray) -> np.ndarray:
    """The share (draws,) of literals that are kept, of summed counts (draws, 2); 1 of none."""
    there = sums[:, 1] > 0
    return np.where(there, sums[:, 0] / np.where(there, sums[:, 1], 1.0), 1.0)
