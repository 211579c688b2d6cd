"""What training needs of a task; the tasks themselves are leaves in ``lmwright.tasks``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor, nn

from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.spec import Head
from lmwright.models.encoder import Encoder
from lmwright.train.batches import Example


class Task(Protocol):
    """What belongs together: examples, head, loss and scores.

    ``monitor`` names the score that decides which weights are kept; lower is better.
    """

    monitor: ClassVar[str]

    def head(self, dropout: float) -> Head:
        """The head that answers the task."""

    def examples(
        self, model: Encoder, texts: Sequence[str], labels: Sequence[str], ids: Sequence[str]
    ) -> list[Example]:
        """Rows as examples; BadInput for a label that the task does not know."""

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> Tensor:
        """The mean loss of some examples; with ``dropout_rng``, under dropout."""

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Scores on held-out examples by name, that of ``monitor`` among them."""
