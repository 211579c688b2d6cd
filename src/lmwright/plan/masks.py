"""Rows with their tokens coloured by mask: what is only read, what is learnt, what is cut off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.errors import BadInput
from lmwright.data.corpus import read_split, splits_of
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextModel, TextPredictor
from lmwright.store.run import read_run, results_of
from lmwright.store.store import Store
from lmwright.train.batches import Example
from lmwright.train.check import ReadRows, learnt, learnt_tokens
from lmwright.train.documents import Document
from lmwright.train.task_model import TrainedTaskModel, trained_task_model

COLOURS = {"learnt": "\x1b[32m", "read": "\x1b[2m", "cut": "\x1b[31m"}
"""Colours of a terminal: green is learnt, dim is only read, red is cut off."""
END = "\x1b[0m"
UNBOUND = 1 << 20
"""Tokens of a row that nothing cuts."""


@dataclass(frozen=True)
class Piece:
    """A run of a row's text that has one mask."""

    mask: Literal["read", "learnt", "cut"]
    text: str


@dataclass(frozen=True)
class ShownRow:
    """A row as it is learnt: how many of its tokens are read, learnt and cut, and its pieces."""

    id: str
    tokens: int
    learnt: int
    cut: int
    pieces: tuple[Piece, ...]

    def lines(self) -> list[str]:
        """The row in words, and its text in colours."""
        said = f"row {self.id[:12]}: {self.learnt} of {self.tokens} tokens are learnt"
        said += f", {self.cut} more are cut" if self.cut else ""
        return [said, "".join(COLOURS[each.mask] + each.text + END for each in self.pieces)]

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class OfModel(ReadRows):
    """Rows as a model learnt them."""

    task_model: TrainedTaskModel
    model: TextModel
    sample: pa.Table


def shown_rows(rows: ReadRows, first: Sequence[str], count: int) -> Iterator[ShownRow]:
    """Rows whose tokens are told apart by whether they are learnt; those named ``first`` first.

    A row of classes or numbers has no tokens that are learnt, and is not shown.
    """
    known = {row: place for place, row in enumerate(rows.ids)}
    places = [known[row] for row in dict.fromkeys(first) if row in known]
    places += [place for place in range(len(known)) if place not in places]
    by_row = {f"{each.document:032x}": each for each in rows.examples}
    for place in places[:count]:
        row = rows.ids[place]
        if rows.documents:
            item = rows.documents[place]
            ids, mask, lost = item.tokens, learnt_tokens(item), lost_ids(rows, place, item)
        elif row in by_row and len(mask := learnt(by_row[row])):
            ids, lost = by_row[row].tokens, lost_ids(rows, place, by_row[row])
        else:
            continue
        pieces = (*masked(rows, ids, mask), *masked_as(rows, lost, "cut"))
        yield ShownRow(row, len(ids), int(mask.sum()), len(lost), pieces)


def lost_ids(rows: ReadRows, place: int, item: Document | Example) -> np.ndarray:
    """The ids that a row lacks at its end because it is too long; none where it is whole there."""
    none = np.zeros(0, np.int64)
    if not item.cut:
        return none
    if isinstance(item, Document):
        text = str(rows.given[place].get(getattr(rows.task_model.task, "target_column", ""), ""))
        kept, whole = item.tokens[item.first :], rows.model.tokenizer.ids(text.strip())
    else:
        free = rows.model.with_network(rows.model.network, UNBOUND)
        (other, *_) = rows.task_model.examples(free, rows.sample.slice(place, 1))
        kept, whole = item.tokens, other.tokens
    same = 0
    while same < min(len(kept), len(whole)) and kept[same] == whole[same]:
        same += 1
    behind = len(kept) - same  # tokens that end every text, which the whole one has too
    return np.asarray(whole[same : len(whole) - behind], np.int64)


def masked(rows: ReadRows, ids: np.ndarray, mask: np.ndarray) -> Iterator[Piece]:
    """The pieces of some ids by whether they are learnt."""
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    for first, end in pairwise(edges):
        yield from masked_as(rows, ids[first:end], "learnt" if mask[first] else "read")


def masked_as(
    rows: ReadRows, ids: np.ndarray, mask: Literal["read", "learnt", "cut"]
) -> Iterator[Piece]:
    """One piece of some ids; none of no ids."""
    control = {number: name for name, number in rows.model.tokenizer.control.items()}
    if len(ids):
        yield Piece(mask, text_of(rows, ids.tolist(), control))


def text_of(rows: ReadRows, ids: Sequence[int], control: Mapping[int, str]) -> str:
    """The text of some ids with the names of special tokens."""
    found, plain = "", list[int]()
    for each in ids:
        if each in control:
            found += rows.model.tokenizer.decode(plain) + control[each]
            plain = []
        else:
            plain.append(each)
    return found + rows.model.tokenizer.decode(plain)


def learnt_from(store: Store, content: str, count: int) -> list[ShownRow]:
    """Training rows of an artifact as the newest model here learnt them.

    BadInput for an artifact without training rows, and where no text model learnt from it.
    """
    folder = store.artifact(content)
    if "train" not in splits_of(folder):
        raise BadInput(f"{content[:12]} holds no training rows", "an artifact of the stage data")
    predictor = load_predictor(store.artifact(trained_on(store, content)))
    if not isinstance(predictor, TextPredictor):
        raise BadInput(f"a {predictor.kind} model learnt from it", "a text model")
    table = read_split(folder, "train")
    rows = OfModel(trained_task_model(predictor.task), predictor.model, table.slice(0, count))
    try:
        found = list(shown_rows(rows, (), count))
    finally:
        predictor.model.close()
    if not found:
        raise BadInput(
            f"rows of the task {predictor.task.kind}, of which no tokens are learnt",
            "rows of a task that learns tokens: texts, chats, spans",
        )
    return found


def trained_on(store: Store, content: str) -> str:
    """The newest model that a training made of these rows."""
    for name in reversed(store.runs()):
        for result in results_of(store, read_run(store, name)).values():
            if result.kind == "train" and result.inputs.get("rows") == content:
                return result.outputs["model"]
    raise BadInput(
        f"no training here learnt from {content[:12]}",
        "rows that one has learnt from",
        "lmwright check RECIPE shows rows before a training",
    )
