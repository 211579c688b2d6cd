"""The gate: every condition must hold, and too few rows is no pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.task import Answers, Task
from lmwright.data.corpus import row_keys
from lmwright.loop.gate import Condition, Gate, Judged, Slices, audited, lacking, run_gate
from lmwright.metrics.calibration import NEVER, Calibration
from lmwright.metrics.noninferiority import FEWEST, allowance
from lmwright.tasks.text_classification import TextClassification
from tests.serve.fake import Words

LABELS = ("no", "yes")
TASK = TextClassification(labels=LABELS)
CALIBRATION = Calibration(smoothing=0.001)  # so that a log-loss has a largest value


class Skilled:
    """Knows the answer (the word yes in the text) and says so with a set skill; a fake."""

    kind = "skilled"

    def __init__(self, skill: float, blind_to: str = "nothing") -> None:
        self.task: Task = TASK
        self.skill, self.blind_to = skill, blind_to

    def prepare(self, rows: Sequence[Row]) -> list[Words]:
        return [Words(row["text"]) for row in rows]

    def answers(self, batch: Sequence[Words]) -> Answers:
        return Answers({"logits": self.logits(batch)})

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


def one(model: Skilled, learnt: Sequence[str] = (), **calibration: float) -> Judged:
    """A model of a megabyte that is judged."""
    return Judged(model, replace(CALIBRATION, **calibration), 1_000_000, frozenset(learnt))


def held(
    gate: Gate, new: Skilled, old: Skilled, fresh: int = 400, fresh_used: int = 0, used: int = 0
) -> list[Condition]:
    """The conditions on fresh rows and an earlier test set that served gates so often before."""
    sets = {"feedback/gate": rows(fresh, "new"), "rows/gate": rows(400, "old")}
    uses = {"feedback/gate": fresh_used, "rows/gate": used}
    return run_gate(gate, TASK, sets, one(new), one(old), uses, timed=False)


def on_fresh(gate: Gate, fresh: pa.Table, new: Judged, old: Judged | None) -> dict[str, Condition]:
    """Condition's name -> condition, on fresh rows alone."""
    gate = replace(gate, kept=())
    found = run_gate(gate, TASK, {gate.fresh: fresh}, new, old, {gate.fresh: 0}, timed=False)
    return {each.name: each for each in found}


GATE = Gate(fresh="feedback/gate", kept=("rows/gate",), slices=Slices(rows=50))
QUALITY, KEPT = "quality on feedback/gate", "not forgotten: rows/gate"


def test_a_better_model_passes_every_condition() -> None:
    found = judged(Gate(**{**vars(GATE), "claim": "superior"}), Skilled(3.0), Skilled(1.0))
    assert set(found) == {QUALITY, KEPT, "slice label: no", "slice label: yes", "coverage", "size"}
    assert all(found.values())


def test_an_equal_model_is_not_inferior_and_not_superior() -> None:
    assert judged(GATE, Skilled(2.0), Skilled(2.0))[QUALITY]
    strict = Gate(**{**vars(GATE), "claim": "superior"})
    assert not judged(strict, Skilled(2.0), Skilled(2.0))[QUALITY]


def test_a_worse_model_fails() -> None:
    assert not judged(GATE, Skilled(1.0), Skilled(2.0))[QUALITY]


def test_a_model_that_forgot_the_earlier_rows_fails_there_only() -> None:
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
            asked = gate.slices.metric or "brier"
            assert found[f"slice label: {label}"].evidence["metric"] == asked


def test_too_few_rows_is_no_pass() -> None:
    assert not judged(GATE, Skilled(3.0), Skilled(1.0), fresh=20)[QUALITY]
    assert not judged(GATE, Skilled(3.0), Skilled(1.0), fresh=FEWEST - 1)[QUALITY]


def test_slices_with_few_rows_are_judged_together() -> None:
    found = judged(GATE, Skilled(3.0), Skilled(1.0), fresh=60)
    assert found["slice label: no, yes together"]
    assert "slice label: no" not in found
    worse = judged(GATE, Skilled(-3.0), Skilled(1.0), fresh=60)
    assert not worse["slice label: no, yes together"]


@pytest.mark.parametrize("others", [0, FEWEST - 1, FEWEST, 49])
def test_a_label_of_few_rows_is_judged_as_soon_as_any_bound_can_be(others: int) -> None:
    both = rows(400, "new")  # a "no", a "yes", and so on
    fresh = both.take([*range(1, 400, 2), *range(0, 2 * others, 2)])
    found = on_fresh(GATE, fresh, one(Skilled(3.0, "no")), one(Skilled(1.0)))
    judged_alone = {name for name in found if name.startswith("slice")}
    assert judged_alone == (
        {"slice label: yes", "slice label: no"}
        if others >= FEWEST
        else {"slice label: yes"}
        if others
        else set()  # it would be all rows
    )
    if others >= FEWEST:
        assert not found["slice label: no"].passed and found["slice label: yes"].passed


def test_rows_that_are_enough_lack_nothing() -> None:
    assert lacking(FEWEST) == ""
    assert lacking(29) == "1 more rows (29 of 30 are there)"
    assert lacking(0) == "30 more rows (0 of 30 are there)"


@pytest.mark.parametrize("whose", ["candidate", "incumbent"])
@pytest.mark.parametrize("known_by", ["id", "key"])
def test_rows_that_one_of_both_learnt_from_judge_nothing(whose: str, known_by: str) -> None:
    fresh = rows(400, "new")
    names = fresh.column("id").to_pylist() if known_by == "id" else row_keys(TASK, fresh)
    learnt: dict[str, list[str]] = {"candidate": [], "incumbent": []}
    for count, left in ((100, 300), (400, 0)):
        learnt[whose] = names[:count]
        new, old = one(Skilled(3.0), learnt["candidate"]), one(Skilled(1.0), learnt["incumbent"])
        found = on_fresh(GATE, fresh, new, old)
        if left:
            assert found[QUALITY].evidence["rows"] == left and found[QUALITY].passed
            continue
        (only,) = found.values()
        assert only.name == "rows of feedback/gate" and not only.passed
        assert "inconclusive" in only.reason


def test_a_kept_set_of_which_no_row_is_left_is_no_pass() -> None:
    kept = rows(400, "old")
    sets = {GATE.fresh: rows(400, "new"), "rows/gate": kept}
    new = one(Skilled(3.0), kept.column("id").to_pylist())
    found = run_gate(GATE, TASK, sets, new, one(Skilled(1.0)), dict.fromkeys(sets, 0), timed=False)
    passed = {each.name: each.passed for each in found}
    assert passed[QUALITY] and not passed["rows of rows/gate"] and KEPT not in passed


@pytest.mark.parametrize(
    ("asked", "skill", "passes"),
    [
        ("not shown worse", 3.0, True),
        ("not shown worse", 2.0, True),
        ("not shown worse", 1.0, False),
        ("not inferior", 2.0, True),
        ("not inferior", 1.0, False),
        ("ignored", 1.0, None),
    ],
)
def test_a_first_version_is_compared_with_the_other_baselines(
    asked: str, skill: float, passes: bool | None
) -> None:
    gate = replace(GATE, kept=(), slices=None, baselines=asked)
    found = run_gate(
        gate,
        TASK,
        {gate.fresh: rows(400, "new")},
        one(Skilled(skill)),
        None,
        {gate.fresh: 0},
        timed=False,
        baselines={"tfidf": one(Skilled(2.0))},
    )
    passed = {each.name: each.passed for each in found}
    assert passed.get("against tfidf") == passes
    assert QUALITY not in passed


def test_few_rows_show_no_baseline_better_and_none_not_inferior() -> None:
    for asked, passes in (("not shown worse", True), ("not inferior", False)):
        gate = replace(GATE, kept=(), slices=None, baselines=asked)
        found = run_gate(
            gate,
            TASK,
            {gate.fresh: rows(20, "new")},
            one(Skilled(2.0)),
            None,
            {gate.fresh: 0},
            timed=False,
            baselines={"tfidf": one(Skilled(2.0))},
        )
        assert {each.name: each.passed for each in found}["against tfidf"] == passes


def test_a_model_that_answers_nothing_fails_though_its_losses_are_small() -> None:
    fresh = rows(400, "new")
    mute = one(Skilled(3.0), threshold=NEVER)
    found = on_fresh(GATE, fresh, mute, one(Skilled(1.0)))
    assert found[QUALITY].passed and not found["coverage"].passed
    assert found["coverage"].evidence == {"coverage": 0.0}
    anyway = on_fresh(replace(GATE, min_coverage=0.0), fresh, mute, one(Skilled(1.0)))
    assert anyway["coverage"].passed


@pytest.mark.parametrize(
    ("asked", "verdict", "passes"),
    [
        ("passed", "passed", True),
        ("passed", "inconclusive", False),
        ("passed", "failed", False),
        ("not failed", "inconclusive", True),
        ("not failed", "failed", False),
        ("ignored", "failed", True),
    ],
)
def test_the_verdicts_of_the_audit_are_a_condition(asked: str, verdict: str, passes: bool) -> None:
    verdicts = {"slices": verdict, "personal": "passed"}
    found = audited(replace(GATE, audit=asked), verdicts)
    assert found.passed == passes
    assert passes or found.reason == f"slices {verdict}"


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
    "changed",
    [
        {"fresh": "rows"},
        {"alpha": 0.7},
        {"margin": -0.1},
        {"max_slowdown": 0},
        {"min_coverage": 1.1},
    ],
)
def test_settings_out_of_range_are_refused(changed: dict) -> None:
    with pytest.raises(BadInput):
        Gate(**{**vars(GATE), **changed}).check()


def test_the_recall_of_one_label_decides_where_it_is_the_metric() -> None:
    """A model that takes 73 % of the one label for the other fails by its recall alone."""
    gate = replace(GATE, metric="recall.yes", slices=None, margin=0.1, kept_margin=0.1)
    found = {c.name: c for c in held(gate, Skilled(4.0), Skilled(4.0))}
    assert found[QUALITY].passed
    assert found[QUALITY].evidence["rows"] == 200, "the rows of the label"
    found = {c.name: c for c in held(gate, Skilled(4.0, blind_to="yes"), Skilled(4.0))}
    assert not found[QUALITY].passed and found[QUALITY].evidence["difference"] == pytest.approx(
        0.73
    )
    other = replace(gate, metric="recall.no")
    assert judged(other, Skilled(4.0, blind_to="yes"), Skilled(4.0))[QUALITY]


@pytest.mark.parametrize("metric", ["macro_f1", "precision.yes", "macro_roc_auc"])
def test_a_score_that_is_no_mean_of_losses_decides(metric: str) -> None:
    gate = replace(GATE, metric=metric, slices=None, margin=0.05, kept_margin=0.05)
    assert judged(gate, Skilled(4.0), Skilled(4.0))[QUALITY]
    found = {c.name: c for c in held(gate, Skilled(-0.5), Skilled(4.0))}[QUALITY]
    assert not found.passed and found.reason.startswith("inferior")
    claim = replace(gate, claim="superior")
    assert judged(claim, Skilled(4.0), Skilled(-0.5))[QUALITY]
    assert not judged(claim, Skilled(4.0), Skilled(4.0))[QUALITY]
    assert not judged(gate, Skilled(4.0), Skilled(4.0), fresh=20)[QUALITY], "too few rows"
