"""Detection of the format of a tokenizer's file or folder."""

from __future__ import annotations

from pathlib import Path

from lmwright.core.errors import BadInput
from lmwright.core.reading import FETCH_AGAIN
from lmwright.text.formats.layout import PICKLED, Converted, read_bytes, refused_pickle
from lmwright.text.formats.merges import read_clip, read_merges
from lmwright.text.formats.ranks import read_ranks
from lmwright.text.formats.sentencepiece import read_sentencepiece
from lmwright.text.formats.wordpiece import read_wordpiece

WHOLE = "tokenizer.json"
MERGES = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
TWO_SIDES = ["source.spm", "target.spm"]
"""Marian's, which share their ids: texts are cut by the first."""
PATTERNS = ("*.model", "*.model.v*", "*.spm", "*.tiktoken", "bpe_simple_vocab*", "vocab.txt")
WANTED = "tokenizer.json, *.model, *.tiktoken, vocab.json with merges.txt, vocab.txt or CLIP's"


def convert(path: Path, encoding: str = "") -> Converted:
    """The tokenizer.json of whatever is at ``path``: a file, or a folder with one tokenizer.

    A folder's tokenizer.json goes before its other files. ``encoding`` names that of a rank
    file. BadInput if nothing is there that a tokenizer can be read from.
    """
    return from_folder(path, encoding) if path.is_dir() else from_file(path, encoding)


def from_folder(folder: Path, encoding: str) -> Converted:
    """The tokenizer of a folder."""
    if (folder / WHOLE).is_file():
        return from_file(folder / WHOLE, encoding)
    for vocabulary, merges in MERGES.items():
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            return read_merges(folder / vocabulary, folder / merges)
    found = sorted({path for pattern in PATTERNS for path in folder.glob(pattern)})
    if len(found) == 1 or [path.name for path in found] == TWO_SIDES:
        return from_file(found[0], encoding)
    if found:
        names = ", ".join(path.name for path in found)
        raise BadInput(f"{folder} has {names}", "one tokenizer", "name the file that is meant")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLED and "token" in path.name.lower():
            raise refused_pickle(path)
    raise BadInput(f"{folder} has no tokenizer", WANTED, FETCH_AGAIN)


def from_file(path: Path, encoding: str) -> Converted:
    """The tokenizer of a file, by its name and, where that says too little, its content."""
    if path.suffix == ".json" and path.name not in MERGES:
        return Converted(read_bytes(path))
    for vocabulary, merges in MERGES.items():
        if path.name in (vocabulary, merges):
            return read_merges(path.with_name(vocabulary), path.with_name(merges))
    if path.name.endswith(".txt") and "bpe" not in path.name:
        return read_wordpiece(path)
    if path.name.startswith("bpe_simple_vocab"):
        return read_clip(path)
    data = read_bytes(path)
    # A rank file may be called tokenizer.model too; its first line is base64, a space, a number.
    if path.suffix == ".tiktoken" or data[:64].split(b"\n")[0].endswith(b" 0"):
        return read_ranks(path, encoding)
    if ".model" in path.name or path.suffix == ".spm":
        return read_sentencepiece(path)
    raise BadInput(f"{path} is in no known format", WANTED, FETCH_AGAIN)
