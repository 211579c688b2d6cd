"""Freed blocks are reused: the same request comes back at the same place, without new pages."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from lmwright.models.memory import keep_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own setting")
def test_a_freed_block_is_not_faulted_in_again():
    assert keep_freed_memory()
    torch.ones(2_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2_000_000)
    # Twenty fresh mappings of 8 MB would fault in 40,000 pages of 4 KB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 4000
