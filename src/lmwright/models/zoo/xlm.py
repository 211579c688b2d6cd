"""XLM (Conneau and Lample 2019): encoders over several languages, each with a vector of its own.

A text whose language nobody says gets none of these vectors, as in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lmwright.core.errors import BadInput
from lmwright.models.core.spec import Dense, Embedding, Head, ModelSpec, Norm, Sinusoids
from lmwright.models.family.encoder_only import (
    SUMMARIES,
    HeadAndWeights,
    encoder,
    labelled_tokens,
    parts,
    spans,
)
from lmwright.models.family.family import (
    Family,
    Weight,
    by_layer,
    classes,
    in_stack,
    label_count,
    same,
    tied_or_own,
    weight_and_bias,
)
from lmwright.models.files.fields import only

SIZES = {  # layers, width, heads, tokens (Conneau and Lample 2019, section 5.1; published weights)
    "en": (12, 2048, 16, 30145),
    "xnli15": (12, 1024, 8, 95000),
    "17": (16, 1280, 16, 200000),
    "100": (16, 1280, 16, 200000),
}


def sized(size: str, vocabulary: int = 0) -> ModelSpec:
    """The spec of a published size; the languages' vectors are those of ``xnli15`` alone."""
    layers, width, heads, tokens = SIZES[size]
    words = vocabulary or tokens
    found = {"n_layers": layers, "emb_dim": width, "n_heads": heads, "vocab_size": words}
    return spec({**found, "n_langs": 15 if size == "xnli15" else 1})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a ``config.json``; what it leaves out is as in its published class. Languages
    are the segments that a token belongs to. BadInput for a decoder of another network, and for a
    head that tells tokens apart in groups."""
    only(config, is_encoder=True, asm=False)
    width = config.get("emb_dim", 2048)
    languages = config.get("n_langs", 1) if config.get("use_lang_emb", True) else 0
    embedding = Embedding(
        vocabulary=config.get("vocab_size", config.get("n_words", 30145)),
        positions=config.get("max_position_embeddings", 512),
        sinusoids=Sinusoids(interleaved=True) if config.get("sinusoidal_embeddings") else None,
        segments=languages if languages > 1 else 0,
        default_segment="none",
        norm=Norm(eps=config.get("layer_norm_eps", 1e-12)),
        dropout=config.get("dropout", 0.1),
        share="tokens",
    )
    return encoder(
        embedding,
        width=width,
        layers=config.get("n_layers", 12),
        heads=config.get("n_heads", 16),
        inner=4 * width,
        activation="gelu" if config.get("gelu_activation", True) else "relu",
        attention_dropout=config.get("attention_dropout", 0.1),
        mask="causal" if config.get("causal", False) else "full",
    )


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    stack, attention, feed_forward, norm = parts(spec)
    if feed_forward.inner != 4 * stack.width:
        raise BadInput(f"an inner width of {feed_forward.inner}", "four times the width, for XLM")
    return {
        "model_type": "xlm",
        "vocab_size": stack.embedding.vocabulary,
        "max_position_embeddings": stack.embedding.positions,
        "sinusoidal_embeddings": stack.embedding.sinusoids is not None,
        "n_langs": stack.embedding.segments or 1,
        "use_lang_emb": stack.embedding.segments > 0,
        "emb_dim": stack.width,
        "n_layers": len(stack.layers),
        "n_heads": attention.heads,
        "gelu_activation": feed_forward.activation == "gelu",
        "causal": attention.mask == "causal",
        "layer_norm_eps": norm.eps,
        "dropout": stack.embedding.dropout,
        "attention_dropout": attention.dropout,
    }


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors."""
    stack = spec.stack("encoder")
    names = {
        "0.op.qkv": [f"attentions.{{}}.{part}_lin" for part in "qkv"],
        "0.op.out": ["attentions.{}.out_lin"],
        "0.post_norm": ["layer_norm1.{}"],
        "1.op.up": ["ffns.{}.lin1"],
        "1.op.down": ["ffns.{}.lin2"],
        "1.post_norm": ["layer_norm2.{}"],
    }
    found = [
        same("embedding.tokens.weight", "embeddings.weight"),
        *weight_and_bias("embedding.norm", "layer_norm_emb"),
        *by_layer(len(stack.layers), names),
    ]
    if stack.embedding.sinusoids is None:
        found.append(same("embedding.positions.weight", "position_embeddings.weight"))
    if stack.embedding.segments:
        found.append(same("embedding.segments.weight", "lang_embeddings.weight"))
    return in_stack("encoder", found)


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Language-model head with a bias: the table's rows, or a map of its own."""
    table, own = spec.stack("encoder").embedding, "pred_layer.proj"
    head, weights = tied_or_own(config, Head(pool="none", outputs=table.vocabulary), table, own)
    return head, [*weights, same("head.out.bias", f"{own}.bias")]


def classifier(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """A linear map of the first token, or of what else the config says."""
    drop = config.get("summary_first_dropout", 0.1)
    head = Head(pool=summary(config), outputs=label_count(config), dropout=drop)
    return head, weight_and_bias("head.out", "sequence_summary.summary")


def choice(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """One number a document from those of the classifier, by which several are compared."""
    dense = Dense(outputs=label_count(config), activation="none")
    head = Head(pool=summary(config), dense=dense, outputs=1)
    names = ("head.dense", "sequence_summary.summary"), ("head.out", "logits_proj")
    return head, [weight for pair in names for weight in weight_and_bias(*pair)]


def summary(config: Mapping[str, Any]) -> Literal["first", "last", "mean"]:
    """Pooling of the classifier; BadInput where its map is another one, or none."""
    only(config, summary_use_proj=True, summary_proj_to_labels=True, summary_activation=None)
    return SUMMARIES[config.get("summary_type", "first")]


FAMILY = Family(
    name="xlm",
    classes={**classes("XLM", "WithLMHeadModel"), "spans": "XLMForQuestionAnsweringSimple"},
    spec=spec,
    config=config,
    weights=weights,
    heads={
        "classify": classifier,
        "lm": language_model,
        "tokens": labelled_tokens,
        "spans": spans,
        "choice": choice,
    },
    prefix="transformer.",
    # The table of sinusoids is stored too, as numbers that the spec gives anyway.
    unread=(
        "position_ids",
        "position_embeddings.",
        "pred_layer.",
        "sequence_summary.",
        "logits_proj.",
        "classifier.",
        "qa_outputs.",
    ),
)
