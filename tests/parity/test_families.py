"""Every family against its original: logits, gradients, and that a wrong spec is noticed."""

from __future__ import annotations

import pytest

from lmwright.models.zoo import bart, bert, gpt2, llama, t5, xlnet
from tests.parity.every import (  # noqa: F401
    test_a_folder_that_the_reference_wrote_is_read,
    test_every_wrong_spec_is_noticed,
    test_generated_tokens_equal_the_reference,
    test_gradients_equal_the_reference,
    test_logits_equal_the_reference,
    test_logits_equal_the_reference_in_single_precision,
    test_the_config_written_is_read_back,
    test_the_reference_reads_what_is_written,
)
from tests.parity.harness import Case

pytest.importorskip("transformers")

LLAMA = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-3,
}
GPT2 = {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 40}
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
    "bert, regression": Case(
        bert.FAMILY,
        "BertForSequenceClassification",
        {**BERT, "num_labels": 1, "problem_type": "regression"},
        "classify",
    ),
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
T5 = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 36,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "layer_norm_epsilon": 1e-3,
    "feed_forward_proj": "relu",
}
BART = {
    "vocab_size": 61,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 36,
    "decoder_ffn_dim": 30,
    "max_position_embeddings": 20,
}
XLNET = {
    "vocab_size": 61,
    "d_model": 24,
    "n_layer": 3,
    "n_head": 4,
    "d_inner": 36,
    "layer_norm_eps": 1e-3,
}
CASES |= {
    "t5": Case(t5.FAMILY, "T5ForConditionalGeneration", T5, "lm", pairs=True),
    "t5, gated": Case(
        t5.FAMILY,
        "T5ForConditionalGeneration",
        {**T5, "num_layers": 2, "num_decoder_layers": 3, "feed_forward_proj": "gated-gelu"}
        | {"tie_word_embeddings": False},
        "lm",
        pairs=True,
        generates=False,
    ),
    "bart": Case(bart.FAMILY, "BartForConditionalGeneration", BART, "lm", pairs=True),
    "bart, scaled": Case(
        bart.FAMILY,
        "BartForConditionalGeneration",
        {**BART, "scale_embedding": True, "activation_function": "relu"},
        "lm",
        pairs=True,
    ),
    "xlnet": Case(xlnet.FAMILY, "XLNetLMHeadModel", XLNET, "lm"),
    "xlnet, classifier": Case(
        xlnet.FAMILY,
        "XLNetForSequenceClassification",
        XLNET,
        "classify",
        unseen=frozenset({"mask"}),
    ),
}
CASES |= {
    f"{family.name}, {head}": Case(family, f"{kind}For{name}Classification", config, head)
    for family, kind, config in (
        (llama.FAMILY, "Llama", {**LLAMA, "num_labels": 3}),
        (llama.MISTRAL, "Mistral", {**LLAMA, "num_labels": 3, "sliding_window": 4}),
        (llama.QWEN2, "Qwen2", {**LLAMA, "num_labels": 3}),
        (gpt2.FAMILY, "GPT2", {**GPT2, "num_labels": 3}),
    )
    for head, name in (("classify", "Sequence"), ("tokens", "Token"))
}
CASES |= {
    f"xlnet, {head}": Case(xlnet.FAMILY, f"XLNetFor{name}", {**XLNET, **more}, head)
    for head, name, more in (
        ("tokens", "TokenClassification", {"num_labels": 3}),
        ("spans", "QuestionAnsweringSimple", {}),
        ("choice", "MultipleChoice", {"num_labels": 3}),
    )
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
        {**LLAMA, "max_position_embeddings": 8, "rope_parameters": {"rope_theta": 50.0, **scaling}},
        "lm",
    )
    for name, scaling in SCALINGS.items()
}
