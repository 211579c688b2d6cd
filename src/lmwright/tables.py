"""Every name that a user may write, and the definition it stands for.

Breadth lives in leaves; this page is the only place that lists them. An entry is a
``"module:attribute"`` string, resolved on demand, so reading the table imports nothing.
Other packages extend the same tables through entry points (group ``lmwright.<table>``).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lmwright.core.errors import BadInput, nearest

STAGES = {
    "data": "lmwright.data.prepare:Data",
    "train": "lmwright.train.finetune:Train",
    "baselines": "lmwright.evals.baselines:Baselines",
    "evaluate": "lmwright.evals.evaluate:Evaluate",
    "audit": "lmwright.audit.audit:Audit",
    "promote": "lmwright.loop.promote:Promote",
}

TASKS = {"classify": "lmwright.tasks.classify:Classify"}

FAMILIES = {"bert": "lmwright.models.zoo.bert:FAMILY"}

MODELS = {
    "encoder": "lmwright.models.encoder:Encoder",
    "tfidf": "lmwright.models.tfidf:Tfidf",
    "majority": "lmwright.models.majority:Majority",
}

TABLES = {"stages": STAGES, "tasks": TASKS, "families": FAMILIES, "models": MODELS}


def entries(table: str) -> dict[str, str]:
    """The table's own entries and those that installed packages add."""
    from importlib.metadata import entry_points

    added = {point.name: point.value for point in entry_points(group=f"lmwright.{table}")}
    return {**added, **TABLES[table]}


def module_of(table: str, name: str) -> str:
    """The module that ``name`` stands in, without importing it."""
    known = TABLES[table] if name in TABLES[table] else entries(table)
    if name not in known:
        raise BadInput(f"{name!r} is not among the {table}", "a known name", nearest(name, known))
    return known[name].partition(":")[0]


def resolve(table: str, name: str) -> Any:
    """The definition that ``name`` stands for; BadInput names the nearest one if there is none."""
    module_of(table, name)
    known = TABLES[table] if name in TABLES[table] else entries(table)
    module, _, attribute = known[name].partition(":")
    return getattr(import_module(module), attribute)
