"""Constrained generation: the tokens that may come next, so that a text is one of a language.

A language is a JSON Schema's, a regular expression's, a grammar's or that of some texts. It is
compiled by llguidance (an Earley parser over derivatives of regular expressions), for the bytes of
a tokenizer's tokens. A token is allowed if and only if some text of the language goes on so.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from lmwright.core.errors import BadInput, MissingPart, nearest
from lmwright.text.grammar_worker import MEMORY, SECONDS, STACK, limits
from lmwright.text.tokenizer import Tokenizer

WORKER = Path(__file__).with_name("grammar_worker.py")
PATIENCE = 20.0
"""Seconds of the clock after which compiling is given up even if it had no processor."""
MAX_CHARACTERS = 100_000
MAX_DEPTH = 64
MAX_CHOICES = 1000
KEPT_GRAMMARS = 64
KEPT_CHARACTERS = 500_000
"""Compiled grammars that are kept for each tokenizer, and the characters of all their sources: a
compiled one takes up to 130 bytes for each, a small one about 30 kB."""
WHITE_SPACE = r"[ \n\t]{1,32}"
"""White space between the tokens of JSON: enough to indent, and never without an end."""
DEFINITE = '%llguidance {"no_forcing": true}\n'
"""Tokens are not narrowed down to those by which the tokenizer would spell what is certain."""
ANY_TEXT = "/(?s:.*)/"

ENFORCED = {
    "type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions",
    "properties", "required", "additionalProperties", "patternProperties", "minProperties",
    "maxProperties", "items", "prefixItems", "additionalItems", "minItems", "maxItems",
    "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf",
}  # fmt: skip
"""Keywords of JSON Schema that a text can be held to."""
TOLD = {
    "$schema", "$id", "id", "$anchor", "$comment", "title", "description", "default", "examples",
    "example", "deprecated", "readOnly", "writeOnly",
}  # fmt: skip
"""Keywords that ask for nothing."""
OF_SCHEMAS = {"properties", "patternProperties", "$defs", "definitions"}
OF_A_SCHEMA = {"additionalProperties", "items", "additionalItems"}
OF_ALTERNATIVES = {"anyOf", "oneOf", "allOf", "prefixItems", "items"}


@dataclass(frozen=True)
class Language:
    """A set of texts: an expression of Lark, and the grammars that it names by ``@``."""

    rule: str
    beside: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> str:
        """The grammar as llguidance reads it."""
        main = {"name": "main", "lark_grammar": f"{DEFINITE}start: {self.rule}"}
        more = [{"name": name, "lark_grammar": lark} for name, lark in self.beside]
        return json.dumps({"grammars": [main, *more]})

    def after(self, open_: bool, begin: str, end: str) -> Language:
        """The same texts behind a first part that goes up to ``end``: one that the prompt has
        ``open_``, or else one that begins with ``begin`` if the model wants it.

        Both are expressions: a text or a token.
        """
        first = "first_text first_gap whole_text"
        rules = (
            first if open_ else f"whole_text | {begin} {first}",
            up_to("first_text", end),
            "first_gap: /\\s{0,4}/",
            f"whole_text: {self.rule}",
        )
        return replace(self, rule="\n".join(rules))


def up_to(name: str, end: str, text: str = ANY_TEXT) -> str:
    """A rule of Lark for text up to the first ``end``, an expression: a text or a token.

    Before a token the text is of the terminal ``text``.
    """
    if end.startswith('"'):
        return f"{name}[suffix={end}]: {ANY_TEXT}"
    return f"{name}: {name.upper()} {end}\n{name.upper()}: {text}"


def quoted(text: str) -> str:
    """A text as a string of Lark."""
    return json.dumps(text)


def of_schema(schema: Any) -> Language:
    """JSON that a schema describes; BadInput for a keyword that no text can be held to."""
    return Language(json_rule(schema))


def json_rule(schema: Any) -> str:
    """The expression for a schema's JSON, in a language's or a larger rule."""
    check_schema(schema)
    settings = {"whitespace_pattern": WHITE_SPACE, "lenient": False}
    whole = {"allOf": [schema]} if isinstance(schema, bool) else schema
    try:
        text = json.dumps({**whole, "x-guidance": settings})
    except RecursionError:
        raise BadInput("a schema with values of too many levels", "a flatter one") from None
    check_size(text)
    return f"%json {text}"


def of_regex(pattern: str) -> Language:
    """Texts that are a match of a regular expression (Rust's syntax) from end to end."""
    check_size(pattern)
    if not pattern:
        raise BadInput("an empty regular expression", "one that matches a text")
    made = json.loads(llguidance().LLMatcher.grammar_from_regex(pattern))
    rule: str = made["grammars"][0]["lark_grammar"]
    return Language(rule.removeprefix("start: "))


def of_grammar(text: str) -> Language:
    """Texts of a grammar in Lark as llguidance has it, or in EBNF as llama.cpp has it (GBNF)."""
    check_size(text)
    if "%llguidance" in text or "<[" in text:
        raise BadInput(
            "a grammar with %llguidance or a token by its number (<[)",
            "rules and terminals of text",
            'leave it out, or spell the text "<[" as "\\u003c["',
        )
    try:
        lark: str = llguidance().gbnf_to_lark.any_to_lark(text)
    except Exception as fault:  # its parser has errors of no one kind
        raise BadInput(f"a grammar that is neither Lark nor EBNF: {fault}", "either") from None
    return Language("@given", (("given", DEFINITE + lark),))


def of_choices(choices: Sequence[str]) -> Language:
    """One of some texts."""
    if not 0 < len(choices) <= MAX_CHOICES or not all(choices):
        raise BadInput(
            f"{len(choices)} choices, perhaps empty ones", f"1 to {MAX_CHOICES}, none of them empty"
        )
    check_size("".join(choices))
    return Language(" | ".join(map(quoted, dict.fromkeys(choices))))


def check_size(text: str) -> None:
    """BadInput for a constraint that is too large to be compiled."""
    if len(text) > MAX_CHARACTERS:
        raise BadInput(f"a constraint of {len(text)} characters", f"at most {MAX_CHARACTERS}")


def check_schema(schema: Any, depth: int = 0) -> None:
    """BadInput for a keyword that no text can be held to, and for what is no schema."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise BadInput(f"a {type(schema).__name__} for a schema", "an object of JSON Schema")
    if depth > MAX_DEPTH:
        raise BadInput(f"a schema of more than {MAX_DEPTH} levels", "a flatter one")
    for name, value in schema.items():
        if name not in ENFORCED | TOLD:
            raise BadInput(
                f"the schema's keyword {name[:60]!r}",
                "one that an answer can be held to",
                nearest(name[:60], ENFORCED),
            )
        parts: list[Any] = []
        if name in OF_SCHEMAS and isinstance(value, Mapping):
            parts = list(value.values())
        elif name in OF_ALTERNATIVES and isinstance(value, list):
            parts = value
        elif name in OF_A_SCHEMA:
            parts = [value]
        for each in parts:
            check_schema(each, depth + 1)


class ConstraintFault(BadInput):
    """A text under way that cannot go on within its language."""


class Matcher:
    """One text of a language under way, token by token.

    ``strip``: the space that the text's first token begins with is not part of the text, as the
    decoders of SentencePiece have it. ``stop_ids`` are allowed where the text may end.
    """

    def __init__(
        self, vocabulary: Vocabulary, inner: Any, strip: bool, stop_ids: Collection[int]
    ) -> None:
        self.vocabulary, self.inner, self.strip = vocabulary, inner, strip
        self.stop_ids = np.array(sorted(stop_ids), dtype=np.int64)

    @property
    def done(self) -> bool:
        """Whether the text is one of the language, and of no longer ones the beginning."""
        return bool(self.inner.is_stopped()) and not self.inner.is_error()

    def allowed(self, size: int) -> np.ndarray:
        """Which tokens (bool, ``size``) may come next; ConstraintFault where none may."""
        known = self.vocabulary
        packed = np.frombuffer(self.inner.compute_bitmask(), dtype=np.uint8)
        if self.inner.is_error():
            raise self.fault()
        bits = np.unpackbits(packed, bitorder="little").astype(bool)
        found = np.zeros(size, dtype=bool)
        count = min(size, known.size)
        found[:count] = bits[:count]
        if self.strip:
            found[known.spaced] = bits[known.aliases]
            found[known.blank] = True
        stops = self.stop_ids[self.stop_ids < size]
        found[stops] = self.inner.is_accepting()
        if not found.any():
            raise ConstraintFault("an answer that no token goes on", "a constraint that one meets")
        return found

    def push(self, id_: int) -> None:
        """Go on with a token; ConstraintFault for one that was not allowed."""
        known = self.vocabulary
        if self.strip and id_ in known.blanks:
            self.strip = False
            return
        taken = known.alias.get(id_, id_) if self.strip else id_
        self.strip = False
        if not self.inner.consume_token(taken):
            raise self.fault()

    def fault(self) -> ConstraintFault:
        """What llguidance says."""
        return ConstraintFault(
            f"a constraint that cannot be followed: {first_line(self.inner.get_error())}",
            "a simpler one",
        )


class Vocabulary:
    """A tokenizer's tokens as llguidance knows them, and grammars compiled for them.

    Behind the tokens stand those that begin with a space again, without it; then an end, which
    stands for all ends of answers. Control tokens have names that nobody can guess. BadInput for
    a tokenizer whose tokens have no bytes of their own.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        detokenizer = tokenizer.detokenizer()
        if tokenizer.bytes_of is None or detokenizer.ends_words() or detokenizer.strip > 1:
            raise BadInput(
                "constrained output by a tokenizer whose tokens have no bytes of their own",
                "byte-level BPE or SentencePiece",
                "ask this model without a constraint",
            )
        key = secrets.token_hex(8)
        self.size = tokenizer.size()
        self.control = {id_: f"<{key}-{id_}>" for id_ in tokenizer.names}
        self.tokens = [self.bytes_of(tokenizer, id_) for id_ in range(self.size)]
        plain = [id_ for id_ in range(self.size) if id_ not in self.control]
        spaced = [id_ for id_ in plain if self.tokens[id_][:1] == b" " != self.tokens[id_]]
        self.blanks = {id_ for id_ in plain if self.tokens[id_] == b" "}
        self.alias = {id_: self.size + place for place, id_ in enumerate(spaced)}
        self.spaced, self.blank = np.array(spaced, np.int64), np.array([*self.blanks], np.int64)
        self.aliases = np.array([self.alias[id_] for id_ in spaced], np.int64)
        self.tokens += [*(self.tokens[id_][1:] for id_ in spaced), b"<end>"]
        self.eos_token_id = len(self.tokens) - 1
        self.special_token_ids = [*self.control, self.eos_token_id]
        self.lock = threading.Lock()
        self.kept: OrderedDict[str, Compiled] = OrderedDict()
        self.inner = llguidance().LLTokenizer(self)

    def bytes_of(self, tokenizer: Tokenizer, id_: int) -> bytes:
        """The bytes of a token, its secret name if it is a control token, none without a token."""
        if id_ in self.control:
            return self.control[id_].encode()
        try:
            name = tokenizer.token(id_)
        except BadInput:
            return b""
        assert tokenizer.bytes_of is not None
        return tokenizer.bytes_of(name)

    def __call__(self, text: str) -> list[int]:
        """The ids of a text: never asked for, as no token is forced."""
        return []

    def compiled(self, language: Language) -> Compiled:
        """A language for these tokens, kept for the next request.

        BadInput for one that cannot be compiled in bounded time, and for one without a text.
        """
        source = language.source
        with self.lock:
            found = self.kept.get(source)
        if found is None:
            found = self.compile(source)
        with self.lock:
            self.kept[source] = found
            self.kept.move_to_end(source)
            while len(self.kept) > KEPT_GRAMMARS or sum(map(len, self.kept)) > KEPT_CHARACTERS:
                self.kept.popitem(last=False)
        return found

    def compile(self, source: str) -> Compiled:
        """A grammar's language."""
        special = [name for name in self.control.values() if name in source]
        try_out(source, special)
        found = llguidance().LLMatcher(self.inner, source, log_level=0, limits=limits())
        found.compute_bitmask()
        if found.is_error():
            raise refused(found.get_error())
        return Compiled(self, found)


@dataclass(frozen=True)
class Compiled:
    """A language for the tokens of one vocabulary."""

    vocabulary: Vocabulary
    inner: Any

    def matcher(self, strip: bool, stop_ids: Collection[int]) -> Matcher:
        """A text that is about to begin."""
        return Matcher(self.vocabulary, self.inner.deep_copy(), strip, stop_ids)


def try_out(source: str, special: Sequence[str]) -> None:
    """Compile a grammar in a process of its own; BadInput for one at fault, and for one that
    takes too long."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(WORKER)],
            input=json.dumps({"grammar": source, "special": list(special)}).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            timeout=PATIENCE,
            check=False,
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except subprocess.TimeoutExpired:
        answer = None
    if answer is None:
        raise BadInput(
            f"a constraint that is not compiled within {SECONDS} s, {MEMORY >> 30} GiB and "
            f"{STACK >> 20} MiB of stack",
            "a simpler constraint",
        )
    if answer["error"]:
        raise refused(answer["error"])


def refused(error: str) -> BadInput:
    """A grammar's fault in llguidance's words."""
    if error.startswith("NoExtension"):
        return BadInput("a constraint that no text meets", "one that some text meets")
    return BadInput(f"a constraint that cannot be enforced: {first_line(error)}", "another one")


def first_line(error: str) -> str:
    """What llguidance says, without the grammar round it; a regular expression's fault is its last
    line."""
    line = error.split("\n   1 |")[0].removesuffix("<non-verbose/>").strip()
    last = re.search(r"^error: (.*)$", line, re.MULTILINE)
    found = last[1] if last else line.split("\n")[0]
    return re.sub(r"^at \d+\(\d+\): ", "", found).split("; following special tokens")[0]


VOCABULARIES: WeakKeyDictionary[Tokenizer, Vocabulary] = WeakKeyDictionary()
LOCK = threading.Lock()


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer's vocabulary as llguidance knows it, made at its first use."""
    with LOCK:
        if tokenizer not in VOCABULARIES:
            VOCABULARIES[tokenizer] = Vocabulary(tokenizer)
        return VOCABULARIES[tokenizer]


def llguidance() -> Any:
    """The library; MissingPart where it is not installed."""
    try:
        import llguidance as found
    except ImportError:
        raise MissingPart(
            "constrained output without the library llguidance",
            "it beside lmwright",
            "pip install 'lmwright[serve]'",
        ) from None
    return found
