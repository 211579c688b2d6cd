"""Fine-tuning an encoder: ours against transformers' Trainer, in non-padding tokens a second.

    python -m benchmarks.finetune                       (both in fp32)
    python -m benchmarks.finetune --precision bf16      (both in bf16: the Trainer with bf16=True)

The same weights (all-MiniLM-L6-v2 with its pooler and one fresh classifier), the same real
reviews cut to log-normal lengths (mean about 110, at most 512), the same batches of 16, AdamW,
rate, decay and clipping, in one precision. Each side is a process of its own, so that peak memory
is its own, and they work in turns (A B C D, A B C D, …), so that a neighbour on the machine slows
all.
The grouped peer gets batches sorted by length over all documents, which is tighter than its own
sampler's grouping. Without dropout the losses of equal steps are compared one by one, with
dropout their means: a fast wrong answer is no result.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.peer import REVIEWS, START, padded, peer_model, trainer_arguments
from benchmarks.turns import in_turns, ratios, report, speed, wait
from lmwright.assets import asset_file
from lmwright.core.random import stream
from lmwright.machine.probe import cpu_class
from lmwright.models.core.device import Placement
from lmwright.models.core.memory import keep_few_kernels
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

PEERS = ("dynamic", "grouped", "max_length")
LONGEST, BATCH, ROUNDS, STEPS_A_ROUND, SEED = 512, 16, 5, 3, 0
WARM_UP = 1
STEPS = WARM_UP + ROUNDS * STEPS_A_ROUND
LR, DECAY, CLIP = 5e-5, 0.01, 1.0
STEPWISE_BOUND, MEAN_BOUND = {"fp32": 1e-3, "bf16": 0.02}, 0.1
"""How far losses may lie apart: of each equal step without dropout, of the mean with it."""


def main() -> None:
    """Run both settings of dropout, or, in a child, one side of one of them."""
    parser = argparse.ArgumentParser(description="fine-tuning speed against transformers' Trainer")
    parser.add_argument("--side", choices=("ours", *PEERS))
    parser.add_argument("--dropout", type=float)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, choices=range(1, ROUNDS + 1), default=ROUNDS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    if chosen.side:
        work_in_turns(chosen.side, chosen.dropout, chosen.precision, chosen.threads)
        return
    rates = (0.1, 0.0) if chosen.dropout is None else (chosen.dropout,)
    for dropout in rates:
        for line in compare(chosen.peers, dropout, chosen.precision, chosen.threads, chosen.rounds):
            print(json.dumps(line), flush=True)
            if not line["equal"]:
                raise SystemExit("the losses differ: no result")


def compare(
    peers: Sequence[str], dropout: float, precision: str, threads: int, rounds: int
) -> list[dict[str, Any]]:
    """One result a peer at that rate of dropout."""
    command = ["benchmarks.finetune", f"--dropout={dropout}", f"--threads={threads}"]
    command.append(f"--precision={precision}")
    turns = in_turns({side: [*command, f"--side={side}"] for side in ("ours", *peers)}, rounds)
    return [result(peer, dropout, precision, threads, turns) for peer in peers]


def result(
    peer: str, dropout: float, precision: str, threads: int, turns: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The ratio of tokens a second over all rounds, with each round's, and the losses' distance."""
    ours, theirs = turns["ours"][1:], turns[peer][1:]
    ratio, spread = ratios(ours, theirs)
    stepwise = not dropout and peer != "grouped"
    apart = loss_distance(turns["ours"], turns[peer], stepwise)
    bound = STEPWISE_BOUND[precision] if stepwise else MEAN_BOUND
    return {
        "name": f"finetune {peer}",
        "ratio": ratio,
        "ours": round(speed(ours), 1),
        "peer": round(speed(theirs), 1),
        "unit": "non-padding tokens/s",
        "conditions": {
            "class": cpu_class(),
            "precision": precision,
            "dropout": dropout,
            "threads": threads,
            "batch": BATCH,
            "adamw": {"lr": LR, "weight_decay": DECAY, "clip": CLIP},
            "peer": theirs[-1]["about"],
            "steps": len(ours) * STEPS_A_ROUND,
            "mean_length": round(ours[-1]["mean_length"], 1),
            "load": round(os.getloadavg()[0], 1),
        },
        "spread": spread,
        "memory_mb": {"ours": ours[-1]["peak_mb"], peer: theirs[-1]["peak_mb"]},
        "loss_distance": float(f"{apart:.2g}"),
        "equal": apart <= bound,
    }


def loss_distance(ours: list[dict[str, Any]], peer: list[dict[str, Any]], stepwise: bool) -> float:
    """The largest distance between losses of equal steps, or that between their means."""
    mine, theirs = (
        np.array([loss for turn in side for loss in turn["losses"]]) for side in (ours, peer)
    )
    if stepwise:
        return float(abs(mine - theirs).max())
    return float(abs(mine.mean() - theirs.mean()))


def work_in_turns(side: str, dropout: float, precision: str, threads: int) -> None:
    """A child: train one side, waiting for a turn after the warm-up and after every round."""
    torch.set_num_threads(threads)
    (train_ours if side == "ours" else train_peer)(side, dropout, precision == "bf16", Turns())


class Turns:
    """Counts a side's steps, and reports and waits at the end of each turn."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self.mean_length = 0.0
        self.about: dict[str, Any] = {}
        self.began = 0.0

    def start(self, documents: list[Example]) -> None:
        """Take note of the documents in the order of training, and wait for the first turn."""
        lengths = [len(document.tokens) for document in documents]
        self.tokens = [sum(lengths[at : at + BATCH]) for at in range(0, len(lengths), BATCH)]
        self.mean_length = statistics.mean(lengths)
        self.wait()

    def wait(self) -> None:
        """Block until the parent gives the turn."""
        wait()
        self.began = time.perf_counter()

    def step(self, step: int, loss: Callable[[], float]) -> None:
        """One step is done; steps count from 1."""
        self.losses.append(loss())
        done = step - WARM_UP
        if done == 0 or (done > 0 and done % STEPS_A_ROUND == 0):
            first = step - STEPS_A_ROUND if done else 0
            report(
                step,
                seconds=time.perf_counter() - self.began,
                tokens=sum(self.tokens[first:step]),
                losses=self.losses[first:step],
                mean_length=self.mean_length,
                about=self.about,
                peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            )
            if step < STEPS:
                self.wait()


def train_ours(side: str, dropout: float, bf16: bool, turns: Turns) -> None:
    """Our loop, over batches in their own order."""
    keep_few_kernels()
    network, task, batches = beginning(dropout)
    network.place(Placement("cpu", "bf16" if bf16 else "fp32"))
    turns.start(in_order(batches))

    def note(state: State) -> None:
        turns.step(state.step, lambda: state.curves[-1]["loss"])

    train(
        network,
        batches,
        trained_task_model(task).loss,
        AdamW(weight_decay=DECAY).make(network),
        OptimizerConfig(LR, Linear(warmup=0.0), CLIP),
        State(),
        [(1, note)],
        lambda event, **facts: None,
    )


def train_peer(side: str, dropout: float, bf16: bool, turns: Turns) -> None:
    """Transformers' Trainer on the same weights and documents, padded its own ways."""
    import transformers

    network, _, batches = beginning(dropout)
    documents = in_order(batches)
    if side == "grouped":
        by_length = sorted(documents, key=lambda each: -len(each.tokens))
        groups = [by_length[at : at + BATCH] for at in range(0, len(by_length), BATCH)]
        order = stream(SEED, "groups").permutation(len(groups))
        documents = [document for at in order for document in groups[at]]
    transformers.set_seed(SEED)
    model = peer_model(network, dropout)

    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return padded(items, LONGEST if side == "max_length" else 0)

    class Report(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if "loss" in state.log_history[-1]:
                turns.step(state.global_step, lambda: state.log_history[-1]["loss"])

    with tempfile.TemporaryDirectory() as folder:
        arguments = trainer_arguments(folder, BATCH, LR, DECAY, CLIP, bf16)
        turns.about = {
            "transformers": transformers.__version__,
            "bf16": arguments.bf16,
            "optimizer": str(arguments.optim),
            "attention": model.config._attn_implementation,
            "padding": side,
        }
        rows = [{"ids": each.tokens, "label": each.target} for each in documents]
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
            callbacks=[Report()],
        )
        turns.start(documents)
        trainer.train()


def beginning(dropout: float) -> tuple[Any, TextClassification, EpochBatches]:
    """Our network, the task and the batches, all of them functions of the seed."""
    task = TextClassification(labels=("0", "1"))
    head = Head(
        pool="first", dense=Dense(outputs=384, activation="tanh"), dropout=dropout, outputs=2
    )
    published = read_folder(asset_file(START))
    model = at_rate(from_published(published, head, LONGEST, SEED), dropout, LONGEST)
    rows = documents(model, STEPS * BATCH)
    return model.network, task, EpochBatches(rows, BATCH, epochs=1, seed=SEED)


def in_order(batches: EpochBatches) -> list[Example]:
    """The documents as the steps meet them."""
    return [example for step in range(batches.steps) for example in batches.at(step)]


def documents(model: TextModel, count: int) -> list[Example]:
    """Real reviews, each cut to a drawn length that it has at least."""
    draw = stream(SEED, "lengths")
    lengths = np.clip(draw.lognormal(np.log(110) - 0.18, 0.6, count), 8, LONGEST).astype(int)
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as lines:
        reviews = [row for row in csv.DictReader(lines) if row["source"] == "imdb"]
    chosen = [reviews[int(at)] for at in draw.permutation(len(reviews))[: 6 * count]]
    read = sorted(
        zip(model.tokens([row["text"] for row in chosen]), chosen, strict=True),
        key=lambda pair: (pair[0].cost, pair[1]["text"]),
    )
    found = []
    for place, length in enumerate(sorted(lengths)[::-1]):
        tokens, row = read[-1 - place]
        if len(tokens.ids) < length:
            raise SystemExit(f"no review has {length} tokens")
        ids = np.concatenate([tokens.ids[: length - 1], tokens.ids[-1:]])
        found.append(Example(ids, place, int(row["label"])))
    return found


if __name__ == "__main__":
    main()
