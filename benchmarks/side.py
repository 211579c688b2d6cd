"""One side of a benchmark of answers, in a process and an environment of its own.

    python -m benchmarks.side openvino --check
    python -m benchmarks.side openvino --prepare --folder FOLDER --precision int8 --threads 2
    python -m benchmarks.side openvino --requests FILE --folder FOLDER --precision int8 --threads 2

Each side is a leaf of ``benchmarks/sides`` with ``PACKAGES`` (what it imports: module -> its name
for pip), ``PRECISIONS``, and a ``Writer`` or an ``Embedder``. Nothing here imports lmwright, so
that a peer's interpreter needs that peer alone. ``--check`` prints versions, or what is missing;
``--prepare`` makes the side's own format of the model, once; else the process works in turns.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import resource
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from benchmarks.turns import report, wait

LEAVES = {
    "ours": "ours",
    "openvino": "openvino",
    "llama.cpp": "llama_cpp",
    "onnxruntime-genai": "onnx_genai",
    "ctranslate2": "ctranslate2",
    "transformers": "transformers",
    "transformers-compiled": "transformers_compiled",
    "sentence-transformers": "sentence_transformers",
}
"""Side -> its module in ``benchmarks.sides``."""


Tick = Callable[[], None]
"""What a writer calls after each step of decoding, where its interface shows steps."""


class Writer(Protocol):
    """A model that continues token ids greedily.

    ``settings`` are printed with the result. ``weight_bytes`` are those of the weights that one
    step of decoding reads: all matrices, a table that is also the head among them, and no table
    of which a step reads a row.
    """

    settings: dict[str, Any]
    weight_bytes: int

    def write(self, prompts: list[list[int]], new: int, tick: Tick) -> list[list[int]]:
        """Exactly ``new`` greedy tokens after each prompt; prompts are of one length."""


class Embedder(Protocol):
    """A model that embeds texts as vectors of length 1."""

    settings: dict[str, Any]

    def embed(self, texts: list[str]) -> Any:
        """A float32 array (texts, width)."""


def main() -> None:
    """Check, prepare, or work in turns."""
    parser = argparse.ArgumentParser(description="one side of a benchmark of answers")
    parser.add_argument("side", choices=LEAVES)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--requests", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--precision")
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    leaf = import_module(f"benchmarks.sides.{LEAVES[chosen.side]}")
    if chosen.check:
        print(json.dumps(checked(leaf.PACKAGES)), flush=True)
        return
    made = chosen.folder / f"{chosen.side}-{chosen.precision}"
    if chosen.prepare:
        if hasattr(leaf, "prepare") and not (made / "ready").exists():
            made.mkdir(exist_ok=True)
            leaf.prepare(chosen.folder, made, chosen.precision, chosen.threads)
            (made / "ready").touch()
        return
    asked = json.loads(chosen.requests.read_text(encoding="utf-8"))
    kind = leaf.Embedder if asked["claim"] == "embed" else leaf.Writer
    side = kind(chosen.folder, made, chosen.precision, chosen.threads, asked)
    turn: Callable[..., dict[str, Any]] = {"decode": decode, "prefill": prefill, "embed": embed}[
        asked["claim"]
    ]
    number = 0
    while True:
        wait()
        facts = turn(side, asked)
        number += 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        versions = checked(leaf.PACKAGES)["versions"]
        report(number, **facts, peak_mb=peak, settings={**side.settings, **versions})


def checked(packages: dict[str, str]) -> dict[str, Any]:
    """The versions of a side's packages in this interpreter, and the pip names of missing ones."""
    missing = [name for module, name in packages.items() if not found(module)]
    there = [name for name in packages.values() if name not in missing]
    return {"missing": missing, "versions": {n: importlib.metadata.version(n) for n in there}}


def found(module: str) -> bool:
    """Whether this interpreter finds a module, without importing it; its package may be missing."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def decode(side: Writer, asked: dict[str, Any]) -> dict[str, Any]:
    """One turn of decoding: the time of all new tokens but the first, which the prompt gives."""
    prompts, new = asked["prompts"], asked["new"]
    ticks: list[float] = []
    whole, written = timed(
        lambda: side.write(prompts, new, lambda: ticks.append(time.perf_counter()))
    )
    first, _ = timed(lambda: side.write(prompts, 1, nothing))
    steps = sorted(after - before for before, after in pairwise(ticks))
    return {
        # What a step takes where no neighbour disturbs it; None where no steps are shown.
        "quick_step_ms": 1000 * steps[len(steps) // 10] if steps else None,
        "seconds": whole - first,
        "tokens": len(prompts) * (new - 1),
        "first_ms": 1000 * first,
        "written": written,
        "weight_bytes": side.weight_bytes,
    }


def prefill(side: Writer, asked: dict[str, Any]) -> dict[str, Any]:
    """One turn of prefill: each prompt alone, to its first new token."""
    prompts = asked["prompts"]
    seconds, written = timed(lambda: [side.write([each], 1, nothing)[0] for each in prompts])
    return {
        "seconds": seconds,
        "tokens": sum(map(len, prompts)),
        "written": written,
        "weight_bytes": side.weight_bytes,
    }


def embed(side: Embedder, asked: dict[str, Any]) -> dict[str, Any]:
    """One turn of embedding; the vectors go into a file of this turn."""
    seconds, vectors = timed(lambda: side.embed(asked["texts"]))
    return {"seconds": seconds, "tokens": len(asked["texts"]), "vectors": vectors.tolist()}


def nothing() -> None:
    """What is called after a step that nobody times."""


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that the work took, and what it gave."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


if __name__ == "__main__":
    main()
