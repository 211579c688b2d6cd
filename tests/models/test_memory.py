"""Freed blocks are reused without new pages, and given back when that is asked for."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from lmwright.models.memory import uncollected

# In a process of its own, whose heap no other test has shaped.
SCRIPT = """
import resource, torch
from lmwright.models.memory import keep_freed_memory

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


# Small blocks that stay lie between large ones that go, so that the heap cannot shrink at its end.
HOLES = """
import torch
from lmwright.models.memory import give_back_freed_memory, keep_freed_memory
from lmwright.store.memory import resident

assert keep_freed_memory()
large, small = [], []
for _ in range(50):
    large.append(torch.ones(1_000_000))
    small.append(torch.ones(1_000))
large.clear()
kept = resident("VmRSS")
assert give_back_freed_memory()
print(kept - resident("VmRSS"))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own setting")
def test_freed_blocks_between_others_are_given_back():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, timeout=60)
    assert int(done.stdout) > 0.9 * 50 * 4_000_000, done.stderr


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
