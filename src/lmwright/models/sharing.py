"""Text models that answer side by side and have weights in common, as those on one base have."""

from __future__ import annotations

import torch
from torch import nn

from lmwright.core.predictor import Predictor
from lmwright.models.network.network import fill
from lmwright.models.text_model import TextPredictor


def share_equal_weights(predictor: Predictor, other: Predictor) -> int:
    """Let a text model use those weights of another one that are equal to its own by name and
    value; how many numbers are in memory once less. Neither may be trained afterwards.
    """
    if not isinstance(predictor, TextPredictor) or not isinstance(other, TextPredictor):
        return 0
    network = predictor.model.network
    known = dict(other.model.network.named_parameters())
    same = {
        name: known[name]
        for name, own in network.named_parameters()
        if name in known and equal(own, known[name])
    }
    fill(network, same)
    return sum(each.numel() for each in same.values())


def equal(one: nn.Parameter, other: nn.Parameter) -> bool:
    """True where both are of one kind, in one place, and every number is the same."""
    alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return alike and one.data_ptr() != other.data_ptr() and torch.equal(one, other)
