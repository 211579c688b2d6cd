"""``/v1/tokenize`` and ``/v1/detokenize``: ids as the model that is served reads them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lmwright.models.text_model import TextModel
from lmwright.serve.version_model import VersionModel
from tests.serve.fake import loaded as counting
from tests.serve.kinds import Several, similarity, talker
from tests.serve.live import check_error
from tests.serve.talking import Talk, talking
from tests.train.conftest import small as small  # the fixture

TOKENIZE, DETOKENIZE = "/v1/tokenize", "/v1/detokenize"
ODD = ["hello there", "日本 and ü", "<|im_end|> spelt out", " x\n\n", "a\u0000b"]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def live(small: Path, model_folder: Path) -> Iterator[Several]:
    live = Several(
        {
            "counts@production": counting("c1"),
            "near@production": similarity(small),
            "talks@production": talker(model_folder),
        }
    )
    yield live
    live.stop()


@pytest.mark.parametrize("text", ODD)
def test_the_ids_are_those_that_the_model_reads(model: TextModel, talk: Talk, text: str) -> None:
    """They are the prompt of a completion, and its usage counts them."""
    _, _, body = talk.post(TOKENIZE, prompt=text)
    assert body["tokens"] == model.prompt_ids(text).tolist()
    assert (body["count"], body["max_model_len"]) == (len(body["tokens"]), 128)
    assert body["token_strs"] is None
    usage = talk.complete(text, max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == body["count"]
    _, _, bare = talk.post(TOKENIZE, prompt=text, add_special_tokens=False)
    assert bare["tokens"] == model.tokenizer.ids(text).tolist()


@pytest.mark.parametrize("text", ODD)
def test_what_was_tokenized_comes_back(talk: Talk, text: str) -> None:
    _, _, body = talk.post(TOKENIZE, prompt=text, add_special_tokens=False)
    status, _, found = talk.post(DETOKENIZE, tokens=body["tokens"])
    assert (status, found) == (200, {"prompt": text})
    assert talk.post(DETOKENIZE, tokens=[])[2] == {"prompt": ""}


def test_a_conversation_is_rendered_as_a_chat_is(model: TextModel, talk: Talk) -> None:
    _, _, body = talk.post(TOKENIZE, messages=MESSAGES)
    assert body["tokens"] == model.chat_ids(MESSAGES).tolist()
    _, _, chat = talk.post("/v1/chat/completions", messages=MESSAGES, max_tokens=1)
    assert chat["usage"]["prompt_tokens"] == body["count"]
    more = {"messages": MESSAGES, "chat_template_kwargs": {"enable_thinking": True}}
    _, _, thinking = talk.post(TOKENIZE, **more)
    assert thinking["count"] > body["count"]
    _, _, text = talk.post(DETOKENIZE, tokens=thinking["tokens"])
    assert text["prompt"].startswith("<|im_start|>system") and "<think>" in text["prompt"]


def test_a_token_is_told_by_its_name(model: TextModel, talk: Talk) -> None:
    _, _, body = talk.post(TOKENIZE, messages=MESSAGES, return_token_strs=True)
    assert body["token_strs"] == [model.tokenizer.token(each) for each in body["tokens"]]
    assert "<|im_start|>" in body["token_strs"]


def test_every_model_with_a_tokenizer_answers(live: Several) -> None:
    """An encoder's text is cleaned and closed, a writer's cleaned and begun; of none that is named
    the first that has tokens answers."""
    text = "A tra&shy;gedy"
    near, talks = (each.rows.current for each in live.services.members[1:])
    model: Any = near.predictor
    wanted = model.model.tokens(["A tragedy"])[0].ids.tolist()
    assert live.given(TOKENIZE, prompt=text)["tokens"] == wanted
    assert live.given(TOKENIZE, prompt=text, model="s1")["tokens"] == wanted
    bare = live.given(TOKENIZE, prompt=text, add_special_tokens=False)["tokens"]
    assert bare == wanted[1:-1]
    assert live.given(DETOKENIZE, tokens=wanted, model="s1")["prompt"].startswith("[CLS]")
    writer = VersionModel(talks)
    found = live.given(TOKENIZE, prompt=text, model="talks@production")
    assert found["tokens"] == writer.prompt_ids(text).tolist()
    said = live.given(TOKENIZE, messages=MESSAGES, model="talks@production")["tokens"]
    assert said == writer.chat_ids(MESSAGES).tolist()
    embedded = live.given("/v1/embeddings", input=text)["usage"]["prompt_tokens"]
    assert embedded == len(wanted)


BAD: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "nothing": (TOKENIZE, {}, 400, "prompt"),
    "both": (TOKENIZE, {"prompt": "a", "messages": MESSAGES}, 400, "prompt"),
    "a number": (TOKENIZE, {"prompt": 1}, 400, "prompt"),
    "a list": (TOKENIZE, {"prompt": ["a"]}, 400, "prompt"),
    "a long text": (TOKENIZE, {"prompt": "a" * 50_001}, 413, "prompt"),
    "half a pair": (TOKENIZE, {"prompt": "\ud800"}, 400, "prompt"),
    "no messages": (TOKENIZE, {"messages": []}, 400, "messages"),
    "special tokens round messages": (
        TOKENIZE, {"messages": MESSAGES, "add_special_tokens": True}, 400, "add_special_tokens",
    ),
    "extras of a prompt": (
        TOKENIZE, {"prompt": "a", "chat_template_kwargs": {"x": 1}}, 400, "chat_template_kwargs",
    ),
    "another's extra": (
        TOKENIZE, {"messages": MESSAGES, "chat_template_kwargs": {"messages": []}}, 400, "messages",
    ),
    "no beginning of an answer": (
        TOKENIZE, {"messages": MESSAGES, "add_generation_prompt": False}, 400,
        "add_generation_prompt",
    ),
    "what is not known": (TOKENIZE, {"prompt": "a", "x": 1}, 400, "x"),
    "another model": (TOKENIZE, {"prompt": "a", "model": "other"}, 404, "model"),
    "no tokens": (DETOKENIZE, {}, 400, "tokens"),
    "tokens of text": (DETOKENIZE, {"tokens": ["a"]}, 400, "tokens"),
    "a list of lists": (DETOKENIZE, {"tokens": [[1]]}, 400, "tokens"),
    "true": (DETOKENIZE, {"tokens": [True]}, 400, "tokens"),
    "an id that no token has": (DETOKENIZE, {"tokens": [99_999]}, 400, "tokens"),
    "a huge id": (DETOKENIZE, {"tokens": [1 << 70]}, 400, "tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_by_name(talk: Talk, name: str) -> None:
    path, body, wanted, param = BAD[name]
    status, _, found = talk.post(path, **body)
    check_error(status, found, wanted)
    assert found["error"]["param"] == param


def test_as_many_are_under_way_as_may_be_and_none_while_it_drains(
    model: TextModel, monkeypatch: Any
) -> None:
    open_, begun = threading.Event(), threading.Semaphore(0)

    def slow(*words: Any) -> str:
        begun.release()
        assert open_.wait(30)
        return ""

    monkeypatch.setattr("lmwright.serve.tokenize.decoded", slow)
    with talking(model, queue_requests=4) as talk, ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(talk.post, DETOKENIZE, tokens=[1]) for _ in range(2)]
        assert all(begun.acquire(timeout=30) for _ in asked)
        status, headers, found = talk.post(TOKENIZE, prompt="a")
        check_error(status, found, 429)
        assert headers["retry-after"]
        assert talk.complete("hello", max_tokens=1)
        open_.set()
        assert [each.result(30)[0] for each in asked] == [200, 200]
        assert talk.post(TOKENIZE, prompt="a")[0] == 200
        talk.engine.draining = True
        assert talk.post(TOKENIZE, prompt="a")[0] == 503


def test_a_model_without_a_tokenizer_or_a_template_says_so(live: Several) -> None:
    for path, body in ((TOKENIZE, {"prompt": "a"}), (DETOKENIZE, {"tokens": [1]})):
        status, found = live.post(path, model="counts@production", **body)
        check_error(status, found, 404)
        assert "no tokenizer" in found["error"]["message"]
    status, found = live.post(TOKENIZE, messages=MESSAGES, model="near@production")
    check_error(status, found, 400)
    assert "no chat template" in found["error"]["message"]
