"""How an answer is held to its form and told apart: what a request and a chat template ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lmwright.core.errors import BadInput, LmwrightError
from lmwright.models.text_model import TextModel
from lmwright.serve.calls.reader import CallReader, ContentReader, Reader
from lmwright.serve.calls.syntax import Syntax
from lmwright.serve.calls.table import syntax_of
from lmwright.serve.output_format import OutputFormat
from lmwright.serve.reasoning import BEGIN, END, ReasoningReader
from lmwright.serve.request import RequestFault, in_words
from lmwright.serve.tools import Tools
from lmwright.text.constrained import Compiled, Language, Vocabulary, quoted, vocabulary_of
from lmwright.text.tokenizer import Tokenizer

PROMPT_END = 16
"""Tokens at a prompt's end that may hold the beginning of reasoning."""


@dataclass(frozen=True)
class AnswerForm:
    """The parts of a generation request of the same names."""

    constraint: Compiled | None = None
    reader: Callable[[], Reader] | None = None
    shown: frozenset[int] = frozenset()


def text_form(asked: OutputFormat | None, model: TextModel) -> AnswerForm:
    """The form of a completion; RequestFault for one that cannot be kept to."""
    if asked is None:
        return AnswerForm()
    return AnswerForm(constraint(asked.param, asked.language, model.tokenizer))


def chat_form(
    asked: OutputFormat | None, tools: Tools | None, model: TextModel, prompt: np.ndarray
) -> AnswerForm:
    """The form of an answer to a conversation, whose prompt has these ids.

    RequestFault where the template has its model call nothing, or call in no syntax that is known,
    and for a form that cannot be kept to.
    """
    template = "" if model.template is None else model.template.source
    tokenizer, reasons = model.tokenizer, may_reason(template, model.tokenizer)
    syntax = None if tools is None else called_syntax(model)
    read = [*(syntax.markers if syntax else ()), *((BEGIN, END) if reasons else ())]
    shown = frozenset(tokenizer.control[each] for each in read if each in tokenizer.control)
    open_ = reasons and ends_with_begin(tokenizer, prompt)

    def reader() -> Reader:
        found: Reader = ContentReader()
        if syntax is not None and tools is not None:
            found = CallReader(syntax, tools.names, tools.several, tools.forced)
        return ReasoningReader(found, open_) if reasons else found

    param, make = "tools", None
    if asked is not None:
        param, make = asked.param, lambda mark: asked.language()
    elif syntax is not None and tools is not None and (tools.forced or tools.strict):
        calls = syntax.calls if tools.forced else syntax.beside_text
        make = lambda mark: calls(tools.functions, tools.several, mark)  # noqa: E731
    held = None
    if make is not None:

        def language() -> Language:
            mark = marks(vocabulary_of(tokenizer), tokenizer)
            found = make(mark)
            return found.after(open_, mark(BEGIN), mark(END)) if reasons else found

        held = constraint(param, language, tokenizer)
    return AnswerForm(held, reader if reasons or syntax else None, shown)


def called_syntax(model: TextModel) -> Syntax:
    """The syntax in which a model calls tools; RequestFault where it calls none."""
    if model.template is None or "tools" not in model.template.sandbox.reads:
        raise RequestFault(400, "the model's chat template reads no tools", "tools")
    found = syntax_of(model.template.source)
    if found is None:
        raise RequestFault(
            400,
            "the model's chat template has calls written in a syntax that is not known",
            "tools",
        )
    return found


def may_reason(template: str, tokenizer: Tokenizer) -> bool:
    """Whether a model reasons before it answers, by its template or its vocabulary."""
    if BEGIN in template or END in template:
        return True
    return all(
        each in tokenizer.control or tokenizer.inner.token_to_id(each) is not None
        for each in (BEGIN, END)
    )


def ends_with_begin(tokenizer: Tokenizer, prompt: np.ndarray) -> bool:
    """Whether a prompt ends with the beginning of reasoning."""
    text = tokenizer.decode(prompt[-PROMPT_END:].tolist(), special=True)
    return text.rstrip().endswith(BEGIN)


def marks(vocabulary: Vocabulary, tokenizer: Tokenizer) -> Callable[[str], str]:
    """The expression of a marker: its token where there is one, else its text."""

    def mark(text: str) -> str:
        id_ = tokenizer.control.get(text)
        return quoted(text) if id_ is None else vocabulary.control[id_]

    return mark


def constraint(param: str, language: Callable[[], Language], tokenizer: Tokenizer) -> Compiled:
    """A language for a model's tokens; RequestFault where it cannot be kept to."""
    try:
        return vocabulary_of(tokenizer).compiled(language())
    except BadInput as fault:
        raise RequestFault(400, f"{param}: {in_words(fault)}", param) from None
    except LmwrightError as fault:
        raise RequestFault(501, f"{param}: {in_words(fault)}", param) from None
