"""``lmwright doctor``: check the machine, or explain a run that failed."""

from __future__ import annotations

from typing import Annotated

import typer

from lmwright.cli.open import STORE, StoreOption
from lmwright.plan.doctor import check_machine, explain_run
from lmwright.store.open import existing_store


def doctor(
    run: Annotated[
        str, typer.Argument(help="A run's id; without one the machine is checked.")
    ] = "",
    store: StoreOption = STORE,
) -> None:
    """Check the machine, or explain a run from its journal. Exit code 1 if something is unwell."""
    findings = explain_run(existing_store(store), run) if run else check_machine(store)
    for finding in findings:
        print(f"{'ok ' if finding.well else 'BAD'} {finding.name:<18} {finding.seen}")
        if not finding.well and finding.cure:
            print(f"    {'do this':<18} {finding.cure}")
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)
