"""A published model, in whichever form it comes: a folder, a name of the hub, or one GGUF file."""

from __future__ import annotations

from pathlib import Path

from lmwright.core.assets import asset_file, is_asset
from lmwright.core.errors import BadInput
from lmwright.models.files.folder import Described, Published, describe_folder, read_folder
from lmwright.models.files.gguf_model import describe_gguf, read_gguf_model
from lmwright.models.files.hub import hub_folder, is_hub
from lmwright.models.hosted import is_hosted


def located(address: str, weights: bool = True) -> Path:
    """Where a model is: a path of this machine, ``asset:NAME/inside``, or ``hub:OWNER/NAME``,
    which is fetched, without its ``weights`` if they are not asked for. BadInput if elsewhere."""
    if is_hosted(address):
        raise BadInput(
            "a hosted model, of which nothing is on this machine",
            "a model's folder, a .gguf file, asset:NAME/PATH, or hub:OWNER/NAME",
            "generate and chat with hosted models, or evaluate them",
        )
    if is_hub(address):
        return hub_folder(address, weights)
    return asset_file(address) if is_asset(address) else Path(address)


def read_published(address: str) -> Published:
    """Read a model's weights and tokenizer."""
    path = located(address)
    return read_gguf_model(path) if is_gguf(path) else read_folder(path)


def describe(address: str) -> Described:
    """What a model says of itself; its weights are left where they are."""
    path = located(address, weights=False)
    return describe_gguf(path) if is_gguf(path) else describe_folder(path)


def is_gguf(path: Path) -> bool:
    """Whether a path is to be read as one GGUF file."""
    return path.suffix.lower() == ".gguf" or path.is_file()
