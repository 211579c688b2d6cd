"""Text models that answer side by side and have weights in common, as those on one base have."""

from __future__ import annotations

import torch
from torch import nn

from lmwright.core.predictor import Predictor
from lmwright.models.network.merge import plain_names
from lmwright.models.network.network import fill
from lmwright.models.network.together import share_products
from lmwright.models.text_model import TextPredictor


def share_equal_weights(predictor: Predictor, other: Predictor) -> int:
    """Let a text model use those weights of another one that are equal to its own by value and by
    the name that they have without adapters; how many numbers are in memory once less. Neither may
    be trained afterwards.
    """
    if not isinstance(predictor, TextPredictor) or not isinstance(other, TextPredictor):
        return 0
    network, theirs = predictor.model.network, other.model.network
    plain, names = plain_names(network), plain_names(theirs)
    known = {names[name]: each for name, each in theirs.named_parameters()}
    same = {
        name: known[plain[name]]
        for name, own in network.named_parameters()
        if plain[name] in known and equal(own, known[plain[name]])
    }
    fill(network, same)
    return sum(each.numel() for each in same.values())


def share_packed_weights(predictor: Predictor, other: Predictor) -> None:
    """Let a text model that shares weights with another one, and is placed as that is, have its
    packed weights too."""
    if not isinstance(predictor, TextPredictor) or not isinstance(other, TextPredictor):
        return
    network, theirs = predictor.model.network, other.model.network
    if network.placement == theirs.placement:
        share_products(network, theirs)


def equal(one: nn.Parameter, other: nn.Parameter) -> bool:
    """True where both are of one kind, in one place, and every number is the same."""
    alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return alike and one.data_ptr() != other.data_ptr() and torch.equal(one, other)
