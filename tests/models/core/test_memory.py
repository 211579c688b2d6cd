"""Freed blocks are reused without new pages, and kernels of past shapes do not pile up."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from lmwright.models.core.memory import uncollected

# In a process of its own, whose heap no other test has shaped.
SCRIPT = """
import resource, torch
from lmwright.models.core.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
assert keep_freed_memory()
torch.ones(2_000_000)
print(usual, faults())
"""


# A activation whose kernel oneDNN makes anew for every shape.
SHAPES = """
import ctypes, sys, torch
from lmwright.models.core.memory import keep_few_kernels

class Heap(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

heap = ctypes.CDLL(None).mallinfo2
heap.restype = Heap
if sys.argv[1] == "few":
    keep_few_kernels()
used = []
for rows in range(1, 1001):
    if rows in (100, 1000):
        used.append(heap().uordblks)
    torch.nn.functional.gelu(torch.ones(rows, 7))
print(used[1] - used[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc tells its own heap")
def test_few_kernels_of_past_shapes_are_kept():
    # A training that this process has seen may have set it here too.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ONEDNN")}
    kept = [
        int(subprocess.check_output([sys.executable, "-c", SHAPES, how], timeout=60, env=plain))
        for how in ("few", "usual")
    ]
    assert 10 * kept[0] < kept[1], kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own setting")
def test_a_freed_block_is_not_faulted_in_again():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, timeout=60)
    usual, kept = map(int, done.stdout.split())
    # Twenty fresh mappings of 8 MB are 40,000 pages of 4 KB, or fewer where pages are huge.
    assert 10 * kept < usual


def test_the_collector_rests_and_goes_on_whatever_happens():
    assert gc.isenabled()
    with pytest.raises(ValueError), uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()
