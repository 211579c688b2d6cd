"""What verbs share: their options, and how they end when somebody stops them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from lmwright.store.open import FOLDER

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="LMWRIGHT_STORE", help="The store's folder.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", help="STAGE.FIELD=VALUE, laid over the recipe.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
STORE = FOLDER


@contextmanager
def stopped_in_words() -> Iterator[None]:
    """While a run works: SIGTERM and SIGINT end it as interrupted, with the shell's exit code."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except SystemExit:
        print("lmwright: interrupted; the same command goes on from here", file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
