"""The report: one self-contained page on a recipe, made from what its runs left and nothing else.

Each section (``sections/``) is a function from the evidence to what the template shows. A figure on
the page carries its full value and a key, so that whoever doubts it can recompute it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lmwright import __version__
from lmwright.core.durable import write_bytes
from lmwright.core.hashing import encoded
from lmwright.core.yaml12 import write_yaml
from lmwright.report.evidence import Evidence, gather
from lmwright.report.metrics import called, in_order, model_order, tiles_of, written_as
from lmwright.report.sections.audit import audit_section
from lmwright.report.sections.data import data_section
from lmwright.report.sections.decisions import gate_section, log_section
from lmwright.report.sections.errors import errors_section
from lmwright.report.sections.forecast import forecast_section
from lmwright.report.sections.learning import curves_section
from lmwright.report.sections.lineage import lineage_section
from lmwright.report.sections.scores import scores_section
from lmwright.report.sections.service import drift_section, replay_section, retraining
from lmwright.report.sections.settings import environment_section
from lmwright.report.sections.tokens import tokens_section
from lmwright.report.words import (
    count,
    duration,
    figure,
    moment,
    number,
    ranged,
    share,
    size,
)
from lmwright.store.states import alarms_of
from lmwright.store.store import Store
from lmwright.store.versions import resolve_version

TEMPLATES = Path(__file__).with_name("templates")


def write_report(store: Store, what: str, out: Path) -> Path:
    """Write :func:`report_page` to ``out``."""
    write_bytes(out.absolute(), encoded(report_page(store, what)))
    return out


def report_page(store: Store, what: str) -> str:
    """The report on a recipe's newest run; BadInput when it never ran, or for an alias behind
    which there is nothing.

    ``what`` is the recipe's name or NAME@ALIAS, whose traffic is then shown.
    """
    recipe, at, _ = what.partition("@")
    if at:
        resolve_version(store, what)
    return render("report.html", sections(gather(store, recipe, what if at else "")))


def render(template: str, page: Mapping[str, Any]) -> str:
    """A page as HTML; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "share": share,
        "count": count,
        "moment": moment,
        "duration": duration,
        "size": size,
        "figure": figure,
        "ranged": ranged,
        "called": called,
        "in_order": in_order,
        "written_as": written_as,
    }
    return environment.get_template(template).render(page)


def sections(evidence: Evidence) -> dict[str, Any]:
    """Everything that the page shows."""
    run = evidence.run
    scores = evidence.load(run.giving("scores"), "scores", "scores.json")
    audited = evidence.load(run.giving("audit"), "audit", "audit.json")
    log = evidence.decisions()
    parts: dict[str, Any] = {
        "name": evidence.recipe,
        "version": __version__,
        "made": time.time(),
        "run": {"name": run.name, "began": run.began, "state": run.state},
        "data": data_section(evidence),
        "tokens": tokens_section(evidence),
        "curves": curves_section(evidence),
        "scores": scores_section(scores, run.giving("scores")),
        "errors": errors_section(evidence, scores),
        "audit": audit_section(audited),
        "drift": drift_section(evidence),
        "alarms": alarms_of(evidence.store, evidence.alias),
        "replay": replay_section(evidence),
        "retrainings": [retraining(evidence, past) for past in evidence.retrainings],
        "gates": gate_section(evidence, log),
        "log": log_section(log),
        "lineage": lineage_section(evidence),
        "forecast": forecast_section(evidence),
        "cards": {
            name: evidence.load(run.giving("audit"), "audit", f"{name}-card.json")
            for name in ("model", "data")
        },
        "settings": write_yaml(run.raw),
        "environment": environment_section(run),
    }
    return parts | {"headline": headline(scores), "tiles": tiles(parts, scores)}


def headline(scores: Mapping[str, Any] | None) -> dict[str, str]:
    """The first line, parted into what it claims and the figures behind it."""
    if not scores:
        return {"claim": "This run was not evaluated", "figures": "", "state": "no comparison"}
    claim, _, figures = scores["headline"]["line"].rpartition(": ")
    return {"claim": claim, "figures": figures, "state": scores["headline"]["state"]}


def tiles(parts: Mapping[str, Any], scores: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The few figures at the top."""
    found: list[dict[str, Any]] = []
    if scores:
        split = scores["headline"]["split"]
        scored = scores["splits"][split]
        metrics = scored["models"][model_order(scored)[0]]["metrics"]
        for place, name in enumerate(tiles_of(metrics, scores["primary"])):
            words = called(name) + (f" on {split}" if place == 0 else "")
            words += ", lower is better" if name in scored["losses"] else ""
            words += "; “unsure” elsewhere" if name == "coverage" else ""
            found.append({"value": metrics[name], "words": words, "shown": written_as(name)})
    if parts["audit"]:
        found.append({"text": parts["audit"]["headline"], "words": "checks of the audit"})
    if parts["gates"]:
        last = parts["gates"][-1]
        said = {"promote": "passed", "refuse": "refused"}.get(last["action"], last["action"])
        found.append({"text": said, "words": f"the gate, decision {last['number']}"})
    return found
