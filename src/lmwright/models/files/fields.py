"""Fields that would change a network's numbers, of which we compute one value alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.core.errors import BadInput


def only(config: Mapping[str, Any], **computed: Any) -> None:
    """BadInput, naming the field, where a config (or a GGUF file's metadata) says another value
    than the one we compute."""
    for name, value in computed.items():
        if name in config and config[name] != value:
            raise BadInput(f"{name} is {config[name]!r}", f"{value!r}, all that lmwright computes")
