"""Eight rows a label of SNIPS: contrastive pairs (SetFit) against plain tuning, three seeds.

    python -m benchmarks.few_rows [--minutes M] [--store FOLDER]

MiniLM, the rows and the split of the recipe ``intents``. The seed draws the rows, the order, the
pairs and what is new in the network. Under the first seed each method has two rates, under the
others the better one of them by log-loss. The last weights are scored: with so few rows there are
none to stop by. A finished cell is a line of ``benchmarks/few_rows.jsonl``, which is not run again.
It takes one thread; no cell begins once the minutes are over.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from benchmarks.lines import add_line, read_lines, run_settings
from lmwright.core.cache import user_cache
from lmwright.core.hashing import hash_json
from lmwright.core.recipe import read_yaml
from lmwright.tables import resolve

ROOT = Path(__file__).parents[1]
LINES = ROOT / "benchmarks" / "few_rows.jsonl"
SEEDS, ROWS, LABELS = 3, 56, 7
NEVER = 100_000
"""Steps after which the weights would be scored on the way."""
FRACTIONS = {"train": 0.5, "validation": 0.04, "calibration": 0.04, "gate": 0.04, "test": 0.38}
METHODS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "plain, 20 epochs": ({"epochs": 20}, (1e-4, 4e-4)),
    "pairs, 20 of each kind a row": ({"epochs": 1, "contrastive": {"pairs": 20}}, (2e-5, 1e-4)),
}


@dataclass(frozen=True)
class Cell:
    """One method at one rate under one seed."""

    method: str
    lr: float
    seed: int

    def settings(self) -> dict[str, Any]:
        """The recipe as it is run."""
        whole = read_yaml(ROOT / "recipes" / "intents.yaml", resolve)
        data = {**whole["stages"]["data"], "fractions": FRACTIONS}
        train = {
            **METHODS[self.method][0],
            "rows": ROWS,
            "max_tokens": 48,
            "lr": self.lr,
            "seed": self.seed,
            "evaluate_every": NEVER,
            "checkpoint_every": NEVER,
        }
        evaluate = {"models": ["model"], "splits": ["test"]}
        stages = {"data": data, "train": train, "evaluate": evaluate}
        return {"name": "few-rows", "task": whole["task"], "stages": stages}

    def key(self) -> str:
        """What a line must agree in, to stand for this cell."""
        return hash_json(self.settings())[:16]


def cells() -> Iterator[Cell]:
    """All cells, one seed after another, as far as the first seed's are finished."""
    for seed in range(SEEDS):
        for method, (_, rates) in METHODS.items():
            known = {line["key"]: line["scores"]["log_loss"] for line in read_lines(LINES)}
            first = {lr: known.get(Cell(method, lr, 0).key()) for lr in rates}
            finished = {lr: loss["estimate"] for lr, loss in first.items() if loss}
            if seed and len(finished) == len(rates):
                rates = (min(finished, key=finished.__getitem__),)
            for lr in rates:
                yield Cell(method, lr, seed)


def main() -> None:
    """Run the cells that have no line yet, while there is time; then say what all found."""
    parser = argparse.ArgumentParser(description="few rows: pairs against plain tuning")
    parser.add_argument("--minutes", type=float, default=10, help="no cell begins after these")
    parser.add_argument("--store", type=Path, default=user_cache() / "benchmark-few-rows")
    chosen = parser.parse_args()
    done, began = {line["key"] for line in read_lines(LINES)}, time.monotonic()
    for cell in cells():
        if time.monotonic() - began > 60 * chosen.minutes:
            print("the minutes are over; run it again to go on", file=sys.stderr)
            break
        if cell.key() not in done:
            add_line(LINES, run(cell, chosen.store))
    print("\n".join(table()))


def run(cell: Cell, store: Path) -> dict[str, Any]:
    """Run one cell; its line."""
    began = time.perf_counter()
    done = run_settings(cell.settings(), store)
    train, found = done.facts["train"], done.facts["evaluate"]["splits"]["test"]
    own = found["models"]["model"]
    return {
        **vars(cell),
        "key": cell.key(),
        "learnt_rows": train["rows"],
        "steps": train["steps"],
        "rows": found["rows"],
        "scores": {name: own[name] for name in ("log_loss", "accuracy")},
        "stamp": done.run.results["evaluate"].stamp,
        "minutes": round((time.perf_counter() - began) / 60, 2),
    }


def table() -> list[str]:
    """A line for each method and rate: its scores in the mean over the seeds, with their range."""
    found = {line["key"]: line for line in read_lines(LINES)}
    rows = []
    for method, (_, rates) in METHODS.items():
        for lr in rates:
            keys = [Cell(method, lr, seed).key() for seed in range(SEEDS)]
            lines = [found[key] for key in keys if key in found]
            if lines:
                rows.append(f"{method} at {lr:g}: " + told(lines))
    return rows


def told(lines: list[dict[str, Any]]) -> str:
    """Scores of some cells in words."""
    parts = []
    for name in ("accuracy", "log_loss"):
        values = [line["scores"][name]["estimate"] for line in lines]
        mean, spread = statistics.mean(values), f"{min(values):.3f} to {max(values):.3f}"
        parts.append(f"{name} {mean:.3f} ({spread})")
    return f"{', '.join(parts)}; {lines[0]['steps']} steps, {len(lines)} seeds"


if __name__ == "__main__":
    main()
