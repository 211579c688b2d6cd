"""Quality: a classifier tuned by us is not worse than one tuned by transformers' Trainer.

    python -m benchmarks.quality --kept trials.jsonl    # about 50 minutes on two quiet cores
    python -m benchmarks.quality --rows 600 --test 1000

With ``--kept`` every training that ends is written down, and one that is there is not done again:
a run that was stopped goes on. The file is of one commit; begin another for other code.

The same weights, rows, order, steps and token cap; the learning rate of each side is tuned apart,
with equal trials (each rate by its mean over three seeds: by one alone an unstable rate may win),
on rows of its own; then five seeds each. The claim is non-inferiority by a
margin of 1.5 points of accuracy, fixed here: the one-sided 95 % lower bound of the mean
difference, from a bootstrap over the test rows and over each side's seeds, must lie above −1.5.
Inconclusive is not a pass: the exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peer import REVIEWS, START, padded, peer_model
from lmwright.assets import asset_file
from lmwright.core.random import stream
from lmwright.metrics.intervals import seeds_difference
from lmwright.models.core.spec import Dense, Head
from lmwright.models.files.folder import read_folder
from lmwright.models.text_model import TextModel, from_published
from lmwright.tasks.text_classification import TextClassification
from lmwright.train.batches import EpochBatches, Example
from lmwright.train.beginning import at_rate
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.optimizers import AdamW
from lmwright.train.schedules import Linear
from lmwright.train.task_model import trained_task_model

LABELS = ("0", "1")
RATES = (5e-5, 1e-4, 2e-4)
TUNING_SEEDS = (100, 101, 102)
SEEDS = 5
MARGIN, ALPHA = 0.015, 0.05
BATCH, CAP, WARMUP, DECAY, CLIP, DROPOUT = 16, 64, 0.1, 0.01, 1.0, 0.1
DRAWS = 10_000


def main() -> int:
    """Tune both sides, train five seeds of each, compare."""
    parser = argparse.ArgumentParser(description="quality against transformers' Trainer")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--tune", type=int, default=1000)
    parser.add_argument("--test", type=int, default=3000)
    parser.add_argument("--kept", type=Path, help="the trainings that are done, to go on from")
    chosen = parser.parse_args()
    rows = sentences(chosen.rows, chosen.tune, chosen.test)
    began = time.perf_counter()
    kept = read_kept(chosen.kept)

    def done(side: str, fit: Fit, part: str, rate: float, seed: int) -> np.ndarray:
        """Which rows of a part (n,) a training gets right, now or when it was done."""
        name = f"{side} {part} rate {rate} seed {seed}, {chosen.rows} {chosen.tune} {chosen.test}"
        if name not in kept:
            kept[name] = fit(rows["train"], rows[part], rate, seed)
            if chosen.kept:
                with chosen.kept.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps([name, kept[name].astype(int).tolist()]) + "\n")
        note(name, kept[name].mean())
        return kept[name]

    best, trials = {}, {}
    for side, fit in SIDES.items():
        scores = {
            rate: float(np.mean([done(side, fit, "tune", rate, s) for s in TUNING_SEEDS]))
            for rate in RATES
        }
        best[side], trials[side] = max(scores, key=lambda rate: scores[rate]), scores
        note(side, "tuned", best[side], scores)
    right: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    for seed in range(SEEDS):
        for side, fit in SIDES.items():
            right[side].append(done(side, fit, "test", best[side], seed))
    ours, peer = (np.stack(right[side]).astype(float) for side in ("ours", "peer"))
    draws = seeds_difference(ours, peer, DRAWS, stream(0, "quality"))
    lower = float(np.quantile(draws, ALPHA))
    verdict = "not inferior" if lower > -MARGIN else "inconclusive"
    if float(np.quantile(draws, 1 - ALPHA)) < -MARGIN:
        verdict = "inferior"
    line = {
        "name": "quality",
        "ratio": round(float(ours.mean() / peer.mean()), 4),
        "ours": round(float(ours.mean()), 4),
        "peer": round(float(peer.mean()), 4),
        "unit": "accuracy",
        "difference": round(float(ours.mean() - peer.mean()), 4),
        "lower_bound": round(lower, 4),
        "margin": MARGIN,
        "verdict": verdict,
        "by_seed": {side: [round(float(r.mean()), 4) for r in right[side]] for side in SIDES},
        "conditions": {
            "rows": chosen.rows,
            "test": chosen.test,
            "seeds": SEEDS,
            "rates": best,
            "trials": {
                s: {str(k): round(float(v), 4) for k, v in trials[s].items()} for s in SIDES
            },
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - began),
            "load": round(os.getloadavg()[0], 1),
        },
    }
    print(json.dumps(line), flush=True)
    return 0 if verdict == "not inferior" else 1


def read_kept(path: Path | None) -> dict[str, np.ndarray]:
    """The trainings that a file holds, by their names."""
    if path is None or not path.is_file():
        return {}
    pairs = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {name: np.array(right, dtype=bool) for name, right in pairs}


def note(*words: Any) -> None:
    """How far it is, for whoever waits."""
    print(*words, file=sys.stderr, flush=True)


def sentences(train_rows: int, tune_rows: int, test_rows: int) -> dict[str, list[dict[str, str]]]:
    """Rotten Tomatoes sentences, dealt into three parts that share none."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        every = [row for row in csv.DictReader(lines) if row["source"] == "rotten_tomatoes"]
    order = [every[at] for at in stream(0, "quality rows").permutation(len(every))]
    cuts = np.cumsum([train_rows, tune_rows, test_rows])
    return {
        "train": order[: cuts[0]],
        "tune": order[cuts[0] : cuts[1]],
        "test": order[cuts[1] : cuts[2]],
    }


def beginning(seed: int) -> tuple[TextModel, TextClassification]:
    """The start of both sides: the published encoder with its pooler, and a head drawn by seed."""
    task = TextClassification(labels=LABELS)
    head = Head(
        pool="first", dense=Dense(outputs=384, activation="tanh"), dropout=DROPOUT, outputs=2
    )
    published = read_folder(asset_file(START))
    return at_rate(from_published(published, head, CAP, seed), DROPOUT, CAP), task


def order_of(model: TextModel, rows: list[dict[str, str]], seed: int) -> EpochBatches:
    """One epoch of batches in an order set by the seed."""
    prepared = model.tokens([row["text"] for row in rows])
    examples = [
        Example(item.ids, place, int(row["label"]))
        for place, (item, row) in enumerate(zip(prepared, rows, strict=True))
    ]
    return EpochBatches(examples, BATCH, epochs=1, seed=seed)


def fit_ours(
    rows: list[dict[str, str]], held: list[dict[str, str]], rate: float, seed: int
) -> np.ndarray:
    """Train our side; which held-out rows (n,) it gets right."""
    model, task = beginning(seed)
    batches = order_of(model, rows, seed)
    train(
        model.network,
        batches,
        trained_task_model(task).loss,
        AdamW(weight_decay=DECAY).make(model.network),
        OptimizerConfig(rate, Linear(warmup=WARMUP), CLIP),
        State(),
        [],
        lambda event, **facts: None,
    )
    logits = model.logits(model.tokens([row["text"] for row in held]))
    return logits.argmax(1) == np.array([int(row["label"]) for row in held])


def fit_peer(
    rows: list[dict[str, str]], held: list[dict[str, str]], rate: float, seed: int
) -> np.ndarray:
    """Train the peer; which held-out rows (n,) it gets right."""
    import transformers

    ours, _ = beginning(seed)
    batches = order_of(ours, rows, seed)
    documents = [example for step in range(batches.steps) for example in batches.at(step)]
    transformers.set_seed(seed)
    model = peer_model(ours.network, DROPOUT)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=rate,
            warmup_steps=round(WARMUP * batches.steps),
            weight_decay=DECAY,
            max_grad_norm=CLIP,
            train_sampling_strategy="sequential",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
            seed=seed,
        )
        data = [{"ids": each.tokens, "label": each.target} for each in documents]
        transformers.Trainer(
            model=model, args=arguments, train_dataset=data, data_collator=padded
        ).train()
    model.eval()
    chosen = np.empty(len(held), dtype=np.int64)
    prepared = ours.tokens([row["text"] for row in held])
    for place in range(0, len(held), 64):
        items = [{"ids": item.ids, "label": 0} for item in prepared[place : place + 64]]
        with torch.inference_mode():
            batch = padded(items)
            del batch["labels"]
            chosen[place : place + 64] = model(**batch).logits.argmax(-1).numpy()
    return chosen == np.array([int(row["label"]) for row in held])


Fit = Callable[[list[dict[str, str]], list[dict[str, str]], float, int], np.ndarray]
SIDES: dict[str, Fit] = {"ours": fit_ours, "peer": fit_peer}

if __name__ == "__main__":
    sys.exit(main())
