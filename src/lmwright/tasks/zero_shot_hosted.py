"""A zero-shot classifier by a hosted language model, with a cache of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
from scipy.special import softmax

from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.hashing import hash_bytes
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, LabelTask, Task, task_to_json
from lmwright.hosted.chat import HostedModel, open_hosted
from lmwright.old_format import description_of
from lmwright.text.few_shot import word_hashes
from lmwright.text.generation import SamplingParams
from lmwright.text.label_prompt import LabelPrompt, is_logit_row, read_label_prompt

By = Literal["logprobs", "samples"]
TOP_LOGPROBS = 20
"""The most alternatives to a token in the interface."""
MIN_LOGIT = -100.0
"""The lowest logit: endpoints write minus infinity in several ways."""


@dataclass(frozen=True)
class Query:
    """Settings of the requests to a hosted model: ``address``, ``key_from`` as in ``open_hosted``.

    ``by`` says where the probabilities come from (:class:`ZeroShotHosted`); ``samples`` answers
    are drawn, from ``seed`` on; an answer has at most ``max_tokens``.
    """

    address: str
    key_from: str
    by: By
    samples: int
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class HashedText:
    """A text as it is sent, and the hashes of its words, for the drift of the vocabulary."""

    text: str
    ids: np.ndarray

    @property
    def cost(self) -> int:
        """The number of words, at least 1."""
        return max(1, len(self.ids))


class ZeroShotHosted:
    """A language model behind an endpoint as a zero-shot classifier.

    By ``logprobs`` the logits come from the endpoint's ``top_logprobs`` of the answer's tokens: a
    label's is the log-probability of all alternatives that begin its name and no other, followed
    along the answer until one name is left. A label that is not among them gets the least of the
    alternatives' log-probabilities, which is an upper bound of its own.

    By ``samples`` they are no probabilities of the model's own, but shares of a few answers drawn
    at temperature 1, with one more answer spread evenly over the labels: frequencies in steps of
    one in ``samples``. An answer that names no label or several counts for none.

    ``cache`` holds the logits of texts by their hash; for others a request is sent each time.
    Nothing else is known of the model's view of a text, so its vector is the square roots of its
    probabilities, which has length 1 and whose products are the overlap of two texts'
    probabilities (Bhattacharyya 1943).
    """

    kind: ClassVar[str] = "zero-shot-hosted"

    def __init__(
        self,
        task: LabelTask,
        prompt: LabelPrompt,
        query: Query,
        cache: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.task: Task = task
        self.labels, self.prompt, self.query = task.labels, prompt, query
        self.model: HostedModel = open_hosted(query.address, query.key_from)
        self.cache = dict(cache or {})

    def prepare(self, rows: Sequence[Row]) -> list[HashedText]:
        """Each text as it is sent."""
        cut = [self.task.text(row)[: self.prompt.max_characters] for row in rows]
        return [HashedText(text, word_hashes(text)) for text in cut]

    def answers(self, batch: Sequence[HashedText]) -> Answers:
        """Logits and vectors by one request a text."""
        logits = self.logits(batch)
        return Answers({"logits": logits}, sqrt_probabilities(logits))

    def logits(self, batch: Sequence[HashedText]) -> np.ndarray:
        """Logits float64 (texts, labels), cached or requested now."""
        rows = [self.cache.get(text_key(item.text)) or self.request(item.text) for item in batch]
        return np.array(rows, dtype=np.float64).reshape(len(batch), len(self.labels))

    def request(self, text: str) -> list[float]:
        """The logits of one text, requested now; LmwrightError if the endpoint fails."""
        messages = [{"role": "user", "content": self.prompt.render(text)}]
        by_logprobs = self.query.by == "logprobs"
        return self.by_logprobs(messages) if by_logprobs else self.by_samples(messages)

    def fill_cache(
        self, rows: Sequence[Row], note: Callable[[str, list[float]], None], at_once: int = 1
    ) -> None:
        """Request the answers for rows whose texts are not cached, several ``at_once``.

        ``note`` is called with each answer when it comes, also with those that were under way when
        another failed; that fault is then raised.
        """
        wanted = {text_key(item.text): item.text for item in self.prepare(rows)}
        waiting = iter([key for key in wanted if key not in self.cache])
        fault: BaseException | None = None
        with ThreadPoolExecutor(at_once) as pool:
            pending: dict[Future[list[float]], str] = {}
            while True:
                if fault is None:
                    more = islice(waiting, at_once - len(pending))
                    pending |= {pool.submit(self.request, wanted[key]): key for key in more}
                if not pending:
                    break
                for done in wait(pending, return_when=FIRST_COMPLETED).done:
                    key = pending.pop(done)
                    if failed := done.exception():
                        fault = fault or failed
                    else:
                        found = done.result()
                        self.cache[key] = found
                        note(key, found)
        if fault is not None:
            raise fault

    def by_logprobs(self, messages: Sequence[Mapping[str, Any]]) -> list[float]:
        """Logits from the endpoint's log-probabilities of the answer's tokens."""
        params = SamplingParams(self.query.max_tokens)
        choice = self.model.answer(messages, params, top_logprobs=TOP_LOGPROBS)
        tokens = token_alternatives(choice)
        if not tokens:
            raise BadInput(
                f"{self.query.address} tells no log-probabilities",
                "an endpoint that honours top_logprobs",
                "set by to samples",
            )
        sums = [-math.inf] * len(self.labels)
        least, before, said = min(tokens[0][1].values()), 0.0, ""
        for token, alternatives in tokens:
            for each, log in alternatives.items():
                hits = self.prompt.matching_labels(said + each)
                if len(hits) == 1:
                    sums[hits[0]] = float(np.logaddexp(sums[hits[0]], before + log))
            said += token
            if len(self.prompt.matching_labels(said)) < 2:
                break
            before += alternatives.get(token, -math.inf)
        return [max(log if log > -math.inf else least, MIN_LOGIT) for log in sums]

    def by_samples(self, messages: Sequence[Mapping[str, Any]]) -> list[float]:
        """Logits from the share of drawn answers that name each label."""
        votes = [0] * len(self.labels)
        for number in range(self.query.samples):
            params = SamplingParams(self.query.max_tokens, temperature=1.0)
            choice = self.model.answer(messages, params, self.query.seed + number)
            label = self.prompt.parse(self.model.text(choice))
            if label is not None:
                votes[label] += 1
        spread = 1 / len(votes)
        return [math.log((count + spread) / (self.query.samples + 1)) for count in votes]

    def save(self, folder: Path) -> None:
        """Write ``model.json``, which names the key's variable, and the answers."""
        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "kind": self.kind,
            "task": task_to_json(self.task),
            "prompt": self.prompt.to_json(),
            "query": vars(self.query),
        }
        write_json(folder / DESCRIPTION, description)
        write_json(folder / "answers.json", dict(sorted(self.cache.items())))

    @classmethod
    def load(cls, folder: Path, task: Task) -> ZeroShotHosted:
        """Read a folder that :meth:`save` wrote; every fault of the folder is named."""
        description = description_of(read_json_object(folder / DESCRIPTION))
        where, labelled = str(folder / DESCRIPTION), cast(LabelTask, task)
        labels = labelled.labels
        prompt = read_label_prompt(description.get("prompt"), labels, where)
        cache = read_json_object(folder / "answers.json")
        if not all(is_logit_row(row, len(labels)) for row in cache.values()):
            raise Corrupt(
                f"{folder / 'answers.json'}: a row is none", f"{len(labels)} numbers each"
            )
        try:
            query = Query(**description["query"])
        except (KeyError, TypeError) as fault:
            raise Corrupt(
                f"{where}: no query settings ({fault})", "settings as they were written"
            ) from None
        return cls(labelled, prompt, query, cache)


def token_alternatives(choice: Mapping[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """Each token of an answer, and the log-probabilities of its alternatives, itself included.

    Empty where the endpoint gives none, or in another shape than the interface's.
    """
    found = []
    try:
        for place in choice["logprobs"]["content"]:
            alternatives = {each["token"]: float(each["logprob"]) for each in place["top_logprobs"]}
            alternatives.setdefault(place["token"], float(place["logprob"]))
            if not all(isinstance(t, str) and log <= 1e-3 for t, log in alternatives.items()):
                return []
            found.append((place["token"], alternatives))
    except (KeyError, TypeError, ValueError):
        return []
    return found


def text_key(text: str) -> str:
    """The cache key of a text."""
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def sqrt_probabilities(logits: np.ndarray) -> np.ndarray:
    """The square roots of the softmax of logits (n, k), float32."""
    return np.sqrt(softmax(logits, axis=1)).astype(np.float32)
