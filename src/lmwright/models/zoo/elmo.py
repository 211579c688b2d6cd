"""ELMo (Peters et al. 2018): one language model forwards and one backwards, of LSTM layers.

They read the same vectors of tokens; a learned mix of the states after each layer, both ways side
by side, is what is given (equation 1). Words come from a table in place of the paper's convolution
over characters, and cells are not clipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.models.core.spec import Embedding, Head, ModelSpec, Recurrent, Stack, Sublayer
from lmwright.models.family.family import Family, Weight, in_stack, same

SIZES = {  # layers each way, cells, width (Peters et al. 2018, section 3.4; the published options)
    "small": (2, 1024, 128),
    "medium": (2, 2048, 256),
    "original": (2, 4096, 512),
}
WAYS = {"forwards": False, "backwards": True}
"""Stack -> True if it reads from the end."""


def sized(size: str, vocabulary: int = 793471) -> ModelSpec:
    """The spec of a published size."""
    layers, cells, width = SIZES[size]
    lstm = {"n_layers": layers, "dim": cells, "projection_dim": width}
    return spec({"vocab_size": vocabulary, "lstm": lstm})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a ``config.json`` with the words of the published options; what it leaves out
    is as in the original size. Layers after the first add what they read."""
    lstm = {"n_layers": 2, "dim": 4096, "projection_dim": 512, **config.get("lstm", {})}
    width, drop = lstm["projection_dim"], config.get("dropout", 0.1)
    skips = lstm.get("use_skip_connections", True)
    table = Embedding(vocabulary=config.get("vocab_size", 793471), dropout=drop, share="tokens")
    stacks = []
    for name, backward in WAYS.items():
        op = Recurrent(cell="lstm", hidden=lstm["dim"], backward=backward, project=width)
        layers = tuple(
            (Sublayer(op=op, residual=skips and number > 0, dropout=drop),)
            for number in range(lstm["n_layers"])
        )
        stacks.append(Stack(name=name, width=width, embedding=table, layers=layers))
    return ModelSpec(stacks=tuple(stacks), outputs_from=tuple(WAYS), scalar_mix=True)


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    stack = spec.stack("forwards")
    op = stack.layers[0][0].op
    if not isinstance(op, Recurrent):
        raise BadInput("the spec is not one of the ELMo family", "recurrent layers")
    return {
        "model_type": "elmo",
        "vocab_size": stack.embedding.vocabulary,
        "dropout": stack.embedding.dropout,
        "lstm": {
            "n_layers": len(stack.layers),
            "dim": op.hidden,
            "projection_dim": op.project,
            "use_skip_connections": stack.layers[-1][0].residual,
        },
    }


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors."""
    found = [same(f"stacks.{spec.stacks[0].name}.embedding.tokens.weight", "tokens.weight")]
    leaves = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hr_l0"
    for stack in spec.stacks:
        for number in range(len(stack.layers)):
            ours, theirs = f"layers.{number}.0.op.cell", f"{stack.name}.{number}"
            found += in_stack(
                stack.name, [same(f"{ours}.{leaf}", f"{theirs}.{leaf}") for leaf in leaves]
            )
    mix = [same("mix", "mix.scalars"), same("mix_scale", "mix.gamma")]
    return [*found, *mix] if spec.scalar_mix else found


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Language-model head, one for both directions, not tied to the table (section 3.1)."""
    head = Head(pool="none", outputs=spec.stacks[0].embedding.vocabulary)
    return head, [same("head.out.weight", "softmax.weight"), same("head.out.bias", "softmax.bias")]


FAMILY = Family(
    name="elmo",
    spec=spec,
    config=config,
    weights=weights,
    heads={"lm": language_model},
    unread=("softmax.",),
)
