"""Fields of a config that change the numbers: read as the reference reads them, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from lmwright.core.errors import BadInput
from lmwright.models.family.family import Family
from lmwright.models.files.folder import spec_of
from lmwright.models.zoo import (
    bert,
    distilbert,
    gemma3,
    gpt2,
    llama,
    megatron,
    mixtral,
    roberta,
    xlm,
    xlnet,
)
from tests.parity.harness import Case, compare, ours, reference
from tests.parity.test_decoders import (
    AS_MIXTRAL,
    AS_QWEN2,
    GEMMA3,
    MIXTRAL,
    QWEN2_MOE,
)
from tests.parity.test_encoders import BERT, XLM
from tests.parity.test_families import LLAMA, XLNET

pytest.importorskip("transformers")

ROUTED = {"mlp_only_layers": [1]}
READ: dict[str, tuple[Family, str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": (llama.FAMILY, "LlamaForCausalLM", "lm", LLAMA, {"hidden_act": "relu"}),
    "mistral": (llama.MISTRAL, "MistralForCausalLM", "lm", LLAMA, {"hidden_act": "gelu"}),
    "qwen2": (llama.QWEN2, "Qwen2ForCausalLM", "lm", LLAMA, {"hidden_act": "gelu_new"}),
    "mixtral": (mixtral.FAMILY, "MixtralForCausalLM", "lm", MIXTRAL, {"hidden_act": "relu"}),
    "qwen2_moe": (
        mixtral.QWEN2_MOE,
        "Qwen2MoeForCausalLM",
        "lm",
        QWEN2_MOE | ROUTED,
        {"hidden_act": "gelu"},
    ),
    "bert": (bert.FAMILY, "BertLMHeadModel", "lm", BERT, {"is_decoder": True}),
    "roberta": (roberta.FAMILY, "RobertaForCausalLM", "lm", BERT, {"is_decoder": True}),
    "xlnet, same length": (xlnet.FAMILY, "XLNetLMHeadModel", "lm", XLNET, {"same_length": True}),
    "gemma3": (gemma3.FAMILY, "Gemma3ForCausalLM", "lm", GEMMA3, {"attn_logit_softcapping": 2.0}),
}
READ |= {
    f"{family.name}, {field} {value}": (
        family,
        f"{name}ForSequenceClassification",
        "classify",
        config,
        {field: value},
    )
    for family, name, config in ((xlnet.FAMILY, "XLNet", XLNET), (xlm.FAMILY, "XLM", XLM))
    for field, value in (
        ("summary_type", "first"),
        ("summary_type", "last"),
        ("summary_type", "mean"),
        ("summary_type", "cls_index"),
    )
}
READ |= {
    f"xlnet, summary activated by {activation!r}": (
        xlnet.FAMILY,
        "XLNetForSequenceClassification",
        "classify",
        XLNET,
        {"summary_activation": activation},
    )
    for activation in ("relu", "")
}
ON_DISK = {"mixtral": AS_MIXTRAL, "qwen2_moe": AS_QWEN2}


@pytest.mark.parametrize("name", READ)
def test_a_field_is_read_as_the_reference_reads_it(name: str) -> None:
    family, kind, head, config, fields = READ[name]
    on_disk = ON_DISK.get(name, dict)
    case = Case(family, kind, config | fields, head, on_disk=on_disk)
    model = reference(case)
    network = ours(case, model)
    compare(case, model, network)
    assert family.spec(family.config(network.spec)) == network.spec


REFUSED: dict[str, tuple[Family, dict[str, Any]]] = {
    "an activation": (llama.FAMILY, {"hidden_act": "mish"}),
    "an activation of experts": (mixtral.FAMILY, {"hidden_act": "mish"}),
    "crosswise": (bert.FAMILY, {"is_decoder": True, "add_cross_attention": True}),
    "crosswise, after a padding": (roberta.FAMILY, {"add_cross_attention": True}),
    "crosswise, forwards": (gpt2.FAMILY, {"add_cross_attention": True}),
    "distances": (bert.FAMILY, {"position_embedding_type": "relative_key"}),
    "forwards": (xlnet.FAMILY, {"attn_type": "uni"}),
    "halved": (xlnet.FAMILY, {"bi_data": True}),
    "bounded": (xlnet.FAMILY, {"clamp_len": 3}),
    "no map": (xlnet.FAMILY, {"summary_use_proj": False}),
    "a map to labels": (xlnet.FAMILY, {"summary_proj_to_labels": True}),
    "attention": (xlnet.FAMILY, {"summary_type": "attn"}),
    "no map of languages": (xlm.FAMILY, {"summary_use_proj": False}),
    "no map to labels": (xlm.FAMILY, {"summary_proj_to_labels": False}),
    "activated labels": (xlm.FAMILY, {"summary_activation": "tanh"}),
    "groups of tokens": (xlm.FAMILY, {"asm": True}),
    "no encoder": (xlm.FAMILY, {"is_encoder": False}),
    "residuals": (megatron.FAMILY, {"apply_residual_connection_post_layernorm": True}),
    "gains from one": (megatron.FAMILY, {"apply_layernorm_1p": True}),
    "other norms": (megatron.FAMILY, {"normalization": "RMSNorm"}),
    "angles": (megatron.FAMILY, {"position_embedding_type": "rope"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_is_not_computed_is_refused_by_its_name(name: str) -> None:
    family, fields = REFUSED[name]
    field, value = list(fields.items())[-1]
    with pytest.raises(BadInput) as caught:
        spec_of(family, fields, "config.json")
    assert str(value) in str(caught.value)
    if field not in ("hidden_act", "summary_type"):  # read through a table, which names the value
        assert field in str(caught.value)


def test_what_changes_no_numbers_of_the_reference_changes_nothing() -> None:
    """A class that does not know the field, and one that only rounds otherwise."""
    assert distilbert.spec({"is_decoder": True}) == distilbert.spec({})
    assert gpt2.spec({"reorder_and_upcast_attn": True}) == gpt2.spec({})
