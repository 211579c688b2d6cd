"""Class weights, focal loss and resampling on labels of which some are rare: with and without.

    python -m benchmarks.rare_labels [--minutes M] [--store FOLDER]

Descriptions of Debian's packages that have one tag, which is the label; tags of fewer than ten rows
are left out. MiniLM is tuned five times under each of three seeds, with the same rows and splits:
as it is, with balanced class weights, with focal loss (exponent 2), with rare labels' rows drawn
several times, and with frequent labels' rows left out. A finished training is a line of
``benchmarks/rare_labels.jsonl`` with its answers to the test rows, so that differences are paired
by row; it is not run again. Prints, for each remedy, how much better accuracy, macro F1 and the
recall of rare labels are than without it: the mean over the seeds, with a 95 % bootstrap interval
over rows and seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.lines import add_line, read_lines, run_settings
from lmwright.assets import asset_file
from lmwright.core.cache import user_cache
from lmwright.core.hashing import hash_json
from lmwright.core.recipe import merge
from lmwright.data.corpus import read_split
from lmwright.evals.predictions import read_predictions
from lmwright.metrics.intervals import draw_weights

LINES = Path(__file__).parent / "rare_labels.jsonl"
TAGS = "asset:debian-tags/debian-tags.parquet"
FEWEST, RARE = 10, 20
"""Rows of a label that is kept at all, and of one that is not called rare any more."""
SEEDS = 3
DRAWS = 2000
PLAIN = "as it is"
ARMS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "class weights": {"task": {"class_weights": "balanced"}},
    "focal loss": {"task": {"focal": 2.0}},
    "oversampled": {"stages": {"train": {"resample": "over", "epochs": 1}}},
    "undersampled": {"stages": {"train": {"resample": "under", "epochs": 16}}},
}
"""Changes of each training. Resampling changes how many rows an epoch has, so the epochs are those
that make about as many steps."""


def main() -> None:
    """Run what has no line yet, while there is time, and print the differences."""
    parser = argparse.ArgumentParser(description="remedies for rare labels, each with and without")
    parser.add_argument("--minutes", type=float, default=60, help="no training begins after these")
    parser.add_argument("--store", type=Path, default=user_cache() / "benchmark-rare-labels")
    chosen = parser.parse_args()
    began = time.monotonic()
    done = {line["key"] for line in read_lines(LINES)}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "one-tag.csv"
        write_rows(table)
        for seed in range(SEEDS):
            for arm in ARMS:
                if time.monotonic() - began > 60 * chosen.minutes:
                    raise SystemExit("the minutes are over; run it again to go on")
                if key(arm, seed) not in done:
                    add_line(LINES, run(arm, seed, table, chosen.store))
    for line in differences():
        print(json.dumps(line))


def write_rows(path: Path) -> None:
    """The rows of one tag that enough others have."""
    table = pq.read_table(asset_file(TAGS), columns=["description", "tags", "package"]).to_pylist()
    rows = [
        (each["description"], each["tags"][0], each["package"])
        for each in table
        if len(each["tags"]) == 1
    ]
    counts = Counter(tag for _, tag, _ in rows)
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(("text", "label", "package"))
        writer.writerows(row for row in rows if counts[row[1]] >= FEWEST)


def settings(arm: str, seed: int) -> dict[str, Any]:
    """The recipe of one training, but for the place of its rows."""
    stages = {
        "data": {
            "fractions": {
                "train": 0.6,
                "validation": 0.08,
                "calibration": 0.02,
                "gate": 0.02,
                "test": 0.28,
            },
            "sources": [{"name": "one-tag", "side": {"cluster": "package"}}],
        },
        "train": {
            "epochs": 4,
            "max_tokens": 64,
            "lr": 3e-4,
            "patience": 0,
            "seed": seed,
            "check_first": "off",
        },
        "evaluate": {"models": ["model"], "splits": ["test"]},
    }
    whole = {"name": "rare-labels", "task": {"kind": "text-classification"}, "stages": stages}
    return merge(whole, ARMS[arm])


def key(arm: str, seed: int) -> str:
    """What a line must agree in, to stand for this training."""
    return hash_json(settings(arm, seed))[:16]


def run(arm: str, seed: int, table: Path, store: Path) -> dict[str, Any]:
    """One training, and what it answers to the test rows."""
    began = time.perf_counter()
    whole = settings(arm, seed)
    whole["stages"]["data"]["sources"][0]["path"] = str(table)
    done = run_settings(whole, store)
    results = done.run.results
    rows = read_split(done.store.artifact(results["data"].outputs["rows"]), "test")
    found = read_predictions(
        done.store.artifact(results["evaluate"].outputs["scores"]), "model", "test"
    )
    label = dict(zip(*(rows.column(name).to_pylist() for name in ("id", "label")), strict=True))
    train = read_split(done.store.artifact(results["data"].outputs["rows"]), "train")
    ids = found.column("id").to_pylist()
    return {
        "arm": arm,
        "seed": seed,
        "key": key(arm, seed),
        "log_loss": done.facts["evaluate"]["splits"]["test"]["models"]["model"]["log_loss"],
        "labelled": Counter(train.column("label").to_pylist()),
        "answers": {
            row: [label[row], answer]
            for row, answer in zip(ids, found.column("label").to_pylist(), strict=True)
        },
        "stamp": results["evaluate"].stamp,
        "minutes": round((time.perf_counter() - began) / 60, 2),
        "threads": len(os.sched_getaffinity(0)),
    }


def differences() -> list[dict[str, Any]]:
    """Each remedy against none, by each score, of the seeds that both have."""
    by_key = {line["key"]: line for line in read_lines(LINES)}
    found = []
    for arm in ARMS:
        seeds = [s for s in range(SEEDS) if {key(arm, s), key(PLAIN, s)} <= by_key.keys()]
        if not seeds:
            continue
        mine = [by_key[key(arm, s)] for s in seeds]
        plain = [by_key[key(PLAIN, s)] for s in seeds]
        ids = sorted(mine[0]["answers"])
        labels = sorted({mine[0]["answers"][row][0] for row in ids})
        truth = np.array([labels.index(mine[0]["answers"][row][0]) for row in ids])
        rare = np.array([mine[0]["labelled"].get(name, 0) < RARE for name in labels])
        for name, score in scores(truth, len(labels), rare).items():
            ours, without = (
                [
                    score(np.array([place(labels, line["answers"][row][1]) for row in ids]))
                    for line in lines
                ]
                for lines in (mine, plain)
            )
            once = np.ones((1, len(ids)))
            value = [float(np.mean([each(once)[0] for each in side])) for side in (ours, without)]
            gaps = drawn(ours, without, len(ids)) if arm != PLAIN else None
            found.append(
                {
                    "name": f"rare labels: {name}, {arm}",
                    "value": round(value[0], 4),
                    **(
                        {
                            "difference": round(value[0] - value[1], 4),
                            "interval": [
                                round(float(q), 4) for q in np.nanquantile(gaps, [0.025, 0.975])
                            ],
                        }
                        if gaps is not None
                        else {}
                    ),
                    "seeds": len(seeds),
                    "rows": len(ids),
                    "labels": len(labels),
                    "rare": int(rare.sum()),
                }
            )
    return found


def place(labels: list[str], name: str) -> int:
    """A label's place, or one beyond all of them for a label that no test row has."""
    return labels.index(name) if name in labels else len(labels)


Score = Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]


def scores(truth: np.ndarray, labels: int, rare: np.ndarray) -> dict[str, Score]:
    """Scores of answers, as functions of weights (draws, n) of the rows."""
    own = np.eye(labels)[truth]

    def accuracy(answers: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda weights: weights @ (answers == truth) / weights.sum(1)

    def recall(answers: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        hits = own[:, rare] * (answers == truth)[:, None]
        return lambda weights: (weights @ hits).sum(1) / (weights @ own[:, rare]).sum(1)

    def macro_f1(answers: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        said = np.eye(labels + 1)[answers][:, :labels]
        hits = own * (answers == truth)[:, None]

        def value(weights: np.ndarray) -> np.ndarray:
            size = weights @ own + weights @ said
            with np.errstate(invalid="ignore"):
                return np.asarray(np.nanmean(2 * (weights @ hits) / size, axis=1))

        return value

    return {"accuracy": accuracy, "macro F1": macro_f1, "recall of rare labels": recall}


def drawn(ours: list[Any], without: list[Any], rows: int) -> np.ndarray:
    """Differences on resamples of the rows and, of each side apart, of its seeds."""
    rng = np.random.default_rng(0)
    found = []
    for weights in draw_weights(rows, DRAWS, rng):
        sides = []
        for side in (ours, without):
            values = np.stack([each(weights) for each in side], axis=1)
            picks = rng.integers(0, len(side), size=values.shape)
            sides.append(np.take_along_axis(values, picks, axis=1).mean(1))
        found.append(sides[0] - sides[1])
    return np.concatenate(found)


if __name__ == "__main__":
    print(f"{FEWEST} rows a label or more; rare: fewer than {RARE} to learn from", file=sys.stderr)
    main()
