"""A recipe at smoke size through its whole line, by the commands that a person types."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from lmwright.core.yaml12 import parse_yaml
from lmwright.loop.controller import ENDS
from lmwright.store.run import REFUSED


def fewer(recipe: Path, rows: int) -> str:
    """The sources of a recipe, each limited to ``rows``."""
    sources = parse_yaml(recipe.read_text("utf-8"), "recipe")["stages"]["data"]["sources"]
    return json.dumps([{**source, "limit": rows} for source in sources])


def lmwright(*words: str, seconds: float = 280) -> subprocess.CompletedProcess[str]:
    """One command, as a person types it."""
    return subprocess.run(
        [sys.executable, "-m", "lmwright.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def run_and_promote(path: Path, alias: str, store: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe; a model that the gate refuses is promoted by hand."""
    done = lmwright("run", str(path), "--store", store)
    assert done.returncode in (0, REFUSED), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode == REFUSED:  # of so few rows a gate may pass nothing
        (version,) = re.findall(r"promote +version (\w+)", done.stdout)
        done = lmwright("promote", alias, version, "--reason", "smoke", "--store", store)
        assert done.returncode == 0, done.stderr
    return done


def run_and_replay(
    folder: Path,
    recipe: str,
    alias: str,
    test_set: str,
    texts: int,
    after: int,
    by_hand: bool = False,
) -> list[subprocess.CompletedProcess[str]]:
    """Run a recipe, replay a test set and write the report; the ends of the last three commands.

    The gate must pass the model, unless it may be promoted ``by_hand``.
    """
    path, store = folder / "small.yaml", str(folder / "store")
    path.write_text(recipe)
    counts = ("--texts", str(texts), "--after", str(after))
    commands = [
        ("run", str(path), "--store", store),
        ("replay", str(path), "--test-set", test_set, *counts, "--store", store),
        ("report", alias, "--store", store, "--out", str(folder / "report.html")),
    ]
    done = []
    if by_hand:
        done.append(run_and_promote(path, alias, store))
        del commands[0]
    for words in commands:
        done.append(lmwright(*words))
        assert done[-1].returncode == 0, done[-1].stderr
        assert "Traceback" not in done[-1].stderr
    return done


def replayed(folder: Path, alias: str) -> dict[str, Any]:
    """What the replay wrote down."""
    found: dict[str, Any] = json.loads(
        (folder / "store" / "traffic" / alias / "replay.json").read_bytes()
    )
    return found


def ends(folder: Path, alias: str) -> list[str]:
    """How retrainings ended, whatever came afterwards: alarmed again, where drift lasts."""
    return [state["at"] for state in replayed(folder, alias)["states"] if state["at"] in ENDS]
