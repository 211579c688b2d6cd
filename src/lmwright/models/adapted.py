"""Text models of which only what was trained is saved, beside the base that they stand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from lmwright.core.bases import BASE, base_folder, bases_of
from lmwright.core.durable import write_json
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.settings import Choice, read_choice
from lmwright.core.task import Task, task_to_json
from lmwright.models.core.int4 import Held
from lmwright.models.files.published import published_in, read_published
from lmwright.models.files.weights import check_fit, read_tensors, write_tensors
from lmwright.models.load import load_predictor
from lmwright.models.network.merge import plain_names, taken_apart
from lmwright.models.network.network import fill
from lmwright.models.text_model import TextModel, TextPredictor, described_network
from lmwright.tables import resolve
from lmwright.text.tokenizer import Tokenizer

WEIGHTS = "adapter.safetensors"


@dataclass(frozen=True)
class Adaptation:
    """How a model stands on its base.

    ``base`` is the content hash of an artifact: of a model of ours, whose own adapters are merged,
    or of a published one, of which ``head`` is the use of the head that is kept ("": none).
    ``tune`` is what was applied to it, and ``own`` names the weights that the base does not give.
    """

    base: str
    head: str
    tune: Choice
    own: frozenset[str]


@dataclass(frozen=True)
class BaseModel:
    """What a base gives: weights of a plain network by name, and the tokenizer.

    ``adapter`` has the weights of its own adapters that could not be merged into them, by their
    names once the same tune is applied; ``held`` those that a file has quantised, as it has them.
    """

    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer
    adapter: Mapping[str, Tensor] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)

    @property
    def all_weights(self) -> dict[str, Tensor]:
        """Both."""
        return {**self.weights, **self.adapter}


class AdaptedPredictor(TextPredictor):
    """A text model bound to a task, saved as its own weights and the hash of its base.

    Its maps with adapters are not merged: it answers with the arrays that were trained.
    """

    kind: ClassVar[str] = "adapted"

    def __init__(self, task: Task, model: TextModel, adaptation: Adaptation) -> None:
        super().__init__(task, model)
        self.adaptation = adaptation

    @classmethod
    def trained(
        cls, task: Task, model: TextModel, folder: Path, head: str, tune: Choice
    ) -> AdaptedPredictor:
        """A model on the base in ``folder``, right after its training.

        Its own weights are those that learn, and those that the base gives no bit-equal one for.
        """
        given, plain = read_base(folder, head).all_weights, plain_names(model.network)
        own = frozenset(
            name
            for name, each in model.network.named_parameters()
            if each.requires_grad
            or plain[name] not in given
            or not torch.equal(given[plain[name]], each.cpu())
        )
        return cls(task, model, Adaptation(folder.name, head, tune, own))

    def save(self, folder: Path) -> None:
        """Write ``model.json``, ``adapter.safetensors`` and ``base.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        about, weights = self.adaptation, dict(self.model.network.named_parameters())
        write_tensors(folder / WEIGHTS, {name: weights[name] for name in about.own})
        write_json(
            folder / BASE, {"artifacts": [about.base], "head": about.head, "tune": about.tune}
        )
        said = {"kind": self.kind, "task": task_to_json(self.task), **self.model.described()}
        write_json(folder / DESCRIPTION, said)

    @classmethod
    def load(cls, folder: Path, task: Task) -> AdaptedPredictor:
        """Read what :meth:`save` wrote, and its base; BadInput where the base is missing."""
        about, description = read_json_object(folder / BASE), read_json_object(folder / DESCRIPTION)
        try:
            (base,), head, tune = bases_of(folder), str(about["head"]), about["tune"]
        except (KeyError, ValueError):
            raise Corrupt(
                f"{folder / BASE} holds {sorted(about)}", "one base, head, tune"
            ) from None
        given = read_base(base_folder(folder, base), head)
        network = described_network(description, str(folder / DESCRIPTION))
        # A head of another task than the base's has other shapes; it is among the own weights.
        plain_shapes = {name: each.shape for name, each in network.named_parameters()}
        fitting = {n: w for n, w in given.weights.items() if plain_shapes.get(n) == w.shape}
        fill(network, fitting, given.held)
        # Nothing drawn by the seed is left: all that the base does not give is in the file.
        read_choice("tunes", tune, str(folder / BASE), resolve).apply(network, 0)
        own, plain = read_tensors(folder / WEIGHTS), plain_names(network)
        shapes = {name: tuple(each.shape) for name, each in network.named_parameters()}
        if other := sorted(n for n, w in given.adapter.items() if shapes.get(n) != tuple(w.shape)):
            raise Corrupt(
                f"{folder / BASE}: the base has {other[0]}, which {tune} does not apply",
                "the tune of the base, which cannot be merged into it",
            )
        fill(network, given.adapter)
        known = given.all_weights
        needed = {n: shape for n, shape in shapes.items() if n in own or plain[n] not in known}
        check_fit(own, needed, str(folder / WEIGHTS))
        fill(network, own)
        model = TextModel.bound(network, given.tokenizer, folder, description)
        found = cls(task, model, Adaptation(base, head, tune, frozenset(own)))
        found.check_outputs(str(folder / DESCRIPTION))
        return found


def read_base(folder: Path, head: str) -> BaseModel:
    """The weights and tokenizer of a base; adapters of its own are merged where they can be.

    ``head`` is the use of a published model's head whose weights are given too.
    """
    if (folder / DESCRIPTION).is_file():
        found = load_predictor(folder)
        if not isinstance(found, TextPredictor):
            raise Corrupt(f"the base {folder.name[:12]} is a {found.kind} model", "a text model")
        network, adapter = taken_apart(found.model.network)
        return BaseModel(dict(network.named_parameters()), found.model.tokenizer, adapter)
    published = read_published(str(published_in(folder)))
    weights = dict(published.weights)
    if head:
        weights |= published.heads[head][1] if head in published.heads else {}
        weights |= published.more
    return BaseModel(weights, published.tokenizer, held=published.held)
