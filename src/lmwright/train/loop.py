"""The one training loop: a method is a batch and a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from lmwright.core.errors import LmwrightError
from lmwright.train.batches import Batches
from lmwright.train.division import UNDIVIDED, Division, add_gradients
from lmwright.train.loss import Loss
from lmwright.train.optim import NO_FACTORS, Optimizer, Schedule, clip, without_gradients
from lmwright.train.regularize import Regularization, wrapped


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are moved: the peak rate, its shape, the bound on the gradient's norm.

    ``factors`` gives those of the weights' rates at a step, of so many: see ``RatesTune``.
    """

    lr: float
    schedule: Schedule
    clip: float
    factors: Callable[[int, int | None], Mapping[str, float]] = lambda step, steps: NO_FACTORS


@dataclass
class State:
    """Where a run is, apart from its weights and the optimizer's moments.

    ``best_score`` is the best score as it is told, ``best_loss`` the same turned so that lower is
    better.
    """

    step: int = 0
    tokens: int = 0
    ended: str = ""
    best_loss: float = math.inf
    best_score: float | None = None
    best_step: int = 0
    worse: int = 0
    curves: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The JSON value that :func:`read_state` reads back."""
        best = None if math.isinf(self.best_loss) else self.best_loss
        return {**asdict(self), "best_loss": best}


def read_state(value: dict[str, Any]) -> State:
    """A state from its JSON value."""
    best = math.inf if value["best_loss"] is None else value["best_loss"]
    return State(**{**value, "best_loss": best})


Periodic = Sequence[tuple[int, Callable[[State], object]]]
Record = Callable[..., None]


def train(
    network: nn.Module,
    batches: Batches,
    loss: Loss,
    optimizer: Optimizer,
    descent: OptimizerConfig,
    state: State,
    periodic: Periodic,
    record: Record,
    division: Division = UNDIVIDED,
    regularizations: Sequence[Regularization] = (),
) -> None:
    """Take steps from ``state`` to the end of ``batches``, or until something sets ``ended``.

    ``periodic`` is a list of (every so many steps, what to do then); each is also done after
    the last step. A loss or gradient that is not finite ends the run with an error, before it
    reaches the weights.
    """
    while state.step != batches.steps and not state.ended:
        factors = descent.factors(state.step, batches.steps)
        for each in regularizations:
            each.before(state.step)
        own = wrapped(regularizations, loss, state.step)
        with without_gradients(network, factors):
            value, tokens = add_gradients(network, batches, own, state.step, division)
        for each in reversed(regularizations):
            each.after_gradients(state.step)
        if not tokens:
            state.ended = "no more batches"
            last = [act for every, act in periodic if state.step % every]
        else:
            norm = clip(network.parameters(), descent.clip)
            refuse_infinite(value, norm, state, record)
            lr = descent.schedule.rate(state.step, batches.steps, descent.lr)
            optimizer.step(lr, factors)
            for each in regularizations:
                each.after(state.step)
            state.step += 1
            state.tokens += tokens
            note(state, record, loss=value, lr=lr, gradient=norm)
            end = state.step == batches.steps
            last = [act for every, act in periodic if end or state.step % every == 0]
        for act in last:
            act(state)


def note(state: State, record: Record, **facts: float) -> None:
    """Add a point to the learning curves and to the journal."""
    point = {"step": state.step, "tokens": state.tokens, **facts}
    state.curves.append(point)
    record("step", **point)


def refuse_infinite(loss: float, norm: float, state: State, record: Record) -> None:
    """End the run with an error that says what to change, if a step left the finite numbers."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = "the loss" if not math.isfinite(loss) else "the gradient"
    record(
        "fault", kind="not finite", what=what, step=state.step, loss=str(loss), gradient=str(norm)
    )
    last = state.curves[-1] if state.curves else {}
    raise LmwrightError(
        f"{what} is no finite number at step {state.step} (last loss {last.get('loss')}, "
        f"gradient norm {last.get('gradient')})",
        "finite numbers",
        "lower lr, lengthen warmup, or set clip; look at the rows of this step",
    )
