"""``/v1/chat/completions`` from a version of the task chat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmwright.api.models import Version
from lmwright.core.errors import BadInput
from lmwright.metrics.calibration import Calibration
from lmwright.models.text_model import TextPredictor
from lmwright.serve.rows import Loaded
from lmwright.serve.version_model import VersionModel
from lmwright.tasks.chat import Chat
from lmwright.tasks.chat_model import ChatWriter
from lmwright.tasks.target_text import Decoding
from lmwright.train.new import New
from tests.serve.live import Live
from tests.serve.test_version_completions import Told
from tests.tasks.test_text_generation import LLAMA

LICENCE = Path(__file__).parents[2] / "LICENSE"
TASK = Chat(decoding=Decoding(max_new_tokens=8))
ASKED = [{"role": "user", "content": "A model is trai&shy;ned &amp; served"}]
GOES_ON = [*ASKED, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "How?"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    texts = LICENCE.read_text("utf-8").split("\n")
    config = {**LLAMA, "max_position_embeddings": 128}
    drawn = New(family="llama", config=config, vocabulary=400).model(texts, "lm", 128, 1)
    model, _ = ChatWriter(TASK).prepared_start(drawn)
    return Loaded("v1", TextPredictor(TASK, model), Calibration())


@pytest.fixture
def live(loaded: Loaded) -> Iterator[Live]:
    live = Live(loaded)
    yield live
    live.stop()


def ask(live: Live, path: str, **body: Any) -> tuple[int, Any]:
    status, _, found = live.ask("POST", path, body, timeout=30)
    return status, found


@pytest.mark.parametrize("messages", [ASKED, GOES_ON])
def test_an_answer_is_the_one_that_predict_writes(live: Live, messages: list[Any]) -> None:
    status, found = ask(live, "/v1/predict", inputs=[{"messages": messages}])
    assert status == 200, found
    (wanted,) = found["answers"]
    status, found = ask(live, CHAT, messages=messages, max_tokens=8, temperature=0)
    assert status == 200, found
    (choice,) = found["choices"]
    assert choice["message"]["content"].strip() == wanted["generated_text"]
    assert (choice["finish_reason"] == "stop") == wanted["ended"]


def test_the_ids_are_those_that_training_reads(loaded: Loaded) -> None:
    model = VersionModel(loaded)
    (item,) = loaded.predictor.prepare([{"messages": GOES_ON}])
    assert np.array_equal(model.chat_ids(GOES_ON), item.prompt)
    told = [{**ASKED[0], "role": "developer"}, *ASKED]
    as_system = [{**ASKED[0], "role": "system"}, *ASKED]
    assert np.array_equal(model.chat_ids(told), model.chat_ids(as_system))
    with pytest.raises(BadInput, match="a text for a model of conversations"):
        model.prompt_ids("Hello")


def test_what_was_answered_is_observed_as_a_row(live: Live, loaded: Loaded) -> None:
    told = Told()
    live.service.observers.append(told)
    status, found = ask(live, CHAT, messages=GOES_ON, max_tokens=6, n=2, seed=3, temperature=1)
    assert status == 200
    served = told.next()
    assert (served.id, served.version, len(served.rows)) == (found["id"], "v1", 2)
    assert served.rows[0]["messages"][0]["content"] == TASK.cleaner(ASKED[0]["content"])
    for one, choice in zip(served.answers, found["choices"], strict=True):
        assert one.told["generated_text"] == choice["message"]["content"].strip()
        assert one.told["ended"] == (choice["finish_reason"] == "stop")
        assert one.told["nats"] > 0
        assert set(TASK.signals([one.prepared], one.answers)) > {"length", "surprise"}


def test_a_stream_gives_the_same_and_is_observed(live: Live) -> None:
    told = Told()
    live.service.observers.append(told)
    given = {"messages": ASKED, "max_tokens": 8, "temperature": 0}
    assert ask(live, CHAT, **given, stream=True)[0] == 200
    (one,) = told.next().answers
    whole = ask(live, CHAT, **given)[1]["choices"][0]["message"]["content"]
    assert one.told["generated_text"] == whole.strip()


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([*ASKED, {"role": "assistant", "content": "Yes"}], "assistant"),
        ([*ASKED, *ASKED], "roles out of order"),
        ([{"role": "user", "content": " "}], "empty message"),
    ],
)
def test_conversations_that_ask_for_no_answer_are_refused(
    live: Live, loaded: Loaded, messages: list[Any], words: str
) -> None:
    for path, body in (
        (CHAT, {"messages": messages}),
        ("/v1/predict", {"inputs": [{"messages": messages}]}),
    ):
        status, found = ask(live, path, **body)
        assert status == 400 and words in str(found), found
    with pytest.raises(BadInput, match=words):
        Version("v", loaded)([{"messages": messages}])


def test_from_python_as_from_the_server(live: Live, loaded: Loaded) -> None:
    version = Version("v", loaded)
    _, found = ask(live, CHAT, messages=GOES_ON, max_tokens=8, temperature=0.8, seed=5)
    here = version.generate(GOES_ON, max_new_tokens=8, temperature=0.8, seed=5)
    assert here == found["choices"][0]["message"]["content"]
    assert live.ask("POST", "/v1/completions", {"prompt": "Hello"}, timeout=30)[0] == 404
