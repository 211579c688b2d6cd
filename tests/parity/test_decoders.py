"""Decoders against their originals, as in ``test_families``, and what is special to some."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.family.family import to_ours
from lmwright.models.zoo import gemma3, gpt, lamda, llama, megatron, mixtral, palm, roberta
from lmwright.tables import resolve
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
from tests.parity.harness import (
    Case,
    documents,
    in_double,
    mapped,
    ours,
    reference,
    tensors_of,
)

transformers = pytest.importorskip("transformers")

GPT = {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 40}
GPT |= {"layer_norm_epsilon": 1e-3}
GEMMA3 = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 5,
    "sliding_window": 4,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
    },
}
BLOOM = {"vocab_size": 61, "hidden_size": 24, "n_layer": 3, "n_head": 4}
BLOOM |= {"layer_norm_epsilon": 1e-3}
MIXTRAL = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    "router_aux_loss_coef": 0.03,
    "experts_implementation": "eager",
}
QWEN2_MOE = {
    **{name: value for name, value in MIXTRAL.items() if name != "num_local_experts"},
    "num_experts": 5,
    "moe_intermediate_size": 6,
    "shared_expert_intermediate_size": 9,
}
WINDOW = (1, 2, 3, 4, 5, 12)  # of 4: one, two, one less, as many, one more


def one_by_one(gate: str, value: str, last: str, block: str):
    """The reference's experts, fused in memory, as its checkpoints hold them."""

    def split(found: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = {}
        for name, tensor in found.items():
            layer, _, part = name.partition(".mlp.experts.")
            if part == "gate_up_proj":
                for number, each in enumerate(tensor):
                    halves = zip((gate, value), each.chunk(2), strict=True)
                    expert = f"{layer}.{block}.experts.{number}"
                    parts |= {f"{expert}.{half}.weight": rows for half, rows in halves}
            elif part == "down_proj":
                for number, each in enumerate(tensor):
                    parts[f"{layer}.{block}.experts.{number}.{last}.weight"] = each
            else:
                parts[name.replace(".mlp.gate.", f".{block}.gate.")] = tensor
        return parts

    return split


AS_MIXTRAL = one_by_one("w1", "w3", "w2", "block_sparse_moe")
AS_QWEN2 = one_by_one("gate_proj", "up_proj", "down_proj", "mlp")
ALIKE = frozenset(
    {"softmax_over_top_k"}
)  # a softmax over the chosen ones is a normalised softmax over all
LAMDAS = lamda.FAMILY, lamda.GLAM
LAST = frozenset({"mask"})  # the last token of the last layer sees all before it anyway

CASES = {
    "gpt": Case(gpt.FAMILY, "OpenAIGPTLMHeadModel", GPT, "lm"),
    "gpt, classifier": Case(
        gpt.FAMILY,
        "OpenAIGPTForSequenceClassification",
        {**GPT, "afn": "relu"},
        "classify",
        unseen=LAST,
    ),
    "gemma3": Case(gemma3.FAMILY, "Gemma3ForCausalLM", GEMMA3, "lm", lengths=WINDOW),
    "gemma3, of both ways": Case(
        gemma3.FAMILY,
        "Gemma3ForCausalLM",
        {**GEMMA3, "use_bidirectional_attention": True, "sliding_window": 6}
        | {"attention_bias": True, "final_logit_softcapping": 9.0, "tie_word_embeddings": False},
        "lm",
        lengths=WINDOW,
        shifts=True,
    ),
    "bloom": Case(megatron.BLOOM, "BloomForCausalLM", BLOOM, "lm"),
    "bloom, six heads": Case(megatron.BLOOM, "BloomForCausalLM", {**BLOOM, "n_head": 6}, "lm"),
    "bloom, classifier": Case(
        megatron.BLOOM,
        "BloomForSequenceClassification",
        {**BLOOM, "n_head": 3},
        "classify",
        unseen=LAST,
    ),
    "mixtral": Case(
        mixtral.FAMILY, "MixtralForCausalLM", MIXTRAL, "lm", unseen=ALIKE, on_disk=AS_MIXTRAL
    ),
    "mixtral, with a window": Case(
        mixtral.FAMILY,
        "MixtralForCausalLM",
        {**MIXTRAL, "sliding_window": 4, "tie_word_embeddings": True, "num_experts_per_tok": 3},
        "lm",
        lengths=WINDOW,
        unseen=ALIKE,
        on_disk=AS_MIXTRAL,
    ),
    "qwen2_moe": Case(
        mixtral.QWEN2_MOE,
        "Qwen2MoeForCausalLM",
        {**QWEN2_MOE, "mlp_only_layers": [1]},
        "lm",
        on_disk=AS_QWEN2,
    ),
    "qwen2_moe, every other layer": Case(
        mixtral.QWEN2_MOE,
        "Qwen2MoeForCausalLM",
        {**QWEN2_MOE, "decoder_sparse_step": 2, "norm_topk_prob": True, "qkv_bias": False}
        | {"use_sliding_window": True, "sliding_window": 4},
        "lm",
        lengths=WINDOW,
        unseen=ALIKE,
        on_disk=AS_QWEN2,
    ),
    "gemma3, classifier": Case(
        gemma3.FAMILY, "Gemma3TextForSequenceClassification", GEMMA3, "classify", lengths=WINDOW
    ),
    "bloom, tokens": Case(megatron.BLOOM, "BloomForTokenClassification", BLOOM, "tokens"),
}
for head, kind in (("classify", "Sequence"), ("tokens", "Token")):
    CASES |= {
        f"{family.name}, {head}": Case(
            family, f"{name}For{kind}Classification", config, head, on_disk=on_disk
        )
        for family, name, config, on_disk in (
            (mixtral.FAMILY, "Mixtral", MIXTRAL, AS_MIXTRAL),
            (mixtral.QWEN2_MOE, "Qwen2Moe", QWEN2_MOE, AS_QWEN2),
        )
    }


@pytest.fixture(autouse=True)
def exact_gelu(request, monkeypatch):
    """The reference's BLOOM rounds GELU's constant to eight digits; here it is not rounded."""
    from transformers.models.bloom.modeling_bloom import BloomGelu

    if "single" not in request.node.name:
        monkeypatch.setattr(BloomGelu, "forward", lambda self, x: F.gelu(x, approximate="tanh"))


def balance_of_reference(logits: list[Tensor], config) -> Tensor:
    """The loss for an even load as published: each layer by itself, alike."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    experts, top = logits[0].shape[1], config.num_experts_per_tok
    with in_double(True):
        parts = [load_balancing_loss_func((each,), experts, top) for each in logits]
    return config.router_aux_loss_coef * sum(parts) / len(parts)


@pytest.mark.parametrize("name", ["mixtral", "mixtral, with a window", "qwen2_moe"])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_balance_loss_equals_the_reference(name, layers):
    """One routed layer: the reference's whole loss; several, which it pools: layer by layer."""
    case = CASES[name]
    case = Case(**{**vars(case), "config": {**case.config, "num_hidden_layers": layers}})
    model = reference(case)
    network = ours(case, model)
    texts = [np.random.default_rng(seed).integers(4, 61, 9) for seed in (1, 2)]
    losses: list[Tensor] = []
    network.hidden(pack(texts), dropout_rng=DropoutRNG(seed=0, step=0), aux_losses=losses)
    with in_double(True):
        found = model(torch.from_numpy(np.stack(texts)), output_router_logits=True)
    own = sum(losses)
    theirs = balance_of_reference(list(found.router_logits), model.config)
    torch.testing.assert_close(own, theirs, rtol=1e-10, atol=0)
    if len(found.router_logits) == 1:
        whole = model.config.router_aux_loss_coef * found.aux_loss
        torch.testing.assert_close(own, whole, rtol=1e-10, atol=0)
    own.backward()
    theirs.backward()
    wanted = to_ours(mapped(case, network.spec), tensors_of(case, model, gradients=True))
    for name, weight in network.named_parameters():
        if name.endswith("router.weight"):
            torch.testing.assert_close(weight.grad, wanted[name], rtol=1e-8, atol=1e-12)
            assert weight.grad.any()


def test_an_even_load_costs_what_the_reference_says():
    """With a router that prefers nothing both count the coefficient times the experts a token."""
    case = CASES["mixtral"]
    network = ours(case, reference(case))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("router.weight"):
                weight.zero_()
    losses: list[Tensor] = []
    network.hidden(pack(documents(case)), dropout_rng=DropoutRNG(seed=0, step=0), aux_losses=losses)
    torch.testing.assert_close(sum(losses), torch.tensor(0.03 * 2, dtype=torch.float64))


FORMER = {  # config.json as it was published at first -> the reference's class, which reads it too
    "Gemma3TextConfig": {
        "num_hidden_layers": 7,
        "rope_theta": 2e6,
        "rope_local_base_freq": 9000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window_pattern": 3,
        "sliding_window": 512,
    },
    "BloomConfig": {"n_embed": 96, "num_attention_heads": 12, "n_layer": 5},
    "MixtralConfig": {"rope_theta": 3e5, "num_hidden_layers": 2},
    "Qwen2MoeConfig": {
        "rope_theta": 3e5,
        "num_hidden_layers": 6,
        "use_sliding_window": True,
        "sliding_window": 100,
        "max_window_layers": 4,
    },
    "Qwen2Config": {
        "rope_theta": 3e5,
        "num_hidden_layers": 6,
        "use_sliding_window": True,
        "sliding_window": 100,
        "max_window_layers": 4,
    },
    "MistralConfig": {"rope_theta": 3e5, "num_hidden_layers": 2, "head_dim": 64},
    "RobertaConfig": {"num_hidden_layers": 2, "type_vocab_size": 1},
    "XLMRobertaConfig": {"num_hidden_layers": 2, "type_vocab_size": 1},
    "OpenAIGPTConfig": {"n_embd": 96},
}
FAMILIES = (gpt.FAMILY, gemma3.FAMILY, megatron.BLOOM, mixtral.FAMILY, mixtral.QWEN2_MOE)
FAMILIES += (llama.MISTRAL, llama.QWEN2, roberta.FAMILY, roberta.XLM_R)


@pytest.mark.parametrize("name", FORMER)
def test_a_former_config_is_read_as_the_reference_reads_it(name):
    kind = getattr(pytest.importorskip("transformers"), name)
    (family,) = (each for each in FAMILIES if each.name == kind.model_type)
    assert family.spec(FORMER[name]) == family.spec(kind(**FORMER[name]).to_dict())
    assert family.spec({}) == family.spec(kind().to_dict())


WINDOWED = {"num_hidden_layers": 3, "num_attention_heads": 32}
SLIDING = ["sliding_attention"] * 3
WINDOWS = {
    "mistral, by default": (llama.MISTRAL, {}, [4096] * 3),
    "mistral, of its own": (llama.MISTRAL, {"sliding_window": 7}, [7] * 3),
    "mistral, none": (llama.MISTRAL, {"sliding_window": None}, [0] * 3),
    "qwen2, by default": (llama.QWEN2, {}, [0] * 3),
    "qwen2, from the second layer on": (
        llama.QWEN2,
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
        [0, 7, 7],
    ),
    "qwen2, one that is not used": (
        llama.QWEN2,
        {"use_sliding_window": False, "sliding_window": 7, "layer_types": SLIDING},
        [0] * 3,
    ),
    "qwen2, layer by layer": (
        llama.QWEN2,
        {"use_sliding_window": True, "layer_types": [*SLIDING[1:], "full_attention"]},
        [4096, 4096, 0],
    ),
    "qwen2, null": (
        llama.QWEN2,
        {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 1},
        [0] * 3,
    ),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_each_layer_sees_the_window_that_it_sees_in_the_reference(name):
    family, config, wanted = WINDOWS[name]
    assert llama.windows(family.spec(WINDOWED | config)) == wanted
    made = transformers.AutoConfig.for_model(family.name, **WINDOWED, **config)
    kinds = getattr(made, "layer_types", None) or SLIDING
    theirs = [(made.sliding_window or 0) * (kind == SLIDING[0]) for kind in kinds]
    assert theirs == wanted


@pytest.mark.parametrize("families", [FAMILIES, (megatron.FAMILY, palm.FAMILY, *LAMDAS)])
def test_a_family_is_found_by_the_name_that_its_configs_have(families):
    for family in families:
        assert resolve("families", family.name) is family
        assert family.config(family.spec({"n_layer": 2}))["model_type"] == family.name


def test_residuals_from_behind_the_norms_are_refused():
    with pytest.raises(BadInput, match="behind the norms"):
        megatron.bloom({"apply_residual_connection_post_layernorm": True})
