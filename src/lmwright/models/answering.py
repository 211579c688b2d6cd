"""Where a model that somebody asks computes: in int8 where that is close to fp32; what that costs.

Results that are stored keep the rule of ``core/device.py``, by which ``auto`` is fp32 on a CPU. In
a conversation, and in the vectors that a program asks for, nothing is stored; there ``auto`` is
int8 where the kernel library has the whole network and a measurement beside fp32 lies within a
bound. It is made once for a model, and kept. Wherever fewer bits are named, their cost is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lmwright.core.cache import user_cache
from lmwright.core.durable import write_json
from lmwright.core.hashing import hash_bytes
from lmwright.kernels.library import available
from lmwright.models.core.device import DEFAULT, PACKED, Placement, resolve_placement
from lmwright.models.network.fused import FusedStack
from lmwright.models.network.network import Network
from lmwright.models.parity import Parity, parity
from lmwright.models.text_model import TextModel

KL_BOUND = 0.01
"""The most nats that int8 may cost a token in the mean to be what ``auto`` means."""
COSINE_BOUND = 0.99
"""The least cosine to fp32 of a vector that int8 may give to be what ``auto`` means."""
SAMPLED = 64
"""Numbers of each weight that a model is known by."""
TEXT = (
    "Call me Ishmael. Some years ago—never mind how long precisely—having little or no money in my "
    "purse, and nothing particular to interest me on shore, I thought I would sail about a little "
    "and see the watery part of the world. It is a way I have of driving off the spleen and "
    "regulating the circulation. Whenever I find myself growing grim about the mouth; whenever it "
    "is a damp, drizzly November in my soul; whenever I find myself involuntarily pausing before "
    "coffin warehouses, and bringing up the rear of every funeral I meet; and especially whenever "
    "my hypos get such an upper hand of me, that it requires a strong moral principle to prevent "
    "me from deliberately stepping into the street, and methodically knocking people's hats "
    "off—then, I account it high time to get to sea as soon as I can."
)
"""The text of the measurement: the beginning of Moby Dick (Melville 1851)."""


def place_to_answer(
    model: TextModel[Any],
    device: str,
    precision: str,
    report: Callable[[str], None],
    kv: str = "fp32",
) -> Placement:
    """Place a text model as its user asks; ``report`` is told what was chosen, and why.

    Of int8, int4, and keys and values in int8 it is told what they cost. BadInput for a device or a
    precision that cannot be had.
    """
    network, placement = model.network, resolve_placement(device, precision, kv)
    network.place(placement)
    if precision == "auto" and isinstance(network, Network):
        plain = replace(placement, kv=DEFAULT.kv) == DEFAULT
        if plain and close_in_int8(model, report):
            placement = replace(placement, precision="int8")
        network.place(placement)
    if precision != "auto" or placement.kv != DEFAULT.kv:
        tell_cost(model, placement, report)
    return placement


def tell_cost(predictor: object, placement: Placement, report: Callable[[str], None]) -> None:
    """Tell what the fewer bits cost that a text model, or a predictor with one, is placed in."""
    if (found := cost_of(predictor, placement)) is not None:
        report(f"computing in {placement}: {found}")


def cost_of(predictor: object, placement: Placement) -> Parity | None:
    """The parity to fp32 of a text model, or of a predictor with one, in a placement's precision.

    None where there are no fewer bits, and where none of it can be measured. The texts are those
    of this file, so that a model has one figure whatever rows it is asked about.
    """
    held = getattr(predictor, "model", None) or getattr(predictor, "generator", None)
    model = predictor if isinstance(predictor, TextModel) else held
    fewer = placement.precision in PACKED or placement.kv != DEFAULT.kv
    if not fewer or not isinstance(model, TextModel) or not measurable(model.network):
        return None
    return kept_parity(model, placement)


def measurable(network: Any) -> bool:
    """True where the kernels are there, without which measuring parity takes minutes."""
    return isinstance(network, Network) and len(network.streams) == 1 and available()


def close_in_int8(model: TextModel[Any], report: Callable[[str], None]) -> bool:
    """True if the kernel library computes the network and int8 is within the bound."""
    network = model.network
    if not measurable(network):
        return False
    network.place(Placement("cpu", "int8"))
    fused = FusedStack.of(network)
    if fused.unfit:
        report(f"computing in fp32, as the kernels do not have this network: {fused.unfit}")
        return False
    found = kept_parity(model, Placement("cpu", "int8"))
    if found.kl_mean is not None:
        close = found.kl_mean <= KL_BOUND
    else:
        close = found.cosine_least is not None and found.cosine_least >= COSINE_BOUND
    report(f"computing in {'int8' if close else 'fp32'} (--precision): {found}")
    return close


def kept_parity(model: TextModel[Any], placement: Placement) -> Parity:
    """The parity of a placement's precisions on TEXT, measured once for these weights.

    A language model reads it whole, another its parts.
    """
    name = f"{placement.precision}-kv-{placement.kv}-{weights_key(model.network)}.json"
    path = user_cache() / "parity" / name
    try:
        return Parity(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        pass
    most = model.network.longest or len(TEXT)
    texts = [TEXT] if model.network.is_causal_lm else TEXT.split("; ")
    ids = [np.asarray(each) for each in model.tokenizer.encode(texts, most)]
    found = parity(model.network, ids, placement.precision, placement.kv)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found.to_json())
    except OSError:
        pass  # it is measured again the next time
    return found


def weights_key(network: Network) -> str:
    """A hash by which weights are known: of the shapes and of some numbers of each."""
    parts = []
    for name, each in network.named_parameters():
        step = max(1, each.numel() // SAMPLED)
        numbers = each.detach().reshape(-1)[::step].float().numpy().tobytes()
        parts += [name.encode(), str(tuple(each.shape)).encode(), numbers]
    return hash_bytes(b"\0".join(parts))[:16]
