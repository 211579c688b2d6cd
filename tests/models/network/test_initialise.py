"""First values: each scheme's variance, and what a draw depends on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.blocks.context import ForwardContext
from lmwright.models.core import spec
from lmwright.models.core.linear import StackedLinear
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head, ModelSpec, Norm, Stack, Sublayer
from lmwright.models.network.initialise import SCHEMES, Initialisation, initialise
from lmwright.models.network.network import Network, build, fill

WIDTH, INNER, LAYERS, STD = 48, 96, 2, 0.05
GAIN = Norm(kind="rms", eps=1e-6, bias=False, offset=1.0)
LM = Head(pool="none", outputs=400, share="tokens")


def setting(layers: int = LAYERS) -> ModelSpec:
    """Every kind of weight once a layer."""
    attention = spec.Attention(
        heads=4,
        kv_heads=2,
        head_width=12,
        scale=0.3,
        positions=spec.TransformerXL(segments=True),
    )
    with_buckets = spec.Attention(
        heads=4,
        kv_heads=4,
        head_width=12,
        scale=0.3,
        positions=spec.T5Bias(buckets=32, max_distance=100, bidirectional=True, share="distances"),
    )
    ops = (
        attention,
        spec.FeedForward(inner=INNER, activation="silu", gated=True),
        with_buckets,
        spec.FeedForward(inner=INNER, activation="relu"),
        spec.Experts(experts=3, top_k=1, inner=INNER, activation="silu", shared=INNER, bias=True),
        spec.Recurrent(cell="lstm", hidden=WIDTH),
        spec.Recurrent(cell="gru", hidden=WIDTH),
        spec.Recurrent(cell="lstm", hidden=INNER, project=WIDTH),
    )
    layer = tuple(Sublayer(op=op, pre_norm=Norm(eps=1e-6), post_norm=GAIN) for op in ops)
    embedding = spec.Embedding(vocabulary=400, positions=99, segments=40, share="tokens")
    first = Stack(name="first", width=WIDTH, embedding=embedding, layers=(layer,) * layers)
    reading = spec.Attention(heads=4, kv_heads=4, head_width=12, scale=0.3, cross_attends="first")
    convolution = spec.Convolution(widths=(3, 4), channels=WIDTH // 2, activation="relu")
    projection = spec.Projection(outputs=INNER, activation="none")
    second = Stack(
        name="second",
        width=WIDTH,
        embedding=spec.Embedding(vocabulary=400, share="tokens"),
        layers=(
            (Sublayer(op=reading), Sublayer(op=convolution)),
            (Sublayer(op=projection, residual=False),),
        ),
    )
    third = Stack(
        name="third",
        width=WIDTH,
        embedding=spec.Embedding(vocabulary=0, vector=True),
        layers=((Sublayer(op=with_buckets), Sublayer(op=reading)),),
    )
    return ModelSpec(stacks=(first, second, third), scalar_mix=True)


def made(scheme: str = "normal", seed: int = 7, layers: int = LAYERS) -> Network:
    network = build(setting(layers), LM)
    initialise(network, seed, Initialisation(scheme, STD))
    return network


def matrices(network: Network) -> Iterator[tuple[str, Tensor]]:
    """Each matrix of the formulas by itself, as the papers count them."""
    for name, weight in network.named_parameters():
        leaf = name.rpartition(".")[2]
        module = network.get_submodule(name.rpartition(".")[0])
        if weight.ndim < 2 or "bias" in leaf or isinstance(module, nn.Embedding):
            continue
        if "buckets" in name or (".relative." in name and ".map." not in name):
            continue
        parts = {"qkv.weight": [48, 24, 24], "kv.weight": [48, 48], "1.op.up.weight": [INNER] * 2}
        parts |= {"shared.up.weight": [INNER] * 2}
        sizes = next((rows for end, rows in parts.items() if name.endswith(end)), [])
        if name.endswith("qkv.weight") and weight.shape[0] == 144:
            sizes = [48] * 3
        gates = {"LSTM": 4, "GRU": 3}.get(getattr(module, "mode", ""), 1)
        if gates > 1 and leaf != "weight_hr_l0":
            sizes = [len(weight) // gates] * gates
        if name.endswith(".4.op.up.weight"):
            sizes = [INNER] * 2
        for whole in list(weight) if isinstance(module, StackedLinear) else [weight]:
            for part in whole.split(sizes) if sizes else [whole]:
                yield name, part.detach()


def expected(name: str, matrix: Tensor, scheme: str) -> float:
    """The stated variance."""
    come, go = matrix[0].numel(), len(matrix) * matrix[0, 0].numel()
    if scheme == "scaled" and ".layers." in name:
        last = name.endswith(("out.weight", "down.weight"))
        return STD**2 / (2 * (LAYERS + 3)) if last else STD**2
    return {
        "normal": STD**2,
        "scaled": STD**2,
        # The variance that a normal distribution has between its second deviations.
        "truncated": STD**2 * (1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(2**0.5)),
        "xavier_uniform": 2 / (come + go),
        "xavier_normal": 2 / (come + go),
        "kaiming_uniform": 2 / come,
        "kaiming_normal": 2 / come,
        "lecun": 1 / come,
    }[scheme]


@pytest.mark.parametrize("scheme", [*SCHEMES, "scaled"])
def test_every_matrix_has_the_stated_variance(scheme):
    network = made(scheme)
    names = set()
    for name, matrix in matrices(network):
        names.add(name)
        if scheme == "orthogonal":
            flat = matrix.flatten(1).double()
            flat = flat if len(flat) <= flat.shape[1] else flat.T
            eye = torch.eye(len(flat), dtype=torch.float64)
            torch.testing.assert_close(flat @ flat.T, eye, rtol=0, atol=1e-5)
            continue
        variance = expected(name, matrix, scheme)
        # Five standard deviations of a variance of so many normal draws (of uniform ones more).
        slack = 5 * math.sqrt(2 / matrix.numel())
        assert matrix.var().item() == pytest.approx(variance, rel=slack), name
        assert abs(matrix.mean().item()) < 5 * math.sqrt(variance / matrix.numel()), name
        most = matrix.abs().max().item() / math.sqrt(variance)
        if scheme.endswith("uniform"):
            assert 1.6 < most <= math.sqrt(3) + 1e-5, name
        elif scheme == "truncated":
            assert matrix.abs().max() <= 2 * STD
        else:
            assert most > 2.5, name
    assert len(names) == 22 * LAYERS + 9


@pytest.mark.parametrize("scheme", [*SCHEMES, "scaled"])
def test_tables_are_normal_and_biases_nothing_under_every_scheme(scheme):
    network = made(scheme)
    drawn = {name for name, _ in matrices(network)}
    tables = []
    for name, weight in network.named_parameters():
        leaf = name.rpartition(".")[2]
        if name in drawn:
            continue
        if "embedding" in name or "buckets" in name or ".relative." in name:
            slack = 5 * math.sqrt(2 / weight.numel())
            assert weight.var().item() == pytest.approx(STD**2, rel=slack), name
            tables.append(name)
        elif leaf == "weight":  # of a norm
            assert torch.equal(weight, torch.full_like(weight, float(".pre_norm." in name))), name
        elif leaf == "mix_scale":
            assert weight.item() == 1.0
        else:
            assert "bias" in leaf or leaf == "mix"
            assert not weight.any(), name
    assert len(tables) == 4 + 4 * LAYERS + 1


def test_a_fresh_norm_is_plain():
    network, x = made(), torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    sublayer = network.stacks["first"].layers[0][0]
    torch.testing.assert_close(sublayer.pre_norm(x), F.layer_norm(x, (WIDTH,), eps=1e-6))
    plain = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(sublayer.post_norm(x), plain)


def test_a_fresh_mix_is_the_mean():
    embedding = spec.Embedding(vocabulary=50)
    layer = (Sublayer(op=spec.FeedForward(inner=5, activation="relu")),)
    stack = Stack(name="a", width=WIDTH, embedding=embedding, layers=(layer,) * 3)
    network = build(ModelSpec(stacks=(stack,), scalar_mix=True))
    initialise(network, 1, Initialisation("kaiming_normal"))
    batch = pack([np.arange(6)])
    states = [network.stacks["a"].embedding.tokens.weight[:6]]
    for (sublayer,) in network.stacks["a"].layers:
        states.append(states[-1] + sublayer.op(states[-1], ForwardContext(batch)))
    torch.testing.assert_close(network.hidden(batch), torch.stack(states).mean(0))


def test_a_draw_depends_on_seed_and_name_alone():
    one, again, other, longer = made(), made(), made(seed=8), made(layers=3)
    state = torch.random.get_rng_state()
    torch.manual_seed(99)
    elsewhere = made()
    torch.random.set_rng_state(state)
    for name, weight in one.named_parameters():
        assert torch.equal(weight, again.get_parameter(name)), name
        assert torch.equal(weight, elsewhere.get_parameter(name)), name
        assert torch.equal(weight, longer.get_parameter(name)), name
        constant = len(weight.unique()) == 1
        assert torch.equal(weight, other.get_parameter(name)) == constant, name
    layers = [one.get_parameter(f"stacks.first.layers.{n}.0.op.out.weight") for n in range(2)]
    assert not torch.equal(*layers)


def test_torchs_own_stream_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    made("orthogonal")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_there_is_kept():
    network = build(setting(), LM)
    name = "stacks.first.layers.0.1.op.up.weight"
    given = torch.full((2 * INNER, WIDTH), 3.0)
    fill(network, {name: given})
    initialise(network, 7, Initialisation("normal", STD))
    assert torch.equal(network.get_parameter(name), given)
    other = "stacks.first.layers.1.1.op.up.weight"
    assert torch.equal(network.get_parameter(other), made().get_parameter(other))


def test_ties_stay_ties():
    network = made()
    table = network.stacks["first"].embedding.tokens.weight
    assert network.head.out.weight is table
    assert network.stacks["second"].embedding.tokens.weight is table
    buckets = {
        id(weight)
        for name, weight in network.named_parameters(remove_duplicate=False)
        if "buckets" in name
    }
    assert len(buckets) == 1
    assert not any(weight.is_meta for weight in network.parameters())
