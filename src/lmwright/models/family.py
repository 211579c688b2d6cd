"""What a family's leaf says: a spec from its config, and its names of the weights, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmwright.models.spec import ModelSpec


@dataclass(frozen=True)
class Weight:
    """One of our weights and the tensors that it stands for, one below the other."""

    ours: str
    theirs: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """A family of checkpoints. ``prefix`` may stand before its names in a checkpoint with a head;
    tensors whose names start as one of ``unread`` does belong to heads or are no weights."""

    name: str
    spec: Callable[[Mapping[str, Any]], ModelSpec]
    config: Callable[[ModelSpec], dict[str, Any]]
    weights: Callable[[ModelSpec], list[Weight]]
    head: tuple[Weight, ...]
    prefix: str
    unread: tuple[str, ...]


def to_ours(weights: list[Weight], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights from a checkpoint's tensors."""
    return {
        weight.ours: torch.cat([theirs[name] for name in weight.theirs])
        if len(weight.theirs) > 1
        else theirs[weight.theirs[0]]
        for weight in weights
    }


def to_theirs(weights: list[Weight], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors from our weights: :func:`to_ours` the other way."""
    return {
        name: part.contiguous()
        for weight in weights
        for name, part in zip(
            weight.theirs, ours[weight.ours].chunk(len(weight.theirs)), strict=True
        )
    }
