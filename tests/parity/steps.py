"""Thirty steps of training: ours, and those of the reference's Trainer on the same batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from benchmarks.peer import trainer_arguments
from torch import nn

from lmwright.train.batches import UNLEARNT, EpochBatches, Example
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.loss import Loss
from lmwright.train.optimizers import AdamW
from lmwright.train.schedules import Linear

STEPS, BATCH, DECAY, CLIP = 30, 4, 0.01, 1.0
PADDED = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0, "labels": UNLEARNT}
"""Inputs of the reference that are one number a token -> what fills a short row."""


def batches_of(examples: Sequence[Example]) -> EpochBatches:
    """Thirty batches, each a draw from the examples."""
    assert len(examples) >= STEPS * BATCH, len(examples)
    return EpochBatches(list(examples)[: STEPS * BATCH], BATCH, epochs=1, seed=7)


def our_steps(
    network: nn.Module, loss: Loss, batches: EpochBatches, lr: float
) -> tuple[np.ndarray, np.ndarray]:
    """Losses and norms of gradients (steps,) of our loop."""
    state = State()
    train(
        network,
        batches,
        lambda network, examples, dropout_rng: loss(network, examples, None),
        AdamW(weight_decay=DECAY).make(network),
        OptimizerConfig(lr, Linear(warmup=0.0), CLIP),
        state,
        [],
        lambda event, **facts: None,
    )
    points = [(point["loss"], point["gradient"]) for point in state.curves]
    return tuple(np.array(points).T)  # type: ignore[return-value]


def their_steps(
    model: Any,
    batches: EpochBatches,
    inputs: Callable[[Example], dict[str, Any]],
    lr: float,
    loss: Callable[[Any, dict[str, Any]], torch.Tensor] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The same of transformers' Trainer; ``loss`` where it is not the model's own.

    ``inputs`` gives the reference's inputs of an example, which are padded here.
    """
    import transformers

    losses: list[float] = []
    norms: list[float] = []

    class Noted(transformers.Trainer):
        def compute_loss(self, model: Any, inputs: Any, *given: Any, **more: Any) -> Any:
            if loss is None:
                found = super().compute_loss(model, inputs, *given, **more)
            else:
                found = loss(model, inputs)
            losses.append(float(found.detach()))  # its log rounds
            return found

    class Norms(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "grad_norm" in logs:
                norms.append(float(logs["grad_norm"]))

    rows = [each for step in range(batches.steps) for each in batches.at(step)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = trainer_arguments(folder, BATCH, lr, DECAY, CLIP)
        Noted(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda found: padded([inputs(each) for each in found]),
            callbacks=[Norms()],
        ).train()
    return np.array(losses), np.array(norms)


def padded(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Inputs of several examples as one batch, padded to the longest."""
    found = {}
    for name in rows[0]:
        items = [np.asarray(row[name]) for row in rows]
        if items[0].ndim:
            width = max(len(each) for each in items)
            fill = next((fill for end, fill in PADDED.items() if name.endswith(end)), None)
            if fill is None:
                assert all(len(each) == width for each in items), name
            else:
                items = [
                    np.pad(each, (0, width - len(each)), constant_values=fill) for each in items
                ]
        found[name] = torch.from_numpy(np.stack(items))
    return found


def read(example: Example, **more: Any) -> dict[str, Any]:
    """A document as the reference reads it."""
    ids = np.asarray(example.tokens, dtype=np.int64)
    found = {"input_ids": ids, "attention_mask": np.ones_like(ids), **more}
    if example.segments is not None:
        found["token_type_ids"] = np.asarray(example.segments, dtype=np.int64)
    return found


def shifted(example: Example) -> np.ndarray:
    """The labels of a causal language model: our targets are one place earlier."""
    target = np.asarray(example.target)
    return np.concatenate([[UNLEARNT], target[:-1]])
