"""``lmwright serve``: the application put together, and its process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from lmwright import old_format
from lmwright.cli.open import STORE, StoreOption
from lmwright.cli.retrain import start_training
from lmwright.cli.serve_encoder import all_encoders, serve_encoders
from lmwright.cli.serve_language import serve_language
from lmwright.cli.write import say
from lmwright.core.errors import BadInput
from lmwright.core.recipe import Recipe, make_recipe, read_sections
from lmwright.core.settings import read_settings
from lmwright.loop import routes as loop_routes
from lmwright.loop.controller import Controller
from lmwright.loop.routes import Loop
from lmwright.loop.watch import Watch
from lmwright.models.core.device import emulation_in_words, resolve_placement
from lmwright.models.loading import is_model_address
from lmwright.plan.recipe import open_recipe
from lmwright.serve import routes as serve_routes
from lmwright.serve.app import make_app
from lmwright.serve.engine import Engine
from lmwright.serve.load import load_version
from lmwright.serve.log import json_log
from lmwright.serve.rows import Loaded, RowScheduler
from lmwright.serve.server import DrainingServer, begin_listening, bind, loop_factory
from lmwright.serve.service import Service, Services
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
    addresses: Annotated[
        list[str],
        typer.Argument(
            help="NAME@ALIAS, as in reviews@production, or several; or a language model or an "
            "encoder: its folder, a .gguf file, asset:NAME/PATH, or hub:OWNER/NAME, or several "
            "of these."
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
    """Answer over HTTP: from what aliases name, which are followed and watched, or from a model
    that writes. Of several the first says how the server is set, and answers who names no model."""
    given = {
        "host": host,
        "port": port,
        "keys": keys,
        "device": device,
        "precision": precision,
        "kv": kv,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    refuse_odd(addresses, recipe)
    if is_model_address(addresses[0]):
        sections = read_sections(recipe, resolve, SECTIONS) if recipe else {}
        settings = settings_of(sections, changed)
        serving = serve_encoders if all_encoders(addresses) else serve_language
        code = listening(settings, lambda listener: serving(addresses, settings, listener))
    else:
        opened = open_store(store)
        for address in addresses:
            resolve_version(opened, address)
        recipes = {
            address: open_recipe(recipe, []) if recipe else recipe_in_service(opened, address)
            for address in addresses
        }
        settings = settings_of(recipes[addresses[0]].sections, changed)
        code = listening(settings, lambda listener: run(recipes, opened, settings, listener))
    if code:
        raise typer.Exit(code)


def refuse_odd(addresses: list[str], recipe: Path | None) -> None:
    """BadInput for several addresses that cannot be served together."""
    if len(addresses) == 1:
        return
    if twice := next((each for each in addresses if addresses.count(each) > 1), None):
        raise BadInput(f"{twice} stands twice", "different aliases", "name it once")
    published = [each for each in addresses if is_model_address(each)]
    if len(published) == len(addresses):
        return
    if published:
        raise BadInput(
            f"{published[0]}, a published model, beside aliases",
            "aliases alone, or published models alone",
            "start a server of its own for it, on another --port",
        )
    if recipe is not None:
        raise BadInput(
            "--recipe for several aliases",
            "each alias has the recipe that made it",
            "leave --recipe out, or serve one alias",
        )


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
    recipes: Mapping[str, Recipe], store: Store, settings: Serve, listener: socket.socket
) -> int:
    """Serve aliases, each by its recipe, until told to stop; the exit code.

    0 after a stop that lost nothing, 1 when some were not answered in time, 3 when the engine
    died, 128 + the signal's number after a second signal.
    """
    versions = load_versions(store, list(recipes), settings)
    with ExitStack() as ends:
        ends.enter_context(json_log())
        engine, loops = Engine(settings.tokens_per_minute), list[Loop]()
        for alias, loaded in versions.items():
            rows = RowScheduler(engine, loaded, settings.batch_tokens, settings.queue_tokens)
            service = Service(alias, rows, settings)
            traffic = open_traffic(store, alias, recipes[alias])
            ends.callback(traffic.close)
            service.observers.append(traffic.observe)
            controller = Controller(recipes[alias], store, service, traffic, start_training)
            loops.append(Loop(service, traffic, controller))
        services = Services([each.service for each in loops])
        routers = [serve_routes.routes(services), loop_routes.routes(services, loops)]
        server = DrainingServer(make_app(services, routers), settings, engine)
        server.faults = lambda: tuple(
            fault for each in loops for fault in (each.controller.fault, each.traffic.fault)
        )
        for service in services.members:
            for pool in service.pools:
                ends.callback(pool.shutdown)
        ends.callback(engine.close, STEP_SECONDS)
        begin_listening(", ".join(recipes), listener, settings)
        for each in loops:
            each.controller.begin()
            ends.callback(each.controller.close)
        await server.serve(sockets=[listener])
        if server.forced:
            leave([each.controller for each in loops], server.forced)
    return server.exit_code


def load_versions(store: Store, aliases: Sequence[str], settings: Serve) -> dict[str, Loaded]:
    """The versions that aliases name, loaded; equal weights are in memory once."""
    found: dict[str, Loaded] = {}
    for alias in aliases:
        beside = [each.predictor for each in found.values()]
        where = (settings.device, settings.precision, settings.kv)
        found[alias] = load_version(store, alias, *where, beside, say)
    return found


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


def leave(controllers: Sequence[Controller], sig: int) -> None:
    """End now. What was stored is safe: every write is whole or not there."""
    for controller in controllers:
        if controller.process is not None and controller.process.poll() is None:
            controller.process.terminate()
    os._exit(128 + sig)
