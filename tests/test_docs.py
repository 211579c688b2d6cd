"""The generated pages of the docs say all that they are there for."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from benchmarks.tasks import CELLS

from lmwright.audit.personal import Personal
from lmwright.data.sources import Source
from lmwright.data.split import Fractions
from lmwright.evals.zero_shot import Hosting
from lmwright.loop.alarms import Command, Webhook
from lmwright.loop.gate import Gate, Slices
from lmwright.tables import resolve

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def pages() -> Any:
    place = spec_from_file_location("generate", DOCS / "generate.py")
    assert place and place.loader
    module = module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("data.sources[]", Source),
        ("data.fractions", Fractions),
        ("zero-shot.hosted", Hosting),
        ("promote.gate", Gate),
        ("promote.gate.slices", Slices),
        ("audit.limits.personal", Personal),
        ("watch.alarms[] (command)", Command),
        ("watch.alarms[] (webhook)", Webhook),
    ],
)
def test_settings_inside_others_have_every_field(pages: Any, place: str, kind: Any) -> None:
    _, _, part = pages.settings().partition(f"### `{place}`\n")
    part = re.split(r"^#", part, flags=re.M)[0]
    for field in dataclasses.fields(kind):
        assert f"\n| `{field.name}` |" in part


def test_settings_read_well(pages: Any) -> None:
    page = pages.settings()
    assert "``" not in page
    assert "| `where` | `dict[str, str]` | `{}` | column -> value" in page
    assert "extends: OTHER.yaml" in page and "--set STAGE.FIELD=VALUE" in page


def test_an_option_says_its_default_and_whether_it_is_needed(pages: Any) -> None:
    def verb(
        seed: Annotated[int, typer.Option(help="For what is drawn.")] = 0,
        model: Annotated[str, typer.Option(help="Which.")] = inspect.Parameter.empty,  # type: ignore[assignment]
        probe: Annotated[bool, typer.Option(help="Probe.")] = True,
        dry: Annotated[bool, typer.Option(help="Only say.")] = False,
    ) -> None: ...

    parameters = inspect.signature(verb, eval_str=True).parameters
    assert [pages.option(name, each) for name, each in parameters.items()] == [
        "`--seed` For what is drawn. (`0`)",
        "`--model` Which. (needed)",
        "`--probe` or `--no-probe` Probe. (`--probe`)",
        "`--dry` Only say.",
    ]


def test_the_table_of_tasks_shows_scores_that_the_tasks_have() -> None:
    for cell in CELLS:
        task = cell.settings()["task"]
        kind = resolve("tasks", task if isinstance(task, str) else task["kind"])
        assert set(cell.scores) <= {*kind.loss_names, *kind.score_names}, cell.name
    assert len({cell.name for cell in CELLS}) == len(CELLS)


FAULTS = {*range(1, 25), 26, 27, 28}
"""Numbers of the faults that concern the server."""


def test_every_fault_has_a_test_that_exists() -> None:
    rows = re.findall(
        r"^\| (\d+) \| (.+) \| (.+) \|$", (DOCS / "faults.md").read_text("utf-8"), re.M
    )
    assert {int(number) for number, _, _ in rows} == FAULTS
    for number, _, shown in rows:
        named = re.findall(r"`([^`]+)::(\w+)`", shown)
        assert named and len(named) == shown.count("::"), f"{number}: {shown}"
        for path, name in named:
            assert name in functions_of(DOCS.parent / path), f"{number}: {path}::{name}"


def functions_of(path: Path) -> set[str]:
    """The functions of a module."""
    body = ast.parse(path.read_text("utf-8")).body
    return {each.name for each in body if isinstance(each, ast.FunctionDef)}
