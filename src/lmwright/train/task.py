"""The part of a task that training uses; the tasks themselves are leaves in ``lmwright.tasks``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import pyarrow as pa
from torch import Tensor, nn

from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.spec import Head
from lmwright.models.text_model import TextModel, TextTask
from lmwright.train.batches import Example


class TrainedTask(TextTask, Protocol):
    """A task that a text model can be trained for: examples, head, loss and validation scores.

    ``monitor`` names the score that decides which weights are kept; lower is better.
    """

    monitor: ClassVar[str]

    def head(self, dropout: float) -> Head | str:
        """The head that answers the task, or the name of the published one that does."""

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Rows with targets as examples; BadInput for a target that the task does not know."""

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> Tensor:
        """The mean loss of some examples; with ``dropout_rng``, under dropout."""

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Scores on held-out examples by name, that of ``monitor`` among them."""
