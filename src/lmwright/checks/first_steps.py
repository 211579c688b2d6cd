"""Probe ``first steps``: what learns, what stays, and what micro-batches change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lmwright.core.finding import Finding
from lmwright.models.network.network import Network
from lmwright.train.batches import EpochBatches, Example
from lmwright.train.check import Trial
from lmwright.train.division import Division, add_gradients
from lmwright.train.optim import trainable

NAME = "first steps"
STEPS = 3
"""An update of low rank begins at 0, so that its first factor has no gradient before step 2."""
PARTS = 2
LOSE = 1e-3
"""The largest difference of a gradient in micro-batches, in units of its norm."""


def check(trial: Trial) -> Iterator[Finding]:
    """A few steps on a copy, at the recipe's rate and without dropout."""
    network = trial.copy()
    weights, batch = trainable(network), trial.examples[: trial.batch]
    if not trial.task_model.loss(network, batch, None).mean.requires_grad:
        yield Finding(
            NAME,
            "stop",
            f"the loss reaches none of the {len(weights):,} weights that learn",
            cure="set tune to full or lora",
        )
        return
    batches = EpochBatches(trial.examples, trial.batch, 1 + STEPS, trial.seed)
    yield from divided(trial, network, batches)
    fixed = {name: digest(each) for name, each in frozen(network).items()}
    before = {name: each.detach().clone() for name, each in weights.items()}
    was = value_of(trial, network, batch)
    optimizer = trial.optimizer.make(network)
    moved_by = set[str]()
    for step in range(STEPS):
        trial.task_model.loss(network, batches.at(step), None).mean.backward()
        moved_by |= {name for name, each in weights.items() if is_moving(each)}
        trial.move(network, optimizer, step, trial.descent.lr)
    changed = [name for name, each in frozen(network).items() if digest(each) != fixed[name]]
    if changed:
        yield Finding(
            NAME,
            "stop",
            f"{len(changed):,} weights that should stay as they are changed: {listed(changed)}",
            cure="take a tune that leaves them alone",
        )
    still = [name for name, each in weights.items() if torch.equal(each.detach(), before[name])]
    without = sorted(set(weights) - moved_by)
    own = f"{len(weights):,} weights ({sum(each.numel() for each in weights.values()):,} numbers)"
    now = value_of(trial, network, batch)
    if len(still) == len(weights) or now == was:
        yield Finding(
            NAME,
            "stop",
            f"{STEPS} steps change nothing: {len(weights) - len(still):,} of {own} moved, the loss "
            f"of a batch is {was:.6g} before and {now:.6g} after",
            cure="raise lr, or take a tune whose weights reach the output",
        )
    elif without:
        yield Finding(
            NAME,
            "warn" if len(without) > len(weights) / 2 else "note",
            f"{len(without):,} of {own} had no gradient in {STEPS} steps: {listed(without)}",
        )
    else:
        yield Finding(
            NAME,
            "note",
            f"all {own} had a gradient in {STEPS} steps, {len(fixed):,} frozen ones kept their "
            "bytes",
        )


def divided(trial: Trial, network: Network, batches: EpochBatches) -> Iterator[Finding]:
    """The gradient of a batch in micro-batches, against that of one pass."""
    if not trial.task_model.loss(network, batches.at(0)[:2], None).divisible:
        return
    whole = gradient(trial, network, batches, 1)
    parts = gradient(trial, network, batches, min(PARTS, trial.batch))
    norm = float(torch.linalg.vector_norm(whole))
    difference = float(torch.linalg.vector_norm(parts - whole)) / max(norm, 1e-30)
    if not difference <= LOSE:
        yield Finding(
            NAME,
            "stop",
            f"the gradient of a batch in {PARTS} micro-batches differs by {difference:.1%} from "
            "that of the batch: the loss is no mean over its count",
            cure="let the task's loss count what its mean is taken over",
        )
    else:
        yield Finding(
            NAME,
            "note",
            f"the gradient of a batch is the same in {PARTS} micro-batches, but for "
            f"{difference:.1e}",
        )


def gradient(trial: Trial, network: Network, batches: EpochBatches, parts: int) -> Tensor:
    """The gradient (weights,) of the first batch, read in parts, without dropout."""

    def loss(of: nn.Module, examples: Sequence[Example], _: object) -> object:
        return trial.task_model.loss(of, examples, None)

    add_gradients(network, batches, loss, 0, Division(parts))  # type: ignore[arg-type]
    found = [
        torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten()
        for each in trainable(network).values()
    ]
    for each in trainable(network).values():
        each.grad = None
    return torch.cat(found)


def frozen(network: Network) -> dict[str, Tensor]:
    """The weights that do not learn, by name."""
    return {name: each for name, each in network.named_parameters() if not each.requires_grad}


def digest(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's bytes."""
    held = tensor.detach().cpu().contiguous()
    return hashlib.sha256(held.view(torch.uint8).numpy().tobytes()).hexdigest()


def is_moving(weight: Tensor) -> bool:
    """True for a weight with a gradient that is not 0."""
    return weight.grad is not None and bool((weight.grad != 0).any())


def value_of(trial: Trial, network: Network, batch: Sequence[Example]) -> float:
    """The loss of a batch."""
    with torch.no_grad():
        return float(trial.task_model.loss(network, batch, None).mean)


def listed(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
