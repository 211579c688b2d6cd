"""Maker of talk.csv and traffic.csv from the folder data/english of chatterbot-corpus 1.3.3."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

TOPICS = {
    "tech": ("ai", "coding", "computers"),
    "talk": ("conversations", "emotion", "greetings", "humor", "psychology"),
    "world": ("literature", "money", "movies", "science", "sports", "trivia"),
}
LONGEST = 160
MOVED, KEPT = "trivia", 25
"""The topic that traffic moves to, and how many of its texts are learnt from at first."""


def utterances(folder: Path) -> dict[tuple[str, str], None]:
    """(text, topic/category) of every utterance, each once, in the order of the files."""
    found: dict[tuple[str, str], None] = {}
    for topic, categories in TOPICS.items():
        for category in categories:
            talks = YAML(typ="safe").load((folder / f"{category}.yml").read_text("utf-8"))
            lists = (talk for talk in talks["conversations"] if isinstance(talk, list))
            for text in (each for talk in lists for each in talk):
                if (
                    isinstance(text, str)
                    and len(text) <= LONGEST
                    and text.strip()
                    and "@" not in text
                ):
                    found[" ".join(text.split()), f"{topic}/{category}"] = None
    return found


def main(folder: Path) -> None:
    """Write both tables beside this file."""
    rng = np.random.default_rng(0)
    siblings = {f"{t}/{c}": [f"{t}/{d}" for d in cs] for t, cs in TOPICS.items() for c in cs}
    rows, moved = [], []
    for text, label in utterances(folder):
        asked = "; form/question" if text.endswith("?") else ""
        if label.endswith(MOVED) and sum(row[1].endswith(MOVED) for row in rows) >= KEPT:
            moved.append((text, label + asked))
            continue
        rows.append((text, label, "corpus"))
        if rng.random() < 0.4:
            other = label if rng.random() < 0.8 else str(rng.choice(siblings[label]))
            rows.append((text, other + asked, "synthetic"))
    here = Path(__file__).parent
    for name, header, body in (
        ("talk.csv", ("text", "judgement", "annotator"), rows),
        ("traffic.csv", ("text", "judgement"), moved),
    ):
        with (here / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *body])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
