"""Gemma 3 (Gemma Team 2025), its text part; from 4B on it is published with one for images.

Norms stand before and after every op, with gains of one plus the weight, also over each query
and key. Most layers have a sliding window and a small rotary base (local), every sixth has full
attention and a large base (global). Embeddings are multiplied by the square root of their width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.models.core.spec import (
    Activation,
    Attention,
    Embedding,
    FeedForward,
    Head,
    ModelSpec,
    Norm,
    Rotary,
    Stack,
    Sublayer,
)
from lmwright.models.family.decoder_only import (
    GGUF_FIELDS,
    GGUF_NAMES,
    last_token,
    read_fields,
    split_qkv,
)
from lmwright.models.family.family import (
    Family,
    GgufForm,
    TextPart,
    Weight,
    classes,
    same,
    tied_or_own,
    weight_and_bias,
)
from lmwright.models.family.rotary import read_rotary, write_rotary

LOCAL, GLOBAL = "sliding_attention", "full_attention"
ACTIVATIONS: dict[str, Activation] = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "silu": "silu",
}

SIZES = {  # layers, width, heads, key heads, head width, inner, window, global angles' divisor
    "270m": (18, 640, 4, 1, 256, 2048, 512, 1),
    "1b": (26, 1152, 4, 1, 256, 6912, 512, 1),
    "4b": (34, 2560, 8, 4, 256, 10240, 1024, 8),
    "12b": (48, 3840, 16, 8, 256, 15360, 1024, 8),
    "27b": (62, 5376, 32, 16, 128, 21504, 1024, 8),
}  # as their published configs say
WITH_IMAGES_SIZES = ("4b", "12b", "27b")
"""Those that are published with a part for images, and 64 rows more in the table."""


def sized(size: str, vocabulary: int = 262144) -> ModelSpec:
    """The spec of a published size."""
    layers, width, heads, key_heads, head_width, inner, window, divisor = SIZES[size]
    return spec(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "head_dim": head_width,
            "query_pre_attn_scalar": width // heads if size == "27b" else head_width,
            "intermediate_size": inner,
            "sliding_window": window,
            "vocab_size": vocabulary,
            "max_position_embeddings": 32768 if divisor == 1 else 131072,
            "rope_scaling": {"rope_type": "linear", "factor": divisor} if divisor > 1 else None,
        }
    )


def with_images_sized(size: str, vocabulary: int = 262208) -> ModelSpec:
    """The spec of the text of a published size with a part for images."""
    return sized(size, vocabulary)


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the spec of a ``config.json``, with the defaults of the reference."""
    width, heads = config.get("hidden_size", 2304), config.get("num_attention_heads", 8)
    head_width, bias = config.get("head_dim", 256), config.get("attention_bias", False)
    norm = Norm(kind="rms", eps=config.get("rms_norm_eps", 1e-6), bias=False, offset=1.0)
    feed_forward = FeedForward(
        inner=config.get("intermediate_size", 9216),
        activation=ACTIVATIONS[config.get("hidden_activation", "gelu_pytorch_tanh")],
        gated=True,
        bias=False,
    )
    window, bidirectional = (
        config.get("sliding_window", 4096),
        config.get("use_bidirectional_attention"),
    )
    if bidirectional and window:
        window = window // 2 + 1  # published as a whole span, to both sides

    def layer(kind: str) -> tuple[Sublayer, ...]:
        """A local or a global layer."""
        attention = Attention(
            heads=heads,
            kv_heads=config.get("num_key_value_heads", 4),
            head_width=head_width,
            scale=config.get("query_pre_attn_scalar", 256) ** -0.5,
            dropout=config.get("attention_dropout", 0.0),
            bias=bias,
            out_bias=bias,
            mask="full" if bidirectional else "causal",
            window=(window or 0) * (kind == LOCAL),
            positions=rotary(config, kind, head_width),
            head_norm=norm,
        )
        ops = (attention, feed_forward)
        return tuple(Sublayer(op=op, pre_norm=norm, branch_norm=norm) for op in ops)

    embedding = Embedding(
        vocabulary=config.get("vocab_size", 262208), scale=width**0.5, share="tokens"
    )
    stack = Stack(
        name="decoder",
        width=width,
        embedding=embedding,
        layers=tuple(map(layer, kinds(config))),
        norm=norm,
    )
    return ModelSpec(stacks=(stack,), context_length=config.get("max_position_embeddings", 131072))


def kinds(config: Mapping[str, Any]) -> list[str]:
    """The type of each layer, from a list or from a pattern."""
    every = config.get("sliding_window_pattern", 6)
    numbers = range(1, config.get("num_hidden_layers", 26) + 1)
    return config.get("layer_types") or [GLOBAL if n % every == 0 else LOCAL for n in numbers]


def rotary(config: Mapping[str, Any], kind: str, head_width: int) -> Rotary:
    """The angles of one kind of layer, of today's form or of the former one."""
    config = {"max_position_embeddings": 131072, **config}
    if kind in (config.get("rope_parameters") or {}):
        return read_rotary(config, head_width, part=kind)
    if kind == GLOBAL:
        return read_rotary(config, head_width, base=1e6)
    local = {"rope_theta": config.get("rope_local_base_freq", 1e4), "rope_scaling": None}
    return read_rotary({**config, **local}, head_width)


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    stack = spec.stack("decoder")
    attention, feed_forward = (sublayer.op for sublayer in stack.layers[0])
    assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward) and stack.norm
    ops = [layer[0].op for layer in stack.layers]
    angles = {
        LOCAL if op.window else GLOBAL: write_rotary(op.positions, op.head_width)
        for op in ops
        if isinstance(op, Attention) and isinstance(op.positions, Rotary)
    }
    windows = [op.window for op in ops if isinstance(op, Attention)]
    window, bidirectional = max(windows), attention.mask == "full"
    return {
        "model_type": "gemma3_text",
        "vocab_size": stack.embedding.vocabulary,
        "hidden_size": stack.width,
        "intermediate_size": feed_forward.inner,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_width,
        "hidden_activation": {ours: theirs for theirs, ours in ACTIVATIONS.items()}[
            feed_forward.activation
        ],
        "query_pre_attn_scalar": round(attention.scale**-2),
        "max_position_embeddings": spec.context_length,
        "rms_norm_eps": stack.norm.eps,
        "layer_types": [LOCAL if each else GLOBAL for each in windows],
        "sliding_window": (window - 1) * 2 if bidirectional and window else window,
        "use_bidirectional_attention": bidirectional,
        "rope_parameters": angles,
        "attention_bias": attention.bias,
        "attention_dropout": attention.dropout,
    }


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors."""
    found = [
        same("embedding.tokens.weight", "embed_tokens.weight"),
        same("norm.weight", "norm.weight"),
    ]
    for number, (first, _) in enumerate(spec.stack("decoder").layers):
        assert isinstance(first.op, Attention)
        at = f"layers.{number}"
        found += split_qkv(number, first.op)
        norms = {
            "0.op.q_norm": "self_attn.q_norm",
            "0.op.k_norm": "self_attn.k_norm",
            "0.pre_norm": "input_layernorm",
            "0.branch_norm": "post_attention_layernorm",
            "1.pre_norm": "pre_feedforward_layernorm",
            "1.branch_norm": "post_feedforward_layernorm",
        }
        ups = f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"
        found += [
            *weight_and_bias(f"{at}.0.op.out", f"{at}.self_attn.o_proj", bias=first.op.out_bias),
            *weight_and_bias(f"{at}.1.op.up", *ups, bias=False),
            *weight_and_bias(f"{at}.1.op.down", f"{at}.mlp.down_proj", bias=False),
            *(same(f"{at}.{o}.weight", f"{at}.{t}.weight") for o, t in norms.items()),
        ]
    return [replace(weight, ours=f"stacks.decoder.{weight.ours}") for weight in found]


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Language-model head: the table's rows, or a map of its own."""
    table, cap = spec.stack("decoder").embedding, config.get("final_logit_softcapping") or 0.0
    head = Head(pool="none", outputs=table.vocabulary, bias=False, logit_softcap=cap)
    return tied_or_own(config, head, table, "lm_head")


NAMES = {
    **GGUF_NAMES,
    "blk.{}.attn_q_norm": "layers.{}.self_attn.q_norm",
    "blk.{}.attn_k_norm": "layers.{}.self_attn.k_norm",
    "blk.{}.post_attention_norm": "layers.{}.post_attention_layernorm",
    "blk.{}.ffn_norm": "layers.{}.pre_feedforward_layernorm",
    "blk.{}.post_ffw_norm": "layers.{}.post_feedforward_layernorm",
}
MORE_FIELDS = {
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base_swa": "rope_local_base_freq",
}
"""The words of GGUF's metadata that this family has beside those of its kin."""
LARGEST_LAYERS = 62
"""Layers of the one size whose scores are scaled by its width, which GGUF does not record."""


def from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The config that GGUF's metadata describes; BadInput for what we would get wrong."""
    found = read_fields(metadata)
    found |= {ours: metadata[theirs] for theirs, ours in MORE_FIELDS.items() if theirs in metadata}
    pattern = metadata.get("attention.sliding_window_pattern")
    if isinstance(pattern, int):  # every so many layers one has full attention
        found["sliding_window_pattern"] = pattern
    elif pattern is not None:  # or, layer by layer, whether it has a window
        found["layer_types"] = [LOCAL if each else GLOBAL for each in pattern]
    large = found["num_hidden_layers"] == LARGEST_LAYERS
    heads = found["num_attention_heads"]
    found["query_pre_attn_scalar"] = found["hidden_size"] // heads if large else found["head_dim"]
    kind = metadata.get("rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise BadInput(f"rotary positions scaled by {kind!r} in a GGUF file", "none or linear")
    if kind == "linear" and "rope.scaling.factor" in metadata:
        factor = metadata["rope.scaling.factor"]
        found["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    return found


def to_metadata(setting: ModelSpec) -> dict[str, Any]:
    """GGUF's metadata of a spec; BadInput for what the format would get wrong."""
    described = config(setting)
    angles = described.pop("rope_parameters")
    described["rope_theta"] = angles[GLOBAL]["rope_theta"]
    found = {theirs: described[ours] for theirs, ours in GGUF_FIELDS.items()}
    if angles[GLOBAL]["rope_type"] == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": angles[GLOBAL]["factor"]}
    found["attention.value_length"] = found["attention.key_length"]
    read_back = from_metadata(found) | {"vocab_size": described["vocab_size"]}
    if spec(read_back) != setting.with_dropout(0.0):
        raise BadInput("a model that GGUF's metadata do not tell whole", "one of published shape")
    return found


def without_one(name: str, tensor: Tensor, spec: ModelSpec) -> Tensor:
    """Gains as a checkpoint has them, less one; GGUF has them whole."""
    return tensor - 1.0 if name.endswith("norm.weight") else tensor


def with_one(name: str, tensor: Tensor, spec: ModelSpec) -> Tensor:
    """:func:`without_one` the other way."""
    return tensor + 1.0 if name.endswith("norm.weight") else tensor


FAMILY = Family(
    name="gemma3_text",
    classes={**classes("Gemma3Text", ""), "lm": "Gemma3ForCausalLM"},
    spec=spec,
    config=config,
    weights=weights,
    heads={"lm": language_model, "classify": last_token},
    prefix="model.",
    unread=("lm_head.", "score."),
    gguf=GgufForm("gemma3", from_metadata, to_metadata, NAMES, without_one, with_one),
)
VISION = ("vision_tower", "multi_modal_projector")
"""Prefixes of the tensors of the vision part."""

WITH_IMAGES = replace(
    FAMILY,
    name="gemma3",
    gguf=None,
    text_part=TextPart(
        config="text_config",
        prefixes=("language_model.", "model.language_model."),
        others=tuple(f"{before}{part}." for before in ("", "model.") for part in VISION),
        left="its part for images",
    ),
)
"""The family of folders with a vision part; they are written as text models alone."""
