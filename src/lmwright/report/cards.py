"""The cards of a version: what its audit wrote down, as a page and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from lmwright import __version__
from lmwright.core.durable import write_bytes, write_json
from lmwright.core.errors import BadInput
from lmwright.core.hashing import encoded
from lmwright.old_format import READERS
from lmwright.report.page import render
from lmwright.store.store import Result, Store
from lmwright.store.versions import read_version, resolve_version

KINDS = ("model", "data")


def write_cards(store: Store, name: str, out: Path) -> list[Path]:
    """Write model card and data card of the version ``name`` (an alias or a hash) into ``out``.

    Two files each, ``.html`` and ``.json``. BadInput when the version was never audited.
    """
    version = resolve_version(store, name)
    folder = store.artifact(audit_of(store, version).outputs["audit"])
    written = []
    for kind in KINDS:
        file = f"{kind}-card.json"
        facts = READERS[file](json.loads((folder / file).read_bytes()))
        page = {"name": name, "version": version, "kind": kind, "facts": facts}
        paths = [out.absolute() / f"{kind}-card{suffix}" for suffix in (".html", ".json")]
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        write_bytes(paths[0], encoded(render("card.html", {**page, "lmwright": __version__})))
        write_json(paths[1], facts)
        written += paths
    return written


def audit_of(store: Store, version: str) -> Result:
    """The audit of the model and the scores that a version binds."""
    scores = {made.inputs.get("scores") for made in store.makers(version)}
    for result in store.users(read_version(store, version)["model"]):
        if "audit" in result.outputs and result.inputs["scores"] in scores:
            return result
    raise BadInput(
        f"version {version[:16]} was never audited",
        "a version whose recipe has the stage audit",
        "put audit before promote, and run the recipe again",
    )
