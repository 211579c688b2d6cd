"""An ensemble and a prompt go through the gate, into service and out of it, whatever the task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmwright.baselines.majority import Majority
from lmwright.cli.main import main
from lmwright.core.errors import BadInput, Corrupt, Refused
from lmwright.core.hashing import tree
from lmwright.core.predictor import answer_all
from lmwright.core.task import Answers, asked_rows
from lmwright.data.corpus import read_split, row_keys
from lmwright.loop.lineage import of_row, of_source
from lmwright.loop.promote import learnt_by
from lmwright.metrics.calibration import Calibration
from lmwright.models.ensemble import Ensemble, Member
from lmwright.models.load import load_predictor, modules_of
from lmwright.serve.load import load_version
from lmwright.store.store import Store
from lmwright.store.versions import current, read_version, refuse_withdrawn
from lmwright.tasks.text_classification import TextClassification
from lmwright.tasks.text_generation import TextGeneration
from lmwright.tasks.token_classification import TokenClassification
from tests.serve.live import Live
from tests.serve.talking import write_model

pytestmark = pytest.mark.timeout(300)

HERE = Path(__file__).parent
TOPICS = (
    "text-classification",
    ("tfidf", "majority"),
    "columns: {label: judgement}, where: {annotator: corpus}, ",
)
TREE = (
    "stranger-labels",
    ("words", "frequent"),
    "columns: {judgements: judgement}, side: {annotator: annotator}, ",
)
RECIPE = """
name: made
task: TASK
stages:
  data:
    sources: [{name: rows, path: PATH, MORE licence: BSD-3-Clause}]
    label_error_rows: 0
    fractions: {train: 0.5, validation: 0.05, calibration: 0.1, gate: 0.25, test: 0.1}
  baselines: {like: ""}
  evaluate: {models: [FIRST, SECOND], draws: 100}
  ensemble: {members: [FIRST, SECOND]}
  prompt: {model: MODEL, shown: 3, max_characters: 40, max_new_tokens: 3, calibration_rows: 20}
  judged: {stage: evaluate, models: [ensemble, prompted], draws: 100, risk: 1.0,
    writes: {scores: judged}}
  promote: {model: ensemble, detectors: null, reads: {scores: judged},
    gate: {slices: null, baselines: ignored}}
  prompted: {stage: promote, model: prompted, detectors: null, reads: {scores: judged},
    writes: {version: other}, gate: {slices: null, margin: 2.0, max_slowdown: 1.0e+6}}
"""
"""A mean with frequencies is better than these, and worse than its other member by itself."""
ALIAS = "made@production"


@pytest.fixture(scope="module", params=[TOPICS, TREE], ids=["ours", "a stranger's"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, installed: None
) -> tuple[Store, tuple[Any, ...]]:
    """A store in which an ensemble was promoted and a prompt replaced it."""
    folder = tmp_path_factory.mktemp("made")
    task, names, more = request.param
    text = RECIPE.replace("TASK", task).replace("MORE", more)
    text = text.replace("PATH", str(HERE / "talk.csv"))
    text = text.replace("FIRST", names[0]).replace("SECOND", names[1])
    (folder / "made.yaml").write_text(text.replace("MODEL", str(roomy(folder / "tiny"))))
    store = folder / "store"
    words = ("run", str(folder / "made.yaml"), "--store", str(store))
    assert main(words) == 0
    return Store(store), request.param


def roomy(folder: Path) -> Path:
    """A tiny language model whose context holds a few rows; its positions are rotary."""
    path = write_model(folder) / "config.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "max_position_embeddings": 512}))
    return folder


def artifact(store: Store, name: str, kind: str = "") -> Path:
    """The folder of an artifact of the run, of a stage of this kind if one is named."""
    (found,) = {
        result.outputs[name]
        for result in store.all_results()
        if name in result.outputs and kind in ("", result.kind)
    }
    return store.artifact(found)


def scores_of(store: Store, model: str) -> Path:
    """The scores in which a model's calibration is."""
    found = [r.outputs["scores"] for r in store.all_results() if "scores" in r.outputs]
    (folder,) = {each for each in found if (store.artifact(each) / model).is_dir()}
    return store.artifact(folder)


def versions(store: Store) -> list[str]:
    """The contents of the versions that were promoted, in their order."""
    return [entry["facts"]["version"] for entry in store.decisions() if "version" in entry["facts"]]


def test_both_passed_the_gate_in_turn(made: Any) -> None:
    store, _ = made
    decisions = store.decisions()
    told = [entry["facts"]["evidence"]["conditions"] for entry in decisions]
    assert [entry["action"] for entry in decisions] == ["promote", "promote"], told
    kinds = [read_version(store, each)["kind"] for each in versions(store)]
    assert kinds == ["ensemble", "prompted"]
    first = decisions[0]["facts"]["evidence"]["conditions"][0]
    assert first["reason"].startswith("superior")


def test_an_ensemble_is_the_mean_of_its_calibrated_members(made: Any) -> None:
    store, (_, names, _) = made
    ensemble = load_predictor(artifact(store, "ensemble"))
    task = ensemble.task
    rows = asked_rows(task, read_split(artifact(store, "rows"), "test"))
    column = "probabilities" if task.kind == "text-classification" else "shares"
    parts = []
    for name in names:
        by = Calibration.load(scores_of(store, name) / name)
        found = answer_all(load_predictor(artifact(store, name)), rows)
        parts.append(task.calibrated(found, by.temperature, by.smoothing)[column])
    mean = task.calibrated(answer_all(ensemble, rows), 1.0, 0.0)[column]
    assert np.allclose(mean, np.mean(parts, axis=0), atol=1e-9)


def test_an_ensemble_names_its_members_and_all_that_they_learnt_from(made: Any) -> None:
    store, (_, names, _) = made
    folder = artifact(store, "ensemble")
    described = json.loads((folder / "model.json").read_bytes())
    assert [each["model"] for each in described["members"]] == [
        artifact(store, name).name for name in names
    ]
    own = {"lmwright.models.ensemble"}
    own.update(module for name in names for module in modules_of(artifact(store, name)))
    assert set(modules_of(folder)) == own
    wanted = [learnt_by(artifact(store, name)) for name in names]
    assert learnt_by(folder) - {""} == frozenset().union(*wanted)


@pytest.mark.parametrize("name", ["ensemble", "prompted"])
def test_what_is_loaded_is_saved_to_the_same_bytes(made: Any, tmp_path: Path, name: str) -> None:
    store, _ = made
    folder = artifact(store, name)
    load_predictor(folder).save(tmp_path / "again")
    ours = {path: entry for path, entry in tree(folder).items() if path != "rows.parquet"}
    assert tree(tmp_path / "again") == ours


def test_a_prompt_shows_rows_of_the_training_split_alone(made: Any) -> None:
    store, _ = made
    folder = artifact(store, "prompted")
    described = json.loads((folder / "model.json").read_bytes())
    train = read_split(artifact(store, "rows"), "train")
    known = dict(zip(train.column("id").to_pylist(), train.to_pylist(), strict=True))
    predictor = load_predictor(folder)
    assert len(described["shown"]) == 3
    for shown in described["shown"]:
        row = known[shown["id"]]
        assert shown["text"] == predictor.task.text(row)
        assert shown["target"] == predictor.task.target(row)
    chosen = train.filter([row in {s["id"] for s in described["shown"]} for row in known])
    assert learnt_by(folder) == {
        *chosen.column("id").to_pylist(),
        *row_keys(predictor.task, chosen),
    }
    prompt = predictor.prepare([{"text": "a text to be read"}])[0].prompt
    assert prompt.endswith("Text: a text to be read\nAnswer:")
    assert all(shown["text"][:40] in prompt for shown in described["shown"])


def test_a_prompt_is_served(made: Any) -> None:
    store, _ = made
    live = Live(load_version(store, ALIAS))
    try:
        body = {"inputs": [{"text": "one text"}, {"text": "and another, a longer one"}]}
        status, _, found = live.ask("POST", "/v1/predict", body)
        assert status == 200, found
        version = current(store, ALIAS)
        assert version is not None and found["version"] == version.id
        assert len(found["answers"]) == 2
        again = live.ask("POST", "/v1/predict", body)[2]["answers"]
        assert again == found["answers"]
    finally:
        live.stop()


def test_a_row_that_is_shown_leads_to_the_prompt_and_its_version(made: Any) -> None:
    store, _ = made
    shown = json.loads((artifact(store, "prompted") / "model.json").read_bytes())["shown"]
    found = of_row(store, shown[0]["id"])["made_with_it"]
    assert found[artifact(store, "prompted").name] == "prompt"
    assert found[artifact(store, "ensemble").name] == "ensemble"
    version = current(store, ALIAS)
    assert version is not None and version.hash in found


def test_z_a_withdrawn_source_takes_both_out(made: Any, capsys: pytest.CaptureFixture) -> None:
    store, _ = made
    made_of_it = [artifact(store, name).name for name in ("ensemble", "prompted")]
    made_of_it += versions(store)
    assert set(made_of_it) <= set(of_source(store, "rows")["made_with_it"])
    assert main(["withdraw", "rows", "--reason", "a test", "--store", str(store.folder)]) == 0
    told = capsys.readouterr().out
    assert len(made_of_it) == 4 and all(each[:16] in told for each in made_of_it)
    assert f"{ALIAS} is still" in told
    for version in versions(store):
        with pytest.raises(Refused, match="withdrawn"):
            refuse_withdrawn(store, version)


LABELS = TextClassification(labels=("a", "b"))


def member(*counts: int) -> Member:
    """A member that knows frequencies alone."""
    return Member(Majority(LABELS, counts), Calibration(), "ab" * 32)


def test_what_can_be_no_ensemble_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 2"):
        Ensemble(LABELS, [member(1, 2)])
    with pytest.raises(BadInput, match="whose answers have a mean"):
        Ensemble(TextGeneration(), [member(1, 2)] * 2)
    other = TextClassification(labels=("a", "c"))
    with pytest.raises(BadInput, match="members for one task"):
        Ensemble(other, [member(1, 2)] * 2)


def test_an_ensemble_without_a_member_is_corrupt(tmp_path: Path) -> None:
    Ensemble(LABELS, [member(1, 2), member(3, 4)]).save(tmp_path / "two")
    (tmp_path / "two" / "members" / "1" / "model.json").unlink()
    with pytest.raises(Corrupt, match="cannot be read"):
        load_predictor(tmp_path / "two")


def test_tags_are_averaged_token_by_token() -> None:
    task = TokenClassification(labels=("PER",))
    offsets = [np.array([[-1, -1], [0, 3]])]
    parts = [
        Answers({"probabilities": [np.array(each)], "offsets": offsets})
        for each in ([[1, 0, 0], [0.2, 0.8, 0]], [[1, 0, 0], [0.9, 0.1, 0]])
    ]
    pooled = task.calibrated(task.pooled(parts), 1.0, 0.0)
    assert np.allclose(pooled["probabilities"][0], [[1, 0, 0], [0.55, 0.45, 0]])
    assert pooled["spans"] == [[]]
    moved = Answers({**parts[1].columns, "offsets": [offsets[0] + 1]})
    with pytest.raises(BadInput, match="one tokenizer"):
        task.pooled([parts[0], moved])
