"""The loss of a language model: on what is learnt alone, in chunks, equal to the plain one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import Network, build
from lmwright.models.zoo import gpt2
from lmwright.tasks.chat import Chat
from lmwright.tasks.summarization import Summarization
from lmwright.tasks.text2text_generation import Text2TextGeneration
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.translation import Translation
from lmwright.train import documents
from lmwright.train.batches import UNLEARNT, Example
from lmwright.train.documents import next_token_loss
from lmwright.train.task_model import trained_task_model

CONFIG = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 60}


@pytest.fixture
def network() -> Network:
    spec = gpt2.FAMILY.spec(CONFIG).with_dropout(0.2)
    found = build(spec, gpt2.FAMILY.heads["lm"](CONFIG, spec)[0])
    initialise(found, seed=4)
    return found


@pytest.fixture
def examples() -> list[Example]:
    """Drawn documents of which the second half is learnt, and one of which nothing is."""
    draw, found = np.random.default_rng(1), []
    for number in range(6):
        ids = draw.integers(0, 60, 4 + 3 * number)
        target = np.full(len(ids), UNLEARNT)
        if number != 3:
            target[len(ids) // 2 : -1] = ids[len(ids) // 2 + 1 :]
        found.append(Example(ids, number, target))
    return found


def plain(
    network: nn.Module,
    examples: list[Example],
    dropout_rng: DropoutRNG | None,
    smoothing: float = 0.0,
) -> Tensor:
    """All logits of all tokens at once."""
    batch = pack([each.tokens for each in examples], [each.document for each in examples])
    rows = torch.cat(batch.by_document(network(batch, dropout_rng)))
    wanted = torch.from_numpy(np.concatenate([np.asarray(each.target) for each in examples]))
    return F.cross_entropy(rows, wanted, ignore_index=UNLEARNT, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_it_is_the_plain_loss_and_gradient(network, examples, monkeypatch, at_once, smoothing):
    monkeypatch.setattr(documents, "MOST_LOGITS", 60 * at_once)
    wanted = plain(network, examples, DropoutRNG(1, 2), smoothing)
    wanted.backward()
    gradients = [weight.grad.clone() for weight in network.parameters()]
    network.zero_grad()
    found = next_token_loss(network, examples, DropoutRNG(1, 2), smoothing)
    found.mean.backward()
    assert found.mean.item() == pytest.approx(wanted.item(), rel=1e-6)
    with torch.no_grad():
        again = next_token_loss(network, examples, DropoutRNG(1, 2), smoothing)
    assert again.mean.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert found.count == sum(int((np.asarray(e.target) != UNLEARNT).sum()) for e in examples)
    for weight, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_logits_of_more_tokens_than_allowed_are_never_held(network, examples, monkeypatch):
    monkeypatch.setattr(documents, "MOST_LOGITS", 60 * 5)
    sizes: list[int] = []
    ours = type(network.head).logits
    monkeypatch.setattr(
        type(network.head), "logits", lambda head, x: (sizes.append(len(x)), ours(head, x))[1]
    )
    found = next_token_loss(network, examples, None)
    found.mean.backward()
    assert max(sizes) == 5
    assert sum(sizes) == found.count, "and none is made twice"


def test_documents_of_which_nothing_is_learnt_have_no_gradient(network, examples):
    found = next_token_loss(network, [examples[3]], None)
    found.mean.backward()
    assert (found.mean.item(), found.count) == (0.0, 0)
    assert all(weight.grad is None or not weight.grad.any() for weight in network.parameters())


@pytest.mark.parametrize(
    "kind", [Chat, Summarization, Text2TextGeneration, TextGeneration, Translation]
)
def test_every_task_that_writes_smooths_its_targets(network, examples, kind):
    task = kind(smoothing=0.2)
    found = trained_task_model(task).loss(network, examples, None).mean.item()
    assert found == pytest.approx(plain(network, examples, None, 0.2).item(), rel=1e-6)
    with pytest.raises(BadInput, match=r"smoothing is 1\.0"):
        kind(smoothing=1.0).check()
