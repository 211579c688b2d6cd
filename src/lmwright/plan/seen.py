"""What advice rests on: the rows of a table, counted and probed, and the machine."""

from __future__ import annotations

import shlex
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.baselines.tfidf import Tfidf
from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.core.recipe import make_recipe
from lmwright.core.task import Task, role_columns
from lmwright.data.dedup import NearDuplicates
from lmwright.data.guess import LOOKED_AT, TASK, Guess, guess_table, named_source, source_settings
from lmwright.data.sources import RawRow, read_source
from lmwright.machine.cpu import CpuClass
from lmwright.machine.probe import cpu_class
from lmwright.machine.quota import granted_threads
from lmwright.metrics.intervals import wilson
from lmwright.models.files.published import is_gguf, located, read_published
from lmwright.plan.forecast import forecast
from lmwright.store.memory import machine_memory
from lmwright.store.run import plan_recipe
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, TASKS, resolve
from lmwright.text.language import count_languages
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from lmwright.train.start import START

SAMPLE = 2000
"""Rows that are measured; counts are of all that are looked at."""
SHOWN = 9
"""Rows that are kept to be shown in a prompt."""
LEARNT, FOLDS = 900, 3
"""Rows on which words are tried by cross-validation, and its folds."""
SPOKEN = 200
"""Rows of which the language is identified."""


@dataclass(frozen=True)
class Words:
    """How many of ``rows`` words alone tell right, by cross-validation: ``right``, and how many
    the commonest label is: ``common``. ``low`` and ``high`` bound the share that is right."""

    rows: int
    right: int
    common: int
    low: float
    high: float


@dataclass(frozen=True)
class Seen:
    """A table as a task's rows, and the machine.

    ``lengths`` are tokens of the sampled texts by the tokenizer of the default start, ``words``
    their words; ``shown`` are some texts with their targets. ``alike`` is the share of sampled rows
    that are near another one's text. ``given`` are the options that were asked for.
    """

    table: Path
    guess: Guess
    task: Task
    given: tuple[str, ...]
    lengths: np.ndarray
    words: np.ndarray
    shown: tuple[tuple[str, str], ...]
    alike: float
    languages: Mapping[str, int]
    learnable: Words | None
    cpu: CpuClass
    threads: int
    memory: int

    @property
    def rows(self) -> int:
        """Rows with different inputs that can be used."""
        return sum(self.guess.labels.values())

    @property
    def labels(self) -> Mapping[str, int]:
        """Rows of each label, of tasks with one label a row; else nothing."""
        return self.guess.labels if self.task.kind == TASK else {}

    @property
    def writes(self) -> bool:
        """Whether what is to be told is a text that a model writes."""
        return self.task.teacher_forced

    def forecast(self, train: Mapping[str, Any]) -> Mapping[str, Any]:
        """Seconds and memory of a training with these settings, each low, expected and high."""
        source = source_settings(self.guess.source, str(Path(self.guess.source.path).absolute()))
        stages = {"data": {"sources": [source]}, "train": dict(train)}
        raw = {"name": "advice", "task": self.task.kind, "stages": stages}
        recipe = make_recipe(raw, str(self.table), resolve, SECTIONS)
        with tempfile.TemporaryDirectory(prefix="lmwright-") as folder:
            store = Store(Path(folder))
            try:
                told = forecast(recipe, store, plan_recipe(recipe, store))
            finally:
                store.database.close()
        found: Mapping[str, Any] = told["train"]
        return found


def see(
    table: Path, text: str, label: str, task: str, columns: Sequence[str], encoding: str
) -> Seen:
    """Look at a table, guessing its task where none is named, as ``init`` guesses its columns."""
    guess, kind, text, label = guessed_task(table, text, label, task, columns, encoding)
    own: Task = resolve("tasks", kind)()
    wanted = role_columns(own, "input", "target")
    found = islice(read_source(guess.source, wanted), LOOKED_AT)
    rows = [row.values for row in found if isinstance(row, RawRow)]
    order = np.sort(stream(0, "advise").permutation(len(rows))[:SAMPLE])
    sample = [rows[place] for place in order]
    texts = [own.text(row) for row in sample]
    encoded = start_tokenizer().encode(texts, 1 << 20)
    given = [f"--task {shlex.quote(kind)}"] if kind != TASK else []
    given += [f"--text {shlex.quote(text)}"] if text else []
    given += [f"--label {shlex.quote(label)}"] if label else []
    given += [f"--column {shlex.quote(each)}" for each in columns]
    given += [f"--encoding {shlex.quote(encoding)}"] if encoding else []
    return Seen(
        table,
        guess,
        own,
        tuple(given),
        np.array([len(ids) for ids in encoded], dtype=np.int64),
        np.array([len(each.split()) for each in texts], dtype=np.int64),
        tuple((own.text(row), own.target(row)) for row in sample[:SHOWN]),
        share_alike(texts),
        count_languages(texts[:SPOKEN]),
        learnable(own, rows) if kind == TASK else None,
        cpu_class(),
        granted_threads(),
        machine_memory(),
    )


def guessed_task(
    table: Path, text: str, label: str, task: str, columns: Sequence[str], encoding: str
) -> tuple[Guess, str, str, str]:
    """The source in a table, its task, and the columns of text and label where they must be named:
    one label a text, else the task whose columns the table has by their names; of several that
    which has the most. BadInput, as of ``init``, where none."""
    if task:
        return guess_table(table, text, label, task, columns, encoding), task, text, label
    try:
        return guess_table(table, text, label, TASK, columns, encoding), TASK, text, label
    except BadInput:
        fitting = []
        if text or label:
            raise
        for kind in TASKS:
            own: Task = resolve("tasks", kind)()
            needed = [c.name for c in role_columns(own, "input", "target") if c.default is None]
            try:
                if kind == TASK:  # of more labels than are taken for such unasked
                    one, two = needed
                    return guess_table(table, one, two, TASK, (), encoding), kind, one, two
                guess = named_source(table, own, {}, encoding)
            except BadInput:
                continue
            fitting.append((len(needed), guess, kind))
        if not fitting:
            raise
        _, guess, kind = max(fitting, key=lambda each: each[0])
        return guess, kind, text, label


def start_tokenizer() -> Tokenizer:
    """The tokenizer of the default start."""
    path = located(START, weights=False)
    return read_published(START).tokenizer if is_gguf(path) else read_tokenizer(path)


def share_alike(texts: Sequence[str]) -> float:
    """The share of texts that are near an earlier one."""
    with tempfile.TemporaryDirectory(prefix="lmwright-") as folder:
        near = NearDuplicates(Path(folder))
        near.add(texts)
        groups = near.groups()
    return 1 - len(np.unique(groups)) / max(len(texts), 1)


def learnable(task: Task, rows: Sequence[Mapping[str, Any]]) -> Words | None:
    """How well words alone tell the labels of rows that they have not seen; None of too few."""
    order = stream(0, "advise", "words").permutation(len(rows))[:LEARNT]
    table = pa.Table.from_pylist([{"id": f"{n:032x}", **rows[at]} for n, at in enumerate(order)])
    told = task.strata
    counts = Counter(table.column(told).to_pylist())
    if len(counts) < 2 or min(counts.values()) < FOLDS or len(counts) > 200:
        return None
    inputs = [column.name for column in role_columns(task, "input")]
    fitted: Any = task.fitted(table.to_batches())
    codes, right = fitted.codes(table), 0
    for fold in range(FOLDS):
        held = np.arange(len(codes)) % FOLDS == fold
        train, test = table.filter(pa.array(~held)), table.filter(pa.array(held))
        if len(set(train.column(told).to_pylist())) < 2:
            return None
        model = Tfidf.fit(fitted, train, 0)
        logits = model.logits(model.prepare(test.select(inputs).to_pylist()))
        right += int((logits.argmax(-1) == codes[held]).sum())
    bounds = wilson(right, len(codes))
    return Words(len(codes), right, max(counts.values()), bounds.low, bounds.high)
