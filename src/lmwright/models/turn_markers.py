"""The special tokens of a chat template that a model has learnt, told by its embeddings.

The rows of tokens that never occurred are moved by the softmax alone, all in the same direction
(Gao et al. 2019; Land and Bartolo 2024, section 2.1). A token is held to be unlearnt where its row
is as like the mean of such rows as they are themselves, and learnt where it is no more like it
than the rows of ordinary tokens. Norms need not differ: a table may have been normalised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lmwright.models.network.network import Network
from lmwright.models.text_model import TextModel
from lmwright.text.chat import ChatTemplate

NEVER_USED = re.compile(r"\W*(unused|reserved)", re.IGNORECASE)
"""Names of tokens that were kept for later: <unused7>, [unused7], <|reserved_special_token_7|>."""
FEWEST = 10
MOST = 2000
"""Rows of each kind that are compared, at most: taken at even distances."""
EDGE = 0.05
"""Share of the rows of either kind that lie beyond their limit."""
CONVERSATION = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"})


@dataclass(frozen=True)
class UntrainedDirection:
    """The mean row (d,) of tokens that never occurred, and the cosine with it from which on a
    token is held to be one of them."""

    mean_d: torch.Tensor
    limit: float

    def likeness(self, row_d: torch.Tensor) -> float:
        """The cosine of a row with the mean."""
        return float(F.cosine_similarity(row_d, self.mean_d, dim=0))


def untrained_direction(model: TextModel[Network]) -> UntrainedDirection | None:
    """The measure of a model's unlearnt tokens; None where it has too few tokens that are known
    never to have occurred, or where they are like any other."""
    rows_vd = token_rows(model)
    control = set(model.tokenizer.control.values())
    unused = [i for name, i in model.tokenizer.control.items() if NEVER_USED.match(name)]
    unused += range(model.tokenizer.size(), len(rows_vd))
    ordinary = [i for i in range(min(model.tokenizer.size(), len(rows_vd))) if i not in control]
    if len(unused) < FEWEST or len(ordinary) < FEWEST:
        return None
    never, other = (rows_vd[thinned(each)].float() for each in (unused, ordinary))
    mean_d = never.mean(0)
    low, high = (
        float(np.quantile(F.cosine_similarity(rows, mean_d, dim=1).numpy(), edge))
        for rows, edge in ((never, EDGE), (other, 1 - EDGE))
    )
    return UntrainedDirection(mean_d, (low + high) / 2) if low > high else None


def token_rows(model: TextModel[Network]) -> torch.Tensor:
    """The table of token embeddings (v, d) of what writes."""
    stack: Any = model.network.stacks[model.network.spec.stacks[-1].name]
    table: torch.Tensor = stack.embedding.tokens.weight.detach().cpu()
    return table


def thinned(ids: Sequence[int]) -> list[int]:
    """At most MOST of the ids, at even distances."""
    return [*ids[:: -(-len(ids) // MOST)]]


def turn_tokens(model: TextModel, source: str) -> list[str]:
    """The special tokens that a template puts round turns, of those that the tokenizer has;
    without those that begin and end a document."""
    template = ChatTemplate(source, model.tokenizer.special_text(), model.tokenizer.control)
    try:
        parts = template.render(CONVERSATION)
    finally:
        template.close()
    known = {*model.begin_ids, *model.end_ids}
    found = [part.text for part in parts if part.special]
    control = model.tokenizer.control
    return [each for each in dict.fromkeys(found) if control.get(each, -1) not in known]


def likenesses(
    model: TextModel[Network], tokens: Sequence[str], direction: UntrainedDirection
) -> dict[str, float]:
    """The similarity of each special token's row to those of tokens that never occurred."""
    rows_vd, control = token_rows(model), model.tokenizer.control
    return {each: direction.likeness(rows_vd[control[each]].float()) for each in tokens}
