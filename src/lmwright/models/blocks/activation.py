"""The activation functions that a spec can name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu(x: Tensor) -> Tensor:
    """GELU: x times the normal distribution function (Hendrycks and Gimpel 2016, section 2)."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU approximated by tanh (the second formula of section 2)."""
    return F.gelu(x, approximate="tanh")


def identity(x: Tensor) -> Tensor:
    """The identity."""
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "none": identity,
}

GRADIENTS: dict[object, Callable[..., Tensor]] = {
    gelu: torch.ops.aten.gelu_backward.grad_input,
    gelu_tanh: partial(torch.ops.aten.gelu_backward.grad_input, approximate="tanh"),
    F.silu: torch.ops.aten.silu_backward.grad_input,
}
"""Of activations that gate: the gradient by that of the result and the argument, written into
``grad_input``."""
