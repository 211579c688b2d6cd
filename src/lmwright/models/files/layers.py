"""Some layers of a published model: a smaller start with the weights of a larger one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from lmwright.core.errors import BadInput
from lmwright.models.core.spec import ModelSpec, Stack
from lmwright.models.files.folder import Published
from lmwright.models.network.network import build

LAYER = re.compile(r"(stacks\.[^.]+\.layers\.)([0-9]+)(\..+)")


def with_layers(published: Published, layers: Sequence[int]) -> Published:
    """A published model of which each stack has these layers alone, counted from 0, in this order.

    So DistilBERT was begun from every second layer of BERT (Sanh et al. 2019, section 3). BadInput
    for layers that it has not, and where a layer that goes holds weights that others share.
    """
    count = min(len(stack.layers) for stack in published.spec.stacks)
    if len(set(layers)) < len(layers) or not all(0 <= place < count for place in layers):
        raise BadInput(
            f"start_layers is {[*layers]}",
            f"some of the start's {count} layers, from 0 to {count - 1}, each once",
        )
    spec = shortened(published.spec, layers)
    weights = {
        new: published.weights[old] for old in published.weights for new in renamed(old, layers)
    }
    wanted = {name for name, _ in build(spec).named_parameters()}
    if missing := sorted(wanted - weights.keys()):
        had = {name for name, _ in build(published.spec).named_parameters()} <= {*published.weights}
        if had:
            raise BadInput(
                f"start_layers is {[*layers]}, and {missing[0]} would have no weight",
                "layers among which is the one whose weights others share",
                "begin start_layers with 0",
            )
    return replace(published, described=replace(published.described, spec=spec), weights=weights)


def shortened(spec: ModelSpec, layers: Sequence[int]) -> ModelSpec:
    """A spec with these layers of each stack."""

    def own(stack: Stack) -> Stack:
        return replace(stack, layers=tuple(stack.layers[place] for place in layers))

    return replace(spec, stacks=tuple(own(stack) for stack in spec.stacks))


def renamed(name: str, layers: Sequence[int]) -> list[str]:
    """The names of a weight where these layers are left: none, where its layer is not."""
    found = LAYER.fullmatch(name)
    if found is None:
        return [name]
    place = int(found[2])
    return [f"{found[1]}{layers.index(place)}{found[3]}"] if place in layers else []
