"""Replay: general text among the rows of a task, so that a language model forgets less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.data.corpus import read_split, read_task_of
from lmwright.models.text_model import TextModel
from lmwright.train.batches import Example
from lmwright.train.check import learnt
from lmwright.train.documents import Document, byte_count
from lmwright.train.forgetting import general_passages
from lmwright.train.mixed import MixedBatches
from lmwright.train.task_model import TrainedTaskModel

REPLAY = "replay"
"""The name of the part of the batches that general text is."""
AT_ONCE = 4096
"""Rows that are made examples of at a time."""


@dataclass(frozen=True, kw_only=True)
class Replay(Settings):
    """General text beside the rows: the setting ``replay`` of a training that writes.

    ``texts`` names an artifact of rows, whose training rows are read as the task of that artifact
    cleans them, up to ``max_tokens``; ``share`` of the rows of a step are of them, as a language
    model learns them: every token. ``limit`` bounds them (0: all).
    """

    texts: str
    share: float = 0.1
    limit: int = 0

    def check(self) -> None:
        """BadInput for a share that is none, or no texts."""
        if not 0 < self.share < 1 or self.limit < 0 or not self.texts:
            raise BadInput(
                f"replay is {self.texts!r}, share {self.share}, limit {self.limit}",
                "an artifact of rows, a share above 0 and below 1, and a limit from 0 (all)",
            )

    def table(self, folder: Path, seed: int) -> pa.Table:
        """The rows to read, without those that the forgetting gauge reads."""
        task, gauge = read_task_of(folder), set(general_passages())
        found = read_split(folder, "train", self.limit, seed)
        known = [task.text(row) not in gauge for row in found.to_pylist()]
        if not any(known):
            raise BadInput(
                f"replay.texts: {self.texts} has no rows beside those of the forgetting gauge",
                "one row at least",
            )
        return found.filter(pa.array(known))


def refuse_replay(task_model: TrainedTaskModel, model: TextModel) -> None:
    """BadInput for a model that no language model's loss can be had of."""
    network = model.network
    if len(network.streams) > 1:
        kind = "an encoder with a decoder"
    elif not network.spec.stacks[-1].is_causal:
        kind = "an encoder"
    elif task_model.head(0.0) != "lm":
        kind = "a decoder that writes nothing"
    else:
        return
    raise BadInput(
        f"replay, and {kind} for {task_model.task.kind}",
        "a causal language model, and a task that it writes for",
        "take replay out",
    )


def replayed(folder: Path, model: TextModel, rows: pa.Table) -> Iterator[list[Example]]:
    """General text as examples of which every token is learnt, some thousands at a time."""
    task = read_task_of(folder)
    for at in range(0, rows.num_rows, AT_ONCE):
        found = []
        for row in rows.slice(at, AT_ONCE).to_pylist():
            ids = model.document(text := task.text(row))[: model.max_tokens]
            found.append(Document(ids, 1, byte_count(text), None).example(int(row["id"], 16)))
        yield found


def replay_facts(batches: MixedBatches) -> dict[str, Any]:
    """What all epochs read of general text: texts and the share of all tokens that are learnt."""
    general = batches.parts[REPLAY].examples
    read = batches.read[REPLAY]
    tokens = read * sum(int(learnt(each).sum()) for each in general) / len(general)
    own = batches.epochs * sum(int(learnt(each).sum()) for each in batches.main)
    return {
        "texts": len(general),
        "rows": read,
        "share_of_tokens": tokens / max(own + tokens, 1),
    }
