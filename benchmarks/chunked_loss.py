"""Memory of a training step of a language model with a large vocabulary, by how its loss is made.

    python -m benchmarks.chunked_loss

Gemma 3 270M (a vocabulary of 262,144) with adapters learns summaries of real descriptions: prompts
and answers, of which the answers alone are learnt. Three ways, each a process of its own, in which
one step is done: logits of every token (``whole``), logits of the tokens that are learnt
(``learnt``), and these in chunks that are made again on the way back (``chunked``, as training
does). With ``--texts`` the whole texts are learnt, not the summaries alone. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.generation import GEMMA
from benchmarks.turns import in_turns, report, wait
from lmwright.assets import asset_file
from lmwright.models.network.network import Network
from lmwright.models.text_model import from_published
from lmwright.models.tunes.lora import LoRA
from lmwright.tasks.summarization import Summarization
from lmwright.tasks.text_generation import TextGeneration
from lmwright.train import documents
from lmwright.train.batches import UNLEARNT, Example
from lmwright.train.beginning import at_rate, read_start
from lmwright.train.finetune import Train
from lmwright.train.task_model import trained_task_model

WAYS = ("chunked", "learnt", "whole")
LONGEST = 288
SUMMARIES = "asset:debian-summaries/debian-summaries.parquet"


def main() -> None:
    """All ways, or, in a child, one of them."""
    parser = argparse.ArgumentParser(description="memory of a step by how its loss is made")
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--texts", action="store_true", help="learn the texts as a whole")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    if chosen.way:
        torch.set_num_threads(chosen.threads)
        step(chosen.way, chosen.batch, chosen.texts)
        return
    command = ["benchmarks.chunked_loss", f"--batch={chosen.batch}", f"--threads={chosen.threads}"]
    command += ["--texts"] if chosen.texts else []
    found = {
        way: in_turns({way: [*command, f"--way={way}"]}, 1)[way][-1] for way in WAYS
    }  # one after another, so that no two models are in memory at once
    first = found[WAYS[0]]
    made = {
        "name": "chunked loss",
        "peak_mb": {way: each["peak_mb"] for way, each in found.items()},
        "before_mb": {way: each["before_mb"] for way, each in found.items()},
        "seconds": {way: round(each["seconds"], 1) for way, each in found.items()},
        "loss": {way: round(each["loss"], 6) for way, each in found.items()},
        "tokens": first["tokens"],
        "learnt": first["learnt"],
        "conditions": {
            "batch": chosen.batch,
            "texts": chosen.texts,
            "threads": chosen.threads,
            "load": round(os.getloadavg()[0], 1),
        },
    }
    print(json.dumps(made), flush=True)


def step(way: str, batch: int, texts: bool) -> None:
    """A child: a turn that says what the model takes, and one with a step of forward and back."""
    wait()
    published = read_start(Train(start=GEMMA))
    model = at_rate(from_published(published, "lm", LONGEST, 0), 0.0, LONGEST)
    table = pq.read_table(asset_file(SUMMARIES)).slice(0, batch)
    ids = pa.array([f"{place:032x}" for place in range(batch)])
    columns = {"id": ids, "text": table.column("description"), "summary": table.column("synopsis")}
    task = TextGeneration() if texts else Summarization()
    examples = trained_task_model(task).examples(model, pa.table(columns))
    LoRA().apply(model.network, 0)
    report(0)
    wait()
    before, began = peak_mb(), time.perf_counter()
    if way == "learnt":
        documents.MOST_LOGITS = 1 << 62
    mean = whole(model.network, examples) if way == "whole" else learnt(model.network, examples)
    mean.backward()
    targets = np.concatenate([np.asarray(each.target) for each in examples])
    report(
        1,
        seconds=time.perf_counter() - began,
        before_mb=before,
        peak_mb=peak_mb(),
        loss=mean.item(),
        tokens=len(targets),
        learnt=int((targets != UNLEARNT).sum()),
    )


def learnt(network: Network, examples: list[Example]) -> Tensor:
    """The loss as training makes it."""
    return documents.next_token_loss(network, examples, None).mean


def whole(network: Network, examples: list[Example]) -> Tensor:
    """The same by the logits of every token."""
    batch = documents.packed(network, examples)
    targets = torch.from_numpy(np.concatenate([np.asarray(each.target) for each in examples]))
    rows = torch.cat(network.output_batch(batch).by_document(network(batch)))
    return F.cross_entropy(rows, targets, ignore_index=UNLEARNT)


def peak_mb() -> int:
    """The process's peak resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
