"""The loop's gain: accuracy on the new and on the old world, before and after a retraining.

    python -m benchmarks.loop_gain --store lmwright-store

Reads a store in which the quickstart has run. The first version behind reviews@production and the
last candidate (swapped in or refused) answer the same rows: the old world's test split, and IMDB
reviews that neither the world of the replay nor anything else in the store holds.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.peer import REVIEWS
from lmwright.assets import asset_file
from lmwright.core.random import stream
from lmwright.data.corpus import read_split
from lmwright.metrics.intervals import paired_difference, wilson
from lmwright.serve.load import answer_rows, load_version
from lmwright.store.store import Store
from lmwright.store.versions import read_version
from lmwright.text.repair import repair

ALIAS = "reviews@production"


def main() -> int:
    """Score both versions on both test_sets."""
    parser = argparse.ArgumentParser(description="accuracy before and after the loop")
    parser.add_argument("--store", type=Path, default=Path("lmwright-store"))
    parser.add_argument("--rows", type=int, default=1000)
    chosen = parser.parse_args()
    store = Store(chosen.store)
    tried = [e for e in store.decisions() if e["action"] in {"promote", "refuse"}]
    tried = [e for e in tried if e["facts"].get("alias") == ALIAS]
    if len(tried) < 2:
        raise SystemExit(f"{ALIAS} has no second candidate in {chosen.store}; run the quickstart")
    before, after = tried[0]["facts"]["version"], tried[-1]["facts"]["version"]
    rows = store.artifact(read_version(store, before)["artifacts"]["rows"])
    test = read_split(rows, "test")
    test_sets = {
        "old world": (test.column("text").to_pylist(), test.column("label").to_pylist()),
        "new world": unseen(rows, chosen.rows),
    }
    for name, (texts, labels) in test_sets.items():
        right = {}
        for moment, version in (("before", before), ("after", after)):
            loaded = load_version(store, version)
            found = answer_rows(loaded, [{"text": text} for text in texts])
            told = [answer["probabilities"] for answer in found]
            guesses = [max(each, key=each.__getitem__) for each in told]
            right[moment] = np.array(guesses) == np.array(labels)
        gain = paired_difference(right["after"], right["before"], 1.0)
        line = {
            "name": f"loop gain, {name}",
            "ratio": round(float(right["after"].mean() / right["before"].mean()), 4),
            "ours": wilson(int(right["after"].sum()), len(labels)).to_json(),
            "peer": wilson(int(right["before"].sum()), len(labels)).to_json(),
            "gain": gain.to_json(),
            "unit": "accuracy",
            "conditions": {
                "rows": len(labels),
                "ours": "after the retraining",
                "peer": "before it",
                "decision": tried[-1]["action"],
            },
        }
        print(json.dumps(line), flush=True)
    return 0


def unseen(rows: Path, count: int) -> tuple[list[str], list[str]]:
    """IMDB reviews that the world of the replay does not hold, repaired as the data stage does."""
    known = set(read_split(rows, "test-imdb").column("text").to_pylist())
    names = {"0": "negative", "1": "positive"}
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        every = [row for row in csv.DictReader(lines) if row["source"] == "imdb"]
    texts: list[str] = []
    labels: list[str] = []
    for place in stream(0, "unseen").permutation(len(every)):
        text = repair(every[place]["text"])
        if text not in known:
            texts.append(text)
            labels.append(names[every[place]["label"]])
        if len(texts) == count:
            break
    return texts, labels


if __name__ == "__main__":
    sys.exit(main())
