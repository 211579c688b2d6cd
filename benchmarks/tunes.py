"""Ways to tune MiniLM at three rates each and under three seeds, on intents and on entities.

    python -m benchmarks.tunes [--data snips|conll] [--minutes M] [--store FOLDER]

Does LoRA lose nothing here, and do ways to tune differ by more than rates do? The rows and splits
are the same for all; the seed draws what is new in the network, the order and the dropout. Rates
are four times apart: those of few weights that learn are higher than those of many. A finished
cell is a line of ``benchmarks/tunes.jsonl``: its settings and seed, scores with intervals, the
weights that learnt, and the stamp of its evaluation. A cell with a line is not run again;
``docs/tunes.md`` is made of these lines. No cell begins once the minutes are over.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lines import add_line, read_lines, run_settings
from lmwright.core.cache import user_cache
from lmwright.core.hashing import hash_json
from lmwright.core.recipe import merge, read_yaml
from lmwright.core.settings import Choice
from lmwright.tables import resolve

ROOT = Path(__file__).parents[1]
LINES = ROOT / "benchmarks" / "tunes.jsonl"
SEEDS = 3
MANY, FEW = (5e-5, 2e-4, 8e-4), (3e-4, 1.2e-3, 4.8e-3)
"""Rates where many weights learn, and where few do."""


@dataclass(frozen=True)
class Data:
    """Rows of a recipe and how they are learnt; the first of ``scores`` is the loss."""

    recipe: str
    changes: dict[str, Any]
    scores: tuple[str, ...]


DATA = {
    "snips": Data(
        "intents",
        {
            "data": {
                "fractions": {
                    "train": 0.5,
                    "validation": 0.06,
                    "calibration": 0.06,
                    "gate": 0.04,
                    "test": 0.34,
                }
            },
            "train": {"epochs": 4, "max_tokens": 48},
        },
        ("log_loss", "accuracy"),
    ),
    "conll": Data(
        "entities",
        {"train": {"rows": 800, "epochs": 2, "max_tokens": 96}, "evaluate": {"splits": ["test"]}},
        ("log_loss", "f1"),
    ),
}
METHODS: dict[str, tuple[Choice, tuple[float, ...]]] = {
    "full": ("full", MANY),
    "freeze, 3 of 6 layers": ({"kind": "freeze", "layers": 3}, MANY),
    "LoRA, rank 8": ("lora", FEW),
    "LoRA, rank 8, over the root": ({"kind": "lora", "scaling": "root-rank"}, FEW),
    "DoRA, rank 8": ({"kind": "lora", "dora": True}, FEW),
    "bottleneck adapters": ("adapters", FEW),
    "prefix": ("prefix", FEW),
    "IA3": ("ia3", FEW),
    "BitFit": ("bitfit", FEW),
    "head alone": ("head", FEW),
}


@dataclass(frozen=True)
class Cell:
    """One way to tune at one rate under one seed."""

    data: str
    method: str
    lr: float
    seed: int

    def settings(self) -> dict[str, Any]:
        """The recipe as it is run."""
        own = DATA[self.data]
        whole = read_yaml(ROOT / "recipes" / f"{own.recipe}.yaml", resolve)
        kept = {name: whole["stages"][name] or {} for name in ("data", "train", "evaluate")}
        stages = merge(kept, own.changes)
        train = {"tune": METHODS[self.method][0], "lr": self.lr, "seed": self.seed}
        stages["train"] = {**stages["train"], **train}
        stages["evaluate"] = {**stages["evaluate"], "models": ["model"]}
        return {"name": f"tune-{self.data}", "task": whole["task"], "stages": stages}

    def key(self) -> str:
        """What a line must agree in, to stand for this cell."""
        return hash_json(self.settings())[:16]


def cells(chosen: Sequence[str]) -> Iterator[Cell]:
    """All cells, one seed after another."""
    for seed in range(SEEDS):
        for data in chosen:
            for method, (_, rates) in METHODS.items():
                for lr in rates:
                    yield Cell(data, method, lr, seed)


def main() -> None:
    """Run the cells that have no line yet, while there is time."""
    parser = argparse.ArgumentParser(description="ways to tune, rates and seeds")
    parser.add_argument("--data", choices=sorted(DATA), action="append")
    parser.add_argument("--minutes", type=float, default=60, help="no cell begins after these")
    parser.add_argument("--store", type=Path, default=user_cache() / "benchmark-tunes")
    chosen = parser.parse_args()
    done, began = {line["key"] for line in read_lines(LINES)}, time.monotonic()
    for cell in cells(chosen.data or list(DATA)):
        if time.monotonic() - began > 60 * chosen.minutes:
            print("the minutes are over; run it again to go on", file=sys.stderr)
            return
        if cell.key() not in done:
            add_line(LINES, run(cell, chosen.store))


def run(cell: Cell, store: Path) -> dict[str, Any]:
    """Run one cell; its line."""
    began = time.perf_counter()
    done = run_settings(cell.settings(), store)
    train, found = done.facts["train"], done.facts["evaluate"]["splits"]["test"]
    own = found["models"]["model"]
    return {
        **vars(cell),
        "key": cell.key(),
        "rows": found["rows"],
        "scores": {name: own[name] for name in DATA[cell.data].scores},
        "learnt": train.get("own_parameters", train["parameters"]),
        "parameters": train["parameters"],
        "stamp": done.run.results["evaluate"].stamp,
        "minutes": round((time.perf_counter() - began) / 60, 2),
        "threads": len(os.sched_getaffinity(0)),
    }


def page() -> str:
    """The tables of all finished cells: a row a way to tune, a column a rate."""
    found = {line["key"]: line for line in read_lines(LINES)}
    rows = [
        "# Ways to tune, measured",
        "",
        "Made by `python -m benchmarks.tunes` from `benchmarks/tunes.jsonl`: MiniLM, its rows and "
        "splits the same for all. The loss is the log-loss of the test rows, in the mean over the "
        "seeds, with its range where there are several. **Bold**: the best rate of a way to tune. "
        "The score is that rate's.",
    ]
    for data, own in DATA.items():
        rows += ["", f"## {data}: recipe `{own.recipe}`", ""]
        rows += table(data, own, found) or ["No cell is finished."]
    return "\n".join(rows)


def table(data: str, own: Data, found: dict[str, dict[str, Any]]) -> list[str]:
    """The table of one set of rows; empty where nothing is finished."""
    score = own.scores[1]
    rows, best = list[str](), dict[str, float]()
    for method, (_, rates) in METHODS.items():
        by_rate = {
            lr: [
                found[key]
                for seed in range(SEEDS)
                if (key := Cell(data, method, lr, seed).key()) in found
            ]
            for lr in rates
        }
        known = {lr: lines for lr, lines in by_rate.items() if lines}
        if not known:
            continue
        means = {lr: mean_of(lines, own.scores[0]) for lr, lines in known.items()}
        first = min(means, key=means.__getitem__)
        best[method] = means[first]
        shown = [
            told(known[lr], own.scores[0], lr, lr == first) if lr in known else "–" for lr in rates
        ]
        share = known[first][0]["learnt"] / known[first][0]["parameters"]
        rows.append(
            f"| {method} | {share:.2%} | {' | '.join(shown)} | {mean_of(known[first], score):.3f} |"
        )
    if not rows:
        return []
    lines = [line for line in found.values() if line["data"] == data]
    head = f"| way to tune | weights | low rate | middle | high | {score} |"
    spread = max(best.values()) - min(best.values())
    return [
        head,
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"{lines[0]['rows']:,} test rows, {len(lines)} cells. Best rates of the ways to tune "
        f"differ by {spread:.3f} nats.",
    ]


def mean_of(lines: Sequence[dict[str, Any]], score: str) -> float:
    """The mean of a score over seeds."""
    return statistics.mean(line["scores"][score]["estimate"] for line in lines)


def told(lines: Sequence[dict[str, Any]], score: str, lr: float, best: bool) -> str:
    """A rate's losses: the mean over seeds and their range."""
    values = [line["scores"][score]["estimate"] for line in lines]
    mark = "**" if best else ""
    text = f"{mark}{statistics.mean(values):.3f}{mark}"
    if len(values) > 1:
        text += f" ({min(values):.3f}–{max(values):.3f})"
    return f"{text} at {lr:g}"


if __name__ == "__main__":
    main()
