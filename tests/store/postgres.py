"""A real PostgreSQL server on loopback, from the system's package, for as long as it is needed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def programs() -> Path | None:
    """The folder of the newest server's programs, or None where the package is absent."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    here = shutil.which("initdb")
    return Path(here).resolve().parent if here else None


@contextmanager
def server(place: Path) -> Iterator[str]:
    """Start a server with an empty data folder; yields its address without a database's name."""
    with tempfile.TemporaryDirectory(prefix="lmwright-pg-") as folder:
        user = []
        if os.getuid() == 0:  # it refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            user += ["--clear-groups"]
        data = f"{folder}/data"

        def call(*words: str) -> None:
            done = subprocess.run(
                [*user, *words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=120,
            )
            if done.returncode:
                log = Path(folder, "log")
                raise RuntimeError(f"{words[0]} failed; {log.read_text() if log.exists() else ''}")

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        call(f"{place}/initdb", "-D", data, "-A", "trust", "-U", "lmwright", "-E", "UTF8", "-N")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        call(f"{place}/pg_ctl", "-D", data, "-l", f"{folder}/log", "-w", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://lmwright@127.0.0.1:{port}"
        finally:
            call(f"{place}/pg_ctl", "-D", data, "-m", "immediate", "stop")
