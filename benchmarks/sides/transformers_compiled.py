"""transformers' ``generate`` with a static cache and its forward pass by ``torch.compile``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.sides import transformers

PACKAGES, PRECISIONS = transformers.PACKAGES, transformers.PRECISIONS


class Writer(transformers.Writer):
    """The eager side, compiled."""

    cache = "static"

    def __init__(
        self, folder: Path, made: Path, precision: str, threads: int, asked: dict[str, Any]
    ) -> None:
        super().__init__(folder, made, precision, threads, asked)
        import torch

        self.model.forward = torch.compile(self.model.forward)
        self.settings |= {"cache": "static", "torch.compile": "default mode"}
