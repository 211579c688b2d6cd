"""A language model asked for a label: its log-probabilities of the names, here and hosted."""

from __future__ import annotations

import copy
import json
import math
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from lmwright.core.errors import BadInput, Corrupt, LmwrightError
from lmwright.core.hashing import tree
from lmwright.core.predictor import Predictor
from lmwright.models.core.ragged import pack
from lmwright.models.load import load_predictor
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.zero_shot import ZeroShot, common_prefix_length, open_zero_shot
from lmwright.tasks.zero_shot_hosted import Query, ZeroShotHosted, text_key
from lmwright.text.label_prompt import INSTRUCTION, LabelPrompt, make_label_prompt
from tests.cli.folders import folder_of as ours
from tests.cli.test_export import gguf_of
from tests.hosted.odd_endpoint import Odd, odd, response
from tests.models.test_foreign import folder_of as foreign
from tests.serve.talking import talking, write_model

TASK = TextClassification(labels=("down", "up"))
AB = TextClassification(labels=("a", "b"))
ABC = TextClassification(labels=("a", "b", "c"))
PROMPT = LabelPrompt("{labels}? {text} =", ("bad", "good"), 50)
WORDY = LabelPrompt("w5 {text} w6", ("w7 w8 w9", "w7 w3", "w4"), 200)


def prepared(model: Predictor, *texts: str) -> list[Any]:
    """Texts as rows, prepared."""
    return model.prepare([{"text": text} for text in texts])


def logits_of(model: Predictor, *texts: str) -> np.ndarray:
    """The logits of texts."""
    found: np.ndarray = model.answers(prepared(model, *texts))["logits"]
    return found


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZeroShot]:
    folder = write_model(tmp_path_factory.mktemp("models") / "tiny")
    made = open_zero_shot(TASK, PROMPT, str(folder))
    yield made
    made.model.template.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module", params=["gpt2", "opt"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ZeroShot:
    """A model without a template, of ours and through transformers."""
    make = {"gpt2": ours, "opt": foreign}[request.param]
    folder = make(request.param, tmp_path_factory.mktemp("models") / request.param)
    return open_zero_shot(ABC, WORDY, str(folder))


@torch.inference_mode()
def whole(model: ZeroShot, ids: list[int], count: int) -> float:
    """The log-probability of the last ``count`` ids after those before them, by one pass."""
    network, logits = model.model.network, []
    for end in range(len(ids) - count, len(ids)):
        logits.append(network.next(pack([np.array(ids[:end])]), None)[0].double())
    logs_nv = torch.log_softmax(torch.stack(logits), dim=-1)
    return float(logs_nv[range(count), ids[-count:]].sum())


def test_logits_are_the_log_probabilities_of_the_names_that_answer_a_message(
    chatty: ZeroShot,
) -> None:
    texts = ["so so", "a film", "x" * 99]
    found = logits_of(chatty, *texts) + chatty.prior
    for row, text in zip(found, texts, strict=True):
        message = [{"role": "user", "content": f"bad, good? {text[:50]} ="}]
        prompt = chatty.model.chat_ids(message).tolist()
        for value, name in zip(row, PROMPT.names, strict=True):
            ids = chatty.model.tokenizer.ids(name).tolist()
            assert value == pytest.approx(whole(chatty, prompt + ids, len(ids)), abs=1e-4)
    assert len({*found[:, 0]}) == 3


def test_names_of_several_tokens_are_followed_from_where_they_part(plain: ZeroShot) -> None:
    """Two names begin alike; after what all share, the log-probabilities are those of passes."""
    found = logits_of(plain, "w1 w2", "w11") + plain.prior
    for row, text in zip(found, ([1, 2], [11]), strict=True):
        for value, name in zip(row, ([7, 8, 9], [7, 3], [4]), strict=True):
            ids = [5, *text, 6, *name]
            assert value == pytest.approx(whole(plain, ids, len(name)), abs=1e-4)
    assert common_prefix_length([np.array([1, 2, 3]), np.array([1, 2])]) == 1
    assert common_prefix_length([np.array([1, 2, 3]), np.array([1, 4, 3])]) == 1


def test_what_a_model_says_of_texts_without_content_is_taken_off(plain: ZeroShot) -> None:
    nothing = logits_of(plain, "N/A", "", "[MASK]") + plain.prior
    np.testing.assert_allclose(log_softmax(nothing, axis=1).mean(axis=0), plain.prior)
    assert len({*plain.prior}) == 3


def test_a_vector_is_the_mean_hidden_state_at_length_one(plain: ZeroShot) -> None:
    items = prepared(plain, "w1 w2", "w11")
    found = plain.answers(items)
    vectors = found.vectors
    assert vectors is not None and np.array_equal(found["logits"], plain.logits(items))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with torch.inference_mode():
        mean = plain.model.network.hidden(pack([items[1].prefix])).mean(dim=0).numpy()
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-5)
    assert items[0].ids.tolist() == [1, 2] and items[0].cost == 4


def test_what_is_saved_is_whole_and_says_the_same(plain: ZeroShot, tmp_path: Path) -> None:
    plain.save(tmp_path / "one")
    loaded = load_predictor(tmp_path / "one")
    assert isinstance(loaded, ZeroShot) and loaded.task == plain.task == ABC
    wanted = logits_of(plain, "w1", "w2 w3")
    assert np.array_equal(logits_of(loaded, "w1", "w2 w3"), wanted)
    loaded.save(tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    (tmp_path / "two" / "published" / "config.json").unlink()
    with pytest.raises(BadInput, match="config"):
        load_predictor(tmp_path / "two")
    description = json.loads((tmp_path / "one" / "model.json").read_text())
    odd_prior = {**description, "prior": [0.5]}
    (tmp_path / "one" / "model.json").write_text(json.dumps(odd_prior))
    with pytest.raises(Corrupt, match="the prior is"):
        load_predictor(tmp_path / "one")
    description["prompt"]["names"].pop()
    (tmp_path / "one" / "model.json").write_text(json.dumps(description))
    with pytest.raises(Corrupt, match="no prompt"):
        load_predictor(tmp_path / "one")


def to_old_names(folder: Path) -> None:
    """Rewrite a saved folder as format 1 had it: other names, and labels in place of a task."""
    path = folder / "model.json"
    old = {"prompt": "question", "query": "way"}
    value = {old.get(name, name): each for name, each in json.loads(path.read_text()).items()}
    value["kind"] = {"zero-shot": "asked", "zero-shot-hosted": "asked-hosted"}[value["kind"]]
    value["labels"] = value.pop("task")["labels"]
    path.write_text(json.dumps(value))


def test_a_folder_of_an_older_store_is_read(plain: ZeroShot, tmp_path: Path) -> None:
    plain.save(tmp_path / "one")
    wanted = logits_of(plain, "w1")
    to_old_names(tmp_path / "one")
    loaded = load_predictor(tmp_path / "one")
    assert isinstance(loaded, ZeroShot) and loaded.prompt == plain.prompt
    assert loaded.task == plain.task and np.array_equal(logits_of(loaded, "w1"), wanted)
    loaded.save(tmp_path / "two")
    assert json.loads((tmp_path / "two" / "model.json").read_text())["kind"] == "zero-shot"
    settings = query("http://127.0.0.1:1/v1", by="samples", seed=3)
    made = ZeroShotHosted(TASK, PROMPT, settings, {text_key("x"): [0.5, 1.0]})
    made.save(tmp_path / "hosted")
    to_old_names(tmp_path / "hosted")
    found = load_predictor(tmp_path / "hosted")
    assert isinstance(found, ZeroShotHosted) and found.query == settings
    assert logits_of(found, "x").tolist() == [[0.5, 1.0]]


def test_a_tokenizer_of_any_format_is_saved_and_no_code(plain: ZeroShot, tmp_path: Path) -> None:
    shutil.copytree(plain.source, tmp_path / "start")
    read = ("vocab.txt", "merges.txt", "vocab.bpe", "spiece.model", "tokenizer.model.v3")
    read += ("source.spm", "o200k.tiktoken", "chat_template.jinja")
    for name in (*read, "pytorch_model.bin", "modeling.py", "weights.pt", "README.md"):
        (tmp_path / "start" / name).write_text("")
    plain = copy.copy(plain)
    plain.source = tmp_path / "start"
    plain.save(tmp_path / "one")
    found = {path.name for path in (tmp_path / "one" / "published").iterdir()}
    there = {path.name for path in plain.source.iterdir()}
    assert found == there - {"pytorch_model.bin", "modeling.py", "weights.pt", "README.md"}


def test_a_gguf_file_is_saved_as_the_one_file_that_it_is(tmp_path: Path) -> None:
    address = gguf_of("llama", tmp_path / "tiny.gguf")
    made = open_zero_shot(AB, LabelPrompt("Q{text}?", ("AB", "C"), 9), address)
    made.save(tmp_path / "one")
    assert (tmp_path / "one" / "published.gguf").read_bytes() == Path(address).read_bytes()
    loaded = load_predictor(tmp_path / "one")
    rows = [logits_of(each, "DEF", "5") for each in (made, loaded)]
    assert np.array_equal(*rows) and len({*rows[0][:, 0]}) == 2


def test_a_text_that_is_too_long_is_cut_until_its_prompt_fits(
    chatty: ZeroShot, plain: ZeroShot
) -> None:
    long = prepared(chatty, "é" * 50)[0]
    assert long.cost + max(map(len, long.answers)) <= 128
    (item,) = prepared(plain, " ".join(f"w{n}" for n in range(40)))
    longest = plain.model.longest or 0
    assert longest - 6 < item.cost + max(map(len, item.answers)) <= longest
    wordy = LabelPrompt("w1 " * 40 + "{text}", WORDY.names, 50)
    made = ZeroShot(ABC, wordy, plain.model, plain.source, prior=[0.0] * 3)
    with pytest.raises(BadInput, match="tokens without its text"):
        prepared(made, "w1")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (LabelPrompt("{text}", WORDY.names, 9), "empty without its text"),
        (LabelPrompt("w1 {text}", ("w7", "odd", "strange"), 9), "one to this model's tokenizer"),
    ],
)
def test_a_prompt_that_tells_a_model_nothing_is_refused(
    plain: ZeroShot, prompt: LabelPrompt, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        ZeroShot(ABC, prompt, plain.model, plain.source)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_reads_the_prompt_and_the_decoder_is_asked(family: str, tmp_path: Path) -> None:
    made = open_zero_shot(ABC, WORDY, ours(family, tmp_path / family))
    items = prepared(made, "w1 w2", "w11")
    found = made.answers(items)
    logits, vectors = found["logits"], found.vectors
    assert vectors is not None
    source, target = made.model.network.streams
    for row, vector, item in zip(logits + made.prior, vectors, items, strict=True):
        assert item.source is not None and item.cost == len(item.source)
        for value, name in zip(row, ([7, 8, 9], [7, 3], [4]), strict=True):
            read = (
                pack([item.source]),
                pack([np.array([made.model.generation.decoder_start_id, *name])]),
            )
            with torch.inference_mode():
                logs_nv = torch.log_softmax(
                    made.model.network(dict(zip((source, target), read, strict=True))), dim=-1
                )
            wanted = sum(float(logs_nv[place, token]) for place, token in enumerate(name))
            assert value == pytest.approx(wanted, abs=1e-4)
        with torch.inference_mode():
            mean = made.model.network.encode(pack([item.source])).mean(dim=0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert len({*logits[:, 0]}) == 2
    made.save(tmp_path / "one")
    loaded = load_predictor(tmp_path / "one")
    assert np.array_equal(logits_of(loaded, "w1 w2", "w11"), logits)


def test_a_long_text_is_cut_until_the_encoder_can_read_it(tmp_path: Path) -> None:
    made = open_zero_shot(ABC, WORDY, ours("bart", tmp_path / "bart"))
    (item,) = prepared(made, " ".join(f"w{n % 30}" for n in range(60)))
    longest = made.model.longest or 0
    assert longest - 6 < item.cost <= longest == 32


def test_a_model_that_reads_the_prompt_anew_for_each_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="anew for each token"):
        open_zero_shot(ABC, WORDY, ours("xlnet", tmp_path / "xlnet"))


def test_a_prompt_is_filled_once_and_in_nothing_but_its_holes() -> None:
    assert PROMPT.render("{labels} {text} {x}") == "bad, good? {labels} {text} {x} ="
    made = make_label_prompt(INSTRUCTION, ("0", "1"), {"0": "no"}, 3)
    assert "no, 1." in made.render("abcdef") and "Text: abc\n" in made.render("abcdef")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no hole", ("a", "b"), 5), "without {text}"),
        (("{text}", ("good", "Goodness"), 5), "begins the names of several labels"),
        (("{text}", ("a", "a"), 5), "begins the names of several labels"),
        (("{text}", ("a", " b"), 5), "without spaces"),
        (("{text}", ("a", ""), 5), "without spaces"),
        (("{text}", ("a", "b"), 0), "max_characters is 0"),
    ],
)
def test_a_prompt_that_is_none_is_refused(words: Any, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        LabelPrompt(*words)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("good", 1), (" Good.\n", 1), ("**bad**", 0), ("It is good!", 1), ("goodness", None),
        ("bad or good", None), ("not sure", None), ("", None),
    ],
)  # fmt: skip
def test_an_answer_says_a_label_or_none(answer: str, label: int | None) -> None:
    assert PROMPT.parse(answer) == label


def query(url: str, **more: Any) -> Query:
    plain = {"key_from": "", "by": "logprobs", "samples": 4, "max_tokens": 8, "seed": 0}
    return Query(**{"address": f"hosted:tiny@{url}", **plain, **more})


def told(*places: tuple[str, dict[str, float]]) -> bytes:
    """An answer whose tokens come with these probabilities."""
    content = [
        {
            "token": token,
            "logprob": math.log(likely[token]),
            "top_logprobs": [
                {"token": each, "logprob": math.log(p) if p else -9999.0}
                for each, p in likely.items()
            ],
        }
        for token, likely in places
    ]
    message = {"message": {"content": "x"}, "logprobs": {"content": content}}
    return response(200, {"choices": [{**message, "finish_reason": "stop"}]})


def answers(*texts: str | None) -> list[bytes]:
    return [
        response(200, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
        for text in texts
    ]


def logits(one: Odd, prompt: LabelPrompt = PROMPT, **more: Any) -> list[float]:
    """What one text comes to."""
    task = TextClassification(labels=tuple(str(number) for number in range(len(prompt.names))))
    model = ZeroShotHosted(task, prompt, query(one.url, **more))
    found: list[float] = logits_of(model, "a text")[0].tolist()
    return found


def test_our_own_server_tells_what_the_same_model_says_here(chatty: ZeroShot) -> None:
    """The names are tokens among the twenty likeliest, and one that is not."""
    text = "a film"
    message = [{"role": "user", "content": f"{text}?"}]
    network, tokenizer = chatty.model.network, chatty.model.tokenizer
    with torch.inference_mode():
        row_v = network.next(pack([chatty.model.chat_ids(message)]), None)[0]
    logs_v = torch.log_softmax(row_v.double(), dim=-1)
    order = [each for each in logs_v.argsort(descending=True).tolist() if each < 256]
    letters = [each for each in order if tokenizer.decode([each]).strip().isalnum()]
    top = set(logs_v.argsort(descending=True)[:20].tolist())
    inside, outside = [n for n in letters if n in top], [n for n in letters if n not in top]
    first = inside[0]
    second = next(
        n for n in inside if tokenizer.decode([n]).lower() != tokenizer.decode([first]).lower()
    )
    last = next(
        n for n in reversed(outside)
        if tokenizer.decode([n]).lower() not in {tokenizer.decode([k]).lower() for k in top}
    )  # fmt: skip
    names = tuple(tokenizer.decode([n]) for n in (first, second, last))
    with talking(chatty.model) as talk:
        model = ZeroShotHosted(
            ABC,
            LabelPrompt("{text}?", names, 50),
            query(f"http://127.0.0.1:{talk.port}/v1"),
        )
        found = logits_of(model, text)[0]
    alike = [
        float(
            torch.logsumexp(
                logs_v[[k for k in top if tokenizer.decode([k]).strip().lower() == name.lower()]], 0
            )
        )
        for name in names[:2]
    ]
    assert found[:2].tolist() == pytest.approx(alike, abs=1e-4)
    assert found[2] == pytest.approx(float(logs_v[sorted(top)].min()), abs=1e-4)


def test_what_is_told_is_summed_over_all_that_begins_a_name() -> None:
    places = {"good": 0.5, " GO": 0.2, "b": 0.1, "Bad": 0.1, "other": 0.05, " ": 0.01}
    with odd(told(("good", places))) as one:
        assert logits(one) == pytest.approx([math.log(0.2), math.log(0.7)])
    body = one.asked[0][2]
    assert body["logprobs"] is True and body["top_logprobs"] == 20 and body["temperature"] == 0
    assert body["messages"] == [{"role": "user", "content": "bad, good? a text ="}]
    assert body["max_tokens"] == 8 and "stream" not in body


def test_an_answer_is_followed_until_one_name_is_left() -> None:
    prompt = LabelPrompt("{text}", ("positive", "possible", "neg"), 50)
    first = ("pos", {"pos": 0.8, "neg": 0.15})
    second = ("itive", {"itive": 0.75, "sible": 0.25})
    with odd(told(first, second)) as one:
        wanted = [0.8 * 0.75, 0.8 * 0.25, 0.15]
        assert logits(one, prompt) == pytest.approx(np.log(wanted).tolist())


def test_a_label_that_is_not_told_gets_the_least_that_is() -> None:
    with odd(told(("good", {"good": 0.9, "x": 0.04}))) as one:
        assert logits(one) == pytest.approx([math.log(0.04), math.log(0.9)])
    with odd(told(("what", {"what": 0.9, "x": 0.0}))) as one:
        assert logits(one) == [-100, -100]


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": [{"token": "x"}]}])
def test_an_endpoint_that_tells_nothing_is_refused_by_name(logprobs: Any) -> None:
    choice = {"message": {"content": "good"}, "logprobs": logprobs, "finish_reason": "stop"}
    with (
        odd(response(200, {"choices": [choice]})) as one,
        pytest.raises(BadInput, match=r"tells no log-probabilities.*set by to samples"),
    ):
        logits(one)


def test_samples_are_shares_of_seeded_answers() -> None:
    with odd(*answers("Good.", "good", "bad", "neither")) as one:
        found = logits(one, by="samples", seed=7)
    assert found == pytest.approx(np.log([1.5 / 5, 2.5 / 5]).tolist())
    bodies = [body for _, _, body in one.asked]
    assert [body["seed"] for body in bodies] == [7, 8, 9, 10]
    assert all(body["temperature"] == 1 and "logprobs" not in body for body in bodies)
    with odd(*answers(None)) as one:
        assert len({*logits(one, by="samples")}) == 1


def test_several_texts_are_asked_about_at_once() -> None:
    meet = threading.Barrier(3)

    def together(client: socket.socket) -> None:
        meet.wait(10)
        client.sendall(*answers("good"))

    with odd(together) as one:
        model = ZeroShotHosted(TASK, PROMPT, query(one.url, by="samples", samples=1))
        noted: dict[str, list[float]] = {}
        model.fill_cache(
            [{"text": text} for text in [*"abcdef", "a"]], noted.__setitem__, at_once=3
        )
        assert len(one.asked) == 6 and noted == model.cache and len(noted) == 6


def test_answers_under_way_when_one_fails_are_kept() -> None:
    failed = threading.Event()

    def after(client: socket.socket) -> None:
        assert failed.wait(10)
        client.sendall(*answers("good"))

    def refuse(client: socket.socket) -> None:
        client.sendall(response(400, {"error": {"message": "no more"}}))
        failed.set()

    with odd(after, after, refuse, after) as one:
        model = ZeroShotHosted(TASK, PROMPT, query(one.url, by="samples", samples=1))
        noted: dict[str, list[float]] = {}
        with pytest.raises(BadInput, match="no more"):
            model.fill_cache([{"text": str(n)} for n in range(1000)], noted.__setitem__, at_once=3)
        # How many are asked about before the refusal is read is a matter of luck.
        assert 2 <= len(noted) == len(model.cache) == len(one.asked) - 1 < 1000


def test_answers_are_kept_and_nobody_is_asked_twice(tmp_path: Path) -> None:
    with odd(*answers("good")) as one:
        model = ZeroShotHosted(TASK, PROMPT, query(one.url, by="samples", key_from="ODD_KEY"))
        with pytest.raises(BadInput, match="ODD_KEY is not set"):
            logits_of(model, "x")
        model = ZeroShotHosted(TASK, PROMPT, query(one.url, by="samples"))
        noted: dict[str, list[float]] = {}
        model.fill_cache([{"text": text} for text in "aba"], noted.__setitem__)
        assert len(one.asked) == 8 and noted == model.cache
        model.save(tmp_path / "one")
        loaded = load_predictor(tmp_path / "one")
        items = prepared(loaded, "b", "a")
        found = loaded.answers(items)
        rows, vectors = found["logits"], found.vectors
        assert vectors is not None
        assert rows.tolist() == [noted[text_key("b")], noted[text_key("a")]] and len(one.asked) == 8
        np.testing.assert_allclose(vectors**2, np.exp(log_softmax(rows, axis=1)), atol=1e-6)
        logits_of(loaded, "new")
        assert len(one.asked) == 12
    loaded.save(tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert items[0].ids.tolist() == prepared(loaded, "b")[0].ids.tolist()
    (tmp_path / "one" / "answers.json").write_text('{"x": [1.0]}')
    with pytest.raises(Corrupt, match="2 numbers each"):
        load_predictor(tmp_path / "one")


def test_an_endpoint_that_fails_is_no_answer() -> None:
    refused = response(400, {"error": {"message": "no logprobs here"}})
    for answer, said in (
        (refused, "no logprobs here"),
        (response(200, {"choices": []}), "nothing"),
    ):
        with odd(answer) as one, pytest.raises(LmwrightError, match=said):
            logits(one)


def test_a_text_is_shown_to_the_model_as_the_task_cleans_it(plain: ZeroShot) -> None:
    raw, clean = prepared(plain, "<b>w1</b>  w2", "w1 w2")
    assert raw.ids.tolist() == clean.ids.tolist() == [1, 2]
    with odd(*answers("good")) as one:
        model = ZeroShotHosted(TASK, PROMPT, query(one.url, by="samples", samples=1))
        logits_of(model, "<i>so</i> so")
        assert one.asked[0][2]["messages"][0]["content"] == "bad, good? so so ="
