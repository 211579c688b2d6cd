"""The sandbox: a template gets a second, some memory and a length, and nothing of the machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from datetime import datetime

import pytest

from lmwright.core.errors import BadInput
from lmwright.text.template import LONGEST_SOURCE, SandboxedTemplate

DOUBLED = "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
GREEDY = {
    "a loop without end": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a huge range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "a huge string": "{{ 'a' * 10 ** 10 }}",
    "a string doubled": DOUBLED + "{% endfor %}{{ ns.x | length }}",
    "a huge power": "{{ 9 ** (9 ** 9) }}",
    "a wide format": "{{ '%999999999d' | format(1) }}",
    "a wide column": "{{ 'x' | center(10 ** 10) }}",
    "a huge list": "{{ [1] | batch(10 ** 9, 'x') | list | length }}",
    "a deep indent": "{{ [1] | tojson(indent=10 ** 10) }}",
    "much prose": "{{ lipsum(n=10 ** 7) }}",
    "a long text": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "macros without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macros that branch": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "deep brackets": "{{" + "(" * 20_000 + "1" + ")" * 20_000 + "}}",
    "a constant that takes for ever to compile": "{{ 9 ** (9 ** 9) if false }}",
}
PRYING = {
    "class": "{{ x.__class__ }}",
    "ancestors": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a function's globals": "{{ raise_exception.__globals__ }}",
    "attr": "{{ 'a' | attr('__class__') }}",
    "map": "{{ [1] | map(attribute='__class__') | list }}",
    "format": "{{ '{0.__class__}'.format(x) }}",
    "a file": "{% include '/etc/passwd' %}",
    "a change": "{{ x.append(1) }}",
    "a change of an object": "{{ y.update(a=1) }}",
    "init": "{{ cycler.__init__.__globals__.os }}",
}


def render(source: str, **variables: object) -> str:
    """One rendering in a sandbox of its own."""
    sandbox = SandboxedTemplate(source)
    try:
        return sandbox.render(variables)
    finally:
        sandbox.close()


@pytest.mark.parametrize("kind", GREEDY)
def test_a_greedy_template_is_refused(kind):
    start = time.monotonic()
    with pytest.raises(BadInput, match="template"):
        render(GREEDY[kind], x=[1])
    # A second of processor time; the clock runs on where other processes have the processor.
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("kind", PRYING)
def test_a_prying_template_is_refused(kind):
    with pytest.raises(BadInput, match="template"):
        render(PRYING[kind], x=[1], y={})


@pytest.mark.parametrize("source", ["{% for", "{{ 1 +", "{% nothing %}", "{{ x | nofilter }}"])
def test_what_is_no_template_is_refused_at_once(source):
    with pytest.raises(BadInput, match="line 1"):
        SandboxedTemplate(source)
    with pytest.raises(BadInput, match=str(LONGEST_SOURCE)):
        SandboxedTemplate("x" * (LONGEST_SOURCE + 1))


def test_a_template_outlives_what_it_could_not_render():
    source = "{% if n > 9 %}{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}"
    sandbox = SandboxedTemplate(source + "{% endif %}{{ 'a' * m }}")
    for _ in range(2):
        assert sandbox.render({"n": 1, "m": 2}) == "aa"
        with pytest.raises(BadInput, match="stopped"):
            sandbox.render({"n": 90_000, "m": 2})
        with pytest.raises(BadInput, match="memory"):
            sandbox.render({"n": 1, "m": 10**10})
    sandbox.close()
    assert sandbox.render({"n": 1, "m": 3}) == "aaa"
    sandbox.close()


def test_renderings_keep_nothing_from_one_another():
    sandbox = SandboxedTemplate(
        "{% set ns = namespace(n=x) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ y }}"
    )
    assert [sandbox.render({"x": 1, "y": "b"}), sandbox.render({"x": 1})] == ["2b", "2"]
    sandbox.close()


def test_threads_share_a_template():
    sandbox = SandboxedTemplate("{{ x }}")
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.__setitem__(n, sandbox.render({"x": n})))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: str(n) for n in range(20)}
    sandbox.close()


def forked(sandbox: SandboxedTemplate, queue: multiprocessing.SimpleQueue) -> None:
    """What a child does with its parent's template."""
    queue.put(sandbox.render({"x": "child"}))
    sandbox.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_a_worker_of_its_own():
    sandbox = SandboxedTemplate("{{ x }}")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=forked, args=(sandbox, queue))
    child.start()
    child.join()
    assert queue.get() == "child"
    assert sandbox.render({"x": "parent"}) == "parent"
    sandbox.close()


def test_the_worker_ends_with_its_template():
    sandbox = SandboxedTemplate("{{ x }}")
    number = sandbox.worker.process.pid
    del sandbox
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_what_published_templates_use():
    source = (
        "{% for x in xs %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}"
        "{% endif %}{{ x }}{% endfor %}{{ {'b': 'é<', 'a': [1]} | tojson }}"
        "{{ {'b': 1, 'a': 2} | tojson(indent=1, separators=(',', '='), sort_keys=true) }}"
        "{{ strftime_now('%d %b %Y') }}{{ dict(a=1).a }}{{ missing }}"
    )
    sandbox = SandboxedTemplate(source)
    assert sandbox.reads >= {"xs", "missing"}
    text = sandbox.render({"xs": [1, 2, 3, 4, 5]}, now=datetime(2026, 3, 1))
    assert text == '13{"b": "é<", "a": [1]}{\n "a"=2,\n "b"=1\n}01 Mar 20261'
    sandbox.close()


def test_a_refusal_says_the_templates_words():
    with pytest.raises(BadInput, match="user first"):
        render("{{ raise_exception('user first') }}")


def test_white_space_of_blocks_is_cut_as_published_templates_expect():
    assert render("  {% if true %}\n  a\n  {% endif %}\nb") == "  a\nb"
