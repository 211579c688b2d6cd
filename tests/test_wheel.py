"""The wheel works where there is no repository: its verbs, its recipes, its name in Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lmwright.core.errors import MissingPart
from lmwright.machine.compiled import find_compiler
from lmwright.serve.page import PAGE
from lmwright.shipped import shipped_recipes
from tests.small_recipe import write_reviews

ROOT = Path(__file__).parents[1]


def done(folder: Path, *words: str, seconds: float = 120, **environment: str) -> str:
    """What a command prints in a folder; it must succeed."""
    ended = subprocess.run(
        words,
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the backend that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    done(ROOT, sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    (found,) = folder.glob("*.whl")
    with zipfile.ZipFile(found) as archive:
        for path in shipped_recipes().values():
            assert archive.read(f"lmwright/recipes/{path.name}") == path.read_bytes()
        page = archive.read("lmwright/serve/page.html")
        assert page == PAGE.read_bytes(), "the page that a server gives at / comes with it"
    return found


def compiles() -> bool:
    """True where this machine has a C compiler."""
    try:
        find_compiler()
    except MissingPart:
        return False
    return True


def follow(folder: Path, python: str, **environment: str) -> None:
    """What a newcomer types in an empty folder."""

    def lmwright(*words: str) -> str:
        return done(folder, python, "-m", "lmwright.cli.main", *words, **environment)

    listed = lmwright("new")
    assert [line.split()[0] for line in listed.splitlines()] == list(shipped_recipes())
    assert "reviews.yaml is written\nquickstart.yaml is written\n" in lmwright("new", "reviews")
    planned = lmwright("plan", "quickstart.yaml", "--no-forecast")
    assert planned.split()[:2] == ["data", "to"]
    assert "never run" in planned and "promote" in planned
    write_reviews(folder / "mine.csv", 300)
    lmwright("init", "mine.csv")
    assert "never run" in lmwright("plan", "mine.yaml", "--no-forecast")


def test_the_wheel_works_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    target, folder = tmp_path / "installed", tmp_path / "empty"
    folder.mkdir()
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps")
    done(tmp_path, *pip, "--target", str(target), str(wheel))
    here = {"PYTHONPATH": str(target), "LMWRIGHT_STORE": str(folder / "store")}
    without = {"CC": str(folder / "none"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "from lmwright.kernels.library import *; print(available(), *variants())"
    told = done(folder, sys.executable, "-c", code, **here, **without)
    with_kernels = compiles()
    assert told.startswith(f"{with_kernels} "), "kernels came with the wheel"
    assert wheel.name.endswith("-py3-none-any.whl") != with_kernels
    code = "import lmwright, sys; print(lmwright.__file__, 'torch' in sys.modules)"
    found = done(folder, sys.executable, "-c", code, **here)
    assert found == f"{target / 'lmwright' / '__init__.py'} False\n"
    follow(folder, sys.executable, **here)


def test_a_recipe_is_written_over_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lmwright.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("name: mine\n")
    assert main(["new", "reviews"]) == 1
    assert "quickstart.yaml is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart.yaml"], "all or nothing"
    assert main(["new", "quickstar"]) == 1
    assert "did you mean 'quickstart'?" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_fresh_environment_takes_the_wheel_with_all_that_it_needs(
    wheel: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    done(tmp_path, sys.executable, "-m", "venv", str(tmp_path / "fresh"))
    python = str(tmp_path / "fresh" / "bin" / "python")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    done(tmp_path, *pip, "-c", str(ROOT / "constraints.txt"), str(wheel), seconds=1200)
    store = {"LMWRIGHT_STORE": str(folder / "store")}
    follow(folder, python, **store)
    shutil.copy(tmp_path / "fresh" / "bin" / "lmwright", folder)
    assert "lmwright 0." in done(folder, str(folder / "lmwright"), "--version")
