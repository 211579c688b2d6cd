"""Drift: how often the detectors alarm for nothing, and how soon for something.

    python -m benchmarks.drift --store lmwright-store

Reads a store in which the quickstart has run. In control: the rows that the model never learnt
from are split again and again into a reference and windows of fresh rows; at least 2,000 windows.
Out of control: old rows mixed with 5, 10, 25 and 100 % IMDB reviews, each cut to the length of an
old sentence, so that a counter of lengths alone sees nothing. The delay is in windows until the
first alarm of any detector; beside it the effects that the detectors see and the floors below
which an effect, however certain, is no alarm.

Harmless: fresh rows of the old world in capitals, in lower case, and in an order of length or of
label over the whole stream. An order over the stream is a shift within each window, all short
texts in the first ones, so the detectors may well alarm; what must not follow is a retraining.
So each chain also asks the trigger, with the recipe's bounds on loss and confidence and every
label known, after each window. Where a case gives the same tokens as none, the output says so:
the tokenizer of an uncased model makes capitals no shift at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.core.random import stream
from lmwright.core.recipe import read_recipe
from lmwright.data.corpus import read_rows
from lmwright.loop.detect import see
from lmwright.loop.retrain import Retrain, drifts, find_trigger
from lmwright.metrics.classification import log_losses
from lmwright.metrics.detectors import (
    FLOORS,
    NAMES,
    POWERS,
    WEIGHT,
    Detectors,
    Seen,
    scores_to_json,
)
from lmwright.metrics.intervals import wilson
from lmwright.serve.engine import Loaded
from lmwright.serve.load import load_version
from lmwright.store.store import Store
from lmwright.store.versions import history, read_version
from lmwright.tables import SECTIONS, resolve

ALIAS = "reviews@production"
RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
SHARES = (0.0, 0.05, 0.10, 0.25, 1.0)
LONGEST_RUN = 40
CHAINS = 20
CASES: dict[str, Callable[[str], str]] = {"capitals": str.upper, "lower case": str.lower}


def main() -> int:
    """Measure both."""
    parser = argparse.ArgumentParser(description="false alarms and delays of the drift detectors")
    parser.add_argument("--store", type=Path, default=Path("lmwright-store"))
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--chains", type=int, default=CHAINS)
    chosen = parser.parse_args()
    store = Store(chosen.store)
    version = history(store, ALIAS)[0].hash
    loaded = load_version(store, version)
    rows = store.artifact(read_version(store, version)["artifacts"]["rows"])
    tables = [read_rows(rows / f"{name}.parquet") for name in ("calibration", "gate", "test")]
    old = [text for table in tables for text in table.texts]
    truth = [label for table in tables for label in table.labels]
    new = cut_alike(read_rows(rows / "test-imdb.parquet").texts, old)
    seen_old, _ = see(loaded.model, loaded.calibration, old)
    seen_new, _ = see(loaded.model, loaded.calibration, new)
    print(json.dumps(in_control(seen_old, chosen.windows, chosen.window)), flush=True)
    cases = {"as it is": old, **{k: [change(t) for t in old] for k, change in CASES.items()}}
    # There are fewer fresh rows than the recipe's ``fewest``, which would make "none" certain:
    # the loss and the confidence are asked from the first windows on.
    settings = read_recipe(RECIPE, resolve, SECTIONS).sections["retrain"]
    settings = replace(settings, fewest=chosen.window, new_labels=0)
    for line in harmless(loaded, cases, truth, settings, chosen.window, chosen.chains):
        print(json.dumps(line), flush=True)
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


def harmless(
    loaded: Loaded,
    cases: dict[str, list[str]],
    truth: list[str],
    settings: Retrain,
    size: int,
    chains: int,
) -> list[dict[str, Any]]:
    """Alarms and retrainings that the trigger would have started, when nothing is worse.

    The reference of loss and confidence are the rows that the detectors were fitted to.
    """
    ids = loaded.model.tokenizer.encode
    same = {
        name: all(map(np.array_equal, ids(cases["as it is"], 256), ids(texts, 256)))
        for name, texts in cases.items()
    }
    seen = {name: looked(loaded, texts, truth) for name, texts in cases.items()}
    plain = seen["as it is"]
    streams = {
        **{name: (each, lambda rows: rows) for name, each in seen.items()},
        "order of length": (plain, lambda rows: rows[np.argsort(plain.seen.length[rows])]),
        "order of label": (plain, lambda rows: rows[np.argsort(plain.truth[rows])]),
    }
    alarms, began = dict.fromkeys(streams, 0), dict.fromkeys(streams, 0)
    windows = 0
    for chain in range(chains):
        order = stream(chain, "harmless").permutation(len(truth))
        half = len(order) * 6 // 10
        known, fresh = order[:half], order[half:]
        fresh = fresh[: len(fresh) // size * size]
        windows += len(fresh) // size
        fitted = Detectors.fit(plain.seen.take(known), 2, size, seed=chain, windows=4000)
        for name, (each, arrange) in streams.items():
            alarmed, started = play(fitted, each, arrange(fresh), known, settings)
            alarms[name] += alarmed
            began[name] += started
    return [
        {
            "name": "drift harmless",
            "shift": name,
            "alarms": alarms[name],
            "windows": windows,
            "retrainings": f"in {began[name]} of {chains} chains",
            "same tokens as without": same.get(name, True),
            "conditions": {
                "window": size,
                "order": "over the whole stream",
                "labels": "all known",
                "reasons": f"loss and confidence, from {settings.fewest} labels on",
            },
        }
        for name in streams
    ]


@dataclass(frozen=True)
class Looked:
    """Rows as the model saw them: what the detectors compare, probabilities (n, k), truth (n,)."""

    seen: Seen
    probabilities: np.ndarray
    truth: np.ndarray
    labels: tuple[str, ...]

    def answers(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Rows as labelled answers, as the traffic log gives them."""
        return [
            {
                "truth": self.labels[self.truth[row]],
                "probabilities": dict(zip(self.labels, self.probabilities[row], strict=True)),
            }
            for row in rows
        ]


def looked(loaded: Loaded, texts: list[str], truth: list[str]) -> Looked:
    """Texts as the version sees them."""
    labels = tuple(loaded.model.labels)
    places = np.array([labels.index(label) for label in truth])
    return Looked(*see(loaded.model, loaded.calibration, texts), places, labels)


def play(
    fitted: Detectors, each: Looked, rows: np.ndarray, known: np.ndarray, settings: Retrain
) -> tuple[int, bool]:
    """Windows that alarmed, and whether the trigger would have started a retraining."""
    loss = float(log_losses(each.truth[known], each.probabilities[known]).mean())
    confidence = float(each.seen.confidence[known].mean())
    before, signs, started = None, [], False
    for end in range(fitted.window, len(rows) + 1, fitted.window):
        window = each.seen.take(rows[end - fitted.window : end])
        before = fitted.look(window, before)
        mean = float(window.confidence.mean())
        signs.append(scores_to_json(before) | {"confidence_mean": mean})
        found = find_trigger(settings, signs, each.answers(rows[:end]), loss, confidence)
        started = started or bool(found.reason)
    return sum(map(drifts, signs)), started


def delays(old: Seen, new: Seen, share: float, size: int) -> dict[str, Any]:
    """Windows until the first alarm, over chains of which each has its own reference."""
    found, excess = [], []
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
            if step == 0:
                excess.append([before[name].trend / WEIGHT for name in NAMES])
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
        "effects": effects(np.mean(excess, axis=0)),
        "floors": FLOORS,
        "conditions": {"window": size, "new texts": "cut to the lengths of old ones"},
    }


def effects(excess: np.ndarray) -> dict[str, float]:
    """The mean effect that each detector sees, from its mean excess over chance."""
    return {
        name: round(float(max(0.0, value)) ** (1 / POWERS[name]), 3)
        for name, value in zip(NAMES, excess, strict=True)
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
