"""The baseline of entities: the dictionary of those in the training rows, longest match first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from lmwright.baselines.words import Words, words_in, words_of
from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, task_to_json


class Dictionary:
    """Labels every phrase that was mostly an entity in the training rows with its usual label.

    (The baseline of the CoNLL-2003 shared task labels phrases that were always one; it leaves
    out what was ambiguous.)
    """

    kind = "dictionary"

    def __init__(self, task: Task, phrases: dict[str, str]) -> None:
        self.task, self.phrases = task, phrases
        self.longest = max((phrase.count(" ") + 1 for phrase in phrases), default=0)

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Dictionary:
        """Count how often each phrase of an entity is one, and by which label."""
        labelled: dict[str, Counter[str]] = defaultdict(Counter)
        for row in rows.to_pylist():
            for span in row["spans"]:
                labelled[row["text"][span["start"] : span["end"]]][span["label"]] += 1
        met: Counter[str] = Counter()
        longest = max((phrase.count(" ") + 1 for phrase in labelled), default=0)
        for row in rows.to_pylist():
            places = words_of(row["text"])
            for first in range(len(places)):
                for last in range(first, min(first + longest, len(places))):
                    phrase = row["text"][places[first][0] : places[last][1]]
                    if phrase in labelled:
                        met[phrase] += 1
        kept = {
            phrase: counts.most_common(1)[0][0]
            for phrase, counts in sorted(labelled.items())
            if 2 * counts.total() > met[phrase]
        }
        return cls(task, kept)

    def facts(self) -> dict[str, Any]:
        """The number of phrases."""
        return {"phrases": len(self.phrases)}

    def prepare(self, rows: Sequence[Row]) -> list[Words]:
        """Each text's words."""
        return [words_in(self.task.text(row)) for row in rows]

    def answers(self, batch: Sequence[Words]) -> Answers:
        """The longest known phrases from left to right."""
        return Answers({"spans": [self.spans(item) for item in batch]})

    def spans(self, item: Words) -> list[dict[str, Any]]:
        """The spans of one text."""
        found: list[dict[str, Any]] = []
        first = 0
        while first < len(item.places):
            for last in range(min(first + self.longest, len(item.places)) - 1, first - 1, -1):
                start, end = item.places[first][0], item.places[last][1]
                label = self.phrases.get(item.text[start:end])
                if label is not None:
                    found.append({"start": start, "end": end, "label": label})
                    first = last
                    break
            first += 1
        return found

    def save(self, folder: Path) -> None:
        """Write ``model.json`` and ``phrases.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DESCRIPTION, {"kind": self.kind, "task": task_to_json(self.task)})
        write_json(folder / "phrases.json", self.phrases)

    @classmethod
    def load(cls, folder: Path, task: Task) -> Dictionary:
        """The baseline that :meth:`save` wrote; Corrupt if it is not whole."""
        phrases = read_json_object(folder / "phrases.json")
        if not all(isinstance(label, str) for label in phrases.values()):
            raise Corrupt(f"{folder / 'phrases.json'} holds a label that is no text", "texts")
        return cls(task, cast(dict[str, str], phrases))
