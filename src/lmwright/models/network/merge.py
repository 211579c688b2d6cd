"""Adapters merged into the weights that they adapt."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.core.adapter import AdaptedLinear, Unmergeable
from lmwright.models.core.frozen import FrozenLinear
from lmwright.models.core.linear import Linear, linears
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.core.matmul import linear
from lmwright.models.network.network import Network, build, fill

TOLERANCE = 1e-5
"""The largest difference of a merged map's outputs, in units of its largest output."""
PROBED = 8
"""Rows of the stream that a merged map is compared on."""


def plain_names(network: Network) -> dict[str, str]:
    """Each weight's name -> its name in the same network without adapters."""
    found = {name: name for name, _ in network.named_parameters()}
    for name, each in adapted_maps(network).items():
        for leaf, _ in each.inner.named_parameters():
            found[f"{name}.inner.{leaf}"] = f"{name}.{leaf}"
    return found


def adapted_maps(network: Network) -> dict[str, LowRankLinear | AdaptedLinear]:
    """The maps with adapters, by name."""
    found = dict(linears(network))
    return {n: each for n, each in found.items() if isinstance(each, LowRankLinear | AdaptedLinear)}


def unmergeable(network: Network) -> dict[str, Unmergeable]:
    """The modules with weights that no weight of a plain network can take up, by name."""
    return {n: each for n, each in network.named_modules() if isinstance(each, Unmergeable)}


@torch.no_grad()
def merged(network: Network) -> Network:
    """A network of plain maps that computes the same; the network itself where it has no adapter.

    A weight that is kept in fewer bits is merged as what it stands for, in fp32. Each merged map is
    compared with the adapted one on a few rows: Corrupt where they differ by more than rounding.
    BadInput where an adapter cannot be merged.
    """
    for module in unmergeable(network).values():
        raise BadInput(
            f"the model has {module.what}, which cannot be merged into its weights",
            "plain weights, or an adapter that merges (lora, ia3)",
            "serve the model with lmwright; for other software tune with lora, ia3 or full",
        )
    if not (adapted := adapted_maps(network)):
        return network
    found = without(network)
    own = {
        f"{name}.{leaf}": weight
        for name, each in adapted.items()
        for leaf, weight in merged_weights(each).items()
    }
    fill(found, own)
    plain = dict(linears(found))
    for name, each in adapted.items():
        generator, like = Generator().manual_seed(0), next(each.parameters())
        x_ni = torch.randn(PROBED, each.in_features, generator=generator).to(like)
        for member in range(each.members):
            wanted, got = outputs(each, x_ni, member), plain[name](x_ni, member=member)
            if not torch.allclose(got, wanted, rtol=0, atol=TOLERANCE * float(wanted.abs().max())):
                raise Corrupt(
                    f"the adapter of {name} changes its outputs when it is merged",
                    f"equal outputs within {TOLERANCE:g}",
                    "serve the model with lmwright, which does not merge",
                )
    return found


def outputs(adapted: LowRankLinear | AdaptedLinear, x_ni: Tensor, member: int) -> Tensor:
    """What an adapted map gives without the rounding of products in fewer bits."""
    inner, maps = adapted.inner, [each for each in adapted.modules() if isinstance(each, Linear)]
    products = [each.product for each in maps]
    try:
        for each in maps:
            each.product = linear
        if isinstance(adapted, LowRankLinear) and isinstance(inner, FrozenLinear):
            return adapted.adapted(inner.exact(x_ni, member), x_ni, member=member)
        return adapted(x_ni, member=member)
    finally:
        for each, product in zip(maps, products, strict=True):
            each.product = product


def merged_weights(each: LowRankLinear | AdaptedLinear) -> dict[str, Tensor]:
    """The weights of a map's plain one that the adapter changes, by their names there."""
    if isinstance(each, LowRankLinear):
        return {"weight": each.merged_weight()}
    return each.merged_weights()


def without(network: Network) -> Network:
    """The plain network that the adapters of another were applied to."""
    own, plain_name = dict(network.named_parameters()), plain_names(network)
    weights: dict[str, Tensor] = {plain_name[name]: each for name, each in own.items()}
    for name, each in linears(network):
        inner = getattr(each, "inner", each)
        if isinstance(inner, FrozenLinear):
            weights[f"{name}.weight"] = inner.weight
    found = build(network.spec, network.head_spec)
    fill(found, weights)
    return found


def taken_apart(network: Network) -> tuple[Network, dict[str, Tensor]]:
    """A plain network, and by name the weights of adapters that cannot be merged into it.

    Those that can are merged, so that nothing is left of them.
    """
    if not (modules := unmergeable(network)):
        return merged(network), {}
    own = {f"{name}.{leaf}" for name, each in modules.items() for leaf in each.own}
    weights = dict(network.named_parameters())
    return without(network), {name: weights[name] for name in weights if name in own}
