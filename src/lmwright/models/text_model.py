"""The one text model: a network with a head and its tokenizer, bound to a task or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.columns import Row
from lmwright.core.durable import write_bytes, write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Prepared, Task, task_to_json
from lmwright.models.blocks.head import mean_pool
from lmwright.models.core.ragged import Ragged, pack
from lmwright.models.core.spec import Head, ModelSpec, read_head, read_spec
from lmwright.models.files.folder import Published, check_vocabulary
from lmwright.models.files.old_format import FORMAT, current_part, current_weight, is_old
from lmwright.models.files.weights import check_fit, read_tensors, write_tensors
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import Network, build, fill
from lmwright.tables import definition_at
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


class TextModel:
    """Network, head and tokenizer; fp32 on the CPU."""

    def __init__(self, network: Network, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.network, self.tokenizer, self.max_tokens = network, tokenizer, max_tokens

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text's first ``max_tokens`` ids."""
        return [Tokens(ids) for ids in self.tokenizer.encode(texts, self.max_tokens)]

    def document(self, text: str, closed: bool = True) -> np.ndarray:
        """The ids of a document from the start token on, at most ``max_tokens``.

        ``closed`` with the end token, unless it is cut: then it does not end there.
        """
        end = self.stop_ids[:1] if closed else ()
        whole = np.concatenate([self.begin_ids, self.tokenizer.ids(text), end])
        return whole[: self.max_tokens].astype(np.int64)

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """The id that begins a document, if the model has one: of the start or the end token."""
        return (self.tokenizer.roles.get("bos") or self.stop_ids)[:1]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end a text."""
        return self.tokenizer.roles.get("eos", ())

    @property
    def outputs(self) -> int:
        """How many outputs the head has."""
        return head_spec(self.network).outputs

    def logits(self, batch: Sequence[Tokens]) -> np.ndarray:
        """The head's output for each text, float64 (texts, outputs)."""
        return self.in_pieces(batch, lambda piece: self.network(piece), self.outputs).astype(
            np.float64
        )

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        """The mean hidden state of each text, at length 1: float32 (texts, width)."""
        return self.in_pieces(batch, self.vectors, self.network.width)

    def logits_and_vectors(self, batch: Sequence[Tokens]) -> tuple[np.ndarray, np.ndarray]:
        """Logits and vectors of one pass."""

        def both(piece: Ragged) -> Tensor:
            logits_bk, hidden_nd = self.network.logits_and_hidden(piece)
            pooled_bd = F.normalize(mean_pool(hidden_nd, piece), dim=-1)
            return torch.cat([logits_bk, piece.as_packed(pooled_bd)], dim=-1)

        rows = self.in_pieces(batch, both, self.outputs + self.network.width)
        return rows[:, : self.outputs].astype(np.float64), rows[:, self.outputs :]

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

    def token_logits(self, batch: Sequence[Prepared]) -> tuple[list[np.ndarray], np.ndarray]:
        """The head's output for each token, a float64 (tokens, outputs) a text, and the vectors."""
        found: list[np.ndarray] = [np.zeros(0)] * len(batch)
        vectors = np.empty((len(batch), self.network.width), dtype=np.float32)
        for places in pieces([item.cost for item in batch], MOST_TOKENS_AT_ONCE):
            with torch.inference_mode():
                piece = pack([batch[place].ids for place in places])
                logits_nk, hidden_nd = self.network.logits_and_hidden(piece)
                pooled_bd = piece.as_packed(F.normalize(mean_pool(hidden_nd, piece), dim=-1))
                vectors[places] = pooled_bd.numpy()
                for place, each in zip(places, piece.by_document(logits_nk), strict=True):
                    found[place] = each.double().numpy()
        return found, vectors

    def save(self, folder: Path) -> dict[str, Any]:
        """Write weights and tokenizer into a folder; returns what its description says of them."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "tokenizer.json", self.tokenizer.data)
        write_tensors(folder / "model.safetensors", dict(self.network.named_parameters()))
        return {
            "format": FORMAT,
            "max_tokens": self.max_tokens,
            "roles": {role: list(ids) for role, ids in sorted(self.tokenizer.roles.items())},
            "spec": self.network.spec.to_json(),
            "head": asdict(head_spec(self.network)),
        }

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> TextModel:
        """Read what :meth:`save` wrote; every fault of the folder is named."""
        where = str(folder / DESCRIPTION)
        spec, head_value = description.get("spec"), description.get("head")
        old = is_old(description, where)
        if old:
            spec, head_value = current_part(spec), current_part(head_value)
        setting, head = read_spec(spec, where), read_head(head_value, where)
        network = build(setting, head)
        tensors = read_tensors(folder / "model.safetensors")
        if old:
            tensors = {current_weight(name): tensor for name, tensor in tensors.items()}
        wanted = {name: tuple(each.shape) for name, each in network.named_parameters()}
        check_fit(tensors, wanted, str(folder / "model.safetensors"))
        fill(network, tensors)
        tokenizer = read_tokenizer(folder / "tokenizer.json")
        for role, ids in description.get("roles", {}).items():
            tokenizer.roles[role] = tuple(ids)
        check_vocabulary(tokenizer, setting, folder)
        most = checked_cap(description.get("max_tokens"), network, where)
        return cls(network, tokenizer, most)


class TaskModel(Protocol):
    """How a text model answers a task; constructed with the task."""

    @property
    def task(self) -> Task:
        """The task that is answered."""

    def outputs(self) -> int:
        """How many outputs the head has that answers it; 0 for any number."""

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Any]:
        """Rows made ready for the model, by their input columns."""

    def answers(self, model: TextModel, batch: Sequence[Any]) -> Answers:
        """Uncalibrated answers to prepared rows."""


def task_model_of(task: Task) -> TaskModel:
    """How a text model answers the task; BadInput where none does."""
    if not task.text_model:
        raise BadInput(f"a text model for the task {task.kind}", "a task that text models answer")
    found: TaskModel = definition_at(task.text_model)(task)
    return found


class TextPredictor:
    """A text model bound to a task."""

    kind = "text-model"

    def __init__(self, task: Task, model: TextModel) -> None:
        self.task, self.model = task, model
        self.task_model = task_model_of(task)

    def prepare(self, rows: Sequence[Row]) -> list[Any]:
        """Rows made ready as the task has it."""
        return self.task_model.prepare(self.model, rows)

    def answers(self, batch: Sequence[Any]) -> Answers:
        """The task's answers."""
        return self.task_model.answers(self.model, batch)

    def save(self, folder: Path) -> None:
        """Write ``model.json``, ``model.safetensors`` and ``tokenizer.json``."""
        described = self.model.save(folder)
        write_json(
            folder / DESCRIPTION,
            {"kind": self.kind, "task": task_to_json(self.task), **described},
        )

    @classmethod
    def load(cls, folder: Path, task: Task) -> TextPredictor:
        """Read what :meth:`save` wrote; Corrupt where the head is not the task's."""
        found = cls(task, TextModel.load(folder, read_json_object(folder / DESCRIPTION)))
        outputs = found.task_model.outputs()
        if outputs and found.model.outputs != outputs:
            raise Corrupt(
                f"{folder / DESCRIPTION}: {found.model.outputs} outputs",
                f"{outputs}, as the task {task.kind} has them",
            )
        return found


def from_published(published: Published, head: Head | str, max_tokens: int, seed: int) -> TextModel:
    """A text model on a published start; what its head lacks is drawn afresh from ``seed``.

    ``head`` is a new one, or the name of one of the published heads.
    """
    if isinstance(head, str):
        if head not in published.described.heads:
            raise BadInput(
                f"the start has no head {head!r}",
                "a model of a family that has: " + ", ".join(published.described.heads),
                "start from another model",
            )
        network = build(
            published.family.generation_spec(published.spec), published.described.heads[head]
        )
        known = published.heads.get(head, (head, {}))[1] | published.more
    else:
        network = build(published.spec, head)
        known = published.heads.get("classify", (head, {}))[1]
    shapes = {name: each.shape for name, each in network.named_parameters()}
    fitting = {name: t for name, t in known.items() if shapes.get(name) == t.shape}
    fill(network, {**published.weights, **fitting})
    initialise(network, seed)
    most = checked_cap(max_tokens, network, "max_tokens")
    return TextModel(network, published.tokenizer, most)


def newly_drawn(
    spec: ModelSpec, head: Head, tokenizer: Tokenizer, max_tokens: int, seed: int
) -> TextModel:
    """A text model whose every weight is drawn from ``seed``."""
    network = build(spec, head)
    initialise(network, seed)
    return TextModel(network, tokenizer, checked_cap(max_tokens, network, "max_tokens"))


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
