"""A classifier that asks a language model of this machine: how likely is each label's name?"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import log_softmax

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.authors import language_model_at
from lmwright.models.blocks.head import mean_pool
from lmwright.models.core.ragged import pack
from lmwright.models.decode import Reader
from lmwright.models.files.published import is_gguf, located
from lmwright.models.language import LanguageModel
from lmwright.models.model import read_description
from lmwright.models.question import Question, is_row, read_question

COPIED = re.compile(r".+\.(json|jinja|safetensors|spm|tiktoken|txt|bpe|model(\.v\w+)?)")
"""What of a published folder may be read: config, template, weights, and any tokenizer's files."""
CONTENT_FREE = ("N/A", "", "[MASK]")
FOLDER, FILE = "published", "published.gguf"


@dataclass(frozen=True)
class Posed:
    """A text as a question.

    ``shared`` are the ids that all answers have in front, ``rests`` what each label's has of its
    own; ``ids`` are those of the text alone. The question is ``source`` where an encoder reads it,
    else part of what is shared.
    """

    shared: np.ndarray
    rests: tuple[np.ndarray, ...]
    ids: np.ndarray
    source: np.ndarray | None = None

    @property
    def cost(self) -> int:
        """How many tokens the question is."""
        return len(self.shared if self.source is None else self.source)


class Asked:
    """A language model that is asked for a label. fp32 on the CPU, a text at a time.

    The logits are the log-probabilities of the labels' names as the answer, less what they are
    where the text says nothing (Zhao et al. 2021, whose content-free texts these are): what the
    model prefers to say whatever it is asked. The question is what the encoder reads where there is
    one, else a message where the model has a chat template, else a text to go on from. A text's
    vector is the mean of the hidden states of its question.

    ``prior`` is what is taken off, found by asking where it is not given.
    """

    kind = "asked"

    def __init__(
        self,
        labels: Sequence[str],
        question: Question,
        model: LanguageModel[Any],
        source: Path,
        code: str = "",
        prior: Sequence[float] | None = None,
    ) -> None:
        if model.network.two_streams:
            raise BadInput(
                "a language model that reads the question anew for each token of an answer",
                "one that reads it once",
            )
        self.labels, self.question, self.model = tuple(labels), question, model
        self.source, self.code = source, code
        self.prior = self.without_content() if prior is None else list(prior)

    def prepare(self, texts: Sequence[str]) -> list[Posed]:
        """The ids of each text's question with every answer."""
        return [self.posed(text) for text in texts]

    def posed(self, text: str) -> Posed:
        """One text's question, and the answers from where they part; what is too long is cut."""
        text = text[: self.question.max_characters]
        source, wholes = self.read(text)
        while (over := longest([source, *wholes]) - (self.model.longest or 1 << 30)) > 0:
            if not text:
                raise BadInput(
                    f"a question of {over + (self.model.longest or 0)} tokens without its text",
                    f"at most {self.model.longest}",
                    "shorten the instruction, or take another model",
                )
            text = text[:-over]
            source, wholes = self.read(text)
        common = shared(wholes)
        rests = tuple(each[common:] for each in wholes)
        if not common:
            raise BadInput(
                "a question that is empty without its text", "an instruction that says something"
            )
        if not apart(rests):
            raise BadInput(
                f"names that are one to this model's tokenizer: {', '.join(self.question.names)}",
                "names of which none begins another as tokens either",
                "say how the labels are to be called: names: {LABEL: NAME}",
            )
        return Posed(wholes[0][:common], rests, self.model.tokenizer.ids(text), source)

    def read(self, text: str) -> tuple[np.ndarray | None, list[np.ndarray]]:
        """What an encoder reads of a text's question, and what the decoder does with each answer.

        Without an encoder that is the question with the answer.
        """
        asked, names, model = self.question.about(text), self.question.names, self.model
        if model.start is None and model.template is None:
            return None, [model.prompt(f"{asked} {name}") for name in names]
        if model.start is None:
            source, begin = None, model.chat([{"role": "user", "content": asked}])
        else:
            source, begin = model.prompt(asked), np.array([model.start])
        return source, [np.concatenate([begin, model.tokenizer.ids(name)]) for name in names]

    def logits(self, batch: Sequence[Posed]) -> np.ndarray:
        """What the text adds to each label's log-probability, float64 (texts, labels)."""
        scores = np.array([self.scores(item) for item in batch])
        return scores.reshape(len(batch), len(self.labels)) - self.prior

    def without_content(self) -> list[float]:
        """The mean log-probability of each label among the labels, for texts that say nothing."""
        scores = np.array([self.scores(item) for item in self.prepare(CONTENT_FREE)])
        means: list[float] = log_softmax(scores, axis=1).mean(axis=0).tolist()
        return means

    def scores(self, item: Posed) -> list[float]:
        """The log-probability of each label's name as the answer to one question.

        The question is read once, and the answers side by side from there.
        """
        reader = Reader(self.model.network, 1, None if item.source is None else [item.source])
        logs_bv = torch.log_softmax(reader.read([item.shared]).double(), dim=-1)
        scores = [float(logs_bv[0, rest[0]]) for rest in item.rests]
        going, places = list(range(len(item.rests))), [0] * len(item.rests)
        for place in range(1, max(map(len, item.rests))):
            kept = [n for n, label in enumerate(going) if len(item.rests[label]) > place]
            reader.choose([places[n] for n in kept])
            going, places = [going[n] for n in kept], list(range(len(kept)))
            new = [item.rests[label][place - 1 : place] for label in going]
            logs_bv = torch.log_softmax(reader.read(new).double(), dim=-1)
            for row, label in enumerate(going):
                scores[label] += float(logs_bv[row, item.rests[label][place]])
        return scores

    @torch.inference_mode()
    def embed(self, batch: Sequence[Posed]) -> np.ndarray:
        """The mean hidden state of each question, at length 1: float32 (texts, width)."""
        rows = []
        for item in batch:
            network = self.model.network
            ragged = pack([item.shared if item.source is None else item.source])
            states_nd = (network.hidden if item.source is None else network.encode)(ragged)
            pooled_1d = mean_pool(states_nd, ragged)
            rows.append(F.normalize(pooled_1d, dim=-1)[0].numpy())
        return np.stack(rows)

    def look(self, batch: Sequence[Posed]) -> tuple[np.ndarray, np.ndarray]:
        """Logits and vectors."""
        return self.logits(batch), self.embed(batch)

    def save(self, folder: Path) -> None:
        """Write ``model.json``, and the published model as it was found beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        if is_gguf(self.source):
            shutil.copyfile(self.source, folder / FILE)
        else:
            (folder / FOLDER).mkdir()
            for path in sorted(self.source.iterdir()):
                if path.is_file() and COPIED.fullmatch(path.name):
                    shutil.copyfile(path, folder / FOLDER / path.name)
        description = {
            "kind": self.kind,
            "labels": list(self.labels),
            "question": self.question.to_json(),
            "prior": self.prior,
            "code": self.code,
        }
        write_json(folder / "model.json", description)

    @classmethod
    def load(cls, folder: Path) -> Asked:
        """Read what :meth:`save` wrote; every fault of the folder is named."""
        description, where = read_description(folder), str(folder / "model.json")
        labels = description["labels"]
        question = read_question(description.get("question"), labels, where)
        source = folder / (FILE if (folder / FILE).is_file() else FOLDER)
        if not source.exists():
            raise Corrupt(f"{folder} holds no language model", f"{FOLDER} or {FILE}")
        prior = description.get("prior")
        if not is_row(prior, len(labels)):
            raise Corrupt(f"{where}: the prior is {prior!r}", f"{len(labels)} numbers")
        model = language_model_at(str(source), unsaid)
        return cls(labels, question, model, source, str(description.get("code", "")), prior)


def opened(
    labels: Sequence[str],
    question: Question,
    address: str,
    code: str = "",
    say: Callable[[str], None] | None = None,
) -> Asked:
    """A classifier by the language model at an address; ``say`` is told how that runs.

    ``code`` stands for the code that reads it, and makes the artifact another where that changes.
    """
    model = language_model_at(address, say or unsaid)
    return Asked(labels, question, model, located(address), code)


def unsaid(line: str) -> None:
    """Nothing: how the model runs was said when it was first read."""


def longest(sequences: Sequence[np.ndarray | None]) -> int:
    """The length of the longest of those that there are."""
    return max(len(each) for each in sequences if each is not None)


def shared(wholes: Sequence[np.ndarray]) -> int:
    """How many ids some sequences have in common in front, one less at most than any has."""
    most = min(map(len, wholes)) - 1
    same = [len({int(each[place]) for each in wholes}) == 1 for place in range(most)]
    return same.index(False) if False in same else most


def apart(rests: Sequence[np.ndarray]) -> bool:
    """Whether none of some sequences begins another."""
    found = sorted(tuple(each.tolist()) for each in rests)
    return all(longer[: len(short)] != short for short, longer in pairwise(found))
