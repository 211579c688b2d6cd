"""Config fields that change a network's numbers, and of which one value alone is supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.core.errors import BadInput


def only(config: Mapping[str, Any], **computed: Any) -> None:
    """Raise BadInput for a field of a config or of GGUF's metadata with an unsupported value.

    ``computed``: the fields, each with the one value that is computed.
    """
    for name, value in computed.items():
        if name in config and config[name] != value:
            raise BadInput(f"{name} is {config[name]!r}", f"{value!r}, all that lmwright computes")
