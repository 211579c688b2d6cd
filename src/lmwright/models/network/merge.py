"""Adapters merged into the weights that they adapt."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from lmwright.core.errors import Corrupt
from lmwright.models.core.frozen import FrozenLinear
from lmwright.models.core.linear import linears
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.network.network import Network, build, fill

TOLERANCE = 1e-5
"""The largest difference of a merged map's outputs, in units of its largest output."""
PROBED = 8
"""Rows of the stream that a merged map is compared on."""


def plain_names(network: Network) -> dict[str, str]:
    """Each weight's name -> its name in the same network without adapters."""
    found = {name: name for name, _ in network.named_parameters()}
    for name, each in linears(network):
        if isinstance(each, LowRankLinear):
            for leaf, _ in each.inner.named_parameters():
                found[f"{name}.inner.{leaf}"] = f"{name}.{leaf}"
    return found


@torch.no_grad()
def merged(network: Network) -> Network:
    """A network of plain maps that computes the same; the network itself where it has no adapter.

    A weight that is kept in fewer bits is merged as what it stands for, in fp32. Each merged map is
    compared with the adapted one on a few rows: Corrupt where they differ by more than rounding.
    """
    adapted = {name: each for name, each in linears(network) if isinstance(each, LowRankLinear)}
    if not adapted:
        return network
    own, plain_name = dict(network.named_parameters()), plain_names(network)
    weights: dict[str, Tensor] = {plain_name[name]: each for name, each in own.items()}
    for name, each in linears(network):
        if isinstance(each, FrozenLinear):
            weights[f"{name}.weight"] = each.weight
    weights |= {f"{name}.weight": each.merged_weight() for name, each in adapted.items()}
    found = build(network.spec, network.head_spec)
    fill(found, weights)
    plain = dict(linears(found))
    for name, each in adapted.items():
        generator = Generator().manual_seed(0)
        x_ni = torch.randn(PROBED, each.in_features, generator=generator).to(each.lora_a)
        for member in range(each.members):
            wanted, got = outputs(each, x_ni, member), plain[name](x_ni, member=member)
            if not torch.allclose(got, wanted, rtol=0, atol=TOLERANCE * float(wanted.abs().max())):
                raise Corrupt(
                    f"the adapter of {name} changes its outputs when it is merged",
                    f"equal outputs within {TOLERANCE:g}",
                    "serve the model with lmwright, which does not merge",
                )
    return found


def outputs(adapted: LowRankLinear, x_ni: Tensor, member: int) -> Tensor:
    """What an adapted map gives without the rounding of products in fewer bits."""
    inner = adapted.inner
    if isinstance(inner, FrozenLinear):
        return adapted.adapted(inner.exact(x_ni, member), x_ni, member=member)
    return adapted(x_ni, member=member)
