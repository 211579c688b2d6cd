"""Fine-tuning an encoder in bf16 against the same in fp32: tokens a second, and what was learnt.

    python -m benchmarks.finetune --precision bf16

The same weights, real reviews, batches, AdamW and dropout; only the precision of the products
differs. Each side is a process of its own, and they work in turns. Under each of several seeds
(which draw the head, the order and the dropout) both are trained to the end and scored on held-out
reviews, so that what bf16 costs in quality stands beside what it saves in time, and beside what
another seed alone changes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.peer import REVIEWS, START
from benchmarks.turns import in_turns, ratios, report, speed, wait
from lmwright.assets import asset_file
from lmwright.core.random import stream
from lmwright.models.core.device import Placement, bf16_cost, native_bf16
from lmwright.models.core.spec import Head
from lmwright.models.files.folder import read_folder
from lmwright.models.text_model import TextModel, from_published
from lmwright.tasks.text_classification import TextClassification
from lmwright.train.batches import EpochBatches, Example
from lmwright.train.finetune import at_rate
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.optimizers import AdamW
from lmwright.train.schedules import Linear
from lmwright.train.task_model import trained_task_model

SIDES = ("bf16", "fp32")
BATCH, LONGEST, DROPOUT, LR = 16, 128, 0.1, 2e-4
ROUNDS, WARM_UP = 4, 2
TASK = TextClassification(labels=("0", "1"))


def main() -> None:
    """All seeds, or, in a child, one side under one of them."""
    parser = argparse.ArgumentParser(description="fine-tuning in bf16 against fp32")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--rows", type=int, default=960)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    if chosen.side:
        torch.set_num_threads(chosen.threads)
        work_in_turns(chosen.side, chosen.rows, chosen.seed)
        return
    compare(chosen.rows, chosen.seeds, chosen.threads)


def compare(rows: int, seeds: int, threads: int) -> None:
    """Print one result a seed, and one over all."""
    if rows < (fewest := BATCH * (WARM_UP + ROUNDS)):
        raise SystemExit(f"--rows is {rows}; wanted: at least {fewest}, a step for each turn")
    found = []
    for seed in range(seeds):
        command = ["benchmarks.precision", f"--rows={rows}", f"--seed={seed}"]
        command.append(f"--threads={threads}")
        turns = in_turns({side: [*command, f"--side={side}"] for side in SIDES}, ROUNDS)
        found.append(result(turns, rows, seed, threads))
        print(json.dumps(found[-1]), flush=True)
    gaps = [line["loss"]["bf16"] - line["loss"]["fp32"] for line in found]
    between = [line["loss"]["fp32"] for line in found]
    whole = {
        "name": "finetune bf16",
        "ratio": round(statistics.median(line["ratio"] for line in found), 2),
        "loss_gaps": [round(gap, 4) for gap in gaps],
        "fp32_between_seeds": round(max(between) - min(between), 4),
        "native_bf16": native_bf16("cpu"),
        "product_time_over_fp32": round(bf16_cost("cpu"), 2),
    }
    print(json.dumps(whole), flush=True)


def result(
    turns: dict[str, list[dict[str, Any]]], rows: int, seed: int, threads: int
) -> dict[str, Any]:
    """Speed and final losses of both sides under one seed."""
    half, single = (turns[side][1:] for side in SIDES)
    ratio, spread = ratios(half, single)
    return {
        "name": "finetune bf16",
        "seed": seed,
        "ratio": ratio,
        "bf16": round(speed(half), 1),
        "fp32": round(speed(single), 1),
        "unit": "tokens/s",
        "spread": spread,
        "loss": {side: round(turns[side][-1]["loss"], 4) for side in SIDES},
        "accuracy": {side: round(turns[side][-1]["accuracy"], 4) for side in SIDES},
        "memory_mb": {side: turns[side][-1]["peak_mb"] for side in SIDES},
        "conditions": {
            "rows": rows,
            "threads": threads,
            "batch": BATCH,
            "load": round(os.getloadavg()[0], 1),
        },
    }


def work_in_turns(side: str, rows: int, seed: int) -> None:
    """A child: train one side, a share of all steps a turn after those of the warm-up."""
    task_model = trained_task_model(TASK)
    published = read_folder(asset_file(START))
    model = from_published(published, Head(pool="mean", outputs=2), LONGEST, seed)
    model = at_rate(model, DROPOUT, LONGEST)
    documents = reviews(model, rows + rows // 4)
    held_out, batches = documents[rows:], EpochBatches(documents[:rows], BATCH, epochs=1, seed=seed)
    model.network.place(Placement("cpu", "bf16" if side == "bf16" else "fp32"))
    ends = [round(end) for end in np.linspace(WARM_UP, batches.steps, ROUNDS + 1)]
    began, before = 0.0, 0

    def begin() -> None:
        nonlocal began
        wait()
        began = time.perf_counter()

    def note(state: State) -> None:
        nonlocal before
        if state.step not in ends:
            return
        seconds = time.perf_counter() - began
        last = state.step == batches.steps
        scores = task_model.score(model.network, held_out) if last else {}
        report(
            ends.index(state.step),
            seconds=seconds,
            tokens=state.tokens - before,
            loss=scores.get("log_loss"),
            accuracy=scores.get("accuracy"),
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )
        before = state.tokens
        if not last:
            begin()

    begin()
    train(
        model.network,
        batches,
        task_model.loss,
        AdamW().make(model.network),
        OptimizerConfig(LR, Linear(), 1.0),
        State(),
        [(1, note)],
        lambda event, **facts: None,
    )


def reviews(model: TextModel, count: int) -> list[Example]:
    """Real reviews in an order that is the same for all seeds."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"] == "imdb"]
    chosen = [rows[int(at)] for at in stream(0, "reviews").permutation(len(rows))[:count]]
    tokens = model.tokens([row["text"] for row in chosen])
    return [
        Example(each.ids, place, int(row["label"]))
        for place, (each, row) in enumerate(zip(tokens, chosen, strict=True))
    ]


if __name__ == "__main__":
    main()
