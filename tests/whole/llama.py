"""llama.cpp, built here from its Python package's source, and asked in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmwright.assets import alone, cache_folder, scratch
from lmwright.core.durable import commit_folder

VERSION = "0.3.36"
PINNED = f"""
llama-cpp-python=={VERSION} \
--hash=sha256:832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
diskcache==5.6.3 \
--hash=sha256:5e31b2d5fbad117cc363ebaf6b689474db18a1f6438bc82358b024abd4c2ca19
"""
OPTIONS = "-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF"
"""Not for this very processor: the cache may go to another machine, and where a virtual one shows
AMX but does not grant it, quantised products end in an illegal instruction."""
SLOWEST_BUILD = 90 * 60
CHILD = Path(__file__).with_name("llama_child.py")


def built() -> Path:
    """The folder with the package, built at the first call by one job of low priority.

    Skips where this machine has no compiler, or no registry that has the source.
    """
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("this machine lacks a C++ compiler, by which llama.cpp is built")
    target = cache_folder() / f"llama-cpp-python-{VERSION}-portable"
    with alone(target.with_name(f".lock-{target.name}")):
        if not target.is_dir():
            with scratch() as beside:
                build(beside)
                commit_folder(beside / "content", target)
    return target


def build(beside: Path) -> None:
    """Build the pinned source into ``beside/content``."""
    (beside / "pinned.txt").write_text(PINNED)
    (beside / "tmp").mkdir()
    command = ["nice", "-n", "15", sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-cache-dir", "--no-binary", "llama-cpp-python", "--require-hashes"]
    command += ["--target", str(beside / "content"), "-r", str(beside / "pinned.txt")]
    settings = {"CMAKE_ARGS": OPTIONS, "CMAKE_BUILD_PARALLEL_LEVEL": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=SLOWEST_BUILD,
        env={**os.environ, **settings, "TMPDIR": str(beside / "tmp")},
    )
    if "No matching distribution" in done.stderr:
        pytest.skip("this machine lacks a registry with the source of llama-cpp-python")
    assert done.returncode == 0, done.stderr[-3000:]


@dataclass(frozen=True)
class Answer:
    """What llama.cpp made of a file: the ids of the ``texts``, and for the prompt the greedy
    ``tokens`` that follow it with the ``logits`` (tokens, vocabulary) from which each was taken;
    which ids end an answer, and the chat template."""

    ids: list[list[int]]
    tokens: list[int]
    logits: np.ndarray
    ends: set[int]
    template: str


def ask(
    package: Path, path: Path, texts: Sequence[str], prompt: Sequence[int] = (), most: int = 0
) -> Answer:
    """Load a file and ask; on one thread, keys and values kept in fp32."""
    out = path.with_suffix(".npy")
    asked: dict[str, Any] = {"model": str(path), "texts": list(texts), "out": str(out)}
    asked |= {"prompt": [int(each) for each in prompt], "most": most}
    done = subprocess.run(
        [sys.executable, str(CHILD)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    return Answer(said["ids"], said["tokens"], np.load(out), set(said["ends"]), said["template"])
