"""``lmwright serve``: the application put together, and its process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import uvicorn

from lmwright.cli.open import STORE, StoreOption, open_recipe, open_store
from lmwright.core.errors import BadInput
from lmwright.core.recipe import Recipe, make_recipe
from lmwright.loop import routes as loop_routes
from lmwright.loop.circle import Circle
from lmwright.loop.traffic import Traffic
from lmwright.loop.watch import Watch
from lmwright.serve import routes as serve_routes
from lmwright.serve.engine import Engine
from lmwright.serve.load import load_version
from lmwright.serve.routes import Service, make_app
from lmwright.serve.settings import Serve
from lmwright.store.run import read_run
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, resolve


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
    known = open_recipe(recipe, []) if recipe else last_recipe(opened, alias.partition("@")[0])
    settings: Serve = known.sections.get("serve") or Serve()
    changed = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    settings = Serve(**{**vars(settings), **changed})
    settings.check()
    code = asyncio.run(run(alias, known, opened, settings))
    if code:
        raise typer.Exit(code)


def last_recipe(store: Store, name: str) -> Recipe:
    """The recipe of the newest run of that name that was no retraining."""
    for run in reversed(store.runs()):
        head = read_run(store, run)
        if head["recipe"] == name and not head["raw"].get("artifacts"):
            return make_recipe(head["raw"], f"run {run}", resolve, SECTIONS)
    raise BadInput(f"no run of {name!r} is in the store", "a recipe", "give one with --recipe")


async def run(alias: str, recipe: Recipe, store: Store, settings: Serve) -> int:
    """Serve until told to stop; the exit code: 0 after a stop, 3 when the engine died."""
    engine = Engine(load_version(store, alias), settings.batch_tokens, settings.queue_tokens)
    service = Service(alias, engine, settings)
    watch: Watch = recipe.sections.get("watch") or Watch()
    traffic = Traffic(
        store.folder / "traffic" / recipe.name,
        watch.keep_text,
        watch.retention_days,
        watch.gate_share,
    )
    service.observers.append(traffic.observe)
    circle = Circle(recipe, store, service, traffic)
    routers = [serve_routes.routes(service), loop_routes.routes(service, traffic, circle)]
    server = Drained(make_app(service, routers), settings, engine)
    listener = listen(settings)
    print(f"serving {alias} on http://{settings.host}:{listener.getsockname()[1]}", flush=True)
    circle.begin()
    try:
        await server.serve(sockets=[listener])
    finally:
        circle.close()
        traffic.close()
        engine.close()
    return 3 if server.dead else 0


class Drained(uvicorn.Server):
    """A server that drains at the first SIGTERM or SIGINT and stops at once at the second."""

    def __init__(self, app: object, settings: Serve, engine: Engine) -> None:
        loop = "uvloop" if have("uvloop") else "asyncio"
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                log_level="warning",
                access_log=False,
                server_header=False,
                loop=loop,
                http="h11",
                h11_max_incomplete_event_size=65536,
                limit_concurrency=1000,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            )
        )
        self.engine, self.settings = engine, settings
        self.signals = 0
        self.dead = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: no new texts, finish the old ones. Second: now."""
        self.signals += 1
        self.engine.draining = True
        if self.signals > 1:
            self.force_exit = True
            self.should_exit = True
            with suppress(ProcessLookupError):
                os.kill(os.getpid(), signal.SIGKILL) if self.signals > 2 else None

    async def on_tick(self, counter: int) -> bool:
        """Stop when everything under way is answered, or when the engine has died."""
        if not self.engine.worker.is_alive():
            self.dead = True
            return True
        if self.signals and self.engine.queued == 0:
            self.should_exit = True
        return bool(await super().on_tick(counter))


def listen(settings: Serve) -> socket.socket:
    """A listening socket; BadInput when the address is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(1024)  # before the address is printed, so that nobody is turned away
    except OSError as error:
        raise BadInput(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}",
            "a free port of this machine",
            "choose another with --port (0 takes any free one)",
        ) from None
    return listener


def have(module: str) -> bool:
    """Whether an optional module is installed."""
    from importlib.util import find_spec

    return find_spec(module) is not None
