"""Check ``rendering``: a prompt has the same ids in training as in service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.finding import Finding
from lmwright.models.text_model import TextModel
from lmwright.train.check import Trial
from lmwright.train.documents import Document

NAME = "rendering"
RENDERED = 200
"""Rows whose rendering is compared."""
BORDER = 6
"""Tokens on either side of the border between prompt and answer that are encoded anew."""


def check(trial: Trial) -> Iterator[Finding]:
    """Prompts that are rendered otherwise in service, turns that are no prefix, merged borders."""
    documents = trial.documents[:RENDERED]
    if not documents:
        return
    yield from served_otherwise(trial, documents)
    yield from turns(trial)
    yield from borders(trial, documents)


def served_otherwise(trial: Trial, documents: Sequence[Document]) -> Iterator[Finding]:
    """Prompts whose ids in training differ from those that a request gets."""
    requests = trial.task_model.prepare(trial.model, trial.asked[: len(documents)])
    different = [
        place
        for place, (item, request) in enumerate(zip(documents, requests, strict=True))
        if not same_prompt(trial.model, item, request, trial.asked[place])
    ]
    if different:
        yield Finding(
            NAME,
            "stop",
            f"{len(different):,} of {len(documents):,} prompts have other ids in training than in "
            "service",
            trial.ids[different[0]],
            "name a template that renders a conversation the same whatever follows it",
        )
    else:
        yield Finding(
            NAME, "note", f"{len(documents):,} prompts have the same ids in training and in service"
        )


def same_prompt(model: TextModel, item: Document, request: Any, row: Row) -> bool:
    """Whether a row's prompt is that of the request with its inputs; of a conversation also that
    which the route of chat completions renders."""
    if item.prompt is None:
        return True
    read = item.tokens[: item.first] if item.source is None else item.source
    same = np.array_equal(read, request.prompt)
    if "messages" in row and not item.cut:
        same = same and np.array_equal(read, model.chat_ids(row["messages"]))
    return bool(same)


def turns(trial: Trial) -> Iterator[Finding]:
    """Conversations whose beginning is rendered otherwise once they go on."""
    template = trial.model.template
    long = [
        (row, id)
        for row, id in zip(trial.asked, trial.ids, strict=True)
        if len(row.get("messages") or ()) > 2
    ][:RENDERED]
    if template is None or not long:
        return
    different = []
    for row, id in long:
        messages: Sequence[Mapping[str, Any]] = row["messages"]
        earlier = template.ids(trial.model.tokenizer, messages[:-1])
        try:
            whole = template.ids(trial.model.tokenizer, messages, add_generation_prompt=True)
        except BadInput:
            whole = earlier[:0]
        if not np.array_equal(whole[: len(earlier)], earlier):
            different.append(id)
    if different:
        yield Finding(
            NAME,
            "warn",
            f"{len(different):,} of {len(long):,} conversations are rendered otherwise once they "
            "go on: every turn is read anew, and earlier answers are not those that were learnt",
            different[0],
            "name a template that only adds to what it rendered before",
        )


def borders(trial: Trial, documents: Sequence[Document]) -> Iterator[Finding]:
    """Rows whose prompt and answer merge into other tokens when they are encoded together."""
    known, merged = 0, []
    for place, item in enumerate(documents):
        found = merges(trial.model, item)
        known += found is not None
        if found:
            merged.append(place)
    if merged:
        share = len(merged) / known
        yield Finding(
            NAME,
            "warn" if share > 0.5 else "note",
            f"{len(merged):,} of {known:,} prompts merge with their answers when both are encoded "
            "together: the start never saw such a border",
            trial.ids[merged[0]],
            "end the prompt with a line break or a token of its own, never with a space",
        )


def merges(model: TextModel, item: Document) -> bool | None:
    """Whether the last token of a prompt merges with the answer; None where that is not known."""
    if item.source is not None or item.prompt is None or len(item.tokens) <= item.first:
        return None
    control, tokenizer = set(model.tokenizer.control.values()), model.tokenizer
    left, right = (
        [int(each) for each in ids]
        for ids in (
            item.tokens[max(0, item.first - BORDER) : item.first],
            item.tokens[item.first : item.first + BORDER],
        )
    )
    for place, each in enumerate(reversed(left)):
        if each in control:
            left = left[len(left) - place :]
            break
    right = right[: next((n for n, each in enumerate(right) if each in control), len(right))]
    if not left or not right:
        return False  # a special token stands between them
    texts = [tokenizer.decode(each) for each in (left, right, [*left, *right])]
    if [tokenizer.ids(text).tolist() for text in texts[:2]] != [left, right]:
        return None  # a stretch that does not encode to itself tells nothing
    return tokenizer.ids(texts[2]).tolist() != [*left, *right]
