"""Placing what answers rows: its networks on a device, their products in a precision."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lmwright.core.errors import BadInput
from lmwright.models.core.device import PACKED, Placement, check_placement, resolve_placement


@runtime_checkable
class Placeable(Protocol):
    """A predictor that may hold networks."""

    def place(self, placement: Placement) -> bool:
        """Place its networks; whether there are any."""


def place_networks(predictor: object, placement: Placement) -> bool:
    """Place the networks of a predictor, if it has any; whether it has."""
    return isinstance(predictor, Placeable) and predictor.place(placement)


def place_or_refuse(
    predictor: object, device: str, precision: str, what: str, kv: str = "fp32"
) -> None:
    """Place what a name stands for as settings have it.

    BadInput where they ask for what only a network has of something without one, or this machine
    has no such device.
    """
    if not place_networks(predictor, resolve_placement(device, precision, kv)):
        refuse_unplaced(device, precision, what, kv)


def refuse_unplaced(device: str, precision: str, what: str, kv: str = "fp32") -> None:
    """BadInput where the settings ask for a GPU or fewer bits, and ``what`` runs no network."""
    check_placement(device, precision, kv)
    asked = [f"device {device}"] if device == "cuda" else []
    asked += [f"precision {precision}"] if precision in ("bf16", *PACKED) else []
    asked += [f"kv {kv}"] if kv != "fp32" else []
    if asked:
        raise BadInput(
            f"{' and '.join(asked)} for {what}, which runs no network on this machine",
            "auto, or cpu and fp32",
            "leave it out",
        )
