"""ELMo and a text CNN against plain second implementations, step by step from the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Convolution, Embedding, Head, ModelSpec, Stack, Sublayer
from lmwright.models.decode import generate
from lmwright.models.network.network import Network, build, fill
from lmwright.models.zoo import elmo
from lmwright.text.generation import SamplingParams
from tests.parity.harness import changed, mutations

CONFIG = {
    "vocab_size": 31,
    "lstm": {"n_layers": 3, "dim": 10, "projection_dim": 6, "use_skip_connections": True},
}
BOTH = elmo.spec(CONFIG)
LENGTHS = (5, 1, 8, 2, 5)


def drawn(setting: ModelSpec, head: Head | None) -> Network:
    """A network with every weight drawn wide, fp64."""
    network, generator = build(setting, head), torch.Generator().manual_seed(3)
    shapes = {name: weight.shape for name, weight in network.named_parameters()}
    fill(
        network,
        {
            name: torch.randn(shape, generator=generator, dtype=torch.float64) * 0.6
            for name, shape in shapes.items()
        },
    )
    return network


def texts_of(vocabulary: int) -> list[np.ndarray]:
    """Documents of several lengths."""
    rng = np.random.default_rng(4)
    return [rng.integers(0, vocabulary, length) for length in LENGTHS]


def weights_of(network: Network) -> dict[str, Tensor]:
    """The network's weights under the names of a checkpoint."""
    ours = dict(network.named_parameters(remove_duplicate=False))
    found = {w.theirs[0]: ours[w.ours] for w in elmo.weights(network.spec)}
    if network.head_spec is None:
        return found
    _, names = elmo.language_model({}, network.spec)
    return found | {w.theirs[0]: ours[w.ours] for w in names}


def way(weights: dict[str, Tensor], name: str, document: Tensor) -> list[Tensor]:
    """The states before and after each layer of one direction (Peters et al. 2018, section 3.1).

    A cell, its result projected, step by step; layers after the first add what they read.
    """
    states = [weights["tokens.weight"][document]]
    for number in range(3):
        own = {
            leaf: weights[f"{name}.{number}.{leaf}_l0"]
            for leaf in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        }
        h, c = torch.zeros(6, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
        steps = range(len(document))
        given = {}
        for step in steps if name == "forwards" else reversed(steps):
            sums = own["weight_ih"] @ states[-1][step] + own["bias_ih"]
            sums = sums + own["weight_hh"] @ h + own["bias_hh"]
            come, forget, new, go = sums.chunk(4)
            c = torch.sigmoid(forget) * c + torch.sigmoid(come) * torch.tanh(new)
            h = own["weight_hr"] @ (torch.sigmoid(go) * torch.tanh(c))
            given[step] = h
        after = torch.stack([given[step] for step in steps])
        states.append(after + states[-1] if number else after)
    return states


def mixed(weights: dict[str, Tensor], document: Tensor) -> Tensor:
    """Equation 1: a scale times a mix, by a softmax, of both directions' states side by side."""
    sides = zip(*(way(weights, name, document) for name in ("forwards", "backwards")), strict=True)
    layers = torch.stack([torch.cat(pair, dim=-1) for pair in sides])
    shares = torch.exp(weights["mix.scalars"]) / torch.exp(weights["mix.scalars"]).sum()
    return weights["mix.gamma"] * torch.einsum("l,lnd->nd", shares, layers)


def test_the_mix_of_both_ways_equals_the_equations():
    network, texts = drawn(BOTH, None), texts_of(31)
    weights, batch = weights_of(network), pack(texts)
    found = batch.by_document(network.hidden(batch))
    wanted = [mixed(weights, torch.from_numpy(text)) for text in texts]
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)
    own = list(network.parameters())
    for left, right in zip(gradients(found, own), gradients(wanted, own), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10)


def gradients(documents: list[Tensor], weights: list[nn.Parameter]) -> list[Tensor]:
    """Of a sum of the states that gives each its own weight."""
    rows = torch.cat(documents)
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    for weight in weights:
        weight.grad = None
    (rows * factors).sum().backward(retain_graph=True)
    return [weight.grad.clone() for weight in weights if weight.grad is not None]


def test_every_wrong_spec_is_noticed():
    network, texts = drawn(BOTH, None), texts_of(31)
    right, batch = network.hidden(pack(texts)), pack(texts)
    known = dict(network.named_parameters(remove_duplicate=False))
    body = BOTH, Head(pool="none", outputs=0)
    others = mutations(body, frozenset({"bidirectional"})).items()
    wrongs = {what: wrong for what, (wrong, _) in others if what.startswith("0.")} | {
        "unmixed": changed(BOTH, ("scalar_mix",), False),
        "other side first": changed(BOTH, ("outputs_from",), ("backwards", "forwards")),
    }
    assert len(wrongs) >= 10
    for what, wrong in wrongs.items():
        other = build(wrong)
        fill(other, known)
        assert not torch.allclose(other.hidden(batch), right), what


@pytest.mark.parametrize("name", ["forwards", "backwards"])
def test_one_direction_predicts_by_the_map_that_both_share(name):
    setting = ModelSpec(stacks=(BOTH.stack(name),))
    network, texts = drawn(setting, elmo.language_model({}, setting)[0]), texts_of(31)
    weights, batch = weights_of(network), pack(texts)
    with torch.no_grad():
        for left, text in zip(batch.by_document(network(batch)), texts, strict=True):
            states = way(weights, name, torch.from_numpy(text))[-1]
            right = states @ weights["softmax.weight"].T + weights["softmax.bias"]
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


def test_the_forward_way_says_what_follows():
    setting = ModelSpec(stacks=(BOTH.stack("forwards"),))
    network = drawn(setting, elmo.language_model({}, setting)[0])
    weights, known = weights_of(network), np.array([5, 17, 30])
    for step in generate(
        network, [known], SamplingParams(max_new_tokens=10), np.random.default_rng(0)
    ):
        states = way(weights, "forwards", torch.from_numpy(known))[-1][-1]
        logits = weights["softmax.weight"] @ states + weights["softmax.bias"]
        assert step[0].id == int(logits.argmax())
        known = np.append(known, step[0].id)
    assert len(known) == 13


def test_the_config_written_is_read_back():
    plain = {**CONFIG, "lstm": {**CONFIG["lstm"], "use_skip_connections": False}}
    for setting in (BOTH, elmo.spec(plain), *map(elmo.sized, elmo.SIZES)):
        assert elmo.spec(elmo.config(setting)) == setting


def text_cnn(vocabulary: int, width: int, widths: tuple[int, ...], channels: int) -> ModelSpec:
    """Convolutions over words, to be pooled by the largest (Kim 2014, section 2)."""
    convolution = Convolution(widths=widths, channels=channels, activation="relu")
    stack = Stack(
        name="encoder",
        width=width,
        embedding=Embedding(vocabulary=vocabulary),
        layers=((Sublayer(op=convolution, residual=False),),),
    )
    return ModelSpec(stacks=(stack,))


def test_a_text_cnn_equals_plain_convolutions():
    head = Head(pool="max", outputs=3, dropout=0.5)
    network = drawn(text_cnn(31, 6, (3, 4, 5), 7), head)
    texts = texts_of(31)
    known = dict(network.named_parameters())
    maps = [
        tuple(known[f"stacks.encoder.layers.0.0.op.maps.{n}.{leaf}"] for leaf in ("weight", "bias"))
        for n in range(3)
    ]
    with torch.no_grad():
        for left, text in zip(network(pack(texts)), texts, strict=True):
            words_dn = known["stacks.encoder.embedding.tokens.weight"][torch.from_numpy(text)].T
            largest = []
            for weight, bias in maps:
                before = (weight.shape[-1] - 1) // 2
                room = F.pad(words_dn, (before, weight.shape[-1] - 1 - before))
                largest.append(torch.relu(F.conv1d(room[None], weight, bias))[0].amax(-1))
            right = known["head.out.weight"] @ torch.cat(largest) + known["head.out.bias"]
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)
