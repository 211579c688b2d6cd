"""Which results of the quickstart an edit makes stale, and that a leaf more makes none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lmwright import tables
from lmwright.core import stamp
from lmwright.core.stamp import stamp_of
from lmwright.core.task import task_to_json
from lmwright.plan.recipe import open_recipe
from lmwright.tasks.text_classification import TextClassification

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
TASK = task_to_json(TextClassification(labels=("negative", "positive")))
KINDS = {"model": "text-model", "majority": "majority", "tfidf": "tfidf", "tfidf_all": "tfidf"}
EVERY = {"data", "train", "baselines", "evaluate", "audit", "detect", "promote"}
BY_MODEL = EVERY - {"data", "baselines"}
"""The stages that train or run a text model."""
LEAF = '"""A leaf."""\n\n\ndef work(number):\n    return number\n\n\nFAMILY = Thing = work\n'
EDIT = "\nprint(end='')\n"
"""A statement that runs when the module is imported, and so counts for whoever reaches it."""


class Sources:
    """The files of ours as the stamp sees them: some edited, some more than there are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.changed = folder, dict[str, Path]()
        self.real: Callable[[str], Path | None] = stamp.find_source

    def find(self, module: str) -> Path | None:
        """The file of a module."""
        return self.changed.get(module) or self.real(module)

    def write(self, module: str, text: str) -> None:
        """Put a text in the place of a module's file."""
        self.changed[module] = self.folder / f"{len(self.changed)}-{module}.py"
        self.changed[module].write_text(text)

    def edit(self, module: str, old: str, new: str) -> None:
        """Change one line of a module."""
        text = self.real(module).read_text()
        assert text.count(old) == 1, f"{module} has {old!r} {text.count(old)} times"
        self.write(module, text.replace(old, new))

    def add(self, module: str, text: str) -> None:
        """Add lines at a module's end."""
        self.write(module, self.real(module).read_text() + text)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Sources that a test may edit."""
    (tmp_path / "sources").mkdir()
    found = Sources(tmp_path / "sources")
    monkeypatch.setattr(stamp, "find_source", found.find)
    return found


def stamps(folder: Path, *changes: str) -> dict[str, str]:
    """Stage -> stamp of the quickstart on artifacts that describe themselves and hold no more."""
    found = {}
    for step in open_recipe(RECIPE, list(changes)).steps:
        inputs = {own: described(folder, name) for own, name in step.needs().items()}
        contents = dict.fromkeys(inputs, "0" * 64)
        found[step.name] = stamp_of(step.stage, step.kind, contents, inputs).hash
    return found


def described(folder: Path, artifact: str) -> Path:
    """An artifact's folder with its description."""
    path = folder / artifact
    path.mkdir(exist_ok=True)
    if artifact == "rows":
        (path / "task.json").write_text(json.dumps(TASK))
    if artifact in KINDS:
        (path / "model.json").write_text(json.dumps({"kind": KINDS[artifact], "task": TASK}))
    return path


def stale(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The stages with another stamp."""
    assert set(before) == set(after) == EVERY
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("table", "module"),
    [
        ("families", "lmwright.models.zoo.newcomer"),
        ("tasks", "lmwright.tasks.newcomer"),
        ("audits", "lmwright.audit.newcomer"),
        ("models", "lmwright.baselines.newcomer"),
        ("models", "lmwright.hosted.newcomer"),
        ("stages", "lmwright.evals.newcomer"),
    ],
)
def test_a_leaf_more_makes_nothing_stale(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch, table: str, module: str
) -> None:
    before = stamps(tmp_path)
    sources.write(module, LEAF)
    monkeypatch.setitem(tables.TABLES[table], "newcomer", f"{module}:Thing")
    sources.edit(
        "lmwright.tables",
        f"\n{table.upper()} = {{",
        f'\nNEW = "{module}:Thing"\n{table.upper()} = {{"newcomer": NEW, ',
    )
    assert tables.module_of(table, "newcomer") == module
    assert stale(before, stamps(tmp_path)) == set()


@pytest.mark.parametrize(
    "module",
    ["lmwright.metrics.classification", "lmwright.metrics.intervals", "lmwright.hosted.endpoint"],
)
def test_a_function_more_makes_nothing_stale(tmp_path: Path, sources: Sources, module: str) -> None:
    before = stamps(tmp_path)
    sources.add(module, "\n\ndef newcomer(truth):\n    return truth.mean()\n")
    assert stale(before, stamps(tmp_path)) == set()


@pytest.mark.parametrize(
    "module",
    [
        "lmwright.models.zoo.gpt2",
        "lmwright.models.zoo.llama",
        "lmwright.tasks.token_classification",
        "lmwright.tasks.zero_shot",
        "lmwright.hosted.chat",
        "lmwright.hosted.endpoint",
    ],
)
def test_an_edit_of_a_leaf_that_is_not_used_makes_nothing_stale(
    tmp_path: Path, sources: Sources, module: str
) -> None:
    before = stamps(tmp_path)
    sources.add(module, EDIT)
    assert stale(before, stamps(tmp_path)) == set()


@pytest.mark.parametrize(
    ("module", "named"),
    [
        ("lmwright.models.zoo.bert", {"train"}),
        ("lmwright.train.loop", {"train"}),
        ("lmwright.baselines.majority", {"baselines", "evaluate"}),
        ("lmwright.metrics.detectors", {"detect", "promote"}),
        ("lmwright.audit.perturbation", {"audit"}),
        ("lmwright.models.blocks.attention", BY_MODEL),
        ("lmwright.tasks.text_classification_model", BY_MODEL),
        ("lmwright.tasks.text_classification", EVERY),
    ],
)
def test_an_edit_of_a_leaf_makes_those_stale_that_use_it_and_no_others(
    tmp_path: Path, sources: Sources, module: str, named: set[str]
) -> None:
    before = stamps(tmp_path)
    sources.add(module, EDIT)
    assert stale(before, stamps(tmp_path)) == named


@pytest.mark.parametrize(
    ("module", "old", "new", "least"),
    [
        (
            "lmwright.models.blocks.attention",
            "attended = F.scaled_dot_product_attention(folded, k, v, scale=scale)",
            "attended = F.scaled_dot_product_attention(folded, k, v, scale=2 * scale)",
            BY_MODEL,
        ),
        (
            "lmwright.metrics.classification",
            "return -np.log(np.clip(chosen, SMALLEST, 1.0))",
            "return -np.log2(np.clip(chosen, SMALLEST, 1.0))",
            {"train", "evaluate", "audit", "promote"},
        ),
        (
            "lmwright.tasks.text_classification",
            'found.update(batch.column("label").to_pylist())',
            'found |= set(batch.column("label").to_pylist())',
            EVERY,
        ),
    ],
)
def test_an_edit_of_what_is_computed_with_makes_all_stale_that_compute_with_it(
    tmp_path: Path, sources: Sources, module: str, old: str, new: str, least: set[str]
) -> None:
    before = stamps(tmp_path)
    sources.edit(module, old, new)
    assert stale(before, stamps(tmp_path)) >= least


def test_a_check_that_the_recipe_does_not_list_may_change(tmp_path: Path, sources: Sources) -> None:
    few = "audit.checks=[slices, personal]"
    whole, before = stamps(tmp_path), stamps(tmp_path, few)
    assert stale(whole, before) == {"audit"}
    sources.add("lmwright.audit.perturbation", EDIT)
    assert stale(before, stamps(tmp_path, few)) == set()
    assert stale(whole, stamps(tmp_path)) == {"audit"}
    sources.add("lmwright.audit.slices", EDIT)
    assert stale(before, stamps(tmp_path, few)) == {"audit"}
