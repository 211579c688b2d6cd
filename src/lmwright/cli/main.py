"""The command line: a verb from the table, or the table itself."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from lmwright import __version__
from lmwright.core.errors import LmwrightError, nearest
from lmwright.tables import VERBS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 1 a fault in words, 2 wrong usage.

    Help prints the table without importing what stands behind it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may have bytes that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    if words[:1] == ["help"] and len(words) > 1:
        words = [words[1], "--help"]
    if not words or words[0] in {"-h", "--help", "help"}:
        print(help_text())
        return 0
    if words[0] == "--version":
        print(f"lmwright {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        print(f"lmwright: no verb {verb!r}; {nearest(verb, VERBS)}", file=sys.stderr)
        return 2
    return call(verb, rest)


def help_text() -> str:
    """The verbs with a sentence each."""
    width = max(map(len, VERBS))
    rows = [f"  {verb:<{width}}  {sentence}" for verb, (_, sentence) in VERBS.items()]
    return "\n".join(
        [
            "lmwright makes language models and keeps them good.",
            "",
            "usage: lmwright VERB [ARGUMENTS]      lmwright help VERB",
            "",
            *rows,
            "",
            "The store is ./lmwright-store unless --store or LMWRIGHT_STORE names another.",
        ]
    )


def call(verb: str, rest: list[str]) -> int:
    """Import and run what stands behind a verb; a fault that a person can mend has no traceback."""
    from importlib import import_module

    import typer

    module, _, attribute = VERBS[verb][0].partition(":")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    try:
        set_environment()
        app.command(name=verb)(interruptible(getattr(import_module(module), attribute)))
        app(args=rest, prog_name=f"lmwright {verb}")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except LmwrightError as error:
        print(f"lmwright: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("LMWRIGHT_TRACEBACK"):
            raise
        print(
            f"lmwright: {type(error).__name__}: {error}; this is a fault of lmwright. "
            "Run again with LMWRIGHT_TRACEBACK=1 to see where; the run's journal has it too.",
            file=sys.stderr,
        )
        return 1
    return 0


def set_environment() -> None:
    """Set what torch's libraries read when they are loaded, as far as the user has not.

    BadInput for a class of CPU in ``LMWRIGHT_ISA`` that is none of this machine.
    """
    from lmwright.machine.probe import library_limits
    from lmwright.machine.quota import granted_threads, usable_cores

    # Threads that wait for the next small product must not burn a core that others need.
    found = {"GOMP_SPINCOUNT": "2000", **library_limits()}
    if (threads := granted_threads()) < usable_cores():
        found["OMP_NUM_THREADS"] = str(threads)
    for name, value in found.items():
        os.environ.setdefault(name, value)


def interruptible(work: Callable[..., None]) -> Callable[..., None]:
    """``work`` that says so when it is interrupted: Typer would end it without a word."""

    @wraps(work)
    def saying(*arguments: Any, **options: Any) -> None:
        try:
            work(*arguments, **options)
        except KeyboardInterrupt:
            raise SystemExit(interrupted()) from None

    return saying


def interrupted() -> int:
    """Say it; the exit code that shells give to Ctrl-C."""
    print("lmwright: interrupted", file=sys.stderr)
    return 130


if __name__ == "__main__":
    sys.exit(main())
