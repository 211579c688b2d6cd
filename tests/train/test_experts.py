"""What ops add to the loss reaches the training."""

from __future__ import annotations

import numpy as np
import torch

from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.spec import with_parts
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import build
from lmwright.models.zoo import mixtral
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_classification_model import TextClassifier
from lmwright.train.batches import Example

CONFIG = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def loss_of(coefficient: float, dropout_rng: DropoutRNG | None) -> torch.Tensor:
    """The loss of a few examples in a network of routed experts."""
    by_model = TextClassifier(TextClassification(labels=("a", "b")))
    plain = mixtral.FAMILY.spec(CONFIG)

    def weighed(part):
        if hasattr(part, "aux_loss_coef"):
            return type(part)(**{**vars(part), "aux_loss_coef": coefficient})
        return part

    network = build(with_parts(plain, weighed), by_model.head(0.0))
    initialise(network, seed=1)
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(0, 50, 3 + n), n, n % 2) for n in range(4)]
    return by_model.loss(network, examples, dropout_rng).mean


def test_an_uneven_load_costs_in_training_and_nowhere_else():
    dropout_rng = DropoutRNG(0, 0)
    none, some = loss_of(0.0, dropout_rng), loss_of(0.5, dropout_rng)
    # Two layers, each at least the weight times the share that an even load has.
    assert (some - none).item() >= 2 * 0.5 * 0.99
    torch.testing.assert_close(loss_of(0.0, None), loss_of(0.5, None))
