"""``lmwright export``: a model leaves in a format that others read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lmwright.cli.open import STORE, StoreOption
from lmwright.core.task import Task
from lmwright.data.corpus import read_split
from lmwright.models.files.export import FOLDER, export_model, export_predictor
from lmwright.models.loading import is_model_address
from lmwright.serve.load import load_version
from lmwright.store.open import existing_store
from lmwright.store.store import Store
from lmwright.store.versions import read_version, resolve_version

HELD_OUT = 32
"""Test rows on which a merged model is compared with its adapters."""


def held_out(store: Store, name: str, task: Task) -> list[str]:
    """Texts of test rows that a version was scored on; none where the store has them no more."""
    bound = read_version(store, resolve_version(store, name))["artifacts"]
    folder = store.folder / "artifacts" / str(bound.get("rows"))
    if not (folder / "test.parquet").is_file():
        return []
    return [task.text(row) for row in read_split(folder, "test", HELD_OUT).to_pylist()]


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
        known = existing_store(store)
        loaded = load_version(known, model)
        texts = held_out(known, model, loaded.task)
        cost = export_predictor(loaded.predictor, loaded.calibration, model, out, form, texts)
        if cost is not None:
            print(cost, file=sys.stderr)
    print(out)
