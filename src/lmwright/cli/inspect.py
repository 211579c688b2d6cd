"""``lmwright inspect`` and ``lmwright compare``: what models are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lmwright.cli.open import JsonOption
from lmwright.models.files.folder import Described
from lmwright.models.files.published import describe
from lmwright.models.network.anatomy import Anatomy, anatomy
from lmwright.models.published_head import published_labels, published_use

Address = Annotated[
    str,
    typer.Argument(help="A model's folder, a .gguf file, asset:NAME/PATH, or hub:OWNER/NAME."),
]
At = Annotated[int, typer.Option(help="Tokens of context for the cost of attention.", min=1)]


def inspect(model: Address, tokens: At = 1024, as_json: JsonOption = False) -> None:
    """Draw a model's architecture; say what it holds, needs and costs."""
    described = describe(model)
    found = anatomy_of(described, tokens)
    if as_json:
        said = {
            "quantised": described.quantised or None,
            "not_read": described.left or None,
            "head": head_of(described) or None,
            "labels": labels_of(described),
        }
        print(json.dumps({"model": model, **as_values(found), **said}))
        return
    print("\n".join(found.drawing))
    if head := head_of(described):
        labels = labels_of(described)
        print(f"published head: {head}" + (f"; labels: {', '.join(labels)}" if labels else ""))
    print()
    show([model], [found])
    if described.quantised:
        print(f"\nits weights are {described.quantised}: it can be drawn, and not be run")
    if described.left:
        print(f"\nnot read: {described.left}")


def compare(one: Address, other: Address, tokens: At = 1024, as_json: JsonOption = False) -> None:
    """Show what two models are made of side by side."""
    found = [anatomy_of(describe(each), tokens) for each in (one, other)]
    if as_json:
        pairs = zip((one, other), found, strict=True)
        print(json.dumps([{"model": name, **as_values(each)} for name, each in pairs]))
        return
    show([one, other], found)


def as_values(found: Anatomy) -> dict[str, Any]:
    """Everything of an anatomy but its drawing, as JSON values; memory in bytes by precision."""
    figures = {name: value for name, value in vars(found).items() if name != "drawing"}
    return {**figures, "memory": found.memory()}


def anatomy_of(described: Described, tokens: int) -> Anatomy:
    """What a published model is made of, with the head that its config names, or its family's for
    language models."""
    heads, use = described.heads, published_use(described.config) or ""
    head = heads.get(use) or heads.get("lm") or next(iter(heads.values()), None)
    return anatomy(described.spec, head, tokens)


HEADS = {
    "": "none: hidden states, of which embeddings are made",
    "classify": "text classification",
    "tokens": "token classification",
    "spans": "answer spans",
    "choice": "multiple choice",
    "lm": "language model",
}
"""Published heads by their use, in words."""


def head_of(described: Described) -> str:
    """The head that a model's config names, in words; empty where it names none that is known."""
    use = published_use(described.config)
    return "" if use is None else HEADS[use]


def labels_of(described: Described) -> list[str]:
    """The labels of a classifier's outputs."""
    labelled = published_use(described.config) in ("classify", "tokens")
    return list(published_labels(described.config)) if labelled else []


def show(names: Sequence[str], found: Sequence[Anatomy]) -> None:
    """A table with a column a model."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(name.rstrip("/").rpartition("/")[2], justify="right", overflow="fold")
    rows = [rows_of(each) for each in found]
    for title in dict.fromkeys(title for each in rows for title in each):
        table.add_row(title, *(each.get(title, "–") for each in rows))
    Console(soft_wrap=True).print(table)


def rows_of(found: Anatomy) -> dict[str, str]:
    """The figures of one model by their titles."""
    parts = {f"  {name}": f"{count:,}" for name, count in found.parts.items()}
    memory = {
        f"weights in {name}": f"{each / 1e6:,.1f} MB" for name, each in found.memory().items()
    }
    return {
        "parameters": f"{found.parameters:,}",
        **parts,
        **({"met by a token": f"{found.active:,}"} if found.active < found.parameters else {}),
        f"FLOPs a token at {found.at:,}": f"{found.flops / 1e9:,.3f} G",
        "KV cache a token, fp16": f"{2 * found.kv:,} bytes" if found.kv else "–",
        "longest text": "no bound" if found.longest is None else f"{found.longest:,} tokens",
        **memory,
    }
