"""Families are leaves: nothing else knows one of them by name."""

from __future__ import annotations

import ast
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from lmwright.models.network.anatomy import anatomy
from lmwright.tables import FAMILIES

SOURCE = Path(__file__).parents[2] / "src" / "lmwright"
OTHERS = (
    "tables.py",  # the table of names
    "assets.py",  # names of published files
    "train/start.py",  # addresses of such
    "text/",  # ways to spell tokens and chats, which have families' names
    "models/files/gguf_tokenizer.py",  # the same, in that format
    "models/files/gguf_vocabulary.py",
    "plan/configs/",  # the same, as other tools name them
    "serve/calls/",  # ways to write calls, which have families' names
    "data/shapes/sharegpt.py",  # the name of a role there
    "models/files/peft.py",  # the name of a field there
    "models/files/sentence.py",  # the name of a file of sentence-transformers
)


def words_of(path: Path) -> set[str]:
    """Names and texts of a module's code, without its docstrings and comments."""
    tree = ast.parse(path.read_text("utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.FunctionDef | ast.ClassDef):
            found.add(getattr(node, "id", "") or getattr(node, "name", ""))
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return {word.lower() for each in found for word in re.findall(r"[A-Za-z0-9]+", each)}


def test_no_family_is_named_outside_the_zoo():
    words = {word for name in FAMILIES for word in re.split(r"[-_]", name)}
    names = {word for word in words if not word.isdigit()} - {"small", "text", "moe", "openai"}
    paths = [path for path in SOURCE.rglob("*.py") if "zoo" not in path.parts]
    assert len(paths) > 150
    for path in paths:
        where = str(path.relative_to(SOURCE))
        if not where.startswith(OTHERS):
            assert not names & words_of(path), where


def test_no_family_imports_another():
    for path in (SOURCE / "models" / "zoo").glob("*.py"):
        assert "lmwright.models.zoo" not in path.read_text("utf-8"), path.name


def generator() -> ModuleType:
    """The module that writes the pages of the docs, which knows each family's sizes."""
    path = Path(__file__).parents[2] / "docs" / "generate.py"
    found = spec_from_file_location("generate", path)
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_published_sizes_that_can_be_built_and_drawn(name):
    sizes = generator().sizes_of(name)
    assert sizes
    for setting in sizes.values():
        found = anatomy(setting, None)
        assert found.parameters > 1_000_000
        assert found.drawing
