"""Clients of other frameworks on our server: what of each works.

    clients/bin/pip install langchain-openai llama-index-llms-openai-like
    python -m benchmarks.clients --client-python clients/bin/python

LangChain's ``ChatOpenAI`` and ``OpenAI``, and LlamaIndex's ``OpenAILike``, in an interpreter of
their own (they want another major version of the official client than our tests), ask ``lmwright
serve`` of Qwen2.5-Coder-1.5B-Instruct in int4: plain, streamed, tools, structured output,
log-probabilities. Prints a line of JSON a client, and ends with 1 where something does not work.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.chat import QWEN
from benchmarks.lm_eval import served
from lmwright.core.errors import LmwrightError

HERE = Path(__file__).parents[1]
CLIENTS = ("langchain", "llama_index")


def main() -> None:
    """Have each client ask."""
    parser = argparse.ArgumentParser(description="clients of other frameworks on our server")
    parser.add_argument("--client-python", default=sys.executable)
    parser.add_argument("--model", default=QWEN)
    parser.add_argument("--precision", default="int4")
    chosen = parser.parse_args()
    server, port, name = served(chosen.model, chosen.precision)
    try:
        lines = [asked(chosen.client_python, each, port, name) for each in CLIENTS]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    for line in lines:
        conditions = {"model": name, "precision": chosen.precision}
        print(json.dumps({**line, "conditions": conditions}), flush=True)
    sys.exit(any(line["fails"] for line in lines))


def asked(python: str, client: str, port: int, name: str) -> dict[str, object]:
    """The line of one client."""
    words = [f"http://127.0.0.1:{port}/v1", name]
    done = subprocess.run(
        [python, "-m", f"benchmarks.callers.{client}", *words],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": "", "LANGCHAIN_TRACING_V2": "false"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LmwrightError(f"{client} ended: {done.stderr[-1500:]}", "a client that asks")
    line: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return line


if __name__ == "__main__":
    main()
