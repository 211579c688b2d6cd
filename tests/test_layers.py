"""No module above the leaves knows a task (its name, a column of its own); rows need no torch."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmwright
from lmwright.assets import asset_file
from lmwright.tables import TASKS
from tests.small_recipe import write_reviews

SOURCE = Path(lmwright.__file__).parent
COLUMNS = {
    *("label", "labels", "spans", "probabilities", "continuation", "completion"),
    *("summary", "summary_text", "translation_text", "generated_text", "source_language"),
    *("question", "answer_start", "sentence1", "sentence2", "negatives", "relevance"),
}
"""Columns of single tasks; ``text`` is too common a word to be looked for."""
OF_TASKS = {"tasks", "metrics", "baselines"}
"""Folders that are about single tasks."""


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, value) of every string constant that is no docstring and in no f-string."""
    lone = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    shown = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if text and id(node) not in lone | shown:
            yield node.lineno, node.value


def hits(wanted: set[str]) -> dict[tuple[str, str], list[int]]:
    """(file, value) -> lines, of every string that is one of ``wanted``."""
    found: dict[tuple[str, str], list[int]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name.split("/")[0] not in OF_TASKS:
            for line, value in strings(ast.parse(path.read_text("utf-8"))):
                if value in wanted:
                    found.setdefault((name, value), []).append(line)
    return found


def test_no_module_names_a_task() -> None:
    listed = {("tables.py", kind) for kind in TASKS}
    assert hits(set(TASKS)).keys() == NAMED.keys() | listed


def test_no_module_names_a_column_of_one_task() -> None:
    found = {key: lines for key, lines in hits(COLUMNS).items() if key[0] not in ABOUT}
    assert {key: found[key] for key in found.keys() - KNOWN.keys()} == {}
    assert KNOWN.keys() - found.keys() == set(), "exemptions that nothing needs"
    assert {name for name, _ in hits(COLUMNS)} >= ABOUT.keys()


def test_no_module_counts_classes() -> None:
    found = {
        f"{name}:{line}"
        for path in SOURCE.rglob("*.py")
        if (name := path.relative_to(SOURCE).as_posix()).split("/")[0] not in OF_TASKS
        for line in class_counts(ast.parse(path.read_text("utf-8")))
    }
    counted = {place.partition(":")[0] for place in found}
    assert counted == COUNTED.keys(), found


def test_rows_of_every_task_are_made_without_torch(tmp_path: Path) -> None:
    """The stage ``data`` on real rows, as the command runs it: none of it needs a network."""
    reviews = str(write_reviews(tmp_path / "reviews.csv", 200))
    news = tmp_path / "news.txt"
    whole = asset_file("asset:conll2003-en/neuroner/data/conll2003/en/train.txt")
    news.write_text("\n\n".join(whole.read_text("utf-8").split("\n\n")[:200]) + "\n\n")
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps(squad_of(news.read_text())))
    summaries = "asset:debian-summaries/debian-summaries.parquet"
    pairs = "asset:debian-translations/debian-translations.parquet"
    source = {
        "text-classification": {"path": reviews},
        "token-classification": {"path": str(news)},
        "text-generation": {"path": reviews},
        "question-answering": {"path": str(asked)},
        "sentence-similarity": {
            "path": summaries,
            "columns": {"sentence1": "synopsis", "sentence2": "description"},
        },
        "text-ranking": {
            "path": summaries,
            "columns": {"query": "synopsis", "document": "description"},
            "constants": {"relevance": "1"},
            "derive": {"kind": "hard-negatives", "nearest": 1},
        },
        "multi-label-classification": {
            "path": "asset:debian-tags/debian-tags.parquet",
            "columns": {"text": "description", "labels": "tags"},
        },
        "regression": {
            "path": "asset:state-of-the-union/state-of-the-union.parquet",
            "columns": {"text": "passage", "label": "year"},
        },
        "summarization": {
            "path": summaries,
            "columns": {"text": "description", "summary": "synopsis"},
        },
        "text2text-generation": {
            "path": summaries,
            "columns": {"text": "description", "target": "synopsis"},
        },
        "chat": {
            "path": "asset:chatterbot-corpus/chatterbot_corpus/data/english/trivia.yml",
            "derive": "turns",
        },
        "translation": {
            "path": pairs,
            "columns": {"text": "english", "translation": "other", "target_language": "language"},
            "constants": {"source_language": "en"},
        },
    }
    assert source.keys() == TASKS.keys()
    recipes = []
    for kind, given in source.items():
        stages = {"data": {"sources": [{"name": "real", "limit": 300, **given}]}}
        recipes.append(str(tmp_path / f"{kind}.yaml"))
        Path(recipes[-1]).write_text(json.dumps({"name": kind, "task": kind, "stages": stages}))
    store = str(tmp_path / "store")
    done = subprocess.run(
        [sys.executable, "-c", RUN, store, *recipes], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {recipe: [0, False] for recipe in recipes}


def squad_of(news: str) -> dict[str, Any]:
    """Sentences as contexts of made-up questions on their first words, in SQuAD's format."""
    sentences = [
        [line.split()[0] for line in each.split("\n") if line] for each in news.split("\n\n")
    ]
    paragraphs = [
        {
            "context": " ".join(words),
            "qas": [
                {
                    "question": f"What begins number {n}?",
                    "answers": [{"text": words[0], "answer_start": 0}],
                }
            ],
        }
        for n, words in enumerate(sentences)
        if words
    ]
    return {"data": [{"title": "news", "paragraphs": paragraphs}]}


RUN = """
import json, sys
from lmwright.cli.main import main
store, *recipes = sys.argv[1:]
run = lambda recipe: main(["run", recipe, "--store", store, "--anyway"])
print(json.dumps({recipe: [run(recipe), "torch" in sys.modules] for recipe in recipes}))
"""
"""Runs recipes one after another; recipe -> [exit code, whether torch has been imported]."""


def test_the_search_finds_what_it_looks_for() -> None:
    tree = ast.parse(
        '"""label"""\nrow["label"]\nraise E(f"label {x}")\nif len(task.labels) == 2: pass\n'
    )
    assert list(strings(tree)) == [(2, "label")]
    assert list(class_counts(tree)) == [4]


def class_counts(tree: ast.AST) -> Iterator[int]:
    """Lines on which the number of some labels or classes is compared with a number."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        if any(isinstance(one, ast.Constant) and type(one.value) is int for one in sides):
            counted = [ast.unparse(one) for one in sides if isinstance(one, ast.Call)]
            if any(re.fullmatch(r"len\(.*(labels|classes).*\)", one) for one in counted):
                yield node.lineno


NAMED = {
    ("data/guess.py", "text-classification"): "the task whose columns init guesses by default",
    (
        "data/guess.py",
        "multi-label-classification",
    ): "init names the task that fits lists of labels",
    ("models/published_head.py", "regression"): "a problem type of published configs",
    ("data/guess.py", "regression"): "init names the task that fits numbers",
    ("data/guess.py", "question-answering"): "init names the task that fits such pairs of texts",
    ("data/guess.py", "sentence-similarity"): "init names the task that fits such pairs of texts",
    ("data/guess.py", "text-ranking"): "init names the task that fits such pairs of texts",
    ("data/guess.py", "token-classification"): "init names the task that fits spans",
    ("plan/advice/data.py", "text-generation"): "a recipe that indexes texts of any kind",
    ("plan/configs/axolotl.py", "chat"): "the task of its data sets, and the shape chat",
    ("plan/configs/axolotl.py", "text-generation"): "the task of its data sets of type completion",
    ("plan/configs/llama_factory.py", "chat"): "the task of its stage sft",
    ("plan/configs/llama_factory.py", "text-generation"): "the task of its stage pt",
    ("plan/configs/trl.py", "chat"): "the task of its conversational data sets",
    ("plan/configs/trl.py", "text-generation"): "the task of its data sets of texts",
    ("old_format.py", "text-classification"): "all that there was when the old format was written",
}
ABOUT = {
    "core/columns.py": "names of column types and the keys of a span, whatever the task",
    "data/formats/conll_file.py": "what a CoNLL file holds: a format of tagged words",
    "data/formats/squad.py": "what a SQuAD file holds: a format of questions",
    "data/guess.py": "usual names of columns in tables of strangers",
    "data/shapes/completion.py": "what rows of a prompt with its completion hold",
    "plan/configs/axolotl.py": "a type of its data sets",
    "plan/configs/trl.py": "what TRL's data sets hold",
    "evals/zero_shot.py": "the stage that asks for a label; other tasks are refused by name",
    "old_format.py": "the format of the time when there was one task",
}
"""Files that are about such columns as a whole, and why they may be."""
KNOWN = {
    ("audit/card.py", "labels"): "a key of the facts of the stage data: rows by stratum",
    ("audit/counterfactual.py", "probabilities"): "compared where a task has them; else confidence",
    ("cli/init.py", "labels"): "a key of the facts of the stage data: rows by stratum",
    ("data/prepare.py", "label"): "a column type; a key of the facts: the stratum of a row",
    ("data/prepare.py", "labels"): "a key of the facts: rows by stratum",
    ("data/quality.py", "labels"): "a key of the facts: rows by stratum",
    ("loop/controller.py", "labels"): "a key of the loop's state: the last feedback that was used",
    ("loop/retrain.py", "labels"): "a key of the evidence: how many answers have targets",
    ("cli/inspect.py", "labels"): "a key of what it says: the names of a published head's outputs",
    ("cli/inspect.py", "spans"): "the name of a published head",
    ("models/family/family.py", "spans"): "the name of a published head",
    ("models/published_head.py", "spans"): "the name of a published head",
    ("serve/parameter_schemas.py", "summary"): "a field of the protocol's reasoning items",
    ("serve/response_items.py", "summary"): "a field of the protocol's reasoning items",
    ("serve/response_request.py", "summary"): "a field of the protocol's reasoning items",
    ("models/zoo/bert.py", "spans"): "the name of a published head",
    ("models/zoo/distilbert.py", "spans"): "the name of a published head",
    ("models/zoo/roberta.py", "spans"): "the name of a published head",
    ("models/zoo/xlm.py", "spans"): "the name of a published head",
    ("models/zoo/xlnet.py", "spans"): "the name of a published head",
    ("report/sections/data.py", "labels"): "a key of the facts of the stage data: rows by stratum",
    ("report/sections/scores.py", "label"): "a key of the page: what stands behind a score's dot",
    ("serve/request.py", "label"): "a column type, whose values are short",
    ("serve/traffic.py", "label"): "migrations of logs from when there was one task",
    ("serve/traffic.py", "probabilities"): "a log of that time, read without a server",
    ("tables.py", "completion"): "the verb by which shells complete words",
    ("text/label_prompt.py", "labels"): "a placeholder of a prompt for labels",
}
"""(file, string) -> why it is no column of a task, or may be one."""
COUNTED: dict[str, str] = {
    "data/prepare.py": "a split with rows of one stratum alone is worth a word",
}
"""Files in which labels are counted, and why."""
