"""The training's process: out of reach of the server's signals, and never without its server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

SERVER = """
import sys, time
from pathlib import Path
from lmwright.cli import retrain

retrain.sys.executable = sys.argv[1]
print(retrain.start_training(Path(sys.argv[2]), Path(sys.argv[3])).pid, flush=True)
time.sleep(300)
"""
PYTHON = """#!/bin/sh
# Stands for the interpreter: the training's process without the command line's imports.
exec {python} -c "
import sys, types, time
line = types.ModuleType('lmwright.cli.main')
line.main = lambda words: print(*words, flush=True) or time.sleep(300)
sys.modules['lmwright.cli.main'] = line
import runpy
sys.argv = ['training', *sys.argv[3:]]
runpy.run_module('lmwright.cli.retrain', run_name='__main__')
" "$@"
"""


def test_a_training_has_a_session_of_its_own_and_ends_even_with_a_killed_server(
    tmp_path: Path,
) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    recipe = tmp_path / "recipe.yaml"
    words = [sys.executable, "-c", SERVER, str(python), str(recipe), str(tmp_path)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert server.stdout is not None
    training = psutil.Process(int(server.stdout.readline()))
    try:
        log = recipe.with_suffix(".log")
        until(lambda: log.read_text() == f"run {recipe} --store {tmp_path}\n")
        assert os.getsid(training.pid) == training.pid != os.getpgid(server.pid)
        server.kill()
        until(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE)
    finally:
        server.kill()
        server.stdout.close()
        server.wait(30)


def until(holds) -> None:
    """Wait for something that another process does."""
    limit = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.1)
