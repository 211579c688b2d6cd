"""Hostile schemas, expressions and grammars over HTTP: refused in bounded time, one by one and
many at once; good ones beside them are kept to, and what is kept of them is bounded."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmwright.models.text_model import TextModel
from lmwright.serve.compiling import AT_ONCE, CompilingTurns
from lmwright.text import constrained
from lmwright.text.constrained import Vocabulary, of_schema
from tests.serve.live import check_error
from tests.serve.talking import Talk, talking
from tests.serve.test_completion_faults import request
from tests.serve.test_connections import wait_until
from tests.text.test_constrained import chain

TEXT = "/v1/completions"
GOOD = {"structured_outputs": {"regex": "[ab]{3,9}"}, "seed": 2, "max_tokens": 12}
BROKEN = {"structured_outputs": {"grammar": "start: nothing"}}


def schema(value: str) -> str:
    described = '{"type": "json_schema", "json_schema": {"name": "it", "schema": ' + value
    return f'{{"prompt": "a", "max_tokens": 4, "response_format": {described}}}}}}}'


def form(kind: str, value: Any) -> str:
    return json.dumps({"prompt": "a", "max_tokens": 4, "structured_outputs": {kind: value}})


DEEP = '{"type": "array", "items": ' * 10_000 + '{"type": "null"}' + "}" * 10_000
MANY = {f"p{n}": {"type": "null"} for n in range(100_000)}
FAR = "http://127.0.0.1:{port}/schema.json"
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
HOSTILE: dict[str, tuple[str, tuple[int, ...]]] = {
    "a match in exponential time": (form("regex", "(a+)+$"), (200,)),
    "10^5 alternatives": (form("regex", "|".join(f"a{n}" for n in range(100_000))), (400, 413)),
    "10^5 choices": (form("choice", [f"a{n}" for n in range(100_000)]), (400, 413)),
    "a back-reference": (form("regex", r"(a)\1"), (400,)),
    "a group that is looked for": (form("regex", "(?<=a)b"), (400,)),
    "repeats of repeats": (form("regex", "((a{1,99}){1,99}){1,99}"), (200, 400, 500)),
    "a tree": (schema(json.dumps({**NODE, "$defs": {"node": NODE}})), (200,)),
    "nothing but itself": (schema('{"$ref": "#"}'), (400,)),
    "a schema elsewhere": (schema(json.dumps({"$ref": FAR})), (400,)),
    "a schema in a file": (schema('{"$ref": "file:///etc/passwd"}'), (400,)),
    "10^4 levels": (schema(DEEP), (400,)),
    "10^5 properties": (schema(json.dumps({"type": "object", "properties": MANY})), (400, 413)),
    "no value at all": (schema('{"allOf": [{"type": "null"}, {"type": "string"}]}'), (400,)),
    "no number between": (schema('{"type": "integer", "minimum": 2, "maximum": 1}'), (400,)),
    "what cannot be enforced": (schema('{"type": "array", "uniqueItems": true}'), (400,)),
    "a grammar of itself": (form("grammar", "start: start"), (400,)),
    "a chain of rules": (form("grammar", chain(1000)), (400,)),
    "an EBNF of itself": (form("grammar", 'root ::= root "a"'), (200, 400, 500)),
}


@pytest.fixture(scope="module")
def talk(model: TextModel) -> Iterator[Talk]:
    with talking(model) as talk:
        yield talk


@pytest.fixture(scope="module")
def usual(talk: Talk) -> Any:
    return talk.complete("hello", seed=4, max_tokens=5)["choices"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_form_takes_bounded_time_and_concerns_nobody_else(
    talk: Talk, usual: Any, name: str
) -> None:
    body, wanted = HOSTILE[name]
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0)
        asked = body.replace("{port}", str(elsewhere.getsockname()[1]))
        began = time.monotonic()
        status, _, answer = talk.ask("POST", TEXT, asked.encode(), timeout=30)
        took = time.monotonic() - began
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert status in wanted, answer
    if status != 200:
        check_error(status, answer, status)
        assert answer["error"]["message"].isprintable()
        assert len(answer["error"]["message"]) < 1000
    assert took < 15  # three seconds of processor time, beside other work
    assert talk.complete("hello", seed=4, max_tokens=5)["choices"] == usual


def test_a_broken_grammar_after_a_good_one_and_beside_it(talk: Talk) -> None:
    """One after the other, then good, broken and plain ones at once."""
    good = talk.complete("a", **GOOD)["choices"]
    plain = talk.complete("hello", seed=4, max_tokens=5)["choices"]
    check_error(*talk.post(TEXT, prompt="a", **BROKEN)[::2], 400)
    assert talk.complete("a", **GOOD)["choices"] == good
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        kinds: tuple[dict[str, Any], ...] = (
            {"prompt": "a", **GOOD},
            {"prompt": "a", **BROKEN},
            {"prompt": "hello", "seed": 4, "max_tokens": 5},
        )
        found[number] = talk.post(TEXT, **kinds[number % 3])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, (status, _, body) in sorted(found.items()):
        if number % 3 == 1:
            check_error(status, body, 400)
        else:
            assert (status, body["choices"]) == (200, (good, None, plain)[number % 3])
    assert len(found) == 12 and talk.ask("GET", "/health")[0] == 200


def test_forms_that_take_long_hold_up_no_other_request(
    model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are threads to read requests; one at a time of one client."""
    compiled, begun = threading.Event(), list[str]()

    def slow(source: str, special: Any) -> None:
        begun.append(source)
        assert compiled.wait(60)

    with talking(model, queue_requests=100) as talk:
        usual = talk.complete("hello", seed=4, max_tokens=5)["choices"]
        monkeypatch.setattr(constrained, "try_out", slow)
        found: list[int] = []

        def ask(number: int) -> None:
            asked = {"structured_outputs": {"choice": [f"slow {number}"]}, "max_tokens": 9}
            found.append(talk.post(TEXT, prompt="a", **asked)[0])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: talk.engine.queued == 40)
        assert talk.complete("hello", seed=4, max_tokens=5)["choices"] == usual
        with talk.connect() as gone:
            gone.sendall(request(TEXT, prompt="a", structured_outputs={"choice": ["gone"]}))
            assert wait_until(lambda: talk.engine.queued == 41)
        assert wait_until(lambda: talk.engine.queued == 40)
        assert len(begun) == 1
        compiled.set()
        for thread in threads:
            thread.join(60)
        assert found == [200] * 40 and not any("gone" in each for each in begun)
        assert wait_until(lambda: not len(talk.service.compiling.own))


def test_clients_take_turns_to_compile() -> None:
    """One of each at a time, two in all; who comes second does not wait for all of the first."""
    order: list[str] = []

    async def compile_all() -> None:
        turns, running = CompilingTurns(), 0

        async def one(client: str) -> None:
            nonlocal running
            async with turns.turn(client):
                running += 1
                assert running <= AT_ONCE
                order.append(client)
                await asyncio.sleep(0)
                running -= 1

        await asyncio.gather(*(one(client) for client in "aaaaaaaabbc"))
        assert not len(turns.own)

    asyncio.run(compile_all())
    assert len(order) == 11
    assert order.index("b") < 3 and order.index("c") < 4


def schemas(count: int, size: int) -> Iterator[Any]:
    """Distinct schemas of so many properties."""
    for number in range(count):
        properties = {f"p{number}of{each}": {"type": "string"} for each in range(size)}
        yield {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("count", "size"), [(400, 1), (60, 400), pytest.param(10_000, 1, marks=pytest.mark.long)]
)
def test_schemas_are_kept_within_a_bound_and_nowhere_else(
    model: TextModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int, size: int
) -> None:
    """Without the process that tries each one out, which leaves nothing."""
    monkeypatch.setattr(constrained, "try_out", lambda source, special: None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    known, before = Vocabulary(model.tokenizer), 0
    for number, each in enumerate(schemas(count, size)):
        known.compiled(of_schema(each))
        assert len(known.kept) <= constrained.KEPT_GRAMMARS
        assert sum(map(len, known.kept)) <= constrained.KEPT_CHARACTERS
        if number == count // 2:
            before = resident()
    assert 1 < len(known.kept) < count
    assert resident() <= before + 8
    assert list(tmp_path.iterdir()) == []


def resident() -> int:
    """Megabytes of this process in memory."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() // 1_000_000
