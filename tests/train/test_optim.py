"""Rates, clipping and decay against their formulas."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from lmwright.core.errors import BadInput
from lmwright.models.core.spec import Embedding, FeedForward, Head, ModelSpec, Stack, Sublayer
from lmwright.models.network.network import build
from lmwright.models.tunes.full import Full
from lmwright.models.tunes.head import HeadOnly
from lmwright.train.optim import clip, without_gradients
from lmwright.train.optimizers import SGD, AdamW
from lmwright.train.schedules import Constant, Cosine, Linear


def test_the_rate_rises_and_falls_in_straight_lines():
    found = [Linear(warmup=0.2).rate(step, 10, 1.0) for step in range(10)]
    assert found == pytest.approx(
        [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert [Linear(warmup=0.0).rate(step, 4, 2.0) for step in range(4)] == [2.0, 1.5, 1.0, 0.5]


def test_clipping_bounds_the_joint_norm_and_leaves_small_ones_alone():
    weights = [torch.zeros(3, requires_grad=True), torch.zeros(4, requires_grad=True)]
    for weight, value in zip(weights, (3.0, 4.0), strict=True):
        weight.grad = torch.zeros_like(weight)
        weight.grad[0] = value
    assert clip(weights, 0.0) == pytest.approx(5.0)
    assert weights[1].grad[0] == 4.0
    assert clip(weights, 10.0) == pytest.approx(5.0)
    assert weights[1].grad[0] == 4.0
    assert clip(weights, 1.0) == pytest.approx(5.0)
    assert weights[0].grad[0].item() == pytest.approx(0.6, rel=1e-5)
    assert weights[1].grad[0].item() == pytest.approx(0.8, rel=1e-5)


def test_adamw_follows_its_formula_and_spares_vectors_from_decay():
    """Loshchilov and Hutter 2019, algorithm 2, in fp64 by hand."""
    layer = torch.nn.Linear(3, 2).double()
    start = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
    optimizer = AdamW(weight_decay=0.1).make(layer)
    moments = {name: [0.0, 0.0] for name in start}
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        for name, weight in layer.named_parameters():
            weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            first, second = moments[name]
            first = 0.9 * first + 0.1 * weight.grad
            second = 0.999 * second + 0.001 * weight.grad**2
            moments[name] = [first, second]
            decay = 0.1 if name == "weight" else 0.0
            start[name] = start[name] * (1 - 0.01 * step * decay)
            middle = (second / (1 - 0.999**step)).sqrt() + 1e-8
            start[name] = start[name] - 0.01 * step * first / (1 - 0.9**step) / middle
        optimizer.step(0.01 * step)
    for name, weight in layer.named_parameters():
        torch.testing.assert_close(weight.detach(), start[name], rtol=1e-10, atol=1e-12)


def test_adamw_gives_the_bits_of_torch_and_goes_on_from_its_state():
    """A weight without a gradient is left alone by both; halfway the optimizer is a new one."""
    generator = torch.Generator().manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(64, 33), torch.nn.Linear(33, 5))
    theirs = copy.deepcopy(ours)
    weights = list(theirs.parameters())
    matrices, vectors = ([p for p in weights if (p.dim() > 1) == wide] for wide in (True, False))
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        fused=True,
    )
    optimizer = AdamW(weight_decay=0.1).make(ours)
    for step in range(12):
        for left, right in zip(ours.parameters(), weights, strict=True):
            if left.dim() > 1 or step % 3:
                left.grad = torch.randn(left.shape, generator=generator)
                right.grad = left.grad.clone()
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        reference.step()
        reference.zero_grad()
        optimizer.step(0.01 * (step + 1))
        assert all(weight.grad is None for weight in ours.parameters())
        if step == 5:
            kept = {name: tensor.clone() for name, tensor in optimizer.state().items()}
            optimizer = AdamW(weight_decay=0.1).make(ours)
            optimizer.restore(kept)
    for left, right in zip(ours.parameters(), weights, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_factors_of_rates_are_groups_of_torch(optimizer):
    """A weight's rate times its factor, with the same bits; 1 where none is named."""
    generator = torch.Generator().manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(17, 9), torch.nn.Linear(9, 5))
    theirs = copy.deepcopy(ours)
    factors = {"0.weight": 0.25, "0.bias": 0.25, "1.bias": 0.5}
    if optimizer == "adamw":
        made, kind, more = AdamW(weight_decay=0.0).make(ours), torch.optim.AdamW, {"fused": True}
    else:
        made, kind, more = SGD(weight_decay=0.0).make(ours), torch.optim.SGD, {"momentum": 0.9}
    groups = [
        {"params": [each], "lr": 0.01 * factors.get(name, 1.0)}
        for name, each in theirs.named_parameters()
    ]
    reference = kind(groups, weight_decay=0.0, **more)
    for _ in range(5):
        for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
            left.grad = torch.randn(left.shape, generator=generator)
            right.grad = left.grad.clone()
        reference.step()
        made.step(0.01, factors)
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0 if optimizer == "adamw" else 1e-6, atol=1e-8)


def test_adamw_is_one_call_for_weights_that_are_moved_alike(monkeypatch):
    calls, real = [], torch._fused_adamw_
    monkeypatch.setattr(
        torch, "_fused_adamw_", lambda *given, **more: (calls.append(given), real(*given, **more))
    )
    layers = torch.nn.Sequential(*(torch.nn.Linear(3, 3, bias=False) for _ in range(4)))
    optimizer = AdamW().make(layers)
    for factors, count in (({}, 1), ({"0.weight": 1.0}, 1), ({"0.weight": 0.5}, 2)):
        for each in layers.parameters():
            each.grad = torch.ones_like(each)
        calls.clear()
        optimizer.step(0.1, factors)
        assert len(calls) == count


def test_a_weight_that_stands_still_wants_no_gradient_in_that_step_alone():
    layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    with without_gradients(layers, {"0.weight": 0.0, "1.weight": 0.5}):
        layers(torch.ones(1, 3)).sum().backward()
        assert layers[0].weight.grad is None and layers[1].weight.grad is not None
    assert all(each.requires_grad for each in layers.parameters())
    with pytest.raises(KeyError), without_gradients(layers, {"0.weight": 0.0}):
        raise KeyError
    assert layers[0].weight.requires_grad


def test_other_schedules_follow_their_formulas():
    cosine = Cosine(warmup=0.2, floor=0.1)
    found = [cosine.rate(step, 10, 2.0) for step in range(10)]
    assert found[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert found[6] == pytest.approx(2.0 * (0.1 + 0.9 / 2), abs=1e-12), "halfway down"
    assert all(a > b > 0.2 for a, b in itertools.pairwise(found[2:]))
    assert [Constant(warmup=0.5).rate(step, 4, 3.0) for step in range(4)] == [1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_gives_the_numbers_of_torch_and_goes_on_from_its_state(momentum):
    generator = torch.Generator().manual_seed(1)
    ours = torch.nn.Sequential(*(torch.nn.Linear(9, 9, bias=False) for _ in range(2)))
    theirs = copy.deepcopy(ours)
    reference = torch.optim.SGD(theirs.parameters(), momentum=momentum, weight_decay=0.1)
    setting = SGD(momentum=momentum, weight_decay=0.1)
    optimizer = setting.make(ours)
    for step in range(8):
        for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
            left.grad = torch.randn(left.shape, generator=generator)
            right.grad = left.grad.clone()
        reference.param_groups[0]["lr"] = 0.01 * (step + 1)
        reference.step()
        optimizer.step(0.01 * (step + 1))
        if step == 3:
            kept = {name: tensor.clone() for name, tensor in optimizer.state().items()}
            optimizer = setting.make(ours)
            optimizer.restore(kept)
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)


def test_tunes_let_their_weights_learn_and_no_others():
    layer = (Sublayer(op=FeedForward(inner=3, activation="relu")),)
    stack = Stack(name="decoder", width=4, embedding=Embedding(vocabulary=7), layers=(layer,))
    network = build(ModelSpec(stacks=(stack,)), Head(pool="none", outputs=7))
    HeadOnly().apply(network, seed=0)
    learning = {name for name, each in network.named_parameters() if each.requires_grad}
    assert learning == {"head.out.weight", "head.out.bias"}
    Full().apply(network, seed=0)
    assert all(each.requires_grad for each in network.parameters())
    network.head.out.weight = network.stacks["decoder"].embedding.tokens.weight
    with pytest.raises(BadInput, match="the body's too"):
        HeadOnly().apply(network, seed=0)
