"""Every product with a weight is the call of a Linear, which any other may replace from outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lmwright.models.blocks.positions import T5Bias, TransformerXL
from lmwright.models.core.linear import Linear, linears, replace_linears
from lmwright.models.network.network import Batch, Network
from lmwright.tables import FAMILIES
from tests.parity.networks import NETWORKS

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "_linear_pointwise")
PRODUCTS += ("convolution", "mkldnn_linear", "_trilinear")
NO_MAPS = nn.Embedding | T5Bias | TransformerXL | nn.RNNBase
"""Tables; vectors that queries are compared with; torch's own cells."""
every = pytest.mark.parametrize("name", NETWORKS)


def weights_of(network: Network) -> dict[int, str]:
    """Address -> name of all weights but those of a cell and of the vectors of Transformer-XL."""
    left = (nn.RNNBase, TransformerXL)
    return {
        weight.untyped_storage().data_ptr(): f"{path}.{leaf}"
        for path, module in network.named_modules()
        if not isinstance(module, left)
        for leaf, weight in module.named_parameters(recurse=False)
    }


class Products(TorchDispatchMode):
    """A record of the weights that are multiplied outside of every Linear, and inside of one."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.depth, self.weights = 0, weights_of(network)
        self.outside: set[str] = set()
        self.inside: set[str] = set()
        for _, linear in linears(network):
            linear.register_forward_pre_hook(lambda *_: self.enter(1))
            linear.register_forward_hook(lambda *_: self.enter(-1))
            linear.apart = self.within(linear.apart)

    def enter(self, step: int) -> None:
        self.depth += step

    def within(self, method: Any) -> Any:
        """A method during which products are inside."""

        def called(*given: Any) -> Any:
            self.enter(1)
            found = method(*given)
            self.enter(-1)
            return found

        return called

    def __torch_dispatch__(
        self, function: Any, types: Any, given: Any = (), named: Any = None
    ) -> Any:
        if function.overloadpacket.__name__ in PRODUCTS:
            tensors = [each for each in given if isinstance(each, Tensor)]
            found = {self.weights.get(t.untyped_storage().data_ptr(), "") for t in tensors} - {""}
            (self.inside if self.depth else self.outside).update(found)
        return function(*given, **(named or {}))


def test_every_family_is_among_the_networks():
    # One more name: the multimodal form of a family, whose text model is the same.
    assert NETWORKS.keys() >= FAMILIES.keys() - {"gemma3"}


@every
def test_every_product_with_a_weight_goes_through_a_linear(name):
    network, batch = NETWORKS[name]()
    with Products(network) as products:
        network(batch)
        on_last_tokens(network, batch)
    assert not products.outside
    own = {f"{path}.weight" for path, _ in linears(network)}
    # A name of each tied weight, that of the table where the head has it.
    assert {products.weights[id_of(network.get_parameter(each))] for each in own} == {
        each for each in products.inside if each.endswith(".weight")
    }
    for path, module in network.named_modules():
        matrices = [leaf for leaf, each in module.named_parameters(recurse=False) if each.ndim > 1]
        assert not matrices or isinstance(module, Linear | NO_MAPS), (path, matrices)


def id_of(weight: Tensor) -> int:
    return weight.untyped_storage().data_ptr()


class LowRank(Linear):
    """y + B A x, with A and B of low rank (Hu et al. 2022), a pair for each member of a stack."""

    def __init__(self, base: Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__(base.in_features, base.parts, base.members)
        self.base = base
        like = {"generator": generator, "dtype": torch.float64}
        self.a = nn.Parameter(torch.randn(base.members, rank, base.in_features, **like) * 0.2)
        self.b = nn.Parameter(torch.randn(base.members, base.out_features, rank, **like) * 0.2)

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        b_or = self.b[member] if rows is None else self.b[member][rows]
        found: Tensor = self.base(x_ni, rows, member) + x_ni @ self.a[member].T @ b_or.T
        return found


def apply(network: Network) -> dict[str, LowRank]:
    """Adapters round all maps of a network, whose own weights are fixed."""
    for weight in network.parameters():
        weight.requires_grad_(False)
    generator, made = torch.Generator().manual_seed(8), dict[str, LowRank]()

    def make(name: str, linear: Linear) -> Linear:
        made[name] = LowRank(linear, 2, generator)
        return made[name]

    replace_linears(network, make)
    return made


def on_last_tokens(network: Network, batch: Batch) -> Tensor:
    """The output of the path that drops the other tokens."""
    return network.next(batch, None)


@every
def test_an_adapter_of_each_map_changes_the_output(name):
    network, batch = NETWORKS[name]()
    with torch.no_grad():
        plain, last = network(batch), on_last_tokens(network, batch)
        made = apply(network)
        drawn = {name: adapter.b.clone() for name, adapter in made.items()}
        for adapter in made.values():
            adapter.b.zero_()
        assert torch.equal(network(batch), plain)
        for path, adapter in made.items():
            adapter.b.copy_(drawn[path])
            assert not torch.allclose(network(batch), plain), path
            assert not torch.allclose(on_last_tokens(network, batch), last), path
            adapter.b.zero_()


@every
def test_last_tokens_with_adapters_are_those_of_the_whole_pass_and_only_adapters_learn(name):
    network, batch = NETWORKS[name]()
    made = apply(network)
    whole = network(batch)
    if network.head_spec.pool == "none":
        rows = network.output_batch(batch).boundary_rows(last=True)
        packed = network.output_batch(batch).as_packed(whole[rows])
        torch.testing.assert_close(on_last_tokens(network, batch), packed, rtol=1e-9, atol=1e-10)
    whole.square().sum().backward()
    own = {id(weight) for adapter in made.values() for weight in (adapter.a, adapter.b)}
    for path, weight in network.named_parameters():
        learns = weight.grad is not None and bool((weight.grad != 0).any())
        assert learns == (id(weight) in own), path


def test_rows_members_and_parts_of_maps_are_those_of_the_whole():
    """Of each kind of map, plain and adapted; an adapter may stand round another."""
    generator = torch.Generator().manual_seed(1)
    for name in ("glam", "text cnn", "gpt2"):
        network, _ = NETWORKS[name]()
        apply(network)
        apply(network)
        for path, linear in linears(network):
            assert isinstance(linear, LowRank) and isinstance(linear.base, LowRank)
            x_ni = torch.randn(4, linear.in_features, dtype=torch.float64, generator=generator)
            for member in range(linear.members):
                whole = linear(x_ni, member=member)
                assert whole.shape == (4, sum(linear.parts)), path
                half = slice(linear.out_features // 2, None)
                torch.testing.assert_close(linear(x_ni, half, member), whole[:, half])
            parts = [linear.out_features - 1, 1]
            for map_ in (linear, linear.base.base):
                two = map_.apart([x_ni, x_ni[2:]], parts) if linear.members == 1 else []
                for found, wanted in zip(two, map_(x_ni).split(parts, dim=1), strict=False):
                    torch.testing.assert_close(found, wanted[-len(found) :])
            if linear.members > 1:
                assert not torch.allclose(linear(x_ni, member=0), linear(x_ni, member=1))
