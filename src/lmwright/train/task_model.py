"""What training needs of a task; the classes themselves are leaves in ``lmwright.tasks``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import pyarrow as pa
from torch import Tensor, nn

from lmwright.core.columns import Row
from lmwright.core.task import Task
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.spec import Head
from lmwright.models.text_model import TaskModel, TextModel, task_model_of
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss, Learnt


class TrainedTaskModel(TaskModel, Protocol):
    """How a text model is trained for a task: head, examples, loss and validation scores.

    ``monitor`` names the score that decides which weights are kept; lower is better.
    """

    monitor: ClassVar[str]

    def head(self, dropout: float) -> Head | str:
        """The head that answers the task, or the name of the published one that does."""

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Rows with targets as examples; BadInput for a target that the task does not know."""

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """The loss of some examples; with ``dropout_rng``, under dropout."""

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Scores on held-out examples by name, that of ``monitor`` among them."""


@runtime_checkable
class StartingTaskModel(Protocol):
    """A task model that makes a start ready before it is trained: with a template, a table more."""

    def prepared_start(
        self, start: TextModel, earlier: Task | None = None
    ) -> tuple[TextModel, dict[str, Any]]:
        """The model that is trained, which at first answers as ``start`` does, and what was found
        of it, as JSON values.

        ``earlier`` is the task that ``start`` was trained for by us; BadInput where its model
        cannot go on for this one.
        """


@runtime_checkable
class ClassifyingTaskModel(Protocol):
    """A task model whose loss is that of logits of classes which exclude each other: labels, tags,
    tokens. What it is learnt from can be asked for apart from the loss."""

    def learnt(
        self,
        network: nn.Module,
        examples: Sequence[Example],
        dropout_rng: DropoutRNG | None,
        aux_losses: list[Tensor],
    ) -> Learnt:
        """The logits of a batch, in the order of its examples, and the targets.

        ``aux_losses`` collects the auxiliary losses of the network's ops.
        """

    def loss_of(self, learnt: Learnt, aux_losses: Sequence[Tensor]) -> BatchLoss:
        """The task's own loss of what :meth:`learnt` gave."""


@runtime_checkable
class WritingTaskModel(Protocol):
    """A task model whose targets are texts that a model can write."""

    def written_rows(self, model: TextModel, rows: Sequence[Row]) -> list[tuple[Row, bool]]:
        """Rows whose targets are what a model writes, and whether it ended each by itself."""


@runtime_checkable
class SampledTaskModel(Protocol):
    """A task model that shows what a model in training writes."""

    def samples(self, model: TextModel, rows: Sequence[Row], version: int) -> list[dict[str, Any]]:
        """Answers of a model to rows, by the engine that would serve it, as JSON values.

        Each has the ``input``, the ``target``, what was ``written``, whether it ``ended``, the
        ``version`` of the weights, and ``distance``: how far the engine's log-probabilities of its
        tokens are from the training's, at most (None where the network does not tell them).
        """


def trained_task_model(task: Task) -> TrainedTaskModel:
    """How a text model is trained for the task; BadInput where none can be."""
    return cast(TrainedTaskModel, task_model_of(task))
