"""Sides of a comparison, each a process of its own, that work in turns.

A neighbour on the machine then slows all sides alike, and each one's peak memory is its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def in_turns(
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    pythons: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Each side's reports: that of a warm-up, then one a round.

    A command is what follows ``python -m``; its process does one round for each line that it
    reads, and prints the round's report as a JSON object with the key ``turn`` first. ``pythons``
    are the interpreters of sides that have another than ours, and ``environment`` that of all.
    """
    whole = {side: [python_of(side, pythons), "-m", *each] for side, each in commands.items()}
    children = {
        side: subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        for side, command in whole.items()
    }
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in children}
    try:
        for _ in range(1 + rounds):
            for side, child in children.items():
                turns[side].append(ask(child, whole[side]))
    finally:
        for child in children.values():
            child.kill()
            child.communicate()  # which closes its pipes, too
    return turns


def python_of(side: str, pythons: Mapping[str, str] | None) -> str:
    """The interpreter of a side."""
    return (pythons or {}).get(side, sys.executable)


def ask(child: subprocess.Popen[str], command: Sequence[str]) -> dict[str, Any]:
    """Give a child its turn and wait for what it did."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    for line in child.stdout:
        # A peer may print a log of its own between the reports.
        if line.startswith('{"turn"'):
            answer: dict[str, Any] = json.loads(line)
            return answer
    raise SystemExit(f"a side ended before its turn; to see why: {' '.join(command)}")


def wait() -> None:
    """In a child: block until the turn is given; the child ends when none will come."""
    if not sys.stdin.readline():
        sys.exit()


def report(turn: int, **facts: Any) -> None:
    """In a child: say what a turn brought."""
    print(json.dumps({"turn": turn, **facts}), flush=True)


def speed(turns: Sequence[dict[str, Any]]) -> float:
    """Tokens a second over several turns."""
    return sum(turn["tokens"] for turn in turns) / sum(turn["seconds"] for turn in turns)


def ratios(
    ours: Sequence[dict[str, Any]], peer: Sequence[dict[str, Any]]
) -> tuple[float, list[float]]:
    """Ours to the peer's speed over all rounds, and the least, median and most of a round."""
    rounds = [speed([one]) / speed([other]) for one, other in zip(ours, peer, strict=True)]
    spread = [round(each, 2) for each in (min(rounds), statistics.median(rounds), max(rounds))]
    return round(speed(ours) / speed(peer), 2), spread
