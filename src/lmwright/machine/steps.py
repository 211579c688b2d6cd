"""Steps of a child process, of which each may end the child: by a signal, a fault or no end.

A child prints ``{"step": NAME}`` when it begins a step, and ``{"step": NAME, "result": …}`` or
``{"step": NAME, "fault": "…"}`` when it has ended it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lmwright.core.errors import MissingPart

LATE = "the process did not end in time"
SILENT = "the process ended without a result"


@dataclass
class Outcome:
    """Results of steps by name, and in words why others have none.

    ``faults`` are of steps that failed, ``late`` of those that the time was too short for.
    """

    results: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    late: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> set[str]:
        """The steps of which is known how they ended."""
        return self.results.keys() | self.faults.keys() | self.late.keys()


def run_steps(
    command: Sequence[str],
    steps: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Have ``command STEP…`` do the steps, begun anew after each one that ends the process.

    ``seconds`` bound all of it. ``environment`` goes over that of this process. MissingPart where
    the command does not start at all.
    """
    outcome, left, until = Outcome(), list(steps), time.monotonic() + seconds
    while left:
        allowed = until - time.monotonic()
        if allowed <= 0:
            outcome.late.update(dict.fromkeys(left, f"not done within {seconds:g} s"))
            break
        began, how = run_once([*command, *left], allowed, environment, outcome)
        left = [step for step in left if step not in outcome.done]
        if left and how != LATE:
            outcome.faults[began if began in left else left[0]] = how or SILENT
            left = [step for step in left if step not in outcome.done]
    return outcome


def run_once(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None,
    outcome: Outcome,
) -> tuple[str, str]:
    """One process; what it prints goes into ``outcome``. The step begun last, and how it ended.

    The latter is empty where it ended well.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
        )
    except OSError as error:
        raise MissingPart(f"{command[0]} did not start: {error.strerror}") from error
    how = ""
    try:
        told, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        told, errors = child.communicate()
        how = LATE
    except BaseException:
        child.kill()
        child.communicate()
        raise
    began = take(told, outcome)
    if not how and child.returncode < 0:
        how = f"the process was ended by {signal_name(-child.returncode)}"
    elif not how and child.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        how = f"the process ended with code {child.returncode}: {last[:200]}"
    return began, how


def take(told: str, outcome: Outcome) -> str:
    """Sort the lines that a child printed into an outcome; the step that began last."""
    began = ""
    for line in told.splitlines():
        with suppress(ValueError):  # a line that was cut off as the process ended
            event = json.loads(line)
            if not isinstance(event, dict) or not isinstance(event.get("step"), str):
                continue
            began = event["step"]
            if "result" in event:
                outcome.results[began] = event["result"]
            elif "fault" in event:
                outcome.faults[began] = str(event["fault"])
    return began


def signal_name(number: int) -> str:
    """The name of a signal, SIGILL for 4."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
