"""``/v1/completions`` from a version of the task text-generation."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lmwright.metrics.calibration import Calibration
from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, TextPredictor, from_published, language_model
from lmwright.serve.rows import Loaded, answer
from lmwright.serve.served import Served
from lmwright.serve.traffic import Given, Traffic
from lmwright.serve.version_model import VersionModel
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.text_generation_model import TextGenerator
from lmwright.text.generation import SamplingParams
from lmwright.train.new import New
from tests.serve.fake import loaded as counting
from tests.serve.live import Live, check_error
from tests.serve.talking import write_model
from tests.tasks.test_text_generation import LLAMA

README = Path(__file__).parents[2] / "README.md"
TASK = TextGeneration(max_new_tokens=12, temperature=0.0)
RAW = "A model is trai&shy;ned &amp; served "


def version(name: str, seed: int) -> Loaded:
    """A model drawn by a seed, with a tokenizer learnt from the README."""
    model: TextModel = NEW.model(
        README.read_text("utf-8").split("\n"), TextGenerator(TASK).head(0.0), 64, seed
    )
    return Loaded(name, TextPredictor(TASK, model), Calibration())


NEW = New(family="llama", config=LLAMA, vocabulary=400)


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.found: list[Served] = []
        self.more = threading.Event()

    def __call__(self, served: Served) -> None:
        self.found.append(served)
        self.more.set()

    def next(self) -> Served:
        assert self.more.wait(20)
        self.more.clear()
        return self.found[-1]


@pytest.fixture(scope="module")
def first() -> Loaded:
    return version("v1", 1)


@pytest.fixture
def live(first: Loaded) -> Iterator[Live]:
    live = Live(first)
    yield live
    live.stop()


def complete(live: Live, **body: object) -> dict:
    status, _, found = live.ask("POST", "/v1/completions", body, timeout=30)
    assert status == 200, found
    return found


def test_a_completion_is_the_one_that_predict_writes(live: Live) -> None:
    """At temperature 0 both take the likeliest token, after the same cleaning."""
    status, _, found = live.ask("POST", "/v1/predict", {"inputs": [{"text": RAW}]}, timeout=30)
    assert status == 200, found
    wanted = found["answers"][0]["completion"]
    given = complete(live, prompt=RAW, max_tokens=12, temperature=0)
    assert given["object"] == "text_completion"
    assert given["model"] == "fake@production"
    assert given["choices"][0]["text"] == wanted
    assert complete(live, prompt=RAW, max_tokens=12, temperature=0, model="v1")["choices"]


def test_a_prompt_is_read_as_training_reads_a_document(first: Loaded) -> None:
    model = VersionModel(first)
    document = first.predictor.model.document(TASK.cleaner(RAW), closed=False)
    assert np.array_equal(model.prompt_ids(RAW), document)
    params = SamplingParams(max_new_tokens=5, temperature=0.0)
    assert "".join(model.complete(RAW, params))


def test_what_was_written_is_observed_with_its_score(live: Live, first: Loaded) -> None:
    told = Told()
    live.service.observers.append(told)
    given = complete(live, prompt=[RAW, "Serve it"], n=2, max_tokens=6, echo=True, seed=3)
    served = told.next()
    assert (served.id, served.version) == (given["id"], "v1")
    assert [row["text"] for row in served.rows] == [RAW, RAW, "Serve it", "Serve it"]
    for row, one, choice in zip(served.rows, served.answers, given["choices"], strict=True):
        assert row["text"] + one.told["completion"] == choice["text"]
        (alone,) = answer(first, first.predictor.prepare([{**row, "continuation": ""}]))
        assert one.told["nats"] == alone.told["nats"] > 0
        assert set(TASK.signals([one.prepared], one.answers)) > {"length", "surprise"}


def test_a_stream_is_observed_whole_and_ids_are_not(live: Live) -> None:
    told = Told()
    live.service.observers.append(told)
    complete(live, prompt=[5, 6, 7], max_tokens=2)
    body = {"prompt": "Serve it", "max_tokens": 6, "stream": True, "temperature": 0}
    status, _, _ = live.ask("POST", "/v1/completions", body, timeout=30)
    assert status == 200
    (one,) = told.next().answers
    assert len(told.found) == 1
    whole = complete(live, prompt="Serve it", max_tokens=6, temperature=0)
    assert one.told["completion"] == whole["choices"][0]["text"]


def test_the_traffic_log_keeps_it_and_feedback_finds_it(live: Live, tmp_path: Path) -> None:
    traffic = Traffic(tmp_path, keep_text=True, retention_days=1, gate_share=0.0)
    told = Told()
    live.service.observers += [traffic.observe, told]
    given = complete(live, prompt="Serve it", max_tokens=4)
    told.next()
    traffic.flush()
    traffic.give(given["id"], 0, Given(target={"continuation": " with care"}), TASK, "")
    (found,) = traffic.find(given["id"])
    assert json.loads(json.dumps(found["answer"]))["completion"] == given["choices"][0]["text"]
    traffic.close()


@pytest.mark.parametrize("keep", [True, False])
def test_no_text_is_kept_in_plain(live: Live, tmp_path: Path, keep: bool) -> None:
    traffic = Traffic(tmp_path, keep_text=keep, retention_days=1, gate_share=0.0)
    live.service.observers.append(traffic.observe)
    given = complete(live, prompt="Mail anna@example.org now", max_tokens=4, echo=True)
    live.service.settle()
    traffic.give(given["id"], 0, Given(target={"continuation": "to bob@example.org"}), TASK, "")
    (found,) = traffic.find(given["id"])
    assert (found["inputs"] is None) == (not keep)
    assert (found["answer"]["completion"] is None) == (not keep)
    traffic.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert b"@example.org" not in stored


def test_a_version_that_is_swapped_in_writes_from_then_on(live: Live, first: Loaded) -> None:
    words = {"prompt": "Serve it", "max_tokens": 8, "top_p": 1, "seed": 3, "logprobs": 0}
    before = complete(live, **words)["choices"][0]
    second = version("v2", 2)
    live.rows.swap(second, [{"text": "a"}])
    after = complete(live, **words)["choices"][0]
    assert after["logprobs"]["token_logprobs"] != before["logprobs"]["token_logprobs"]
    params = SamplingParams(max_new_tokens=8, temperature=1.0)
    assert after["text"] == "".join(VersionModel(second).complete("Serve it", params, 3))
    check_error(*live.ask("POST", "/v1/completions", {"prompt": "a", "model": "v1"})[::2], 404)


def test_a_version_that_writes_nothing_is_said(live: Live) -> None:
    live.rows.swap(counting("v3"), [{"text": "a"}])
    status, _, body = live.ask("POST", "/v1/completions", {"prompt": "a"})
    check_error(status, body, 404)
    assert "/v1/predict" in body["error"]["message"]


def test_what_completions_refuse_they_refuse_here(live: Live) -> None:
    for body, param in (
        ({"prompt": "a " * 400}, "prompt"),
        ({"prompt": "a", "max_tokens": 4000}, "max_tokens"),
        ({"prompt": "a", "suffix": "z"}, "suffix"),
        ({}, "prompt"),
    ):
        status, _, found = live.ask("POST", "/v1/completions", body)
        check_error(status, found, 400)
        assert found["error"]["param"] == param


def test_metrics_and_health_know_rows_and_texts(live: Live) -> None:
    complete(live, prompt="Serve it", max_tokens=2)
    assert live.ask("GET", "/ready")[0] == 200
    _, _, text = live.ask("GET", "/metrics")
    shown = text if isinstance(text, str) else text.decode()
    assert 'lmwright_generation_tokens_total{kind="completion"} 2.0' in shown
    live.engine.fault = "the engine has ended"
    assert live.ask("GET", "/health")[0] == 503
    live.engine.fault = ""


def test_a_published_chat_model_talks_under_an_alias(tmp_path: Path) -> None:
    """Its answers are those of the model served by itself; its conversations are not watched."""
    published = read_published(str(write_model(tmp_path / "tiny")))
    alone = language_model(published)
    model = from_published(published, "lm", 64, seed=0)
    live = Live(Loaded("v1", TextPredictor(TASK, model), Calibration()))
    told = Told()
    live.service.observers.append(told)
    try:
        messages = [{"role": "user", "content": "hello"}]
        body = {"messages": messages, "max_tokens": 6, "temperature": 0}
        for _ in range(2):
            status, _, found = live.ask("POST", "/v1/chat/completions", body, timeout=30)
            assert status == 200, found
            wanted = "".join(alone.reply(messages, SamplingParams(6)))
            assert found["choices"][0]["message"]["content"] == wanted
        complete(live, prompt="hello", max_tokens=2)
        assert [row["text"] for row in told.next().rows] == ["hello"]
        assert len(told.found) == 1
    finally:
        live.stop()
        alone.close()


def test_a_version_without_a_template_does_not_chat(live: Live) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    status, _, found = live.ask("POST", "/v1/chat/completions", body, timeout=30)
    check_error(status, found, 400)
    assert "no chat template" in found["error"]["message"]
