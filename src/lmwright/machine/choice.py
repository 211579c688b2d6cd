"""The fastest product for each kind of work on this CPU, by measured rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lmwright.machine.probe import Machine

Product = Literal["fp32", "bf16", "int8"]

WORTH = 1.2
"""The rate, in multiples of fp32, that a product has to reach: below that, noise decides, and fp32
is exact."""


@dataclass(frozen=True)
class Work:
    """A kind of work: how many rows its products have, and which products leave it correct."""

    name: str
    rows: str
    allowed: tuple[Product, ...]


WORKS = (
    # Gradients vanish in int8; what is only computed forwards does without them.
    Work("training", "512", ("fp32", "bf16")),
    Work("prefill and embedding", "512", ("fp32", "bf16", "int8")),
    Work("decoding 16 at once", "16", ("fp32", "bf16", "int8")),
    Work("decoding 4 at once", "4", ("fp32", "bf16", "int8")),
    Work("decoding one", "1", ("fp32", "bf16", "int8")),
)


@dataclass(frozen=True)
class Choice:
    """The fastest product for a kind of work, and the figures that say so."""

    work: str
    product: Product
    why: str


def choices(machine: Machine) -> list[Choice]:
    """The product for each kind of work; none for work at whose rows fp32 was not measured."""
    return [found for work in WORKS if (found := choice(machine, work)) is not None]


def choice(machine: Machine, work: Work) -> Choice | None:
    """The fastest product that the work allows, if it is WORTH times fp32, else fp32."""
    reached = {
        name: rate
        for name in work.allowed
        if (rate := reached_rate(machine, name, work.rows)) is not None
    }
    if "fp32" not in reached:
        return None
    best = max(reached, key=lambda name: reached[name])
    if reached[best] < WORTH * reached["fp32"]:
        best = "fp32"
    figures = ", ".join(f"{name} {rate:.0f}" for name, rate in reached.items())
    times = reached[best] / reached["fp32"]
    words = f"{times:.1f} times fp32" if best != "fp32" else f"none is {WORTH} times fp32"
    return Choice(work.name, best, f"{words} at rows {work.rows} ({figures})")


def reached_rate(machine: Machine, product: Product, rows: str) -> float | None:
    """The rate of a product at a number of rows, by the faster of the ways to compute it."""
    ways = {"fp32": ("fp32", "onednn"), "int8": ("int8", "int8_7bit"), "bf16": ("bf16",)}
    names = ways[product]
    found = [machine.rates[name][rows] for name in names if rows in machine.rates.get(name, {})]
    return max(found, default=None)
