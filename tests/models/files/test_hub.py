"""Names of the hub: from a cache laid out as the library's, and from a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lmwright.cli.serve_language import name_of
from lmwright.core.errors import BadInput, MissingPart
from lmwright.models.files.hub import hub_folder, name_and_revision
from lmwright.models.loading import is_model_address
from tests.cli.folders import folder_of

pytest.importorskip("huggingface_hub")

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROMPT = ["w3 w17 w9", "--max-tokens", "6"]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which reads the library's variables when it begins."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "lmwright.cli.main", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, **variables},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(folder_of("gpt2", tmp_path / "plain"))


@pytest.fixture
def cache(folder: Path, tmp_path: Path) -> Path:
    """A snapshot as the library keeps it: blobs by their hash, links to them, a named revision."""
    repository = tmp_path / "cache" / "models--someone--tiny"
    snapshot = repository / "snapshots" / COMMIT
    for each in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (repository / each).mkdir(parents=True)
    for path in folder.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path / "cache"


@pytest.mark.parametrize("address", ["hub:someone/tiny", f"hub:someone/tiny@{COMMIT}"])
def test_a_cached_model_writes_without_a_network(folder, cache, address):
    wanted = run("generate", str(folder), *PROMPT)
    found = run("generate", address, *PROMPT, HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1")
    assert found.returncode == wanted.returncode == 0, found.stderr
    assert found.stdout == wanted.stdout and len(found.stdout.split()) == 6


@pytest.mark.parametrize("address", ["hub:someone/other", "hub:someone/tiny@v2"])
def test_what_is_not_cached_is_said_in_one_line(cache, address):
    found = run("generate", address, *PROMPT, HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1")
    assert found.returncode == 1 and "Traceback" not in found.stderr
    *_, line = found.stderr.splitlines()
    assert line.startswith(f"lmwright: {address} cannot be had: ")
    assert "check name, revision, access and network" in line


@pytest.mark.parametrize(("address", "code"), [("hub:someone/tiny", 0), ("hub:someone/other", 1)])
def test_where_no_hub_answers_the_cache_is_used(cache, address, code):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        online = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
        found = run("generate", address, *PROMPT, **online)
    assert found.returncode == code and "Traceback" not in found.stderr
    assert (f"{address} cannot be had: " in found.stderr) == bool(code)


class Hub(BaseHTTPRequestHandler):
    """The three routes that the library asks: what a revision has, a file's hash, its bytes."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer()

    def answer(self, head: bool = False) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path.startswith("/api/models/someone/tiny"):
            names = [{"rfilename": each.name} for each in sorted(self.folder.iterdir())]
            said = {"id": "someone/tiny", "sha": COMMIT, "siblings": names}
            files = [
                {"type": "file", "path": each.name, "size": each.stat().st_size, "oid": "0" * 40}
                for each in sorted(self.folder.iterdir())
            ]
            self.give(json.dumps(files if "/tree/" in path else said).encode(), head)
            return
        here = self.folder / path.rpartition("/")[2]
        if path.startswith(f"/someone/tiny/resolve/{COMMIT}/") and here.is_file():
            self.give(here.read_bytes(), head)
            return
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def give(self, data: bytes, head: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not head:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A hub's address and the paths that it was asked for."""
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit('run')")
    (folder / "consolidated.safetensors").write_bytes(b"others' names")
    asked: list[str] = []
    handler = type("Here", (Hub,), {"folder": folder, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_model_is_fetched_once_and_only_what_is_read_of_it(folder, hub, tmp_path):
    endpoint, asked = hub
    variables = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path / "fetched")}
    online = {**variables, "HF_HUB_OFFLINE": "0"}
    described = run("inspect", "hub:someone/tiny", **online)
    assert described.returncode == 0, described.stderr
    assert "parameters" in described.stdout
    snapshot = tmp_path / "fetched" / "models--someone--tiny" / "snapshots" / COMMIT
    names = {"config.json", "tokenizer.json"}
    assert {path.name for path in snapshot.iterdir()} == names
    found = run("generate", "hub:someone/tiny", *PROMPT, **online)
    assert found.returncode == 0, found.stderr
    assert {path.name for path in snapshot.iterdir()} == names | {"model.safetensors"}
    resolved = {path.rpartition("/")[2] for path in asked if "/resolve/" in path}
    assert resolved == names | {"model.safetensors"}
    (folder / "pytorch_model.bin").unlink()
    assert found.stdout == run("generate", str(folder), *PROMPT).stdout
    before = len(asked)
    again = run("generate", "hub:someone/tiny", *PROMPT, **variables, HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stdout) == (0, found.stdout)
    assert len(asked) == before


def test_a_name_that_the_hub_does_not_have_is_said_in_one_line(hub, tmp_path):
    endpoint, _ = hub
    variables = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(tmp_path / "fetched")}
    found = run("inspect", "hub:someone/else", **variables, HF_HUB_OFFLINE="0")
    assert found.returncode == 1 and "Traceback" not in found.stderr
    *_, line = found.stderr.splitlines()
    assert line.startswith("lmwright: hub:someone/else cannot be had: ")


@pytest.mark.parametrize(
    "address",
    [
        "hub:",
        "hub:tiny",
        "hub:a/b/c",
        "hub:a/b@",
        "hub:../b",
        "hub:a/b@../c",
        "hub:a/b c",
        "hub:/b",
    ],
)
def test_what_is_no_name_is_refused(address):
    with pytest.raises(BadInput, match="hub:OWNER/NAME"):
        hub_folder(address)


def test_a_missing_library_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPart, match=r"-e '\.\[hub\]'"):
        hub_folder("hub:a/b")


def test_a_name_is_served_by_its_last_part():
    assert is_model_address("hub:a/b@main")
    assert name_of("hub:someone/tiny-1.5b@main") == "tiny-1.5b"
    assert name_and_revision("hub:a/b@refs/pr/3") == ("a/b", "refs/pr/3")
