"""The stage ``meta``: a body from which a few rows of new labels make a classifier."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, nearest
from lmwright.core.settings import Choice, kind_of, read_choice
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate
from lmwright.core.task import LabelTask
from lmwright.data.corpus import (
    read_split,
    read_task_of,
    task_modules,
    text_model_modules,
    write_used_rows,
)
from lmwright.models.core.device import (
    Device,
    TrainingPrecision,
    describe_placement,
    resolve_placement,
)
from lmwright.models.core.memory import keep_few_kernels
from lmwright.models.core.spec import Head
from lmwright.models.files.published import (
    check_address,
    content_of,
    family_modules,
    read_published,
)
from lmwright.models.network.network import Network, fill
from lmwright.models.text_model import TextModel, TextPredictor, from_published
from lmwright.tables import module_of, resolve
from lmwright.train.batches import Example
from lmwright.train.episodes import Adaptation, Episode, check_pool, draw, features
from lmwright.train.loop import State, refuse_infinite
from lmwright.train.optim import OptimizerSettings, Schedule
from lmwright.train.start import START
from lmwright.train.task_model import TrainedTaskModel, trained_task_model

AT_ONCE = 64
"""Examples whose features are made at a time."""
PARTS = 1000
"""Steps in which a schedule sees the progress of a training."""


@dataclass(frozen=True)
class MetaTraining:
    """What a learner is given: examples by label, what episodes are like, how adapting goes."""

    pool: Mapping[str, list[Example]]
    ways: int
    shots: int
    queries: int
    adaptation: Adaptation
    optimizer: OptimizerSettings
    schedule: Schedule
    lr: float
    seed: int

    def episode(self, number: int) -> Episode:
        """An episode of the labels that are learnt from."""
        return draw(self.pool, self.ways, self.shots, self.queries, self.seed, number, "episode")

    def rate(self, done: float) -> float:
        """The learning rate when this share of the training is done."""
        return self.schedule.rate(min(int(done * PARTS), PARTS - 1), PARTS, self.lr)


class Learner:
    """One run of a method: moves the weights of a network by one episode after another."""

    def __init__(self, network: Network, training: MetaTraining) -> None:
        self.network, self.training = network, training

    def learn(self, number: int, done: float) -> tuple[float, int]:
        """Learn from episode ``number``, when ``done`` (0 to 1) is behind: the loss, and how many
        rows were read there and back."""
        raise NotImplementedError


class MetaMethod(Protocol):
    """The setting ``method``: an entry of ``tables.METAS``."""

    def make(self, network: Network, training: MetaTraining) -> Learner:
        """The learner of one training."""


@dataclass(frozen=True, kw_only=True)
class Meta(Stage):
    """Tune a body on few-shot episodes of the labels of ``rows``, so that others are soon learnt.

    ``method`` is ``maml``, ``reptile`` or, to compare with, ``plain`` tuning on all labels at once.
    An episode has ``ways`` labels, ``shots`` rows of each to adapt to and ``queries`` to be judged
    by. Adapting is ``adapt_steps`` steps of gradient descent from a head of zeros: of the head at
    the rate ``head_lr`` alone (``adapt: head``), or of all weights, those of the body at
    ``adapt_lr``. Training ends when ``passes`` rows were read there and back, whatever the method,
    so that methods are compared at one cost. ``held_out`` are labels that nothing is learnt from:
    the facts have the accuracy on ``test_episodes`` of them, before and after. It begins anew when
    it was killed.

    The model that it gives has a head of the other labels, by the distance to the mean of each. To
    learn new labels from a few rows a training takes its body (``start_from``, ``take: body``).
    """

    start: str = START
    method: Choice = "maml"
    held_out: tuple[str, ...] = ()
    ways: int = 3
    shots: int = 5
    queries: int = 5
    passes: int = 4000
    test_episodes: int = 50
    adapt: str = "head"
    adapt_steps: int = 10
    adapt_lr: float = 0.01
    head_lr: float = 0.3
    max_tokens: int = 64
    lr: float = 5e-5
    optimizer: Choice = "adamw"
    schedule: Choice = "linear"
    dropout: float = 0.1
    device: Device = "auto"
    precision: TrainingPrecision = "auto"

    def needs(self) -> tuple[str, ...]:
        """The rows."""
        return ("rows",)

    def gives(self) -> tuple[str, ...]:
        """One model."""
        return ("model",)

    def reads(self) -> dict[str, str]:
        """The published start."""
        return {self.start: content_of(self.start)}

    def resolved(self) -> dict[str, Any]:
        """The device and the precision."""
        return resolve_placement(self.device, self.precision).to_json()

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, how a text model answers it, the method and the start's family."""
        rows = inputs["rows"]
        kinds = [
            module_of(table, kind_of(value))
            for table, value in (
                ("metas", self.method),
                ("optimizers", self.optimizer),
                ("schedules", self.schedule),
            )
        ]
        return (*task_modules(rows), *text_model_modules(rows), *kinds, *family_modules(self.start))

    def check(self) -> None:
        """BadInput for a number outside its range, and names that are none."""
        least = {"ways": 2, "shots": 1, "queries": 1, "passes": 1, "test_episodes": 2}
        least |= {"adapt_steps": 1, "max_tokens": 3}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise BadInput(f"{name} is {getattr(self, name)}", f"at least {bound}")
        for name in ("lr", "adapt_lr"):
            if not 0 < getattr(self, name) <= 1:
                raise BadInput(f"{name} is {getattr(self, name)}", "above 0 and at most 1")
        if not 0 < self.head_lr <= 100 or not 0 <= self.dropout < 1:
            raise BadInput(
                f"head_lr {self.head_lr}, dropout {self.dropout}",
                "a rate above 0 and at most 100, and a dropout from 0 and below 1",
            )
        if self.adapt not in ("head", "all"):
            raise BadInput(f"adapt is {self.adapt!r}", "head or all")
        read_choice("metas", self.method, "method", resolve)
        read_choice("optimizers", self.optimizer, "optimizer", resolve)
        read_choice("schedules", self.schedule, "schedule", resolve)
        check_address(self.start)

    def foresee(self, inputs: Mapping[str, Path]) -> None:
        """BadInput for rows without one label each, and held-out labels that there are not."""
        resolve_placement(self.device, self.precision)
        if "rows" in inputs:
            self.labels_of(trained_task_model(read_task_of(inputs["rows"])))

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The rows that are learnt from, and those of the test episodes."""
        length = known.tokens("rows/train", self.max_tokens)
        tested = 2 * self.test_episodes * self.ways * (self.shots + self.queries)
        return WorkEstimate(
            train_tokens=self.passes * length,
            read_tokens=(tested if self.held_out else 0) * length,
            disk=known.model_bytes(),
        )

    def labels_of(self, task_model: TrainedTaskModel) -> list[str]:
        """The labels to learn from; BadInput where they are none, or the held-out ones are not
        among them."""
        task, head = task_model.task, task_model.head(0.0)
        labels = list(task_model.output_names())
        if not isinstance(head, Head) or head.pool == "none" or head.outputs != len(labels):
            raise BadInput(
                f"episodes of {task.kind}", "a task of one label a text: text-classification"
            )
        for each in self.held_out:
            if each not in labels:
                raise BadInput(f"held_out: {each!r}", "a label of the rows", nearest(each, labels))
        return [each for each in labels if each not in self.held_out]

    def run(self, work: Work) -> dict[str, Any]:
        """Learn from episodes, judge by others, and write the model."""
        keep_few_kernels()
        task_model = trained_task_model(read_task_of(work.inputs["rows"]))
        seen = self.labels_of(task_model)
        head = replace(task_model.head(self.dropout), outputs=len(seen))  # type: ignore[type-var]
        model = from_published(read_published(self.start), head, self.max_tokens, self.seed)
        network = model.network
        network.requires_grad_(True)
        placement = resolve_placement(self.device, self.precision)
        network.place(placement)
        work.record("placed", **describe_placement(placement))
        table = read_split(work.inputs["rows"], "train")
        pools = self.pools(task_model, model, table)
        rows = self.shots + self.queries
        check_pool({name: pools[name] for name in seen}, self.ways, rows, "the labels to learn")
        training = MetaTraining(
            {name: pools[name] for name in seen},
            self.ways,
            self.shots,
            self.queries,
            Adaptation(self.adapt == "all", self.adapt_steps, self.adapt_lr, self.head_lr),
            read_choice("optimizers", self.optimizer, "optimizer", resolve),
            read_choice("schedules", self.schedule, "schedule", resolve),
            self.lr,
            self.seed,
        )
        held_out = {name: pools[name] for name in self.held_out}
        if held_out:
            check_pool(held_out, self.ways, rows, "held_out")
        before = self.judged(network, training, held_out)
        began = time.perf_counter()
        episodes, read = self.learn(work, network, training)
        work.measured(seconds=time.perf_counter() - began)
        after = self.judged(network, training, held_out)
        own: Any = replace(task_model.task, labels=tuple(seen))  # type: ignore[type-var]
        predictor = TextPredictor(own, with_means(model, training.pool, seen))
        predictor.save(work.out("model"))
        learnt = table.filter([label in seen for label in labels_in(task_model, table)])
        write_used_rows(own, learnt, work.out("model"))
        return {
            "headline": headline(before, after),
            "method": kind_of(self.method),
            "episodes": episodes,
            "passes": read,
            "rows": learnt.num_rows,
            "seen": seen,
            "held_out": list(self.held_out),
            "task": own.kind,
            **({"before": before, "after": after} if held_out else {}),
        }

    def pools(
        self, task_model: TrainedTaskModel, model: TextModel, table: Any
    ) -> dict[str, list[Example]]:
        """The examples of each label, in the order of their ids."""
        found: dict[str, list[Example]] = {name: [] for name in task_model.task.labels}  # type: ignore[attr-defined]
        labels = list(found)
        for each in task_model.examples(model, table):
            found[labels[int(np.asarray(each.target))]].append(each)
        return found

    def learn(self, work: Work, network: Network, training: MetaTraining) -> tuple[int, int]:
        """One episode after another until the rows are read: how many of both."""
        method: MetaMethod = read_choice("metas", self.method, "method", resolve)
        learner = method.make(network, training)
        number, read = 0, 0
        curves = list[dict[str, Any]]()
        while read < self.passes:
            loss, more = learner.learn(number, read / self.passes)
            number, read = number + 1, read + more
            refuse_infinite(loss, 0.0, State(step=number, curves=curves[-1:]), work.record)
            curves.append({"step": number, "rows": read, "loss": loss})
            work.record("episode", **curves[-1])
            work.progress(min(read, self.passes), self.passes)
        write_json(work.out("model") / "curves.json", curves)
        return number, read

    def judged(
        self, network: Network, training: MetaTraining, pool: Mapping[str, list[Example]]
    ) -> dict[str, float]:
        """The mean accuracy on episodes of labels, and a 95 % interval by their deviation."""
        if not pool:
            return {}
        found = np.array(
            [
                training.adaptation.accuracy(
                    network,
                    draw(pool, self.ways, self.shots, self.queries, self.seed, number, "test"),
                )
                for number in range(self.test_episodes)
            ]
        )
        half = 1.96 * found.std(ddof=1) / np.sqrt(len(found))
        return {"accuracy": float(found.mean()), "plus_minus": float(half)}


def labels_in(task_model: TrainedTaskModel, table: Any) -> list[str]:
    """The label of each row."""
    task: LabelTask = task_model.task  # type: ignore[assignment]
    return [task.labels[code] for code in task.codes(table)]


@torch.no_grad()
def with_means(model: TextModel, pool: Mapping[str, list[Example]], labels: list[str]) -> TextModel:
    """The model with a head that gives the label to whose mean the features are nearest (Snell et
    al. 2017, equation 8): the map 2 μ, less |μ|²."""
    network, means = model.network, list[Tensor]()
    for label in labels:
        parts = [
            features(network, pool[label][at : at + AT_ONCE])
            for at in range(0, len(pool[label]), AT_ONCE)
        ]
        means.append(torch.cat(parts).mean(0))
    mean_kd = torch.stack(means)
    fill(
        network,
        {"head.out.weight": 2 * mean_kd, "head.out.bias": -mean_kd.square().sum(1)},
    )
    return model


def headline(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """What labels that were held out gained, in words; "" where there are none."""
    if not before:
        return ""
    one, other = (f"{each['accuracy']:.3f} ± {each['plus_minus']:.3f}" for each in (before, after))
    return f"new labels: accuracy {one} before, {other} after"
