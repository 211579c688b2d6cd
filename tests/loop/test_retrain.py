"""When a retraining is worth it, on what, and with which recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmwright.core.recipe import make_recipe, read_yaml
from lmwright.loop.retrain import Retrain, derive, export, harm
from lmwright.loop.traffic import part_of
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, resolve

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
SETTINGS = Retrain(windows=2, fewest=50, new_labels=300, loss=0.1, confidence=0.05)


def windows(count: int, drifting: bool, confidence: float = 0.9) -> list[dict]:
    """Signs of windows."""
    return [{"length": {"over": drifting}, "confidence_mean": confidence} for _ in range(count)]


def labelled(count: int, right: float) -> list[dict]:
    """Labelled answers, of which a share is right, with confidence 0.9."""
    return [
        {
            "truth": "yes" if k % 100 < right * 100 else "no",
            "probabilities": {"yes": 0.9, "no": 0.1},
            "text": f"text {k}",
            "part": part_of(f"text {k}", 0.4),
            "id": f"cls-{k}",
            "number": k + 1,
        }
        for k in range(count)
    ]


@pytest.mark.parametrize(
    ("signs", "rows", "reason"),
    [
        (windows(6, False), labelled(500, 0.5), ""),
        (windows(6, True), labelled(40, 0.5), ""),
        (windows(1, True), labelled(200, 0.5), ""),
        (windows(6, True), labelled(200, 0.97), ""),
        (windows(6, True), labelled(400, 0.97), "new labels"),
        (windows(6, True), labelled(200, 0.6), "log-loss rose"),
        (windows(6, True, 0.7), labelled(200, 0.97), "confidence fell"),
    ],
    ids=["no drift", "few labels", "short", "harmless", "labels", "loss", "confidence"],
)
def test_drift_alone_is_no_harm(signs, rows, reason) -> None:
    found = harm(SETTINGS, signs, rows, reference_loss=0.2, reference_confidence=0.9)
    assert bool(found.reason) == bool(reason)
    assert reason in found.reason


def test_feedback_is_split_by_its_text_and_nothing_stands_on_both_sides(tmp_path: Path) -> None:
    rows = labelled(300, 0.5)
    rows += [{**rows[0], "truth": "maybe", "number": 999}, {**rows[1], "text": None}]
    files = export(Store(tmp_path), rows)
    texts = {}
    for part, (path, count) in files.items():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == count
        texts[part] = {line["text"]: line["label"] for line in lines}
    assert not set(texts["train"]) & set(texts["gate"])
    assert len(texts["train"]) + len(texts["gate"]) == 300
    assert {**texts["train"], **texts["gate"]}["text 0"] == "maybe"
    assert 0.25 < len(texts["gate"]) / 300 < 0.55


def test_the_derived_recipe_is_whole_and_learns_from_no_gate_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = tmp_path / "version"
    version.mkdir()
    (version / "version.json").write_text(json.dumps({"model": "ab" * 32, "artifacts": {}}))
    raw = read_yaml(RECIPE)
    settings = make_recipe(raw, "quickstart", resolve, SECTIONS).sections["retrain"]
    files = export(store, labelled(900, 0.5))
    derived = derive(raw, settings, store, store.add_artifact(version), files)
    recipe = make_recipe(derived, "derived", resolve, SECTIONS)
    assert [step.name for step in recipe.steps][:2] == ["data", "feedback"]
    steps = {step.name: step.stage for step in recipe.steps}
    learnt = [s for s in steps["feedback"].sources if s.role == "train"]
    assert [source.path for source in learnt] == [str(files["train"][0])]
    assert steps["promote"].gate.fresh == "feedback/world-feedback-gate"
    assert steps["promote"].gate.kept == ("rows/gate",)
    assert steps["train"].start_from == "incumbent"
    assert steps["detect"].reference == ("feedback/world-feedback-gate",)


def judged(losses: list[float]) -> list[dict]:
    """Labelled answers whose log-losses are these."""
    return [
        {"truth": "yes", "probabilities": {"yes": float(np.exp(-loss)), "no": 0.0}}
        for loss in losses
    ]


@pytest.mark.parametrize("kind", ["capitals", "order of length", "order of label"])
def test_a_harmless_shift_with_steady_losses_starts_nothing_and_with_risen_ones_does(
    kind: str,
) -> None:
    """The losses are as spread as those of a real classifier: most small, a few large."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    losses = rng.exponential(0.35, 250)
    if kind == "order of length":
        losses = np.sort(losses)[::-1]  # the long ones, which come first, are the harder ones
    if kind == "order of label":
        losses = np.concatenate([losses[:125] * 1.1, losses[125:] * 0.9])
    settings = Retrain(windows=2, fewest=50, new_labels=300, loss=0.1, confidence=0.05)
    over = {"length": {"over": True}, "label": {"over": True}, "confidence_mean": 0.88}
    calm = harm(settings, [over] * 6, judged(losses.tolist()), 0.35, 0.9)
    assert calm.reason == ""
    assert calm.evidence["drifting_windows"] == 4
    assert abs(calm.evidence["loss"] - 0.35) < 0.1
    risen = harm(settings, [over] * 6, judged((losses + 0.3).tolist()), 0.35, 0.9)
    assert "log-loss rose" in risen.reason
