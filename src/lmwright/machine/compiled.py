"""Programs in C: compiled once into the cache of the user, where there is a C compiler."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lmwright.core.errors import MissingPart
from lmwright.core.hashing import hash_json

SOURCE = Path(__file__).with_name("product.c")
OPTIONS = ("-O2",)
COMPILERS = ("cc", "gcc", "clang")
COMPILE_SECONDS = 20


class TooSlow(MissingPart):
    """A compiler did not end in time."""


def find_compiler(
    purpose: str = "to try the instructions of this CPU themselves",
    without: str = "torch's own products are tried",
) -> list[str]:
    """The command of the C compiler: ``$CC``, else the first of ``cc``, ``gcc`` and ``clang``.

    MissingPart where there is none; it says what the compiler is for and what is done without one.
    """
    asked = shlex.split(os.environ.get("CC", ""))
    for command in [asked] if asked else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    raise MissingPart(
        f"no C compiler ({' '.join(asked) or ', '.join(COMPILERS)}) was found",
        f"one, {purpose}",
        f"install gcc or clang; without one {without}",
    )


def compiler_version(command: list[str]) -> str:
    """The first line that a compiler prints of its version; MissingPart where it does not run."""
    try:
        told = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=COMPILE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingPart(f"{shlex.join(command)} --version failed: {error}") from error
    return (told.stdout or told.stderr).partition("\n")[0].strip()


def compile_source(folder: Path, source: Path = SOURCE) -> Path:
    """The program of a C source, in ``folder`` by hash of source, options and compiler version.

    MissingPart where there is no compiler, on another CPU than x86-64, another system than Linux,
    and for a compiler that does not know the instructions.
    """
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise MissingPart(f"the C products are of Linux on x86-64, not {platform.platform()}")
    command = find_compiler()
    parts = [source.read_text("utf-8"), *command, *OPTIONS, compiler_version(command)]
    return made_once(
        folder / f"product-{hash_json(parts)[:16]}",
        lambda made: run_compiler([*command, *OPTIONS, "-o", str(made), str(source)], made),
    )


def made_once(kept: Path, make: Callable[[Path], None]) -> Path:
    """``kept``, which ``make`` writes beside its place if it is not there yet."""
    if kept.is_file():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as beside:
        made = Path(beside) / "made"
        make(made)
        made.rename(kept)
    return kept


def run_compiler(command: Sequence[str], made: Path, seconds: float = COMPILE_SECONDS) -> None:
    """Run a compiler, which writes ``made``; MissingPart where it fails, with its first words.

    TooSlow where it is stopped after ``seconds``.
    """
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise TooSlow(f"{command[0]} did not end within {seconds:g} seconds") from error
    except OSError as error:
        raise MissingPart(f"{command[0]} failed: {error}") from error
    if ended.returncode or not made.is_file():
        words = (ended.stderr.strip().splitlines() or ["no message"])[0]
        raise MissingPart(
            f"{command[0]} does not compile {Path(command[-1]).name}: {words}",
            "gcc 11 or clang 12, or newer ones",
        )
