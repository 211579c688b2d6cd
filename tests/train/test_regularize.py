"""Regularizers: each does to losses, gradients and weights what its paper says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.data.corpus import read_split
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.files.folder import read_folder
from lmwright.models.network.network import Network, head_weights
from lmwright.models.text_model import TextModel, from_published
from lmwright.train.batches import EpochBatches, Example
from lmwright.train.beginning import at_rate
from lmwright.train.finetune import Train
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.loss import BatchLoss
from lmwright.train.optim import trainable
from lmwright.train.optimizers import AdamW
from lmwright.train.regularize import Regularization, matrices, wrapped
from lmwright.train.regularizers.adversarial import Adversarial
from lmwright.train.regularizers.averaging import Averaging
from lmwright.train.regularizers.mixout import Mixout
from lmwright.train.regularizers.penalties import L1, L2
from lmwright.train.regularizers.rdrop import RDrop
from lmwright.train.schedules import Constant
from lmwright.train.task_model import trained_task_model
from tests.train.conftest import TASK, FakeWork

WRITER = trained_task_model(TASK)
KINDS = ["l1", "l2", "r-drop", "mixout", "averaging", "adversarial"]


@pytest.fixture
def model(small: Path) -> TextModel:
    """A small encoder with a head of two classes, its dropout 0.1."""
    made = from_published(read_folder(small), WRITER.head(0.1), 48, 0)
    return at_rate(made, 0.1, 48)


@pytest.fixture
def examples(model: TextModel, rows: Path) -> list[Example]:
    """Thirty-two real rows."""
    return WRITER.examples(model, read_split(rows, "train", 32))


def gradients(
    network: Network, examples: Sequence[Example], regularizations: Sequence[Regularization]
) -> dict[str, Tensor]:
    """The gradients of one step's loss, and none left in the network."""
    for each in regularizations:
        each.before(0)
    loss = wrapped(regularizations, WRITER.loss, 0)
    loss(network, examples, None).mean.backward()
    for each in reversed(regularizations):
        each.after_gradients(0)
    found = {n: w.grad.clone() for n, w in trainable(network).items() if w.grad is not None}
    for weight in network.parameters():
        weight.grad = None
    return found


def steps(
    network: Network, examples: Sequence[Example], count: int, *made: Regularization
) -> State:
    """Some steps of the loop."""
    state = State()
    train(
        network,
        EpochBatches(examples, 8, -(-count * 8 // len(examples)), 0),
        WRITER.loss,
        AdamW().make(network),
        OptimizerConfig(3e-3, Constant(), 1.0),
        state,
        [],
        lambda *_, **__: None,
        regularizations=made,
    )
    return state


def test_penalties_add_their_gradient(model, examples):
    network = model.network
    plain = gradients(network, examples, [])
    for setting, own in ((L1(weight=0.01), torch.sign), (L2(weight=0.01), lambda w: w)):
        found = gradients(network, examples, [setting.make(network, 0, 1)])
        decayed = matrices(network)
        for name, weight in trainable(network).items():
            wanted = plain[name] + (0.01 * own(weight) if name in decayed else 0)
            torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-7)


def test_l1_leaves_more_weights_near_nought(model, examples):
    plain = at_rate(model, 0.0, 48).network
    other = at_rate(model, 0.0, 48).network
    for network in (plain, other):
        for weight in trainable(network).values():
            weight.data = weight.data.clone()
    steps(plain, examples, 40)
    steps(other, examples, 40, L1(weight=1e-2).make(other, 0, 40))
    sizes = [
        float(sum(each.detach().abs().sum() for each in matrices(network).values()))
        for network in (plain, other)
    ]
    assert sizes[1] < 0.9 * sizes[0]


def test_mixout_reads_a_mixture_whose_mean_is_the_weight(model, examples):
    network = model.network
    start = {name: each.detach().clone() for name, each in trainable(network).items()}
    mixture = Mixout(rate=0.5).make(network, 3, 1)
    with torch.no_grad():
        for each in trainable(network).values():
            each.add_(0.25)
    moved = {name: each.detach().clone() for name, each in trainable(network).items()}
    heads = {id(each) for each in head_weights(network)[0]}
    sums = {name: torch.zeros_like(each) for name, each in moved.items()}
    for step in range(200):
        mixture.before(step)
        for name, each in trainable(network).items():
            sums[name] += each.detach() / 200
        if step == 0:
            for name, each in trainable(network).items():
                # Either the start's or 1 / (1 - rate) times as far from it.
                far = (each.detach() - start[name]).abs()
                if each.dim() > 1 and id(each) not in heads:
                    near, wide = far < 1e-5, (far - 0.5).abs() < 1e-5
                    assert bool((near | wide).all())
                    assert near.any() and wide.any()
        mixture.after_gradients(step)
    for name, each in trainable(network).items():
        assert torch.equal(each, moved[name])  # put back
        torch.testing.assert_close(sums[name], moved[name], rtol=0, atol=0.12)


def test_mixout_at_the_start_changes_no_output(model, examples):
    network = at_rate(model, 0.0, 48).network
    with torch.no_grad():
        plain = float(WRITER.loss(network, examples, None).mean)
        mixture = Mixout(rate=0.6).make(network, 0, 1)
        mixture.before(0)
        mixed = float(WRITER.loss(network, examples, None).mean)
        mixture.after_gradients(0)
    assert mixed == pytest.approx(plain, rel=1e-5)


def test_an_average_is_that_of_the_weights(model, examples):
    network = model.network
    average = Averaging(start=0.5, every=2).make(network, 0, 8)
    seen = []

    class Recorder(Regularization):
        def after(self, step: int) -> None:
            seen.append({n: w.detach().clone() for n, w in trainable(network).items()})

    steps(network, examples, 8, Recorder(), average)
    taken = [seen[n] for n in (4, 6)]
    with average.evaluated():
        for name, each in trainable(network).items():
            wanted = (taken[0][name] + taken[1][name]) / 2
            torch.testing.assert_close(each.detach(), wanted, rtol=1e-5, atol=1e-6)
    for name, each in trainable(network).items():
        assert torch.equal(each.detach(), seen[-1][name])


def test_a_moving_average_weighs_by_its_decay(model):
    network = model.network
    weight = next(iter(trainable(network).values()))
    average = Averaging(start=0, every=1, decay=0.75).make(network, 0, 3)
    for step in range(3):
        with torch.no_grad():
            weight.fill_(float(step))
        average.after(step)
    with average.evaluated():
        assert float(weight.detach().flatten()[0]) == pytest.approx(0.75 * (0.25 * 1) + 0.25 * 2)


@pytest.mark.parametrize("method", ["fgsm", "pgd", "freelb"])
def test_an_adversary_makes_the_loss_larger(method, model, examples):
    network = at_rate(model, 0.0, 48).network
    adversary = Adversarial(method=method, size=0.3, radius=0.5, steps=2).make(network, 0, 1)
    plain = float(WRITER.loss(network, examples, None).mean.detach())
    moved = float(adversary.wrapped(WRITER.loss, 0)(network, examples, None).mean.detach())
    assert moved > plain
    # Nothing is moved where no adversary was asked for.
    assert float(WRITER.loss(network, examples, None).mean.detach()) == plain


def test_a_move_stays_within_its_radius_and_is_a_documents_own(model, examples):
    network = at_rate(model, 0.0, 48).network
    made = Adversarial(method="pgd", size=0.3, radius=0.5, steps=4).make(network, 0, 1)
    kept = []

    class Seen(type(made)):  # type: ignore[misc]
        def further(self, name: str, gradient_nd: Tensor) -> Tensor:
            found = super().further(name, gradient_nd)
            edges = self.batches[name].cu_seqlens
            kept.append([float(found[a:b].norm()) for a, b in pairwise(edges)])
            return found

    made.__class__ = Seen
    made.wrapped(WRITER.loss, 0)(network, examples, None)
    assert len(kept) == 4
    assert kept[0] == pytest.approx([0.3] * len(examples), rel=1e-4)
    assert max(map(max, kept)) <= 0.5 + 1e-5


def test_fgsm_moves_by_the_sign_of_the_gradient(model, examples):
    network = at_rate(model, 0.0, 48).network
    made = Adversarial(method="fgsm", size=0.01).make(network, 0, 1)
    losses = []

    def loss(*given: Any) -> BatchLoss:
        losses.append(WRITER.loss(*given))
        return losses[-1]

    found = made.wrapped(loss, 0)(network, examples, None)
    assert float(found.mean.detach()) == pytest.approx(
        float(losses[0].mean.detach() + losses[1].mean.detach()) / 2
    )
    assert len(losses) == 2
    assert float(losses[1].mean.detach()) > float(losses[0].mean.detach())


def test_r_drop_is_two_readings_and_their_divergence(model, examples):
    network = model.network
    made = RDrop(weight=2.0).make(network, 5, 1)
    outputs: list[Tensor] = []
    assert network.head is not None
    network.head.register_forward_hook(lambda _, __, logits: outputs.append(logits.detach()))
    losses: list[float] = []

    def loss(*given: Any) -> BatchLoss:
        found = WRITER.loss(*given)
        losses.append(float(found.mean.detach()))
        return found

    found = made.wrapped(loss, 0)(network, examples, DropoutRNG(1, 0))
    one, other = (F.softmax(each.double(), -1).numpy() for each in outputs)
    divergence = float(((one - other) * (np.log(one) - np.log(other))).sum(-1).mean())
    assert divergence > 0
    assert float(found.mean.detach()) == pytest.approx(sum(losses) / 2 + divergence, rel=1e-4)


def test_r_drop_without_dropout_is_the_plain_loss(model, examples):
    network = at_rate(model, 0.0, 48).network
    made = RDrop().make(network, 0, 1)
    plain = WRITER.loss(network, examples, None).mean
    found = made.wrapped(WRITER.loss, 0)(network, examples, None).mean
    assert float(found.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)


def test_r_drop_needs_classes(model, small):
    writer = from_published(read_folder(small), replace(WRITER.head(0.0), outputs=1), 48, 0)
    with pytest.raises(BadInput, match="without classes"):
        RDrop().make(writer.network, 0, 1)


def test_micro_batches_are_the_whole_batch(model, rows, tmp_path, small):
    """All regularizers together, in parts and whole, up to the order of sums."""
    stage = Train(
        start=str(small), rows=48, epochs=1, batch=16, max_tokens=48, lr=1e-3, dropout=0.0,
        regularize=("l2", {"kind": "mixout", "rate": 0.3}, {"kind": "adversarial", "steps": 1}),
        optimizer="sgd",
    )  # fmt: skip
    whole, parts = (FakeWork({"rows": rows}, tmp_path / name) for name in "ab")
    stage.run(whole)
    replace(stage, micro_batch=4).run(parts)
    losses = [[event["loss"] for event in work.named("step")] for work in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_regularized_run_resumes_to_the_same_bytes(kind, rows, small, tmp_path):
    stage = Train(
        start=str(small), rows=64, epochs=2, batch=8, max_tokens=48, lr=3e-3, regularize=(kind,),
        evaluate_every=4, checkpoint_every=3,
    )  # fmt: skip
    whole, broken = (FakeWork({"rows": rows}, tmp_path / name) for name in "ab")
    facts = stage.run(whole)
    with pytest.raises(KeyboardInterrupt):
        broken.fail_at = 13
        stage.run(broken)
    broken.fail_at = 0
    assert stage.run(broken) == facts
    assert broken.named("resumed")
    paths = [work.folder / "model" / "model.safetensors" for work in (whole, broken)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    plain = FakeWork({"rows": rows}, tmp_path / "plain")
    replace(stage, regularize=()).run(plain)
    assert plain.folder.joinpath("model/model.safetensors").read_bytes() != paths[0].read_bytes()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"kind": "mixout", "rate": 1.0}, "rate is 1.0"),
        ({"kind": "l1", "weight": 0}, "weight is 0"),
        ({"kind": "averaging", "every": 0}, "every is 0"),
        ({"kind": "adversarial", "size": -1}, "size is -1"),
        ("dropconnect", "dropconnect"),
    ],
)
def test_a_regularizer_that_is_none_is_refused_before_any_work(setting, words, small):
    with pytest.raises(BadInput, match=words):
        Train(start=str(small), regularize=(setting,)).check()
