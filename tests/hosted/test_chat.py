"""A hosted model, asked of our own server, writes what the same model writes here."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.hosted.chat import HostedModel, open_hosted
from lmwright.hosted.endpoint import Rejected
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from lmwright.text.generation import SamplingParams
from tests.hosted.odd_endpoint import odd, response, streamed
from tests.serve.talking import Talk, talking, write_model

MESSAGES = [{"role": "user", "content": "hello"}]
GREEDY = SamplingParams(20)
DRAWN = SamplingParams(20, temperature=1.3, top_p=0.9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextModel]:
    folder: Path = write_model(tmp_path_factory.mktemp("models") / "tiny")
    model = language_model(read_published(str(folder)))
    yield model
    assert model.template is not None
    model.template.close()


@pytest.fixture(scope="module")
def talk(model: TextModel) -> Iterator[Talk]:
    with talking(model) as talk:
        yield talk


@pytest.fixture(scope="module")
def remote(talk: Talk) -> HostedModel:
    return open_hosted(f"hosted:tiny@http://127.0.0.1:{talk.port}/v1")


@pytest.mark.parametrize("how", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_text_is_that_of_the_same_model_here(
    model: TextModel, remote: HostedModel, how: SamplingParams, seed: int
) -> None:
    here = list(model.complete("The an", how, seed))
    assert len("".join(here)) > 5
    assert "".join(remote.complete("The an", how, seed)) == "".join(here)
    said = "".join(model.reply(MESSAGES, how, seed))
    assert "".join(remote.reply(MESSAGES, how, seed)) == said


def test_every_setting_that_is_sent_is_honoured(model: TextModel, remote: HostedModel) -> None:
    plain = "".join(model.complete("The an", GREEDY))
    most = model.tokenizer.encode([plain], 9)[0][0]
    for more in (
        {"logit_bias": ((int(most), -100.0),)},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
    ):
        how = SamplingParams(20, **more)
        here = "".join(model.complete("The an", how))
        assert "".join(remote.complete("The an", how)) == here
    assert "".join(remote.complete("The an", SamplingParams(2))) == "".join(
        model.complete("The an", SamplingParams(2))
    )
    texts = {"".join(remote.complete("The an", DRAWN, seed)) for seed in range(4)}
    assert len(texts) == 4


def test_what_comes_in_pieces_is_what_comes_whole(talk: Talk, remote: HostedModel) -> None:
    pieces = list(remote.reply(MESSAGES, GREEDY))
    whole = talk.chat("hello", max_tokens=20, temperature=0)["choices"][0]["message"]["content"]
    assert "".join(pieces) == whole and sum(map(bool, pieces)) > 3
    pieces = list(remote.complete("hello", GREEDY))
    assert (
        "".join(pieces)
        == talk.complete("hello", max_tokens=20, temperature=0)["choices"][0]["text"]
    )


def test_a_text_comes_while_the_rest_is_being_written() -> None:
    read = threading.Event()
    first = streamed({"choices": [{"delta": {"content": "a"}}]}, done=False)
    ended = {"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}]}

    def answer(client: socket.socket) -> None:
        client.sendall(first)
        if read.wait(10):
            client.sendall(f"data: {json.dumps(ended)}\n\n".encode())

    with odd(answer) as one:
        pieces = open_hosted(f"hosted:o@{one.url}").reply(MESSAGES, GREEDY)
        assert next(pieces) == "a"
        read.set()
        assert list(pieces) == ["b"]


@pytest.mark.parametrize(
    ("name", "how"), [("top_k", SamplingParams(5, top_k=3)), ("beams", SamplingParams(5, beams=2))]
)
def test_what_the_interface_has_no_word_for_is_refused(
    remote: HostedModel, name: str, how: SamplingParams
) -> None:
    with pytest.raises(BadInput, match=f"{name} . for a hosted model"):
        list(remote.complete("x", how))


def test_what_the_server_refuses_is_said_in_its_words(remote: HostedModel) -> None:
    with pytest.raises(Rejected, match="leave room for"):
        list(remote.complete("x", SamplingParams(500)))
    other = HostedModel("other", remote.endpoint)
    with pytest.raises(Rejected, match=r"no model .*other.*; known: .*tiny"):
        list(other.reply(MESSAGES, GREEDY))


def test_the_newer_name_of_a_setting_is_used_where_the_older_is_refused() -> None:
    words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    refused = response(400, {"error": {"message": words}})
    good = streamed({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]})
    with odd(refused, good) as one:
        assert "".join(open_hosted(f"hosted:o@{one.url}").reply(MESSAGES, GREEDY)) == "a"
    bodies: list[dict[str, Any]] = [body for _, _, body in one.asked]
    assert bodies[0].pop("max_tokens") == bodies[1].pop("max_completion_tokens") == 20
    assert bodies[0] == bodies[1]
    assert bodies[0] == {"model": "o", "messages": MESSAGES, "temperature": 0.0, "stream": True}
    with odd(refused) as one, pytest.raises(Rejected, match="Unsupported parameter"):
        list(open_hosted(f"hosted:o@{one.url}").reply(MESSAGES, GREEDY))
    assert len(one.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        streamed({"choices": [{"delta": {"content": "a"}}]}),
        streamed({"choices": [{"delta": {"content": "a"}}]}, done=False),
        streamed({"choices": {}}),
        streamed({"choices": ["a"]}),
        streamed({"choices": [{"delta": "a"}]}),
        streamed({"choices": [{}]}),
        streamed({"choices": [{"delta": {"content": 5}}]}),
        response(200, {"object": "list"}),
    ],
)
def test_an_answer_that_is_cut_short_or_of_another_shape_is_a_fault(answer: bytes) -> None:
    with odd(answer) as one, pytest.raises(LmwrightError, match=r"breaks off|a shape"):
        list(open_hosted(f"hosted:o@{one.url}").reply(MESSAGES, GREEDY))


def test_an_answer_may_come_whole_refused_or_with_half_a_character() -> None:
    for message, said in (
        ({"content": "a\ud83d"}, "a?"),
        ({"content": None, "refusal": "no"}, "no"),
        ({"content": None}, ""),
        (None, ""),
    ):
        whole = {"choices": [{"message": message, "finish_reason": "stop"}]}
        with odd(response(200, whole)) as one:
            assert "".join(open_hosted(f"hosted:o@{one.url}").reply(MESSAGES, GREEDY)) == said


@pytest.mark.parametrize(
    ("address", "model", "url"),
    [
        ("hosted:gpt-4@https://x.example/v1", "gpt-4", "https://x.example/v1"),
        ("hosted:a/b:c@1@https://x.example", "a/b:c@1", "https://x.example"),
    ],
)
def test_an_address_names_a_model_and_an_endpoint(address: str, model: str, url: str) -> None:
    found = open_hosted(address, "SOME_KEY")
    assert (found.model, found.endpoint.url, found.endpoint.key_from) == (model, url, "SOME_KEY")


@pytest.mark.parametrize(
    "address", ["hosted:", "hosted:x", "hosted:@https://x/v1", "hosted:x@y/v1"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="hosted:MODEL@https://HOST/v1"):
        open_hosted(address)


def test_nothing_of_a_hosted_model_is_read_here() -> None:
    with pytest.raises(BadInput, match="nothing is on this machine"):
        read_published("hosted:x@https://x.example/v1")
