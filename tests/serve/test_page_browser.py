"""The page at ``/`` in a browser, driven by the keyboard: what is written, shown and sent."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from lmwright.models.decode import SampledToken, next_token
from lmwright.models.text_model import TextModel
from lmwright.serve import generation
from tests.serve.fake import loaded
from tests.serve.live import Live, living
from tests.serve.talking import Talk, talking, with_generation
from tests.serve.test_page import KEY, write_keys
from tests.serve.test_predict import ROW, Detailed
from tests.serve.test_services import ALIASES, Several
from tests.serve.test_shelf import Loads, Shelved, shelf_of
from tests.serve.test_version_completions import version

CHROMIUM = Path("/usr/bin/chromium")
SOON = 20_000
"""The most milliseconds that anything may take to show."""
MARKUP = "<img src=x onerror=\"document.title='owned'\"> </p><script>alert(1)</script> &amp;"

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip("this machine lacks Chromium")
    if find_spec("playwright") is None:
        pytest.skip("this machine lacks playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), headless=True, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def faults() -> list[str]:
    """What a page complained of, and what it asked of other servers."""
    return []


@pytest.fixture
def page(chromium: Any, faults: list[str]) -> Iterator[Any]:
    """A page; at the end its policy refused nothing, no script failed, all it asked was its own."""
    page = chromium.new_context(locale="en").new_page()
    page.set_default_timeout(SOON)

    def note_message(message: Any) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    def note_request(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:")):
            faults.append(request.url)

    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", note_message)
    page.on("request", note_request)
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    yield page
    page.context.close()
    assert not faults


def visit(page: Any, live: Live) -> None:
    page.goto(f"http://127.0.0.1:{live.port}/")
    page.wait_for_selector("#ask:not([hidden]), #unlock:not([hidden])")


def sent(page: Any, path: str) -> list[Any]:
    """The bodies of requests to a path, as they are made from now on."""
    found: list[Any] = []

    def note(request: Any) -> None:
        if request.url.endswith(path):
            found.append(json.loads(request.post_data))

    page.on("request", note)
    return found


def set_sampling(page: Any, **settings: Any) -> None:
    for name, value in settings.items():
        page.locator(f"#{name.replace('_', '-')}").fill(str(value))


def ask(page: Any, text: str, keys: str = "Enter") -> None:
    """Type and send, and wait until the answer has ended."""
    articles = page.locator("article").count()
    page.locator("#text").focus()
    page.keyboard.insert_text(text)
    page.keyboard.press(keys)
    page.locator("article").nth(articles).wait_for()
    page.locator("#stop").wait_for(state="hidden")


def answer_of(page: Any, place: int = -1) -> str:
    """What an answer shows, to the letter."""
    return page.locator(".tokens").nth(place).evaluate("each => each.textContent")


def tokens_of(page: Any, place: int = -1) -> list[tuple[str, str]]:
    """The shown text and the spoken words of each token of an answer."""
    options = page.locator(".tokens").nth(place).get_by_role("option")
    return options.evaluate_all(
        "all => all.map(each => [each.textContent, each.getAttribute('aria-label')])"
    )


def scripted(text: str, model: TextModel, seconds: float = 0.0) -> Callable[..., SampledToken]:
    """Sampling that writes a text, slowly if wished, and then ends."""
    ids: Sequence[int] = [*model.tokenizer.ids(text).tolist(), *model.stop_ids[:1]]

    def sample(logits_v: Any, known: Any, length: int, params: Any, rng: Any) -> SampledToken:
        time.sleep(seconds)
        forced_v = torch.full_like(logits_v, -20.0)
        forced_v[ids[length % len(ids)]] = 0.0
        return next_token(forced_v, known, length, params, rng)

    return sample


def shown_logprob(value: float) -> str:
    return f"{value:.3f}".replace("-", "\u2212")


def test_a_conversation_by_keyboard_shows_what_the_server_says(page: Any, talk: Talk) -> None:
    visit(page, talk)
    bodies = sent(page, "/v1/chat/completions")
    set_sampling(page, max_tokens=12, seed=4, temperature=0.9)
    assert page.get_by_role("textbox", name="Message", exact=True).is_visible()
    ask(page, "Name a colour.")
    (body,) = bodies
    assert body["messages"] == [{"role": "user", "content": "Name a colour."}]
    assert (body["stream"], body["top_logprobs"], body["seed"]) == (True, 5, 4)
    asked = {name: body[name] for name in ("max_tokens", "seed", "temperature", "logprobs")}
    wanted = talk.chat("Name a colour.", top_logprobs=5, **asked)
    (choice,) = wanted["choices"]
    assert answer_of(page) == choice["message"]["content"]
    words = [spoken for _, spoken in tokens_of(page)]
    logprobs = choice["logprobs"]["content"]
    assert len(logprobs) > 3
    whole = ". ".join(words)
    for each in logprobs:
        said = f"log-probability {shown_logprob(each['logprob'])}, probability "
        assert said in whole
    usage = wanted["usage"]
    line = page.locator(".meta").inner_text()
    assert f"prompt {usage['prompt_tokens']} tokens" in line
    assert f"completion {usage['completion_tokens']} tokens" in line
    assert "tokens a second" in line and "cached" in line
    # A second turn goes with the first.
    ask(page, "Another.")
    assert bodies[1]["messages"] == [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": choice["message"]["content"]},
        {"role": "user", "content": "Another."},
    ]
    assert page.evaluate("document.activeElement.id") == "text"
    page.get_by_role("button", name="Start anew").press("Enter")
    set_sampling(page, system="Be brief.")
    ask(page, "Hello")
    assert bodies[2]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]


def test_tokens_show_their_probabilities_by_keyboard_and_pointer(page: Any, talk: Talk) -> None:
    visit(page, talk)
    set_sampling(page, max_tokens=8, seed=1)
    ask(page, "Hello")
    tip = page.get_by_role("tooltip")
    options = page.locator(".tokens").get_by_role("option")
    assert not tip.is_visible() and options.count() > 3
    # The answer is one stop of the Tab key; the arrow keys move inside.
    for _ in range(12):
        if page.evaluate("document.activeElement.getAttribute('role')") == "option":
            break
        page.keyboard.press("Shift+Tab")
    assert options.first.evaluate("each => each === document.activeElement")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    second = options.nth(2)
    assert second.evaluate("each => each === document.activeElement")
    assert (second.get_attribute("tabindex"), second.get_attribute("aria-describedby")) == (
        "0",
        "tip",
    )
    assert tip.is_visible() and "log-probability" in tip.inner_text()
    assert tip.locator("tbody tr").count() in (5, 6) and tip.locator(".best").count() == 1
    page.keyboard.press("End")
    assert options.last.evaluate("each => each === document.activeElement")
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    options.first.hover()
    assert tip.is_visible()
    tip.hover()
    page.wait_for_timeout(400)
    assert tip.is_visible(), "whoever points at the tooltip may read it"
    page.mouse.move(2, 2)
    tip.wait_for(state="hidden")


def test_colours_say_how_likely_a_token_was(
    page: Any, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit(page, talk)
    set_sampling(page, max_tokens=30, seed=2, temperature=1.5)
    ask(page, "Hello")
    steps = (0.9, 0.5, 0.2, 0.05, 0.0)
    options = page.locator(".tokens").get_by_role("option")
    checked = 0
    for words, kind in zip(
        [spoken for _, spoken in tokens_of(page)],
        options.evaluate_all("all => all.map(each => each.className)"),
        strict=True,
    ):
        if words.count("log-probability") == 1:  # a single token
            logprob = float(
                words.partition("log-probability ")[2].partition(",")[0].replace("\u2212", "-")
            )
            p = math.exp(logprob)
            if min(abs(p - each) for each in steps) > 0.001:
                assert f"c{next(n for n, least in enumerate(steps) if p >= least)}" in kind.split()
                checked += 1
    assert checked > 5
    ground = "each => getComputedStyle(each).backgroundColor"
    coloured = page.locator(".t.c4, .t.c3").first
    assert coloured.evaluate(ground) != "rgba(0, 0, 0, 0)"
    page.get_by_role("checkbox", name="Colour by probability").press("Space")
    assert coloured.evaluate(ground) == "rgba(0, 0, 0, 0)"


def test_markup_is_shown_to_the_letter(
    page: Any, model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = with_generation(model, template="{% for m in messages %}{{ m.role }}{% endfor %}")
    with talking(plain, cache_tokens=4096) as talk:
        monkeypatch.setattr(generation, "next_token", scripted(MARKUP, model))
        visit(page, talk)
        ask(page, MARKUP)
        assert answer_of(page) == MARKUP
        assert page.locator(".said p").inner_text() == MARKUP
        assert page.locator("p.sr").last.text_content() == MARKUP
        page.locator(".tokens").get_by_role("option").first.hover()
        assert "<" in page.get_by_role("tooltip").inner_text()
        assert page.locator("img").count() == 0 and page.locator("script").count() == 1
        assert page.title() == "tiny – lmwright"
    plain.close()


def test_the_browser_itself_refuses_markup(page: Any, talk: Talk, faults: list[str]) -> None:
    visit(page, talk)
    refused = page.evaluate(
        "() => { try { document.body.innerHTML = '<p>x</p>'; return false; }"
        " catch (error) { return error instanceof TypeError; } }"
    )
    assert refused is True
    assert "TrustedHTML" in faults.pop()


def test_an_answer_comes_as_it_is_written_and_stops(
    page: Any, model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with talking(model) as talk:
        monkeypatch.setattr(
            generation, "next_token", scripted("One. Two, three. " * 9, model, 0.03)
        )
        visit(page, talk)
        bodies = sent(page, "/v1/chat/completions")
        page.locator("#text").focus()
        page.keyboard.type("Count")
        page.keyboard.press("Enter")
        page.locator(".t").nth(8).wait_for()
        assert page.locator("#stop").is_visible(), "the rest is still to come"
        page.locator("#live p").first.wait_for(state="attached")
        assert page.locator("#live p").first.text_content() == "One."
        assert page.locator("#live").get_attribute("aria-live") == "polite"
        page.keyboard.press("Enter")  # the box is empty, and one answer is under way
        for _ in range(8):
            if page.evaluate("document.activeElement.id") == "stop":
                break
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator("#stop").wait_for(state="hidden")
        assert page.locator(".meta").inner_text().endswith("stopped")
        deadline = time.monotonic() + 5
        while talk.engine.queued and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not talk.engine.queued, "the server writes no further"
        written = answer_of(page)
        assert "One. Two, three. ".startswith(written) or written.startswith("One. Two")
        assert len(written) < 9 * 17 - 20
        assert page.evaluate("document.activeElement.id") == "text"
        # What was written so far is part of the conversation. Escape stops, too.
        page.keyboard.type("On")
        page.keyboard.press("Enter")
        page.locator(".tokens").nth(1).locator(".t").nth(2).wait_for()
        page.keyboard.press("Escape")
        page.locator("#stop").wait_for(state="hidden")
        assert bodies[1]["messages"][1] == {"role": "assistant", "content": written}
        assert len(bodies) == 2


def test_faults_are_told_in_the_servers_words(page: Any, talk: Talk) -> None:
    visit(page, talk)
    bodies = sent(page, "/v1/chat/completions")
    set_sampling(page, max_tokens=4000)
    ask(page, "Hello")
    alert = page.get_by_role("alert")
    whole = {**bodies[0], "stream": False, "stream_options": None}
    wanted = talk.post("/v1/chat/completions", **whole)[2]
    assert alert.inner_text() == wanted["error"]["message"]
    assert page.locator("#text").input_value() == "Hello", "it may be sent again"
    # The failed turn is no part of the conversation.
    set_sampling(page, max_tokens=3)
    page.locator("#text").focus()
    page.keyboard.press("Enter")
    page.locator(".tokens").nth(1).locator(".t").first.wait_for()
    assert bodies[1]["messages"] == [{"role": "user", "content": "Hello"}]
    # A setting that cannot be is not sent at all.
    set_sampling(page, temperature=3)
    page.locator("#text").focus()
    page.keyboard.type("More")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "temperature"
    assert len(bodies) == 2


def test_a_server_that_has_gone_is_told_of(page: Any, model: TextModel) -> None:
    with talking(model) as talk:
        visit(page, talk)
    page.locator("#text").focus()
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    assert page.get_by_role("alert").inner_text() == "The server cannot be reached."


def test_a_model_that_completes_goes_on_from_a_text(page: Any, model: TextModel) -> None:
    base = with_generation(model, template="")
    with talking(base) as talk:
        visit(page, talk)
        assert not page.locator("#modes").is_visible(), "it only completes"
        bodies = sent(page, "/v1/completions")
        set_sampling(page, max_tokens=10, seed=9, temperature=1)
        ask(page, "A th\ncat", "Control+Enter")
        (body,) = bodies
        assert (body["prompt"], body["logprobs"], body["max_tokens"]) == ("A th\ncat", 5, 10)
        wanted = talk.complete("A th\ncat", logprobs=5, max_tokens=10, seed=9, temperature=1)
        (choice,) = wanted["choices"]
        assert answer_of(page) == choice["text"]
        whole = ". ".join(spoken for _, spoken in tokens_of(page))
        for logprob in choice["logprobs"]["token_logprobs"]:
            assert f"log-probability {shown_logprob(logprob)}," in whole
        assert page.locator(".given").evaluate("each => each.textContent") == "A th\ncat"
        assert page.locator("#text").input_value() == "A th\ncat"
        page.get_by_role("button", name="Go on from here").press("Enter")
        assert page.locator("#text").input_value() == "A th\ncat" + choice["text"]
        assert page.evaluate("document.activeElement.id") == "text"


def test_both_ways_of_a_model_are_offered(page: Any, talk: Talk) -> None:
    visit(page, talk)
    page.get_by_role("radio", name="Chat").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("textbox", name="Text to go on from").is_visible()
    assert not page.get_by_label("System message").is_visible()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("textbox", name="Message", exact=True).is_visible()


def test_each_model_is_asked_by_its_name_and_its_answers_name_their_version(page: Any) -> None:
    made = [loaded("v1"), loaded("v2", scale=3.0), version("v3", 1)]
    live = Several(dict(zip(ALIASES, made, strict=True)))
    try:
        visit(page, live)
        bodies: list[Any] = []
        page.on("request", lambda request: bodies.append(request.post_data_json))
        page.get_by_label("Model", exact=True).focus()
        for number in (1, 2):
            page.keyboard.press("ArrowDown")
            assert page.locator("#model").input_value() == ALIASES[number]
            facts = page.locator("#facts").inner_text().split()
            assert f"v{number + 1}" in facts
        assert "generation" in facts and "fp32" in facts and "tokens" in facts
        set_sampling(page, max_tokens=3)
        ask(page, "A", "Control+Enter")
        assert bodies[-1]["model"] == ALIASES[2]
        assert page.locator(".meta").inner_text().startswith("version v3")
        page.locator("#model").select_option(ALIASES[1])
        page.get_by_role("textbox", name="text").fill("a a")
        page.keyboard.press("Control+Enter")
        page.locator(".answer").wait_for()
        assert bodies[-1]["model"] == ALIASES[1]
        assert "version v2" in page.locator(".meta").inner_text()
    finally:
        live.stop()


def test_a_model_that_is_loaded_when_asked_tells_then_what_it_can(
    page: Any, model: TextModel
) -> None:
    live = Shelved(shelf_of(Loads(model), 3))  # of models without chat templates
    try:
        visit(page, live)
        assert "loaded when asked" in page.locator("#facts").inner_text()
        ask(page, "Hello")
        box = page.get_by_role("textbox", name="Text to go on from")
        box.wait_for()
        assert not page.locator("#modes").is_visible() and box.input_value() == "Hello"
        assert "goes on from texts" in page.get_by_role("status").inner_text()
        assert "128 tokens" in page.locator("#facts").inner_text()
        set_sampling(page, max_tokens=3)
        box.press("Control+Enter")
        page.get_by_text("cut at the most tokens").wait_for()
    finally:
        live.stop()


def test_a_classifiers_form_answers_with_bars(page: Any) -> None:
    with living(loaded("v5", scale=1.0)) as live:
        visit(page, live)
        page.get_by_role("textbox", name="text").focus()
        page.keyboard.type("a a b")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator(".answer").wait_for()
        told = live.ask("POST", "/v1/predict", {"inputs": [{"text": "a a b"}]})[2]["answers"][0]
        rows = page.locator(".answer tr tr")
        assert [each.split() for each in rows.all_inner_texts()] == [
            [label, f"{100 * p:.1f}", "%"]
            for label, p in sorted(told["probabilities"].items(), key=lambda each: -each[1])
        ]
        widths = page.locator(".bar-of i").evaluate_all("all => all.map(each => each.style.width)")
        shares = sorted(told["probabilities"].values(), reverse=True)
        assert [float(each.rstrip("%")) for each in widths] == pytest.approx(
            [100 * each for each in shares], abs=0.01
        )
        assert "version v5" in page.locator(".meta").inner_text()
        assert page.locator(".answer").inner_text().split()[:4] == ["label", "yes", "unsure", "no"]
        assert "label yes" in page.locator("#live").inner_text()
        # By Ctrl+Enter, and without a label.
        page.get_by_role("textbox", name="text").fill("b")
        page.keyboard.press("Control+Enter")
        page.locator("article").nth(1).wait_for()
        assert "unsure" in page.locator(".answer").first.inner_text()
        page.get_by_role("textbox", name="text").fill("RAISE")
        page.keyboard.press("Control+Enter")
        page.locator("article").nth(2).wait_for()
        assert "the model failed on a row" in page.get_by_role("alert").inner_text()


def test_a_form_has_a_field_for_a_column_of_every_type(page: Any) -> None:
    one = loaded()
    one.predictor.task = Detailed(labels=("no", "yes"))
    with living(one) as live:
        visit(page, live)
        bodies = sent(page, "/v1/predict")
        typed = {
            name: "\n".join(map(str, value)) if name in ("tags", "notes", "scores") else value
            for name, value in ROW.items()
        }
        for name, value in typed.items():
            text = value if isinstance(value, str) else json.dumps(value)
            page.get_by_label(name, exact=False).first.fill(text)
        page.locator("#column-spans").fill("[{")
        page.keyboard.press("Control+Enter")
        assert page.evaluate("document.activeElement.validationMessage") != ""
        assert not bodies
        page.locator("#column-spans").fill(json.dumps(ROW["spans"]))
        page.keyboard.press("Control+Enter")
        page.locator(".answer").wait_for()
        assert bodies[0]["inputs"] == [ROW]


SPOKEN = "\U0001f600 Ann met Bob"
ANSWERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "spans count characters": (
        {"spans": [{"start": 2, "end": 5, "label": "PER", "score": 0.25}], "unsure": False},
        [f"{SPOKEN[0]} AnnPER met Bob", "text label score Ann PER 25.0 %", "unsure no"],
    ),
    "no spans": ({"spans": []}, ["spans none"]),
    "an answer in a context": (
        {"answer": "Ann", "score": 0.9999, "answers": [{"answer": "<b>", "score": 0.5}]},
        ["answer Ann", "score > 99.9 %", "answer score <b> 50.0 %"],
    ),
    "a number and its interval": (
        {"value": 1912.4567, "interval": [-3, 2000.5]},
        ["value 1910", "interval \u22123 to 2000"],
    ),
    "several labels": (
        {"labels": ["x", "y"], "probabilities": {"1": 0.7, "x": 0.8, "z": 0.0001}},
        ["labels x, y", "x 80.0 % 1 70.0 % z < 0.1 %"],
    ),
    "a text": (
        {"summary_text": "<i>Short</i>", "cut": True},
        ["summary text <i>Short</i>", "cut yes"],
    ),
    "unsure": ({"label": None, "unsure": True}, ["label none: the model is unsure", "unsure yes"]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_of_every_kind_read_well(page: Any, name: str) -> None:
    told, wanted = ANSWERS[name]
    body = {"answers": [{"index": 0, **told}], "version": "v1", "usage": {"tokens": 1}}
    with living(loaded()) as live:
        visit(page, live)
        page.route("**/v1/predict", lambda route: route.fulfill(json=body))
        page.get_by_role("textbox", name="text").fill(SPOKEN)
        page.keyboard.press("Control+Enter")
        page.locator(".answer").wait_for()
        shown = " ".join(page.locator(".answer").inner_text().split())
    for each in wanted:
        assert each in shown


def test_a_key_opens_the_page_and_is_kept_nowhere(page: Any, tmp_path: Path) -> None:
    with living(loaded(), keys=write_keys(tmp_path)) as live:
        visit(page, live)
        field = page.get_by_label("API key")
        assert page.evaluate("document.activeElement.id") == "key"
        assert field.get_attribute("type") == "password"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").wait_for()
        assert page.get_by_role("alert").inner_text() == "The server does not know this key."
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        page.get_by_role("textbox", name="text").fill("a a")
        page.keyboard.press("Control+Enter")
        page.locator(".answer").wait_for()
        assert page.url == f"http://127.0.0.1:{live.port}/"
        kept = "[{...localStorage}, {...sessionStorage}, document.cookie, history.state]"
        assert page.evaluate(f"JSON.stringify({kept})") == '[{},{},"",null]'
        assert KEY not in page.content() and page.locator("#key").input_value() == ""
        page.get_by_role("button", name="Forget the key").press("Enter")
        page.get_by_label("API key").wait_for()
        assert page.locator(".answer").count() == 0
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        page.get_by_role("textbox", name="text").wait_for()
        page.reload()
        page.get_by_label("API key").wait_for()
