"""``lmwright serve``: the application put together, and its process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from lmwright import old_format
from lmwright.cli.open import STORE, StoreOption
from lmwright.cli.retrain import start_training
from lmwright.cli.serve_language import serve_language
from lmwright.cli.write import say
from lmwright.core.errors import BadInput
from lmwright.core.recipe import Recipe, make_recipe, read_sections
from lmwright.core.settings import read_settings
from lmwright.loop import routes as loop_routes
from lmwright.loop.controller import Controller
from lmwright.loop.watch import Watch
from lmwright.models.core.device import emulation_in_words, resolve_placement
from lmwright.models.loading import is_model_address
from lmwright.plan.recipe import open_recipe
from lmwright.serve import routes as serve_routes
from lmwright.serve.app import make_app
from lmwright.serve.engine import Engine
from lmwright.serve.load import load_version
from lmwright.serve.log import json_log
from lmwright.serve.rows import RowScheduler
from lmwright.serve.server import DrainingServer, begin_listening, bind, loop_factory
from lmwright.serve.service import Service
from lmwright.serve.settings import Serve
from lmwright.serve.traffic import Traffic, traffic_folder
from lmwright.store.open import open_store
from lmwright.store.run import runs_with
from lmwright.store.store import Store
from lmwright.store.versions import history, resolve_version
from lmwright.tables import SECTIONS, resolve

STEP_SECONDS = 5.0
"""How long a last step may take when the server ends."""


def serve(
    address: Annotated[
        str,
        typer.Argument(
            help="NAME@ALIAS, as in reviews@production; or a language model: "
            "its folder, a .gguf file, asset:NAME/PATH, or hub:OWNER/NAME."
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Take serve, watch and retrain from this recipe; "
            "for a language model serve alone, from a file that may hold nothing else."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Instead of the recipe's serve.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of the recipe's serve.port.")] = None,
    keys: Annotated[str | None, typer.Option(help="Instead of the recipe's serve.keys.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda, instead of the recipe's serve.device.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="auto, fp32, bf16, int8 or int4, instead of the recipe's serve.precision."
        ),
    ] = None,
    kv: Annotated[
        str | None, typer.Option(help="fp32 or int8, instead of the recipe's serve.kv.")
    ] = None,
    store: StoreOption = STORE,
) -> None:
    """Answer over HTTP: from what an alias names, which is followed and watched, or from a model
    that writes."""
    given = {
        "host": host,
        "port": port,
        "keys": keys,
        "device": device,
        "precision": precision,
        "kv": kv,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    if is_model_address(address):
        sections = read_sections(recipe, resolve, SECTIONS) if recipe else {}
        settings = settings_of(sections, changed)
        code = listening(settings, lambda listener: serve_language(address, settings, listener))
    else:
        opened = open_store(store)
        resolve_version(opened, address)
        known = open_recipe(recipe, []) if recipe else recipe_in_service(opened, address)
        settings = settings_of(known.sections, changed)
        code = listening(settings, lambda listener: run(address, known, opened, settings, listener))
    if code:
        raise typer.Exit(code)


def settings_of(sections: Mapping[str, Any], changed: Mapping[str, Any]) -> Serve:
    """The section ``serve`` of a recipe, with what the command line says instead."""
    settings: Serve = sections.get("serve") or Serve()
    read: Serve = read_settings(Serve, {**vars(settings), **changed}, "serve")
    if words := emulation_in_words(resolve_placement(read.device, read.precision)):
        say(words)
    return read


def listening(settings: Serve, serving: Callable[[socket.socket], Coroutine[Any, Any, int]]) -> int:
    """The exit code of a server on its address, which is taken before anything is loaded."""
    listener = bind(settings)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serving(listener))
    finally:
        listener.close()


def recipe_in_service(store: Store, alias: str) -> Recipe:
    """The recipe that made what an alias names; of a retrained version, that it came from.

    A run that failed, or whose version is not in service, says nothing about what is. Of several
    runs that gave the same version the newest counts: its sections may have changed since.
    """
    name, at, _ = alias.partition("@")
    if not at:
        cure = "name the alias, or give the recipe with --recipe"
        raise BadInput(f"{alias!r} is a version, not an alias", "NAME@ALIAS", cure)
    for version in reversed(history(store, alias)):
        stamps = {result.stamp for result in store.makers(version.hash)}
        for run, head in runs_with(store, stamps):
            if head["recipe"] == name and not head["raw"].get("artifacts"):
                return recipe_of(run, head)
    raise BadInput(
        f"no run of {name!r} is in the store that made what {alias} names",
        "a recipe",
        "give one with --recipe",
    )


def recipe_of(run: str, head: Mapping[str, Any]) -> Recipe:
    """The recipe in a run's head."""
    try:
        return make_recipe(old_format.recipe_of(head["raw"]), f"run {run}", resolve, SECTIONS)
    except BadInput as error:
        raise BadInput(
            f"the recipe that this version was made by cannot be read: {error.found}",
            "a recipe",
            "give one with --recipe",
        ) from None


async def run(
    alias: str, recipe: Recipe, store: Store, settings: Serve, listener: socket.socket
) -> int:
    """Serve until told to stop; the exit code.

    0 after a stop that lost nothing, 1 when some were not answered in time, 3 when the engine
    died, 128 + the signal's number after a second signal.
    """
    loaded = load_version(store, alias, settings.device, settings.precision, settings.kv)
    with ExitStack() as ends:
        ends.enter_context(json_log())
        engine = Engine()
        rows = RowScheduler(engine, loaded, settings.batch_tokens, settings.queue_tokens)
        service = Service(alias, rows, settings)
        traffic = open_traffic(store, alias, recipe)
        ends.callback(traffic.close)
        service.observers.append(traffic.observe)
        controller = Controller(recipe, store, service, traffic, start_training)
        routers = [serve_routes.routes(service), loop_routes.routes(service, traffic, controller)]
        server = DrainingServer(make_app(service, routers), settings, engine)
        server.faults = lambda: (controller.fault, traffic.fault)
        for pool in service.pools:
            ends.callback(pool.shutdown)
        ends.callback(engine.close, STEP_SECONDS)
        begin_listening(alias, listener, settings)
        controller.begin()
        ends.callback(controller.close)
        await server.serve(sockets=[listener])
        if server.forced:
            leave(controller, server.forced)
    return server.exit_code


def open_traffic(store: Store, alias: str, recipe: Recipe) -> Traffic:
    """The traffic log of an alias, as the recipe's section ``watch`` wants it."""
    watch: Watch = recipe.sections.get("watch") or Watch()
    folder = traffic_folder(store, alias)
    try:
        return Traffic(folder, watch.keep_text, watch.retention_days, watch.gate_share)
    except OSError as error:
        raise BadInput(
            f"the traffic log {folder} cannot be written: {error.strerror}",
            "a store that this user may write, on a disk with room",
        ) from None


def leave(controller: Controller, sig: int) -> None:
    """End now. What was stored is safe: every write is whole or not there."""
    if controller.process is not None and controller.process.poll() is None:
        controller.process.terminate()
    os._exit(128 + sig)
