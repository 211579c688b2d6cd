"""A method of training: its part in the rows, the batches, the loss and before scores."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lmwright.train.batches import Batches
from lmwright.train.loss import Loss


class Method:
    """One run's method: plain training on the task's own loss, until a subclass says otherwise."""

    def taught(self, rows: pa.Table) -> pa.Table:
        """The rows that are learnt from."""
        return rows

    def batches(self, batches: Batches) -> Batches:
        """The batches that are learnt from, made of those of the rows."""
        return batches

    def wrapped(self, loss: Loss) -> Loss:
        """The loss of a step."""
        return loss

    def before_scores(self) -> None:
        """Done before the network is scored on the validation rows."""

    def facts(self) -> dict[str, Any]:
        """What was found, as JSON values."""
        return {}

    def close(self) -> None:
        """Take out of the network what was put into it."""
