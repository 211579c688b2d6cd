"""Products of torch in a process of their own: checked, and timed by rows.

Run as a program by :mod:`lmwright.machine.probe`: ``child.py THREADS STEP…``. Each step prints a
line of JSON when it begins and one with its result or its fault, so that whoever reads them knows
which step ended the process. It imports nothing of ours, so that it runs wherever it lies.

Products are timed on one thread: a rate of a core says what the core has, while several threads
wait for each other as soon as anything else runs. Bandwidth is timed on one and on all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = (1, 4, 16, 512)
"""Rows of the products that are timed: decoding alone and in batches, prefill and training."""
SIZE = 1024
"""Inputs and outputs of each product."""
SECONDS = 0.12
"""Time for one product at one number of rows, the first call left out."""
READ_BYTES = 256 * 2**20
"""Bytes that are read to measure bandwidth: more than most caches hold."""
CLOSE = 0.02
"""Largest error of a bf16 product, relative to the largest entry of the exact one."""


class Wrong(Exception):
    """A product that is not what it should be."""


def fp32(rows: int) -> Callable[[], Tensor]:
    """A product in fp32 of (rows, SIZE) and (SIZE, SIZE), by torch's default library."""
    return partial(F.linear, torch.randn(rows, SIZE), torch.randn(SIZE, SIZE))


def onednn(rows: int) -> Callable[[], Tensor]:
    """The same product in fp32 by oneDNN."""
    x_ni, weight_oi = torch.randn(rows, SIZE), torch.randn(SIZE, SIZE)
    return partial(torch.ops.mkldnn._linear_pointwise, x_ni, weight_oi, None, "none", [], "")


def bf16(rows: int) -> Callable[[], Tensor]:
    """A product in bf16, compared with the same numbers in fp32."""
    x_ni, weight_oi = torch.randn(rows, SIZE).bfloat16(), torch.randn(SIZE, SIZE).bfloat16()
    product = partial(F.linear, x_ni, weight_oi)
    right = x_ni.double() @ weight_oi.double().t()
    if (product().double() - right).abs().max() > CLOSE * right.abs().max():
        raise Wrong(f"a product in bf16, rows {rows}, is wrong")
    return product


def int8(rows: int, largest: int = 127) -> Callable[[], Tensor]:
    """A product of int8 with sums in int32, compared with the exact one.

    ``largest`` is the largest magnitude of an operand: without VNNI, pairs of products are summed
    in 16 bits and saturate, unless one operand has seven bits.
    """
    x_ni = torch.randint(-largest, largest + 1, (rows, SIZE), dtype=torch.int8)
    weight_io = torch.randint(-largest, largest + 1, (SIZE, SIZE), dtype=torch.int8).t()
    product = partial(torch._int_mm, x_ni, weight_io)
    # Sums are below 2^53, so that doubles hold them exactly.
    if not torch.equal(product().double(), x_ni.double() @ weight_io.double()):
        raise Wrong(f"a product of int8 up to {largest}, rows {rows}, is wrong")
    return product


PRODUCTS: dict[str, Callable[[int], Callable[[], Tensor]]] = {
    "fp32": fp32,
    "onednn": onednn,
    "bf16": bf16,
    "int8": int8,
    "int8_7bit": partial(int8, largest=63),
}


def rates(product: Callable[[int], Callable[[], Tensor]]) -> dict[str, float]:
    """Rows -> 1e9 operations a second of the fastest call, as neighbours only ever slow one.

    A multiplication and an addition are two operations.
    """
    return {
        str(rows): round(2e-9 * rows * SIZE * SIZE / fastest(product(rows)), 2) for rows in ROWS
    }


def fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest call within SECONDS, and at least one after the first."""
    work()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while True:
        began = time.perf_counter()
        work()
        ended = time.perf_counter()
        best = min(best, ended - began)
        if ended >= until:
            return best


def bandwidth(threads: int) -> dict[str, float]:
    """Threads (one, and all) -> bytes that a sum over more than the caches reads, 1e9 a second."""
    numbers, found = torch.ones(READ_BYTES // 4), {}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        found[str(count)] = round(1e-9 * READ_BYTES / fastest(numbers.sum), 2)
    torch.set_num_threads(1)
    return found


def main(arguments: Sequence[str]) -> int:
    """Do the steps in order; each fault that is no signal is told, and the next step done."""
    threads = int(arguments[0])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for step in arguments[1:]:
        print(json.dumps({"step": step}), flush=True)
        try:
            found = bandwidth(threads) if step == "bandwidth" else rates(PRODUCTS[step])
        # An operator that this build of torch lacks is a missing attribute or no kernel for it.
        except (Wrong, RuntimeError, AttributeError) as error:
            words = str(error).partition("\n")[0][:200]
            print(json.dumps({"step": step, "fault": words}), flush=True)
        else:
            print(json.dumps({"step": step, "result": found}), flush=True)
    return 0


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main(sys.argv[1:]))
