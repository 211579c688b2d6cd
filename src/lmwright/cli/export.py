"""``lmwright export``: a model leaves in a format that others read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import STORE, StoreOption
from lmwright.models.files.export import FOLDER, export_model, export_predictor
from lmwright.models.loading import is_model_address
from lmwright.serve.load import load_version
from lmwright.store.open import existing_store


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="NAME@ALIAS or a version's hash; or a published language model: its folder, a "
            ".gguf file, asset:NAME/PATH, hub:OWNER/NAME."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A new folder, or a new .gguf file.")],
    form: Annotated[
        str,
        typer.Option(
            "--as", help="folder, onnx, peft (its adapters), or GGUF's F32, F16, BF16, Q8_0, Q4_0."
        ),
    ] = FOLDER,
    store: StoreOption = STORE,
) -> None:
    """Write a model anew: as a folder that transformers loads, adapters for PEFT, ONNX, or GGUF."""
    print(f"reading {model}", file=sys.stderr, flush=True)
    if is_model_address(model):
        export_model(model, out, form)
    else:
        loaded = load_version(existing_store(store), model)
        export_predictor(loaded.predictor, loaded.calibration, model, out, form)
    print(out)
