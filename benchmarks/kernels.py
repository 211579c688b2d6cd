"""The kernels against torch's fastest products: the same weights and rows, in turns in one run.

    python -m benchmarks.kernels                        # everything
    python -m benchmarks.kernels --only 640x2048 --threads 1

Ours is the whole map, rows quantised inside: ``int8``, and ``int4`` (own quantisation, a scale and
a minimum a group of 32). The peers: ``int_mm`` (torch's product of int8, with the quantisation of
rows and the scaling of sums in torch: the same work), ``int8pack`` (``_weight_int8pack_mm``, int8
weights and bf16 rows; up to 16 rows, as it is for few), ``bf16`` and ``fp32`` (``F.linear``). In
each round every way has a turn of repeated calls; times are medians over rounds. ``gigabytes`` is
ours in packed 1e9 bytes a second, to be compared with ``bandwidth``, at which torch sums 256 MiB in
the same rounds (small weights stay in caches, so that ours may be above it).

The answers are compared first: int8 must have the reference's bits, int4 must be near to fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.kernels.group import GroupWeight
from lmwright.kernels.int8 import Int8Weight, int8_reference, quantise_rows
from lmwright.kernels.library import library
from lmwright.machine.probe import cpu_class
from lmwright.machine.quota import granted_threads

SHAPES = {"640x2048": (640, 2048), "1536x8960": (1536, 8960), "262144x640": (262144, 640)}
ROWS = (1, 4, 16, 64, 512)
FEW_ROWS = 16
TURN_SECONDS = 0.02
BANDWIDTH_BYTES = 256 << 20


def main() -> None:
    """Compare all shapes, or the named one, and print a line for each peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SHAPES, default=None)
    parser.add_argument("--threads", type=int, default=granted_threads())
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in [given.only] if given.only else SHAPES:
        compare(name, given.threads, given.rounds)


def compare(name: str, threads: int, rounds: int) -> None:
    """One shape at all numbers of rows."""
    out, inputs = SHAPES[name]
    noise = torch.Generator().manual_seed(0)
    weight = torch.randn(out, inputs, generator=noise) / inputs**0.5
    int8, int4 = Int8Weight.pack(weight), GroupWeight.pack(weight)
    quants, scales, short = int8.quants(), int8.scales(), weight.to(torch.bfloat16)
    short_scales = scales.to(torch.bfloat16)
    much = torch.ones(BANDWIDTH_BYTES // 8, dtype=torch.int64)

    def int_mm(x: Tensor) -> Tensor:
        rows, row_scales = quantise_rows(x)
        return torch._int_mm(rows, quants.t()) * row_scales[:, None] * scales

    for count in ROWS:
        x = torch.randn(count, inputs, generator=noise)
        x_short = x.to(torch.bfloat16)
        check(int8, int4, quants, scales, weight, x)
        # The arguments are bound now: the ways are called within this turn of the loop.
        ways: dict[str, Callable[[], object]] = {
            "int8": lambda x=x: int8.linear(x),
            "int4": lambda x=x: int4.linear(x),
            "int_mm": lambda x=x: int_mm(x),
            "bf16": lambda x=x_short: F.linear(x, short),
            "fp32": lambda x=x: F.linear(x, weight),
            "bandwidth": lambda: much.sum(),
        }
        if count <= FEW_ROWS:
            ways["int8pack"] = lambda x=x_short: torch._weight_int8pack_mm(x, quants, short_scales)
        seconds = in_rounds(ways, rounds)
        bandwidth = BANDWIDTH_BYTES / statistics.median(seconds["bandwidth"]) / 1e9
        work = 2e-9 * count * out * inputs
        for ours, packed in (("int8", int8.packed), ("int4", int4.packed)):
            mine = statistics.median(seconds[ours])
            gigabytes = len(packed) / mine / 1e9
            for peer in ("int_mm", "int8pack", "bf16", "fp32"):
                if peer not in seconds:
                    continue
                ratios = [a / b for a, b in zip(seconds[peer], seconds[ours], strict=True)]
                found = {
                    "name": f"{ours} {name}, {count} rows, against {peer}",
                    "ratio": round(statistics.median(seconds[peer]) / mine, 2),
                    "ours": round(work / mine, 1),
                    "peer": round(work / statistics.median(seconds[peer]), 1),
                    "unit": "1e9 operations/s",
                    "conditions": {
                        "spread": [round(each, 2) for each in (min(ratios), max(ratios))],
                        "gigabytes": round(gigabytes, 1),
                        "bandwidth": round(bandwidth, 1),
                        "share": round(gigabytes / bandwidth, 2),
                        "threads": threads,
                        "rounds": rounds,
                        "class": cpu_class(),
                        "variant": library().lmw_variant().decode(),
                        "torch": torch.__version__,
                        "load": round(os.getloadavg()[0], 1),
                    },
                }
                print(json.dumps(found), flush=True)


def check(
    int8: Int8Weight, int4: GroupWeight, quants: Tensor, scales: Tensor, weight: Tensor, x: Tensor
) -> None:
    """Stop where an answer is wrong: of at most 16 rows, for the reference is slow."""
    x = x[:16]
    exact = F.linear(x, weight)
    if not torch.equal(int8.linear(x), int8_reference(x, quants, scales)):
        raise SystemExit("int8 does not have the bits of the reference")
    for name, found, most in (("int8", int8.linear(x), 0.02), ("int4", int4.linear(x), 0.15)):
        error = float((found - exact).norm() / exact.norm())
        if error > most:
            raise SystemExit(f"{name} is {error:.3f} away from fp32")


def in_rounds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of a call, by way and round; each way has a turn in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    calls = {name: max(1, int(TURN_SECONDS / timed(way, 1))) for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way, calls[name]))
    return seconds


def timed(way: Callable[[], object], calls: int) -> float:
    """Seconds of one of ``calls`` calls, after one that warms up."""
    way()
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    main()
