"""Maps of each token by itself: dense, gated, or by a few experts of many.

Letters in names: n tokens, d width, e experts, i inner width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.blocks.activation import BENDS
from lmwright.models.blocks.build import Place
from lmwright.models.blocks.context import Flow
from lmwright.models.core import spec
from lmwright.models.core.matmul import Linear, linear


class FeedForward(nn.Module):
    """Two linear maps with a bend between them; ``gated``: bend(gate) times the other map."""

    mixes_tokens = False

    def __init__(self, setting: spec.FeedForward, place: Place) -> None:
        super().__init__()
        self.bend, self.gated, self.width = BENDS[setting.bend], setting.gated, place.width
        self.rate, self.site = place.rate if setting.drops else 0.0, next(place.sites)
        # Gate and value in one product; the gate's rows stand first.
        rows = 2 * setting.inner if setting.gated else setting.inner
        self.up = Linear(place.width, rows, setting.bias)
        self.down = Linear(setting.inner, place.width, setting.bias)

    def forward(self, x_nd: Tensor, flow: Flow) -> Tensor:
        """The stream (n, d), each token mapped by itself."""
        y_ni = bent(self.up(x_nd), self.bend, self.gated)
        if flow.noise is not None and self.rate:
            y_ni = y_ni * flow.noise.rows(flow.batch, y_ni, self.rate, self.site)
        return self.down(y_ni)


def bent(x: Tensor, bend: object, gated: bool) -> Tensor:
    """bend(x), or with a gate bend(first half) times the second half."""
    assert callable(bend)
    if not gated:
        found: Tensor = bend(x)
        return found
    gate, value = x.chunk(2, dim=-1)
    return bend(gate) * value


class Experts(nn.Module):
    """Each token goes to the few experts that a router chooses (Shazeer et al. 2017).

    In training the loss for an even load, experts * sum over experts of the share of choices times
    the mean probability (Fedus et al. 2022, equation 4), joins ``flow.losses``.
    """

    mixes_tokens = False

    def __init__(self, setting: spec.Experts, place: Place) -> None:
        super().__init__()
        self.setting, self.bend, self.width = setting, BENDS[setting.bend], place.width
        width, count = place.width, setting.experts
        rows = setting.inner * (2 if setting.gated else 1)
        self.router = Linear(width, count, bias=False)
        self.up = nn.Parameter(torch.empty(count, rows, width))
        self.down = nn.Parameter(torch.empty(count, width, setting.inner))
        self.up_bias = nn.Parameter(torch.empty(count, rows)) if setting.bias else None
        self.down_bias = nn.Parameter(torch.empty(count, width)) if setting.bias else None
        self.shared: FeedForward | None = None
        self.shared_gate: Linear | None = None
        if setting.shared:
            dense = spec.FeedForward(
                inner=setting.shared, bend=setting.bend, gated=setting.gated, bias=setting.bias
            )
            self.shared = FeedForward(dense, place)
            self.shared_gate = Linear(width, 1, bias=False) if setting.shared_gate else None

    def forward(self, x_nd: Tensor, flow: Flow) -> Tensor:
        """The stream (n, d), each token mapped by its experts, weighed by the router."""
        scores_ne = self.router(x_nd)
        chosen, weights = self.choose(scores_ne)
        if self.setting.balance and flow.noise is not None:
            flow.losses.append(self.setting.balance * imbalance(scores_ne, chosen))
        y_nd = torch.zeros_like(x_nd)
        for expert in chosen.unique().tolist():
            rows, place = (chosen == expert).nonzero(as_tuple=True)
            mapped = self.expert(expert, x_nd[rows]) * weights[rows, place, None]
            y_nd = y_nd.index_add(0, rows, mapped)
        if self.shared is None:
            return y_nd
        always_nd = self.shared(x_nd, flow)
        if self.shared_gate is not None:
            always_nd = always_nd * torch.sigmoid(self.shared_gate(x_nd))
        return y_nd + always_nd

    def choose(self, scores_ne: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers and weights of each token's experts (n, top)."""
        if self.setting.late:
            scores, chosen = scores_ne.topk(self.setting.top, dim=-1)
            return chosen, torch.softmax(scores, dim=-1)
        weights, chosen = torch.softmax(scores_ne, dim=-1).topk(self.setting.top, dim=-1)
        if self.setting.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return chosen, weights

    def expert(self, number: int, x_nd: Tensor) -> Tensor:
        """Some tokens (n, d) through one expert."""
        biases = [None if b is None else b[number] for b in (self.up_bias, self.down_bias)]
        y_ni = bent(linear(x_nd, self.up[number], biases[0]), self.bend, self.setting.gated)
        return linear(y_ni, self.down[number], biases[1])


def imbalance(scores_ne: Tensor, chosen: Tensor) -> Tensor:
    """1 at an even load, more elsewhere (Fedus et al. 2022, equation 4, over all choices)."""
    experts = scores_ne.shape[1]
    shares_e = F.one_hot(chosen, experts).to(scores_ne.dtype).mean((0, 1))
    return experts * (shares_e * torch.softmax(scores_ne, dim=-1).mean(0)).sum()


class Projection(nn.Module):
    """A linear map of each token to another width, bent."""

    mixes_tokens = False

    def __init__(self, setting: spec.Projection, place: Place) -> None:
        super().__init__()
        self.bend, self.width = BENDS[setting.bend], setting.outputs
        self.map = Linear(place.width, setting.outputs, setting.bias)

    def forward(self, x_nd: Tensor, flow: Flow) -> Tensor:
        """(n, d) -> (n, outputs)."""
        return self.bend(self.map(x_nd))
