"""A classifier that asks a hosted language model, and keeps what it was answered."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import softmax

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.hashing import hash_bytes
from lmwright.core.reading import read_json_object
from lmwright.models.decode import Decoding
from lmwright.models.hosted import Hosted, hosted
from lmwright.models.model import read_description
from lmwright.models.question import Question, is_row, read_question

By = Literal["logprobs", "samples"]
TOP = 20
"""As many alternatives as the interface tells of a token at most."""
LEAST = -100.0
"""The lowest logit: endpoints write minus infinity in several ways."""


@dataclass(frozen=True)
class Way:
    """How a hosted model is asked: ``address``, ``key_from`` as in ``hosted``.

    ``by`` says where the probabilities come from (:class:`AskedHosted`); ``samples`` answers are
    drawn, from ``seed`` on; an answer has at most ``max_tokens``.
    """

    address: str
    key_from: str
    by: By
    samples: int
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Words:
    """A text as it is sent, and the hashes of its words, for the drift of the vocabulary."""

    text: str
    ids: np.ndarray

    @property
    def cost(self) -> int:
        """How many words it is."""
        return max(1, len(self.ids))


class AskedHosted:
    """A language model behind an endpoint that is asked for a label.

    By ``logprobs`` the logits are what the endpoint tells of the answer's tokens: a label's is the
    log-probability of all told alternatives that begin its name and no other, followed along the
    answer until one name is left. A label that is not among them gets the least that was told,
    which is the most that it can have.

    By ``samples`` they are no probabilities of the model's own, but shares of a few answers drawn
    at temperature 1, one answer more being spread evenly over the labels: how often the model
    would say so, in steps of one in ``samples``. An answer that names no label or several counts
    for none.

    ``answers`` holds the logits of texts that were asked about before, by the hash of the text;
    about others the endpoint is asked again each time. Of how the model sees a text nothing else is
    known, so its vector is the square roots of its probabilities, which has length 1 and whose
    products are the overlap of two texts' probabilities (Bhattacharyya 1943).
    """

    kind = "asked-hosted"

    def __init__(
        self,
        labels: Sequence[str],
        question: Question,
        way: Way,
        answers: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.labels, self.question, self.way = tuple(labels), question, way
        self.model: Hosted = hosted(way.address, way.key_from)
        self.answers = dict(answers or {})

    def prepare(self, texts: Sequence[str]) -> list[Words]:
        """Each text as it is sent."""
        cut = [text[: self.question.max_characters] for text in texts]
        return [Words(text, hashes(text)) for text in cut]

    def logits(self, batch: Sequence[Words]) -> np.ndarray:
        """Logits float64 (texts, labels), kept or asked for now."""
        rows = [self.answers.get(key_of(item.text)) or self.ask(item.text) for item in batch]
        return np.array(rows, dtype=np.float64).reshape(len(batch), len(self.labels))

    def ask(self, text: str) -> list[float]:
        """The logits of one text, asked for now; LmwrightError if the endpoint fails."""
        messages = [{"role": "user", "content": self.question.about(text)}]
        return self.told(messages) if self.way.by == "logprobs" else self.drawn(messages)

    def keep(
        self, texts: Sequence[str], note: Callable[[str, list[float]], None], at_once: int = 1
    ) -> None:
        """Ask about those texts that have no answer yet, several ``at_once``.

        ``note`` is told of each answer when it comes, also of those that were under way when
        another failed; that fault is then raised.
        """
        wanted = {key_of(item.text): item.text for item in self.prepare(texts)}
        waiting = iter([key for key in wanted if key not in self.answers])
        fault: BaseException | None = None
        with ThreadPoolExecutor(at_once) as pool:
            asked: dict[Future[list[float]], str] = {}
            while True:
                if fault is None:
                    more = islice(waiting, at_once - len(asked))
                    asked |= {pool.submit(self.ask, wanted[key]): key for key in more}
                if not asked:
                    break
                for done in wait(asked, return_when=FIRST_COMPLETED).done:
                    key = asked.pop(done)
                    if failed := done.exception():
                        fault = fault or failed
                    else:
                        found = done.result()
                        self.answers[key] = found
                        note(key, found)
        if fault is not None:
            raise fault

    def told(self, messages: Sequence[Mapping[str, Any]]) -> list[float]:
        """Logits by what is told of the answer's tokens."""
        choice = self.model.answer(messages, Decoding(self.way.max_tokens), top=TOP)
        places = places_of(choice)
        if not places:
            raise BadInput(
                f"{self.way.address} tells no log-probabilities",
                "an endpoint that honours top_logprobs",
                "set by to samples",
            )
        sums = [-math.inf] * len(self.labels)
        least, before, said = min(places[0][1].values()), 0.0, ""
        for token, likely in places:
            for each, log in likely.items():
                hits = self.question.begun_by(said + each)
                if len(hits) == 1:
                    sums[hits[0]] = float(np.logaddexp(sums[hits[0]], before + log))
            said += token
            if len(self.question.begun_by(said)) < 2:
                break
            before += likely.get(token, -math.inf)
        return [max(log if log > -math.inf else least, LEAST) for log in sums]

    def drawn(self, messages: Sequence[Mapping[str, Any]]) -> list[float]:
        """Logits by the share of drawn answers that say each label."""
        votes = [0] * len(self.labels)
        for number in range(self.way.samples):
            how = Decoding(self.way.max_tokens, temperature=1.0)
            choice = self.model.answer(messages, how, self.way.seed + number)
            label = self.question.label_of(self.model.text(choice))
            if label is not None:
                votes[label] += 1
        spread = 1 / len(votes)
        return [math.log((count + spread) / (self.way.samples + 1)) for count in votes]

    def embed(self, batch: Sequence[Words]) -> np.ndarray:
        """The square roots of each text's probabilities: float32 (texts, labels), of length 1."""
        return roots(self.logits(batch))

    def look(self, batch: Sequence[Words]) -> tuple[np.ndarray, np.ndarray]:
        """Logits and vectors, for which the endpoint is asked once."""
        logits = self.logits(batch)
        return logits, roots(logits)

    def save(self, folder: Path) -> None:
        """Write ``model.json``, which names the key's variable, and the answers."""
        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "kind": self.kind,
            "labels": list(self.labels),
            "question": self.question.to_json(),
            "way": vars(self.way),
        }
        write_json(folder / "model.json", description)
        write_json(folder / "answers.json", dict(sorted(self.answers.items())))

    @classmethod
    def load(cls, folder: Path) -> AskedHosted:
        """Read what :meth:`save` wrote; every fault of the folder is named."""
        description, where = read_description(folder), str(folder / "model.json")
        labels = description["labels"]
        question = read_question(description.get("question"), labels, where)
        answers = read_json_object(folder / "answers.json")
        if not all(is_row(row, len(labels)) for row in answers.values()):
            raise Corrupt(
                f"{folder / 'answers.json'}: a row is none", f"{len(labels)} numbers each"
            )
        try:
            way = Way(**description["way"])
        except (KeyError, TypeError) as fault:
            raise Corrupt(f"{where}: no way to ask ({fault})", "what was written") from None
        return cls(labels, question, way, answers)


def places_of(choice: Mapping[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """For each token of an answer its text, and the told alternatives with it among them.

    Empty where nothing is told, or something else than the interface says.
    """
    found = []
    try:
        for place in choice["logprobs"]["content"]:
            told = {each["token"]: float(each["logprob"]) for each in place["top_logprobs"]}
            told.setdefault(place["token"], float(place["logprob"]))
            if not all(isinstance(t, str) and log <= 1e-3 for t, log in told.items()):
                return []
            found.append((place["token"], told))
    except (KeyError, TypeError, ValueError):
        return []
    return found


def key_of(text: str) -> str:
    """What an answer is kept under."""
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def hashes(text: str) -> np.ndarray:
    """A number for each word of a text, the same in every process."""
    words = text.casefold().split()
    return np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], dtype=np.int64)


def roots(logits: np.ndarray) -> np.ndarray:
    """The square roots of the softmax of logits (n, k), float32."""
    return np.sqrt(softmax(logits, axis=1)).astype(np.float32)
