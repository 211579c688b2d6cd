"""Training in bf16 against the same in fp32: tokens a second, and what was learnt.

    python -m benchmarks.precision                     (the encoder)
    python -m benchmarks.precision --model decoder     (a decoder of 134M)

The same weights, real texts, batches, AdamW and dropout; only the precision of the products
differs. Each side is a process of its own, and they work in turns. Under each of several seeds
(which draw what is new in the network, the order and the dropout) both are trained to the end and
scored on held-out texts, so that what bf16 costs in quality stands beside what it saves in time,
and beside what another seed alone changes. The encoder is MiniLM on reviews; the decoder has the
shape of SmolLM-135M with drawn weights, and learns addresses of presidents cut to log-normal
lengths, so its loss is that of the beginning of a training.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.forward import LLAMA_134M
from benchmarks.peer import REVIEWS, START
from benchmarks.turns import in_turns, ratios, report, speed, wait
from lmwright.assets import asset_file
from lmwright.core.random import stream
from lmwright.machine.probe import cpu_class
from lmwright.models.core.device import Placement, bf16_cost, native_bf16
from lmwright.models.core.memory import keep_few_kernels
from lmwright.models.core.spec import Head
from lmwright.models.files.folder import read_folder
from lmwright.models.network.initialise import Initialisation, initialise
from lmwright.models.network.network import Network, build
from lmwright.models.text_model import from_published
from lmwright.models.zoo import llama
from lmwright.tasks.text_classification import TextClassification
from lmwright.train.batches import EpochBatches, Example
from lmwright.train.beginning import at_rate
from lmwright.train.documents import Document, mean_log_loss, next_token_loss
from lmwright.train.loop import OptimizerConfig, State, train
from lmwright.train.loss import Loss
from lmwright.train.optimizers import AdamW
from lmwright.train.schedules import Linear
from lmwright.train.task_model import trained_task_model

SIDES = ("bf16", "fp32")
ROUNDS, WARM_UP = 4, 2
TASK = TextClassification(labels=("0", "1"))
ADDRESSES = "asset:state-of-the-union/state-of-the-union.parquet"


@dataclass(frozen=True)
class Work:
    """What is trained, and how: how many texts by default, and how many tokens they may have."""

    rows: int
    batch: int
    longest: int
    dropout: float
    lr: float


WORKS = {
    "encoder": Work(rows=960, batch=16, longest=512, dropout=0.1, lr=2e-4),
    "decoder": Work(rows=128, batch=8, longest=512, dropout=0.0, lr=1e-3),
}


def main() -> None:
    """All seeds, or, in a child, one side under one of them."""
    parser = argparse.ArgumentParser(description="training in bf16 against fp32")
    parser.add_argument("--model", choices=tuple(WORKS), default="encoder")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--rows", type=int, help="texts of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    rows = chosen.rows or WORKS[chosen.model].rows
    if chosen.side:
        keep_few_kernels()
        torch.set_num_threads(chosen.threads)
        work_in_turns(chosen.side, chosen.model, rows, chosen.seed)
        return
    compare(chosen.model, rows, chosen.seeds, chosen.threads)


def compare(model: str, rows: int, seeds: int, threads: int) -> None:
    """Print one result a seed, and one over all."""
    if rows < (fewest := WORKS[model].batch * (WARM_UP + ROUNDS)):
        raise SystemExit(f"--rows is {rows}; wanted: at least {fewest}, a step for each turn")
    found = []
    for seed in range(seeds):
        command = ["benchmarks.precision", f"--model={model}", f"--rows={rows}"]
        command += [f"--seed={seed}", f"--threads={threads}"]
        turns = in_turns({side: [*command, f"--side={side}"] for side in SIDES}, ROUNDS)
        found.append(result(turns, model, rows, seed, threads))
        print(json.dumps(found[-1]), flush=True)
    gaps = [line["loss"]["bf16"] - line["loss"]["fp32"] for line in found]
    between = [line["loss"]["fp32"] for line in found]
    whole = {
        "name": f"train bf16 {model}",
        "ratio": round(statistics.median(line["ratio"] for line in found), 2),
        "loss_gaps": [round(gap, 4) for gap in gaps],
        "fp32_between_seeds": round(max(between) - min(between), 4),
        "class": cpu_class(),
        "native_bf16": native_bf16("cpu"),
        "product_time_over_fp32": round(bf16_cost("cpu"), 2),
    }
    print(json.dumps(whole), flush=True)


def result(
    turns: dict[str, list[dict[str, Any]]], model: str, rows: int, seed: int, threads: int
) -> dict[str, Any]:
    """Speed and final losses of both sides under one seed."""
    half, single = (turns[side][1:] for side in SIDES)
    ratio, spread = ratios(half, single)
    return {
        "name": f"train bf16 {model}",
        "seed": seed,
        "ratio": ratio,
        "bf16": round(speed(half), 1),
        "fp32": round(speed(single), 1),
        "unit": "tokens/s",
        "spread": spread,
        "loss": {side: round(turns[side][-1]["loss"], 4) for side in SIDES},
        "memory_mb": {side: turns[side][-1]["peak_mb"] for side in SIDES},
        "conditions": {
            **asdict(WORKS[model]),
            "rows": rows,
            "threads": threads,
            "mean_length": round(turns["bf16"][-1]["mean_length"], 1),
            "load": round(os.getloadavg()[0], 1),
        },
    }


def work_in_turns(side: str, model: str, rows: int, seed: int) -> None:
    """A child: train one side, a share of all steps a turn after those of the warm-up."""
    work = WORKS[model]
    network, examples, loss, score = BEGINNINGS[model](work, rows + rows // 4, seed)
    held_out = examples[rows:]
    batches = EpochBatches(examples[:rows], work.batch, epochs=1, seed=seed)
    network.place(Placement("cpu", "bf16" if side == "bf16" else "fp32"))
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
        report(
            ends.index(state.step),
            seconds=seconds,
            tokens=state.tokens - before,
            loss=score(held_out) if last else None,
            mean_length=state.tokens / (state.step * work.batch),
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )
        before = state.tokens
        if not last:
            begin()

    begin()
    train(
        network,
        batches,
        loss,
        AdamW().make(network),
        OptimizerConfig(work.lr, Linear(), 1.0),
        State(),
        [(1, note)],
        lambda event, **facts: None,
    )


Beginning = tuple[Network, list[Example], Loss, Callable[[list[Example]], float]]
"""A network, its texts in an order that is the same for all seeds, its loss and its score."""


def encoder(work: Work, count: int, seed: int) -> Beginning:
    """MiniLM with a fresh classifier, and reviews."""
    task_model = trained_task_model(TASK)
    published = read_folder(asset_file(START))
    model = from_published(published, Head(pool="mean", outputs=2), work.longest, seed)
    model = at_rate(model, work.dropout, work.longest)
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"] == "imdb"]
    chosen = [rows[int(at)] for at in stream(0, "reviews").permutation(len(rows))[:count]]
    ids = cut([each.ids for each in model.tokens([row["text"] for row in chosen])], work)
    examples = [
        Example(each, place, int(row["label"]))
        for place, (each, row) in enumerate(zip(ids, chosen, strict=True))
    ]

    def score(held_out: list[Example]) -> float:
        return task_model.score(model.network, held_out)["log_loss"]

    return model.network, examples, task_model.loss, score


def decoder(work: Work, count: int, seed: int) -> Beginning:
    """The decoder with drawn weights, and passages of addresses."""
    spec = llama.spec(LLAMA_134M)
    network = build(spec, llama.FAMILY.heads["lm"](LLAMA_134M, spec)[0])
    initialise(network, seed, Initialisation())
    texts = pq.read_table(asset_file(ADDRESSES)).column("passage").to_pylist()
    chosen = [texts[int(at)] for at in stream(0, "addresses").permutation(len(texts))[:count]]
    ids = cut(read_folder(asset_file(START)).tokenizer.encode(chosen, work.longest), work)
    examples = [
        Document(each.astype(np.int64), 1, len(each), None).example(place)
        for place, each in enumerate(ids)
    ]
    return network, examples, next_token_loss, lambda some: mean_log_loss(network, some)


BEGINNINGS: dict[str, Callable[[Work, int, int], Beginning]] = {
    "encoder": encoder,
    "decoder": decoder,
}


def cut(texts: Sequence[np.ndarray], work: Work) -> list[np.ndarray]:
    """Texts cut to log-normal lengths with a mean of about 110, as those of ``finetune`` are."""
    drawn = stream(0, "lengths").lognormal(np.log(110) - 0.18, 0.6, len(texts))
    lengths = np.clip(drawn, 8, work.longest).astype(int)
    return [each[:length] for each, length in zip(texts, lengths, strict=True)]


if __name__ == "__main__":
    main()
