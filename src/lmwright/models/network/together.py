"""Networks that differ in updates of low rank alone, and are read in one pass of the kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lmwright.models.blocks.context import Cache
from lmwright.models.core.linear import Linear, linears
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.network.merge import plain_names
from lmwright.models.network.network import Batch, Network


class Together:
    """Networks of :func:`readable_together`, one for each document of a pass.

    The maps, tables, norms and the head that they share are read by the first one; each document
    gets the updates of its own.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks

    def next(self, batch: Batch, cache: Cache | None) -> Tensor:
        """Next-token logits (documents, vocabulary) of each document."""
        return self.networks[0].next(batch, cache, self.networks)

    def every(self, batch: Batch, cache: Cache | None) -> Tensor:
        """Next-token logits (tokens, vocabulary) after each token."""
        return self.networks[0].every(batch, cache, self.networks)


def readable_together(one: object, other: object) -> bool:
    """Whether documents of both may be in one pass, and keys and values of both in one pool.

    Their fused stacks are fit, and every weight is the same tensor, but for updates of low rank.
    """
    if not isinstance(one, Network) or not isinstance(other, Network):
        return False
    same = (one.spec, one.head_spec, one.placement) == (
        other.spec,
        other.head_spec,
        other.placement,
    )
    if not same or shared_weights(one) != shared_weights(other):
        return False
    fused = one.current_fused(), other.current_fused()
    return all(each is not None and not each.unfit for each in fused)


def shared_weights(network: Network) -> dict[str, int]:
    """The address of each weight but those of updates, by its name in the plain network."""
    updates = {
        id(matrix)
        for _, each in linears(network)
        if isinstance(each, LowRankLinear)
        for matrix in each.matrices
    }
    plain = plain_names(network)
    return {
        plain[name]: each.data_ptr()
        for name, each in network.named_parameters()
        if id(each) not in updates
    }


def share_products(network: Network, other: Network) -> None:
    """Let maps of a network whose weights are those of another one have its packed weights, too."""
    theirs = dict(plain_maps(other))
    for name, each in plain_maps(network):
        same = theirs.get(name)
        if same is not None and same.product is not each.product and equal_weights(each, same):
            each.product = same.product


def plain_maps(network: Network) -> list[tuple[str, Linear]]:
    """The maps of a network by name; of one with an update of low rank the frozen map."""
    found = dict(linears(network))
    return [(n, e.inner if isinstance(e, LowRankLinear) else e) for n, e in found.items()]


def equal_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two maps are of one kind and hold the same tensors."""
    weights = [[each.data_ptr() for each in m.parameters()] for m in (one, other)]
    return type(one) is type(other) and weights[0] == weights[1]
