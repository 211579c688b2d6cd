"""The stage ``tokenizer``: a vocabulary trained on the rows to learn from, and judged on others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.core.durable import write_bytes, write_json
from lmwright.core.errors import BadInput
from lmwright.core.settings import Choice, kind_of, read_choice
from lmwright.core.stage import RowStatistics, Stage, Work, WorkEstimate
from lmwright.core.task import Task
from lmwright.data.corpus import read_task_of, stream_rows, task_modules
from lmwright.metrics.tokenization import renyi_efficiency
from lmwright.tables import module_of, resolve
from lmwright.text.formats.sidecars import SETTINGS
from lmwright.text.tokenizer import Tokenizer, read_tokenizer
from lmwright.text.trainers.bpe import BPE
from lmwright.text.trainers.training import UNKNOWN, Kind, Normal, Wanted

BEGIN, END = "<s>", "</s>"
"""The tokens that begin and end a document."""
FILE = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(Stage):
    """Train a tokenizer on the texts of ``rows/train``.

    ``model``       the kind of tokenizer: its name, or a mapping with ``kind`` and its settings.
    ``vocabulary``  how many tokens at most, special ones included.
    ``normalize``   steps that a text passes before it is cut, in their order: ``nfc``, ``nfd``,
                    ``nfkc``, ``nfkd``, ``lowercase``, ``strip-accents``, ``spaces`` (a run of white
                    space is one space). With any of them a text may not come back as it was.
    ``special``     further special tokens, beside ``<s>`` and ``</s>`` round a document and
                    ``<unk>`` where the kind needs it. No text becomes one.
    ``characters``  at most so many characters are trained on, of the rows with the least ids, which
                    are drawn by their hashes; 0: all.
    """

    model: Choice = "bpe"
    vocabulary: int = 8192
    normalize: tuple[Normal, ...] = ()
    special: tuple[str, ...] = ()
    characters: int = 0

    def needs(self) -> tuple[str, ...]:
        """The rows."""
        return ("rows",)

    def gives(self) -> tuple[str, ...]:
        """The tokenizer."""
        return ("tokenizer",)

    def asks(self) -> tuple[str, ...]:
        """The rows to learn from, and those to be judged by."""
        return ("rows/train", "rows/validation")

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, and the kind of tokenizer."""
        return (*task_modules(inputs["rows"]), module_of("tokenizers", kind_of(self.model)))

    def check(self) -> None:
        """BadInput for numbers out of range, and special tokens that are none or there twice."""
        if self.characters < 0 or not 1 <= self.vocabulary <= 1 << 22:
            raise BadInput(
                f"vocabulary is {self.vocabulary}, characters {self.characters}",
                f"a vocabulary from 1 to {1 << 22}, and characters from 0 on",
            )
        named = [BEGIN, END, UNKNOWN, *self.special]
        if "" in self.special or len({*named}) < len(named):
            raise BadInput(
                f"special is {list(self.special)}", f"tokens, each once, beside {named[:3]}"
            )
        self.kind()

    def kind(self) -> Kind:
        """The kind of tokenizer, with its settings."""
        found: Kind = read_choice("tokenizers", self.model, "model", resolve)
        return found

    def probed(self, texts: Sequence[str]) -> Tokenizer:
        """A tokenizer of these settings trained on a few texts, which may fill less of it; one of
        bytes where they do not suffice for any."""
        special = (BEGIN, END, *self.special)
        try:
            wanted = Wanted(self.vocabulary, special, self.normalize)
            data = self.kind().train(lambda: iter(texts), wanted)
        except BadInput:
            data = BPE().train(lambda: iter(texts), Wanted(256 + len(special), special))
        return Tokenizer(data, FILE, {"bos": (0,), "eos": (1,)})

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """The texts of the rows, each read a few times."""
        return WorkEstimate(rows=known.rows("rows/train") + known.rows("rows/validation"))

    def run(self, work: Work) -> dict[str, Any]:
        """Train it, write it as published ones are, and say how well it fits held-out texts."""
        rows = work.inputs["rows"]
        special = (BEGIN, END, *self.special)
        wanted = Wanted(self.vocabulary, special, self.normalize)
        work.progress(0, 2, "trained")

        def texts() -> Iterator[str]:
            return first_characters(stream_texts(rows, "train"), self.characters)

        data = self.kind().train(texts, wanted)
        out = work.out("tokenizer")
        write_tokenizer(out, data)
        work.progress(1, 2, "judged")
        tokenizer = read_tokenizer(out)
        judged = judge(tokenizer, stream_texts(rows, "validation"))
        work.progress(2, 2, "judged")
        return {
            "headline": headline(judged, tokenizer.size(), self.vocabulary),
            "model": kind_of(self.model),
            "vocabulary": tokenizer.size(),
            "held_out": judged,
        }


def stream_texts(rows: Path, split: str) -> Iterator[str]:
    """The texts of a split as a model learns them, in the order of their ids."""
    task = read_task_of(rows)
    for batch in stream_rows(rows / f"{split}.parquet"):
        for row in batch.to_pylist():
            yield from texts_of(task, row)


def texts_of(task: Task, row: Mapping[str, Any]) -> Iterator[str]:
    """A row as a model reads it, and its target where that is not a part of it."""
    text, target = task.text(row), task.target(row)
    yield text
    if task.teacher_forced and target not in text:
        yield target


def first_characters(texts: Iterable[str], most: int) -> Iterator[str]:
    """The texts up to so many characters (0: all); the last one is cut."""
    left = most
    for text in texts:
        yield text[:left] if most else text
        left -= len(text)
        if most and left <= 0:
            return


def write_tokenizer(folder: Path, data: bytes) -> None:
    """A tokenizer as published ones are: its file, and beside it what special tokens are for."""
    added = {token["content"] for token in json.loads(data)["added_tokens"]}
    roles = {"bos": BEGIN, "eos": END, "unk": UNKNOWN}
    told = {f"{role}_token": name for role, name in roles.items() if name in added}
    write_bytes(folder / FILE, data)
    write_json(folder / SETTINGS, {"tokenizer_class": "PreTrainedTokenizerFast", **told})


def judge(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float]:
    """Measures of a tokenizer on texts that it was not trained on.

    ``bytes_per_token``; ``fertility``, the tokens of a word between spaces; ``unknown``, the share
    of tokens that stand for what the vocabulary has not; ``renyi_efficiency``; ``round_trip``, the
    share of texts that come back as they were.
    """
    counts = np.zeros(tokenizer.size(), dtype=np.int64)
    size = words = whole = number = 0
    for text in texts:
        ids = tokenizer.ids(text)
        counts += np.bincount(ids, minlength=len(counts))
        size += len(text.encode("utf-8", "surrogatepass"))
        words += len(text.split())
        whole += tokenizer.decode(ids.tolist()) == text
        number += 1
    tokens = int(counts.sum())
    unknown = tokenizer.roles.get("unk", ())
    return {
        "texts": number,
        "tokens": tokens,
        "bytes_per_token": size / max(tokens, 1),
        "fertility": tokens / max(words, 1),
        "unknown": float(counts[list(unknown)].sum()) / max(tokens, 1),
        "renyi_efficiency": renyi_efficiency(counts),
        "round_trip": whole / max(number, 1),
    }


def headline(judged: Mapping[str, float], size: int, wanted: int) -> dict[str, Any]:
    """The line that a person is told of a tokenizer, and what is too little."""
    line = (
        f"{size:,} tokens; on held-out texts {judged['bytes_per_token']:.2f} bytes a token, "
        f"{judged['fertility']:.2f} tokens a word"
    )
    warnings = []
    if size < wanted:
        warnings.append(f"the texts fill {size:,} of {wanted:,} tokens")
    if judged["unknown"] > 0:
        warnings.append(f"{judged['unknown']:.2%} of held-out tokens are unknown")
    return {"line": "; ".join(chain([line], warnings)), "warnings": warnings}
