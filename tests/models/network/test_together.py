"""Documents of several adapters on one base in one pass: each has the bits that it has alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from lmwright.kernels.library import available
from lmwright.models.core.device import Placement
from lmwright.models.core.ragged import pack
from lmwright.models.decode import DecodingState
from lmwright.models.network.fused import FusedStack
from lmwright.models.network.network import Network, fill
from lmwright.models.network.together import readable_together, share_products
from lmwright.models.tunes.lora import LoRA
from tests.parity.networks import NETWORKS

pytestmark = pytest.mark.skipif(
    not available(), reason="this machine lacks a C compiler, by which the kernels are built"
)

FAMILIES = ("llama", "qwen2", "gemma3_text", "gpt2")
TUNES = (LoRA(rank=3), LoRA(rank=8, linears="attention"), None, LoRA(rank=2, linears=("*.down",)))


def on_one_base(name: str, precision: str) -> list[Network]:
    """Networks of one base: with adapters on several maps, of several ranks, and without."""
    base, _ = NETWORKS[name]()
    base.float().eval()
    found = []
    for seed, tune in enumerate(TUNES):
        network = copy.deepcopy(base)
        fill(network, dict(base.named_parameters()))
        if tune is not None:
            tune.apply(network, seed)
            fill(network, dict(base.named_parameters()))
        with torch.no_grad():
            for label, each in network.named_parameters():
                if label.endswith("lora_b"):
                    each.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
        for label, module in network.named_modules():
            if hasattr(module, "inner"):
                plain = base.get_submodule(label)
                module.inner.weight, module.inner.bias = plain.weight, plain.bias
        network.requires_grad_(False)
        network.place(Placement("cpu", precision))  # type: ignore[arg-type]
        if found:
            share_products(network, found[0])
        found.append(network)
    return found


def texts(network: Network, lengths: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    words = network.spec.stacks[-1].embedding.vocabulary
    return [rng.integers(0, words, length) for length in lengths]


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_an_adapter_in_the_fused_pass_is_that_of_the_modules(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = on_one_base(name, precision)[0]
    batch = pack(texts(network, (5, 1, 33, 17)))
    fused = network.hidden(batch)
    assert network.fused is not None and not network.fused.unfit and network.fused.updates
    with monkeypatch.context() as patched:
        patched.setattr(FusedStack, "fits", lambda *_: False)
        wanted = network.hidden(batch)
    plain = on_one_base(name, precision)[2].hidden(batch)
    off, moved = (fused - wanted).norm(), (plain - wanted).norm()
    assert off < 1e-3 * wanted.norm() and moved > 0.05 * wanted.norm()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_documents_of_several_adapters_have_the_bits_of_each_alone(name: str, threads: int) -> None:
    networks, before = on_one_base(name, "int8"), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert all(readable_together(each, networks[0]) for each in networks)
        ids = texts(networks[0], (40, 3, 18, 9))
        pool = networks[0].new_pool()
        states = [DecodingState(each, 1, pool=pool) for each in networks]
        alone = [DecodingState(each, 1) for each in networks]
        state = states[0]
        for other in states[1:]:
            state.join(other)
        for piece in (slice(0, 2), slice(2, None)):  # first in few rows, then in many
            pieces = [each[piece] for each in ids]
            together = state.extend(pieces)
            apart = [own.extend([each])[0] for own, each in zip(alone, pieces, strict=True)]
            assert all(torch.equal(*pair) for pair in zip(together, apart, strict=True))
        assert len({row.numpy().tobytes() for row in together}) == len(networks)
        state.leave({0})
        last = [np.array([1])] * 3
        apart = [own.extend(last[:1])[0] for own in alone[1:]]
        assert all(torch.equal(*pair) for pair in zip(state.extend(last), apart, strict=True))
    finally:
        torch.set_num_threads(before)


def test_packed_weights_are_those_of_the_base() -> None:
    one, other = on_one_base("llama", "int8")[:2]
    assert readable_together(one, other)
    for mine, theirs in zip(one.fused.sublayers, other.fused.sublayers, strict=True):  # type: ignore[union-attr]
        assert mine.first.packed == theirs.first.packed and mine.last.packed == theirs.last.packed


def test_networks_of_other_weights_are_not_read_together() -> None:
    one, other = on_one_base("llama", "int8")[:2]
    stranger = on_one_base("llama", "int8")[1]
    assert readable_together(one, other) and not readable_together(one, stranger)
    other.place(Placement("cpu", "int4"))
    assert not readable_together(one, other)
    weighed = on_one_base("llama", "int8")[2]
    LoRA(rank=2, dora=True).apply(weighed, 0)
    weighed.place(Placement("cpu", "int8"))
    assert not readable_together(weighed, weighed)


def test_an_update_that_learns_is_read_anew() -> None:
    network = on_one_base("llama", "int8")[0]
    network.requires_grad_(False)
    batch = pack(texts(network, (7,)))
    with torch.no_grad():
        before = network.hidden(batch)
        for label, each in network.named_parameters():
            if label.endswith("lora_b"):
                each.mul_(2)
        assert not torch.equal(network.hidden(batch), before)
