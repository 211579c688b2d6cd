"""XLNet (Yang et al. 2019): two streams over one text, in an order of factorisation.

The content stream attends to a token itself and to those before it in the order; the query stream
to those before it alone, with keys and values from the content stream and the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lmwright.models.core.spec import (
    Activation,
    Attention,
    Dense,
    Embedding,
    FeedForward,
    Head,
    ModelSpec,
    Norm,
    Stack,
    Sublayer,
    TransformerXL,
    with_op,
)
from lmwright.models.family.encoder_only import SUMMARIES, spans
from lmwright.models.family.family import (
    Family,
    Weight,
    classes,
    label_count,
    same,
    tied_or_own,
    weight_and_bias,
)
from lmwright.models.files.fields import only

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "gelu_new": "gelu_tanh",
}
SUMMARY_ACTIVATIONS: dict[str, Activation] = {**ACTIVATIONS, "tanh": "tanh"}

SIZES = {  # layers, width, heads, inner (Yang et al. 2019, appendix A.4)
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}


def sized(size: str, vocabulary: int = 32000) -> ModelSpec:
    """The spec of a published size, both streams."""
    layers, width, heads, inner = SIZES[size]
    return two_streams(
        spec(
            {
                "n_layer": layers,
                "d_model": width,
                "n_head": heads,
                "d_inner": inner,
                "vocab_size": vocabulary,
            }
        )
    )


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The content stream alone, with full attention, for fine-tuning. BadInput for
    a model that reads forwards only, halves its batches, or tells no distances beyond a bound."""
    only(config, attn_type="bi", bi_data=False, clamp_len=-1)
    width, heads = config.get("d_model", 1024), config.get("n_head", 16)
    head_width = config.get("d_head") or width // heads
    norm = Norm(eps=config.get("layer_norm_eps", 1e-12))
    drop = config.get("dropout", 0.1)
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_width=head_width,
        scale=head_width**-0.5,
        dropout=drop,
        bias=False,
        out_bias=False,
        positions=TransformerXL(segments=True),
    )
    feed_forward = FeedForward(
        inner=config.get("d_inner", 4096),
        activation=ACTIVATIONS[config.get("ff_activation", "gelu")],
        inner_dropout=True,
    )
    layer = tuple(Sublayer(op=op, post_norm=norm, dropout=drop) for op in (attention, feed_forward))
    embedding = Embedding(vocabulary=config.get("vocab_size", 32000), dropout=drop, share="tokens")
    content = Stack(
        name="content",
        width=width,
        embedding=embedding,
        layers=(layer,) * config.get("n_layer", 24),
        output_dropout=True,
    )
    return ModelSpec(stacks=(content,))


def two_streams(plain: ModelSpec) -> ModelSpec:
    """Content and query stream: what pre-training and generation use.

    What is known is seen both ways, so that each new token is read by all of them anew; the
    reference does so only if its memory is switched off.
    """
    content = plain.stack("content")

    def seeing(**fields: Any) -> tuple[tuple[Sublayer, ...], ...]:
        return tuple((with_op(layer[0], **fields), *layer[1:]) for layer in content.layers)

    vector = replace(content.embedding, vocabulary=0, vector=True, share="")
    query = Stack(
        name="query",
        width=content.width,
        embedding=vector,
        layers=seeing(mask="permutation_strict", cross_attends="content", each_layer=True),
        output_dropout=True,
        weights_of="content",
    )
    return replace(plain, stacks=(replace(content, layers=seeing(mask="permutation")), query))


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    stack = spec.stack("content")
    attention, feed_forward = (sublayer.op for sublayer in stack.layers[0])
    norm = stack.layers[0][0].post_norm
    assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward) and norm
    return {
        "model_type": "xlnet",
        "vocab_size": stack.embedding.vocabulary,
        "d_model": stack.width,
        "n_layer": len(stack.layers),
        "n_head": attention.heads,
        "d_head": attention.head_width,
        "d_inner": feed_forward.inner,
        "ff_activation": {o: t for t, o in ACTIVATIONS.items()}[feed_forward.activation],
        "layer_norm_eps": norm.eps,
        "dropout": stack.embedding.dropout,
    }


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors."""
    found = [same("stacks.content.embedding.tokens.weight", "word_embedding.weight")]
    if len(spec.stacks) > 1:
        mask = Weight(
            "stacks.query.embedding.vector",
            ("mask_emb",),
            lambda parts: parts[0].flatten(),
            lambda whole: [whole[None, None]],
        )
        found.append(mask)
    stack = spec.stack("content")
    for number, layer in enumerate(stack.layers):
        attention = layer[0].op
        assert isinstance(attention, Attention)
        ours, theirs = f"stacks.content.layers.{number}", f"layer.{number}"
        attend, relative = f"{theirs}.rel_attn", f"{ours}.0.op.relative"
        found += [
            by_head(f"{ours}.0.op.qkv.weight", [f"{attend}.{part}" for part in "qkv"], attention),
            by_head(f"{relative}.map.weight", [f"{attend}.r"], attention),
            columns_by_head(f"{ours}.0.op.out.weight", f"{attend}.o", attention),
            same(f"{relative}.content", f"{attend}.r_w_bias"),
            same(f"{relative}.distance", f"{attend}.r_r_bias"),
            same(f"{relative}.segment", f"{attend}.r_s_bias"),
            same(f"{relative}.segments", f"{attend}.seg_embed"),
            *weight_and_bias(f"{ours}.0.post_norm", f"{attend}.layer_norm"),
            *weight_and_bias(f"{ours}.1.op.up", f"{theirs}.ff.layer_1"),
            *weight_and_bias(f"{ours}.1.op.down", f"{theirs}.ff.layer_2"),
            *weight_and_bias(f"{ours}.1.post_norm", f"{theirs}.ff.layer_norm"),
        ]
    return found


def by_head(ours: str, theirs: Sequence[str], attention: Attention) -> Weight:
    """Maps that are stored as (width, heads, head width), one below the other."""

    def join(parts: list[Tensor]) -> Tensor:
        return torch.cat([part.flatten(1).T for part in parts])

    def part(whole: Tensor) -> list[Tensor]:
        return [each.T.unflatten(1, (attention.heads, -1)) for each in whole.chunk(len(theirs))]

    return Weight(ours, tuple(theirs), join, part)


def columns_by_head(ours: str, theirs: str, attention: Attention) -> Weight:
    """A map that is stored as (width, heads, head width)."""

    def part(whole: Tensor) -> list[Tensor]:
        return [whole.unflatten(1, (attention.heads, -1))]

    return Weight(ours, (theirs,), lambda parts: parts[0].flatten(1), part)


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Language-model head with a bias: the table's rows, or a map of its own."""
    table = spec.stack("content").embedding
    head, own = tied_or_own(config, Head(pool="none", outputs=table.vocabulary), table, "lm_loss")
    return head, [*own, same("head.out.bias", "lm_loss.bias")]


def classifier(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """A summary of the document and a linear map."""
    return summarised(config, spec, label_count(config))


def choice(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Multiple-choice head: like the classifier, with one number a document."""
    return summarised(config, spec, 1)


def labelled_tokens(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """A linear map of each token."""
    return Head(pool="none", outputs=label_count(config)), weight_and_bias("head.out", "classifier")


def summarised(
    config: Mapping[str, Any], spec: ModelSpec, outputs: int
) -> tuple[Head, list[Weight]]:
    """A dense map of the last token (or as the config says), tanh, and a linear map."""
    only(config, summary_use_proj=True, summary_proj_to_labels=False)
    activation = config.get("summary_activation", "tanh")
    head = Head(
        pool=SUMMARIES[config.get("summary_type", "last")],
        dense=Dense(
            outputs=spec.stack("content").width,
            activation=SUMMARY_ACTIVATIONS[activation] if activation else "none",
        ),
        dropout=config.get("summary_last_dropout", 0.1),
        outputs=outputs,
    )
    names = ("head.dense", "sequence_summary.summary"), ("head.out", "logits_proj")
    return head, [weight for pair in names for weight in weight_and_bias(*pair)]


FAMILY = Family(
    name="xlnet",
    classes={**classes("XLNet", "LMHeadModel"), "spans": "XLNetForQuestionAnsweringSimple"},
    spec=spec,
    config=config,
    weights=weights,
    heads={
        "lm": language_model,
        "classify": classifier,
        "tokens": labelled_tokens,
        "spans": spans,
        "choice": choice,
    },
    prefix="transformer.",
    unread=(
        "mask_emb",
        "lm_loss.",
        "sequence_summary.",
        "logits_proj.",
        "classifier.",
        "qa_outputs.",
    ),
    generation_spec=two_streams,
)
