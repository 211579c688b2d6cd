"""``lmwright serve`` for a language model: chat completions and completions over HTTP."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

from lmwright.cli.write import say
from lmwright.models.answering import place_to_answer
from lmwright.models.files.hub import is_hub, name_and_revision
from lmwright.models.loading import load_text_model
from lmwright.serve.app import make_app
from lmwright.serve.completions import GenerationService, routes
from lmwright.serve.engine import Engine
from lmwright.serve.log import json_log
from lmwright.serve.server import DrainingServer, begin_listening
from lmwright.serve.settings import Serve

TOKEN_SECONDS = 5.0
"""The most seconds that a last token may take when the server ends."""


def name_of(address: str) -> str:
    """A model's name for clients: the last part of its address, which hides where it is."""
    if is_hub(address):
        return name_and_revision(address)[0].rpartition("/")[2]
    path = Path(address.removeprefix("asset:"))
    last = path.resolve().name if path.name in ("", "..") else path.name
    return last[: -len(".gguf")] if last.lower().endswith(".gguf") else last


async def serve_language(address: str, settings: Serve, listener: socket.socket) -> int:
    """Serve until told to stop; the exit code, as that of an alias's server."""
    model, name = load_text_model(address, say), name_of(address)
    place_to_answer(model, settings.device, settings.precision, say, settings.kv)
    with ExitStack() as ends:
        ends.enter_context(json_log())
        if model.template is not None:
            ends.callback(model.close)
        engine = Engine(settings.tokens_per_minute)
        ends.callback(engine.close, TOKEN_SECONDS)
        service = GenerationService(name, engine, settings, model)
        server = DrainingServer(make_app(service, [routes(service)]), settings, engine)
        begin_listening(name, listener, settings)
        await server.serve(sockets=[listener])
        if server.forced:
            os._exit(128 + server.forced)
    return server.exit_code
