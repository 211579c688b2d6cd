"""A store's copy on an object store, through fsspec: what is done here can be had elsewhere.

blobs/SHA256                 a file's bytes, immutable under their hash
artifacts/HASH.json          an artifact's files: path -> sha256 and bytes; written after its blobs
results/STAMP/0.json         a stage's manifest; written after its artifacts
decisions/00000001.json      the decision log

Only names that nobody has taken are written, and each name after what it speaks of, so a push
that is cut short leaves nothing that a reader could take for whole.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from lmwright.core.errors import BadInput, Corrupt, LmwrightError, MissingPart
from lmwright.core.hashing import canonical, hash_tree, tree

SHA256 = re.compile(r"[0-9a-f]{64}")
TAKEN = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
"""How object stores say that a name of a conditional write is taken."""


class Remote:
    """A place such as ``s3://bucket/folder``, ``file:///mnt/share`` or ``memory://name``."""

    def __init__(self, url: str) -> None:
        self.url = url
        local = url.startswith(("file:", "local:"))
        options = {"auto_mkdir": True} if local else {"use_listings_cache": False}
        try:
            self.files, root = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            raise MissingPart(
                f"{url.partition(':')[0]} needs a package: {error}",
                "the fsspec driver of this object store",
                "install it, for example s3fs for s3://",
            ) from None
        except (ValueError, TypeError) as error:
            raise BadInput(
                f"the remote {url!r}: {error}", "an address of fsspec", "as in s3://bucket/folder"
            ) from None
        self.root = root.rstrip("/")
        self.local = local

    # Artifacts

    def push_artifact(self, folder: Path, content: str) -> None:
        """Copy an artifact's files there, and its manifest last. What is there is not sent again.

        Raises Corrupt when the folder no longer has the content that its name says.
        """
        if self.has(f"artifacts/{content}.json"):
            return
        files = tree(folder)
        if hash_tree(files) != content:
            raise Corrupt(
                f"artifact {content[:12]} is damaged here",
                "its own content",
                "run its recipe with --again: what is made anew takes its place",
            )
        for name, entry in files.items():
            blob = f"blobs/{entry['sha256']}"
            if self.size(blob) == entry["bytes"]:
                continue
            with self.faults():
                self.files.put_file(str(folder / name), self.place(blob))
        self.create(f"artifacts/{content}.json", canonical(files))

    def pull_artifact(self, content: str, folder: Path) -> bool:
        """Fill ``folder`` with an artifact's files; False when it is not there.

        Raises Corrupt unless what arrived has the content that the name says.
        """
        raw = self.read(f"artifacts/{content}.json")
        if raw is None:
            return False
        for name, blob in listed(raw, content).items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.faults():
                self.files.get_file(self.place(f"blobs/{blob}"), str(target))
        if hash_tree(tree(folder)) != content:
            raise Corrupt(
                f"artifact {content[:12]} is damaged at {self.url}",
                "the content that its name says",
                "remove its manifest and blobs there; a store that has it pushes it again",
            )
        return True

    def artifacts(self, prefix: str) -> list[str]:
        """The content hashes there that start with ``prefix``."""
        return [name[:-5] for name in self.names("artifacts") if name.startswith(prefix)]

    # Small files: manifests and decisions

    def names(self, folder: str) -> list[str]:
        """The sorted paths of all files below a folder, relative to it; beginnings left out."""
        place = self.place(folder)
        with self.faults():
            try:
                found = self.files.find(place)
            except FileNotFoundError:
                return []
        names = (str(path)[len(place) :].lstrip("/") for path in found)
        return sorted(name for name in names if name.endswith(".json"))

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """A file's bytes, or None when it is not there."""
        with self.faults():
            try:
                return int(self.files.info(self.place(name))["size"])
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes | None:
        """A small file's bytes, or None when it is not there."""
        with self.faults():
            try:
                return bytes(self.files.cat_file(self.place(name)))
            except FileNotFoundError:
                return None

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file whole unless there is one; of two writers at once, one gets True."""
        place = self.place(name)
        with self.faults():
            try:
                if self.local:
                    create_file(Path(place), data)
                else:
                    self.files.pipe_file(place, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if TAKEN & set(re.findall(r"\w+", f"{error} {error.__cause__}")):
                    return False
                raise
        return True

    def place(self, name: str) -> str:
        """A name's full path there."""
        return f"{self.root}/{name}"

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn what the driver raises into words; what a caller expects is passed on."""
        try:
            yield
        except (LmwrightError, FileExistsError):
            raise
        except Exception as error:
            raise LmwrightError(
                f"{self.url} says: {type(error).__name__}: {error}",
                "an object store that can be read and written",
                "mend it and run again; what is done here is kept and pushed then",
            ) from error


def listed(raw: bytes, content: str) -> dict[str, str]:
    """An artifact's manifest as path -> blob. Corrupt unless it is the one its name says."""
    try:
        files: dict[str, dict[str, Any]] = json.loads(raw)
        blobs = {name: entry["sha256"] for name, entry in files.items()}
        whole = hash_tree(files) == content
    except (ValueError, KeyError, TypeError, AttributeError):
        whole, blobs = False, {}
    inside = all(
        SHA256.fullmatch(str(blob))
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        and "\\" not in name
        for name, blob in blobs.items()
    )
    if not whole or not inside:
        raise Corrupt(f"the manifest of artifact {content[:12]} is not what its name says")
    return blobs


def create_file(path: Path, data: bytes) -> None:
    """Write a file whole and durably; FileExistsError when the name is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        with beside.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(beside, path)  # unlike a rename, it never replaces
    finally:
        beside.unlink(missing_ok=True)
