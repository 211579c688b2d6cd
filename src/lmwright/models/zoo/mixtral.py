"""Mixtral (Jiang et al. 2024) and Qwen2-MoE (Yang et al. 2024): decoders with routed experts.

Rotary positions, RMS norms and gated maps throughout. Mixtral routes at every layer; Qwen2-MoE
has biases on queries, keys and values, an expert that every token goes to, weighed by a gate, and
may have layers that do not route. ``router_aux_loss_coef`` weighs the loss for an even load as
the reference does: at an even load all routed layers together cost the coefficient times the
experts a token goes to. But each layer's load is judged by itself, as the loss was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.models.core.spec import (
    Attention,
    Embedding,
    Experts,
    FeedForward,
    ModelSpec,
    Norm,
    Rotary,
    Stack,
    Sublayer,
    with_op,
)
from lmwright.models.family.decoder_only import each_token, last_token, next_token, split_qkv
from lmwright.models.family.family import (
    ACTIVATIONS,
    Family,
    Weight,
    activation_name,
    classes,
    same,
    stacked,
    weight_and_bias,
)
from lmwright.models.family.rotary import context_length, read_rotary, write_rotary

SIZES = {  # layers, width, heads, key heads, inner, experts (Jiang et al. 2024; published configs)
    "8x7b": (32, 4096, 32, 8, 14336, 8),
    "8x22b": (56, 6144, 48, 8, 16384, 8),
}
QWEN2_SIZES = {  # layers, width, heads, key heads, inner, shared, experts, top (published configs)
    "1.5-a2.7b": (24, 2048, 16, 16, 1408, 5632, 60, 4),
    "2-57b-a14b": (28, 3584, 28, 4, 2560, 20480, 64, 8),
}


def sized(size: str, vocabulary: int = 32000) -> ModelSpec:
    """The spec of a published size of Mixtral."""
    layers, width, heads, key_heads, inner, experts = SIZES[size]
    return spec(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "intermediate_size": inner,
            "num_local_experts": experts,
            "vocab_size": vocabulary,
        }
    )


def qwen2_sized(size: str, vocabulary: int = 151936) -> ModelSpec:
    """The spec of a published size of Qwen2-MoE."""
    layers, width, heads, key_heads, inner, shared, experts, top = QWEN2_SIZES[size]
    return qwen2_moe(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "moe_intermediate_size": inner,
            "shared_expert_intermediate_size": shared,
            "num_experts": experts,
            "num_experts_per_tok": top,
            "vocab_size": vocabulary,
        }
    )


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of Mixtral's ``config.json``; what it leaves out is as published for 8x7B."""
    norm = Norm(kind="rms", eps=config.get("rms_norm_eps", 1e-5), bias=False)
    width, heads = config.get("hidden_size", 4096), config.get("num_attention_heads", 32)
    head_width = config.get("head_dim") or width // heads
    count, top = config.get("num_hidden_layers", 32), config.get("num_experts_per_tok", 2)
    rotary = read_rotary(config, head_width, base=1e6)
    attention = Attention(
        heads=heads,
        kv_heads=config.get("num_key_value_heads", 8) or heads,
        head_width=head_width,
        scale=head_width**-0.5,
        dropout=config.get("attention_dropout", 0.0),
        bias=False,
        out_bias=False,
        mask="causal",
        window=config.get("sliding_window") or 0,
        positions=rotary,
    )
    experts = Experts(
        experts=config.get("num_local_experts", 8),
        top_k=top,
        inner=config.get("intermediate_size", 14336),
        activation=ACTIVATIONS[config.get("hidden_act", "silu")],
        aux_loss_coef=config.get("router_aux_loss_coef", 0.001) * top / count,
    )
    layer = tuple(Sublayer(op=op, pre_norm=norm) for op in (attention, experts))
    embedding = Embedding(vocabulary=config.get("vocab_size", 32000), share="tokens")
    stack = Stack(
        name="decoder", width=width, embedding=embedding, layers=(layer,) * count, norm=norm
    )
    longest = context_length(rotary, config.get("max_position_embeddings", 131072))
    return ModelSpec(stacks=(stack,), context_length=longest)


def qwen2_moe(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of Qwen2-MoE's ``config.json``; what it leaves out is as published for 1.5-A2.7B."""
    missing = {"rms_norm_eps": 1e-6, "num_hidden_layers": 24, "num_experts_per_tok": 4}
    missing |= {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 16}
    missing |= {"vocab_size": 151936, "max_position_embeddings": 32768, "rope_theta": 1e4}
    given = {name: value for name, value in config.items() if value is not None}
    plain = spec({**missing, **given, "sliding_window": None})
    stack = plain.stack("decoder")
    routed = Experts(
        experts=config.get("num_experts", 60),
        top_k=given.get("num_experts_per_tok", 4),
        inner=config.get("moe_intermediate_size", 1408),
        activation=ACTIVATIONS[given.get("hidden_act", "silu")],
        normalise=config.get("norm_topk_prob", False),
        shared=config.get("shared_expert_intermediate_size", 5632),
        shared_gate=True,
    )
    dense = FeedForward(
        inner=config.get("intermediate_size", 5632),
        activation=routed.activation,
        gated=True,
        bias=False,
    )
    step, never = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
    count = len(stack.layers)
    routes = [n not in never and routed.experts > 0 and (n + 1) % step == 0 for n in range(count)]
    cost = config.get("router_aux_loss_coef", 0.001) * routed.top_k / max(1, sum(routes))
    routed = replace(routed, aux_loss_coef=cost)
    windows = [0] * count
    if config.get("use_sliding_window", False):
        kinds = config.get("layer_types") or window_pattern(config, count)
        windows = [config["sliding_window"] * (kind == "sliding_attention") for kind in kinds]
    layers = tuple(
        (
            with_op(first, bias=config.get("qkv_bias", True), window=window),
            replace(second, op=routed if routing else dense),
        )
        for (first, second), window, routing in zip(stack.layers, windows, routes, strict=True)
    )
    return replace(plain, stacks=(replace(stack, layers=layers),))


def window_pattern(config: Mapping[str, Any], count: int) -> list[str]:
    """Default layer types of a config with a window: a window on every other layer."""
    most = config.get("max_window_layers", 28)
    return ["sliding_attention" if n % 2 == 0 and n < most else "full" for n in range(count)]


def config(spec: ModelSpec) -> dict[str, Any]:
    """Config fields that both families write."""
    stack = spec.stack("decoder")
    attention = stack.layers[0][0].op
    assert isinstance(attention, Attention) and isinstance(attention.positions, Rotary)
    assert stack.norm
    routed = experts(spec)
    if not routed:
        raise BadInput("a spec without experts", "a layer that routes")
    cost = routed[0].aux_loss_coef * len(routed) / routed[0].top_k
    return {
        "vocab_size": stack.embedding.vocabulary,
        "hidden_size": stack.width,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "hidden_act": activation_name(routed[0].activation),
        "max_position_embeddings": spec.context_length,
        "rms_norm_eps": stack.norm.eps,
        "rope_parameters": write_rotary(attention.positions, attention.head_width),
        "attention_dropout": attention.dropout,
        "num_experts_per_tok": routed[0].top_k,
        "router_aux_loss_coef": float(f"{cost:.12g}"),
    }


def mixtral_config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    attention, routed = (sublayer.op for sublayer in spec.stack("decoder").layers[0])
    assert isinstance(attention, Attention) and isinstance(routed, Experts)
    return {
        "model_type": "mixtral",
        **config(spec),
        "head_dim": attention.head_width,
        "intermediate_size": routed.inner,
        "num_local_experts": routed.experts,
        "sliding_window": attention.window or None,
    }


def qwen2_config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`qwen2_moe` the other way."""
    layers = spec.stack("decoder").layers
    attentions = [first.op for first, _ in layers if isinstance(first.op, Attention)]
    windows, routed = [op.window for op in attentions], experts(spec)[0]
    dense = {
        n: op.inner for n, (_, each) in enumerate(layers) if isinstance(op := each.op, FeedForward)
    }
    found = {
        "model_type": "qwen2_moe",
        **config(spec),
        "num_experts": routed.experts,
        "moe_intermediate_size": routed.inner,
        "norm_topk_prob": routed.normalise,
        "shared_expert_intermediate_size": routed.shared,
        "mlp_only_layers": list(dense),
        "qkv_bias": attentions[0].bias,
        "use_sliding_window": any(windows),
        "sliding_window": max(windows),
        "layer_types": ["sliding_attention" if w else "full_attention" for w in windows],
    }
    return {**found, "intermediate_size": max(dense.values())} if dense else found


def experts(spec: ModelSpec) -> list[Experts]:
    """The ops of the layers that route."""
    ops = [second.op for _, second in spec.stack("decoder").layers]
    return [op for op in ops if isinstance(op, Experts)]


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to Mixtral's tensors."""
    return [*body(spec), *feed_forward(spec, "block_sparse_moe", ("w1", "w3", "w2"))]


def qwen2_weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to Qwen2-MoE's tensors."""
    return [*body(spec), *feed_forward(spec, "mlp", ("gate_proj", "up_proj", "down_proj"))]


def body(spec: ModelSpec) -> list[Weight]:
    """The weights of all but the feed-forward maps."""
    found = [
        same("embedding.tokens.weight", "embed_tokens.weight"),
        same("norm.weight", "norm.weight"),
    ]
    for number, (first, _) in enumerate(spec.stack("decoder").layers):
        assert isinstance(first.op, Attention)
        at = f"layers.{number}"
        found += split_qkv(number, first.op)
        found += [
            same(f"{at}.0.op.out.weight", f"{at}.self_attn.o_proj.weight"),
            same(f"{at}.0.pre_norm.weight", f"{at}.input_layernorm.weight"),
            same(f"{at}.1.pre_norm.weight", f"{at}.post_attention_layernorm.weight"),
        ]
    return [replace(weight, ours=f"stacks.decoder.{weight.ours}") for weight in found]


def feed_forward(spec: ModelSpec, block: str, names: tuple[str, str, str]) -> list[Weight]:
    """The weights of the maps and the router; ``names`` are those of gate, value and last map."""
    found: list[Weight] = []
    for number, (_, second) in enumerate(spec.stack("decoder").layers):
        op, ours = second.op, f"stacks.decoder.layers.{number}.1.op"
        theirs = f"layers.{number}.{block}"
        if isinstance(op, FeedForward):
            found += gated(ours, theirs, names)
            continue
        assert isinstance(op, Experts)
        each = [f"{theirs}.experts.{number}" for number in range(op.experts)]
        ups = [f"{expert}.{name}.weight" for expert in each for name in names[:2]]
        downs = [f"{expert}.{names[2]}.weight" for expert in each]
        found.append(same(f"{ours}.router.weight", f"{theirs}.gate.weight"))
        found.append(stacked(f"{ours}.up.weight", ups, below=2))
        found.append(stacked(f"{ours}.down.weight", downs))
        if op.shared:
            found += gated(f"{ours}.shared", f"{theirs}.shared_expert", names)
            found.append(same(f"{ours}.shared_gate.weight", f"{theirs}.shared_expert_gate.weight"))
    return found


def gated(ours: str, theirs: str, names: tuple[str, str, str]) -> list[Weight]:
    """A map that every token goes through."""
    gate, value, last = (f"{theirs}.{name}" for name in names)
    return [
        *weight_and_bias(f"{ours}.up", gate, value, bias=False),
        *weight_and_bias(f"{ours}.down", last, bias=False),
    ]


FAMILY = Family(
    name="mixtral",
    classes=classes("Mixtral", "ForCausalLM"),
    spec=spec,
    config=mixtral_config,
    weights=weights,
    heads={"lm": next_token, "classify": last_token, "tokens": each_token},
    prefix="model.",
    unread=("lm_head.", "score.", "rotary_emb."),
)
QWEN2_MOE = replace(
    FAMILY,
    name="qwen2_moe",
    classes=classes("Qwen2Moe", "ForCausalLM"),
    spec=qwen2_moe,
    config=qwen2_config,
    weights=qwen2_weights,
)
