"""Token-wise maps: dense, gated, or by a mixture of experts.

Letters in names: n tokens, d width, e experts, i inner width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.blocks.activation import ACTIVATIONS, GRADIENTS
from lmwright.models.blocks.build import BuildContext
from lmwright.models.blocks.context import ForwardContext
from lmwright.models.core import spec
from lmwright.models.core.linear import DenseLinear, Linear, StackedLinear


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, gated or not: see ``spec.FeedForward``."""

    mixes_tokens = False

    def __init__(self, setting: spec.FeedForward, build: BuildContext) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[setting.activation]
        self.gated, self.width = setting.gated, build.width
        self.rate = build.dropout if setting.inner_dropout else 0.0
        self.dropout_id = next(build.dropout_ids)
        # Gate and value in one product; the gate's rows stand first.
        parts = [setting.inner] * (2 if setting.gated else 1)
        self.up = DenseLinear(build.width, parts, setting.bias)
        self.down = DenseLinear(setting.inner, build.width, setting.bias)

    def forward(self, x_nd: Tensor, context: ForwardContext) -> Tensor:
        """(n, d) -> (n, d)."""
        y_ni = activated(self.up(x_nd), self.activation, self.gated)
        if context.dropout_rng is not None and self.rate:
            mask_ni = context.dropout_rng.token_mask(
                context.batch, y_ni, self.rate, self.dropout_id
            )
            y_ni = y_ni * mask_ni
        return self.down(y_ni)


def activated(x: Tensor, activation: object, gated: bool) -> Tensor:
    """activation(x), or gated: activation(first half) times the second half."""
    assert callable(activation)
    if not gated:
        found: Tensor = activation(x)
        return found
    gradient = GRADIENTS.get(activation)
    if gradient is None or not torch.is_grad_enabled():
        gate, value = x.chunk(2, dim=-1)
        product: Tensor = activation(gate) * value
        return product
    gated_value: Tensor = Gated.apply(x, activation, gradient)
    return gated_value


class Gated(torch.autograd.Function):
    """activation(gate) times value; both gradients are written into one tensor."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_n: Tensor, activation: Callable[..., Tensor], gradient: Callable[..., Tensor]
    ) -> Tensor:
        """(n, 2 i) -> (n, i); ``gradient`` is the activation's."""
        gate_ni, value_ni = x_n.chunk(2, dim=-1)
        active_ni = activation(gate_ni)
        ctx.gradient = gradient
        ctx.save_for_backward(x_n, active_ni)
        return active_ni * value_ni

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient of x."""
        x_n, active_ni = ctx.saved_tensors
        gate_ni, value_ni = x_n.chunk(2, dim=-1)
        dx_n = torch.empty_like(x_n)
        dgate_ni, dvalue_ni = dx_n.chunk(2, dim=-1)
        torch.mul(gradients[0], active_ni, out=dvalue_ni)
        torch.mul(gradients[0], value_ni, out=dgate_ni)
        ctx.gradient(dgate_ni, gate_ni, grad_input=dgate_ni)
        return dx_n, None, None


class Experts(nn.Module):
    """A mixture of experts, with top-k routing of each token (Shazeer et al. 2017).

    In training the load-balancing loss, experts * sum over experts of the share of choices times
    the mean probability (Fedus et al. 2022, equation 4), joins ``context.aux_losses``.
    """

    mixes_tokens = False

    def __init__(self, setting: spec.Experts, build: BuildContext) -> None:
        super().__init__()
        self.setting, self.width = setting, build.width
        self.activation = ACTIVATIONS[setting.activation]
        width, count = build.width, setting.experts
        parts = [setting.inner] * (2 if setting.gated else 1)
        self.router = DenseLinear(width, count, bias=False)
        self.up = StackedLinear(count, width, parts, setting.bias)
        self.down = StackedLinear(count, setting.inner, width, setting.bias)
        self.shared: FeedForward | None = None
        self.shared_gate: Linear | None = None
        if setting.shared:
            dense = spec.FeedForward(
                inner=setting.shared,
                activation=setting.activation,
                gated=setting.gated,
                bias=setting.bias,
            )
            self.shared = FeedForward(dense, build)
            self.shared_gate = DenseLinear(width, 1, bias=False) if setting.shared_gate else None

    def forward(self, x_nd: Tensor, context: ForwardContext) -> Tensor:
        """(n, d) -> (n, d), each token mapped by its experts, weighed by the router."""
        scores_ne = self.router(x_nd)
        chosen, weights = self.choose(scores_ne)
        if self.setting.aux_loss_coef and context.dropout_rng is not None:
            context.aux_losses.append(self.setting.aux_loss_coef * imbalance(scores_ne, chosen))
        y_nd = torch.zeros_like(x_nd)
        for expert in chosen.unique().tolist():
            rows, rank = (chosen == expert).nonzero(as_tuple=True)
            mapped = self.expert(expert, x_nd[rows]) * weights[rows, rank, None]
            y_nd = y_nd.index_add(0, rows, mapped)
        if self.shared is None:
            return y_nd
        always_nd = self.shared(x_nd, context)
        if self.shared_gate is not None:
            always_nd = always_nd * torch.sigmoid(self.shared_gate(x_nd))
        return y_nd + always_nd

    def choose(self, scores_ne: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers and weights of each token's experts (n, top_k)."""
        if self.setting.softmax_over_top_k:
            scores, chosen = scores_ne.topk(self.setting.top_k, dim=-1)
            return chosen, torch.softmax(scores, dim=-1)
        weights, chosen = torch.softmax(scores_ne, dim=-1).topk(self.setting.top_k, dim=-1)
        if self.setting.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return chosen, weights

    def expert(self, number: int, x_nd: Tensor) -> Tensor:
        """Some tokens (n, d) through one expert."""
        y_ni = activated(self.up(x_nd, member=number), self.activation, self.setting.gated)
        return self.down(y_ni, member=number)


def imbalance(scores_ne: Tensor, chosen: Tensor) -> Tensor:
    """1 at an even load, more elsewhere (Fedus et al. 2022, equation 4, over all choices)."""
    experts = scores_ne.shape[1]
    shares_e = F.one_hot(chosen, experts).to(scores_ne.dtype).mean((0, 1))
    return experts * (shares_e * torch.softmax(scores_ne, dim=-1).mean(0)).sum()


class Projection(nn.Module):
    """A linear map of each token to another width, activated."""

    mixes_tokens = False

    def __init__(self, setting: spec.Projection, build: BuildContext) -> None:
        super().__init__()
        self.activation, self.width = ACTIVATIONS[setting.activation], setting.outputs
        self.map = DenseLinear(build.width, setting.outputs, setting.bias)

    def forward(self, x_nd: Tensor, context: ForwardContext) -> Tensor:
        """(n, d) -> (n, outputs)."""
        return self.activation(self.map(x_nd))
