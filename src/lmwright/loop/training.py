"""A retraining's own process: it runs a recipe, and ends when the server that began it has ended.

python -m lmwright.loop.training SERVER RECIPE STORE, where SERVER is the server's process number.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from importlib import import_module


def end_with(server: int) -> None:
    """Stop this process as a person would once the server, killed perhaps, is not its parent."""
    while os.getppid() == server:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    server, recipe, store = sys.argv[1:]
    threading.Thread(target=end_with, args=(int(server),), daemon=True).start()
    command_line = import_module("lmwright.cli.main")  # by name: it stands above the loop
    sys.exit(command_line.main(["run", recipe, "--store", store]))
