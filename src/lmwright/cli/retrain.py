"""A retraining's own process: it runs a recipe, and ends when the server that began it has ended.

python -m lmwright.cli.retrain SERVER RECIPE STORE, where SERVER is the server's process number.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from lmwright.cli.main import main
from lmwright.core.errors import LmwrightError


def start_training(recipe: Path, store: Path) -> subprocess.Popen[bytes]:
    """Run a recipe in a process of its own, a little less urgent than the server.

    In a session of its own too: a Ctrl-C is meant for the server, which stops it when it ends.
    """
    words = ["lmwright.cli.retrain", str(os.getpid()), str(recipe), str(store)]
    with recipe.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        psutil.Process(process.pid).nice(5)
    except psutil.Error as error:
        raise LmwrightError(f"the training process ended at once: {error}") from error
    return process


def end_with(server: int) -> None:
    """Stop this process as a person would once the server, killed perhaps, is not its parent."""
    while os.getppid() == server:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    server, recipe, store = sys.argv[1:]
    threading.Thread(target=end_with, args=(int(server),), daemon=True).start()
    sys.exit(main(["run", recipe, "--store", store]))
