"""The stage ``base``: a published model, committed as an artifact before another stands on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmwright.assets import asset_licence, is_asset
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate
from lmwright.core.yaml12 import parse_yaml
from lmwright.models.files.gguf import read_gguf
from lmwright.models.files.published import (
    check_address,
    content_of,
    copy_published,
    is_gguf,
    located,
)

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Base(Stage):
    """Copy the published model at ``start`` into the store, as it was found.

    A training that leaves the body of a published start as it is (``tune``) brings this stage, and
    its model stands on the artifact. ``start`` is an address as of ``train``. The artifact holds
    the model's own files and nothing of the address, so that equal models are one artifact.
    """

    start: str

    def gives(self) -> tuple[str, ...]:
        """The published model."""
        return ("base",)

    def learns_from(self) -> tuple[str, ...]:
        """The model itself, by its content: it can be withdrawn as a source can."""
        return (source_of(self.start),)

    def reads(self) -> dict[str, str]:
        """The published model."""
        return {self.start: content_of(self.start)}

    def check(self) -> None:
        """BadInput for an address at which there can be no model."""
        check_address(self.start)

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """A copy of the model."""
        return WorkEstimate(disk=known.model_bytes())

    def run(self, work: Work) -> dict[str, Any]:
        """Copy the files; the facts say where they come from and under which licence."""
        source = located(self.start)
        copy_published(source, work.out("base"))
        return {
            "learns_from": list(self.learns_from()),
            "address": self.start,
            "licence": licence_of(self.start, source),
        }


def source_of(address: str) -> str:
    """The name under which a published model is withdrawn."""
    return f"base:{content_of(address)[:16]}"


def licence_of(address: str, source: Path) -> str:
    """What an asset, a GGUF file or a folder's README.md says of the licence, or ``unknown``."""
    if is_asset(address):
        return asset_licence(address)
    if is_gguf(source):
        return str(read_gguf(source).metadata.get("general.license", "unknown"))
    page = source / "README.md"
    text = page.read_text("utf-8", "replace") if page.is_file() else ""
    front = FRONT_MATTER.match(text)
    said = parse_yaml(front[1], str(page)) if front else None
    return str(said.get("license", "unknown")) if isinstance(said, Mapping) else "unknown"
