"""A training looked at before its first step: findings of checks, each with the row that shows it.

A check is a function of a :class:`Trial`, named in ``tables.CHECKS`` where it looks, in
``tables.PROBES`` where it takes steps on a copy of the network. No check changes what is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.finding import Finding, Word
from lmwright.core.random import stream
from lmwright.models.core.device import Placement
from lmwright.models.network.network import Network
from lmwright.models.text_model import TextModel
from lmwright.tables import entries, resolve
from lmwright.train.batches import UNLEARNT, Example
from lmwright.train.documents import Document
from lmwright.train.loop import OptimizerConfig
from lmwright.train.optim import Optimizer, OptimizerSettings, clip, trainable
from lmwright.train.task_model import TrainedTaskModel

SAMPLE = 1000
"""Rows that are looked at, drawn from those to learn from."""
SOME, MANY = 0.01, 0.05
"""Shares of the rows from which on a fault of rows is warned of, and stops a training."""


class ReadRows:
    """Rows of a ``sample`` as ``task_model`` has ``model`` learn them."""

    task_model: TrainedTaskModel
    model: TextModel
    sample: pa.Table

    @cached_property
    def examples(self) -> list[Example]:
        """The sample as it is learnt from."""
        return self.task_model.examples(self.model, self.sample)

    @cached_property
    def documents(self) -> list[Document]:
        """Prompt and answer of each row of the sample; none of a task that has no such thing."""
        if not isinstance(self.task_model, WritesAnswers):
            return []
        return self.task_model.documents(self.model, self.given)

    @cached_property
    def given(self) -> list[Row]:
        """Inputs and targets of each row of the sample."""
        return self.columns("input", "target")

    @cached_property
    def asked(self) -> list[Row]:
        """The rows of the sample as requests: their inputs alone."""
        return self.columns("input")

    @property
    def ids(self) -> list[str]:
        """The ids of the sample's rows."""
        found: list[str] = self.sample.column("id").to_pylist()
        return found

    def columns(self, *roles: str) -> list[Row]:
        """The sample's columns of some roles, a mapping a row."""
        names = [each.name for each in self.task_model.task.columns if each.role in roles]
        found: list[Row] = self.sample.select(names).to_pylist()
        return found

    def answer_size(self, place: int) -> int:
        """Tokens that a row's whole answer has, with the one that ends it; 0 where it has none."""
        column = getattr(self.task_model.task, "target_column", "")
        text = str(self.given[place].get(column, "")).strip()
        return len(self.model.tokenizer.ids(text)) + 1 if text else 0


@dataclass(frozen=True)
class Trial(ReadRows):
    """A training before its first step.

    ``model`` is what it begins from, with what its tune adds; ``known_head`` says that its head is
    trained already. ``rows`` are those to learn from, ``data`` the folder of the artifact that
    they are of. ``steps`` are those of all epochs, of ``batch`` rows each. ``in_stretches`` says
    that all of a text is learnt, however long it is, stretch by stretch.
    """

    task_model: TrainedTaskModel
    model: TextModel
    known_head: bool
    rows: pa.Table
    validation: pa.Table
    data: Path
    batch: int
    micro_batch: int
    steps: int
    seed: int
    optimizer: OptimizerSettings
    descent: OptimizerConfig
    placement: Placement
    in_stretches: bool = False

    @cached_property
    def sample(self) -> pa.Table:  # type: ignore[override]
        """At most ``SAMPLE`` of the rows, in their order."""
        count = self.rows.num_rows
        if count <= SAMPLE:
            return self.rows
        chosen = stream(self.seed, "checked").choice(count, SAMPLE, replace=False)
        return self.rows.take(np.sort(chosen))

    @cached_property
    def examples(self) -> list[Example]:  # type: ignore[override]
        """The sample as it is learnt from; of a text in stretches the first one."""
        found = self.task_model.examples(self.model, self.sample)
        return [replace(each, cut=False) for each in found] if self.in_stretches else found

    def copy(self) -> Network:
        """A copy of the network as it is before its first step, placed."""
        network = copy.deepcopy(self.model.network)
        network.place(self.placement)
        return network

    def move(self, network: Network, optimizer: Optimizer, step: int, lr: float) -> None:
        """Move the weights of a copy by their gradients, as the training moves them at a step."""
        clip(trainable(network).values(), self.descent.clip)
        optimizer.step(lr, self.descent.factors(step, self.steps))


@runtime_checkable
class WritesAnswers(Protocol):
    """A task model whose rows are a prompt and an answer that is written for it."""

    def documents(self, model: TextModel, rows: Sequence[Row]) -> list[Document]:
        """The document of each row with its target, or of a request."""


@runtime_checkable
class Trains(Protocol):
    """A stage that trains, and can be looked at before it does."""

    def trial(self, work: Any) -> Trial:
        """The training before its first step; BadInput where it cannot begin."""


Check = Callable[[Trial], Iterator[Finding]]


def look(trial: Trial, probe: bool = False) -> list[Finding]:
    """What all checks find, the worst first; with ``probe`` those that take steps on a copy too,
    up to one that stops the training: after it no other could take a step."""
    found: list[Finding] = []
    for name in entries("checks"):
        found += checked(trial, "checks", name)
    for name in entries("probes") if probe else ():
        own = checked(trial, "probes", name)
        found += own
        if any(each.word == "stop" for each in own):
            break
    order = ("stop", "warn", "note")
    return sorted(found, key=lambda each: order.index(each.word))


def checked(trial: Trial, table: str, name: str) -> list[Finding]:
    """What one check finds."""
    check: Check = resolve(table, name)
    return list(check(trial))


def word_of(share: float) -> Word:
    """How bad a fault is that a share of the rows has."""
    return "stop" if share > MANY else "warn" if share > SOME else "note"


def refuse(findings: Sequence[Finding]) -> None:
    """BadInput for a training that a finding stops."""
    stops = [each for each in findings if each.word == "stop"]
    if stops:
        first = stops[0]
        more = f", and {len(stops) - 1} more like it" if len(stops) > 1 else ""
        raise BadInput(
            f"{first.check}: {first.fact}"
            + (f" (row {first.row[:12]})" if first.row else "")
            + more,
            "a training that can learn what is asked of it",
            f"{first.cure}; or set check_first to report, and it trains all the same",
        )


def learnt(example: Example) -> np.ndarray:
    """Which tokens (n,) of an example are learnt; empty where its target is none of tokens."""
    target = np.asarray(example.target)
    if target.dtype.kind != "i" or target.shape != (len(example.tokens),):
        return np.zeros(0, bool)
    return np.asarray(target != UNLEARNT)


def learnt_tokens(item: Document) -> np.ndarray:
    """Which tokens (n,) of a document are learnt: a mask over the tokens themselves."""
    found = np.zeros(len(item.tokens), bool)
    found[1:] = learnt(item.example())[:-1]
    return found
