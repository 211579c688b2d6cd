"""Watching what is served: windows of answers against the detectors, and the state of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import joined
from lmwright.loop.alarms import Command, Webhook
from lmwright.metrics.detectors import Detectors, DriftScore, scores_to_json
from lmwright.serve.rows import Answer
from lmwright.serve.served import Served


@dataclass(frozen=True, kw_only=True)
class Watch(Settings):
    """What is kept of the traffic: the section ``watch`` of a recipe.

    ``keep_text``       whether texts are kept (masked); without them nothing can be learnt from
                        feedback, only counted.
    ``retention_days``  after which answers and their feedback are removed.
    ``gate_share``      of the feedback that is put aside for the gate.
    ``alarms``          who is told when the loop is alarmed, and when a retraining was swapped in,
                        kept out or failed: each a ``command`` or a ``webhook``.
    ``hosts``           hosts other than this machine that a webhook may reach.
    """

    keep_text: bool = False
    retention_days: float = 30.0
    gate_share: float = 0.4
    alarms: tuple[Command | Webhook, ...] = ()
    hosts: tuple[str, ...] = ()

    def check(self) -> None:
        """BadInput for numbers outside their ranges, and for alarms that must not be sent."""
        if self.retention_days <= 0 or not 0 < self.gate_share < 1:
            raise BadInput(
                f"watch.retention_days {self.retention_days}, gate_share {self.gate_share}",
                "days above 0 and a share between 0 and 1",
            )
        for alarm in self.alarms:
            alarm.refuse(self.hosts)


class Watcher:
    """Collects the answers of one version into windows and lets the detectors look at each."""

    def __init__(self, version: str, folder: Path) -> None:
        self.version = version
        self.detectors = Detectors.load(folder)
        self.answers: list[Answer] = []
        self.scores: dict[str, DriftScore] | None = None

    def take(self, served: Served) -> list[dict[str, Any]]:
        """Add a request's answers; returns the drift scores of every window that it filled."""
        if served.version != self.version:
            return []
        self.answers += served.answers
        filled = []
        while len(self.answers) >= self.detectors.window:
            window = self.answers[: self.detectors.window]
            self.answers = self.answers[self.detectors.window :]
            filled.append(self.look(window))
        return filled

    def look(self, window: list[Answer]) -> dict[str, Any]:
        """The detectors' scores of one window."""
        task = window[0].task
        answers = joined([answer.answers for answer in window], range(len(window)))
        sample = task.signals([answer.prepared for answer in window], answers)
        self.scores = self.detectors.look(sample, self.scores)
        confidence = task.confidence(answers)
        mean = {} if confidence is None else {"confidence_mean": float(confidence.mean())}
        return scores_to_json(self.scores) | mean
