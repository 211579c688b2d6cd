"""What every test has: one thread a process, no network but loopback, no store of the user's."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

# Plain asserts outside the tests' own modules show their values too.
pytest.register_assert_rewrite("tests.parity.every", "tests.parity.harness")

MAILS = pytest.mark.skipif(
    shutil.which("npm") is None, reason="this machine lacks npm, through which the mails come"
)

WHOLE = Path(__file__).parent / "whole"

LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0", ""}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the longest tests first, so that no process has one left alone at the end."""
    items.sort(key=lambda item: WHOLE not in item.path.parents)


@pytest.fixture(autouse=True)
def stay_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No connection leaves this machine, and no test meets the user's own store."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0] if isinstance(address, tuple) else ""
            assert host in LOCAL, f"a test wants to reach {host}"
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setenv("LMWRIGHT_STORE", str(tmp_path / "lmwright-store"))
    monkeypatch.delenv("LMWRIGHT_DATABASE", raising=False)
