"""The verbs that decide: promote, rollback, retire, withdraw, reinstate, gc."""

from __future__ import annotations

from typing import Annotated

import typer

from lmwright.cli.open import STORE, StoreOption
from lmwright.loop.promote import promote_version
from lmwright.loop.retention import forget_texts
from lmwright.store.gc import collect
from lmwright.store.open import open_store
from lmwright.store.versions import (
    aliases,
    former,
    resolve_version,
    roll_back,
    sources_of,
    withdrawn,
)
from lmwright.store.versions import reinstate as reinstate_source
from lmwright.store.versions import retire as retire_alias
from lmwright.store.versions import withdraw as withdraw_source

AliasArgument = Annotated[str, typer.Argument(help="NAME@ALIAS, as in reviews@production.")]
SourceArgument = Annotated[
    str, typer.Argument(help="The name of a data source, or a base by its address or hash.")
]
ReasonOption = Annotated[str, typer.Option(help="Why; it is kept in the decision log.")]
AuthorOption = Annotated[str, typer.Option(help="Who decides; the user's name by default.")]


def promote(
    alias: AliasArgument,
    version: Annotated[str, typer.Argument(help="A version's hash, or another alias.")],
    reason: ReasonOption,
    author: AuthorOption = "",
    store: StoreOption = STORE,
) -> None:
    """Put a version behind an alias by hand, past the gate (a recipe's promote asks it)."""
    opened = open_store(store)
    entry = promote_version(opened, alias, resolve_version(opened, version), reason, author)
    print(f"{alias} is {entry['facts']['version'][:16]} (decision {entry['number']})")


def rollback(
    alias: AliasArgument,
    reason: ReasonOption = "",
    author: AuthorOption = "",
    store: StoreOption = STORE,
) -> None:
    """Bring the former version of an alias back."""
    entry = roll_back(open_store(store), alias, reason, author)
    print(f"{alias} is {entry['facts']['version'][:16]} again (decision {entry['number']})")


def withdraw(
    source: SourceArgument,
    reason: ReasonOption = "",
    author: AuthorOption = "",
    store: StoreOption = STORE,
) -> None:
    """Withdraw a source: list what learnt from it and bar its promotion."""
    opened = open_store(store)
    entry, touched = withdraw_source(opened, source, reason, author)
    print(f"{entry['facts']['source']} is withdrawn (decision {entry['number']}); to be made anew:")
    for content in touched:
        makers = sorted({result.kind for result in opened.makers(content)})
        print(f"  {content[:16]}  {', '.join(makers)}")
    for alias, version in aliases(opened).items():
        if version.hash in touched:
            back = former(opened, alias)
            fine = back and not sources_of(opened, back) & withdrawn(opened)
            print(
                f"{alias} is still {version.id}, which learnt from it: no alias was moved. Take "
                "the source out of the recipe and run it, or: "
                f"lmwright {'rollback' if fine else 'retire'} {alias}"
            )


def retire(
    alias: AliasArgument,
    reason: ReasonOption = "",
    author: AuthorOption = "",
    store: StoreOption = STORE,
) -> None:
    """Let an alias name nothing, until the next promotion."""
    entry = retire_alias(open_store(store), alias, reason, author)
    print(
        f"nothing is behind {alias} now (decision {entry['number']}); a server that was started "
        "before answers until it is stopped"
    )


def reinstate(
    source: SourceArgument,
    reason: ReasonOption = "",
    author: AuthorOption = "",
    store: StoreOption = STORE,
) -> None:
    """Take a withdrawal back: what learnt from the source may be promoted again."""
    entry = reinstate_source(open_store(store), source, reason, author)
    print(f"{entry['facts']['source']} may be learnt from again (decision {entry['number']})")


def gc(
    keep_runs: Annotated[int, typer.Option(help="Runs of each recipe to keep whole.")] = 3,
    dry: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
    store: StoreOption = STORE,
) -> None:
    """Remove what no alias, recent run or running work needs, and texts past their retention."""
    opened = open_store(store)
    swept, forgotten = collect(opened, keep_runs, dry), forget_texts(opened, dry)
    verb = "would free" if dry else "freed"
    print(
        f"{verb} {swept.freed / 1e6:.1f} MB: {len(swept.artifacts)} artifacts, "
        f"{len(swept.results)} results, {len(swept.work)} unfinished"
    )
    print(
        f"{'would forget' if dry else 'forgot'} {forgotten.answers} answers past their retention "
        f"and {len(forgotten.files)} files of feedback"
    )
