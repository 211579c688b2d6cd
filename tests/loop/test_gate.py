"""The gate: every condition must hold, and too few rows is no pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from lmwright.core.errors import BadInput
from lmwright.loop.gate import Candidate, Condition, Gate, Slices, lacking, run_gate
from lmwright.metrics.noninferiority import allowance
from lmwright.models.calibration import Calibration
from tests.serve.fake import Words

LABELS = ("no", "yes")


class Skilled:
    """Knows the answer (the word yes in the text) and says so with a set skill; a fake."""

    kind = "skilled"
    labels = LABELS

    def __init__(self, skill: float, blind_to: str = "nothing") -> None:
        self.skill, self.blind_to = skill, blind_to

    def prepare(self, texts: Sequence[str]) -> list[Words]:
        return [Words(text) for text in texts]

    def logits(self, batch: Sequence[Words]) -> np.ndarray:
        found = np.zeros((len(batch), 2))
        for row, item in enumerate(batch):
            words = item.text.split()
            noise = np.sin(hash_of(item.text)) * 1.5
            skill = -1.0 if self.blind_to in words else self.skill
            found[row, 1] = (skill if "yes" in words else -skill) + noise
        return found


def hash_of(text: str) -> float:
    """A number that the text alone sets."""
    return float(sum(ord(c) * (k + 1) for k, c in enumerate(text)))


def rows(count: int, tag: str) -> pa.Table:
    """Rows whose label stands in their text."""
    labels = [LABELS[k % 2] for k in range(count)]
    return pa.table(
        {
            "id": [f"{tag}{k:05d}" for k in range(count)],
            "text": [f"{label} {tag} {k}" for k, label in enumerate(labels)],
            "label": labels,
            "source": [tag] * count,
        }
    )


def judged(gate: Gate, new: Skilled, old: Skilled, fresh: int = 400) -> dict:
    """Condition's name -> whether it holds."""
    return {condition.name: condition.passed for condition in held(gate, new, old, fresh)}


def held(
    gate: Gate, new: Skilled, old: Skilled, fresh: int = 400, fresh_used: int = 0, used: int = 0
) -> list[Condition]:
    """The conditions on fresh rows and an old world that served gates so often before."""
    sets = {"feedback/gate": rows(fresh, "new"), "rows/gate": rows(400, "old")}
    contenders = [Candidate(model, Calibration(), 1_000_000) for model in (new, old)]
    uses = {"feedback/gate": fresh_used, "rows/gate": used}
    return run_gate(gate, sets, LABELS, contenders[0], contenders[1], uses, 0, timed=False)


GATE = Gate(fresh="feedback/gate", kept=("rows/gate",), slices=Slices(rows=50))
QUALITY, KEPT = "quality on feedback/gate", "not forgotten: rows/gate"


def test_a_better_model_passes_every_condition() -> None:
    found = judged(Gate(**{**vars(GATE), "claim": "superior"}), Skilled(3.0), Skilled(1.0))
    assert set(found) == {QUALITY, KEPT, "slice label: no", "slice label: yes", "size"}
    assert all(found.values())


def test_an_equal_model_is_not_inferior_and_not_superior() -> None:
    assert judged(GATE, Skilled(2.0), Skilled(2.0))[QUALITY]
    strict = Gate(**{**vars(GATE), "claim": "superior"})
    assert not judged(strict, Skilled(2.0), Skilled(2.0))[QUALITY]


def test_a_worse_model_fails() -> None:
    assert not judged(GATE, Skilled(1.0), Skilled(2.0))[QUALITY]


def test_a_model_that_forgot_the_old_world_fails_there_only() -> None:
    found = judged(GATE, Skilled(3.0, blind_to="old"), Skilled(2.0))
    assert found[QUALITY]
    assert not found[KEPT]


def test_a_model_that_is_blind_to_one_label_fails_that_slice() -> None:
    found = judged(GATE, Skilled(4.0, blind_to="no"), Skilled(1.0))
    assert not found["slice label: no"]
    assert found["slice label: yes"]


class Surprised(Skilled):
    """Skilled, but for some texts, whose answer it has wrong with certainty; a fake."""

    def __init__(self, skill: float, numbers: frozenset[int]) -> None:
        super().__init__(skill)
        self.numbers = numbers

    def logits(self, batch: Sequence[Words]) -> np.ndarray:
        found = super().logits(batch)
        for row, item in enumerate(batch):
            label, _, number = item.text.split()
            if int(number) in self.numbers:
                found[row, 1] = -20.0 if label == "yes" else 20.0
        return found


def test_two_certain_mistakes_do_not_outweigh_a_slice_by_a_bounded_score_but_twenty_do() -> None:
    by_logs = Gate(**{**vars(GATE), "slices": Slices(rows=50, metric="log_loss")})
    for gate, mistakes, passes in ((GATE, 4, True), (by_logs, 4, False), (GATE, 40, False)):
        new = Surprised(2.0, frozenset(range(mistakes)))  # half of them "no", half "yes"
        found = {each.name: each for each in held(gate, new, Skilled(2.0))}
        assert gate.slices is not None
        for label in LABELS:
            assert found[f"slice label: {label}"].passed == passes
            assert found[f"slice label: {label}"].evidence["metric"] == gate.slices.metric


def test_too_few_rows_is_no_pass() -> None:
    found = judged(GATE, Skilled(3.0), Skilled(1.0), fresh=60)
    assert not found["slice label: no"]
    assert not judged(GATE, Skilled(3.0), Skilled(1.0), fresh=20)[QUALITY]


@pytest.mark.parametrize("others", [0, 10])
def test_a_label_of_which_there_are_few_rows_or_none_is_no_pass(others: int) -> None:
    both = rows(400, "new")  # a "no", a "yes", and so on
    fresh = both.take([*range(1, 400, 2), *range(0, 2 * others, 2)])
    contenders = [
        Candidate(Skilled(skill, blind), Calibration(), 1_000_000)
        for skill, blind in ((3.0, "no"), (1.0, "nothing"))
    ]
    gate = Gate(**{**vars(GATE), "kept": ()})
    found = run_gate(
        gate, {gate.fresh: fresh}, LABELS, *contenders, {gate.fresh: 0}, 0, timed=False
    )
    passed = {each.name: each.passed for each in found}
    assert passed[QUALITY] and passed["slice label: yes"] and not passed["slice label: no"]
    told = lacking(gate, fresh, LABELS)
    assert told == f"{others} of 50 rows of the slice label: no"


def test_rows_that_are_enough_lack_nothing() -> None:
    assert lacking(GATE, rows(100, "new"), LABELS) == ""
    assert lacking(GATE, rows(98, "new"), LABELS) == "49 of 50 rows of the slice label: no"
    plain = Gate(**{**vars(GATE), "slices": None})
    assert lacking(plain, rows(30, "new"), LABELS) == ""
    assert lacking(plain, rows(29, "new"), LABELS) == "29 of 30 rows"
    by_length = Gate(**{**vars(GATE), "slices": Slices(kinds=("length",), rows=20)})
    assert "length: quarter" in lacking(by_length, rows(60, "new"), LABELS)


def test_a_model_that_is_too_large_fails() -> None:
    small = Gate(**{**vars(GATE), "max_megabytes": 0.5})
    assert not judged(small, Skilled(3.0), Skilled(1.0))["size"]


def test_each_use_of_the_same_rows_asks_for_more() -> None:
    spent = [allowance(GATE.alpha, used) for used in range(200)]
    assert spent == sorted(spent, reverse=True)
    assert sum(spent) < GATE.alpha


def test_fresh_and_kept_rows_spend_alpha_by_their_own_uses() -> None:
    found = {c.name: c for c in held(GATE, Skilled(2.0), Skilled(2.0), fresh_used=1, used=3)}
    assert found[QUALITY].evidence["alpha"] == allowance(GATE.alpha, 1)
    assert found["slice label: no"].evidence["alpha"] == allowance(GATE.alpha, 1)
    assert found[KEPT].evidence["alpha"] == allowance(GATE.alpha, 3)


@pytest.mark.parametrize(
    "changed", [{"fresh": "rows"}, {"alpha": 0.7}, {"margin": -0.1}, {"max_slowdown": 0}]
)
def test_settings_out_of_range_are_refused(changed: dict) -> None:
    with pytest.raises(BadInput):
        Gate(**{**vars(GATE), **changed}).check()
