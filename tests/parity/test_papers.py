"""Families that the reference library lacks, against a plain second writing of their equations.

Each takes the weights under the names that a folder has, and one document's tokens: no batch, no
cache, no code shared with the library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.models.beam_search import beam_search
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import ModelSpec
from lmwright.models.decode import generate
from lmwright.models.family.family import Family, to_ours, to_theirs
from lmwright.models.files.folder import read_folder, write_folder
from lmwright.models.network.anatomy import anatomy
from lmwright.models.network.network import Network, build, fill, parameter_count
from lmwright.models.zoo import gemma3, lamda, llama, megatron, mixtral, palm, roberta
from lmwright.text.generation import SamplingParams
from tests.parity.harness import STD, mutations

Weights = dict[str, Tensor]
LENGTHS = (7, 1, 12, 2, 7)


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor | float, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * gain + bias


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """One head: every token takes from those up to itself."""
    scores = q @ k.T / math.sqrt(q.shape[1]) + bias
    later = torch.ones_like(scores).triu(1).bool()
    return torch.softmax(scores.masked_fill(later, -math.inf), dim=-1) @ v


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_by_tanh(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def plain_palm(weights: Weights, config: dict, ids: Tensor) -> Tensor:
    """y = x + MLP(norm(x)) + Attention(norm(x)) (Chowdhery et al. 2022, section 2)."""
    table = weights["stacks.decoder.embedding.tokens.weight"]
    heads, h, eps = config["num_attention_heads"], config["head_dim"], config["layer_norm_eps"]
    frequencies = 50.0 ** -(torch.arange(0, h, 2, dtype=table.dtype) / h)
    angles = torch.arange(len(ids), dtype=table.dtype)[:, None] * frequencies
    turn = torch.polar(torch.ones_like(angles), angles)

    def turned(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(len(x), h // 2, 2).contiguous())
        return torch.view_as_real(pairs * turn).flatten(1)

    x = table[ids]
    for number in range(config["num_hidden_layers"]):
        at = f"stacks.decoder.layers.{number}.0"
        y = layer_norm(x, weights[f"{at}.pre_norm.weight"], 0.0, eps)
        fused = y @ weights[f"{at}.op.ops.0.qkv.weight"].T
        *queries, key, value = fused.split(h, dim=1)
        assert len(queries) == heads
        mixed = [attention(turned(query), turned(key), value) for query in queries]
        gate, up = weights[f"{at}.op.ops.1.up.weight"].chunk(2)
        swish = (y @ gate.T) * torch.sigmoid(y @ gate.T)
        x = (
            x
            + torch.cat(mixed, 1) @ weights[f"{at}.op.ops.0.out.weight"].T
            + (swish * (y @ up.T)) @ weights[f"{at}.op.ops.1.down.weight"].T
        )
    x = layer_norm(x, weights["stacks.decoder.norm.weight"], 0.0, eps)
    return x @ table.T / math.sqrt(table.shape[1])


def bucket(back: int, buckets: int, distance: int) -> int:
    """T5's bucket of a key so far back."""
    exact = buckets // 2
    if back < exact:
        return back
    far = math.log(back / exact) / math.log(distance / exact) * (buckets - exact)
    return min(exact + int(far), buckets - 1)


def plain_relative(
    weights: Weights,
    config: dict,
    ids: Tensor,
    table_of: Callable[[int], int],
    feed_forward: Callable[[int, str, Tensor], Tensor],
) -> Tensor:
    """Pre-norm layers with T5's bias of distances; ``table_of`` says whose a layer uses."""
    table, eps = weights["stacks.decoder.embedding.tokens.weight"], config["layer_norm_eps"]
    h, heads, n = config["head_dim"], config["num_attention_heads"], len(ids)
    buckets = config["relative_attention_num_buckets"]
    distance = config["relative_attention_max_distance"]
    places = torch.tensor(
        [[bucket(max(0, i - j), buckets, distance) for j in range(n)] for i in range(n)]
    )
    x = table[ids]
    for number in range(config["num_hidden_layers"]):
        at = f"stacks.decoder.layers.{number}"
        bias = weights[f"stacks.decoder.layers.{table_of(number)}.0.op.buckets.weight"][places]
        y = rms_norm(x, weights[f"{at}.0.pre_norm.weight"], eps)
        q, k, v = (
            part.split(h, 1) for part in (y @ weights[f"{at}.0.op.qkv.weight"].T).chunk(3, 1)
        )
        mixed = [attention(q[m], k[m], v[m], bias[:, :, m]) for m in range(heads)]
        x = x + torch.cat(mixed, 1) @ weights[f"{at}.0.op.out.weight"].T
        y = rms_norm(x, weights[f"{at}.1.pre_norm.weight"], eps)
        x = x + feed_forward(number, f"{at}.1.op", y)
    x = rms_norm(x, weights["stacks.decoder.norm.weight"], eps)
    return x @ table.T / math.sqrt(table.shape[1])


def plain_lamda(weights: Weights, config: dict, ids: Tensor) -> Tensor:
    """One table of distances for all layers; GELU(x W) * x V, then a map."""

    def gated(number: int, at: str, y: Tensor) -> Tensor:
        gate, value = weights[f"{at}.up.weight"].chunk(2)
        return (gelu(y @ gate.T) * (y @ value.T)) @ weights[f"{at}.down.weight"].T

    return plain_relative(weights, config, ids, lambda number: 0, gated)


def plain_glam(weights: Weights, config: dict, ids: Tensor) -> Tensor:
    """A table of distances a layer; two experts a token in layers 0, 2, ...; others gated."""

    def map_of(number: int, at: str, y: Tensor) -> Tensor:
        if number % 2:
            gate, value = weights[f"{at}.up.weight"].chunk(2)
            return (gelu(y @ gate.T) * (y @ value.T)) @ weights[f"{at}.down.weight"].T
        rows = []
        for token in y:
            shares = torch.softmax(weights[f"{at}.router.weight"] @ token, 0)
            best = sorted(range(len(shares)), key=shares.tolist().__getitem__)[-2:]
            given = [
                shares[e]
                * (weights[f"{at}.down.weight"][e] @ gelu(weights[f"{at}.up.weight"][e] @ token))
                for e in best
            ]
            rows.append(sum(given) / sum(shares[e] for e in best))
        return torch.stack(rows)

    return plain_relative(weights, config, ids, lambda number: number, map_of)


def plain_megatron(weights: Weights, config: dict, ids: Tensor) -> Tensor:
    """GPT-2's layers; rows of the fused matrix are q, k, v of head 0, then of head 1."""
    heads, eps = config["num_attention_heads"], config["layernorm_epsilon"]
    table = weights["embedding.word_embeddings.weight"]
    x = table[ids] + weights["embedding.position_embeddings.weight"][: len(ids)]

    def normed(x: Tensor, name: str) -> Tensor:
        name = f"transformer.{name}"
        return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def mapped(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"transformer.{name}.weight"].T + weights[f"transformer.{name}.bias"]

    for number in range(config["num_layers"]):
        at = f"layers.{number}"
        fused = mapped(normed(x, f"{at}.input_layernorm"), f"{at}.attention.query_key_value")
        mixed = [attention(*head.chunk(3, 1)) for head in fused.chunk(heads, 1)]
        x = x + mapped(torch.cat(mixed, 1), f"{at}.attention.dense")
        inner = mapped(normed(x, f"{at}.post_attention_layernorm"), f"{at}.mlp.dense_h_to_4h")
        x = x + mapped(gelu_by_tanh(inner), f"{at}.mlp.dense_4h_to_h")
    return normed(x, "final_layernorm") @ table.T


@dataclass
class Paper:
    """A family, its plain second writing and a tiny config."""

    family: Family
    plain: Callable[[Weights, dict, Tensor], Tensor]
    config: dict[str, Any]
    unseen: frozenset[str] = field(default_factory=frozenset)

    def weights(self, dtype: torch.dtype = torch.float64) -> Weights:
        """Every tensor of a folder, drawn wide."""
        setting, generator = self.family.spec(self.config), torch.Generator().manual_seed(5)
        shapes = to_theirs(self.family.weights(setting), dict(build(setting).named_parameters()))
        found = {}
        for name, like in sorted(shapes.items()):
            gain = like.ndim == 1 and "norm" in name
            drawn = torch.randn(like.shape, generator=generator) * STD + float(gain)
            found[name] = drawn.to(dtype).requires_grad_()
        return found

    def network(self, weights: Weights, setting: ModelSpec | None = None) -> Network:
        """Our network with these weights; ``setting`` may differ from what is right."""
        right = self.family.spec(self.config)
        head, _ = self.family.heads["lm"](self.config, right)
        network = build(right if setting is None else setting, head)
        tensors = to_ours(self.family.weights(right), weights)
        shapes = {name: weight.shape for name, weight in network.named_parameters()}
        fit = {n: t.detach().clone() for n, t in tensors.items() if shapes.get(n) == t.shape}
        fill(network, fit)
        assert not [name for name, weight in network.named_parameters() if weight.is_meta]
        return network


RELATIVE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 5,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "layer_norm_eps": 1e-3,
}
PALM = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "head_dim": 8,
    "layer_norm_eps": 1e-3,
    "rope_parameters": {"rope_theta": 50.0, "rope_type": "default"},
}
MEGATRON = {
    "padded_vocab_size": 61,
    "hidden_size": 24,
    "num_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "layernorm_epsilon": 1e-3,
}
PAPERS = {
    "palm": Paper(palm.FAMILY, plain_palm, PALM),
    "lamda": Paper(lamda.FAMILY, plain_lamda, RELATIVE),
    # A softmax over the chosen experts is a normalised softmax over all.
    "glam": Paper(
        lamda.GLAM, plain_glam, {**RELATIVE, "num_experts": 5}, frozenset({"softmax_over_top_k"})
    ),
    "megatron": Paper(megatron.FAMILY, plain_megatron, MEGATRON),
}


def documents() -> list[np.ndarray]:
    """Tokens of several lengths."""
    rng = np.random.default_rng(2)
    return [rng.integers(4, 61, length) for length in LENGTHS]


def both(paper: Paper, network: Network, weights: Weights) -> list[tuple[Tensor, Tensor]]:
    """Each document's logits, ours and plain."""
    batch = pack(documents())
    plain = [paper.plain(weights, paper.config, torch.from_numpy(text)) for text in documents()]
    return list(zip(batch.by_document(network(batch)), plain, strict=True))


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_equal_the_equations(name, dtype):
    paper = PAPERS[name]
    weights = paper.weights(dtype)
    rtol, atol = (1e-9, 1e-10) if dtype == torch.float64 else (2e-4, 2e-4)
    for left, right in both(paper, paper.network(weights), weights):
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", PAPERS)
def test_gradients_equal_those_of_the_equations(name):
    paper = PAPERS[name]
    weights = paper.weights()
    network = paper.network(weights)
    pairs = both(paper, network, weights)
    targets = torch.from_numpy(np.random.default_rng(1).integers(0, 61, sum(LENGTHS)))
    for side in zip(*pairs, strict=True):
        torch.nn.functional.cross_entropy(torch.cat(side), targets).backward()
    gradients = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in weights.items()
    }
    wanted = to_ours(paper.family.weights(network.spec), gradients)
    for name, weight in network.named_parameters():
        found = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(found, wanted[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", PAPERS)
def test_every_wrong_spec_is_noticed(name):
    paper = PAPERS[name]
    weights = paper.weights()
    wrongs = mutations(paper.family.spec(paper.config), paper.unseen)
    assert len(wrongs) >= 8
    with torch.no_grad():
        right = [plain for _, plain in both(paper, paper.network(weights), weights)]
        for what, wrong in wrongs.items():
            try:
                network, batch = paper.network(weights, wrong), pack(documents())
                found = batch.by_document(network(batch))
            except (AssertionError, RuntimeError):
                continue
            close = all(
                torch.allclose(left, plain, rtol=1e-9, atol=1e-10)
                for left, plain in zip(found, right, strict=True)
            )
            assert not close, what


UNTIED = {  # what a config says, and the name of the map in a folder
    "megatron": ({"untie_embeddings_and_output_weights": True}, "language_model.output_layer"),
    **{name: ({"tie_word_embeddings": False}, "head.out") for name in ("palm", "lamda", "glam")},
}


@pytest.mark.parametrize("name", UNTIED)
def test_a_head_of_its_own_is_read_and_written_if_the_config_says_so(name, tmp_path):
    """Logits by the drawn map, from the hidden states that the equations give to the table."""
    said, own = UNTIED[name]
    paper = PAPERS[name]
    config = {**paper.config, **said}
    weights, setting = paper.weights(torch.float32), paper.family.spec(config)
    head, names = paper.family.heads["lm"](config, setting)
    assert head.share == "" and [each.theirs for each in names] == [(f"{own}.weight",)]
    network = build(setting, head)
    tensors = to_ours(paper.family.weights(setting), weights)
    drawn = torch.randn(61, 24, generator=torch.Generator().manual_seed(3))
    fill(network, {n: t.detach().clone() for n, t in tensors.items()} | {"head.out.weight": drawn})
    write_folder(tmp_path, paper.family, network, "lm")
    shape = {"vocab": {"w0": 0}, "type": "WordLevel", "unk_token": "w0"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": shape}))
    found = read_folder(tmp_path)
    read, parts = found.heads["lm"]
    assert (found.spec, read) == (setting, head)
    again = build(found.spec, read)
    fill(again, {**found.weights, **parts})
    hidden = again.hidden(pack(documents()))
    with torch.no_grad():
        wanted = hidden * head.scale @ drawn.T
        torch.testing.assert_close(again(pack(documents())), wanted, rtol=1e-4, atol=1e-4)
        tied = both(paper, paper.network(weights), weights)
        assert not torch.allclose(torch.cat([left for left, _ in tied]), wanted)


@pytest.mark.parametrize("name", PAPERS)
def test_the_config_written_is_read_back(name):
    family = PAPERS[name].family
    right = family.spec(PAPERS[name].config)
    assert family.spec(json.loads(json.dumps(family.config(right)))) == right


@pytest.mark.parametrize("name", PAPERS)
def test_generated_tokens_are_the_likeliest_of_the_equations(name):
    paper = PAPERS[name]
    weights = paper.weights()
    network = paper.network(weights)
    for prompt in documents()[:3]:
        known = prompt
        rng = np.random.default_rng(0)
        for step in generate(network, [prompt], SamplingParams(max_new_tokens=8), rng):
            logits = paper.plain(weights, paper.config, torch.from_numpy(known))[-1]
            assert step[0].id == int(logits.argmax())
            known = np.append(known, step[0].id)
        assert len(known) == len(prompt) + 8


@pytest.mark.parametrize("name", PAPERS)
def test_three_beams_have_the_scores_of_the_equations(name):
    paper = PAPERS[name]
    weights = paper.weights()
    network, prompt = paper.network(weights), documents()[0]
    found = beam_search(network, prompt, SamplingParams(max_new_tokens=8, beams=3))
    assert len({each.tokens for each in found}) == 3
    for each in found:
        whole = torch.from_numpy(np.concatenate([prompt, each.tokens]))
        logs = torch.log_softmax(paper.plain(weights, paper.config, whole), dim=-1)
        rows = logs[len(prompt) - 1 : -1]
        own = rows[range(8), each.tokens].sum() / 8
        assert each.score == pytest.approx(own.item(), rel=1e-9)


def test_megatron_tensors_have_the_names_of_its_checkpoints():
    names = set(PAPERS["megatron"].weights())
    leaves = ("weight", "bias")
    layer = ("input_layernorm", "attention.query_key_value", "attention.dense")
    layer += ("post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    assert names == {
        "embedding.word_embeddings.weight",
        "embedding.position_embeddings.weight",
        *(f"transformer.final_layernorm.{leaf}" for leaf in leaves),
        *(f"transformer.layers.{n}.{m}.{leaf}" for n in range(3) for m in layer for leaf in leaves),
    }


COUNTS = {  # weights in billions as published; the last four have a map of their own for outputs
    "palm 8b": (palm.sized("8b"), 8.63),
    "palm 62b": (palm.sized("62b"), 62.50),
    "palm 540b": (palm.sized("540b"), 540.35),
    "bloom 560m": (megatron.bloom_sized("560m"), 0.559214592),
    "bloom 7b1": (megatron.bloom_sized("7b1"), 7.069016064),
    "bloom 176b": (megatron.bloom_sized("176b"), 176.247271424),
    "megatron 2.5b": (megatron.sized("2.5b"), 2.5),
    "megatron 8.3b": (megatron.sized("8.3b"), 8.3),
    "gemma 3 1b": (gemma3.sized("1b"), 0.9999),
    "gemma 3 270m": (gemma3.sized("270m"), 0.268),
    "mixtral 8x7b": (mixtral.sized("8x7b"), 46.7),
    "mixtral 8x22b": (mixtral.sized("8x22b"), 140.6),
    "qwen2_moe 1.5-a2.7b": (mixtral.qwen2_sized("1.5-a2.7b"), 14.3),
    "qwen2_moe 2-57b-a14b": (mixtral.qwen2_sized("2-57b-a14b"), 57.4),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes_have_the_published_number_of_weights(name):
    """To within one of the last digit; some were published cut off, not rounded."""
    spec, billions = COUNTS[name]
    stack = spec.stack("decoder")
    own = stack.embedding.vocabulary * stack.width if name in list(COUNTS)[-4:] else 0
    digits = len(str(billions).partition(".")[2])
    assert abs((parameter_count(build(spec)) + own) / 1e9 - billions) < 10**-digits


EXACT = {  # family, spec, whether the head is the table, weights of the published safetensors
    "mistral 7b": (llama.MISTRAL, llama.mistral_sized("7b"), False, 7_241_732_096),
    "mistral nemo": (llama.MISTRAL, llama.mistral_sized("nemo-12b"), False, 12_247_782_400),
    "mistral small": (llama.MISTRAL, llama.mistral_sized("small-24b"), False, 23_572_403_200),
    "mistral large": (llama.MISTRAL, llama.mistral_sized("large-123b"), False, 122_610_069_504),
    "qwen2 0.5b": (llama.QWEN2, llama.qwen2_sized("0.5b"), True, 494_032_768),
    "qwen2 1.5b": (llama.QWEN2, llama.qwen2_sized("1.5b"), True, 1_543_714_304),
    "qwen2.5 3b": (llama.QWEN2, llama.qwen2_sized("2.5-3b"), True, 3_085_938_688),
    "qwen2 7b": (llama.QWEN2, llama.qwen2_sized("7b"), False, 7_615_616_512),
    "qwen2.5 14b": (llama.QWEN2, llama.qwen2_sized("2.5-14b"), False, 14_770_033_664),
    "qwen2.5 32b": (llama.QWEN2, llama.qwen2_sized("2.5-32b"), False, 32_763_876_352),
    "qwen2 72b": (llama.QWEN2, llama.qwen2_sized("72b"), False, 72_706_203_648),
}


@pytest.mark.parametrize("name", EXACT)
def test_published_sizes_have_exactly_the_published_number_of_weights(name):
    family, spec, tied, wanted = EXACT[name]
    config = {**family.config(spec), "tie_word_embeddings": tied}
    head, _ = family.heads["lm"](config, spec)
    assert anatomy(spec, head).parameters == wanted
    assert tied == (name.partition(" ")[2] in {size.removeprefix("2.5-") for size in llama.TIED})
    assert family.spec(config) == spec


@pytest.mark.parametrize(("name", "wanted"), [("base", 278_043_648), ("large", 559_890_432)])
def test_xlm_r_has_exactly_the_published_number_of_weights(name, wanted):
    """Published with a pooler, which the body does not have."""
    spec = roberta.xlm_r_sized(name)
    width = spec.stacks[0].width
    assert parameter_count(build(spec)) + width * (width + 1) == wanted
    assert roberta.XLM_R.spec(roberta.XLM_R.config(spec)) == spec


def test_the_largest_lamda_has_the_published_number_of_weights_beside_the_table():
    spec = lamda.sized("137b")
    table = spec.stacks[0].embedding.vocabulary * spec.stacks[0].width
    assert round((parameter_count(build(spec)) - table) / 1e9) == 137


def test_the_largest_glam_has_the_published_number_of_weights_and_of_active_ones():
    spec = lamda.glam_sized("64b/64e")
    whole = parameter_count(build(spec))
    idle = 32 * (64 - 2) * 2 * 8192 * 32768
    assert round(whole / 1e12, 1) == 1.2
    assert round((whole - idle) / 1e9, 1) == 96.6
