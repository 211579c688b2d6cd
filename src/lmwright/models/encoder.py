"""A classifier that is an encoder with a head: texts to logits and to vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.durable import write_bytes, write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.blocks.head import mean_pool
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.core.spec import Head, read_head, read_spec
from lmwright.models.files.folder import Published, check_vocabulary
from lmwright.models.files.old_format import FORMAT, current_part, current_weight, is_old
from lmwright.models.files.weights import check_fit, read_tensors, write_tensors
from lmwright.models.model import read_description
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import Network, build, fill
from lmwright.text.tokenizer import Tokenizer, read_tokenizer

MOST_TOKENS_AT_ONCE = 4096
"""A pass over more tokens would need more memory and be no faster."""
LONGEST = 8192
"""Tokens of a text where no table of positions sets a bound."""


@dataclass(frozen=True)
class Tokens:
    """A text as ids, special tokens included."""

    ids: np.ndarray

    @property
    def cost(self) -> int:
        """How many tokens it is."""
        return len(self.ids)


class Encoder:
    """Tokenizer, network and head of a classifier; fp32 on the CPU."""

    kind = "encoder"

    def __init__(
        self, network: Network, tokenizer: Tokenizer, labels: tuple[str, ...], max_tokens: int
    ) -> None:
        self.network, self.tokenizer = network, tokenizer
        self.labels, self.max_tokens = labels, max_tokens

    def prepare(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text's first ``max_tokens`` ids."""
        return [Tokens(ids) for ids in self.tokenizer.encode(texts, self.max_tokens)]

    def logits(self, batch: Sequence[Tokens]) -> np.ndarray:
        """Unscaled log-probabilities, float64 (texts, labels)."""
        return self.in_pieces(batch, lambda piece: self.network(piece), len(self.labels)).astype(
            np.float64
        )

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        """The mean hidden state of each text, at length 1: float32 (texts, width)."""
        return self.in_pieces(batch, self.vectors, self.network.width)

    def look(self, batch: Sequence[Tokens]) -> tuple[np.ndarray, np.ndarray]:
        """Logits and vectors of one pass."""
        width = self.network.width

        def both(piece: Ragged) -> Tensor:
            logits_bk, hidden_nd = self.network.logits_and_hidden(piece)
            pooled_bd = F.normalize(mean_pool(hidden_nd, piece), dim=-1)
            return torch.cat([logits_bk, piece.as_packed(pooled_bd)], dim=-1)

        rows = self.in_pieces(batch, both, len(self.labels) + width)
        return rows[:, : len(self.labels)].astype(np.float64), rows[:, len(self.labels) :]

    def vectors(self, batch: Ragged) -> Tensor:
        """The vectors of one batch (b, d), in the order in which it was packed."""
        pooled_bd = mean_pool(self.network.hidden(batch), batch)
        return batch.as_packed(F.normalize(pooled_bd, dim=-1))

    def in_pieces(
        self, batch: Sequence[Tokens], give: Callable[[Ragged], Tensor], width: int
    ) -> np.ndarray:
        """Rows (texts, width) from passes of bounded size, texts of like length together."""
        rows = np.empty((len(batch), width), dtype=np.float32)
        for places in pieces([item.cost for item in batch], MOST_TOKENS_AT_ONCE):
            with torch.inference_mode():
                rows[places] = give(pack([batch[place].ids for place in places])).numpy()
        return rows

    def save(self, folder: Path) -> None:
        """Write ``model.json``, ``model.safetensors`` and ``tokenizer.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "tokenizer.json", self.tokenizer.data)
        write_tensors(folder / "model.safetensors", dict(self.network.named_parameters()))
        description = {
            "kind": self.kind,
            "format": FORMAT,
            "labels": list(self.labels),
            "max_tokens": self.max_tokens,
            "spec": self.network.spec.to_json(),
            "head": asdict(head_spec(self.network)),
        }
        write_json(folder / "model.json", description)

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Read what :meth:`save` wrote; every fault of the folder is named."""
        description, where = read_description(folder), str(folder / "model.json")
        spec, head_value = description.get("spec"), description.get("head")
        old = is_old(description, where)
        if old:
            spec, head_value = current_part(spec), current_part(head_value)
        setting, head = read_spec(spec, where), read_head(head_value, where)
        labels = tuple(description["labels"])
        if head.outputs != len(labels):
            raise Corrupt(f"{where}: {head.outputs} outputs", f"{len(labels)}, one a label")
        network = build(setting, head)
        tensors = read_tensors(folder / "model.safetensors")
        if old:
            tensors = {current_weight(name): tensor for name, tensor in tensors.items()}
        wanted = {name: tuple(each.shape) for name, each in network.named_parameters()}
        check_fit(tensors, wanted, str(folder / "model.safetensors"))
        fill(network, tensors)
        tokenizer = read_tokenizer(folder / "tokenizer.json")
        check_vocabulary(tokenizer, setting, folder)
        most = checked_cap(description.get("max_tokens"), network, where)
        return cls(network, tokenizer, labels, most)


def from_published(
    published: Published, labels: tuple[str, ...], head: Head, max_tokens: int, seed: int
) -> Encoder:
    """A classifier on a published encoder; what its head lacks is drawn afresh from ``seed``."""
    network = build(published.spec, head)
    _, known = published.heads.get("classify") or (head, {})
    shapes = {name: each.shape for name, each in network.named_parameters()}
    fitting = {name: t for name, t in known.items() if shapes.get(name) == t.shape}
    fill(network, {**published.weights, **fitting})
    initialise(network, seed)
    most = checked_cap(max_tokens, network, "max_tokens")
    return Encoder(network, published.tokenizer, labels, most)


def head_spec(network: Network) -> Head:
    """The head of a network that has one."""
    if network.head_spec is None:
        raise TypeError("this network has no head")
    return network.head_spec


def checked_cap(most: object, network: Network, where: str) -> int:
    """The cap on tokens, which the table of positions bounds where there is one."""
    longest = network.spec.longest or LONGEST
    if not isinstance(most, int) or not 3 <= most <= longest:
        raise BadInput(f"{where}: at most {most!r} tokens", f"a number from 3 to {longest}")
    return most


def pieces(costs: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of items, shortest first, in runs of at most ``most`` cost (one item at least)."""
    piece: list[int] = []
    total = 0
    for place in sorted(range(len(costs)), key=lambda place: costs[place]):
        if piece and total + costs[place] > most:
            yield piece
            piece, total = [], 0
        piece.append(place)
        total += costs[place]
    if piece:
        yield piece
