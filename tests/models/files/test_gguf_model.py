"""A whole model in one GGUF file: written by us, read back, refused where it is not one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.core.ragged import pack
from lmwright.models.family.family import Family
from lmwright.models.files.gguf import read_gguf, write_gguf
from lmwright.models.files.gguf_model import read_gguf_model, write_gguf_model
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import Network, build, fill
from lmwright.models.zoo import gemma3, gpt2, llama

WORDS = [chr(33 + place) for place in range(60)]
TOKENS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.merges": ["! !"],
    "tokenizer.ggml.token_type": np.ones(60, dtype=np.int32),
    "tokenizer.ggml.eos_token_id": 3,
}
TOKENS["tokenizer.ggml.tokens"] = [*WORDS[:-1], "!!"]
CONFIG = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "max_position_embeddings": 64,
    "sliding_window": None,
    "attention_dropout": 0.0,
    "rms_norm_eps": float(np.float32(1e-6)),  # the format has 32 bits for it
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 16,
    "long_factor": [2.0] * 16,
    "original_max_position_embeddings": 32,
}
GEMMA = CONFIG | {"sliding_window": 4, "num_hidden_layers": 6}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
KIN: dict[str, tuple[Family, dict]] = {
    "llama": (llama.FAMILY, CONFIG),
    "llama, stretched": (
        llama.FAMILY,
        CONFIG | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "llama, stretched by divisors": (
        llama.FAMILY,
        CONFIG | {"max_position_embeddings": 2**17, "rope_parameters": STRETCHED},
    ),
    "llama, other divisors": (
        llama.FAMILY,
        CONFIG
        | {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "factor": 1.0,
                "attention_factor": 1.0,
                "short_factor": [1 + place / 8 for place in range(16)],
                "long_factor": [1 + place / 8 for place in range(16)],
            }
        },
    ),
    "qwen2": (llama.QWEN2, CONFIG | {"tie_word_embeddings": True}),
    "gemma3": (gemma3.FAMILY, GEMMA),
}


def made(family: Family, config: dict) -> Network:
    """A network with drawn weights, wide enough to tell one from another."""
    setting = family.spec(config)
    network = build(setting, family.heads["lm"](config, setting)[0])
    initialise(network, seed=1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.mul_(10) if weight.ndim > 1 else weight.add_(0.1 * len(name) % 0.7)
    return network


@pytest.mark.parametrize("format", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", KIN)
def test_what_is_written_is_read_back(name, format, tmp_path):
    family, config = KIN[name]
    network = made(family, config)
    write_gguf_model(tmp_path / "x.gguf", network, family, config, TOKENS, format)
    found = read_gguf_model(tmp_path / "x.gguf")
    assert found.spec == network.spec and found.described.stop_ids == (3,)
    head, weights = found.heads["lm"]
    assert head == network.head_spec
    again = build(found.spec, head)
    fill(again, {**found.weights, **weights})
    batch = pack([np.array([5, 9, 30, 2, 41, 7, 7]), np.array([8])])
    with torch.no_grad():
        left, right = network(batch), again(batch)
    if format == "F32" and name != "gemma3":  # whose gains are stored with one added
        assert torch.equal(left, right)
    far = {"F32": 1e-5, "F16": 1e-2, "BF16": 1e-1, "Q8_0": 1e-1, "Q4_0": 1.0}[format]
    assert float((left - right).norm() / left.norm()) < far
    assert [each.tolist() for each in found.tokenizer.encode(["&5"], 9)] == [[5, 20]]


def test_two_writings_are_the_same_bytes(tmp_path):
    family, config = KIN["qwen2"]
    for name in "ab":
        path = tmp_path / f"{name}.gguf"
        write_gguf_model(path, made(family, config), family, config, TOKENS, "Q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_three_ends_of_an_answer_are_read(tmp_path):
    family, config = KIN["llama"]
    more = {**TOKENS, "tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 7}
    write_gguf_model(tmp_path / "x.gguf", made(family, config), family, config, more, "F32")
    assert read_gguf_model(tmp_path / "x.gguf").described.stop_ids == (3, 5, 7)


@pytest.mark.parametrize(
    ("family", "config", "format"),
    [
        (gpt2.FAMILY, {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 60}, "F16"),
        (llama.FAMILY, CONFIG, "Q3_K"),
        (llama.MISTRAL, CONFIG | {"sliding_window": 8}, "F16"),
        (llama.FAMILY, CONFIG | {"attention_bias": True}, "F16"),
        (
            llama.FAMILY,
            CONFIG | {"rope_parameters": {**STRETCHED, "original_max_position_embeddings": 4096}},
            "F16",
        ),
        (llama.FAMILY, CONFIG | {"rope_parameters": LONG}, "F16"),
        (gemma3.FAMILY, GEMMA | {"final_logit_softcapping": 30.0}, "F16"),
    ],
    ids=["family", "format", "window", "biases", "other turns", "two lengths", "capped logits"],
)
def test_what_the_format_cannot_hold_is_refused(family, config, format, tmp_path):
    with pytest.raises(BadInput):
        write_gguf_model(tmp_path / "x.gguf", made(family, config), family, config, {}, format)
    assert not list(tmp_path.iterdir())


def damaged(tmp_path: Path, change) -> Path:
    """A file with its metadata or tensors changed."""
    family, config = KIN["llama"]
    write_gguf_model(tmp_path / "x.gguf", made(family, config), family, config, TOKENS, "F32")
    file = read_gguf(tmp_path / "x.gguf")
    metadata = dict(file.metadata)
    tensors = {name: file.tensor(name) for name in file.tensors}
    change(metadata, tensors)
    write_gguf(tmp_path / "y.gguf", metadata, tensors, {})
    return tmp_path / "y.gguf"


DAMAGES = {
    "another architecture": (lambda m, t: m.update({"general.architecture": "lama"}), BadInput),
    "no layers said": (lambda m, t: m.pop("llama.block_count"), Corrupt),
    "a tensor less": (lambda m, t: t.pop("blk.1.attn_q.weight"), Corrupt),
    "a tensor more": (lambda m, t: t.update({"blk.9.attn_q.weight": torch.ones(2, 2)}), Corrupt),
    "an unknown tensor": (lambda m, t: t.update({"rope_facts.weight": torch.ones(2)}), Corrupt),
    "too few divisors": (lambda m, t: t.update({"rope_freqs.weight": torch.ones(2)}), BadInput),
    "a divisor of 0": (lambda m, t: t.update({"rope_freqs.weight": torch.arange(16.0)}), BadInput),
    "divisors for heads of no number": (
        lambda m, t: (
            t.update({"rope_freqs.weight": torch.ones(16)}),
            m.pop("llama.attention.key_length"),
            m.update({"llama.attention.head_count": 0}),
        ),
        BadInput,
    ),
    "another shape": (lambda m, t: t.update({"output_norm.weight": torch.ones(3)}), Corrupt),
    "no table": (lambda m, t: t.pop("token_embd.weight"), Corrupt),
    "a wrong width": (lambda m, t: m.update({"llama.embedding_length": 63}), BadInput),
    "heads of text": (lambda m, t: m.update({"llama.attention.head_count": "four"}), BadInput),
    "positions scaled": (lambda m, t: m.update({"llama.rope.scaling.type": "yarn"}), BadInput),
    "too many tokens": (
        lambda m, t: m.update({
            "tokenizer.ggml.tokens": [*TOKENS["tokenizer.ggml.tokens"], "extra"],
            "tokenizer.ggml.token_type": np.ones(61, dtype=np.int32),
        }),
        BadInput,
    ),
}  # fmt: skip


UNTOLD = {  # metadata that changes the numbers -> the config with the same meaning, None: refused
    "gemma3": {
        "final_logit_softcapping": (30.0, {"final_logit_softcapping": 30.0}),
        "rope.freq_base_swa": (500.0, {"rope_local_base_freq": 500.0}),
        "attention.sliding_window_pattern": (2, {"sliding_window_pattern": 2}),
        "attention.sliding_window_pattern, layer by layer": (
            np.array([True, False, True, True, True, False]),
            {"sliding_window_pattern": 0}
            | {
                "layer_types": [
                    gemma3.LOCAL if n not in (1, 5) else gemma3.GLOBAL for n in range(6)
                ]
            },
        ),
        "rope.scaling.type": ("yarn", None),
        "rope.dimension_count": (16, None),
    },
    "llama": {
        "rope.dimension_count": (16, None),
        "attention.sliding_window": (8, None),
        "attention.sliding_window, of the whole context": (64, {}),
        "rope.scaling.attn_factor": (1.5, None),
        "rope.scaling.attn_factor, of one": (1.0, {}),
        "rope.scale_linear": (2.0, None),
        "attention.scale": (0.5, None),
        "attention.scale, as ever": (32**-0.5, {}),
        "attention.causal": (False, None),
    },
    "qwen2": {"attention.sliding_window": (8, None), "attention.causal": (True, {})},
}


@pytest.mark.parametrize(
    "case", [(name, key) for name, keys in UNTOLD.items() for key in keys], ids=" ".join
)
def test_metadata_that_changes_the_numbers_is_read_or_refused(case, tmp_path):
    (name, key), (value, means) = case, UNTOLD[case[0]][case[1]]
    family, config = KIN[name]
    network, key = made(family, config), f"{family.gguf.architecture}.{key.split(',')[0]}"
    told = {**TOKENS, key: value}
    write_gguf_model(tmp_path / "x.gguf", network, family, config, told, "F32")
    if means is None:
        with pytest.raises(BadInput, match=r"x\.gguf.*(" + key.partition(".")[2] + "|yarn)"):
            read_gguf_model(tmp_path / "x.gguf")
        return
    found, config = read_gguf_model(tmp_path / "x.gguf"), {**config, **means}
    assert found.spec == family.spec(config).with_dropout(0.0)
    assert found.heads["lm"][0] == family.heads["lm"](config, found.spec)[0]
    if means:
        assert (found.spec, found.heads["lm"][0]) != (network.spec, network.head_spec)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused(name, tmp_path):
    change, error = DAMAGES[name]
    path = damaged(tmp_path, change)
    with pytest.raises((BadInput, Corrupt)) as caught:
        read_gguf_model(path)
    assert "y.gguf" in str(caught.value)
    assert isinstance(caught.value, error | Corrupt)
