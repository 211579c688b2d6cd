"""``lmwright serve`` for published encoders: vectors of texts and rankings over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from lmwright.cli.serve_language import TOKEN_SECONDS, names_of, until_stopped
from lmwright.cli.write import say
from lmwright.core.errors import BadInput
from lmwright.metrics.calibration import Calibration
from lmwright.models.answering import place_to_answer
from lmwright.models.core.spec import Head
from lmwright.models.files.hub import is_hub
from lmwright.models.files.published import content_of, describe, is_gguf, located, read_published
from lmwright.models.files.sentence import tokens_read
from lmwright.models.loading import runs_elsewhere
from lmwright.models.text_model import LONGEST, TextPredictor, from_published
from lmwright.serve.engine import Engine
from lmwright.serve.log import json_log
from lmwright.serve.routes import routes
from lmwright.serve.rows import Loaded, RowScheduler
from lmwright.serve.service import Service, Services
from lmwright.serve.settings import Serve
from lmwright.tasks.sentence_similarity import SentenceSimilarity


def is_encoder(address: str) -> bool:
    """Whether the model at an address reads texts and writes none."""
    return not runs_elsewhere(address) and not describe(address).spec.stacks[-1].is_causal


def published_encoder(address: str) -> TextPredictor:
    """The encoder at an address, whose vectors are means over a text's tokens, at length 1.

    Texts are read as they are. BadInput where its files want other vectors, and for one of the
    hub's, as the files that say so are not fetched.
    """
    if is_hub(address):
        raise BadInput(
            f"the encoder {address}",
            "an encoder in a folder, where modules.json says how its vectors are made",
            "fetch the whole model, and serve its folder",
        )
    path = located(address)
    said = None if is_gguf(path) else tokens_read(path)
    published = read_published(address)
    most = min(said or LONGEST, published.spec.longest or LONGEST, LONGEST)
    model = from_published(published, Head(pool="mean", outputs=0, unit=True), most, 0)
    return TextPredictor(SentenceSimilarity(clean=()), model)


def all_encoders(addresses: Sequence[str]) -> bool:
    """Whether the models at these addresses are encoders; BadInput for both kinds at once."""
    kinds = [is_encoder(address) for address in addresses]
    if any(kinds) and not all(kinds):
        raise BadInput(
            f"{addresses[kinds.index(True)]}, an encoder, beside language models",
            "encoders alone, or language models alone",
            "start a server of its own for it, on another --port",
        )
    return all(kinds)


async def serve_encoders(addresses: Sequence[str], settings: Serve, listener: socket.socket) -> int:
    """Serve until told to stop; the exit code, as that of an alias's server."""
    names = names_of(addresses)
    with ExitStack() as ends:
        versions = [load_encoder(address, settings) for address in addresses]
        ends.enter_context(json_log())
        engine = Engine(settings.tokens_per_minute)
        ends.callback(engine.close, TOKEN_SECONDS)
        limits = settings.batch_tokens, settings.queue_tokens
        services = Services(
            [
                Service(name, RowScheduler(engine, loaded, *limits), settings)
                for name, loaded in zip(names, versions, strict=True)
            ]
        )
        return await until_stopped(services, routes(services), names, listener)


def load_encoder(address: str, settings: Serve) -> Loaded:
    """An encoder as a version, where the settings have it computed."""
    predictor = published_encoder(address)
    place_to_answer(predictor.model, settings.device, settings.precision, say, settings.kv)
    return Loaded(content_of(address)[:16], predictor, Calibration())
