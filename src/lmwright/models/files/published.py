"""A published model, in whichever form it comes: a folder, a name of the hub, or one GGUF file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from lmwright.assets import asset_file, asset_hash, is_asset
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.hashing import hash_file, hash_tree, tree
from lmwright.models.files.folder import Described, Published, describe_folder, read_folder
from lmwright.models.files.gguf_model import describe_gguf, read_gguf_model
from lmwright.models.files.hub import hub_folder, is_hub, is_read, name_and_revision
from lmwright.text.generation import is_hosted

COPIED = re.compile(r".+\.(json|jinja|safetensors|spm|tiktoken|txt|bpe|model(\.v\w+)?)")
"""The files of a published folder that are copied: config, template, weights, tokenizer."""
FOLDER, FILE = "published", "published.gguf"
"""A published model inside a predictor's folder."""


def copy_published(source: Path, folder: Path) -> None:
    """Copy a published model, as it was found, into a predictor's folder."""
    if is_gguf(source):
        shutil.copyfile(source, folder / FILE)
        return
    (folder / FOLDER).mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and COPIED.fullmatch(path.name):
            shutil.copyfile(path, folder / FOLDER / path.name)


def published_in(folder: Path) -> Path:
    """The published model that :func:`copy_published` put into a predictor's folder."""
    source = folder / (FILE if (folder / FILE).is_file() else FOLDER)
    if not source.exists():
        raise Corrupt(f"{folder} holds no language model", f"{FOLDER} or {FILE}")
    return source


def located(address: str, weights: bool = True) -> Path:
    """Resolve the address of a model to a path.

    It is a path of this machine, ``asset:NAME/inside``, or ``hub:OWNER/NAME``, which is fetched,
    without its ``weights`` if they are not asked for. BadInput if elsewhere.
    """
    if is_hosted(address):
        raise BadInput(
            "a hosted model, of which nothing is on this machine",
            "a model's folder, a .gguf file, asset:NAME/PATH, or hub:OWNER/NAME",
            "generate and chat with hosted models, or evaluate them",
        )
    if is_hub(address):
        return hub_folder(address, weights)
    return asset_file(address) if is_asset(address) else Path(address)


def check_address(address: str) -> None:
    """Raise BadInput for an address at which no model of this machine or of the hub can be.

    A name of the hub must say its revision, or a recipe would mean another model tomorrow.
    """
    if is_hub(address):
        if name_and_revision(address)[1] is None:
            raise BadInput(
                f"{address} names no revision", "hub:OWNER/NAME@REVISION", "name a commit or a tag"
            )
    elif is_asset(address):
        asset_hash(address)
    elif not Path(address).exists():
        raise BadInput(
            f"there is no {address}",
            "a published model's folder, asset:NAME/PATH, or hub:OWNER/NAME@REVISION",
        )


def content_of(address: str) -> str:
    """The hash of the model at an address, which is fetched if it is the hub's."""
    if is_asset(address):
        return asset_hash(address)
    path = located(address)
    if path.is_file():
        return hash_file(path)
    files = tree(path)
    if is_hub(address):  # whose cache may hold more of it, for others
        files = {name: entry for name, entry in files.items() if is_read(name)}
    return hash_tree(files)


def read_published(address: str) -> Published:
    """Read a model's weights and tokenizer."""
    path = located(address)
    return read_gguf_model(path) if is_gguf(path) else read_folder(path)


def describe(address: str) -> Described:
    """Read a model's description without its weights."""
    path = located(address, weights=False)
    return describe_gguf(path) if is_gguf(path) else describe_folder(path)


def family_modules(address: str) -> tuple[str, ...]:
    """The modules of the family that the model at an address is of."""
    family = describe(address).family
    parts = (family.spec, family.config, family.weights)
    return tuple(sorted({part.__module__ for part in parts}))


def is_gguf(path: Path) -> bool:
    """True if a path is to be read as one GGUF file."""
    return path.suffix.lower() == ".gguf" or path.is_file()
