"""Each block against a plain formula or torch's own module, one document at a time, in fp64."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.models.blocks.activation import ACTIVATIONS
from lmwright.models.blocks.build import BuildContext
from lmwright.models.blocks.context import Cache, ForwardContext
from lmwright.models.blocks.embedding import Embedding
from lmwright.models.blocks.feed_forward import activated, imbalance
from lmwright.models.blocks.head import Head
from lmwright.models.blocks.norm import norm, rms_normed
from lmwright.models.blocks.sublayer import OPS, Sublayer
from lmwright.models.core import spec
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Ragged, pack

WIDTH, DROPOUT_RNG = 8, DropoutRNG(4, 5)
LENGTHS = (5, 1, 12, 5, 3)
NAMES = (7, 2**100 + 1, 9, 2**64, 3)
LAYER_NORM = spec.Norm(eps=1e-3)
RMS_NORM = spec.Norm(kind="rms", eps=1e-3, bias=False)


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 50, length) for length in LENGTHS]


def drawn(module: nn.Module, seed: int = 3) -> Any:
    """A module with every weight drawn wide, in fp64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.double().parameters():
            weight.normal_(0, 0.5, generator=generator)
    return module


def stream() -> tuple[Ragged, Tensor]:
    """The documents as a batch, and a vector for each of their tokens."""
    batch, generator = pack(texts(), NAMES), torch.Generator().manual_seed(1)
    return batch, torch.randn(sum(LENGTHS), WIDTH, dtype=torch.float64, generator=generator)


def op(setting: Any, rate: float = 0.0, width: int = WIDTH) -> Any:
    """The module of an op, its weights drawn."""
    return drawn(OPS[setting.op](setting, BuildContext("a.0.0", width, {}, count(1), rate)))


def by_document(batch: Ragged, x_n: Tensor) -> list[Tensor]:
    """The rows of each document, in the stream's order."""
    return list(x_n.split(batch.lengths()))


def masks(batch: Ragged, width: int, rate: float, dropout_id: int) -> list[Tensor]:
    """The dropout_rng of each document of the stream, drawn by itself."""
    found = []
    for document, length in zip(batch.documents, batch.lengths(), strict=True):
        mask = np.empty(length * width)
        DROPOUT_RNG.fill_mask(mask, rate, dropout_id, document)
        found.append(torch.from_numpy(mask).view(length, width))
    return found


def equal(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


FORMULAS = {
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1),
    "none": lambda x: x,
}


def test_every_activation_equals_its_formula():
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    assert set(FORMULAS) == set(ACTIVATIONS)
    for name, formula in FORMULAS.items():
        equal(ACTIVATIONS[name](x), formula(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("inner_dropout", [True, False])
def test_a_feed_forward_equals_its_formula(gated, bias, inner_dropout):
    setting = spec.FeedForward(
        inner=10, activation="silu", gated=gated, bias=bias, inner_dropout=inner_dropout
    )
    made, (batch, x_nd) = op(setting, rate=0.4), stream()
    assert {name for name, _ in made.named_parameters()} == {
        f"{each}.{leaf}" for each in ("up", "down") for leaf in ("weight", "bias")[: 1 + bias]
    }
    up, down = made.up.weight, made.down.weight
    before, after = (made.up.bias, made.down.bias) if bias else (torch.tensor(0.0),) * 2
    for dropout_rng in (None, DROPOUT_RNG):
        rows = []
        noises = masks(batch, 10, 0.4, made.dropout_id)
        for x, mask in zip(by_document(batch, x_nd), noises, strict=True):
            inner = x @ up.T + before
            inner = FORMULAS["silu"](inner[:, :10]) * (inner[:, 10:] if gated else 1.0)
            inner = inner * mask if inner_dropout and dropout_rng else inner
            rows.append(inner @ down.T + after)
        equal(made(x_nd, ForwardContext(batch, dropout_rng)), torch.cat(rows))


EXPERTS = {
    "normalised": {},
    "not normalised": {"normalise": False},
    "softmax_over_top_k": {"softmax_over_top_k": True},
    "one": {"top_k": 1, "normalise": False},
    "all": {"top_k": 5},
    "shared": {"shared": 6},
    "shared behind a gate": {"shared": 6, "shared_gate": True, "normalise": False},
    "not gated": {"gated": False},
    "biased": {"bias": True, "shared": 6},
    "biased, not gated": {"bias": True, "gated": False, "activation": "gelu"},
}


def experts(**fields: Any) -> spec.Experts:
    return spec.Experts(**{"experts": 5, "top_k": 2, "inner": 7, "activation": "silu", **fields})


def through(x_d: Tensor, up: Tensor, down: Tensor, biases: Any, setting: spec.Experts) -> Tensor:
    """One token through one expert."""
    inner = up @ x_d + biases[0]
    activation = FORMULAS[setting.activation]
    half = len(inner) // 2
    return (
        down @ (activation(inner[:half]) * inner[half:] if setting.gated else activation(inner))
        + biases[1]
    )


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_equal_a_loop_over_tokens(name):
    setting = experts(**EXPERTS[name])
    made, (batch, x_nd) = op(setting), stream()
    wanted = []
    for x_d in x_nd:
        scores = (made.router.weight @ x_d).tolist()
        best = sorted(range(5), key=scores.__getitem__)[-setting.top_k :]
        exps = [math.exp(score) for score in scores]
        whole = (
            sum(exps[e] for e in best)
            if setting.softmax_over_top_k or setting.normalise
            else sum(exps)
        )
        y_d = torch.zeros(WIDTH, dtype=torch.float64)
        for e in best:
            biases = (made.up.bias[e], made.down.bias[e]) if setting.bias else (0.0, 0.0)
            y_d = y_d + exps[e] / whole * through(
                x_d, made.up.weight[e], made.down.weight[e], biases, setting
            )
        if setting.shared:
            up, down = made.shared.up, made.shared.down
            biases = (up.bias, down.bias) if setting.bias else (0.0, 0.0)
            always = through(x_d, up.weight, down.weight, biases, setting)
            gate = torch.sigmoid(made.shared_gate.weight @ x_d) if setting.shared_gate else 1.0
            y_d = y_d + gate * always
        wanted.append(y_d)
    equal(made(x_nd, ForwardContext(batch)), torch.stack(wanted))


@pytest.mark.parametrize(
    "fields", [{}, {"softmax_over_top_k": True}, {"bias": True}, {"gated": False}], ids=str
)
def test_equal_experts_are_one_feed_forward(fields):
    setting = experts(**fields)
    made, (batch, x_nd) = op(setting), stream()
    dense = op(
        spec.FeedForward(inner=7, activation="silu", gated=setting.gated, bias=setting.bias),
    )
    with torch.no_grad():
        for name in ("up", "down"):
            getattr(made, name).weight.copy_(getattr(dense, name).weight.expand(5, -1, -1))
            if setting.bias:
                getattr(made, name).bias.copy_(getattr(dense, name).bias.expand(5, -1))
    equal(made(x_nd, ForwardContext(batch)), dense(x_nd, ForwardContext(batch)))


def test_the_loss_of_an_even_load_is_one_and_of_one_expert_their_number():
    turns = torch.stack([torch.arange(5.0).roll(shift) for shift in range(5)]).double()
    shares = torch.softmax(torch.arange(5.0).double(), 0)
    for top in (1, 2, 5):
        assert imbalance(turns, turns.topk(top).indices).item() == pytest.approx(1.0, rel=1e-12)
        same = turns[:1].expand(4, -1)
        wanted = 5 * sum(shares[-each - 1].item() for each in range(top)) / top
        assert imbalance(same, same.topk(top).indices).item() == pytest.approx(wanted, rel=1e-12)
    even = torch.zeros(7, 5, dtype=torch.float64)
    assert imbalance(even, even.topk(2).indices).item() == pytest.approx(1.0, rel=1e-12)
    one = even.index_fill(1, torch.tensor([3]), 40.0)
    assert imbalance(one, one.topk(1).indices).item() == pytest.approx(5.0, rel=1e-9)


def test_the_loss_joins_in_training_and_reaches_the_router():
    made, (batch, x_nd) = op(experts(aux_loss_coef=0.3)), stream()
    for dropout_rng, count_of in ((None, 0), (DROPOUT_RNG, 1)):
        context = ForwardContext(batch, dropout_rng)
        made(x_nd, context)
        assert len(context.aux_losses) == count_of
    scores = made.router(x_nd)
    equal(context.aux_losses[0], 0.3 * imbalance(scores, scores.topk(2).indices))
    context.aux_losses[0].backward()
    assert made.router.weight.grad.abs().sum() > 0
    silent = ForwardContext(batch, DROPOUT_RNG)
    op(experts())(x_nd, silent)
    assert not silent.aux_losses


CELLS = {
    f"{cell}, {way}{', projected' if project else ''}": spec.Recurrent(
        cell=cell,
        hidden=6,
        backward=way == "backwards",
        bidirectional=way == "both ways",
        project=project,
    )
    for cell in ("rnn", "gru", "lstm")
    for way in ("forwards", "backwards", "both ways")
    for project in ((0, 3) if cell == "lstm" else (0,))
}


def alone(setting: spec.Recurrent, made: Any, x: Tensor) -> Tensor:
    """One document through torch's module, one direction at a time."""
    kind = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[setting.cell]
    more = {"proj_size": setting.project} if setting.project else {}
    weights = dict(made.cell.named_parameters())

    def one_way(x: Tensor, ending: str) -> Tensor:
        cell = kind(WIDTH, setting.hidden, batch_first=True, **more).double()
        cell.load_state_dict({name: weights[name + ending] for name in cell.state_dict()})
        return cell(x[None])[0][0]

    if setting.bidirectional:
        return torch.cat([one_way(x, ""), one_way(x.flip(0), "_reverse").flip(0)], dim=1)
    return one_way(x.flip(0), "").flip(0) if setting.backward else one_way(x, "")


@pytest.mark.parametrize("name", CELLS)
def test_a_recurrent_layer_equals_each_document_alone(name):
    setting = CELLS[name]
    made, (batch, x_nd) = op(setting), stream()
    wanted = torch.cat([alone(setting, made, x) for x in by_document(batch, x_nd)])
    assert wanted.shape[1] == made.width
    equal(made(x_nd, ForwardContext(batch)), wanted)


@pytest.mark.parametrize("name", [name for name in CELLS if "forwards" in name])
def test_a_recurrent_layer_goes_on_from_its_cache(name):
    """Documents of several lengths in pieces of several lengths, then some of them alone."""
    made, cache, rng = op(CELLS[name]), Cache(3), np.random.default_rng(2)
    whole = [torch.from_numpy(rng.normal(size=(length, WIDTH))) for length in (6, 9, 7)]
    cuts, found = [(0, 3, 4, 6), (0, 1, 8, 9), (0, 2, 3, 7)], [[], [], []]
    places = [0, 1, 2]
    for step in range(3):
        parts = [whole[p][cuts[p][step] : cuts[p][step + 1]] for p in places]
        batch = pack([np.zeros(len(part), int) for part in parts], order=range(len(parts)))
        given = made(torch.cat(parts), ForwardContext(batch, cache=cache))
        cache.advance(batch)
        for place, rows in zip(places, by_document(batch, given), strict=True):
            found[place].append(rows)
        if step == 1:
            cache.choose([2, 0])
            places = [2, 0]
    for place in (0, 2):
        equal(torch.cat(found[place]), alone(CELLS[name], made, whole[place]))
    equal(torch.cat(found[1]), alone(CELLS[name], made, whole[1])[:8])


@pytest.mark.parametrize("name", ["gru, backwards", "gru, both ways", "a convolution"])
def test_what_reads_from_the_end_cannot_go_on(name):
    setting = CELLS.get(name, spec.Convolution(widths=(3,), channels=4, activation="relu"))
    batch, x_nd = stream()
    with pytest.raises(BadInput, match=r"from the end|convolution"):
        op(setting)(x_nd, ForwardContext(batch, cache=Cache(len(LENGTHS))))


@pytest.mark.parametrize("widths", [(1,), (2,), (3, 4, 5), (7, 2), (20,)], ids=str)
def test_a_convolution_equals_torch_on_each_padded_document(widths):
    made, (batch, x_nd) = (
        op(spec.Convolution(widths=widths, channels=4, activation="relu")),
        stream(),
    )
    assert made.width == 4 * len(widths)
    rows = []
    for x in by_document(batch, x_nd):
        parts = []
        for width, own in zip(widths, made.maps, strict=True):
            left = (width - 1) // 2
            padded = F.pad(x.T, (left, width - 1 - left))
            parts.append(F.conv1d(padded[None], own.weight, own.bias)[0].T)
        rows.append(torch.cat(parts, dim=1).relu())
    equal(made(x_nd, ForwardContext(batch)), torch.cat(rows))


@pytest.mark.parametrize("bias", [True, False])
def test_a_projection_equals_its_formula(bias):
    made, (batch, x_nd) = op(spec.Projection(outputs=5, activation="tanh", bias=bias)), stream()
    plain = x_nd @ made.map.weight.T + (made.map.bias if bias else 0.0)
    equal(made(x_nd, ForwardContext(batch)), torch.tanh(plain))
    assert (made.width, made.map.bias is not None) == (5, bias)


def test_ops_side_by_side_are_summed():
    dense = spec.FeedForward(inner=5, activation="relu")
    ops = (dense, spec.Recurrent(cell="gru", hidden=WIDTH), experts(), dense)
    norms = (LAYER_NORM, None, RMS_NORM, None)
    branches = tuple(spec.Branch(pre_norm=b, op=each) for b, each in zip(norms, ops, strict=True))
    made, (batch, x_nd) = op(spec.Parallel(branches=branches)), stream()
    wanted = torch.zeros_like(x_nd)
    for own, each in zip(made.norms, made.ops, strict=True):
        wanted = wanted + each(own(x_nd), ForwardContext(batch))
    equal(made(x_nd, ForwardContext(batch)), wanted)
    assert made.mixes_tokens
    assert not op(spec.Parallel(branches=branches[::3])).mixes_tokens
    equal(made.norms[0](x_nd), F.layer_norm(x_nd, (WIDTH,), *made.norms[0].parameters(), eps=1e-3))


NORMS = {
    "layer": spec.Norm(eps=1e-3),
    "layer without bias": spec.Norm(eps=1e-3, bias=False),
    "layer with an offset": spec.Norm(eps=1e-3, offset=1.0),
    "rms": spec.Norm(kind="rms", eps=1e-3, bias=False),
    "rms with a bias": spec.Norm(kind="rms", eps=1e-3),
    "rms with an offset": spec.Norm(kind="rms", eps=1e-3, bias=False, offset=1.0),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_equals_its_formula(name):
    setting = NORMS[name]
    made, (_, x_nd) = drawn(norm(setting, WIDTH)), stream()
    x_nd = x_nd + 0.7
    centred = x_nd - x_nd.mean(1, keepdim=True) if setting.kind == "layer" else x_nd
    plain = centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt()
    wanted = plain * (made.weight + setting.offset)
    assert (made.bias is not None) == setting.bias
    wanted = wanted + made.bias if setting.bias else wanted
    for wants_gradient in (True, False):
        with torch.set_grad_enabled(wants_gradient):
            equal(made(x_nd), wanted)
            equal(made(x_nd[:, None].expand(-1, 3, -1)), wanted[:, None].expand(-1, 3, -1))


def test_no_norm_is_the_identity():
    _, x_nd = stream()
    assert norm(None, WIDTH)(x_nd) is x_nd


def sublayer(**fields: Any) -> Sublayer:
    inner = spec.FeedForward(inner=5, activation="gelu", inner_dropout=True)
    place = BuildContext("a.0.0", WIDTH, {}, count(1), fields.get("dropout", 0.0))
    return drawn(Sublayer(spec.Sublayer(**{"op": inner, **fields}), place))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("dropout_rng", [None, DROPOUT_RNG], ids=["plain", "dropout"])
def test_a_sublayer_equals_its_formula(residual, dropout_rng):
    batch, x_nd = stream()
    parts = {"pre_norm": LAYER_NORM, "branch_norm": RMS_NORM, "post_norm": LAYER_NORM}
    made = sublayer(**parts, residual=residual, dropout=0.3)
    y_nd = made.branch_norm(made.op(made.pre_norm(x_nd), ForwardContext(batch, dropout_rng)))
    if dropout_rng:
        y_nd = y_nd * torch.cat(masks(batch, WIDTH, 0.3, made.dropout_id))
    equal(
        made(x_nd, ForwardContext(batch, dropout_rng)),
        made.post_norm(x_nd + y_nd if residual else y_nd),
    )
    assert made.dropout_id != made.op.dropout_id


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_document_keeps_an_op_or_passes_it_by(dropout):
    batch, x_nd = pack([np.zeros(3, int)] * 40, range(40)), torch.ones(120, WIDTH).double()
    x_nd = x_nd * torch.arange(1.0, 121)[:, None]
    made = sublayer(stochastic_depth=0.4, dropout=dropout)
    always = sublayer(dropout=dropout)
    y, added = (each(x_nd, ForwardContext(batch, DROPOUT_RNG)) - x_nd for each in (made, always))
    kept = [bool(rows.any()) for rows in by_document(batch, y)]
    assert 10 < sum(kept) < 38
    wanted = torch.tensor(kept).repeat_interleave(3)[:, None] * added / 0.6
    torch.testing.assert_close(y, wanted, rtol=1e-9, atol=1e-9)
    equal(made(x_nd, ForwardContext(batch)), always(x_nd, ForwardContext(batch)))


def test_the_rate_of_passing_by_is_the_one_that_is_set():
    made, many = sublayer(stochastic_depth=0.3), 20_000
    batch, x_nd = pack([np.zeros(1, int)] * many), torch.ones(many, WIDTH).double()
    passed = (
        ((made(x_nd, ForwardContext(batch, DROPOUT_RNG)) - x_nd) == 0).all(1).double().mean().item()
    )
    # Five standard deviations of a mean of so many draws.
    assert abs(passed - 0.3) < 5 * (0.21 / many) ** 0.5


def test_stochastic_depth_depends_on_the_document_alone():
    batch, x_nd = stream()
    made, decided = sublayer(stochastic_depth=0.5, dropout=0.2), set()
    together = by_document(batch, made(x_nd, ForwardContext(batch, DROPOUT_RNG)))
    parts = zip(batch.order, by_document(batch, x_nd), together, strict=True)
    for place, x, wanted in parts:
        single = pack([texts()[place]], [NAMES[place]])
        equal(made(x, ForwardContext(single, DROPOUT_RNG)), wanted)
        decided.add(bool((wanted == x).all()))
    assert decided == {True, False}


def embedded(context: ForwardContext, **fields: Any) -> tuple[Embedding, Tensor]:
    setting = spec.Embedding(**{"vocabulary": 50, **fields})
    stack = spec.Stack(name="a", width=WIDTH, embedding=setting, layers=())
    made = drawn(Embedding(stack, dropout_id=6))
    return made, made(context)


EMBEDDINGS = {
    "tokens": {},
    "scaled": {"scale": 2.5},
    "learned positions": {"positions": 20},
    "positions from the second": {"positions": 20, "first_position": 2, "scale": 0.5},
    "sinusoids": {"sinusoids": spec.Sinusoids(interleaved=True), "scale": 3.0},
    "other sinusoids": {
        "sinusoids": spec.Sinusoids(interleaved=False, spaced=True),
        "first_position": 3,
    },
    "segments": {"segments": 3, "positions": 20},
    "one vector": {"vocabulary": 0, "vector": True, "positions": 20},
    "normed": {"norm": LAYER_NORM, "segments": 3, "positions": 20, "scale": 2.0},
    "normed early": {"token_norm": RMS_NORM, "segments": 3, "positions": 20, "scale": 2.0},
}


@pytest.mark.parametrize("with_segments", [True, False], ids=["segments", "no segments"])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_an_embedding_equals_its_formula(name, with_segments):
    rng = np.random.default_rng(8)
    numbers = [rng.integers(0, 3, length) for length in LENGTHS]
    batch = pack(texts(), NAMES, segments=numbers if with_segments else None)
    made, found = embedded(ForwardContext(batch), **EMBEDDINGS[name])
    known, wanted = made.setting, []
    for place in batch.order:
        for number, token in enumerate(texts()[place]):
            x = made.vector if known.vector else made.tokens.weight[int(token)] * known.scale
            if known.token_norm:
                x = made.token_norm(x)
            at = number + known.first_position
            if known.sinusoids:
                steps = WIDTH // 2 - known.sinusoids.spaced
                angles = [at / 10000 ** (i / steps) for i in range(WIDTH // 2)]
                rows = [[math.sin(a), math.cos(a)] for a in angles]
                pairs = torch.tensor(rows, dtype=torch.float64)
                x = x + (pairs if known.sinusoids.interleaved else pairs.T).flatten()
            elif known.positions:
                x = x + made.positions.weight[at]
            if known.segments:
                x = x + made.segments.weight[numbers[place][number] if with_segments else 0]
            wanted.append(made.norm(x) if known.norm else x)
    equal(found, torch.stack(wanted))


def test_dropout_falls_on_the_whole_embedding():
    batch, _ = stream()
    fields = {"positions": 20, "norm": LAYER_NORM, "dropout": 0.4}
    _, plain = embedded(ForwardContext(batch), **fields)
    _, noisy = embedded(ForwardContext(batch, DROPOUT_RNG), **fields)
    equal(noisy, plain * torch.cat(masks(batch, WIDTH, 0.4, 6)))


def test_an_embedding_of_nothing_is_refused():
    with pytest.raises(TypeError, match="neither"):
        embedded(ForwardContext(stream()[0]), vocabulary=0)


POOLS = {
    "none": lambda x: x,
    "mean": lambda x: (x.sum(0) / len(x))[None],
    "max": lambda x: x.max(0).values[None],
    "first": lambda x: x[:1],
    "last": lambda x: x[-1:],
}
DENSE = spec.Dense(outputs=6, activation="gelu", norm=LAYER_NORM)
HEADS = {
    "plain": {},
    "no bias": {"bias": False},
    "scaled": {"scale": 0.3},
    "capped": {"logit_softcap": 1.5},
    "dense": {"dense": spec.Dense(outputs=6, activation="tanh")},
    "dense with a norm": {"dense": DENSE, "scale": 2.0, "logit_softcap": 2.0},
    "a vector": {"outputs": 0},
    "a vector of length one": {"outputs": 0, "unit": True, "dense": DENSE},
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dropout_rng", [None, DROPOUT_RNG], ids=["plain", "dropout"])
def test_a_head_equals_its_formula(pool, name, dropout_rng):
    setting = spec.Head(**{"pool": pool, "outputs": 4, "dropout": 0.4, **HEADS[name]})
    made, (batch, x_nd) = drawn(Head(setting, WIDTH, dropout_id=9)), stream()
    wanted: list[Any] = [None] * len(LENGTHS)
    documents = zip(batch.order, batch.documents, by_document(batch, x_nd), strict=True)
    for place, document, rows in documents:
        x = POOLS[pool](rows)
        if setting.dense:
            x = FORMULAS[setting.dense.activation](x @ made.dense.weight.T + made.dense.bias)
            x = made.dense_norm(x) if setting.dense.norm else x
        if dropout_rng:
            mask = np.empty(x.numel())
            DROPOUT_RNG.fill_mask(mask, 0.4, 9, document)
            x = x * torch.from_numpy(mask).view(x.shape)
        x = x * setting.scale
        if setting.outputs:
            x = x @ made.out.weight.T + (made.out.bias if setting.bias else 0.0)
        if setting.logit_softcap:
            x = setting.logit_softcap * torch.tanh(x / setting.logit_softcap)
        wanted[place] = x / x.norm(dim=1, keepdim=True) if setting.unit else x
    found = made(x_nd, batch, dropout_rng)
    if pool == "none":
        wanted = [wanted[place] for place in batch.order]
    equal(found, torch.cat(wanted))
    if setting.logit_softcap:
        assert found.abs().max() < setting.logit_softcap


@pytest.mark.parametrize("shape", [(7, 16), (5, 3, 16)])
def test_the_gradient_of_rms_norm_is_torchs(shape):
    generator = torch.Generator().manual_seed(1)
    x, gain = (torch.randn(*each, generator=generator).double() for each in (shape, (16,)))
    leaves, others = ([t.clone().requires_grad_() for t in (x, gain)] for _ in range(2))
    dy = torch.randn(*shape, generator=generator).double()
    found = rms_normed(*leaves, 1e-5)
    found.backward(dy)
    wanted = F.rms_norm(others[0], (16,), others[1], 1e-5)
    wanted.backward(dy)
    torch.testing.assert_close(found, wanted)
    for leaf, other in zip(leaves, others, strict=True):
        torch.testing.assert_close(leaf.grad, other.grad)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "relu"])
def test_the_gradient_of_a_gate_is_that_of_its_formula(name):
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(2)).double()
    leaf, other = (x.clone().requires_grad_() for _ in range(2))
    gate, value = other.chunk(2, dim=-1)
    wanted, found = ACTIVATIONS[name](gate) * value, activated(leaf, ACTIVATIONS[name], True)
    for each in (wanted, found):
        each.square().sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(leaf.grad, other.grad)
