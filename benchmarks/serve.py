"""Many requests over HTTP: ours against llama.cpp's server, on one file of weights.

    python -m benchmarks.serve --llama-server PATH                        (Gemma 3 270M, Q4_K_M)
    python -m benchmarks.serve --llama-server PATH --model llama-134m     (Q8_0)
    python -m benchmarks.serve --llama-server PATH --system 1000

16 clients send 48 requests to ``/v1/completions`` and wait for each answer: prompts are the first
tokens of real reviews, given as ids, their lengths and those of the answers log-normal (mean 131
and 65, as 6,272 and 3,136 tokens of 48 requests). Answers are greedy, as long as asked, and
streamed. With ``--system`` so many tokens stand before all prompts, as an instruction does. Both
servers have the same file, threads, and a place for each client, and work in turns, a whole set of
requests a round. Of each: tokens a second, seconds to the first token (median and 95th
percentile), peak memory, and the share of answers that begin with the same ten tokens.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from benchmarks.answer_models import MODELS, model_folder, reviews
from lmwright.core.errors import LmwrightError
from lmwright.core.random import stream
from lmwright.machine.probe import cpu_class

HERE = Path(__file__).parents[1]
CLIENTS, REQUESTS, ROUNDS = 16, 48, 3
PROMPT, ANSWER = 131, 65
"""Mean numbers of tokens."""
SPREAD = 0.6
"""Standard deviation of the logarithms of lengths."""
LONGEST = 512
START_SECONDS, ANSWER_SECONDS = 300, 600
SAME = 10


@dataclass(frozen=True)
class Asked:
    """One request: the ids of its prompt, and how many tokens its answer has."""

    prompt: list[int]
    tokens: int


@dataclass(frozen=True)
class Heard:
    """One answer: seconds to its first token and to its end, and its text."""

    first: float
    whole: float
    text: str


def main() -> None:
    """Compare, and print one line."""
    parser = argparse.ArgumentParser(description="many requests over HTTP")
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, default="gemma3-270m")
    parser.add_argument("--system", type=int, default=0, help="tokens before all prompts")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    folder = model_folder(chosen.model)
    file, precision = weights(folder, chosen.llama_server)
    requests = drawn(folder, chosen.system)
    with tempfile.TemporaryDirectory() as kept:
        servers = {
            "ours": ours(file, precision, Path(kept)),
            "llama-server": theirs(chosen.llama_server, file, chosen.threads),
        }
        try:
            rounds = {side: [run(server, requests)] for side, server in servers.items()}
            for _ in range(chosen.rounds):
                for side, server in servers.items():
                    rounds[side].append(run(server, requests))
            memory = {side: peak_mb(server.process) for side, server in servers.items()}
        finally:
            for server in servers.values():
                server.stop()
    print(json.dumps(result(rounds, requests, memory, chosen, file.name)), flush=True)


def weights(folder: Path, llama_server: Path) -> tuple[Path, str]:
    """The GGUF file of both, and our precision for it."""
    if (folder / "published.gguf").exists():
        return folder / "published.gguf", "int4"
    file = folder / "q8_0.gguf"
    if not file.exists():
        tool = llama_server.with_name("llama-quantize")
        subprocess.run([tool, folder / "f32.gguf", file, "Q8_0"], check=True, capture_output=True)
    return file, "int4"


def drawn(folder: Path, system: int) -> list[Asked]:
    """Requests of log-normal lengths; the same for the same model."""
    rng = stream(0, "requests")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [tokenizer.encode(text).ids for text in reviews("imdb")[: 12 * REQUESTS]]
    texts = [ids for ids in texts if len(ids) > LONGEST]
    before = [id_ for ids in texts[REQUESTS:] for id_ in ids][:system]
    found = []
    for place in range(REQUESTS):
        read, written = (
            int(np.clip(rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD), 8, LONGEST))
            for mean in (PROMPT, ANSWER)
        )
        found.append(Asked([*before, *texts[place][:read]], written))
    return found


class Server:
    """A server's process, its port, and what its answers need to be as long as asked."""

    def __init__(self, command: Sequence[str | Path], port: int, more: dict[str, Any]) -> None:
        env = {**os.environ, "PYTHONPATH": f"{HERE / 'src'}{os.pathsep}{HERE}"}
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=env)
        self.port, self.more = port, more
        until = time.monotonic() + START_SECONDS
        while not self.well():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise LmwrightError(f"{command[0]} does not answer", "a server that starts")
            time.sleep(0.2)

    def well(self) -> bool:
        """Whether the server is ready."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def ask(self, asked: Asked) -> Heard:
        """Send a request and read its answer as it comes."""
        body = {
            "prompt": asked.prompt,
            "max_tokens": asked.tokens,
            "temperature": 0,
            "stream": True,
            **self.more,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        began = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise LmwrightError(f"{response.status}: {response.read()[:300]!r}", "an answer")
        first, text = 0.0, ""
        for line in response:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - began
                text += "".join(c.get("text", "") for c in json.loads(line[6:])["choices"])
        return Heard(first, time.perf_counter() - began, text)

    def stop(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)


def ours(file: Path, precision: str, kept: Path) -> Server:
    """``lmwright serve``, with a place for each client."""
    recipe = kept / "serve.yaml"
    recipe.write_text(f"serve: {{queue_requests: {4 * CLIENTS}}}\n", encoding="utf-8")
    port = free_port()
    words = ["serve", str(file), "--port", str(port), "--recipe", str(recipe)]
    command = [sys.executable, "-m", "lmwright.cli.main", *words, "--precision", precision]
    ends = ends_of(file)
    return Server(command, port, {"logit_bias": {str(each): -100 for each in ends}})


def ends_of(file: Path) -> Sequence[int]:
    """The ids with which the model may end an answer."""
    from lmwright.models.loading import load_text_model

    return load_text_model(str(file), lambda line: None).stop_ids


def theirs(program: Path, file: Path, threads: int) -> Server:
    """llama.cpp's server: continuous batching, a slot for each client."""
    port = free_port()
    options = ["-m", file, "--port", str(port), "-np", str(CLIENTS), "-c", str(CLIENTS * 2048)]
    options += ["-t", str(threads), "-tb", str(threads)]
    return Server([program, *options], port, {"ignore_eos": True, "cache_prompt": True})


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(server: Server, requests: Sequence[Asked]) -> tuple[float, list[Heard]]:
    """All requests by so many clients: the seconds, and the answers in order."""
    left, heard, lock = list(range(len(requests))), dict[int, Heard](), threading.Lock()
    faults: list[BaseException] = []

    def client() -> None:
        while True:
            with lock:
                if not left or faults:
                    return
                place = left.pop(0)
            try:
                heard[place] = server.ask(requests[place])
            except BaseException as error:
                faults.append(error)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if faults:
        raise faults[0]
    return time.perf_counter() - began, [heard[place] for place in range(len(requests))]


def peak_mb(process: subprocess.Popen[bytes]) -> int:
    """The most memory that a process has had."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


def result(
    rounds: dict[str, list[tuple[float, list[Heard]]]],
    requests: Sequence[Asked],
    memory: dict[str, int],
    chosen: argparse.Namespace,
    file: str,
) -> dict[str, Any]:
    """The line, over all rounds but the first."""
    written = sum(each.tokens for each in requests)
    measured = {side: those[1:] for side, those in rounds.items()}
    speeds = {side: [written / took for took, _ in those] for side, those in measured.items()}
    ratios = [one / other for one, other in zip(*speeds.values(), strict=True)]
    firsts = {
        side: [each.first for _, answers in those for each in answers]
        for side, those in measured.items()
    }
    last = [those[-1][1] for those in measured.values()]
    same = [
        one.text[: 2 * SAME] == other.text[: 2 * SAME] for one, other in zip(*last, strict=True)
    ]
    return {
        "name": f"serve {chosen.model}",
        "ratio": round(statistics.median(ratios), 2),
        "spread": [round(each, 2) for each in sorted(ratios)],
        **dict(
            zip(
                ("ours", "peer"),
                (round(statistics.median(each), 1) for each in speeds.values()),
                strict=True,
            )
        ),
        "unit": "output tokens/s",
        "first_token_s": {
            side: [round(float(np.quantile(each, share)), 2) for share in (0.5, 0.95)]
            for side, each in firsts.items()
        },
        "memory_mb": memory,
        "same_beginnings": round(sum(same) / len(same), 2),
        "conditions": {
            "peer": "llama-server",
            "file": file,
            "clients": CLIENTS,
            "requests": len(requests),
            "prompt_tokens": sum(len(each.prompt) for each in requests),
            "output_tokens": written,
            "system": chosen.system,
            "threads": chosen.threads,
            "class": cpu_class(),
            "load": round(os.getloadavg()[0], 1),
        },
    }


if __name__ == "__main__":
    main()
