"""A server of the S3 protocol on loopback, where one is installed (moto) with its driver (s3fs)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest


@contextmanager
def s3_server() -> Iterator[str]:
    """Start moto's server; LMWRIGHT_TEST_S3 may name its program. Skips where it is absent."""
    beside = Path(sys.executable).parent / "moto_server"
    program = os.environ.get("LMWRIGHT_TEST_S3") or shutil.which(beside) or ""
    if not program or find_spec("s3fs") is None:
        pytest.skip("this machine lacks an S3 server and driver (make env-long)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with suppress(OSError), urllib.request.urlopen(f"{address}/moto-api/", timeout=5):
                break
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)
