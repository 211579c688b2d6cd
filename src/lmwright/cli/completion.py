"""``lmwright completion``: a script by which a shell completes verbs, options and recipes.

Options are read from the verbs' source, as importing some of them takes torch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lmwright.shipped import shipped_recipes
from lmwright.tables import VERBS

BASH = """\
_lmwright() {
    local word="${COMP_WORDS[COMP_CWORD]}" known=""
    if [ "$COMP_CWORD" = 1 ]; then
        known="%(verbs)s"
    else
        case "${COMP_WORDS[1]}:$word" in
            help:*) known="%(verbs)s" ;;
            new:[!-]*|new:) known="%(recipes)s" ;;
            completion:[!-]*|completion:) known="%(shells)s" ;;
%(options)s
        esac
    fi
    COMPREPLY=($(compgen -W "$known" -- "$word"))
}
complete -o default -F _lmwright lmwright
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + BASH
FISH = """\
complete -c lmwright -n __fish_use_subcommand -f
%(lines)s
complete -c lmwright -n '__fish_seen_subcommand_from help' -f -a '%(verbs)s'
complete -c lmwright -n '__fish_seen_subcommand_from new' -f -a '%(recipes)s'
complete -c lmwright -n '__fish_seen_subcommand_from completion' -f -a '%(shells)s'
"""


class Shell(Enum):
    """The shells that a script is written for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Print the script: for bash, eval "$(lmwright completion bash)" in ~/.bashrc."""
    print(SCRIPTS[shell](), end="")


def words() -> dict[str, str]:
    """What can stand in every script."""
    return {
        "verbs": " ".join([*VERBS, "help"]),
        "recipes": " ".join(shipped_recipes()),
        "shells": " ".join(shell.value for shell in Shell),
    }


def bash_script(template: str = BASH) -> str:
    """A function of bash, which zsh takes too."""
    cases = [f'            {verb}:-*) known="{" ".join(options(verb))}" ;;' for verb in VERBS]
    return template % {**words(), "options": "\n".join(cases)}


def fish_script() -> str:
    """A line a verb and a line an option."""
    lines = []
    for verb, (_, sentence) in VERBS.items():
        said = sentence.replace("'", "\\'")
        lines.append(f"complete -c lmwright -n __fish_use_subcommand -a {verb} -d '{said}'")
        seen = f"complete -c lmwright -n '__fish_seen_subcommand_from {verb}'"
        lines += [f"{seen} -l {option.removeprefix('--')}" for option in options(verb)]
    return FISH % {**words(), "lines": "\n".join(lines)}


SCRIPTS = {
    Shell.bash: bash_script,
    Shell.zsh: lambda: bash_script(ZSH),
    Shell.fish: fish_script,
}


def options(verb: str) -> list[str]:
    """The options of a verb, from its function's parameters."""
    module, _, attribute = VERBS[verb][0].partition(":")
    found = definitions(module)
    function = found[attribute]
    assert isinstance(function, ast.FunctionDef)
    parameters = function.args.args
    defaults = [None] * (len(parameters) - len(function.args.defaults)) + function.args.defaults
    names = list[str]()
    for parameter, default in zip(parameters, defaults, strict=True):
        assert parameter.annotation is not None
        names += declared(parameter.arg, parameter.annotation, default, found)
    return [*names, "--help"]


def declared(
    name: str, annotation: ast.expr, default: ast.expr | None, found: dict[str, ast.AST]
) -> Iterator[str]:
    """The options of one parameter: none of an argument, two of a flag that can be off too."""
    while isinstance(annotation, ast.Name):
        annotation = value_of(annotation.id, found)
    call = next(
        node
        for node in ast.walk(annotation)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )
    if isinstance(call.func, ast.Attribute) and call.func.attr != "Option":
        return
    given = [each.value for each in call.args if isinstance(each, ast.Constant)]
    flags = [each for each in given if isinstance(each, str) and each.startswith("--")]
    yield from flags or [f"--{name.replace('_', '-')}"]
    if not flags and isinstance(default, ast.Constant) and isinstance(default.value, bool):
        yield f"--no-{name.replace('_', '-')}"


def value_of(name: str, found: dict[str, ast.AST]) -> ast.expr:
    """What an alias of an annotation stands for, in its own module or where it is imported from."""
    node = found[name]
    if isinstance(node, ast.ImportFrom):
        assert node.module is not None
        return value_of(name, definitions(node.module))
    assert isinstance(node, ast.Assign)
    return node.value


def definitions(module: str) -> dict[str, ast.AST]:
    """Name -> the statement of a module that defines or imports it. Nothing of it is run."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    found: dict[str, ast.AST] = {}
    for node in ast.parse(Path(spec.origin).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {each.asname or each.name: node for each in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return found
