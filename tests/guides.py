"""The examples of the guides, taken out so that tests can run them."""

from __future__ import annotations

import re
from pathlib import Path

GUIDES = Path(__file__).parents[1] / "docs" / "guides"


def examples(guide: str, heading: str) -> str:
    """The Python of one section of a guide, its blocks one after another."""
    page = (GUIDES / guide).read_text("utf-8")
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert blocks, f"{guide} has no example under {heading!r}"
    return "\n".join(blocks)
