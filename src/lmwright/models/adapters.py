"""Language models of a published base and an adapter folder of PEFT that stands on it."""

from __future__ import annotations

from pathlib import Path

from lmwright.core.errors import BadInput
from lmwright.core.settings import read_choice
from lmwright.models.files.peft import CONFIG, read_adapter
from lmwright.models.network.network import Network, build, fill
from lmwright.models.network.together import share_products
from lmwright.models.text_model import TextModel
from lmwright.tables import resolve


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


def with_adapter(base: TextModel[Network], folder: Path) -> TextModel[Network]:
    """A language model with the base's tensors, packed ones too, and the adapter in a folder.

    The base stays as it is. BadInput where the folder holds no adapter for this base, or weights of
    a head beside it.
    """
    network, family = base.network, resolve("families", base.family)
    adapter = read_adapter(folder, family, network.spec)
    if adapter.others:
        raise BadInput(
            f"{folder.name} holds {sorted(adapter.others)[0]} beside its adapters",
            "adapters alone, which leave the base as it is",
            "merge it into the base with the software that made it, and serve the model it gives",
        )
    found = build(network.spec, network.head_spec)
    fill(found, dict(network.named_parameters()))
    read_choice("tunes", adapter.tune, str(folder), resolve).apply(found, 0)
    adapter.put(found, [], str(folder))
    found.requires_grad_(False)
    found.place(network.placement)
    share_products(found, network)
    return TextModel(found, base.tokenizer, base.max_tokens, base.generation, base.family)
