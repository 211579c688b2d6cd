"""Check ``learnt tokens``: how much of each row is learnt, and what of it is cut off."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lmwright.core.finding import Finding
from lmwright.train.batches import UNLEARNT, Example
from lmwright.train.check import (
    MANY,
    Trial,
    WritesAnswers,
    learnt,
    learnt_tokens,
    word_of,
)

NAME = "learnt tokens"
UNBOUND = 1 << 20
"""Tokens of a row that nothing cuts."""


def check(trial: Trial) -> Iterator[Finding]:
    """Rows of which nothing is learnt; answers and prompts that are cut."""
    if trial.documents:
        yield from of_documents(trial)
    else:
        yield from of_examples(trial)


def of_documents(trial: Trial) -> Iterator[Finding]:
    """Of rows with a prompt and an answer."""
    counts = np.array([int(learnt_tokens(item).sum()) for item in trial.documents])
    sizes = np.array([len(item.tokens) for item in trial.documents])
    yield from empty_rows(trial, counts)
    if counts.any():
        least = int(counts.argmin())
        yield Finding(
            NAME,
            "note",
            f"{int(np.median(counts))} tokens of a row are learnt in the median "
            f"({counts.min()} to {counts.max()}), {counts.sum() / sizes.sum():.0%} of all",
            trial.ids[least],
        )
    yield from cut_answers(trial)
    yield from cut_prompts(trial)


def empty_rows(trial: Trial, counts: np.ndarray) -> Iterator[Finding]:
    """Rows of which nothing is learnt."""
    none = np.flatnonzero(counts == 0)
    if len(none):
        share = len(none) / len(counts)
        yield Finding(
            NAME,
            "stop" if share > MANY else "warn",
            f"nothing is learnt of {len(none):,} of {len(counts):,} rows ({share:.1%})",
            trial.ids[none[0]],
            "raise max_tokens, or leave these rows out",
        )


def cut_answers(trial: Trial) -> Iterator[Finding]:
    """Answers that lose their end: the model would not learn to stop."""
    stops = set(trial.model.stop_ids)
    ends = [
        len(item.tokens) > item.first and int(item.tokens[-1]) in stops for item in trial.documents
    ]
    cut = [n for n, item in enumerate(trial.documents) if item.cut and not ends[n]]
    if not cut:
        return
    whole = [trial.answer_size(place) for place in cut]
    lost = sum(
        max(0, each - (len(trial.documents[n].tokens) - trial.documents[n].first))
        for n, each in zip(cut, whole, strict=True)
    )
    share = len(cut) / len(trial.documents)
    yield Finding(
        NAME,
        word_of(share),
        f"{len(cut):,} of {len(ends):,} answers ({share:.1%}) are cut, and their end is not "
        f"learnt; they lose {lost:,} tokens",
        trial.ids[cut[0]],
        f"raise decoding.max_new_tokens to {max(whole)}, or leave these rows out",
    )


def cut_prompts(trial: Trial) -> Iterator[Finding]:
    """Prompts that lose something, and how many tokens."""
    assert isinstance(trial.task_model, WritesAnswers)
    cut = [n for n, item in enumerate(trial.documents) if item.cut]
    free = trial.model.with_network(trial.model.network, UNBOUND)
    whole = trial.task_model.documents(free, [trial.given[n] for n in cut])
    lost = [
        len(one.prompt) - len(other.prompt)
        for one, other in ((each, trial.documents[n]) for each, n in zip(whole, cut, strict=True))
        if one.prompt is not None and other.prompt is not None
    ]
    if some := [each for each in lost if each > 0]:
        worst = cut[int(np.argmax(lost))]
        yield Finding(
            NAME,
            "note",
            f"{len(some):,} of {len(trial.documents):,} prompts "
            f"({len(some) / len(trial.documents):.1%}) are longer than max_tokens leaves room for; "
            f"they lose {sum(some):,} tokens",
            trial.ids[worst],
            "raise max_tokens where their ends matter",
        )


def of_examples(trial: Trial) -> Iterator[Finding]:
    """Of rows whose target is a class, numbers, or one a token."""
    by_row: dict[int, int] = {}
    for each in trial.examples:
        by_row[each.document] = by_row.get(each.document, 0) + targets_of(each)
    counts = np.array(list(by_row.values()))
    none = [row for row, count in by_row.items() if not count]
    if none:
        share = len(none) / len(counts)
        yield Finding(
            NAME,
            "stop" if share > MANY else "warn",
            f"nothing is learnt of {len(none):,} of {len(counts):,} texts ({share:.1%})",
            f"{none[0]:032x}",
            "raise max_tokens, or leave these rows out",
        )
    if cut := [each for each in trial.examples if each.cut]:
        free = trial.model.with_network(trial.model.network, UNBOUND)
        names = {each.document for each in cut}
        chosen = [n for n, row in enumerate(trial.ids) if int(row, 16) in names]
        whole = trial.task_model.examples(free, trial.sample.take(chosen))
        lost = sum(len(each.tokens) for each in whole) - sum(len(each.tokens) for each in cut)
        yield Finding(
            NAME,
            "note",
            f"{len(cut):,} of {len(trial.examples):,} texts ({len(cut) / len(trial.examples):.1%}) "
            f"are longer than max_tokens; they lose {max(lost, 0):,} tokens",
            f"{cut[0].document:032x}",
            "raise max_tokens where their ends matter",
        )


def targets_of(example: Example) -> int:
    """How many targets of an example are learnt."""
    target = np.asarray(example.target)
    if target.dtype.kind == "f":
        return int(np.isfinite(target).sum()) or int(bool(example.beside))
    if len(tokens := learnt(example)):
        return int(tokens.sum())
    return int((target != UNLEARNT).sum()) or int(bool(example.beside))
