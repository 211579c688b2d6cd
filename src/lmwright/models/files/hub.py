"""Models of the Hugging Face hub by their names: the files that are read, and no others.

``hub:OWNER/NAME[@REVISION]`` goes through ``huggingface_hub`` into that library's own cache, as
its variables say (``HF_HUB_CACHE``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``): what is cached is used
without a network too.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from lmwright.core.errors import BadInput, MissingPart

PREFIX = "hub:"
NAME = re.compile(r"[\w.-]+/[\w.-]+")
REVISION = re.compile(r"[\w./-]+")
DESCRIPTION = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "chat_template.jinja",
    "adapter_config.json",
)
"""Files of model and tokenizer, and those that reveal an unsupported model."""
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")


def is_hub(address: str) -> bool:
    """True if ``address`` names a model of the hub and not a file of this machine."""
    return address.startswith(PREFIX)


def is_read(name: str) -> bool:
    """True for a file of a model that is fetched."""
    return any(fnmatch(name, pattern) for pattern in (*DESCRIPTION, *WEIGHTS))


def name_and_revision(address: str) -> tuple[str, str | None]:
    """``OWNER/NAME`` and the revision, if one is named; BadInput for anything else."""
    name, mark, revision = address.removeprefix(PREFIX).partition("@")
    right = NAME.fullmatch(name) and (REVISION.fullmatch(revision) or not mark)
    if not right or ".." in name or ".." in revision:
        raise BadInput(f"the address {address!r}", "hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    return name, revision or None


def hub_folder(address: str, weights: bool = True) -> Path:
    """The local folder of a model, fetched into the library's cache as far as it is not there.

    Without ``weights`` only what describes it is fetched. Raises BadInput for what is no such
    address, MissingPart where the library is missing, or neither the hub nor the cache has it.
    """
    name, revision = name_and_revision(address)
    try:
        import huggingface_hub
        from httpx2 import HTTPError
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise MissingPart(
            f"{address} needs the package huggingface-hub",
            "that package",
            "pip install -c constraints.txt -e '.[hub]', or name a folder",
        ) from None
    wanted = [*DESCRIPTION, *(WEIGHTS if weights else ())]
    try:
        return Path(
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted)
        )
    except HFValidationError as error:
        raise BadInput(
            f"the address {address!r}: {first_line(error)}", "a name of the hub"
        ) from None
    except (OSError, HTTPError) as error:
        raise MissingPart(
            f"{address} cannot be had: {first_line(error)}",
            "a hub that has it, or a snapshot in the cache of huggingface-hub",
            "check name, revision, access and network, or name a folder",
        ) from None


def first_line(error: Exception) -> str:
    """The first line of an error, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
