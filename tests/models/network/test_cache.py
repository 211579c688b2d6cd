"""What a document gives does not depend on its company, nor on the pieces in which it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.models.blocks.context import Cache
from lmwright.models.blocks.pages import Pool
from lmwright.models.blocks.positions import alibi_slopes
from lmwright.models.core import spec
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Ragged, order_of_pairs, pack
from lmwright.models.core.spec import Attention, FeedForward, Head, ModelSpec, Norm, Stack, Sublayer
from lmwright.models.decode import DecodingState
from lmwright.models.network.network import Network, build, tie

NORM = Norm(eps=1e-3)
LENGTHS, SOURCES = (5, 1, 12, 5, 3), (2, 9, 4, 4, 1)
NAMES = (7, 2**100 + 1, 9, 2**64, 3)
LM = Head(pool="none", outputs=50, bias=False, share="tokens")


def drawn(setting: ModelSpec, head: Head | None = LM) -> Network:
    """A network with wide weights, in fp64."""
    made, generator = build(setting, head), torch.Generator().manual_seed(1)
    state = {
        name: torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.4
        for name, weight in made.state_dict().items()
    }
    firsts: dict[int, Tensor] = {}
    for name, weight in made.named_parameters(remove_duplicate=False):
        state[name] = firsts.setdefault(id(weight), state[name])
    made.load_state_dict(state, assign=True)
    tie(made)
    return made


def texts(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 50, length) for length in lengths]


def attention(**fields: Any) -> Attention:
    default = {"heads": 4, "kv_heads": 4, "head_width": 6, "scale": 0.4, "mask": "causal"}
    return Attention(**{**default, **fields})


def decoder(*ops: Any, layers: int = 2, dropout: float = 0.0, **embedding: Any) -> Stack:
    """A stack of layers of these ops and a feed-forward."""
    ops = (*ops, FeedForward(inner=12, activation="gelu", inner_dropout=True))
    layer = tuple(Sublayer(op=op, pre_norm=NORM, dropout=dropout) for op in ops)
    known = spec.Embedding(vocabulary=50, share="tokens", dropout=dropout, **embedding)
    return Stack(name="decoder", width=24, embedding=known, layers=(layer,) * layers, norm=NORM)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


ROTARY = spec.Rotary(base=50.0, width=6)
SCALING = spec.Scaling(kind="linear", factor=3.0)
FORWARDS = {
    "no positions": {},
    "rotary": {"positions": ROTARY},
    "rotary pairs of a part": {"positions": replace(ROTARY, width=4, layout="interleaved")},
    "rotary, linear": {"positions": replace(ROTARY, scaling=SCALING)},
    "rotary, llama3": {
        "positions": replace(ROTARY, scaling=replace(SCALING, kind="llama3", original=8))
    },
    "rotary, yarn": {
        "positions": replace(ROTARY, scaling=replace(SCALING, kind="yarn", original=8, high=32.0))
    },
    "alibi": {"positions": spec.ALiBi(slopes=alibi_slopes(4))},
    "buckets": {"positions": spec.T5Bias(buckets=8, max_distance=10, bidirectional=False)},
    "one table of buckets": {
        "positions": spec.T5Bias(buckets=8, max_distance=10, bidirectional=False, share="distances")
    },
    "relative": {"positions": spec.TransformerXL()},
    "grouped": {"kv_heads": 2, "positions": ROTARY},
    "grouped slopes": {"kv_heads": 2, "positions": spec.ALiBi(slopes=alibi_slopes(4))},
    "multi-query": {"kv_heads": 1},
    "capped": {"logit_softcap": 2.0, "kv_heads": 2},
    "normed heads": {"head_norm": NORM, "kv_heads": 2, "positions": ROTARY},
    "window": {"window": 3},
    "window of one": {"window": 1},
    "grouped window, rotary": {"window": 3, "kv_heads": 2, "positions": ROTARY},
    "grouped window, relative": {"window": 4, "positions": spec.TransformerXL()},
    "prefix without one": {"mask": "prefix", "kv_heads": 2},
    "learned positions": {"embedding": {"positions": 30, "first_position": 2}},
    "sinusoids": {"embedding": {"sinusoids": spec.Sinusoids(interleaved=True)}},
}


def forwards(name: str) -> Network:
    fields = dict(FORWARDS[name])
    embedding = fields.pop("embedding", {})
    return drawn(ModelSpec(stacks=(decoder(attention(**fields), **embedding),)))


def in_pieces(
    cuts: Sequence[Sequence[int]], documents: list[np.ndarray]
) -> list[tuple[Ragged, list[int]]]:
    """Batches of the documents' pieces between the cuts, and what went before."""
    found = []
    for step in range(len(cuts[0]) - 1):
        spans = [(cut[step], cut[step + 1]) for cut in cuts]
        parts = [text[a:b] for text, (a, b) in zip(documents, spans, strict=True)]
        past = [a for a, _ in spans]
        found.append((pack(parts, order=range(len(parts)), past=past), past))
    return found


CUTS = [(0, 3, 4, 6, 7), (0, 1, 5, 7, 8), (0, 2, 3, 4, 5), (0, 3, 4, 6, 7)]


@pytest.mark.parametrize("name", FORWARDS)
@torch.no_grad()
def test_pieces_with_a_cache_equal_the_whole_pass(name):
    model, documents = forwards(name), texts([cut[-1] for cut in CUTS])
    whole = [model(pack([text])) for text in documents]
    cache, only_last = Cache(4), Cache(4)
    for batch, past in in_pieces(CUTS, documents):
        ends = model.next(batch, only_last)
        parts = batch.by_document(model(batch, cache=cache))
        for place, (rows, first) in enumerate(zip(parts, past, strict=True)):
            close(rows, whole[place][first : first + len(rows)])
            close(ends[place], rows[-1])
    assert cache.lengths == [len(text) for text in documents]


@pytest.mark.parametrize("name", FORWARDS)
@torch.no_grad()
def test_documents_packed_equal_documents_alone(name):
    model, batch = forwards(name), pack(texts())
    for text, rows in zip(texts(), batch.by_document(model(batch)), strict=True):
        close(rows, model(pack([text])))


@pytest.mark.parametrize("name", ["rotary", "grouped slopes", "window", "relative"])
@torch.no_grad()
def test_chosen_documents_go_on_as_if_alone(name):
    """Some twice, some no more, in another order; and again."""
    model, rng = forwards(name), np.random.default_rng(3)
    known, cache = texts((4, 1, 6)), Cache(3)
    model.next(pack(known, order=range(3)), cache)
    for places in ([2, 0, 2, 2], [3, 0], [1], [0, 0, 0]):
        known = [known[place] for place in places]
        cache.choose(places)
        new = [rng.integers(0, 50, length) for length in rng.integers(1, 4, len(places))]
        batch = pack(new, order=range(len(new)), past=[len(text) for text in known])
        known = [np.concatenate(pair) for pair in zip(known, new, strict=True)]
        for rows, text in zip(model.next(batch, cache), known, strict=True):
            close(rows, model(pack([text]))[-1])


def pair(cross: dict[str, Any], own: dict[str, Any], dropout: float = 0.0) -> ModelSpec:
    """An encoder and a decoder that reads it, of other widths."""
    encoder = Stack(
        name="encoder",
        width=10,
        embedding=spec.Embedding(vocabulary=50, positions=20, dropout=dropout),
        layers=(
            (
                Sublayer(
                    op=attention(mask="full", dropout=dropout), post_norm=NORM, dropout=dropout
                ),
            ),
        ),
    )
    reading = attention(**{"mask": "full", "cross_attends": "encoder", "dropout": dropout, **cross})
    self_attention = attention(dropout=dropout, **own)
    return ModelSpec(stacks=(encoder, decoder(self_attention, reading, dropout=dropout)))


PAIRS = {
    "plain": ({}, {}),
    "grouped": ({"kv_heads": 2}, {"kv_heads": 2, "positions": ROTARY}),
    "normed heads": ({"head_norm": NORM}, {"head_norm": NORM}),
    "buckets": (
        {"positions": spec.T5Bias(buckets=8, max_distance=10, bidirectional=True)},
        {"positions": spec.T5Bias(buckets=8, max_distance=10, bidirectional=False)},
    ),
    "one window": ({"window": 3}, {"mask": "full", "window": 3}),
    "one table of distances": (
        {"positions": spec.T5Bias(buckets=8, max_distance=10, bidirectional=True, share="d")},
        {"positions": spec.T5Bias(buckets=8, max_distance=10, bidirectional=True, share="d")},
    ),
    "causal to the source": ({"mask": "causal"}, {"mask": "causal", "window": 4}),
}


def both_streams(
    sources: list[np.ndarray], targets: list[np.ndarray], names: Sequence[int] | None = None
) -> dict[str, Ragged]:
    order = order_of_pairs(sources, targets)
    streams = (pack(each, names, order=order) for each in (sources, targets))
    return dict(zip(("encoder", "decoder"), streams, strict=True))


@pytest.mark.parametrize("dropout_rng", [None, DropoutRNG(4, 5)], ids=["plain", "dropout"])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_packed_equal_pairs_alone(name, dropout_rng):
    """Sources of other lengths than the targets; values and gradients."""
    model = drawn(pair(*PAIRS[name], dropout=0.3))
    sources, targets = texts(SOURCES, 1), texts()
    batch = both_streams(sources, targets, NAMES)
    given = model(batch, dropout_rng)
    given.square().sum().backward()
    gradients = {n: weight.grad.clone() for n, weight in model.named_parameters()}
    model.zero_grad()
    triples = zip(sources, targets, NAMES, strict=True)
    for rows, (source, target, document) in zip(
        batch["decoder"].by_document(given), triples, strict=True
    ):
        single = model(both_streams([source], [target], [document]), dropout_rng)
        close(rows, single)
        single.square().sum().backward()
    for n, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[n], rtol=1e-8, atol=1e-9, msg=n)


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_a_source_changes_its_own_target_alone(name):
    model, sources, targets = drawn(pair(*PAIRS[name])), texts(SOURCES, 1), texts()
    before = model(both_streams(sources, targets))
    batch = both_streams(sources, targets)
    sources[2] = (sources[2] + 1) % 50
    after = batch["decoder"].by_document(model(both_streams(sources, targets)))
    pairs = zip(batch["decoder"].by_document(before), after, strict=True)
    assert [torch.equal(*rows) for rows in pairs] == [True, True, False, True, True]


@pytest.mark.parametrize("name", sorted(set(PAIRS) - {"one window", "one table of distances"}))
@torch.no_grad()
def test_targets_step_by_step_equal_the_whole_pass(name):
    """With the source read once, and documents taken twice or left."""
    model = drawn(pair(*PAIRS[name]))
    sources, known = texts((2, 9, 4), 1), texts((2, 1, 5))
    cache, new = Cache(3), known
    rng = np.random.default_rng(3)
    for places in ([0, 1, 2], [2, 0, 2, 1], [3, 0, 1], [2, 2]):
        if places != [0, 1, 2]:
            cache.choose(places)
            known, sources = ([each[place] for place in places] for each in (known, sources))
            new = [rng.integers(0, 50, length) for length in rng.integers(1, 4, len(places))]
        past = cache.lengths
        known = known if new is known else [np.concatenate(two) for two in zip(known, new)]  # noqa: B905
        order = range(len(places))
        streams = {
            "encoder": pack(sources, order=order),
            "decoder": pack(new, order=order, past=past),
        }
        found = model.next(streams, cache)
        for rows, source, target in zip(found, sources, known, strict=True):
            close(rows, model(both_streams([source], [target]))[-1])


@torch.no_grad()
def test_a_source_is_read_once():
    model, cache = drawn(pair({}, {})), Cache(1)
    source, target = texts((4, 6), 1)
    streams = {"encoder": pack([source]), "decoder": pack([target[:3]])}
    model.next(streams, cache)
    streams = {"encoder": pack([source + 99]), "decoder": pack([target[3:]], past=[3])}
    found = model.next(streams, cache)
    close(found[0], model(both_streams([source], [target]))[-1])


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({"mask": "permutation"}, "ranks"),
        ({"mask": "permutation_strict"}, "ranks"),
        ({"positions": spec.TransformerXL(segments=True)}, "segments"),
    ],
    ids=str,
)
def test_what_the_cache_does_not_keep_is_not_read_in_pieces(fields, given):
    """Ranks and segments of former tokens, without which the scores would be wrong."""
    model = drawn(ModelSpec(stacks=(decoder(attention(**fields)),)))
    text, numbers = texts((6,))[0], np.arange(6)
    if given == "segments":
        model = drawn(ModelSpec(stacks=(decoder(attention(**fields), segments=6),)))
        model(pack([text]), cache=Cache(1))
    with pytest.raises(BadInput, match="by segments or an order of factorisation"):
        model(pack([text], **{given: [numbers]}), cache=Cache(1))


EVERYTHING = ModelSpec(
    stacks=(
        Stack(
            name="encoder",
            width=12,
            embedding=spec.Embedding(
                vocabulary=50,
                scale=2.0,
                sinusoids=spec.Sinusoids(interleaved=True),
                segments=2,
                token_norm=NORM,
                norm=NORM,
                dropout=0.2,
                share="tokens",
            ),
            layers=(
                (
                    Sublayer(
                        op=attention(
                            mask="full", dropout=0.2, positions=spec.TransformerXL(segments=True)
                        ),
                        post_norm=NORM,
                        dropout=0.2,
                        stochastic_depth=0.3,
                    ),
                    Sublayer(
                        op=FeedForward(inner=9, activation="silu", gated=True), branch_norm=NORM
                    ),
                ),
                (
                    Sublayer(
                        op=spec.Recurrent(cell="lstm", hidden=7, bidirectional=True, project=6)
                    ),
                    Sublayer(
                        op=spec.Convolution(widths=(3, 4), channels=5, activation="relu"),
                        residual=False,
                    ),
                    Sublayer(
                        op=spec.Recurrent(cell="gru", hidden=10, backward=True), pre_norm=NORM
                    ),
                ),
                (Sublayer(op=spec.Projection(outputs=9, activation="tanh"), residual=False),),
            ),
            norm=Norm(kind="rms", eps=1e-3, bias=False, offset=1.0),
            output_dropout=True,
        ),
        Stack(
            name="decoder",
            width=12,
            embedding=spec.Embedding(vocabulary=50, positions=20, dropout=0.2, share="tokens"),
            layers=(
                (
                    Sublayer(
                        op=spec.Parallel(
                            branches=(
                                spec.Branch(
                                    pre_norm=NORM,
                                    op=attention(kv_heads=2, dropout=0.2, positions=ROTARY),
                                ),
                                spec.Branch(
                                    pre_norm=None,
                                    op=spec.Experts(
                                        experts=4, top_k=2, inner=5, activation="silu", shared=6
                                    ),
                                ),
                                spec.Branch(
                                    pre_norm=NORM, op=spec.Recurrent(cell="rnn", hidden=12)
                                ),
                            )
                        ),
                        dropout=0.2,
                        stochastic_depth=0.3,
                    ),
                    Sublayer(
                        op=attention(
                            mask="full", cross_attends="encoder", dropout=0.2, logit_softcap=2.0
                        ),
                        pre_norm=NORM,
                    ),
                ),
                (
                    Sublayer(op=attention(window=3, positions=spec.ALiBi(slopes=alibi_slopes(4)))),
                    Sublayer(
                        op=FeedForward(inner=9, activation="relu", inner_dropout=True), dropout=0.2
                    ),
                ),
                (
                    Sublayer(
                        op=attention(
                            dropout=0.2,
                            positions=spec.T5Bias(buckets=8, max_distance=10, bidirectional=False),
                        ),
                        stochastic_depth=0.3,
                    ),
                ),
            ),
        ),
    )
)


@pytest.mark.parametrize("pool", ["none", "mean", "max", "first", "last"])
def test_a_network_of_everything_packed_equals_alone_with_dropout_on(pool):
    """Values, gradients and losses, with segments in one stream."""
    model = drawn(EVERYTHING, Head(pool=pool, outputs=4, dropout=0.2))
    dropout_rng, sources, targets = DropoutRNG(3, 17), texts(SOURCES, 1), texts()
    segments = [np.arange(len(source)) % 2 for source in sources]
    order = order_of_pairs(sources, targets)
    batch = {
        "encoder": pack(sources, NAMES, order=order, segments=segments),
        "decoder": pack(targets, NAMES, order=order),
    }
    found = model(batch, dropout_rng)
    found.square().sum().backward()
    packed = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    # The first token of a causal decoder sees itself alone, whatever the scores.
    assert pool == "first" or all(gradient.any() for gradient in packed.values())
    model.zero_grad()
    rows = batch["decoder"].by_document(found) if pool == "none" else found.split(1)
    for place, name in enumerate(NAMES):
        single = {
            "encoder": pack([sources[place]], [name], segments=[segments[place]]),
            "decoder": pack([targets[place]], [name]),
        }
        own = model(single, dropout_rng)
        close(own, rows[place])
        own.square().sum().backward()
    largest = max(gradient.abs().max().item() for gradient in packed.values())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(
            weight.grad, packed[name], rtol=1e-8, atol=1e-13 * largest, msg=lambda m, n=name: n + m
        )
    assert not torch.allclose(found, model(batch))


@pytest.mark.parametrize("name", ["rotary", "grouped slopes", "window", "relative"])
@torch.no_grad()
def test_documents_come_and_go_and_others_go_on_as_if_alone(name):
    """A document's logits are those of a whole pass, whoever joins or leaves beside it."""
    model, rng, pool = forwards(name), np.random.default_rng(5), Pool()
    known, state = texts((4, 1, 6)), DecodingState(model, 3, pool=pool)
    found = state.append(known)
    for left, lengths in (([1], (3, 2)), ([0, 2], (1,)), ((), (9,)), ([0, 1, 2, 3], (5, 5))):
        state.leave(left)
        known = [text for place, text in enumerate(known) if place not in left]
        joining, more = DecodingState(model, len(lengths), pool=pool), texts(lengths)
        joining.append(more)
        state.join(joining)
        known = [*known, *more]
        new = [rng.integers(0, 50, 1) for _ in known]
        known = [np.concatenate(pair) for pair in zip(known, new, strict=True)]
        found = state.append(new)
        assert [ids.tolist() for ids in state.ids] == [text.tolist() for text in known]
        for rows, text in zip(found, known, strict=True):
            close(rows, model(pack([text]))[-1])
    assert pool.held == 2 and len(pool.holders) <= 6, "pages are used again"
