"""What a precision costs two tasks: one model of each, evaluated in every precision.

    python -m benchmarks.task_precision [--store FOLDER]

MiniLM tuned to intents (SNIPS) and to entities (CoNLL-2003, 800 sentences), each trained once in
fp32; the same weights then answer the same test rows in each precision. Prints a line of JSON for
each: the scores with their 95 % intervals, and how far they are from those in fp32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.lines import run_settings
from benchmarks.tunes import DATA
from lmwright.core.cache import user_cache
from lmwright.core.recipe import merge, read_yaml
from lmwright.machine.probe import cpu_class
from lmwright.tables import resolve

ROOT = Path(__file__).parents[1]
PRECISIONS = ("fp32", "bf16", "int8", "int4")
RATE = 2e-4


def main() -> None:
    """Train each model once, and print a line a precision."""
    parser = argparse.ArgumentParser(description="scores of two tasks in each precision")
    parser.add_argument("--store", type=Path, default=user_cache() / "benchmark-precisions")
    chosen = parser.parse_args()
    for data in DATA:
        exact: dict[str, float] = {}
        for precision in PRECISIONS:
            found = scores(data, precision, chosen.store)
            estimates = {name: each["estimate"] for name, each in found.items()}
            exact = exact or estimates
            line = {
                "name": f"{DATA[data].recipe} in {precision}",
                "scores": found,
                "beyond_fp32": {name: round(estimates[name] - exact[name], 5) for name in exact},
                "class": cpu_class(),
            }
            print(json.dumps(line), flush=True)


def scores(data: str, precision: str, store: Path) -> dict[str, Any]:
    """Scores of the test rows, each with its interval."""
    own = DATA[data]
    whole = read_yaml(ROOT / "recipes" / f"{own.recipe}.yaml", resolve)
    kept = {name: whole["stages"][name] or {} for name in ("data", "train", "evaluate")}
    stages = merge(kept, own.changes)
    stages["train"] = {**stages["train"], "lr": RATE, "seed": 0, "precision": "fp32"}
    stages["evaluate"] = {**stages["evaluate"], "models": ["model"], "precision": precision}
    done = run_settings(
        {"name": f"{data}-precision", "task": whole["task"], "stages": stages}, store
    )
    found = done.facts["evaluate"]["splits"]["test"]["models"]["model"]
    return {name: found[name] for name in own.scores}


if __name__ == "__main__":
    main()
