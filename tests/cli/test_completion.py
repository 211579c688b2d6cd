"""Completion in shells: every verb, every option, no torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
import typer

from lmwright.cli.completion import SCRIPTS, Shell, options
from lmwright.cli.main import main
from lmwright.shipped import shipped_recipes
from lmwright.tables import VERBS


def options_by_typer(verb: str) -> set[str]:
    """The long options that the command itself takes."""
    module, _, attribute = VERBS[verb][0].partition(":")
    app = typer.Typer(add_completion=False)
    app.command(name=verb)(getattr(import_module(module), attribute))
    command: Any = typer.main.get_command(app)
    found = {"--help"}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            found |= {*parameter.opts, *parameter.secondary_opts}
    return {name for name in found if name.startswith("--")}


@pytest.mark.parametrize("verb", VERBS)
def test_the_options_in_the_source_are_those_that_the_verb_takes(verb: str) -> None:
    assert set(options(verb)) == options_by_typer(verb)


def test_a_script_is_made_without_torch() -> None:
    code = (
        "import sys; from lmwright.cli.main import main; main(['completion', 'fish']); "
        "print([m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


COMPLETED = [
    (["r"], {"run", "runs", "report", "replay", "rollback"}),
    (["plan", "--"], {"--store", "--set", "--forecast", "--no-forecast", "--json", "--help"}),
    (["new", ""], {*shipped_recipes()}),
    (["help", "cha"], {"chat"}),
    (["completion", "z"], {"zsh"}),
]


@pytest.mark.parametrize(
    ("typed", "offered"), COMPLETED, ids=[" ".join(typed) for typed, _ in COMPLETED]
)
def test_bash_completes(typed: list[str], offered: set[str]) -> None:
    """By bash itself, which every machine that runs the tests' scripts has."""
    words = " ".join(f"'{word}'" for word in ["lmwright", *typed])
    ask = f'COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _lmwright; echo "${{COMPREPLY[@]}}"'
    script = SCRIPTS[Shell.bash]() + ask
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    found = set(done.stdout.split())
    assert found == offered or (typed == ["r"] and offered <= found), done.stderr
    assert all(word.startswith(typed[-1]) for word in found)


@pytest.mark.parametrize("shell", [Shell.zsh, Shell.fish])
def test_the_other_shells_read_their_scripts(shell: Shell) -> None:
    script = SCRIPTS[shell]()
    assert all(verb in script for verb in [*VERBS, *shipped_recipes()])
    if shutil.which(shell.value) is not None:
        read = subprocess.run([shell.value, "-n"], input=script, capture_output=True, text=True)
        assert read.returncode == 0, read.stderr


def test_help_of_a_verb_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "gc"]) == 0
    asked = capsys.readouterr().out
    assert main(["gc", "--help"]) == 0
    assert asked == capsys.readouterr().out and "--keep-runs" in asked
    assert main(["help", "rnu"]) == 2
    assert "'run'" in capsys.readouterr().err


def test_an_unknown_option_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["runs", "--stor", "x"]) == 2
    assert "--store" in capsys.readouterr().err
