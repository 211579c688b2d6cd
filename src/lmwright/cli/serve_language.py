"""``lmwright serve`` for language models: chat completions and completions over HTTP."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from fastapi import APIRouter

from lmwright.cli.write import say
from lmwright.core.errors import BadInput
from lmwright.models.answering import place_to_answer
from lmwright.models.files.hub import is_hub, name_and_revision
from lmwright.models.loading import load_text_model
from lmwright.models.text_model import TextModel
from lmwright.serve.app import AppService, make_app
from lmwright.serve.engine import Engine
from lmwright.serve.language_routes import routes
from lmwright.serve.log import json_log
from lmwright.serve.published import GenerationServices
from lmwright.serve.server import DrainingServer, begin_listening
from lmwright.serve.settings import Serve
from lmwright.serve.shelf import Shelf

TOKEN_SECONDS = 5.0
"""The most seconds that a last token may take when the server ends."""


def name_of(address: str) -> str:
    """A model's name for clients: the last part of its address, which hides where it is."""
    if is_hub(address):
        return name_and_revision(address)[0].rpartition("/")[2]
    path = Path(address.removeprefix("asset:"))
    last = path.resolve().name if path.name in ("", "..") else path.name
    return last[: -len(".gguf")] if last.lower().endswith(".gguf") else last


def names_of(addresses: Sequence[str]) -> list[str]:
    """The names of models for clients; BadInput for two of one name."""
    names = [name_of(address) for address in addresses]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"two models are called {twice}", "models of different names", "rename one")
    return names


async def serve_language(addresses: Sequence[str], settings: Serve, listener: socket.socket) -> int:
    """Serve until told to stop; the exit code, as that of an alias's server.

    The first model is loaded now, others when they are asked for. BadInput for two of one name.
    """
    names = names_of(addresses)
    loads = {
        name: partial(load_placed, address, settings)
        for name, address in zip(names, addresses, strict=True)
    }
    shelf = Shelf(loads, settings.memory_mb * 1_000_000)
    shelf.take(names[0])
    shelf.give(names[0])
    with ExitStack() as ends:
        ends.enter_context(json_log())
        ends.callback(shelf.close)
        engine = Engine(settings.tokens_per_minute)
        ends.callback(engine.close, TOKEN_SECONDS)
        services = GenerationServices(names, engine, settings, shelf)
        return await until_stopped(services, routes(services), names, listener)


async def until_stopped(
    services: AppService, router: APIRouter, names: Sequence[str], listener: socket.socket
) -> int:
    """Serve published models by their routes until told to stop; the exit code."""
    server = DrainingServer(make_app(services, [router]), services.settings, services.engine)
    begin_listening(", ".join(names), listener, services.settings)
    await server.serve(sockets=[listener])
    if server.forced:
        os._exit(128 + server.forced)
    return server.exit_code


def load_placed(address: str, settings: Serve) -> TextModel:
    """A model, where the settings have it computed."""
    model: TextModel = load_text_model(address, say)
    place_to_answer(model, settings.device, settings.precision, say, settings.kv)
    return model
