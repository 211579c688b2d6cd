"""What the tests of both kinds of weights share."""

from __future__ import annotations

import torch
from torch import Tensor


def same(a: Tensor, b: Tensor) -> bool:
    """True for equal bits, any NaN being like any other."""
    nan = a.isnan()
    return torch.equal(nan, b.isnan()) and torch.equal(
        a[~nan].view(torch.int32), b[~nan].view(torch.int32)
    )
