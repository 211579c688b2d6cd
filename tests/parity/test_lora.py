"""LoRA on a network of every family: begins as the frozen one, learns alone, merges."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, nn

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.random import key
from lmwright.models.core.device import Placement
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.frozen import FrozenLinear
from lmwright.models.core.linear import DenseLinear, StackedLinear, WindowLinear, linears
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.network.merge import merged
from lmwright.models.network.network import Network, fill, head_weights, parameter_count
from lmwright.models.tunes.head import HeadOnly
from lmwright.models.tunes.lora import LoRA
from lmwright.train.optimizers import SGD
from tests.parity import harness, test_encoders
from tests.parity.networks import NETWORKS

every = pytest.mark.parametrize("name", [name for name in NETWORKS if name != "elmo"])
"""But ELMo here, whose weights are all in recurrent cells."""


kinds = pytest.mark.parametrize(
    "tune", [LoRA(rank=2, alpha=3.0), LoRA(rank=2, dora=True)], ids=["lora", "dora"]
)


def adapted(network: Network) -> dict[str, LowRankLinear]:
    """The adapters of a network by name; those of tied maps under each of their names."""
    return {name: each for name, each in linears(network) if isinstance(each, LowRankLinear)}


def trained(network: Network, seed: int = 4) -> dict[str, LowRankLinear]:
    """The same adapters with second matrices as if they had learnt."""
    generator = Generator().manual_seed(seed)
    for each in (found := adapted(network)).values():
        nn.init.normal_(each.lora_b.data, std=0.2, generator=generator)
        if each.magnitude is not None:
            drawn = torch.rand(len(each.magnitude), generator=generator, dtype=torch.float64)
            each.magnitude.data *= 0.5 + drawn
        torch.autograd.graph.increment_version(each.lora_b)
    return found


@every
@kinds
def test_adapters_begin_as_the_frozen_network_and_learn_alone(name, tune):
    network, batch = NETWORKS[name]()
    with torch.no_grad():
        plain = network(batch)
        tune.apply(network, seed=5)
        assert torch.equal(network(batch), plain)
    trained(network)
    network(batch).square().sum().backward()
    own = {
        id(each)
        for map_ in adapted(network).values()
        for each in (*map_.matrices, *(() if map_.magnitude is None else (map_.magnitude,)))
    }
    head = {id(each) for each in head_weights(network)[0]}
    for path, weight in network.named_parameters():
        assert weight.requires_grad == (id(weight) in own | head), path
        learns = weight.grad is not None and bool((weight.grad != 0).any())
        # A scale of routed experts that no token chose, say, has no gradient.
        assert learns <= weight.requires_grad and (learns or id(weight) not in own), path


@every
@kinds
def test_merged_adapters_give_the_same_logits_in_a_plain_network(name, tune):
    network, batch = NETWORKS[name]()
    plain = {path: each.clone() for path, each in network.named_parameters()}
    assert merged(network) is network
    tune.apply(network, seed=5)
    trained(network)
    found = merged(network)
    assert {path for path, _ in found.named_parameters()} == plain.keys() and not adapted(found)
    with torch.no_grad():
        wanted = network(batch)
        torch.testing.assert_close(found(batch), wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.next(batch, None), network.next(batch, None))
        assert not torch.allclose(NETWORKS[name]()[0](batch), wanted)
    changed = {p for p, each in found.named_parameters() if not torch.equal(each, plain[p])}
    names = {f"{path}.weight" for path in adapted(network)}
    assert changed <= names and changed


AMPLIFIED = {"t5": 200, "marian": 20}
"""By how much a drawn network's gradients may amplify an error: unscaled attention is all but a
maximum, and a rounding moves it."""


@every
@pytest.mark.parametrize(("base", "error"), [("bf16", 0.05), ("int8", 5e-4)])
def test_adapters_learn_on_a_base_in_fewer_bits_which_stays(name, base, error):
    """They learn what they would on the network of the kept weights in fp64, but for rounding."""
    network, batch = NETWORKS[name]()
    LoRA(rank=2, base=base, dora=base == "int8").apply(network, seed=5)
    trained(network)
    frozen = {
        path: each for path, each in network.named_modules() if isinstance(each, FrozenLinear)
    }
    body = {path for path, _ in linears(network) if not path.startswith("head.")}
    assert {path.removesuffix(".inner") for path in frozen} <= body == {*adapted(network)}
    before = {path: each.weight.clone() for path, each in frozen.items()}
    # The same adapters on a network of plain maps with the kept weights.
    plain, _ = NETWORKS[name]()
    weights = {f"{path.removesuffix('.inner')}.weight": each for path, each in before.items()}
    fill(plain, weights)
    LoRA(rank=2, dora=base == "int8").apply(plain, seed=5)
    fill(plain, {n: each for n, each in network.named_parameters() if each.requires_grad})
    with torch.no_grad():
        found, wanted = network(batch), plain(batch)
    assert float((found - wanted).norm()) <= error * float(wanted.norm())
    for each in (network, plain):
        each.zero_grad()
        each(batch).square().mean().backward()
    grads = [
        torch.cat([w.grad.flatten() for n, w in each.named_parameters() if "lora_" in n])
        for each in (network, plain)
    ]
    most = AMPLIFIED.get(name, 3) * error
    assert float((grads[0] - grads[1]).norm()) <= most * float(grads[1].norm())
    SGD(momentum=0.0).make(network).step(1e-3)
    assert all(torch.equal(each.weight, before[path]) for path, each in frozen.items())
    assert parameter_count(network) == parameter_count(plain)
    other = merged(network)
    assert {n for n, _ in other.named_parameters()} == {
        n for n, _ in NETWORKS[name]()[0].named_parameters()
    }
    torch.testing.assert_close(other(batch), merged_plain(plain, network)(batch))


def merged_plain(plain: Network, network: Network) -> Network:
    """``plain`` with the adapters of ``network``, merged."""
    fill(plain, {n: each for n, each in network.named_parameters() if each.requires_grad})
    return merged(plain)


@pytest.mark.parametrize("base", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_network_whose_products_round_merges_too(base, precision):
    """A merge is judged by the weights: what a precision rounds is no difference."""
    network, _ = NETWORKS["gpt2"]()
    LoRA(rank=2, base=base).apply(network.float(), seed=5)
    trained(network)
    wanted = merged(network)
    network.place(Placement("cpu", precision))
    products = {id(each): each.product for _, each in linears(network)}
    found = merged(network)
    assert {id(each): each.product for _, each in linears(network)} == products
    for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_merge_that_changes_an_output_is_refused(monkeypatch):
    network, _ = NETWORKS["gpt2"]()
    LoRA(rank=2).apply(network, seed=5)
    trained(network)
    monkeypatch.setattr(LowRankLinear, "merged_weight", lambda self: self.inner.weight)
    with pytest.raises(Corrupt, match="changes its outputs when it is merged"):
        merged(network)


@pytest.mark.parametrize("kind", ["parts", "stack", "window"])
def test_an_update_is_the_formula(kind):
    """y + alpha / rank B A x, a pair of matrices for each part and member."""
    generator = Generator().manual_seed(0)
    inner = {
        "parts": lambda: DenseLinear(6, (4, 2, 2)),
        "stack": lambda: StackedLinear(3, 6, 5, bias=False),
        "window": lambda: WindowLinear(2, 5, 3),
    }[kind]().double()
    for weight in inner.parameters():
        nn.init.normal_(weight.data, generator=generator)
    found = LowRankLinear(inner, 2, 1.5, generator)
    assert float(found.lora_a.detach().abs().max()) <= 1 / math.sqrt(6) and not found.lora_b.any()
    nn.init.normal_(found.lora_b.data, generator=generator)
    x_ni = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    for member in range(found.members):
        wanted, first = [], 0
        for part, size in enumerate(found.parts):
            b_or = found.lora_b[member, first : first + size]
            wanted.append(x_ni @ found.lora_a[member, part].T @ b_or.T)
            first += size
        whole = inner(x_ni, member=member) + 1.5 * torch.cat(wanted, dim=1)
        torch.testing.assert_close(found(x_ni, member=member), whole)
        for rows in (slice(1, 5), slice(3, None), slice(None, 2)):
            torch.testing.assert_close(found(x_ni, rows, member), whole[:, rows])


@pytest.mark.parametrize("kind", ["parts", "stack", "window"])
def test_weight_decomposed_rows_have_their_magnitude(kind):
    """m (W + s B A) / |W + s B A| x + b row by row; the norm has no gradient."""
    generator = Generator().manual_seed(0)
    inner = {
        "parts": lambda: DenseLinear(6, (4, 2, 2)),
        "stack": lambda: StackedLinear(3, 6, 5, bias=False),
        "window": lambda: WindowLinear(2, 5, 3),
    }[kind]().double()
    for weight in inner.parameters():
        nn.init.normal_(weight.data, generator=generator)
    inner.requires_grad_(False)
    found = LowRankLinear(inner, 2, 1.5, generator, dora=True)
    nn.init.normal_(found.lora_b.data, generator=generator)
    nn.init.uniform_(found.magnitude.data, 0.5, 2.0, generator=generator)
    x_ni = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    a, b, m = (each.detach().requires_grad_() for each in found.parameters() if each.requires_grad)
    for member in range(found.members):
        updates, first = [], 0
        for part, size in enumerate(found.parts):
            updates.append(b[member, first : first + size] @ a[member, part])
            first += size
        frozen = inner.weight.view(found.members, found.out_features, 6)[member]
        updated_oi = frozen + 1.5 * torch.cat(updates)
        norm_o1 = updated_oi.detach().norm(dim=1, keepdim=True)
        ours = m.view(found.members, -1)[member][:, None]
        whole = x_ni @ (ours * updated_oi / norm_o1).T
        if inner.bias is not None:
            whole = whole + inner.bias
        got = found(x_ni, member=member)
        torch.testing.assert_close(got, whole)
        got.square().sum().backward()
        whole.square().sum().backward()
        for rows in (slice(1, 5), slice(3, None), slice(None, 2)):
            torch.testing.assert_close(found(x_ni, rows, member), whole[:, rows])
    for mine, wanted in zip((*found.matrices, found.magnitude), (a, b, m), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad)


def test_norms_are_those_of_the_present_matrices():
    """After a step, after weights are set from a file, and after a pass without gradients."""
    network, batch = NETWORKS["bert, classify"]()
    LoRA(rank=2, dora=True).apply(network, seed=5)
    optimizer = SGD(momentum=0.0).make(network)
    for _ in range(3):
        network(batch).square().sum().backward()
        optimizer.step(0.01)
        with torch.inference_mode():
            found, wanted = network(batch), merged(network)(batch)
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    drawn = {n: torch.randn_like(w) for n, w in network.named_parameters() if "lora_" in n}
    fill(network, drawn)
    with torch.no_grad():
        torch.testing.assert_close(network(batch), merged(network)(batch), rtol=1e-9, atol=1e-9)


def test_a_magnitude_is_not_decayed():
    """Weight decay is for matrices: a magnitude that shrank would scale its row."""
    network, _ = NETWORKS["gpt2"]()
    LoRA(rank=2, dora=True).apply(network, seed=5)
    assert all(each.magnitude.dim() == 1 for each in adapted(network).values())


def test_ranks_and_alphas_are_those_of_the_most_specific_pattern():
    network, _ = NETWORKS["gpt2"]()
    tune = LoRA(
        rank=4,
        alpha=8.0,
        scaling="root-rank",
        ranks={"*op*": 3, "*.qkv": 2, "stacks.decoder.layers.1.*": 1},
        alphas={"*.qkv": 1.0},
    )
    tune.apply(network, seed=5)
    for name, each in adapted(network).items():
        own = name.startswith("stacks.decoder.layers.1.")
        rank = 1 if own else 2 if name.endswith("qkv") else 3
        assert each.lora_a.shape[2] == rank == each.lora_b.shape[2], name
        alpha = 1.0 if name.endswith("qkv") else 8.0
        assert each.scale == pytest.approx(alpha / math.sqrt(rank)), name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ranks": {"*.query": 2}}, r"ranks: no adapted map is called '\*.query'.*\*.op.qkv"),
        ({"alphas": {"head.*": 2.0}}, "alphas: no adapted map is called 'head"),
        ({"linears": ("*.qkv", "*.gate")}, r"linears: no adapted map is called '\*.gate'"),
        ({"linears": ("*.qkv",), "ranks": {"*.up": 2}}, "ranks: no adapted map"),
        ({"linears": ()}, "linears none, and the network has no such map"),
        ({"ranks": {"*.qkv": 2, "*.op.*": 3}}, r"qkv fits \*.op.\* and \*.qkv"),
    ],
)
def test_a_pattern_that_says_nothing_or_two_things_is_refused(settings, words):
    network, _ = NETWORKS["gpt2"]()
    with pytest.raises(BadInput, match=words):
        LoRA(**settings).apply(network, seed=5)
    assert not adapted(network)


def test_maps_are_chosen_by_their_names():
    network, _ = NETWORKS["gpt2"]()
    LoRA(linears=("*.qkv", "*.layers.0.*.down")).apply(network, seed=5)
    found = adapted(network)
    assert {name.rpartition(".")[2] for name in found} == {"qkv", "down"}
    assert sum(name.endswith("down") for name in found) == 1 < len(found) - 1


def test_the_first_matrix_is_drawn_as_kaiming_by_seed_and_name():
    """``kaiming_uniform_(a=√5)``, as peft draws it: uniform within ±1/√in."""
    found = []
    for seed in (1, 1, 2):
        network, _ = NETWORKS["gpt2"]()
        LoRA(rank=3).apply(network, seed)
        found.append({name: each.lora_a.detach() for name, each in adapted(network).items()})
    one, same, other = found
    for name, a in one.items():
        assert torch.equal(a, same[name]) and not torch.equal(a, other[name])
        generator = Generator().manual_seed(key(1, "weight", f"{name}.lora_a") % (1 << 63))
        drawn = nn.init.kaiming_uniform_(
            torch.empty(a[0].shape[0] * 3, a.shape[-1]), a=math.sqrt(5), generator=generator
        )
        torch.testing.assert_close(a.flatten(0, 2), drawn.to(a.dtype))
    assert not any(torch.equal(a[0, 0], b[0, 0]) for a, b in pairwise(one.values()))


def test_steps_are_those_of_the_formula():
    """Ten steps against the merged weight W + s B A written out, differentiated by autograd."""
    network, batch = NETWORKS["bert, classify"]()
    tune = LoRA(rank=2, alpha=6.0, linears="attention", head=False)
    tune.apply(network, seed=5)
    ours = adapted(network)
    plain, _ = NETWORKS["bert, classify"]()
    fixed = {name: each.detach() for name, each in plain.named_parameters()}
    pairs = {
        name: (each.lora_a.detach().clone(), each.lora_b.detach().clone())
        for name, each in ours.items()
    }
    optimizer, losses = SGD(momentum=0.0).make(network), []
    for _ in range(10):
        loss = F.cross_entropy(network(batch), torch.zeros(len(batch.documents), dtype=torch.int64))
        loss.backward()
        optimizer.step(0.05)
        leaves = {n: tuple(each.requires_grad_() for each in pair) for n, pair in pairs.items()}
        weights = dict(fixed)
        for name, (a, b) in leaves.items():
            sizes = ours[name].parts
            update = [b_p @ a_p for a_p, b_p in zip(a[0], b[0].split(sizes), strict=True)]
            weights[f"{name}.weight"] = fixed[f"{name}.weight"] + 3.0 * torch.cat(update)
        logits = torch.func.functional_call(plain, weights, (batch,))
        theirs = F.cross_entropy(logits, torch.zeros(len(batch.documents), dtype=torch.int64))
        torch.testing.assert_close(loss, theirs)
        losses.append(loss.item())
        theirs.backward()
        pairs = {
            n: tuple((each - 0.05 * each.grad).detach() for each in pair)
            for n, pair in leaves.items()
        }
    assert losses[-1] < 0.9 * losses[0]
    for name, (a, b) in pairs.items():
        torch.testing.assert_close(ours[name].lora_a, a)
        torch.testing.assert_close(ours[name].lora_b, b)


THEIRS = {
    "0.op.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "0.op.out": ("attention.output.dense",),
    "1.op.up": ("intermediate.dense",),
    "1.op.down": ("output.dense",),
}
"""Our maps of an encoder's layer -> those of the reference that are its parts."""


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("ours", "settings"),
    [
        ({}, {}),
        ({"scaling": "root-rank"}, {"use_rslora": True}),
        ({"dora": True}, {"use_dora": True}),
    ],
    ids=["lora", "rslora", "dora"],
)
def test_steps_are_those_of_peft(ours, settings):
    """Where it is installed: ten steps of SGD from the same matrices, map by map.

    The test before has the formula written out.
    """
    peft = pytest.importorskip("peft")
    case = replace(test_encoders.CASES["bert, classify"], segments="")
    model = harness.reference(case)
    network = harness.ours(case, model).double()
    LoRA(rank=3, alpha=6.0, head=False, **ours).apply(network, seed=5)
    settings = peft.LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=r".*encoder\.layer\..*(query|key|value|dense)",
        **settings,
    )
    with harness.in_double(True):
        theirs = peft.get_peft_model(model, settings).double().eval()
    pairs = []
    for name, own in adapted(network).items():
        _, _, _, layer, place = name.split(".", 4)
        sizes = list(own.parts)
        parts = zip(own.lora_a[0], own.lora_b[0].split(sizes), THEIRS[place], strict=True)
        for part, (a, _, other) in enumerate(parts):
            module = model.get_submodule(f"bert.encoder.layer.{layer}.{other}")
            module.lora_A["default"].weight.data.copy_(a.detach())
            pairs.append((own, part, module))
    assert len(pairs) == 2 * 6 == sum("lora_A" in n for n, _ in theirs.named_parameters())
    texts = harness.documents(case)
    optimizer = SGD(momentum=0.0).make(network)
    other = torch.optim.SGD([each for each in theirs.parameters() if each.requires_grad], 0.05)
    for _ in range(10):
        right = torch.zeros(len(texts), dtype=torch.int64)
        F.cross_entropy(torch.stack(harness.logits_of_ours(case, network, texts)), right).backward()
        optimizer.step(0.05)
        said = [theirs(input_ids=torch.from_numpy(text)[None]).logits[0] for text in texts]
        F.cross_entropy(torch.stack(said), right).backward()
        other.step()
        other.zero_grad()
    for own, part, module in pairs:
        if own.magnitude is not None:
            theirs_o = module.lora_magnitude_vector["default"].weight
            torch.testing.assert_close(own.magnitude.split(list(own.parts))[part], theirs_o)
        b_or = own.lora_b[0].split(list(own.parts))[part]
        assert b_or.any()
        for mine, name in ((own.lora_a[0, part], "lora_A"), (b_or, "lora_B")):
            torch.testing.assert_close(mine, getattr(module, name)["default"].weight)


def with_dropout(name: str, rate: float = 0.4) -> tuple[Network, Ragged]:
    """A network that drops nothing but the input of its trained adapters."""
    network, batch = NETWORKS[name]()
    LoRA(rank=2, dropout=rate, head=False).apply(network, seed=5)
    trained(network)
    return network, batch


@pytest.mark.parametrize("name", ["bert, classify", "gpt2", "llama", "bart", "t5"])
def test_dropout_of_a_document_is_the_same_in_any_company(name):
    network, batch = with_dropout(name)
    names = list(network.streams) if not isinstance(batch, Ragged) else []
    streams = [batch[n] for n in names] if names else [batch]
    with torch.no_grad():
        plain, whole = network(batch), network(batch, DropoutRNG(1, 2))
        again = network(batch, DropoutRNG(1, 2))
        assert torch.equal(whole, again) and not torch.allclose(whole, plain)
        assert not torch.allclose(whole, network(batch, DropoutRNG(1, 3)))
        pooled = network.head_spec.pool != "none"
        parts = whole if pooled else network.output_batch(batch).by_document(whole)
        for place in range(len(streams[0].documents)):
            alone = [single(stream, place) for stream in streams]
            given = dict(zip(names, alone, strict=True)) if names else alone[0]
            found = network(given, DropoutRNG(1, 2))
            torch.testing.assert_close(
                found[0] if pooled else found, parts[place], rtol=1e-9, atol=1e-9
            )


def single(stream: Ragged, place: int) -> Ragged:
    """A batch of the one document that was packed at ``place``, under its own number."""
    at = stream.order.index(place)
    start, stop = list(stream.spans())[at]
    ids = stream.tokens_n[start:stop].numpy()
    segments = None if stream.segments_n is None else [stream.segments_n[start:stop].numpy()]
    return pack([ids], [stream.documents[at]], segments=segments)


def test_dropout_keeps_the_mean_and_the_rate():
    network, batch = with_dropout("gpt2", rate=0.25)
    each = next(iter(adapted(network).values()))
    network(batch, DropoutRNG(0, 0))
    x_ni = torch.ones(len(batch.tokens_n), 4000, dtype=torch.float64)
    dropped = each.drop(x_ni)
    assert set(dropped.unique().tolist()) == {0.0, 1 / 0.75}
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    network(batch)
    assert each.drop(x_ni) is x_ni, "no dropout outside of training"


@pytest.mark.parametrize("name", ["mixtral", "xlnet", "text cnn"])
def test_dropout_where_rows_are_no_tokens_is_refused_by_name(name):
    network, _ = NETWORKS[name]()
    with pytest.raises(BadInput, match=r"rows of stacks\.\S+ are no tokens of one text"):
        LoRA(dropout=0.1).apply(network, seed=5)


@pytest.mark.parametrize(
    ("linears", "name", "leaves"),
    [
        ("attention", "bart", {"q", "kv", "qkv", "out"}),
        ("mlp", "bart", {"up", "down"}),
        ("mlp", "mixtral", {"up", "down"}),
        ("all", "mixtral", {"qkv", "out", "router", "up", "down"}),
    ],
)
def test_the_maps_that_are_named_get_one(linears, name, leaves):
    network, _ = NETWORKS[name]()
    LoRA(linears=linears).apply(network, seed=5)
    found = adapted(network)
    assert {path.rpartition(".")[2] for path in found} == leaves
    assert all(path.startswith("stacks.") for path in found)


def test_a_network_without_such_maps_is_refused():
    network, _ = NETWORKS["elmo"]()
    with pytest.raises(BadInput, match="linears attention, and the network has no such map"):
        LoRA(linears="attention").apply(network, seed=5)


def test_a_shared_head_never_learns():
    network, _ = NETWORKS["gpt2"]()
    assert head_weights(network) == ([], True)
    LoRA().apply(network, seed=5)
    assert not network.head.out.weight.requires_grad
    with pytest.raises(BadInput, match="this head's weights are the body's too"):
        HeadOnly().apply(network, seed=5)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"alpha": math.inf}, "alpha is inf"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"ranks": {"*.up": 0}}, r"ranks.\*.up is 0"),
        ({"alphas": {"*.up": -1.0}}, r"alphas.\*.up is -1"),
    ],
)
def test_a_setting_out_of_range_is_refused(field, words):
    with pytest.raises(BadInput, match=words):
        replace(LoRA(), **field).check()
