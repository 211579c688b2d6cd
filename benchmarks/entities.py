"""Entities: what reading neighbouring sentences and capitalisation adds to token classification.

    python -m benchmarks.entities                         # about 15 minutes on one core
    python -m benchmarks.entities --rows 300 --test 200

One encoder (MiniLM, which reads lower-cased texts) tuned three times on the same sentences of
CoNLL-2003 (August 1996), in the same order, with the same seed: as it is, with ``context``, with
``case``. Each is scored on the same sentences of December; differences of entity F1 are paired,
with 95 % intervals from a bootstrap over documents. It measures and claims nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lmwright.assets import asset_file
from lmwright.core.predictor import answer_all
from lmwright.core.random import stream
from lmwright.data.formats.choose import read_table
from lmwright.data.formats.record import Fault, Table
from lmwright.metrics import entities
from lmwright.models.files.folder import read_folder
from lmwright.models.text_model import TextPredictor, from_published
from lmwright.tasks.token_classification import TokenClassification
from lmwright.tasks.token_classification_model import TokenClassifier
from lmwright.train.batches import EpochBatches
from lmwright.train.beginning import at_rate
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.optimizers import AdamW
from lmwright.train.schedules import Linear
from lmwright.train.start import START

NEWS = "asset:conll2003-en/neuroner/data/conll2003/en/{}.txt"
LABELS = ("LOC", "MISC", "ORG", "PER")
PLAIN = TokenClassification(labels=LABELS)
ROWS = {
    "as it is": PLAIN,
    "context": replace(PLAIN, context=48),
    "case": replace(PLAIN, case=True),
}
RATE, BATCH, CAP, DROPOUT, DRAWS = 3e-4, 16, 192, 0.1, 2000


def main() -> int:
    """Train the three, and compare the others with the first."""
    parser = argparse.ArgumentParser(description="context and capitalisation for entities")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    learnt, test = sentences("train", chosen.rows), sentences("test", chosen.test)
    documents = np.unique(test.column("document").to_pylist(), return_inverse=True)[1]
    weights = document_weights(documents, chosen.seed)
    truth, f1, told = test.column("spans").to_pylist(), {}, {}
    for name, task in ROWS.items():
        began = time.perf_counter()
        answers = answer_all(trained(task, learnt, chosen.seed), test.to_pylist())
        found = task.calibrated(answers, 1.0, 0.0)["spans"]
        sums = entities.counts(truth, found, LABELS).sum(1)
        f1[name] = entities.f1(weights @ sums)
        low, high = np.quantile(f1[name][1:], [0.025, 0.975])
        told[name] = {
            "f1": [round(float(each), 4) for each in (f1[name][0], low, high)],
            "seconds": round(time.perf_counter() - began),
        }
        gap = f1[name] - f1["as it is"]
        low, high = np.quantile(gap[1:], [0.025, 0.975])
        told[name]["difference"] = [round(float(each), 4) for each in (gap[0], low, high)]
        print(name, told[name], file=sys.stderr, flush=True)
    conditions = {**vars(chosen), "documents": int(documents.max()) + 1, "max_tokens": CAP}
    print(json.dumps({"name": "entities", "models": told, "conditions": conditions}))
    return 0


def sentences(split: str, count: int) -> pa.Table:
    """The first sentences of a split with what stands round them."""
    path = asset_file(NEWS.format(split))
    columns = ["text", "spans", "before", "after", "document"]
    rows = []
    for found in islice(read_table(Table(split, path.name, path), columns), count):
        if not isinstance(found, Fault):
            rows.append({**found[1], "id": f"{len(rows):x}"})
    return pa.Table.from_pylist(rows)


def document_weights(documents: np.ndarray, seed: int) -> np.ndarray:
    """How often each row counts (1 + draws, n): once each, then by documents drawn anew."""
    number = int(documents.max()) + 1
    drawn = stream(seed, "documents").multinomial(number, np.full(number, 1 / number), DRAWS)
    return np.concatenate([np.ones((1, len(documents))), drawn[:, documents]])


def trained(task: TokenClassification, rows: pa.Table, seed: int) -> TextPredictor:
    """The encoder after one epoch."""
    by_model = TokenClassifier(task)
    published = read_folder(asset_file(START))
    model = from_published(published, by_model.head(DROPOUT), CAP, seed)
    model = at_rate(by_model.changed(model, None), DROPOUT, CAP)
    batches = EpochBatches(by_model.examples(model, rows), BATCH, epochs=1, seed=seed)

    def nothing(event: str, **facts: Any) -> None:
        """Nothing is kept."""

    optimizer = AdamW(weight_decay=0.01).make(model.network)
    config = OptimizerConfig(RATE, Linear(warmup=0.1), 1.0)
    train(model.network, batches, by_model.loss, optimizer, config, State(), [], nothing)
    return TextPredictor(task, model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
