"""Drift: how often the detectors alarm for nothing, and how soon for something.

    python -m benchmarks.drift --store lmwright-store

Reads a store in which the quickstart has run. In control: the rows that the model never learnt
from are split again and again into a reference and windows of fresh rows; at least 2,000 windows.
Out of control: old rows mixed with 5, 10, 25 and 100 % IMDB reviews, each cut to the length of an
old sentence, so that a counter of lengths alone sees nothing. The delay is in windows until the
first alarm of any detector.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.core.random import stream
from lmwright.data.corpus import read_rows
from lmwright.loop.detect import see
from lmwright.metrics.detectors import Detectors, Seen
from lmwright.metrics.intervals import wilson
from lmwright.serve.load import load_version
from lmwright.store.store import Store
from lmwright.store.versions import history, read_version

ALIAS = "reviews@production"
SHARES = (0.0, 0.05, 0.10, 0.25, 1.0)
LONGEST_RUN = 40
CHAINS = 20


def main() -> int:
    """Measure both."""
    parser = argparse.ArgumentParser(description="false alarms and delays of the drift detectors")
    parser.add_argument("--store", type=Path, default=Path("lmwright-store"))
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--window", type=int, default=100)
    chosen = parser.parse_args()
    store = Store(chosen.store)
    version = history(store, ALIAS)[0].hash
    loaded = load_version(store, version)
    rows = store.artifact(read_version(store, version)["artifacts"]["rows"])
    old = [
        t for s in ("calibration", "gate", "test") for t in read_rows(rows / f"{s}.parquet").texts
    ]
    new = cut_alike(read_rows(rows / "world-imdb.parquet").texts, old)
    seen_old = see(loaded.model, loaded.calibration, old)
    seen_new = see(loaded.model, loaded.calibration, new)
    print(json.dumps(in_control(seen_old, chosen.windows, chosen.window)), flush=True)
    upper = see(loaded.model, loaded.calibration, [text.upper() for text in old])
    print(json.dumps(harmless(seen_old, upper, chosen.window)), flush=True)
    for share in SHARES:
        print(json.dumps(delays(seen_old, seen_new, share, chosen.window)), flush=True)
    return 0


def in_control(old: Seen, windows: int, size: int) -> dict[str, Any]:
    """Alarms in windows of fresh rows, each few with a reference that was drawn anew."""
    alarms, looked, split = 0, 0, 0
    while looked < windows:
        order = stream(split, "in control").permutation(len(old))
        half = len(old) * 6 // 10
        fitted = Detectors.fit(old.take(order[:half]), 2, size, seed=split, windows=4000)
        before = None
        for place in range(half, len(old) - size + 1, size):
            before = fitted.look(old.take(order[place : place + size]), before)
            alarms += any(sign.over for sign in before.values())
            looked += 1
        split += 1
    return {
        "name": "drift in control",
        "alarms": alarms,
        "windows": looked,
        "references": split,
        "share": wilson(alarms, looked).to_json(),
        "conditions": {"window": size, "set": "one false alarm in 500 windows, all together"},
    }


def harmless(old: Seen, upper: Seen, size: int) -> dict[str, Any]:
    """Alarms when fresh old texts arrive in capitals, and in order of length."""
    alarms = {"capitals": 0, "order of arrival": 0}
    looked = 0
    for chain in range(CHAINS):
        order = stream(chain, "harmless").permutation(len(old))
        half = len(old) * 6 // 10
        fitted = Detectors.fit(old.take(order[:half]), 2, size, seed=chain, windows=4000)
        signs: dict[str, Any] = dict.fromkeys(alarms)
        for place in range(half, len(old) - size + 1, size):
            rows = order[place : place + size]
            shuffled = rows[np.argsort(old.length[rows], kind="stable")]
            looked += 1
            for name, window in (
                ("capitals", upper.take(rows)),
                ("order of arrival", old.take(shuffled)),
            ):
                signs[name] = fitted.look(window, signs[name])
                alarms[name] += any(sign.over for sign in signs[name].values())
    return {
        "name": "drift harmless",
        "alarms": alarms,
        "windows": looked,
        "conditions": {"window": size, "order": "within each window, by length"},
    }


def delays(old: Seen, new: Seen, share: float, size: int) -> dict[str, Any]:
    """Windows until the first alarm, over chains of which each has its own reference."""
    found = []
    for chain in range(CHAINS):
        rng = stream(chain, "delay", str(share))
        order = rng.permutation(len(old))
        half = len(old) * 6 // 10
        fitted = Detectors.fit(old.take(order[:half]), 2, size, seed=chain, windows=4000)
        fresh, strange = order[half:], rng.permutation(len(new))
        before, delay = None, LONGEST_RUN + 1
        count = round(share * size)
        # Each row is used once: drawing a small pool again and again would be another world.
        most = min(
            LONGEST_RUN,
            len(fresh) // (size - count) if count < size else LONGEST_RUN,
            len(strange) // count if count else LONGEST_RUN,
        )
        for step in range(most):
            kept = fresh[step * (size - count) : (step + 1) * (size - count)]
            came = strange[step * count : (step + 1) * count]
            window = joined(old.take(kept), new.take(came))
            before = fitted.look(window, before)
            if any(sign.over for sign in before.values()):
                delay = step + 1
                break
        found.append(delay if delay <= most else most + 1)
    alarmed = sum(delay <= most for delay in found)
    return {
        "name": "drift delay",
        "new_share": share,
        "alarmed": f"{alarmed} of {CHAINS} chains within {most} windows",
        "median_delay": float(np.median(found)) if 2 * alarmed > CHAINS else None,
        "conditions": {"window": size, "new texts": "cut to the lengths of old ones"},
    }


def joined(one: Seen, two: Seen) -> Seen:
    """Two samples as one."""
    return Seen(
        np.concatenate([one.length, two.length]),
        np.concatenate([one.confidence, two.confidence]),
        np.concatenate([one.label, two.label]),
        np.concatenate([one.embedding, two.embedding]),
        np.concatenate([one.tokens, two.tokens]),
        np.concatenate([one.offsets, one.offsets[-1] + two.offsets[1:]]),
    )


def cut_alike(new: list[str], old: list[str]) -> list[str]:
    """Each new text's first words, as many as a drawn old text has."""
    lengths = [len(text.split()) for text in old]
    drawn = stream(0, "cut").choice(lengths, len(new))
    return [" ".join(text.split()[:most]) for text, most in zip(new, drawn, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
