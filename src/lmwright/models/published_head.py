"""Published classifiers: what a folder's own head says, and a text model that answers with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from lmwright.core.errors import BadInput
from lmwright.models.family.family import ENDINGS
from lmwright.models.files.folder import Published
from lmwright.models.network.network import build, fill
from lmwright.models.text_model import TextModel, checked_cap

WRITERS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration", "MTModel")
"""Further endings of the names of published classes: those of language models."""
USES = {
    **{ending: use for use, ending in ENDINGS.items()},
    **dict.fromkeys(WRITERS, "lm"),
    "ForQuestionAnsweringSimple": "spans",
}
"""Endings of the names of published classes -> the use of the head."""
OUTPUTS = {"spans": ("start", "end")}
"""Uses whose outputs are the same in every published head, which does not name them."""
OTHER_LOSSES = ("multi_label_classification", "regression")
"""``problem_type`` of heads whose outputs are no logits of labels that exclude each other."""


def published_use(config: Mapping[str, Any]) -> str | None:
    """The use of the head that a config's ``architectures`` name (``BODY``: it has none); None
    where it names no class that is known."""
    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    fitting = [ending for ending in USES if name.endswith(ending)]
    return USES[max(fitting, key=len)] if fitting else None


def published_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a config's ``id2label`` in their order; none where it has no such list."""
    given = config.get("id2label")
    if not isinstance(given, Mapping):
        return ()
    by_place = {str(place): str(label) for place, label in given.items()}
    return tuple(by_place[key] for key in map(str, range(len(by_place))) if key in by_place)


def places_of(config: Mapping[str, Any], use: str, names: Sequence[str]) -> list[int]:
    """The outputs of a published head that stand for ``names``, in the order of ``names``.

    Names that differ in case alone are the same where no two labels do. BadInput says why the head
    cannot answer: it is another one, or has no such labels.
    """
    found = published_use(config)
    if found != use:
        raise BadInput(
            "the start's config names " + (str(config.get("architectures") or "no class")),
            f"a published head: a class that ends in {ENDINGS.get(use, use)}",
            "set epochs to 1 or more, so that a head is trained, or start from such a model",
        )
    if config.get("problem_type") in OTHER_LOSSES:
        raise BadInput(
            f"the start's head is for {config['problem_type']}",
            "one of which exactly one label is right",
            "set epochs to 1 or more with another start",
        )
    labels = OUTPUTS.get(use) or published_labels(config)
    known = {label: place for place, label in enumerate(labels)}
    folded = {label.casefold(): place for label, place in known.items()}
    if len(folded) == len(known) == len({name.casefold() for name in names} | folded.keys()):
        known = {name: folded[name.casefold()] for name in names}
    if missing := [name for name in names if name not in known]:
        raise BadInput(
            f"the start's head knows the labels {', '.join(labels) or '(none)'}, not {missing[0]}",
            "those of the rows: " + ", ".join(names),
            "map the rows' labels with values of the sources, or train a head: another start",
        )
    return [known[name] for name in names]


def with_published_head(
    published: Published, use: str, places: Sequence[int], max_tokens: int
) -> TextModel:
    """A text model with a published head, of whose outputs those at ``places`` are kept.

    BadInput where the folder lacks a weight of the head.
    """
    head, weights = published.heads.get(use, (published.described.heads[use], {}))
    rows = torch.tensor(places)
    kept = {
        name: weight[rows] if name in ("head.out.weight", "head.out.bias") else weight
        for name, weight in weights.items()
    }
    network = build(published.spec, replace(head, outputs=len(places)))
    fill(network, {**published.weights, **kept}, published.held)
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    if missing:
        raise BadInput(
            f"the start has no {missing[0]}", "a model with its head", "take another folder"
        )
    most = checked_cap(max_tokens, network, "max_tokens")
    return TextModel(network, published.tokenizer, most, family=published.family.name)
