"""When a retraining is worth it, on what, and with which recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmwright.core.errors import BadInput
from lmwright.core.recipe import make_recipe, merge, read_yaml
from lmwright.loop.retrain import Retrain, derive, export, find_trigger, parts
from lmwright.serve.traffic import bare, part_of
from lmwright.store.store import Store
from lmwright.tables import SECTIONS, resolve
from lmwright.tasks.text_classification import TextClassification

TASK = TextClassification(labels=("no", "yes"))
RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
SETTINGS = Retrain(windows=2, fewest=50, new_labels=300, loss=0.1, confidence=0.05)


def windows(count: int, drifting: bool, confidence: float = 0.9) -> list[dict]:
    """Drift scores of windows."""
    return [{"length": {"over": drifting}, "confidence_mean": confidence} for _ in range(count)]


def answered(yes: float) -> dict:
    """An answer as the log keeps it."""
    return {"label": "yes", "unsure": False, "probabilities": {"yes": yes, "no": 1 - yes}}


def labelled(count: int, right: float) -> list[dict]:
    """Labelled answers, of which a share is right, with confidence 0.9."""
    return [
        {
            "target": {"label": "yes" if k % 100 < right * 100 else "no"},
            "answer": answered(0.9),
            "inputs": {"text": f"text {k}"},
            "part": part_of(bare(TASK, {"text": f"text {k}"}), 0.4),
            "id": f"cls-{k}",
            "number": k + 1,
        }
        for k in range(count)
    ]


def text_of(row: dict) -> str:
    """The text of a labelled answer."""
    return row["inputs"]["text"]


@pytest.mark.parametrize(
    ("scores", "rows", "reason"),
    [
        (windows(6, False), labelled(500, 0.5), ""),
        (windows(6, True), labelled(40, 0.5), ""),
        (windows(1, True), labelled(200, 0.5), ""),
        (windows(6, True), labelled(200, 0.97), ""),
        (windows(6, True), labelled(400, 0.97), "new labels"),
        (windows(6, True), labelled(200, 0.6), "the loss of labelled answers rose"),
        (windows(6, True, 0.7), labelled(200, 0.97), "confidence fell"),
    ],
    ids=["no drift", "few labels", "short", "harmless", "labels", "loss", "confidence"],
)
def test_drift_alone_is_no_harm(scores, rows, reason) -> None:
    found = find_trigger(SETTINGS, TASK, scores, rows, reference_loss=0.2, reference_confidence=0.9)
    assert bool(found.reason) == bool(reason)
    assert reason in found.reason


def test_feedback_is_split_by_its_text_and_nothing_stands_on_both_sides(tmp_path: Path) -> None:
    rows = labelled(300, 0.5)
    rows += [{**rows[0], "target": {"label": "maybe"}, "number": 999}]
    rows += [{**rows[1], "inputs": None}]
    files = export(Store(tmp_path), parts(TASK, rows))
    texts = {}
    for part, (path, count) in files.items():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == count
        texts[part] = {line["text"]: line["label"] for line in lines}
    assert not set(texts["train"]) & set(texts["gate"])
    assert len(texts["train"]) + len(texts["gate"]) == 300
    assert {**texts["train"], **texts["gate"]}["text 0"] == "maybe"
    assert 0.25 < len(texts["gate"]) / 300 < 0.55


def test_looking_again_and_again_raises_no_more_false_alarms() -> None:
    """At the boundary, with skewed losses and a look at every tenth label, as in service."""
    settings = Retrain(windows=2, fewest=50, new_labels=0, loss=0.1, confidence=1.0)
    rng = np.random.default_rng(7)
    streams, false = 200, 0
    for _ in range(streams):
        losses = rng.exponential(0.3, 400)  # the reference's 0.2, and the margin
        rows = [
            {"target": {"label": "yes"}, "answer": answered(float(np.exp(-x))), "inputs": None}
            for x in losses
        ]
        looks: tuple[int, ...] = ()
        for seen in range(50, len(rows) + 1, 10):
            found = find_trigger(settings, TASK, windows(6, True), rows[:seen], 0.2, 0.9, looks)
            looks = found.looks
            if found.reason:
                false += 1
                break
        else:
            assert looks == (50, 100, 200, 400)
    assert false <= 20, "5 % of 200 are 10; more than 20 of them come once in 700 times"


def test_the_gate_gets_no_text_that_an_earlier_gate_may_have_seen(tmp_path: Path) -> None:
    first, store = labelled(300, 0.5), Store(tmp_path)
    again = [
        {**row, "inputs": {"text": text_of(row).upper() + " !"}, "number": 400}
        for row in first[:50]
    ]
    new = [
        {
            **row,
            "inputs": {"text": f"{text_of(row)} anew{k * 'a'}"},
            "number": 401 + k,
            "part": "gate",
        }
        for k, row in enumerate(first[:60])
    ]
    texts = {
        judged: {
            part: {json.loads(line)["text"] for line in path.read_text().splitlines()}
            for part, (path, _) in export(store, parts(TASK, first + again + new, judged)).items()
        }
        for judged in (0, 300)
    }
    assert texts[300]["gate"] == {text_of(row) for row in new}
    assert len(texts[0]["gate"]) > 100 and "past" not in texts[0]
    assert texts[300]["train"] == texts[0]["train"], "what was learnt from may be learnt again"
    assert texts[300]["past"] == texts[0]["gate"] - texts[300]["gate"]
    assert "past" not in export(store, parts(TASK, first[:50] + new, 50)), "too few to be judged by"


def test_a_second_retraining_may_forget_neither_the_past_nor_what_the_recipe_keeps(
    tmp_path: Path,
) -> None:
    raw = read_yaml(RECIPE)
    raw["stages"]["promote"]["gate"]["kept"] = ["rows/test-imdb", "rows/gate"]
    settings = make_recipe(raw, "quickstart", resolve, SECTIONS).sections["retrain"]
    kept, sources = {}, {}
    for judged in (0, 300):
        files = export(Store(tmp_path), parts(TASK, labelled(900, 0.5), judged))
        recipe = make_recipe(
            derive(raw, settings, "ab" * 32, files, "reviews@production"), "d", resolve, SECTIONS
        )
        steps = {step.name: step.stage for step in recipe.steps}
        kept[judged] = steps["promote"].gate.kept
        sources[judged] = {each.name: each.role for each in steps["feedback"].sources}
    assert kept[0] == ("rows/gate", "rows/test-imdb")
    assert kept[300] == (*kept[0], "feedback/test-feedback-past")
    assert sources[0] == {"feedback-train": "train", "feedback-gate": "test"}
    assert sources[300] == {**sources[0], "feedback-past": "test"}


def test_the_derived_recipe_is_whole_and_learns_from_no_gate_row(tmp_path: Path) -> None:
    raw = read_yaml(RECIPE) | {"artifacts": {"other": "cd" * 32}}
    settings = make_recipe(raw, "quickstart", resolve, SECTIONS).sections["retrain"]
    files = export(Store(tmp_path), parts(TASK, labelled(900, 0.5)))
    derived = derive(raw, settings, "ab" * 32, files, "reviews@staging")
    recipe = make_recipe(derived, "derived", resolve, SECTIONS)
    assert [step.name for step in recipe.steps][:2] == ["data", "feedback"]
    steps = {step.name: step.stage for step in recipe.steps}
    learnt = [s for s in steps["feedback"].sources if s.role == "train"]
    assert [source.path for source in learnt] == [str(files["train"][0])]
    assert steps["promote"].gate.fresh == "feedback/test-feedback-gate"
    assert steps["promote"].gate.kept == ("rows/gate",)
    assert steps["promote"].alias == "staging"
    assert steps["feedback"].held == (
        "rows/validation",
        "rows/calibration",
        "rows/gate",
        "rows/test",
    )
    assert steps["train"].start_from == "incumbent"
    assert recipe.artifacts == {"incumbent": "ab" * 32, "other": "cd" * 32}
    assert steps["detect"].reference == ("feedback/test-feedback-gate",)


@pytest.mark.parametrize(
    ("stages", "found"),
    [
        ({"trian": {"epochs": 3}}, r"retrain\.stages\.trian.*train"),
        ({"train": {"epohcs": 3}}, r"retrain\.stages: train has no setting 'epohcs'.*epochs"),
        ({"train": {"epochs": -1}}, r"epochs is -1"),
        ({"train": {"extra": ["fedback"]}}, r"retrain\.stages: train needs 'fedback'"),
    ],
    ids=["stage", "setting", "value", "artifact"],
)
def test_what_a_retraining_could_not_run_is_refused_when_the_recipe_is_read(stages, found) -> None:
    raw = read_yaml(RECIPE)
    raw["retrain"] = {**raw["retrain"], "stages": stages}
    with pytest.raises(BadInput, match=f"(?s){found}"):
        make_recipe(raw, "quickstart", resolve, SECTIONS)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"watch": {"keep_text": False}}, "retrain, where texts are not kept"),
        ({"watch": None}, "retrain, where texts are not kept"),
        ({"stages": {"promote": {"detectors": None}}}, "promote.detectors: null"),
        ({"retrain": {"fewest": 59}}, "about 30 texts to judge by, 30 to learn from"),
        ({"retrain": {"fewest": 250}, "watch": {"gate_share": 0.1}}, "about 25 texts to judge by"),
    ],
    ids=["texts", "no section", "detectors", "few", "few to judge by"],
)
def test_a_retraining_that_could_never_begin_is_refused(change: dict, found: str) -> None:
    with pytest.raises(BadInput, match=f"(?s){found}"):
        make_recipe(merge(read_yaml(RECIPE), change), "quickstart", resolve, SECTIONS)


PROMPT = {"prompt": {"model": "hosted:m@http://127.0.0.1:9/v1"}}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"prompt": PROMPT["prompt"], "evaluate": {"models": ["prompted", "majority"]}},
            "promotes 'prompted', which the stage prompt makes: it learns nothing from feedback",
        ),
        ({}, ""),
        (
            {
                "prompt": PROMPT["prompt"],
                "evaluate": {"models": ["prompted", "model"]},
                "ensemble": {"members": ["prompted", "model"]},
                "scored": {
                    "stage": "evaluate",
                    "models": ["ensemble"],
                    "writes": {"scores": "both"},
                },
            },
            "",
        ),
    ],
    ids=["a prompt", "a trained model", "an ensemble of both"],
)
def test_a_retraining_that_could_not_change_the_model_is_refused(changes, found) -> None:
    """What is promoted must be made from the feedback, however many stages lie between."""
    raw = read_yaml(RECIPE)
    stages = {name: each for name, each in raw["stages"].items() if name in ("data", "train")}
    stages |= {"baselines": None} | changes
    if not changes:
        stages["evaluate"] = raw["stages"]["evaluate"]
    model = {"prompt": "prompted", "ensemble": "ensemble"}.get(
        next((name for name in ("ensemble", "prompt") if name in changes), ""), "model"
    )
    promote = {"model": model, "reads": {"scores": "both"} if model == "ensemble" else {}}
    stages |= {"detect": {"model": model, "reads": promote["reads"]}, "promote": promote}
    raw = {**raw, "stages": stages, "retrain": {**raw["retrain"], "stages": {}}}
    if not found:
        make_recipe(raw, "quickstart", resolve, SECTIONS)
        return
    with pytest.raises(BadInput, match=found):
        make_recipe(raw, "quickstart", resolve, SECTIONS)


def test_a_retraining_without_a_promotion_is_refused() -> None:
    raw = read_yaml(RECIPE)
    del raw["stages"]["promote"]
    with pytest.raises(BadInput, match="retrain, where no stage promotes"):
        make_recipe(raw, "quickstart", resolve, SECTIONS)


def judged(losses: list[float]) -> list[dict]:
    """Labelled answers whose log-losses are these."""
    return [
        {
            "target": {"label": "yes"},
            "answer": answered(float(np.exp(-loss))),
            "inputs": None,
        }
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
    calm = find_trigger(settings, TASK, [over] * 6, judged(losses.tolist()), 0.35, 0.9)
    assert calm.reason == ""
    assert calm.evidence["drifting_windows"] == 4
    assert abs(calm.evidence["loss"] - 0.35) < 0.1
    risen = find_trigger(settings, TASK, [over] * 6, judged((losses + 0.3).tolist()), 0.35, 0.9)
    assert "the loss of labelled answers rose" in risen.reason
