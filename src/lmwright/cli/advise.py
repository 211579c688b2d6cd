"""``lmwright advise``: what a table of your own asks for, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import JsonOption
from lmwright.core.errors import BadInput
from lmwright.plan.advise import advise as advice
from lmwright.plan.foreign import tool_of


def advise(
    table: Annotated[Path, typer.Argument(help="A table, or a folder of folders of texts.")],
    text: Annotated[str, typer.Option(help="The column with the texts.")] = "",
    label: Annotated[str, typer.Option(help="The column with the labels.")] = "",
    task: Annotated[str, typer.Option(help="The task; guessed by default.")] = "",
    column: Annotated[
        list[str],
        typer.Option(help="With --task, where the table names a column otherwise: NAME=COLUMN."),
    ] = [],  # noqa: B006
    encoding: Annotated[str, typer.Option(help="Of a text file; noticed by default.")] = "",
    forecast: Annotated[
        bool, typer.Option(help="Measure this machine for a few seconds, for the budget.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Look at a table and at this machine, and say what to do: task, start, way to tune, budget.

    Or prompting or retrieval instead. Each reason is a measurement or a stated rule.
    """
    if tool_of(table) is not None:
        raise BadInput(
            f"{table} is a configuration", "a table", f"make a recipe of it: lmwright init {table}"
        )
    found = advice(table, text, label, task, column, encoding, forecast)
    print(json.dumps(found.to_json()) if as_json else "\n".join(found.lines()))
