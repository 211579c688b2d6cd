"""Check ``repeats``: answers that are all alike, and passages that stand twice in a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from lmwright.core.finding import Finding
from lmwright.train.batches import EpochBatches, Example
from lmwright.train.check import MANY, Trial

NAME = "repeats"
ALIKE = 0.8
"""Share of common tokens from which on two passages are near duplicates."""
BATCHES = 20
"""Batches that are looked through."""


def check(trial: Trial) -> Iterator[Finding]:
    """Answers that most rows share; near duplicates among the negatives of a batch."""
    if trial.documents:
        yield from same_answers(trial)
    elif any(each.beside for each in trial.examples):
        yield from near_duplicates(trial)
        yield from equal_pairs(trial)


def same_answers(trial: Trial) -> Iterator[Finding]:
    """One answer to many prompts, which a model learns before it learns anything else."""
    answers = [tuple(item.tokens[item.first :].tolist()) for item in trial.documents]
    commonest, count = Counter(answers).most_common(1)[0]
    if len(answers) > 1 and count / len(answers) > 0.5 and len(commonest) > 1:
        yield Finding(
            NAME,
            "warn",
            f"{count:,} of {len(answers):,} rows ({count / len(answers):.0%}) have one answer: "
            f"{trial.model.tokenizer.decode([*commonest])[:60]!r}",
            trial.ids[answers.index(commonest)],
            "take text-classification, or leave most of them out",
        )


def near_duplicates(trial: Trial) -> Iterator[Finding]:
    """Passages of a batch that are nearly another row's right one: negatives that are none."""
    batches = EpochBatches(trial.examples, trial.batch, 1, trial.seed)
    looked, found = 0, list[Example]()
    for step in range(min(BATCHES, batches.per_epoch)):
        batch = batches.at(step)
        looked += len(batch)
        found += [batch[place] for place in duplicated([each.beside[0] for each in batch])]
    if found:
        share = len(found) / looked
        yield Finding(
            NAME,
            "warn" if share > MANY else "note",
            f"{len(found):,} of {looked:,} rows ({share:.1%}) have in their batch a passage that "
            "is nearly their own",
            f"{found[0].document:032x}",
            "merge such rows: side: {cluster: …}, or a smaller batch",
        )


def duplicated(passages: Sequence[Example]) -> list[int]:
    """Places of the passages that have another one's tokens, nearly all, but are not equal to it:
    equal ones are no negatives of each other."""
    bags = [frozenset(each.tokens.tolist()) for each in passages]
    found = []
    for place, bag in enumerate(bags):
        others = (
            other
            for n, other in enumerate(bags)
            if n != place and not np.array_equal(passages[n].tokens, passages[place].tokens)
        )
        if any(len(bag & other) >= ALIKE * len(bag | other) for other in others):
            found.append(place)
    return found


def equal_pairs(trial: Trial) -> Iterator[Finding]:
    """Rows whose rejected passage is the right one."""
    found = [
        each
        for each in trial.examples
        if any(np.array_equal(each.beside[0].tokens, other.tokens) for other in each.beside[1:])
    ]
    if found:
        share = len(found) / len(trial.examples)
        yield Finding(
            NAME,
            "stop" if share > MANY else "warn",
            f"{len(found):,} rows ({share:.1%}) have their right passage among the negatives",
            f"{found[0].document:032x}",
            "leave these negatives out",
        )
