"""What the benchmarks of answers share: sides checked, prepared, run in turns; results as lines.

Peers need their packages in an interpreter of their own or of ours:

    python -m venv peers
    peers/bin/pip install torch==2.13.0 transformers sentence-transformers ctranslate2 \\
        optimum-intel optimum-onnx openvino openvino-genai openvino-tokenizers nncf onnxruntime
    CMAKE_ARGS=-DGGML_NATIVE=ON peers/bin/pip install --no-binary llama-cpp-python llama-cpp-python
    python -m venv onnx        # its builder wants a transformers that optimum-intel refuses
    onnx/bin/pip install torch==2.13.0 transformers==5.23.0 onnxruntime-genai onnxruntime onnx-ir
    python -m benchmarks.decode --peer-python peers/bin/python \\
        --peer-python onnxruntime-genai=onnx/bin/python

llama.cpp built by gcc 12 ends with SIGSEGV in its first product with AMX: that compiler's
``_tile_loadconfig`` names eight bytes of the configuration as read, and drops the others' stores.
Build it with another compiler, or with ``__asm__ volatile("" : : "r"(&tc) : "memory");`` before the
call in ``ggml-cpu/amx/mmq.cpp``.

A peer's own format of a model is made once, beside the model's folder in the user's cache. Text of
quantised models differs from that of fp32 after a few tokens without being wrong, so sides are
judged by their regret: the fp32 model reads what a side wrote, and at each new token the best logit
less that of the side's token, over the standard deviation of the logits there, is what greedy
choice lost. It is 0 for the fp32 model itself and about 4 for tokens at random; the mean over all
new tokens must keep to the bound of the side's precision, else there is no result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.side import LEAVES
from benchmarks.turns import in_turns, ratios, speed
from lmwright.machine.probe import cpu_class

OURS = "ours"
BANDWIDTH = 30e9
"""Bytes a second that two cores of the machines we met stream from memory: the bound of a step."""
REGRETS = {"fp32": 1e-3, "bf16": 0.05, "int8": 0.1, "int4": 0.6, "q4_k_m": 0.6}
"""The largest mean regret of a side in that precision, in standard deviations of the logits."""

Turns = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Side:
    """A side of a comparison: its name, its precision, and the interpreter that runs it."""

    name: str
    precision: str
    python: str = sys.executable

    @property
    def label(self) -> str:
        """Name and precision, as they stand in a result."""
        return f"{self.name} {self.precision}"


def options(
    claim: str, peers: Sequence[str], rounds: int, precisions: str = ""
) -> argparse.ArgumentParser:
    """The options that all these benchmarks have; ``precisions`` are the peers' by default."""
    parser = argparse.ArgumentParser(description=f"{claim} against peers")
    leaf = import_module(f"benchmarks.sides.{LEAVES[OURS]}")
    parser.add_argument("--precision", choices=leaf.PRECISIONS, default="fp32", help="ours")
    parser.add_argument("--peers", default=",".join(peers), help="names, by commas")
    told = f"names, by commas ({precisions or 'that of ours'} if left out)"
    parser.add_argument("--peer-precision", default=precisions, help=told)
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="[PEER=]PYTHON",
        help="the interpreter that has all peers, or one of them",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=rounds)
    return parser


def chosen_sides(chosen: argparse.Namespace) -> list[Side]:
    """Ours and the peers in the precisions asked for, as far as they have them.

    SystemExit for a name that no side has, a precision that no chosen peer has, and for packages
    that an interpreter lacks, by their names.
    """
    pythons = interpreters(chosen.peer_python)
    precisions = (chosen.peer_precision or chosen.precision).split(",")
    found = [Side(OURS, chosen.precision)]
    for name in chosen.peers.split(","):
        if name not in LEAVES or name == OURS:
            raise SystemExit(f"no peer is called {name!r}; there are {', '.join(LEAVES)}")
        leaf = import_module(f"benchmarks.sides.{LEAVES[name]}")
        python = pythons.get(name, pythons[""])
        there = [Side(name, each, python) for each in precisions if each in leaf.PRECISIONS]
        if there:
            check(there[0])
        found += there
    if len(found) == 1:
        raise SystemExit(f"none of {chosen.peers} has a precision of {', '.join(precisions)}")
    return found


def interpreters(said: Sequence[str]) -> dict[str, str]:
    """Peer -> its interpreter, "" for all others, of what ``--peer-python`` says."""
    found = {"": sys.executable}
    for each in said:
        peer, equals, python = each.rpartition("=")
        if equals and peer not in LEAVES:
            raise SystemExit(f"--peer-python {each}: no peer is called {peer!r}")
        found[peer] = python
    return found


def check(side: Side) -> None:
    """SystemExit, naming what is missing, unless a side's interpreter has its packages."""
    command = [side.python, "-m", "benchmarks.side", side.name, "--check"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{side.python} does not run: {error}") from None
    if missing := json.loads(told)["missing"]:
        raise SystemExit(
            f"{side.name} needs {', '.join(missing)}, which {side.python} lacks: install them "
            "there (how: the docstring of benchmarks/answers.py), name an interpreter that has "
            f"them by --peer-python {side.name}=PYTHON, or leave it out by --peers"
        )


def run(
    sides: Sequence[Side], asked: Mapping[str, Any], folder: Path, threads: int, rounds: int
) -> dict[Side, list[dict[str, Any]]]:
    """The turns of each side at what is asked, a warm-up before them left out."""
    shared = [f"--folder={folder}", f"--threads={threads}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    words = {
        side.label: ["benchmarks.side", side.name, *shared, f"--precision={side.precision}"]
        for side in sides
    }
    for side in sides:
        command = [side.python, "-m", *words[side.label], "--prepare"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    with tempfile.TemporaryDirectory() as place:
        requests = Path(place) / "requests.json"
        requests.write_text(json.dumps(asked), encoding="utf-8")
        turns = in_turns(
            {label: [*each, f"--requests={requests}"] for label, each in words.items()},
            rounds,
            {side.label: side.python for side in sides},
            environment,
        )
    return {side: turns[side.label][1:] for side in sides}


Judged = Callable[[Side, list[dict[str, Any]]], tuple[dict[str, Any], bool]]
"""What is found of a side's answers, and whether they keep to its bound."""


def results(
    name: str,
    unit: str,
    turns: Mapping[Side, list[dict[str, Any]]],
    more: Mapping[Side, Mapping[str, Any]],
    conditions: Mapping[str, Any],
    judged: Judged,
) -> list[dict[str, Any]]:
    """One line a peer; ``more`` are facts of each side beside its speed."""
    sides = list(turns)
    verdicts = {side: judged(side, turns[side]) for side in sides}
    ours, found = sides[0], []
    for peer in sides[1:]:
        ratio, spread = ratios(turns[ours], turns[peer])
        both = {"ours": ours, "peer": peer}
        found.append(
            {
                "name": f"{name} {ours.precision}, {peer.label}",
                "ratio": ratio,
                "ours": rounded(speed(turns[ours])),
                "peer": rounded(speed(turns[peer])),
                "unit": unit,
                "spread": spread,
                "best_round": {each: best(turns[side]) for each, side in both.items()},
                "conditions": {
                    "class": cpu_class(),
                    **conditions,
                    "rounds": len(turns[ours]),
                    "load": round(os.getloadavg()[0], 1),
                },
                "memory_mb": {each: turns[side][-1]["peak_mb"] for each, side in both.items()},
                **{
                    key: {each: more[side][key] for each, side in both.items()}
                    for key in more[ours]
                },
                "apart": {each: verdicts[side][0] for each, side in both.items()},
                "equal": all(verdicts[side][1] for side in both.values()),
                "settings": {each: turns[side][-1]["settings"] for each, side in both.items()},
            }
        )
    return found


def show(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print all lines; SystemExit if the sides of one differ by more than the bound."""
    for line in lines:
        print(json.dumps(line), flush=True)
    if differing := [line["name"] for line in lines if not line["equal"]]:
        raise SystemExit(f"beyond the bound, so no result: {'; '.join(differing)}")


def best(turns: Sequence[Mapping[str, Any]]) -> float:
    """The speed of a side's fastest round: what neighbours on the machine disturbed least."""
    return rounded(max(speed([dict(turn)]) for turn in turns))


def rounded(number: float) -> float:
    """A number to three digits, or to its unit where it has more."""
    return round(number, 1) if number < 1000 else round(number)


def of_bandwidth(side: Sequence[Mapping[str, Any]], weights: int, steps: int) -> dict[str, Any]:
    """Bits a weight of what a step reads, its time, and the bound that the memory sets.

    ``steps`` are those of one turn. ``quick_step_ms`` is the first decile of the times of single
    steps in the best turn: on a busy machine that says more than the mean.
    """
    read = side[-1]["weight_bytes"]
    step = 1000 * sum(turn["seconds"] for turn in side) / (len(side) * steps)
    bound = 1000 * read / BANDWIDTH
    quick = [turn["quick_step_ms"] for turn in side if turn["quick_step_ms"] is not None]
    return {
        "bits_a_weight": round(8 * read / weights, 2),
        "step_ms": round(step, 2),
        "quick_step_ms": min((round(each, 2) for each in quick), default=None),
        "bandwidth_bound_ms": round(bound, 2),
        "share_of_bandwidth": round(bound / step, 2),
    }


Logits = Callable[[np.ndarray], torch.Tensor]
"""Ids (n,) of a document -> the fp32 model's logits (n, vocabulary)."""


def regrets(
    logits_of: Logits, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]
) -> np.ndarray:
    """What each new token of each text lost against the fp32 model's choice: (texts, new)."""
    found = []
    for prompt, new in zip(prompts, written, strict=True):
        ids = np.array([*prompt, *new], dtype=np.int64)
        logits_nv = logits_of(ids)[len(prompt) - 1 : -1]
        chosen_n = logits_nv.gather(1, torch.from_numpy(ids[len(prompt) :, None]))[:, 0]
        lost_n = (logits_nv.amax(dim=1) - chosen_n) / logits_nv.std(dim=1)
        found.append(lost_n.numpy())
    return np.stack(found)


def judge(
    logits_of: Logits, prompts: Sequence[Sequence[int]], side: Side, turns: list[dict[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """The regret of what a side wrote in its last turn, and whether its mean keeps to the bound."""
    lost = regrets(logits_of, prompts, turns[-1]["written"])
    facts = {"mean_regret": float(f"{lost.mean():.2g}"), "largest": float(f"{lost.max():.2g}")}
    return facts, bool(lost.mean() <= REGRETS[side.precision])


def fp32_logits(folder: Path) -> Logits:
    """The logits of our own network in fp32, of which parity tests show that it is the model."""
    from lmwright.models.core.ragged import pack
    from lmwright.models.files.folder import read_folder
    from lmwright.models.text_model import language_model

    network = language_model(read_folder(folder)).network

    def logits(ids: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = network(pack([ids]))
            return found

    return logits
