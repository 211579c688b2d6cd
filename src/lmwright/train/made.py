"""Batches that the model in training makes itself: rollouts, hard negatives, on-policy answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmwright.train.batches import WHOLE, Example, Share, digest
from lmwright.train.loop import Record

Make = Callable[[int, Any, Share], Sequence[Example]]


@dataclass
class MadeBatches:
    """Batches from ``make(step, network, share)``; no examples end the run.

    ``make`` draws by the seed and the step alone, so that a run which was killed makes the same
    batches again from its last checkpoint. A digest of every batch is kept in the file ``journal``
    before the batch is learnt from; one that comes out otherwise the second time (on another
    machine, say) is recorded as the event ``made otherwise``. ``settings`` stand for whatever else
    the batches depend on.
    """

    make: Make
    seed: int
    journal: Path
    record: Record
    settings: str
    steps: int | None = None
    known: dict[tuple[int, int, int], str] = field(init=False)

    def __post_init__(self) -> None:
        self.known = {}
        if self.journal.exists():
            for line in self.journal.read_bytes().splitlines():
                try:
                    step, place, count, found = json.loads(line)
                except ValueError:  # a last line that a kill cut off
                    continue
                self.known[step, place, count] = found

    def at(self, step: int, network: Any, share: Share = WHOLE) -> Sequence[Example]:
        """A share of a step's examples, made by the network as it is now."""
        examples = self.make(step, network, share)
        key, found = (step, share.place, share.count), digest(examples)
        if self.known.get(key, found) != found:
            self.record("made otherwise", step=step, before=self.known[key], now=found)
        if self.known.get(key) != found:
            self.known[key] = found
            with self.journal.open("a", encoding="utf-8") as file:
                # A line break first: what a kill cut off is a line of its own.
                file.write("\n" + json.dumps([*key, found]))
                file.flush()
                os.fsync(file.fileno())
        return examples

    def hash(self) -> str:
        """A digest of the settings: what is made later is in the journal."""
        return digest((), f"{self.settings} {self.seed}")
