"""Several tasks in one training: other tasks learn on the body of the main one, a head each.

The main task's rows decide how many steps there are, and its validation rows which weights are
kept. Each other task has rows of its own, in an artifact with its task, and a head on the shared
body; a batch has rows of all of them, and a mixing says how many and how their losses are joined.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, overload

import pyarrow as pa
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import Task
from lmwright.data.corpus import read_split, read_task_of
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.spec import Head
from lmwright.models.network.network import Network, head_weights
from lmwright.models.network.shared import ReversedHead, on_body
from lmwright.models.text_model import TextModel
from lmwright.train.batches import Example
from lmwright.train.loop import State
from lmwright.train.loss import BatchLoss, Loss
from lmwright.train.mixed import MixedBatches
from lmwright.train.monitor import Monitor
from lmwright.train.regularize import Regularization
from lmwright.train.stored import StoredExamples
from lmwright.train.task_model import StartingTaskModel, TrainedTaskModel, trained_task_model

MAIN = "main"
"""What the task of the training's own rows is called among several."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
RESERVED = {MAIN, "model", "rows", "replay", "order"}
STEEPNESS = 10.0
"""How fast a reversed gradient grows with the progress of the training (Ganin and Lempitsky)."""
AT_ONCE = 4096
"""Rows that are made examples of at a time."""
ALSO = "also"
"""The network's module that holds the other tasks' heads while it is trained."""


@dataclass(frozen=True, kw_only=True)
class Also(Settings):
    """A task that is learnt beside that of the rows: an item of the setting ``also``.

    ``rows`` names the artifact with its rows, which has their task; ``limit`` bounds the training
    rows (0: all). Its loss counts ``weight`` times. ``reverse`` above 0 turns the gradient round
    that it gives the body, up to so many times its size: the body learns not to tell what the head
    tries to (domain-adversarial training; Ganin and Lempitsky 2015).
    """

    rows: str
    limit: int = 0
    weight: float = 1.0
    reverse: float = 0.0

    def check(self) -> None:
        """BadInput for a number out of range."""
        if not self.rows or self.limit < 0 or not self.weight > 0 or not 0 <= self.reverse <= 100:
            raise BadInput(
                f"rows {self.rows!r}, limit {self.limit}, weight {self.weight}, "
                f"reverse {self.reverse}",
                "an artifact, a limit from 0, a weight above 0, and reverse from 0 to 100",
            )


class Mixing(Protocol):
    """The setting ``mixing``: an entry of ``tables.MIXINGS``.

    One that ``makes_gradients`` makes the gradient with the loss, whose graph is then gone.
    """

    makes_gradients: ClassVar[bool]

    def shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """The share of all rows that each task has, by its number of rows; they sum to 1."""

    def make(self, names: Sequence[str], network: Network, seed: int) -> Combination:
        """How the losses of one run's tasks are joined."""


@dataclass(frozen=True)
class TaskLoss:
    """The mean loss of a task's rows in a batch, their share of it, and the task's weight."""

    mean: Tensor
    share: float
    weight: float


class Combination:
    """How the losses of a run's tasks become one: a mean over rows, until a subclass does more."""

    def joined(self, losses: Mapping[str, TaskLoss], step: int) -> Tensor:
        """One loss (a scalar) of those of the tasks in a batch."""
        terms = [each.share * each.weight * each.mean for each in losses.values()]
        return sum(terms[1:], terms[0])

    def after(self, step: int) -> None:
        """Done when the weights were moved."""

    def state(self) -> dict[str, Tensor]:
        """What has to be kept to go on later."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a former :meth:`state`."""

    def facts(self) -> dict[str, Any]:
        """What is told of it when the training has ended."""
        return {}


@dataclass(frozen=True)
class TaskExample(Example):
    """An example of another task than the training's own."""

    of: str = ""


@dataclass(frozen=True)
class OfTask(Sequence[Example]):
    """Examples that say of which task they are."""

    examples: Sequence[Example]
    name: str

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        return TaskExample(**vars(self.examples[place]), of=self.name)


@dataclass(frozen=True)
class Beside:
    """A task that is learnt beside another: its model has the body of the other's."""

    setting: Also
    task_model: TrainedTaskModel
    model: TextModel
    rows: pa.Table
    validation: pa.Table

    @property
    def task(self) -> Task:
        """The task."""
        return self.task_model.task

    @property
    def network(self) -> Network:
        """The network that answers it."""
        network: Network = self.model.network
        return network

    def examples(self, folder: Path, name: str) -> Sequence[Example]:
        """Its training rows as examples, which are kept in a folder."""

        def parts() -> Iterator[list[Example]]:
            for at in range(0, self.rows.num_rows, AT_ONCE):
                yield self.task_model.examples(self.model, self.rows.slice(at, AT_ONCE))

        return OfTask(StoredExamples(folder, parts()), name)

    def monitor(self, most: int) -> Monitor:
        """What scores it on its validation rows, of which ``most`` tokens are read."""
        model = self.model.with_network(self.network, most)
        return Monitor(
            self.task_model,
            model,
            self.task_model.examples(model, self.validation),
            self.validation,
        )


def check_also(also: Mapping[str, Also]) -> None:
    """BadInput for names that cannot be, and settings out of range."""
    for name, each in also.items():
        if not NAME.fullmatch(name) or name in RESERVED:
            raise BadInput(
                f"also.{name}",
                "a name of lower-case letters, digits, - and _, none of "
                + ", ".join(sorted(RESERVED)),
                "rename it",
            )
        each.check()


def task_beside(
    name: str,
    setting: Also,
    folder: Path,
    model: TextModel,
    main: TrainedTaskModel,
    validation_rows: int,
    dropout: float,
    seed: int,
) -> Beside:
    """A task with its rows, on the body of the model in training.

    BadInput where it needs another body, or a head that the body has not.
    """
    task_model = trained_task_model(read_task_of(folder))
    tables = [
        read_split(folder, "train", setting.limit, seed),
        read_split(folder, "validation", validation_rows, seed),
    ]
    for split, table in zip(("train", "validation"), tables, strict=True):
        if not table.num_rows:
            raise BadInput(
                f"also.{name}: {setting.rows} has no rows in {split}",
                "one row at least",
                "loosen its data stage",
            )
    head = task_model.head(dropout)
    own = model
    if isinstance(head, Head):
        network = on_body(model.network, head, seed, setting.reverse > 0)
        own = model.with_network(network, model.max_tokens)
    elif main.head(dropout) != head or setting.reverse:
        raise BadInput(
            f"also.{name}: {task_model.task.kind} beside {main.task.kind}"
            + (", reversed" if setting.reverse else ""),
            "a task with a head of its own, or one that is answered by the head of the main task",
            "train it by itself",
        )
    if isinstance(task_model, StartingTaskModel):
        ready, _ = task_model.prepared_start(own, main.task)
        if ready.network is not own.network:
            raise BadInput(
                f"also.{name}: {task_model.task.kind} with these settings adds to the start's own "
                "weights",
                "the same body for all tasks",
                "take the task's settings back",
            )
        own = ready
    return Beside(setting, task_model, own, *tables)


def body_of(network: Network) -> set[int]:
    """The identities of the weights that tasks share: all but those of heads of their own."""
    heads = {id(each) for each in head_weights(network)[0]}
    heads |= {id(each) for each in getattr(network, ALSO, nn.Module()).parameters()}
    return {id(each) for each in network.parameters()} - heads


class Several(Regularization):
    """The losses of several tasks as one, and the heads of the others beside the network's own.

    Between :meth:`attach` and :meth:`detach` their weights are the network's too: they are moved,
    kept and restored with it.
    """

    def __init__(
        self, network: Network, others: Mapping[str, Beside], weights: Mapping[str, float]
    ) -> None:
        self.network, self.others, self.weights = network, others, weights
        self.combination, self.steps = Combination(), 1

    def attach(self) -> None:
        """Let the heads be part of the network."""
        heads = {n: each.network.head for n, each in self.others.items()}
        own = {n: h for n, h in heads.items() if h is not None and h is not self.network.head}
        setattr(self.network, ALSO, nn.ModuleDict(own))

    def facts(self, batches: MixedBatches, state: State) -> dict[str, Any]:
        """What is told of the other tasks: rows, shares, scores of the weights that were kept."""
        kept = next((p for p in state.curves if p["step"] == state.best_step), {})
        found: dict[str, Any] = {}
        for name, each in self.others.items():
            start = f"validation_{name}."
            scores = {n.removeprefix(start): v for n, v in kept.items() if n.startswith(start)}
            found[name] = {
                "task": each.task.kind,
                "rows": each.rows.num_rows,
                "share": batches.parts[name].share,
                "read": batches.read[name],
                "scores": scores,
            }
        return {"also": found, **self.combination.facts()}

    def detach(self) -> None:
        """Take them off it again."""
        delattr(self.network, ALSO)

    def begin(self, mixing: Mixing, seed: int, steps: int) -> None:
        """Before the first of so many steps, once the network is placed."""
        self.combination = mixing.make([MAIN, *self.others], self.network, seed)
        self.steps = steps
        for each in self.others.values():
            each.network.placement = self.network.placement

    def before(self, step: int) -> None:
        """Let reversed gradients grow with the progress p: 2 / (1 + exp(-10 p)) - 1 of their
        size."""
        grown = 2 / (1 + math.exp(-STEEPNESS * step / self.steps)) - 1
        for each in self.others.values():
            if isinstance(each.network.head, ReversedHead):
                each.network.head.factor = each.setting.reverse * grown

    def wrapped(self, loss: Loss, step: int) -> Loss:
        """The joined loss of a step; ``loss`` is that of the main task."""

        def joint(
            network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
        ) -> BatchLoss:
            groups = dict[str, list[Example]]()
            for each in examples:
                name = each.of if isinstance(each, TaskExample) else MAIN
                groups.setdefault(name, []).append(each)
            found = dict[str, TaskLoss]()
            for name, own in groups.items():
                give: Callable[..., BatchLoss] = loss
                read = network
                if name != MAIN:
                    give, read = self.others[name].task_model.loss, self.others[name].network
                made = give(read, own, dropout_rng)
                found[name] = TaskLoss(made.mean, len(own) / len(examples), self.weights[name])
            return BatchLoss(self.combination.joined(found, step), len(examples), divisible=False)

        return joint

    def after(self, step: int) -> None:
        """Move what the combination learns."""
        self.combination.after(step)

    def state(self) -> dict[str, Tensor]:
        """What the combination keeps."""
        return self.combination.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Give it back."""
        self.combination.restore(state)
