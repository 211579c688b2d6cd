"""Versions of several kinds, and a server for some of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmwright.metrics.calibration import Calibration
from lmwright.models.files.folder import read_folder
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextPredictor, from_published
from lmwright.serve import routes
from lmwright.serve.engine import Engine
from lmwright.serve.rows import Loaded, RowScheduler
from lmwright.serve.service import Service, Services
from lmwright.serve.settings import Serve
from lmwright.tasks.sentence_similarity import SentenceSimilarity
from lmwright.tasks.sentence_similarity_model import BiEncoder
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.text_ranking import TextRanking
from lmwright.tasks.text_ranking_model import CrossEncoder
from tests.serve.live import Live

LONGEST = 24


def similarity(folder: Path, version: str = "s1", seed: int = 1, **task: Any) -> Loaded:
    """A bi-encoder on a published encoder."""
    kind = SentenceSimilarity(**task)
    model = from_published(read_folder(folder), BiEncoder(kind).head(0.0), LONGEST, seed)
    return Loaded(version, TextPredictor(kind, model), Calibration())


def ranking(folder: Path, version: str = "r1") -> Loaded:
    """A cross-encoder on a published encoder."""
    kind = TextRanking(max_query=8)
    model = from_published(read_folder(folder), CrossEncoder(kind).head(0.0), LONGEST, 1)
    return Loaded(version, TextPredictor(kind, model), Calibration())


def talker(folder: Path, version: str = "w1") -> Loaded:
    """A published chat model as a version of text-generation."""
    model = from_published(read_published(str(folder)), "lm", 64, seed=0)
    return Loaded(version, TextPredictor(TextGeneration(max_new_tokens=4), model), Calibration())


class Several(Live):
    """A server for versions by their aliases."""

    def __init__(self, versions: Mapping[str, Loaded], **settings: Any) -> None:
        self.settings, self.engine = Serve(**{"port": 0, **settings}), Engine()
        limits = self.settings.batch_tokens, self.settings.queue_tokens
        self.services = Services(
            [
                Service(alias, RowScheduler(self.engine, each, *limits), self.settings)
                for alias, each in versions.items()
            ]
        )
        self.service = self.services.members[0]
        self.rows = self.service.rows
        self.begin([routes.routes(self.services)])

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        status, _, found = self.ask("POST", path, body, timeout=30)
        return status, found

    def given(self, path: str, **body: Any) -> Any:
        status, found = self.post(path, **body)
        assert status == 200, found
        return found
