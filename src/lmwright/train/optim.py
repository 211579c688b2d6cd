"""Descent: AdamW with decoupled decay, a rate that warms up and decays, clipping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
STATE = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of a weight: the moments of its gradient, and how many gradients it had."""


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2), one fused pass over the weights.

    Biases, gains and other vectors are not decayed. A weight that has no gradient in a step stays
    as it is, and its moments too.

    ``torch.optim`` has the same on the same kernel, but loads torch's compiler with it, which was
    more than a second of every training's start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.decay = decay
        self.moments: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the weights at the rate ``lr``, and let their gradients go."""
        gradients = {n: w.grad for n, w in self.weights.items() if w.grad is not None}
        for name in gradients:
            if name not in self.moments:
                self.moments[name] = beginning(self.weights[name])
        for decayed in (True, False):
            names = [name for name in gradients if (self.weights[name].dim() > 1) == decayed]
            if names:
                first, second, steps = ([self.moments[n][what] for n in names] for what in STATE)
                torch._foreach_add_(steps, 1)
                torch._fused_adamw_(
                    [self.weights[name] for name in names],
                    [gradients[name] for name in names],
                    first,
                    second,
                    [],
                    steps,
                    lr=lr,
                    beta1=BETA1,
                    beta2=BETA2,
                    weight_decay=self.decay if decayed else 0.0,
                    eps=EPS,
                    amsgrad=False,
                    maximize=False,
                )
        for weight in self.weights.values():
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """What has to be kept to go on later, under ``weight/what``."""
        kept = self.moments.items()
        return {f"{name}/{what}": each[what] for name, each in kept for what in STATE}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a former :meth:`state`."""
        names = {key.rpartition("/")[0] for key in state}
        self.moments = {n: {what: state[f"{n}/{what}"] for what in STATE} for n in names}


def beginning(weight: Tensor) -> dict[str, Tensor]:
    """The moments before a weight's first gradient."""
    zeros = (torch.zeros_like(weight), torch.zeros_like(weight), torch.zeros(()))
    return dict(zip(STATE, zeros, strict=True))


def rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """The learning rate of a step counted from 0: up for ``warmup`` of all steps, then down.

    Linear both ways; the last step's rate is above 0, the step after it would have 0.
    """
    rising = round(steps * warmup)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    return peak * (steps - step) / max(1, steps - rising)


def clip(parameters: Iterable[Tensor], most: float) -> float:
    """Scale the gradients down to a joint norm of at most ``most`` (0: leave them alone).

    Returns the norm before (Pascanu et al. 2013). Gradients below the bound are not touched.
    """
    held = [p for p in parameters if p.grad is not None]
    total = torch.nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
    norm = float(total)
    if most and norm > most:
        torch.nn.utils.clip_grads_with_norm_(held, most, total)
    return norm
