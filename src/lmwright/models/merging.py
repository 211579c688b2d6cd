"""What merging a model's adapters changes in its outputs, at the precision that will serve."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lmwright.core.errors import BadInput
from lmwright.models.core.device import Placement
from lmwright.models.network.merge import merged
from lmwright.models.network.network import Network
from lmwright.models.parity import Parity, of_distributions, of_means
from lmwright.models.text_model import TextModel, head_spec


@torch.inference_mode()
def cost_of_merging(
    model: TextModel[Network], texts: Sequence[str], precision: str
) -> Parity | None:
    """How far outputs of the merged network are from those of the adapters on their base, both in
    ``precision``; None for a network without adapters.

    Of outputs that are a distribution (tokens, labels) the divergence and the share of equal
    choices, of others cosines of states. BadInput without a text, and for several streams.
    """
    network, whole = model.network, merged(model.network)
    if whole is network:
        return None
    if not texts or len(network.streams) > 1:
        raise BadInput("no texts, or a network of several streams", "texts of one stream")
    if network.is_causal_lm:
        ids = [model.document(text, closed=False)[: model.max_tokens] for text in texts]
        ids = [each for each in ids if len(each)]
    else:
        ids = [each.ids for each in model.tokens(texts)]
    before, name = network.placement, f"merged, in {precision}"
    try:
        for each in (network, whole):
            each.place(Placement(before.device, precision))  # type: ignore[arg-type]
        if head_spec(network).outputs > 1:
            return of_distributions(network, whole, ids, name)
        return of_means(network, whole, ids, name)
    finally:
        network.place(before)
