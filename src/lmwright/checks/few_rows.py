"""Probe ``few rows``: eight rows are learnt by heart, and answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lmwright.core.finding import Finding
from lmwright.models.network.network import Network
from lmwright.train.batches import Example
from lmwright.train.check import Trial, WritesAnswers

NAME = "few rows"
ROWS = 8
STEPS = 80
ENOUGH = 0.1
"""The loss (nats) at which the rows are held to be learnt."""


def check(trial: Trial) -> Iterator[Finding]:
    """The loss of eight rows after steps on them alone, and the answers to them."""
    rows = min(ROWS, trial.sample.num_rows)
    examples = trial.task_model.examples(trial.model, trial.sample.slice(0, rows))
    network = trial.copy()
    loss, steps = by_heart(trial, network, examples)
    said = f"{rows} rows have a loss of {loss:.3g} after {steps} steps on them alone"
    floor = ENOUGH if writes(trial) or is_class(examples) else float("inf")
    if not loss < floor:
        yield Finding(
            NAME,
            "warn",
            f"{said}, and {ENOUGH} was wanted",
            cure="raise lr, or lr's reach: tune more weights; see the other findings",
        )
    elif not writes(trial):
        yield Finding(NAME, "note", said)
    else:
        yield from answered(trial, network, rows, said)


def answered(trial: Trial, network: Network, rows: int, said: str) -> Iterator[Finding]:
    """Greedy answers to the rows that were learnt, against their targets, and which of them end."""
    assert isinstance(trial.task_model, WritesAnswers)
    model = trial.model.with_network(network, trial.model.max_tokens)
    items = trial.task_model.prepare(model, trial.asked[:rows])
    with torch.inference_mode():
        written = trial.task_model.written_answers(model, items)  # type: ignore[attr-defined]
    wanted = [answer_of(trial, place) for place in range(rows)]
    right = [each.text.strip() == text for each, text in zip(written, wanted, strict=True)]
    ended = sum(each.ended for each in written)
    told = (
        f"{said}; {sum(right)} of {rows} answers are those that were learnt, "
        f"{ended} end by themselves"
    )
    if sum(right) < rows - 1:
        first = right.index(False)
        yield Finding(
            NAME,
            "warn",
            f"{told}; wanted {wanted[first][:60]!r}, written {written[first].text[:60]!r}",
            trial.ids[first],
            "see the findings on rendering, endings and special tokens",
        )
    else:
        yield Finding(NAME, "note", told)


def answer_of(trial: Trial, place: int) -> str:
    """The text of a row's answer as far as it was learnt."""
    item = trial.documents[place]
    ids = [int(each) for each in item.tokens[item.first :] if int(each) not in trial.model.stop_ids]
    return trial.model.tokenizer.decode(ids).strip()


def by_heart(trial: Trial, network: Network, examples: Sequence[Example]) -> tuple[float, int]:
    """The loss of examples after steps on them alone, and how many steps."""
    optimizer = trial.optimizer.make(network)
    for step in range(STEPS):
        mean = trial.task_model.loss(network, examples, None).mean
        if not torch.isfinite(mean) or float(mean.detach()) < ENOUGH / 2:
            return float(mean.detach()), step
        mean.backward()
        trial.move(network, optimizer, step, trial.descent.lr)
    with torch.no_grad():
        return float(trial.task_model.loss(network, examples, None).mean), STEPS


def writes(trial: Trial) -> bool:
    """True for a task whose answers are texts."""
    return bool(trial.documents)


def is_class(examples: Sequence[Example]) -> bool:
    """True for targets that are classes, whose loss can come near 0."""
    return all(np.asarray(each.target).dtype.kind == "i" and not each.beside for each in examples)
