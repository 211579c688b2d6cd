"""A child that does its steps, and ends itself as the names of steps say. Never ours to import.

``python dying.py FOLDER [THREADS] STEP…``; each process leaves a line in FOLDER/log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

folder, *steps = sys.argv[1:]
deaths = json.loads((Path(folder) / "deaths.json").read_text())
results = json.loads((Path(folder) / "results.json").read_text())
steps = [step for step in steps if not step.isdecimal()]
with (Path(folder) / "log").open("a") as log:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    log.write(" ".join([*steps, limit]).strip() + "\n")
for step in steps:
    print(json.dumps({"step": step}), flush=True)
    how = deaths.get(step)
    if how == "hang":
        time.sleep(60)
    elif how == "code":
        raise SystemExit("no such product")
    elif how == "silent":
        raise SystemExit(0)
    elif how == "wrong":
        print(json.dumps({"step": step, "fault": "a product is wrong"}), flush=True)
        continue
    elif how and not (limit and how == "SIGILL unless limited"):
        print('{"step": "cut o', end="", flush=True)
        os.kill(os.getpid(), getattr(signal, how.split()[0]))
    print(json.dumps({"step": step, "result": results.get(step, 1.0)}), flush=True)
