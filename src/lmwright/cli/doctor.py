"""``lmwright doctor``: check the machine, or explain a run that failed."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from lmwright.cli.open import STORE, JsonOption, StoreOption
from lmwright.core.errors import BadInput
from lmwright.plan.doctor import check_machine, explain_run
from lmwright.store.open import existing_store


def doctor(
    run: Annotated[
        str, typer.Argument(help="A run's id; without one the machine is checked.")
    ] = "",
    store: StoreOption = STORE,
    as_json: JsonOption = False,
    again: Annotated[
        bool, typer.Option("--again", help="Measure the CPU again, although it is known.")
    ] = False,
) -> None:
    """Check the machine, or explain a run from its journal. Exit code 1 if something is unwell."""
    if run and again:
        raise BadInput(
            "--again beside a run",
            "a run, which is explained, or --again, which measures the machine",
            "leave one of them out",
        )
    findings = explain_run(existing_store(store), run) if run else check_machine(store, tell, again)
    if as_json:
        print(json.dumps([vars(finding) for finding in findings]))
    for finding in () if as_json else findings:
        print(f"{'ok ' if finding.well else 'BAD'} {finding.name:<18} {finding.seen}")
        if not finding.well and finding.cure:
            print(f"    {'do this':<18} {finding.cure}")
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)


def tell(words: str) -> None:
    """Progress, beside what programs read."""
    print(f"{words} …", file=sys.stderr)
