"""``lmwright serve``: the application put together, and its process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast

import typer
import uvicorn

from lmwright.cli.open import STORE, StoreOption, open_recipe, open_store
from lmwright.core.errors import BadInput
from lmwright.core.recipe import Recipe, make_recipe
from lmwright.loop import routes as loop_routes
from lmwright.loop.circle import Circle
from lmwright.loop.traffic import Traffic, traffic_folder
from lmwright.loop.watch import Watch
from lmwright.serve import routes as serve_routes
from lmwright.serve.connection import HEAD_BYTES, Connection
from lmwright.serve.engine import Engine
from lmwright.serve.load import load_version
from lmwright.serve.log import json_log
from lmwright.serve.routes import Service, make_app
from lmwright.serve.settings import Serve
from lmwright.store.run import runs_with
from lmwright.store.store import Store
from lmwright.store.versions import history
from lmwright.tables import SECTIONS, resolve

log = logging.getLogger("lmwright.serve")

STEP_SECONDS = 5.0
"""How long a last step may take when the server ends."""
WRITE_SECONDS = 5
"""How long clients may take to read their last answers."""


def serve(
    alias: Annotated[str, typer.Argument(help="NAME@ALIAS, as in reviews@production.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Take serve, watch and retrain from this recipe.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Instead of the recipe's serve.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of the recipe's serve.port.")] = None,
    store: StoreOption = STORE,
) -> None:
    """Answer over HTTP from what an alias names, follow it when it moves, and watch."""
    opened = open_store(store)
    known = open_recipe(recipe, []) if recipe else recipe_in_service(opened, alias)
    settings: Serve = known.sections.get("serve") or Serve()
    changed = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    settings = Serve(**{**vars(settings), **changed})
    settings.check()
    listener = bind(settings)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            code = runner.run(run(alias, known, opened, settings, listener))
    finally:
        listener.close()
    if code:
        raise typer.Exit(code)


def recipe_in_service(store: Store, alias: str) -> Recipe:
    """The recipe that made what an alias names; of a retrained version, that it came from.

    A run that failed, or whose version is not in service, says nothing about what is. Of several
    runs that gave the same version the newest counts: its sections may have changed since.
    """
    name = alias.partition("@")[0]
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
        return make_recipe(head["raw"], f"run {run}", resolve, SECTIONS)
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
    loaded = load_version(store, alias)
    with ExitStack() as ends:
        ends.enter_context(json_log())
        engine = Engine(loaded, settings.batch_tokens, settings.queue_tokens)
        ends.callback(engine.close, STEP_SECONDS)
        service = Service(alias, engine, settings)
        traffic = open_traffic(store, alias, recipe)
        ends.callback(traffic.close)
        service.observers.append(traffic.observe)
        circle = Circle(recipe, store, service, traffic)
        routers = [serve_routes.routes(service), loop_routes.routes(service, traffic, circle)]
        server = Drained(make_app(service, routers), settings, engine)
        server.faults = lambda: (circle.fault, traffic.fault)
        begin_listening(alias, listener, settings)
        circle.begin()
        ends.callback(circle.close)
        await server.serve(sockets=[listener])
        if server.forced:
            leave(circle, server.forced)
    if server.dead:
        return 3
    return 0 if server.drained else 1


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


def begin_listening(alias: str, listener: socket.socket, settings: Serve) -> None:
    """Listen, and only then print the address, so that whoever reads it is not turned away."""
    try:
        listener.listen(1024)
    except OSError as error:
        raise taken(settings, error) from None
    with suppress(OSError):  # whoever started us may not read
        print(f"serving {alias} on {address(listener)}", flush=True)


def leave(circle: Circle, sig: int) -> None:
    """End now. What was stored is safe: every write is whole or not there."""
    if circle.process is not None and circle.process.poll() is None:
        circle.process.terminate()
    os._exit(128 + sig)


class Drained(uvicorn.Server):
    """A server that drains at the first SIGTERM or SIGINT and stops at once at the second."""

    def __init__(self, app: object, settings: Serve, engine: Engine) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # or any client could pretend to be another
                lifespan="off",
                http=Connection,
                ws="none",
                h11_max_incomplete_event_size=HEAD_BYTES,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=WRITE_SECONDS,
            )
        )
        self.engine, self.settings = engine, settings
        self.faults: Callable[[], Sequence[str]] = tuple
        self.told: Sequence[str] = ()
        self.stopping: float | None = None
        self.forced = 0
        self.dead = False
        self.drained = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: no new texts, finish the old ones. Second: now."""
        self.engine.draining = True
        if self.stopping is None:
            self.stopping = time.monotonic()
        else:
            self.forced = sig
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Stop when everything under way is answered, or will not be, or the engine has died."""
        if not self.engine.worker.is_alive():
            self.dead = True
            return True
        if self.stopping is not None and not self.should_exit:
            self.drained = self.engine.queued == 0
            late = time.monotonic() - self.stopping > self.settings.drain_seconds
            self.should_exit = self.drained or late
        if counter % 10 == 0:
            self.look_round(time.monotonic())
        return bool(await super().on_tick(counter))

    def look_round(self, now: float) -> None:
        """End connections that wait for ever, and log the loop's faults when they change."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.sweep(now)
        faults = self.faults()
        if faults != self.told:
            self.told = faults
            for fault in filter(None, faults):
                log.error("the loop has a fault: %s", fault)


def bind(settings: Serve) -> socket.socket:
    """A socket on the server's address, not listening yet; BadInput when it is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except (OSError, UnicodeError) as error:
        bound.close()
        raise taken(settings, error) from None
    return bound


def taken(settings: Serve, error: Exception) -> BadInput:
    """What to say when an address cannot be had."""
    return BadInput(
        f"{settings.host}:{settings.port} cannot be listened on: "
        f"{getattr(error, 'strerror', None) or error}",
        "a free port of this machine",
        "choose another with --port (0 takes any free one)",
    )


def address(listener: socket.socket) -> str:
    """Where to reach a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, the standard one otherwise."""
    if find_spec("uvloop") is None:
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", import_module("uvloop").new_event_loop)
