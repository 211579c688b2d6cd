"""An engine on the weights of a training, which answers between its steps.

The arrays that learn are those that answer: nothing is copied, so an answer's version is the step
after which it was written. How far the engine's log-probabilities are from those of the training's
own pass is measured; it is 0 where passes do not depend on pieces and company (int8, int4).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lmwright.core.errors import LmwrightError
from lmwright.models.contrastive_search import logits_of
from lmwright.models.core.bounded import MOST_STATES
from lmwright.models.core.ragged import pack
from lmwright.models.text_model import TextModel
from lmwright.serve.engine import Engine, Failed
from lmwright.serve.generation import Chunk, GeneratedToken, GenerationRequest
from lmwright.serve.texts import TextScheduler
from lmwright.text.generation import SamplingParams

ROWS = MOST_STATES
"""States whose logits are computed together: as many as are told as exactly as those of a step."""


@dataclass(frozen=True)
class Sample:
    """An answer and the ``version`` of the weights that wrote it.

    ``ids`` are its tokens with the one that ended it, if one did (``ended``); ``logprobs`` the
    model's own log-probabilities of them, ``drawn_logprobs`` those in the distribution that they
    were drawn from (len(ids),).
    """

    text: str
    ids: np.ndarray
    logprobs: np.ndarray
    drawn_logprobs: np.ndarray
    ended: bool
    version: int


@dataclass
class Heard:
    """The parts of an answer so far."""

    texts: list[str] = field(default_factory=list)
    tokens: list[GeneratedToken] = field(default_factory=list)
    ended: bool = False


class Attached:
    """Answers prompts by the engine with the weights that a model has at that moment.

    The caller holds the training still meanwhile. ``cache_tokens`` bounds the KV cache. To be
    closed, as it has a thread.
    """

    def __init__(self, model: TextModel, cache_tokens: int = 32_768) -> None:
        self.model, self.engine = model, Engine()
        self.texts = TextScheduler(self.engine, 1 << 30, cache_tokens)

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def answers(
        self,
        prompts: Sequence[np.ndarray],
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        version: int,
    ) -> list[Sample]:
        """An answer to each prompt, by the weights that are called ``version``.

        LmwrightError where the model fails on one.
        """
        self.texts.memories.clear()  # keys and values of other weights
        heard, done = [Heard() for _ in prompts], threading.Event()
        faults: list[Failed] = []

        def emit(number: int, chunk: Chunk | Failed | None) -> None:
            if not isinstance(chunk, Chunk):
                faults.extend([chunk] if chunk else [])
                done.set()
                return
            own = heard[number]
            own.texts.append(chunk.text)
            own.tokens += [*chunk.tokens, *([chunk.ending] if chunk.ending else [])]
            own.ended = chunk.finish_reason == "stop"

        if not prompts:
            return []
        job = self.texts.reserve("training", emit, self.model)
        asked = zip(prompts, params, seeds, strict=True)
        self.texts.submit(job, [GenerationRequest(*each, top_logprobs=0) for each in asked])
        done.wait()
        if faults:
            raise LmwrightError(str(faults[0]), "finite logits")
        return [sample_of(each, version) for each in heard]


def sample_of(heard: Heard, version: int) -> Sample:
    """An answer that is whole."""
    tokens = heard.tokens
    return Sample(
        "".join(heard.texts),
        np.array([each.chosen.id for each in tokens], dtype=np.int64),
        np.array([each.chosen.logprob for each in tokens], dtype=np.float64),
        np.array([each.drawn_logprob for each in tokens], dtype=np.float64),
        heard.ended,
        version,
    )


@torch.no_grad()
def training_logprobs(model: TextModel, prompt: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The model's log-probabilities (len(ids),) of an answer's tokens by one pass over the whole of
    it, as a training reads it. For decoders alone."""
    whole = np.concatenate([prompt, ids]).astype(np.int64)
    states_nd = model.network.hidden(pack([whole[:-1]]))[len(prompt) - 1 :]
    targets_n = torch.from_numpy(ids).to(states_nd.device)
    found = []
    for part_nd, own_n in zip(states_nd.split(ROWS), targets_n.split(ROWS), strict=True):
        logits_nv = logits_of(model.network, part_nd)
        logprobs_nv = torch.log_softmax(logits_nv.double(), dim=-1)
        found.append(logprobs_nv.gather(1, own_n.cpu()[:, None])[:, 0])
    return np.asarray(torch.cat(found).numpy())


def distances(
    model: TextModel, prompts: Sequence[np.ndarray], samples: Sequence[Sample]
) -> np.ndarray:
    """Absolute differences of the engine's and the training's log-probabilities of all tokens."""
    apart = [
        np.abs(training_logprobs(model, prompt, each.ids) - each.logprobs)
        for prompt, each in zip(prompts, samples, strict=True)
        if len(each.ids)
    ]
    return np.concatenate(apart) if apart else np.zeros(0)
