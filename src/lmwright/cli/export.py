"""``lmwright export``: a language model leaves in a format that others read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lmwright.models.files.export import FOLDER, export_model


def export(
    model: Annotated[
        str,
        typer.Argument(help="A model's folder, a .gguf file, asset:NAME/PATH, or hub:OWNER/NAME."),
    ],
    out: Annotated[Path, typer.Argument(help="A new folder, or a new .gguf file.")],
    form: Annotated[
        str, typer.Option("--as", help="folder, or GGUF's F32, F16, BF16, Q8_0, Q4_0.")
    ] = FOLDER,
) -> None:
    """Write a model anew: as a folder that transformers loads, or as one GGUF file."""
    print(f"reading {model}", file=sys.stderr, flush=True)
    export_model(model, out, form)
    print(out)
