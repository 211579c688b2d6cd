"""Scaling rules: shape and training of a model that is trained from nothing, by its depth.

Each is a rule with a constant that a recipe may set:

| what | rule |
|---|---|
| width | ``aspect`` times the depth, up to a whole number of heads |
| heads | of 64, of 32 where the model is narrower than 256 |
| tokens to learn from | ``tokens_per_parameter`` times the weights (Hoffmann et al. 2022: 20), but at most ``passes`` over the corpus (Muennighoff et al. 2023: what is read four times is nearly as good as new text) |
| tokens of a step | the power of two next to the root of the tokens to learn from: 0.5 million for 300 billion, as of the smaller models of Brown et al. 2020 (table 2.1) |
| peak rate | 0.5 over the width: of hidden maps under Adam the best rate falls as 1 over the width (Yang et al. 2022), and the models of Brown et al. 2020 lie between 0.3 and 0.75 |
"""  # noqa: E501

from __future__ import annotations

import math
from dataclasses import dataclass

from lmwright.models.family.family import Shape

WIDE = 256
HEAD, NARROW_HEAD = 64, 32
RATE = 0.5
"""The peak rate times the width."""


@dataclass(frozen=True)
class Horizon:
    """A training's length: ``rows`` of ``context`` tokens a step, and ``steps``."""

    context: int
    rows: int
    steps: int

    @property
    def tokens(self) -> int:
        """The tokens that are learnt from, again and again where need be."""
        return self.context * self.rows * self.steps


def shape_of(depth: int, aspect: int, context: int) -> Shape:
    """The shape of a model of so many layers."""
    width = aspect * depth
    head = HEAD if width >= WIDE else NARROW_HEAD
    heads = max(1, math.ceil(width / head))
    return Shape(depth, heads * head, heads, context)


def tokens_to_learn(parameters: int, corpus: int, per_parameter: float, passes: float) -> int:
    """The tokens that a model learns from, of a corpus of so many."""
    return max(1, round(min(per_parameter * parameters, passes * corpus)))


def horizon_of(tokens: int, context: int, batch_tokens: int = 0) -> Horizon:
    """The steps in which about so many tokens are learnt, one at least; ``batch_tokens`` of a step
    are by the rule where they are 0."""
    of_step = batch_tokens or 2 ** round(math.log2(max(1.0, math.sqrt(tokens))))
    rows = max(1, round(of_step / context))
    return Horizon(context, rows, max(1, round(tokens / (rows * context))))


def peak_rate(width: int) -> float:
    """The peak learning rate of a model of a width."""
    return RATE / width
