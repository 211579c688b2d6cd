"""Measures of a tokenizer on texts, from counts of its tokens."""

from __future__ import annotations

import numpy as np

ALPHA = 2.5
"""The order of the Rényi entropy that went best with the quality of translations (Zouhar et al.
2023, section 6)."""


def renyi_efficiency(counts: np.ndarray, alpha: float = ALPHA) -> float:
    """The efficiency of the vocabulary: the Rényi entropy of the tokens' shares over its largest
    value, from 0 (one token alone) to 1 (all alike) (Zouhar et al. 2023, definition 3.5).

    ``counts`` (v) are those of every token of the vocabulary; ``alpha`` above 0, 1 is Shannon's.
    """
    total = counts.sum()
    if len(counts) < 2 or not total:
        return 0.0
    p = counts[counts > 0] / total
    if alpha == 1:
        entropy = -(p * np.log(p)).sum()
    else:
        entropy = np.log((p**alpha).sum()) / (1 - alpha)
    return float(max(0.0, entropy) / np.log(len(counts)))
