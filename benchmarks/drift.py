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
import pyarrow as pa

from lmwright.core.random import stream
from lmwright.core.recipe import read_recipe
from lmwright.core.task import Answers, Signal, Task, ragged
from lmwright.data.corpus import read_split
from lmwright.loop.detect import signals_of
from lmwright.loop.retrain import Retrain, drifts, find_trigger
from lmwright.metrics.detectors import (
    FLOORS,
    POWERS,
    WEIGHT,
    Detectors,
    Sample,
    sample_size,
    scores_to_json,
    take,
)
from lmwright.metrics.intervals import wilson
from lmwright.models.text_model import TextPredictor
from lmwright.serve.load import load_version
from lmwright.serve.rows import Loaded
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
    names = ("calibration", "gate", "test")
    table = pa.concat_tables([read_split(rows, name) for name in names])
    old = table.column("text").to_pylist()
    strange = read_split(rows, "test-imdb")
    new = cut_alike(strange.column("text").to_pylist(), old)
    seen_old, _ = signals_of(loaded.predictor, loaded.calibration, table)
    seen_new, _ = signals_of(loaded.predictor, loaded.calibration, with_texts(strange, new))
    print(json.dumps(in_control(seen_old, chosen.windows, chosen.window)), flush=True)
    cases = {"as it is": old, **{k: [change(t) for t in old] for k, change in CASES.items()}}
    # There are fewer fresh rows than the recipe's ``fewest``, which would make "none" certain:
    # the loss and the confidence are asked from the first windows on.
    settings = read_recipe(RECIPE, resolve, SECTIONS).sections["retrain"]
    settings = replace(settings, fewest=chosen.window, new_labels=0)
    for line in harmless(loaded, cases, table, settings, chosen.window, chosen.chains):
        print(json.dumps(line), flush=True)
    for share in SHARES:
        print(json.dumps(delays(seen_old, seen_new, share, chosen.window)), flush=True)
    return 0


def in_control(old: Sample, windows: int, size: int) -> dict[str, Any]:
    """Alarms in windows of fresh rows, each few with a reference that was drawn anew."""
    alarms, looked, split = 0, 0, 0
    while looked < windows:
        order = stream(split, "in control").permutation(sample_size(old))
        half = len(order) * 6 // 10
        fitted = Detectors.fit(take(old, order[:half]), size, seed=split, windows=4000)
        before = None
        for place in range(half, len(order) - size + 1, size):
            before = fitted.look(take(old, order[place : place + size]), before)
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
    table: pa.Table,
    settings: Retrain,
    size: int,
    chains: int,
) -> list[dict[str, Any]]:
    """Alarms and retrainings that the trigger would have started, when nothing is worse.

    The reference of loss and confidence are the rows that the detectors were fitted to.
    """
    ids = {name: tokens(loaded, texts) for name, texts in cases.items()}
    same = {name: all(map(np.array_equal, ids["as it is"], each)) for name, each in ids.items()}
    seen = {name: looked(loaded, with_texts(table, texts)) for name, texts in cases.items()}
    plain = seen["as it is"]
    order_of = {
        "length": plain.sample["length"].values,
        "label": np.array(table.column("label").to_pylist()),
    }
    streams = {
        **{name: (each, lambda rows: rows) for name, each in seen.items()},
        "order of length": (plain, lambda rows: rows[np.argsort(order_of["length"][rows])]),
        "order of label": (plain, lambda rows: rows[np.argsort(order_of["label"][rows])]),
    }
    alarms, began = dict.fromkeys(streams, 0), dict.fromkeys(streams, 0)
    windows = 0
    for chain in range(chains):
        order = stream(chain, "harmless").permutation(table.num_rows)
        half = len(order) * 6 // 10
        known, fresh = order[:half], order[half:]
        fresh = fresh[: len(fresh) // size * size]
        windows += len(fresh) // size
        fitted = Detectors.fit(take(plain.sample, known), size, seed=chain, windows=4000)
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
    """Rows as a version answers them: what the detectors compare, and the calibrated answers."""

    task: Task
    rows: pa.Table
    sample: Sample
    answers: Answers

    @property
    def confidence(self) -> np.ndarray:
        """The confidence (n,) of the answers."""
        found = self.task.confidence(self.answers)
        if found is None:
            raise SystemExit("the model has no confidence")
        return found

    def loss(self, rows: np.ndarray) -> float:
        """The mean primary loss of some rows."""
        measures = self.task.measures(self.rows.take(pa.array(rows)), self.answers.take(rows))
        return float(measures.losses[self.task.primary].values.mean())

    def labelled(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Rows as labelled answers, as the traffic log gives them."""
        given = self.rows.select(["text", "label"]).take(pa.array(rows)).to_pylist()
        return [
            {
                "inputs": {"text": row["text"]},
                "target": {"label": row["label"]},
                "answer": self.task.told(self.answers, int(place)),
            }
            for row, place in zip(given, rows, strict=True)
        ]


def looked(loaded: Loaded, rows: pa.Table) -> Looked:
    """Rows as the version answers them."""
    found = signals_of(loaded.predictor, loaded.calibration, rows)
    return Looked(loaded.task, rows, *found)


def tokens(loaded: Loaded, texts: list[str]) -> list[np.ndarray]:
    """The ids of texts as a text model reads them."""
    if not isinstance(loaded.predictor, TextPredictor):
        raise SystemExit(f"{ALIAS} is a {loaded.predictor.kind}; a text model is measured")
    return loaded.predictor.model.tokenizer.encode(texts, 256)


def with_texts(table: pa.Table, texts: list[str]) -> pa.Table:
    """The rows with other texts."""
    place = table.column_names.index("text")
    return table.set_column(place, table.schema.field("text"), pa.array(texts, pa.string()))


def play(
    fitted: Detectors, each: Looked, rows: np.ndarray, known: np.ndarray, settings: Retrain
) -> tuple[int, bool]:
    """Windows that alarmed, and whether the trigger would have started a retraining."""
    loss, sure = each.loss(known), each.confidence
    confidence = float(sure[known].mean())
    before, scores, started = None, [], False
    for end in range(fitted.window, len(rows) + 1, fitted.window):
        window = rows[end - fitted.window : end]
        before = fitted.look(take(each.sample, window), before)
        scores.append(scores_to_json(before) | {"confidence_mean": float(sure[window].mean())})
        labelled = each.labelled(rows[:end])
        found = find_trigger(settings, each.task, scores, labelled, loss, confidence)
        started = started or bool(found.reason)
    return sum(map(drifts, scores)), started


def delays(old: Sample, new: Sample, share: float, size: int) -> dict[str, Any]:
    """Windows until the first alarm, over chains of which each has its own reference."""
    found, excess = [], []
    for chain in range(CHAINS):
        rng = stream(chain, "delay", str(share))
        order = rng.permutation(sample_size(old))
        half = len(order) * 6 // 10
        fitted = Detectors.fit(take(old, order[:half]), size, seed=chain, windows=4000)
        fresh, strange = order[half:], rng.permutation(sample_size(new))
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
            window = joined(take(old, kept), take(new, came))
            before = fitted.look(window, before)
            if step == 0:
                excess.append([score.trend / WEIGHT for score in before.values()])
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
        "effects": effects(old, np.mean(excess, axis=0)),
        "floors": FLOORS,
        "conditions": {"window": size, "new texts": "cut to the lengths of old ones"},
    }


def effects(sample: Sample, excess: np.ndarray) -> dict[str, float]:
    """The mean effect that each detector sees, from its mean excess over chance."""
    return {
        name: round(float(max(0.0, value)) ** (1 / POWERS[signal.kind]), 3)
        for (name, signal), value in zip(sample.items(), excess, strict=True)
    }


def joined(one: Sample, two: Sample) -> Sample:
    """Two samples as one."""
    return {name: both(signal, two[name]) for name, signal in one.items()}


def both(one: Signal, two: Signal) -> Signal:
    """The rows of two signals of one kind."""
    if one.offsets is None or two.offsets is None:
        return replace(one, values=np.concatenate([one.values, two.values]))
    each = [np.split(signal.values, signal.offsets[1:-1]) for signal in (one, two) if len(signal)]
    return ragged([row for rows in each for row in rows])


def cut_alike(new: list[str], old: list[str]) -> list[str]:
    """Each new text's first words, as many as a drawn old text has."""
    lengths = [len(text.split()) for text in old]
    drawn = stream(0, "cut").choice(lengths, len(new))
    return [" ".join(text.split()[:most]) for text, most in zip(new, drawn, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
