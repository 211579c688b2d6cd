"""Bases: artifacts that another cannot be read without, named in it by their content hash."""

from __future__ import annotations

import re
from pathlib import Path

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.reading import read_json_object

BASE = "base.json"
"""The file of an artifact that says what it stands on; its ``artifacts`` are content hashes."""
CONTENT = re.compile(r"[0-9a-f]{64}")


def bases_of(folder: Path) -> list[str]:
    """The content hashes of the artifacts that the one in a folder stands on; none for most.

    Corrupt where its file names anything else.
    """
    path = folder / BASE
    if not path.is_file():
        return []
    named = read_json_object(path).get("artifacts")
    if not isinstance(named, list) or not all(
        isinstance(each, str) and CONTENT.fullmatch(each) for each in named
    ):
        raise Corrupt(f"{path} names {named!r}", "content hashes of artifacts")
    return named


def base_folder(folder: Path, content: str) -> Path:
    """The folder of a base, which stands beside the artifact that ``folder`` is or is a part of."""
    for above in folder.absolute().parents:
        if (above / content).is_dir():
            return above / content
    raise missing_base(folder.name, content)


def with_bases(folder: Path) -> list[Path]:
    """A folder and those of all that it stands on, each once."""
    found = [folder]
    for place in found:
        more = [base_folder(place, content) for content in bases_of(place)]
        found += [each for each in more if each not in found]
    return found


def missing_base(artifact: str, content: str) -> BadInput:
    """The fault of an artifact without its base."""
    return BadInput(
        f"{artifact[:12]} stands on the artifact {content[:12]}, which is not in the store",
        "its base beside it",
        f"pull {content[:12]}: open the store with the remote that has it (LMWRIGHT_REMOTE); "
        "or run the recipe that made it again",
    )
