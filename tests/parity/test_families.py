"""Every family against its original: logits, gradients, and that a wrong spec is noticed."""

from __future__ import annotations

import pytest

from lmwright.models.zoo import bert, gpt2, llama
from tests.parity.harness import (
    Case,
    compare,
    compare_gradients,
    mutations,
    ours,
    reference,
)

pytest.importorskip("transformers")

LLAMA = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 20,
    "rms_norm_eps": 1e-3,
}
GPT2 = {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 20}
BERT = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "layer_norm_eps": 1e-3,
}

CASES = {
    "bert": Case(bert.FAMILY, "BertForMaskedLM", BERT, "lm"),
    "bert, classifier": Case(bert.FAMILY, "BertForSequenceClassification", BERT, "classify"),
    "gpt2": Case(gpt2.FAMILY, "GPT2LMHeadModel", {**GPT2, "layer_norm_epsilon": 1e-3}, "lm"),
    "gpt2, scaled by layer": Case(
        gpt2.FAMILY,
        "GPT2LMHeadModel",
        {**GPT2, "scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3},
        "lm",
    ),
    "llama": Case(llama.FAMILY, "LlamaForCausalLM", LLAMA, "lm"),
    "llama, biased": Case(
        llama.FAMILY,
        "LlamaForCausalLM",
        {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        "lm",
    ),
    "mistral": Case(
        llama.MISTRAL,
        "MistralForCausalLM",
        {**LLAMA, "sliding_window": 4},
        "lm",
        lengths=(7, 1, 12, 2, 3, 4, 5),
    ),
    "qwen2": Case(llama.QWEN2, "Qwen2ForCausalLM", LLAMA, "lm"),
}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
}
CASES |= {
    f"llama, rotary {name}": Case(
        llama.FAMILY,
        "LlamaForCausalLM",
        {**LLAMA, "rope_parameters": {"rope_theta": 50.0, **scaling}},
        "lm",
    )
    for name, scaling in SCALINGS.items()
}


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_reference(name):
    model = reference(CASES[name])
    compare(CASES[name], model, ours(CASES[name], model))


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_the_reference(name):
    model = reference(CASES[name])
    compare_gradients(CASES[name], model, ours(CASES[name], model))


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_reference_in_single_precision(name):
    model = reference(CASES[name], double=False)
    compare(CASES[name], model, ours(CASES[name], model))


@pytest.mark.parametrize("name", CASES)
def test_every_wrong_spec_is_noticed(name):
    model = reference(CASES[name])
    right = CASES[name].family.spec(CASES[name].settings)
    unnoticed = []
    for what, wrong in mutations(right).items():
        try:
            compare(CASES[name], model, ours(CASES[name], model, wrong))
        except (AssertionError, RuntimeError, IndexError):
            continue
        unnoticed.append(what)
    assert not unnoticed
    assert len(mutations(right)) >= 10


@pytest.mark.parametrize("name", CASES)
def test_the_config_written_is_read_back(name):
    case = CASES[name]
    right = case.family.spec(case.settings)
    assert case.family.spec(case.family.config(right)) == right
