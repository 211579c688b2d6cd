"""``lmwright serve`` for a model that writes: from a folder to an answer to a stop."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from lmwright.cli.main import main
from lmwright.cli.serve_language import name_of
from lmwright.models.loading import is_model_address
from tests.models.test_foreign import folder_of as foreign_folder
from tests.serve.talking import write_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny-1.5b")


@pytest.fixture
def start(folder: Path) -> Iterator[Any]:
    processes: list[subprocess.Popen[str]] = []

    def begin(*more: str, at: Path = folder) -> tuple[subprocess.Popen[str], str]:
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        process = subprocess.Popen(
            [sys.executable, "-m", "lmwright.cli.main", "serve", str(at), "--port", "0", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"serving {at.name} on http://127.0.0.1:"), process.communicate()
        return process, line.split()[-1] + "/v1"

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_a_stop_finishes_the_answer_under_way_and_takes_no_other(start: Any) -> None:
    process, url = start()
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny-1.5b", "messages": [{"role": "user", "content": "hello"}]}
        stream = client.chat.completions.create(**asked, n=16, max_tokens=100, stream=True)
        parts = [next(stream)]
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIStatusError) as caught:
            for _ in range(100):  # until the signal has arrived
                client.chat.completions.create(**asked, max_tokens=1)
        assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"]
        parts += list(stream)
    ended = {part.choices[0].index for part in parts if part.choices[0].finish_reason}
    assert ended == set(range(16))
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert all(line.startswith("computing in ") for line in err.splitlines()), err


def test_a_family_that_is_not_ours_answers_and_says_through_what(
    start: Any, tmp_path: Path
) -> None:
    process, url = start(at=foreign_folder("gpt_neox", tmp_path / "neox"))
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        made = client.completions.create(model="neox", prompt="w3", max_tokens=4, temperature=0)
    assert len(made.choices[0].text.split()) == 4
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert err == "gpt_neox is not of lmwright's core; it runs through transformers\n"
    assert process.returncode == 0


def test_a_key_is_asked_for_on_every_route(start: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"me use {hashlib.sha256(b'secret').hexdigest()}\n")
    process, url = start("--keys", str(keys))
    for key, right in (("secret", True), ("secre", False)):
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            if right:
                client.completions.create(model="tiny-1.5b", prompt="x", max_tokens=1)
                continue
            for ask in (
                lambda client=client: client.completions.create(model="tiny-1.5b", prompt="x"),
                lambda client=client: client.models.list(),
            ):
                with pytest.raises(openai.AuthenticationError):
                    ask()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("reviews@production", False),
        ("0123abcd", False),
        ("../reviews@x", False),
        ("models/tiny", True),
        ("tiny.GGUF", True),
        ("asset:smollm2/x.gguf", True),
        (".", True),
    ],
)
def test_addresses_are_told_apart(address: str, is_one: bool) -> None:
    assert is_model_address(address) == is_one


def test_a_name_tells_nobody_where_the_model_is(folder: Path) -> None:
    assert name_of("/home/me/tiny.Q8_0.gguf") == "tiny.Q8_0"
    assert name_of("asset:smollm2/model/x-1.5b/") == "x-1.5b"
    assert name_of(f"{folder}/../{folder.name}/.") == folder.name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models/none"], "no config.json"),
        (["none.gguf"], "none.gguf"),
        (["asset:none/x"], "no asset is called"),
        (["models/none", "--host", "0.0.0.0"], "there are no keys"),
        (["models/none", "--recipe", "serve.yaml"], "0.0.0.0' and there are no keys"),
        (["models/none", "--recipe", "wrong.yaml"], "unknown key 'srve'"),
    ],
)
def test_what_cannot_be_served_is_said_in_words(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("serve.yaml").write_text("serve: {host: 0.0.0.0}\n")
    Path("wrong.yaml").write_text("srve: {}\n")
    assert main(["serve", *words, "--port", "0"]) == 1
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told and "fault of lmwright" not in told
